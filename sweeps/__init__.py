"""Many runs: a spec in TOML, what is missing of it, its execution, and a results folder that
survives whatever happens in between.

    from sweeps import Sweep
    runs = Sweep.from_toml("quickstart").run(workers=2)  # call again: only what is missing is trained
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sweeps.errors import BudgetSpent, Stopped, StoreError

if TYPE_CHECKING:
    from sweeps.sweep import Sweep

__distribution__ = "scaling-laws-lab"
__all__ = ["BudgetSpent", "Stopped", "StoreError", "Sweep"]


def __getattr__(name: str) -> Any:
    if name == "Sweep":
        from sweeps.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
