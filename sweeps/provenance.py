"""Where results come from: the machine, the revision of the source, and the versions of packages."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from sweeps.result import Row


def machine() -> Row:
    """Where this runs, for the manifest: what numbers and speed hang on, nothing that names it."""
    import platform

    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
    return {
        "system": platform.system(),
        "release": ".".join(platform.release().split(".")[:2]),
        "architecture": platform.machine(),
        "cpu": model,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
