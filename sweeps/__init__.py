"""Train many runs: a TOML spec, the runs that it defines, and a results folder that survives
interruptions.

    from sweeps import Sweep
    runs = Sweep.from_toml("quickstart").run(workers=2)

A second call trains only what is missing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sweeps.errors import BudgetSpent, Stopped, StoreError

if TYPE_CHECKING:
    from sweeps.folder_status import status
    from sweeps.options import SweepOptions
    from sweeps.sweep import Sweep
    from sweeps.sweep_plan import SweepPlan

__distribution__ = "scaling-laws-lab"
__all__ = [
    "BudgetSpent",
    "Stopped",
    "StoreError",
    "Sweep",
    "SweepOptions",
    "SweepPlan",
    "status",
]

_LAZY = {
    "Sweep": "sweeps.sweep",
    "SweepOptions": "sweeps.options",
    "SweepPlan": "sweeps.sweep_plan",
    "status": "sweeps.folder_status",
}
"""Module of each name that is imported on first use, which keeps this import light."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
