"""Read results into one checked DataFrame: the folder of a sweep, or a table of any origin.

Columns are symbols: N parameters, D tokens, C FLOPs, B tokens per step, S steps, L [nats/token].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.tables import wandb
from analysis.tables.derive import derive
from analysis.tables.doubts import suspect
from analysis.tables.guess import announce, name_columns
from analysis.tables.numbers import to_numbers
from analysis.tables.rows import check_statuses, matching, used_rows
from analysis.tables.several import (
    FILE,
    check_complete,
    check_named,
    files_of,
    in_short,
    is_results_folder,
    name_runs,
    read_files,
)
from scaling.errors import TableError
from scaling.table import check, missing_column, read, read_curves

_RUN_COLUMNS = (
    "status", "N", "N_total", "B", "lr_peak", "vocab_size", "n_layer", "d_model", "n_head",
    "seed", "schedule", "tag", "D_unique",
)  # fmt: skip
"""Columns that a row of a learning curve inherits from its run."""

_SYMBOLS = ("N", "D", "C", "L")
"""Columns required of a table of runs by default."""


def load(
    path: str | Path | pd.DataFrame | Sequence[str | Path],
    *,
    map: Mapping[str, str] | None = None,
    curves: bool = False,
    need: Iterable[str] | None = None,
    mixed: bool = False,
    where: str | None = None,
) -> pd.DataFrame:
    """Read the runs of `path` as a checked table, one row per run or per evaluation.

    path: the folder of a sweep (with ``runs.csv``), a table of any origin (.csv, .tsv, .parquet,
        .jsonl, .json), or a DataFrame. Numbers may be written 1,400,000 or 70M. Exports of Weights
        & Biases work: the State of a table of runs becomes `status`; a chart becomes one row per
        run and step. Several paths, a folder of tables and a pattern such as "runs/*.csv" are one
        table.
    map: {column of the table: symbol}, such as {"val/loss": "L", "params": "N"}. A column may be an
        expression of columns: {"1e6 * params_M": "N", "10**log10_flops": "C"}; or a pattern that
        takes a value out of text, such as {"{path:loss_N([0-9]+)}": "N"} for the file's name.
    curves: return one row per evaluation, with S, D, C and L so far and the run's N, B, D_total
        (its last D) and L_final. A table of another origin then needs a column run_id.
    need: the required columns, such as those of a law, ("B", "S"); N, D, C and L by default. Only
        these are derived and checked.
    mixed: accept rows trained on different texts of one corpus (`corpus_hash`), for a caller that
        selects among them and then calls :func:`check_one_text`.
    where: a condition that selects rows, such as "D > 1e9". Rows are selected before they are
        checked.

    If N, D, C, B or S is missing, it is derived where that is exact (C = 6 N D, D = S B, ...);
    `.attrs["derived"]` lists the formulas, `.attrs["source"]` names the origin of the rows.

    Raises TableError if columns are missing, duplicated or not numbers, if 'ok' rows lack a
    positive, finite N, D or L, or if they come from different texts of one corpus. Warns
    (UserWarning) about rows that are left out, units that look wrong (N or D in millions, L in bits
    or a perplexity), and N and D that look swapped (unless `need` is given, since the status of a
    fit then reports that).
    """
    table, source, ours = _open(path, curves, mixed)
    table, chart = _melted(table)
    wanted = tuple(_SYMBOLS if need is None else dict.fromkeys(need))
    if curves:
        wanted = tuple(dict.fromkeys((*wanted, *_SYMBOLS)))
    lookup = (*wanted, "run_id") if curves else wanted
    table, found = name_columns(table, map or {}, lookup, source, ours=ours)
    table = name_runs(wandb.runs_table(table, source))
    check_statuses(table, source)
    to_numbers(table, (*wanted, "B", "S") if need is None else wanted, source)
    derived = derive(table, None if need is None else wanted, source)
    if curves and "D_total" not in table.columns:
        for name in ("run_id", *_SYMBOLS):
            if name not in table.columns:
                raise TableError(f"{source}: {missing_column(name, table.columns)}")
        table = table.sort_values(["run_id", "D"], kind="stable", ignore_index=True)
        last = table.groupby("run_id", sort=False)[["D", "L"]].transform("last")
        table["D_total"], table["L_final"] = last["D"], last["L"]
    if chart and len(table) and not set(wanted) <= set(table.columns):
        absent = ", ".join(name for name in wanted if name not in table.columns)
        present = ", ".join(str(name) for name in table.columns if name != FILE)
        raise TableError(
            f"{source} is a chart exported from Weights & Biases: it holds {present} of its runs, "
            f"and no {absent}. "
            "Export the table of runs (one row per run, with the columns of config and summary), "
            "or add the columns."
        )
    if where:
        table = matching(table, where)
    check_complete(table, wanted, source)
    check_named(table, wanted, source)
    table = table.drop(columns=FILE, errors="ignore")
    check(table, need=wanted, where=source)
    if not mixed:
        check_one_text(table, source)
    announce(table, found, derived, source)
    # Units in results folders are known.
    suspect(table, source, wanted, found.origins, sizes=not ours, swapped=need is None)
    table.attrs |= {"source": source, "derived": derived}
    if found.names:
        table.attrs["guessed"] = found.names
    return table


def check_one_text(table: pd.DataFrame, where: str = "the table") -> None:
    """Raise TableError if 'ok' rows of one corpus and tokenizer come from different texts."""
    if not {"corpus", "tokenizer", "corpus_hash"} <= set(table.columns):
        return
    used = used_rows(table)
    used = used[used["corpus_hash"].notna() & (used["corpus_hash"] != "")]
    key = [name for name in ("corpus", "tokenizer", "max_bytes") if name in used.columns]
    for of, rows in used.groupby(key, dropna=False, sort=False):
        counts = rows["corpus_hash"].value_counts()
        if len(counts) > 1:
            texts = ", ".join(f"{text!r} ({n} runs)" for text, n in counts.items())
            raise TableError(
                f"{where}: runs of corpus {of[0]!r} ({of[1]}) were trained on different texts, by "
                f"their corpus_hash: {texts}. Their losses do not compare. Keep one text: --where "
                f'"corpus_hash == {counts.index[0]!r}" with fit, validate and design; for others, '
                "a table of these rows alone."
            )


def _open(
    path: str | Path | pd.DataFrame | Sequence[str | Path], curves: bool, mixed: bool = False
) -> tuple[pd.DataFrame, str, bool]:
    """Read the table unchanged; return it with the name of its origin, and whether it is made of
    results folders alone."""
    if isinstance(path, pd.DataFrame):
        return path.copy(), str(path.attrs.get("source", "the table")), False
    given = [Path(each) for each in ([path] if isinstance(path, str | Path) else path)]
    if not given:
        raise TableError("no table is given; give at least one file or folder.")
    source = str(given[0]) if len(given) == 1 else in_short(given)
    files = [file for each in given for file in files_of(each)]
    for file in files:
        if not file.exists() or (file.is_dir() and not is_results_folder(file)):
            read(file)  # raises an error that names the missing package
    folders = [file for file in files if file.is_dir()]
    tables = [_open_folder(folder, curves, mixed) for folder in folders]
    if len(folders) < len(files):
        tables.append(read_files([file for file in files if not file.is_dir()]))
    if len(tables) == 1:
        return tables[0], source, bool(folders)
    table = pd.concat(tables, ignore_index=True)
    key = [name for name in ("run_id", *(("S",) if curves else ())) if name in table.columns]
    again = table.duplicated(key) & table["run_id"].notna() if key else []
    return table[~again].reset_index(drop=True), source, len(folders) == len(files)


def _melted(table: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Return a chart of Weights & Biases as rows, and other tables unchanged; and whether it is
    one."""
    plain = table.drop(columns=FILE, errors="ignore")
    if not wandb.is_chart(plain):
        return table, False
    rows = wandb.melt_chart(plain)
    return (rows.assign(**{FILE: table[FILE].iloc[0]}) if FILE in table.columns else rows), True


