"""Start another Python process that finds the same modules as this one, and no others."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def search_path() -> list[str]:
    """Return the module search path for a child process: that of this one, and this package's
    folder.

    The empty entry of `python -c` and of notebooks, which stands for the current folder, is left
    out: a file there may have the name of a module.
    """
    found = [os.path.abspath(entry) for entry in sys.path if entry]
    beside = str(Path(__file__).parents[1])
    return found if beside in found else [*found, beside]


def command(module: str, function: str) -> list[str]:
    """Return the command that calls `module.function()` in a new process."""
    path = f"import sys; sys.path[:] = {search_path()!r}"
    # Without -P, the search for modules would begin in the current folder.
    return [sys.executable, "-P", "-c", f"{path}; from {module} import {function}; {function}()"]
