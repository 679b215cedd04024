"""Read results into one checked DataFrame: the folder of a sweep, or a table of any origin.

Columns are symbols: N parameters, D tokens, C FLOPs, B tokens per step, S steps, L [nats/token].
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables import wandb
from analysis.tables.beside import has_curves, with_evaluations
from analysis.tables.conditions import matching, quantities_beside
from analysis.tables.containers import located, with_index
from analysis.tables.derive import RULES, derive
from analysis.tables.doubts import suspect
from analysis.tables.guess import announce, name_columns
from analysis.tables.names import lacking, size_in_texts
from analysis.tables.notes import without_notes
from analysis.tables.numbers import parsed, to_numbers
from analysis.tables.objectives import check_one_objective, check_one_vocabulary
from analysis.tables.rows import (
    CHOICE,
    LAST,
    Evaluations,
    RowsLeftOut,
    chosen,
    evaluations,
    in_words,
    of_final_rows,
    used_rows,
    with_loss,
    with_own_ids,
    written_once,
)
from analysis.tables.separators import localised
from analysis.tables.several import (
    FILE,
    check_complete,
    check_named,
    files_of,
    in_short,
    is_results_folder,
    name_runs,
    read_files,
    repeated_rows,
)
from analysis.tables.states import RUNNING, with_statuses, without_failures
from analysis.tables.tracked import Opened, open_sources, sources_of
from analysis.tables.wide import melt, wide
from scaling import progress
from scaling.columns import STATUSES
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
    strict: bool = False,
    rows: Evaluations = "all",
    also: Iterable[str] = (),
    decimal: str | None = None,
    loss: str | None = None,
    of: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Read the runs of `path` as a checked table, one row per run or per evaluation.

    path: the folder of a sweep (with ``runs.csv``), a table of any origin (delimited text, JSON,
        JSON Lines, Parquet, Arrow, Excel; compressed or not), or a DataFrame. A sheet of a workbook
        is named 'runs.xlsx#Sheet2'. Several paths, a folder of tables and a pattern such as
        "runs/*.csv" are one table. Numbers may be written 1,400,000 or 70M; the second number of
        5.03 ± 0.004 is the standard error, column L_stderr. Exports of Weights & Biases work: the
        State of a table of runs becomes `status`; a chart becomes one row per run and step. So do
        the runs of trackers: "wandb:FOLDER", "wandb:ENTITY/PROJECT", "mlflow:mlruns" or
        "tensorboard:logs" is a row per run, and with `curves` a row per evaluation.
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
        checked. It may name columns as they are called before or after `map`.
    strict: refuse a table in which a finished run has no loss or a row occurs twice, instead of
        leaving these rows out. The folder of a sweep is always read so.
    rows: which evaluations of a run count, if `run_id` occurs more than once: "all", the "last" of
        each run, or "auto", the last if there are ten runs or more whose last N and D differ enough
        to determine a law, else all; the "best", with the lowest loss; or "at=2B", the loss at
        that number of tokens, interpolated. Of a tracker's runs it is the last, unless "best" or
        "at=" asks for another.
    also: columns to read as numbers if they are there; unlike those in `need`, they are neither
        required nor checked.
    decimal: the decimal mark of numbers in text, "," or ".", for a table that does not show it.
    loss: the metric of a tracker's runs that is the loss; "all" makes a row per run and test set.
    of: with `curves`, the runs whose evaluations are wanted: those with the `run_id`, and the
        `test_set` if there are several, of a row of this table.

    If N, D, C, B or S is missing, it is derived where that is exact (C = 6 N D, D = S B, ...);
    `.attrs["derived"]` lists the formulas, `.attrs["source"]` names the origin of the rows. If rows
    were removed, `.attrs["left_out"]` counts them by reason: runs that have not ended, exact
    duplicates, rows without a loss, evaluations that a resumed run wrote twice, and earlier
    evaluations of a run (`rows`). Runs that ended otherwise keep their row and their status;
    `.attrs["unfinished"]` counts them. A warning (RowsLeftOut) states both in one line, unless only
    runs of other statuses than 'ok' are left out.

    Raises TableError if columns are missing, duplicated or not numbers, if 'ok' rows lack a
    positive, finite N, D or L, or if they come from different texts of one corpus. Warns
    (UserWarning) about rows that are left out, units that look wrong (N or D in millions, L in bits
    or a perplexity), and N and D that look swapped (unless `need` is given, since the status of a
    fit then reports that).
    """
    progress.step("reading the table")
    wanted = tuple(_SYMBOLS if need is None else dict.fromkeys(need))
    if curves:
        wanted = tuple(dict.fromkeys((*wanted, *_SYMBOLS)))
    lookup = tuple(dict.fromkeys((*wanted, *also, *(("run_id",) if curves else ()))))
    opened = _tracked(path, map or {}, wanted, curves, rows, loss)
    if opened is None:
        table, source, ours = _open(path, curves, mixed, decimal)
    else:
        table, source, ours, map = opened.table, opened.source, False, opened.names
    map = map or {}
    table, chart = _melted(table, source, steps="S" not in map.values())
    known = ours or chart or opened is not None
    table, no_data = (table, {}) if known else without_notes(table, map, source)
    given = table
    table, found = name_columns(table, map, lookup, source, ours=ours)
    if opened is not None:
        opened.settle(found)
    table, reasons = with_statuses(name_runs(wandb.with_run_ids(table)), source)
    table = _selected(table, where, given, of)
    table, unfinished, left_out = _each_once(
        without_failures(table), None if ours else given, reasons, source, strict
    )
    left_out |= no_data
    to_numbers(table, (*wanted, "B", "S") if need is None else (*wanted, *also), source)
    derived = table.attrs["derived"] = derive(table, None if need is None else wanted, source)
    check_complete(table, wanted, source)
    check_named(table, wanted, map, source)
    quantities_beside(table, wanted)
    if "L" in wanted and "L" in table.columns:
        strictly = strict or ours
        table = _with_losses(table, left_out, source, strict=strictly, rows=rows, inputs=wanted)
    if curves and "D_total" not in table.columns:
        table = _with_ends(table, source)
    table = table.drop(columns=FILE, errors="ignore")
    _check_present(table, wanted, table if ours else given, chart, source)
    check(table, need=wanted, where=source)
    if ours:  # every finished run has been measured
        check(table, where=source)
    _check_alike(table, source, mixed=mixed, tracked=opened is not None)
    announce(table, found, derived, source)
    # Units in results folders are known.
    suspect(table, source, {*wanted, *also}, found.origins, sizes=not ours, swapped=need is None)
    facts = {"guessed": found.names, "unfinished": unfinished, "left_out": left_out}
    return _with_facts(table, {"source": source, "derived": derived}, facts)


