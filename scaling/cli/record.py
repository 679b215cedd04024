"""Predictions on record, for `scaling plan`: keep one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.cli.tables import one_source, selection


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
) -> Path:
    """Keep the prediction of plans or of one run, by the laws of a table that the options of a
    command select; return the file."""
    from analysis.planning.prediction import predict_plan
    from analysis.planning.records import write_record
    from sweeps.provenance import revision

    chosen = {key: value for key, value in selection(**options).items() if value != "auto"}
    prediction = predict_plan(found, unique=unique)
    return write_record(prediction, runs, name, results, selection=chosen, revision=revision())
