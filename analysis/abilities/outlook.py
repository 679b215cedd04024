"""The accuracies that a results folder predicts for a run that is planned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.abilities.scores import has_scores
from analysis.abilities.tasks import AbilityPrediction, task_laws
from analysis.planning.plans import Plans
from analysis.planning.prediction import Prediction


def outlook(
    results: Any, found: Plans | Prediction | Any, *, where: str | None = None, level: float = 0.95
) -> AbilityPrediction | None:
    """Return the accuracies of the run that a plan advises, or of the run predicted; None unless
    `results` is a results folder with scores of tasks.

    Raises TableError for scores that cannot be read.
    """
    folder = folder_with_scores(results)
    if folder is None:
        return None
    N, D = run_of(found)
    return task_laws(folder, where=where).predict(N, D, level)


def folder_with_scores(results: Any) -> Path | None:
    """Return the results folder with scores of tasks; None for a table or several."""
    if isinstance(results, Sequence) and not isinstance(results, str):
        if len(results) != 1:
            return None
        results = results[0]
    return Path(results) if isinstance(results, str | Path) and has_scores(results) else None


def run_of(found: Plans | Prediction | Any) -> tuple[float, float]:
    """Return N and D of the run that plans, one plan or a prediction are about."""
    if isinstance(found, Prediction):
        return found.N, found.D
    best = found.first if isinstance(found, Plans) else found
    return float(best.N.value), float(best.D.value)
