"""Runs of trackers (W&B, TensorBoard, MLflow) and logs of trainers, read from their files.

None of their packages is needed, and nothing in the files is executed: no pickle, no code, no
artifacts. Files may be damaged, or still be written to: what is complete is read.
"""

from scaling.trackers.reading import TRACKERS, TrackedRun, TrackerError, read, stamps
from scaling.trackers.source_names import is_source, kind_and_place

__all__ = [
    "TRACKERS", "TrackedRun", "TrackerError", "is_source", "kind_and_place", "read", "stamps"
]  # fmt: skip
