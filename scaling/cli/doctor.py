"""Versions and locations of the installed packages."""

from __future__ import annotations

import os
from pathlib import Path

from scaling.cli.output import show
from scaling.errors import ConfigError
from scaling.extras import EXTRAS, pip_install


def doctor() -> None:
    """Show versions and locations of the installed packages, and this machine's CPUs.

    Example: scaling doctor
    """
    import importlib.metadata
    import importlib.util
    import platform

    owners = importlib.metadata.packages_distributions()
    fine = True
    for package in ("scaling", "sweeps", "analysis"):
        spec = importlib.util.find_spec(package)
        origin = spec.origin if spec else None
        ours = origin is not None and "scaling-laws-lab" in Path(origin).read_text()
        fine &= ours
        note = "" if ours else f"  NOT OURS: it belongs to {', '.join(owners.get(package, ['?']))}"
        show(f"{package:<9} {origin or 'is not installed'}{note}")
    for name in ("scaling-laws-lab", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", *EXTRAS):
        try:
            state = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            hint = f": {pip_install(EXTRAS[name])}" if name in EXTRAS else ""
            state = f"not installed{hint}"
        show(f"{name:<17} {state}")
    show(f"{'python':<17} {platform.python_version()}, {os.cpu_count()} CPUs")
    if not fine:
        raise ConfigError(
            "another package shadows one of ours; rename that file, or use a separate environment."
        )


def version() -> str:
    """Return the installed version of this distribution."""
    import importlib.metadata

    try:
        return importlib.metadata.version("scaling-laws-lab")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
