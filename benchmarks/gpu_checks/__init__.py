"""The checks of benchmarks/gpu.py, in the order in which they run: that of these imports."""

# isort: off
from gpu_checks import correctness, faster, several, speed
from gpu_checks.bench import CHECKS

__all__ = ["CHECKS", "correctness", "faster", "several", "speed"]
