"""Predictions on record, for `scaling plan`: keep one, and score those that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.cli.arguments import write_back
from scaling.cli.output import show, show_json
from scaling.cli.tables import one_source, selection
from scaling.errors import ConfigError


def check_record(name: str | None, results: Sequence[Path]) -> None:
    """Raise ConfigError, before anything is fitted, if a record of this name cannot be written."""
    if name is None:
        return
    from analysis.planning.records import check_free, folder_of

    one_source(results)
    check_free(folder_of(results), name)


def keep_record(
    found: Any,
    runs: Any,
    name: str,
    results: Sequence[Path],
    options: Mapping[str, Any],
    *,
    unique: float | None,
) -> str:
    """Keep the prediction of plans or of one run, by the laws of a table that the options of a
    command select; return the file as the user names it."""
    from analysis.planning.prediction import predict_plan
    from analysis.planning.records import write_record
    from sweeps.provenance import revision

    chosen = {key: value for key, value in selection(**options).items() if value != "auto"}
    prediction = predict_plan(found, unique=unique)
    kept = write_record(prediction, runs, name, results, selection=chosen, revision=revision())
    return write_back(results[0], kept)


def show_scores(
    results: Sequence[Path],
    options: Mapping[str, Any],
    *,
    asked: Mapping[str, Any],
    json: bool,
) -> None:
    """Print how well the predictions on record did.

    Raises ConfigError if the command asks for a plan as well.
    """
    from analysis.planning.track_record import track_record

    given = [option for option, value in asked.items() if value is not None]
    if given:
        raise ConfigError(
            f"--score compares predictions on record with finished runs; leave out {given[0]}."
        )
    found = track_record(results or _all_results(), selection=selection(**options))
    show_json(found.record()) if json else show(found)


def _all_results() -> list[Path]:
    """Return the results folders below `results` of the current folder."""
    from analysis.tables.several import PLANS, is_results_folder

    folders = sorted(Path("results").glob("*"))
    found = [p for p in folders if is_results_folder(p) or (p / PLANS).is_dir()]
    if not found:
        raise ConfigError(
            "there is no results folder here; name those with the predictions and the runs, as in "
            "`scaling plan results/headline --score`."
        )
    return found
