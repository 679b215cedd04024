"""Runs of a project on the server of Weights & Biases, through its package."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from scaling import extras, progress
from scaling.errors import TableError
from scaling.trackers import TrackedRun
from scaling.trackers.wandb_files import with_step

_LOG_IN = "log in with `wandb login`, or set WANDB_API_KEY (the key is at wandb.ai/authorize)"


def read(project: str) -> list[TrackedRun]:
    """Return the runs of ENTITY/PROJECT with their whole histories.

    Raises TableError if the package or its API key is missing, or the server refuses.
    """
    source = f"wandb:{project}"
    if not extras.installed("wandb"):
        raise TableError(
            f"{source}: {extras.missing('wandb')}; it reads projects of the server. Offline runs "
            "(wandb:FOLDER) need no package."
        )
    import wandb  # pyright: ignore[reportMissingImports]

    try:
        found = []
        for run in wandb.Api().runs(project):
            progress.step(f"reading {source}: {len(found) + 1} runs")
            found.append(_run(run))
    except TableError:
        raise
    except Exception as error:  # wandb, requests and its queries raise errors of many types
        raise TableError(_explained(source, error)) from None
    if not found:
        raise TableError(f"{source} has no run.")
    return sorted(found, key=lambda run: (run.start, run.id))


def _explained(source: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    lower = text.lower()
    if any(word in lower for word in ("api_key", "api key", "not logged in", "no-tty")):
        return f"{source}: Weights & Biases has no API key here: {_LOG_IN}."
    if any(word in lower for word in ("401", "403", "unauthorized", "permission")):
        return f"{source}: the server refuses this API key ({text[:200]}): {_LOG_IN}."
    if "could not find project" in lower or "404" in lower:
        return f"{source}: the server has no such project, or this API key may not see it."
    return f"{source}: the server of Weights & Biases cannot be read: {text[:300]}."


def _run(run: Any) -> TrackedRun:
    history = []
    for row in run.scan_history():
        values = {k: _number(v) for k, v in row.items() if not k.startswith("_") and v is not None}
        history.append(with_step(values, row.get("_step")))
    labels = {"group": getattr(run, "group", None), "project": getattr(run, "project", None)}
    return TrackedRun(
        id=str(run.id),
        name=str(run.name or ""),
        config=_flat(dict(run.config)),
        summary={k: _number(v) for k, v in _flat(_plain(run.summary)).items()},
        history=history,
        start=_time(getattr(run, "created_at", None)),
        state=str(run.state or ""),
        labels={name: str(value) for name, value in labels.items() if value},
    )


def _plain(summary: Any) -> dict[str, Any]:
    """Return a summary, which is an object of its own in the package, as a dict."""
    held = getattr(summary, "_json_dict", summary)
    return {str(name): value for name, value in dict(held).items() if str(name)[0] != "_"}


def _number(value: Any) -> Any:
    """Return the numbers that JSON has no word for."""
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and "_type" not in value:
            found |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, Mapping) and not str(name).startswith("_wandb"):
            found[f"{prefix}{name}"] = value
    return found


def _time(text: Any) -> float:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
