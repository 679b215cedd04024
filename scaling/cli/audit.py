"""The command that audits a claimed law against its table."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scaling.cli.options import Decimal, Json, Map
from scaling.cli.output import show, show_json
from scaling.cli.tables import load_rows
from scaling.errors import ConfigError, TableError
from scaling.mapping import parse


def audit(
    runs: Path,
    claim: Path,
    *,
    map: Map = (),
    decimal: Decimal = None,
    json: Json = False,
) -> None:
    """Re-derive a published law from its table; rank its faults by cost.

    Example: scaling audit runs.csv claim.toml

    Args:
        runs: A results folder or a table (CSV, JSON, Parquet, Excel, ...).
        claim: TOML file with the law, its constants in [params], the objective that they are said
            to minimise (huber, ls or lad; delta; on), the rows fitted, and [map] of columns.
    """
    from analysis.validation.audit import audit as audit_claim
    from analysis.validation.claim import read_claim

    stated = read_claim(claim)
    options = {"map": [*map, *_pairs(stated.map)], "decimal": decimal, "rows": "all"}
    with _naming(claim, "rows"):
        table = load_rows((runs,), [stated.law], where=stated.rows, **options)
    found = audit_claim(stated, table, _others(runs, stated, table, options))
    show_json(found.record()) if json else show(found)


def _pairs(names: Mapping[str, str]) -> list[str]:
    """Return {column: symbol} as values of --map, one each."""
    pairs = []
    for column, symbol in names.items():
        forms = (f"{quote}{column}{quote}={symbol}" for quote in ("", "`", '"', "'"))
        pairs.append(next((form for form in forms if _means(form, column)), f"{column}={symbol}"))
    return pairs


def _means(pair: str, column: str) -> bool:
    try:
        return list(parse([pair])) == [column]
    except ConfigError:
        return False


def _others(runs: Path, stated: Any, table: Any, options: dict[str, Any]) -> Any:
    """Return rows that the claim was not fitted to and should predict; None without any."""
    from analysis.validation.audit import larger_rows

    where = stated.held_out or (f"not ({stated.rows})" if stated.rows else None)
    if where is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if stated.held_out:
            with _naming(stated.source, "held_out"):
                return load_rows((runs,), [stated.law], where=where, **options)
        with contextlib.suppress(TableError):
            rest = load_rows((runs,), [stated.law], where=where, **options)
            return rest.iloc[list(larger_rows(table, rest))]
    return None


@contextlib.contextmanager
def _naming(claim: object, key: str) -> Iterator[None]:
    """Name the key of the claim, not an option, in messages about the condition on rows."""
    try:
        yield
    except TableError as error:
        text = str(error)
        if text.startswith("--where "):
            text = f"{claim}: {key} = {text.removeprefix('--where ')}"
        raise TableError(text.replace("in --map)", f"in [map] of {claim})")) from None