def _selected(
    table: pd.DataFrame, where: str | None, given: pd.DataFrame, runs: pd.DataFrame | None
) -> pd.DataFrame:
    """Return the rows that match a condition, and of these the evaluations of some runs."""
    if where:
        table = matching(table, where, given=given, rules=RULES)
    if runs is None:
        return table
    keys = [c for c in ("run_id", "test_set") if c in runs.columns and c in table.columns]
    wanted = pd.MultiIndex.from_frame(runs[keys].astype(str))
    return table[pd.MultiIndex.from_frame(table[keys].astype(str)).isin(wanted)]


def _check_alike(table: pd.DataFrame, where: str, *, mixed: bool, tracked: bool) -> None:
    """Raise TableError if the losses do not compare: :func:`check_one_text`, unless mixed; and for
    runs of a tracker, which do not name their text, other vocabularies."""
    if not mixed:
        check_one_text(table, where)
    if tracked or "test_set" in table.columns:
        check_one_vocabulary(table, where)


def _with_facts(
    table: pd.DataFrame, always: Mapping[str, Any], facts: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the table with its attrs; warn of rows that were left out."""
    table.attrs |= {**always, **{name: fact for name, fact in facts.items() if fact}}
    if facts["left_out"] or not set(facts["unfinished"]) <= set(STATUSES):
        warnings.warn(f"{always['source']}: {in_words(table)}.", RowsLeftOut, stacklevel=3)
    return table


def _check_present(
    table: pd.DataFrame, wanted: Iterable[str], own: pd.DataFrame, chart: str, where: str
) -> None:
    """Raise TableError for columns that are missing, with those that the file has, or with what a
    chart lacks."""
    absent = [name for name in wanted if name not in table.columns]
    if not absent or table.empty:
        return
    if chart:
        hint = size_in_texts(table) if "N" in absent else ""
        raise TableError(wandb.what_a_chart_lacks(table, absent, f"{where} is {chart}") + hint)
    columns = [name for name in own.columns if name != FILE]
    if columns and all(parsed(pd.Series([str(name)])).notna().all() for name in columns):
        raise TableError(
            f"{where} has no names of columns: its first row is {', '.join(map(str, columns))}. "
            "Write a row of names above it, such as params,tokens,loss."
        )
    raise TableError(f"{where}: {lacking(absent[0], own)}")


def _with_ends(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return learning curves in order, with the last D and L of each as D_total and L_final."""
    for name in ("run_id", *_SYMBOLS):
        if name not in table.columns:
            raise TableError(f"{where}: {missing_column(name, table.columns)}")
    table = with_own_ids(table).sort_values(["run_id", "D"], kind="stable", ignore_index=True)
    last = table.groupby("run_id", sort=False)[["D", "L"]].transform("last")
    return table.assign(D_total=last["D"], L_final=last["L"])


def _each_once(
    table: pd.DataFrame,
    given: pd.DataFrame | None,
    reasons: pd.Series,
    where: str,
    strict: bool,
) -> tuple[pd.DataFrame, dict[str, int], dict[str, int]]:
    """Return the rows of runs that have ended, each once; the number of those among them that did
    not finish, by state; and the number of the rows removed, by reason.

    Rows are compared as they were `given`, if they are.
    """
    reasons = reasons.loc[table.index]
    going = table["status"].eq(RUNNING) if "status" in table.columns else reasons.eq(RUNNING)
    left_out = _counts(reasons[going])
    if len(table) and going.all():
        found = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise TableError(f"{where}: no run has finished ({found}): nothing to fit.")
    table, unfinished = table[~going].copy(), _counts(reasons[~going & reasons.ne("")])
    if given is None:
        return table, unfinished, left_out
    again = repeated_rows(given, table)
    again &= table.index.isin(used_rows(table).index)
    if again.any() and strict:
        raise TableError(
            f"{where}: {again.sum()} of {len(again)} rows repeat an earlier one exactly, first at "
            f"row {again.index[again][0]}. Without --strict, each is counted once."
        )
    if again.any():
        table, left_out["exact duplicates"] = table[~again].copy(), int(again.sum())
    return table, unfinished, left_out


def _counts(reasons: pd.Series) -> dict[str, int]:
    return {str(reason): int(n) for reason, n in reasons.value_counts().items()}


def _with_losses(
    table: pd.DataFrame,
    left_out: dict[str, int],
    where: str,
    *,
    strict: bool,
    rows: Evaluations,
    inputs: Sequence[str],
) -> pd.DataFrame:
    """Return the rows with a loss, and of evaluations those that count for a law of `inputs`; add
    the others to `left_out`."""
    table, without = with_loss(table, where, strict=strict)
    table, again = written_once(table)
    if of_final_rows(rows):
        table, earlier, why = evaluations(table, rows, inputs)
        others = {LAST: earlier}
    else:
        table, others, why = chosen(table, rows)
    if why:
        table.attrs[CHOICE] = why
    for reason, count in {
        "without a loss": without, "written again by a resumed run": again, **others
    }.items():  # fmt: skip
        if count:
            left_out[reason] = count
    return table


def check_one_text(table: pd.DataFrame, where: str = "the table") -> None:
    """Raise TableError if 'ok' rows of one corpus and tokenizer come from different texts, or if
    some are of encoders and others are not."""
    check_one_objective(table, where)
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


def _tracked(
    path: Any,
    names: Mapping[str, str],
    need: Iterable[str],
    curves: bool,
    rows: Evaluations,
    loss: str | None,
) -> Opened | None:
    """Return the runs of a tracker, or their evaluations; None if `path` is no source of them."""
    of_final_rows(rows)  # raises ConfigError if there is no such choice
    sources = sources_of(path)
    if sources:
        return open_sources(sources, names, need=need, curves=curves, rows=rows, loss=loss)
    if loss is not None:
        raise TableError(f"{path} is no source of runs: name its loss by --map {loss}=L.")
    return None


def _open(
    path: Any, curves: bool, mixed: bool, decimal: str | None
) -> tuple[pd.DataFrame, str, bool]:
    """Read the table unchanged; return it with the name of its origin, and whether it is made of
    results folders alone."""
    if isinstance(path, pd.DataFrame):
        source = str(path.attrs.get("source", "the table"))
        return localised(with_index(path).copy(), source, decimal), source, False
    given = [Path(each) for each in ([path] if isinstance(path, str | Path) else path)]
    if not given:
        raise TableError("no table is given; give at least one file or folder.")
    source = str(given[0]) if len(given) == 1 else in_short(given)
    files = [file for each in given for file in files_of(each)]
    for file in files:
        if not located(file)[0].exists() or (file.is_dir() and not is_results_folder(file)):
            read(file)  # raises an error that names the missing package
    folders = [file for file in files if file.is_dir()]
    tables = [_open_folder(folder, curves, mixed) for folder in folders]
    if curves and len(files) == 1 and has_curves(files[0]):
        return with_evaluations(files[0], read_files(files, decimal)), source, False
    if len(folders) < len(files):
        tables.append(read_files([file for file in files if not file.is_dir()], decimal))
    if len(tables) == 1:
        return tables[0], source, bool(folders)
    table = pd.concat(tables, ignore_index=True)
    if len(folders) == len(files):  # equal configs are the same run, in whichever folder
        table = table.drop_duplicates(["run_id", "S"] if curves else "run_id", ignore_index=True)
    return table, source, len(folders) == len(files)


def _melted(table: pd.DataFrame, source: str, *, steps: bool) -> tuple[pd.DataFrame, str]:
    """Return a chart, or columns of one size each, as rows, and other tables unchanged; and what
    the chart is, or "".

    The axis becomes S as well, with `steps`.
    """
    plain = table.drop(columns=FILE, errors="ignore")
    chart = wandb.kind_of_chart(plain)
    if wandb.is_chart(plain):
        rows = wandb.melt_chart(plain)
        table = rows.assign(**{FILE: table[FILE].iloc[0]}) if FILE in table.columns else rows
    elif not chart and (found := wide(plain)):
        table = melt(table, found, source)
    table = wandb.steps_of_axis(table) if steps and chart else table
    return (table if table.index.is_unique else table.reset_index(drop=True)), chart


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
    twice = [c for c in of_run.columns if c in points.columns and c != "run_id"]
    points = points.drop(columns=twice)  # the run's own values count
    joined = points.merge(of_run, on="run_id", how="inner", validate="many_to_one")
    for name in per_token:
        joined[name] *= joined["D"]
    if joined.empty:
        raise TableError(f"{where}: no learning curve belongs to a run of runs.csv (by run_id).")
    # The evaluation at which a run diverged has no loss; keep only the points before it.
    good = joined["L"].notna() & (joined["S"] > 0)
    return joined[good].reset_index(drop=True)


def opened(
    path: Any, *, map: Mapping[str, str] | None = None, decimal: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, str, bool]:
    """Read a table and check nothing.

    Returns the table as it is written; the same with a chart as rows; the name of its origin; and
    whether it is made of results folders alone. Raises TableError if there is no table.
    """
    table, source, ours = _open(path, False, True, decimal)
    rows, _ = _melted(table, source, steps="S" not in (map or {}).values())
    return table, rows if rows.index.is_unique else rows.reset_index(drop=True), source, ours
