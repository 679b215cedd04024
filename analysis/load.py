"""Read results into one plain, checked DataFrame: a sweep's folder, or anyone's table.

Columns are symbols: N parameters, D tokens, C FLOPs, B tokens a step, S steps, L [nats/token].
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.table import TableError, check, missing_column, read, read_curves

# Exact identities by the column they give; D = S B first, as it needs no convention.
_IDENTITIES = {
    "D": (("S", "B"), "S B", lambda t: t["S"] * t["B"]),
    "N": (("C", "D"), "C / (6 D)", lambda t: t["C"] / (6 * t["D"])),
    "C": (("N", "D"), "6 N D", lambda t: 6.0 * t["N"] * t["D"]),
    "S": (("D", "B"), "D / B", lambda t: t["D"] / t["B"]),
    "B": (("D", "S"), "D / S", lambda t: t["D"] / t["S"]),
}
_D_FROM_C = (("C", "N"), "C / (6 N)", lambda t: t["C"] / (6 * t["N"]))

_RUN_COLUMNS = (
    "status", "N", "N_total", "B", "lr_peak", "vocab_size", "n_layer", "d_model", "n_head",
    "seed", "schedule", "tag", "D_unique",
)  # fmt: skip
"""What a row of a learning curve takes from its run."""


def load(
    path: str | Path | pd.DataFrame,
    *,
    map: Mapping[str, str] | None = None,
    curves: bool = False,
) -> pd.DataFrame:
    """The runs of `path` as a checked table, one row a run, or one row an evaluation.

    path    a sweep's folder (``runs.csv``), or a table of any origin: .csv, .tsv, .parquet,
            .jsonl, .json; or a DataFrame.
    map     {column there: symbol here}, such as {"val/loss": "L", "params": "N"}.
    curves  one row an evaluation: S, D, C, L so far, with the run's N, B, D_total (its last D) and
            L_final beside. A table of another origin then needs a column run_id.

    N, D, C, B and S that are missing are derived where that is exact (C = 6 N D, D = S B, ...);
    `.attrs["derived"]` says which and how, `.attrs["source"]` where the rows come from.

    Raises TableError where columns are missing or 'ok' rows have no positive, finite N, D or L.
    Warns (UserWarning) where N and D look swapped or the loss looks like bits or perplexity.
    """
    table, where = _open(path, curves)
    table = _rename(table, map or {}, where)
    derived = _derive(table)
    if curves and "D_total" not in table.columns:
        if "run_id" not in table.columns:
            raise TableError(f"{where}: {missing_column('run_id', table.columns)}")
        for name in ("N", "D", "C", "L"):
            if name not in table.columns:
                raise TableError(f"{where}: {missing_column(name, table.columns)}")
        table = table.sort_values(["run_id", "D"], kind="stable", ignore_index=True)
        last = table.groupby("run_id", sort=False)[["D", "L"]].transform("last")
        table["D_total"], table["L_final"] = last["D"], last["L"]
    check(table, need=("N", "D", "C", "L"), where=where)
    _suspect(table, where, derived, map or {})
    table.attrs |= {"source": where, "derived": derived}
    return table


def _open(path: str | Path | pd.DataFrame, curves: bool) -> tuple[pd.DataFrame, str]:
    if not isinstance(path, str | Path):
        return path.copy(), str(path.attrs.get("source", "the table"))
    path = Path(path)
    if path.is_dir():
        runs = read(path)
        return (_join(runs, read_curves(path), str(path)) if curves else runs), str(path)
    if not path.is_file():
        read(path)  # says what is missing, and what to give instead
    readers = {
        ".csv": pd.read_csv,
        ".tsv": lambda p: pd.read_csv(p, sep="\t"),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".json": pd.read_json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableError(
            f"{path}: {path.suffix or 'a file without suffix'} is not a table this reads; give a "
            f"sweep's folder or one of {', '.join(readers)}."
        )
    try:
        return reader(path), str(path)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors are these
        raise TableError(f"{path} is not a readable {path.suffix} table: {error}") from None


def _join(runs: pd.DataFrame, points: pd.DataFrame, where: str) -> pd.DataFrame:
    """One row an evaluation, with its run's columns."""
    of_run = runs[[c for c in ("run_id", *_RUN_COLUMNS) if c in runs.columns]].copy()
    of_run["D_total"], of_run["L_final"] = runs["D"], runs["L"]
    joined = points.merge(of_run, on="run_id", how="inner", validate="many_to_one")
    if joined.empty:
        raise TableError(f"{where}: no learning curve belongs to a run of runs.csv (by run_id).")
    # The evaluation at which a run diverged has no loss; the points before it are good.
    good = joined["L"].notna() & (joined["S"] > 0)
    return joined[good].reset_index(drop=True)


def _rename(table: pd.DataFrame, names: Mapping[str, str], where: str) -> pd.DataFrame:
    for old, new in names.items():
        if old not in table.columns:
            raise TableError(f"{where}: {missing_column(old, table.columns)} (asked for by map)")
        if new in table.columns and new not in names:
            raise TableError(
                f"{where}: map={{{old!r}: {new!r}}} would hide the column {new!r} that is there "
                f"already; rename that one too, say map={{{new!r}: '{new}_old'}}."
            )
    return table.rename(columns=dict(names))


def _derive(table: pd.DataFrame) -> dict[str, str]:
    """Add what follows exactly; {column: formula} of what was added."""
    derived: dict[str, str] = {}
    rules = [*_IDENTITIES.items(), ("D", _D_FROM_C)]
    for _ in range(2):  # D = S B may give C = 6 N D in turn
        for name, (inputs, formula, value) in rules:
            if name not in table.columns and all(i in table.columns for i in inputs):
                table[name] = value(table)
                derived[name] = formula
    return derived


def _suspect(
    table: pd.DataFrame, where: str, derived: Mapping[str, str], names: Mapping[str, str]
) -> None:
    """Warn of what is legal but most likely a mistake."""
    used = table[table["status"] == "ok"] if "status" in table.columns else table
    ratio = float(np.median(used["D_total" if "D_total" in used else "D"] / used["N"]))
    if ratio < 0.1:
        warnings.warn(
            f"{where}: the median run has {ratio:.2g} tokens per parameter; are N and D swapped? "
            "N is parameters, D is training tokens.",
            stacklevel=3,
        )
    origin = next((old for old, new in names.items() if new == "L"), "L")
    if any(word in origin.lower() for word in ("bpb", "bits", "bpc", "per_byte")):
        warnings.warn(
            f"{where}: L comes from {origin!r}, which looks like bits; L is nats/token "
            f"(1 bit = {math.log(2):.4f} nat), and floors and coefficients scale with the unit.",
            stacklevel=3,
        )
        return
    if "vocab_size" in used.columns and "D_total" not in used.columns:
        uniform = np.log(used["vocab_size"].to_numpy(float))
        above = used["L"].to_numpy(float) > uniform
        if np.mean(above) > 0.5:
            warnings.warn(
                f"{where}: {above.sum()} of {len(used)} losses are above ln(vocab_size), worse "
                "than guessing; is L in bits/token? It should be nats/token.",
                stacklevel=3,
            )
            return
    if float(np.median(used["L"])) > 20:
        warnings.warn(
            f"{where}: the median L is {np.median(used['L']):.3g} nats/token; is it a perplexity? "
            "L is its logarithm.",
            stacklevel=3,
        )
