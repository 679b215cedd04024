"""Provenance of results: the machine, the revision of the source and the versions of packages."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "ray", "numpy", "pandas", "tokenizers", "tiktoken")
"""Packages whose versions are recorded in addition to this package's own."""

_GIT_SECONDS = 10
"""Seconds that git may take to answer."""


def machine() -> dict[str, Any]:
    """Return what numbers and speed depend on, and nothing that identifies this machine."""
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


def revision() -> str | None:
    """Return the git revision of this package's source, with '+' if files changed; None outside
    git."""
    import subprocess

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), "--no-optional-locks", *words],
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if not revision:
        return None
    return revision + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def versions() -> dict[str, str]:
    """Return the version of each installed package that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    from scaling import __distribution__

    found = {}
    for name in (__distribution__, *_PACKAGES):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
