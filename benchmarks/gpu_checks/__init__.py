"""The checks of benchmarks/gpu.py, in the order in which they run."""

from gpu_checks import correctness, several, speed
from gpu_checks.bench import CHECKS

__all__ = ["CHECKS", "correctness", "several", "speed"]