def _open_folder(folder: Path, curves: bool, mixed: bool) -> pd.DataFrame:
    """Read the runs of a results folder, or their learning curves."""
    runs = read(folder)
    if curves and not mixed:  # rows of curves do not name their text
        check_one_text(runs, str(folder))
    to_numbers(runs, ("N", "D", "C", "B", "S", "L"), str(folder))
    return _join(runs, read_curves(folder), str(folder)) if curves else runs


def _join(runs: pd.DataFrame, points: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return one row per evaluation, with the columns of its run."""
    for name in ("run_id", "D", "L"):
        if name not in runs.columns:
            raise TableError(f"{where}: {missing_column(name, runs.columns)}")
    of_run = runs[[c for c in ("run_id", *_RUN_COLUMNS) if c in runs.columns]].copy()
    of_run["D_total"], of_run["L_final"] = runs["D"], runs["L"]
    per_token = [
        c for c in runs.select_dtypes("number")
        if str(c).startswith("C_") and c not in points.columns
    ]  # fmt: skip
    for name in per_token:
        of_run[name] = runs[name] / runs["D"]
    joined = points.merge(of_run, on="run_id", how="inner", validate="many_to_one")
    for name in per_token:
        joined[name] *= joined["D"]
    if joined.empty:
        raise TableError(f"{where}: no learning curve belongs to a run of runs.csv (by run_id).")
    # The evaluation at which a run diverged has no loss; keep only the points before it.
    good = joined["L"].notna() & (joined["S"] > 0)
    return joined[good].reset_index(drop=True)
