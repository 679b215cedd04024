"""Versions and locations of the installed packages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from scaling.cli.output import show
from scaling.errors import ConfigError
from scaling.extras import EXTRAS, pip_install


def doctor(gpu: Path | None = None) -> None:
    """Show versions and locations of the installed packages, and this machine's CPUs.

    Example: scaling doctor

    Args:
        gpu: Show what this file of benchmarks/gpu.py says of a GPU instead.
    """
    if gpu is not None:
        _gpu(gpu)
        return
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


def _gpu(file: Path) -> None:
    """Show the results of benchmarks/gpu.py. Raises ConfigError if a check has failed."""
    try:
        values = json.loads(file.read_bytes())
        checks: dict[str, dict[str, Any]] = values["checks"]
        show(f"{values['device']}, goals: " + _listed(values["goals"]))
        for name, found in checks.items():
            show(f"{name:<17} {_result(dict(found))}")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(
            f"{file} is not a file of benchmarks/gpu.py; `python benchmarks/gpu.py --out {file}` "
            "writes one."
        ) from None
    if failed := [name for name, found in checks.items() if found["status"] == "failed"]:
        raise ConfigError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.")


def _result(found: dict[str, Any]) -> str:
    status, why = found.pop("status"), found.pop("error", found.pop("why", ""))
    found.pop("traceback", None)
    status = "interrupted" if status == "running" else status
    return ": ".join(filter(None, (status, why, _listed(found))))


def _listed(figures: dict[str, Any]) -> str:
    numbers = {key: f"{x:.4g}" if isinstance(x, float) else x for key, x in figures.items()}
    return ", ".join(f"{key} {x}" for key, x in numbers.items())


def version() -> str:
    """Return the installed version of this distribution."""
    import importlib.metadata

    try:
        return importlib.metadata.version("scaling-laws-lab")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
