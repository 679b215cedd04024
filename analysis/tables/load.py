"""Read results into one checked DataFrame: the folder of a sweep, or a table of any origin.

Columns are symbols: N parameters, D tokens, C FLOPs, B tokens per step, S steps, L [nats/token].
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.tables import wandb
from scaling.columns import STATUSES
from scaling.errors import TableError
from scaling.files import EncodingError, check_regular, check_utf8
from scaling.table import check, missing_column, read, read_curves

_IDENTITIES = {
    "D": (("S", "B"), "S B", lambda t: t["S"] * t["B"]),
    "N": (("C", "D"), "C / (6 D)", lambda t: t["C"] / (6 * t["D"])),
    "C": (("N", "D"), "6 N D", lambda t: 6.0 * t["N"] * t["D"]),
    "S": (("D", "B"), "D / B", lambda t: t["D"] / t["B"]),
    "B": (("D", "S"), "D / S", lambda t: t["D"] / t["S"]),
}
"""Inputs, formula and value of each column that can be derived exactly; D = S B comes first, as it
needs no convention."""
_D_FROM_C = (("C", "N"), "C / (6 N)", lambda t: t["C"] / (6 * t["N"]))

_RUN_COLUMNS = (
    "status", "N", "N_total", "B", "lr_peak", "vocab_size", "n_layer", "d_model", "n_head",
    "seed", "schedule", "tag", "D_unique",
)  # fmt: skip
"""Columns that a row of a learning curve inherits from its run."""

_SYMBOLS = ("N", "D", "C", "L")
"""Columns required of a table of runs by default."""

_NUMBER = re.compile(
    r"\s*([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?)\s*([kmbgt]?)\s*", re.IGNORECASE
)
_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def load(
    path: str | Path | pd.DataFrame,
    *,
    map: Mapping[str, str] | None = None,
    curves: bool = False,
    need: Iterable[str] | None = None,
    mixed: bool = False,
) -> pd.DataFrame:
    """Read the runs of `path` as a checked table, one row per run or per evaluation.

    path: the folder of a sweep (with ``runs.csv``), a table of any origin (.csv, .tsv, .parquet,
        .jsonl, .json), or a DataFrame. Numbers may be written 1,400,000 or 70M. Exports of Weights
        & Biases work: the State of a table of runs becomes `status`; a chart becomes one row per
        run and step.
    map: {column of the table: symbol}, such as {"val/loss": "L", "params": "N"}. A column may be an
        expression of columns: {"1e6 * params_M": "N", "10**log10_flops": "C"}.
    curves: return one row per evaluation, with S, D, C and L so far and the run's N, B, D_total
        (its last D) and L_final. A table of another origin then needs a column run_id.
    need: the required columns, such as those of a law, ("B", "S"); N, D, C and L by default. Only
        these are derived and checked.
    mixed: accept rows trained on different texts of one corpus (`corpus_hash`), for a caller that
        selects among them and then calls :func:`check_one_text`.

    If N, D, C, B or S is missing, it is derived where that is exact (C = 6 N D, D = S B, ...);
    `.attrs["derived"]` lists the formulas, `.attrs["source"]` names the origin of the rows.

    Raises TableError if columns are missing, duplicated or not numbers, if 'ok' rows lack a
    positive, finite N, D or L, or if they come from different texts of one corpus. Warns
    (UserWarning) about rows that are left out, units that look wrong (N or D in millions, L in bits
    or a perplexity), and N and D that look swapped (unless `need` is given, since the status of a
    fit then reports that).
    """
    names = dict(map or {})
    table, where = _open(path, curves, mixed)
    chart = wandb.is_chart(table)
    if chart:
        table = wandb.melt_chart(table)
    table = _rename(table, names, where)
    table = wandb.runs_table(table, where)
    wanted = tuple(_SYMBOLS if need is None else dict.fromkeys(need))
    if curves:
        wanted = tuple(dict.fromkeys((*wanted, *_SYMBOLS)))
    _statuses(table, where)
    _to_numbers(table, (*wanted, "B", "S") if need is None else wanted, where)
    derived = _derive(table, None if need is None else wanted, where)
    if curves and "D_total" not in table.columns:
        for name in ("run_id", *_SYMBOLS):
            if name not in table.columns:
                raise TableError(f"{where}: {missing_column(name, table.columns)}")
        table = table.sort_values(["run_id", "D"], kind="stable", ignore_index=True)
        last = table.groupby("run_id", sort=False)[["D", "L"]].transform("last")
        table["D_total"], table["L_final"] = last["D"], last["L"]
    if chart and len(table) and not set(wanted) <= set(table.columns):
        absent = ", ".join(name for name in wanted if name not in table.columns)
        raise TableError(
            f"{where} is a chart exported from Weights & Biases: it holds "
            f"{', '.join(f'{name}' for name in table.columns)} of its runs, and no {absent}. "
            "Export the table of runs (one row per run, with the columns of config and summary), "
            "or add the columns."
        )
    check(table, need=wanted, where=where)
    if not mixed:
        check_one_text(table, where)
    ours = isinstance(path, str | Path) and Path(path).is_dir()  # units in our folders are known
    _suspect(table, where, wanted, names, sizes=not ours, swapped=need is None)
    table.attrs |= {"source": where, "derived": derived}
    return table


def check_one_text(table: pd.DataFrame, where: str = "the table") -> None:
    """Raise TableError if 'ok' rows of one corpus and tokenizer come from different texts."""
    if not {"corpus", "tokenizer", "corpus_hash"} <= set(table.columns):
        return
    used = _used(table)
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
    path: str | Path | pd.DataFrame, curves: bool, mixed: bool = False
) -> tuple[pd.DataFrame, str]:
    """Read the table unchanged; return it with the name of its origin."""
    if not isinstance(path, str | Path):
        return path.copy(), str(path.attrs.get("source", "the table"))
    path = Path(path)
    if path.is_dir():
        runs = read(path)
        if curves and not mixed:  # rows of curves do not name their text
            check_one_text(runs, str(path))
        _to_numbers(runs, ("N", "D", "C", "B", "S", "L"), str(path))
        return (_join(runs, read_curves(path), str(path)) if curves else runs), str(path)
    if not path.is_file():
        read(path)  # raises an error that names the missing package
    readers = {
        ".csv": _read_csv,
        ".tsv": lambda p: _read_csv(p, "\t"),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda p: pd.read_json(p, lines=True, encoding="utf-8-sig"),
        ".json": lambda p: pd.read_json(p, encoding="utf-8-sig"),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableError(
            f"{path}: {path.suffix or 'a file without suffix'} is not a table this reads; give a "
            f"sweep's folder or one of {', '.join(readers)}."
        )
    try:
        check_regular(path) if path.suffix.lower() == ".parquet" else check_utf8(path)
        table = reader(path)
        # Drop rows that hold only the row number that some tools write.
        named = [c for c in table.columns if not str(c).startswith("Unnamed:")]
        return table.dropna(how="all", subset=named or None), str(path)
    except EncodingError as error:
        raise TableError(f"{path} is {error}.") from None
    except (ValueError, OSError) as error:  # errors of pandas and pyarrow are subclasses of these
        raise TableError(f"{path} is not a readable {path.suffix} table: {error}") from None


def _read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """Return the table with its column names as written, as pandas renames a second L to 'L.1'."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    if separator not in first:  # one column, or another separator
        separator = next((s for s in (";", "\t") if s in first), separator)
    decimal = "," if separator == ";" else "."
    table = pd.read_csv(path, sep=separator, decimal=decimal, low_memory=False)
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str).iloc[0]
    if len(header) == len(table.columns):
        table.columns = [
            given if pd.isna(written) else written.strip()
            for given, written in zip(table.columns, header, strict=True)
        ]
    return table


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


def _rename(table: pd.DataFrame, names: Mapping[str, str], where: str) -> pd.DataFrame:
    """Rename columns and evaluate expressions as given by `map`."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise TableError(
            f"{where}: two columns are called {twice[0]!r}; which one is meant? Rename or remove "
            "one."
        )
    made = {}
    for old, new in names.items():
        if old not in table.columns:
            made[old] = _evaluated(table, old, where)
        rivals = [name for name in names if names[name] == new]
        if len(rivals) > 1:
            raise TableError(
                f"{where}: map gives {len(rivals)} columns the name {new!r}: "
                f"{', '.join(rivals)}. Keep one of them."
            )
        if new in table.columns and new not in names:
            raise TableError(
                f"{where}: map={{{old!r}: {new!r}}} would hide the column {new!r} that is there "
                f"already; rename that one too, say map={{{new!r}: '{new}_old'}}."
            )
    return table.assign(**made).rename(columns=dict(names))


def _evaluated(table: pd.DataFrame, expression: str, where: str) -> pd.Series:
    """Evaluate an expression of columns, such as 1e6 * params_M."""
    mentioned = [quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|(\w+)", expression)]
    words = [word for word in table.columns if str(word) in mentioned]
    if expression.isidentifier() or not words:
        raise TableError(f"{where}: {missing_column(expression, table.columns)} (named in map)")
    numbers = table.copy()
    _to_numbers(numbers, words, where)
    try:
        return pd.Series(numbers.eval(expression), table.index, dtype=float)
    except Exception as error:
        raise TableError(
            f"{where}: map: {expression!r} is neither a column nor an expression of columns "
            f"({str(error).partition(chr(10))[0]}). Write names that are not plain words in "
            "`backticks`."
        ) from None


def _statuses(table: pd.DataFrame, where: str) -> None:
    """Warn about rows left out for an unknown status; raise TableError if no row is left."""
    if "status" not in table.columns or not len(table):
        return
    counts = table["status"].astype(str).value_counts()
    found = ", ".join(f"{n} {word!r}" for word, n in counts.items())
    unknown = [word for word in counts.index if word not in STATUSES]
    if unknown and "ok" not in counts.index:
        raise TableError(
            f"{where}: status is {found}, but rows that count are called 'ok' (the others "
            "'diverged', 'stopped' or 'failed'). Replace the words, or rename the column so that "
            "every row counts, say map={'status': 'note'}."
        )
    if unknown:
        warnings.warn(
            f"{where}: status is {found}; only 'ok' rows count; unknown: "
            f"{', '.join(map(repr, unknown))} (known are {', '.join(STATUSES)}).",
            stacklevel=3,
        )


# ------------------------------------------------------------------ numbers and units


def _used(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "ok"] if "status" in table.columns else table


def _to_numbers(table: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Convert columns of text to numbers, in place; raise TableError for a row that is not a
    number."""
    for name in names:
        if name not in table.columns or pd.api.types.is_numeric_dtype(table[name]):
            continue
        values = _parsed(table[name])
        bad = _used(table.assign(**{name: table[name].where(values.isna() & table[name].notna())}))
        bad = bad[name].dropna()
        if len(bad):
            raise TableError(
                f"{where}: column {name!r} must be numbers: {len(bad)} of {len(table)} rows "
                f"{'is' if len(bad) == 1 else 'are'} not, first at row {bad.index[0]} "
                f"({name}={bad.iloc[0]!r}). Write numbers, such as 7e7 or 70M, or drop these rows."
            )
        table[name] = values.astype(float)


def _parsed(column: pd.Series) -> pd.Series:
    """Convert text to numbers, including 1,400,000, 70M and 1.4T; nan if it is not a number."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    for row in np.flatnonzero(values.isna() & column.notna()):
        found = _NUMBER.fullmatch(str(column.iloc[row]))
        number = pd.to_numeric(found[1].replace(",", ""), errors="coerce") if found else np.nan
        values.iloc[row] = number * _SUFFIXES[found[2].lower()] if found else np.nan
    return values


def _derive(table: pd.DataFrame, wanted: Iterable[str] | None, where: str) -> dict[str, str]:
    """Add columns that can be derived exactly, in place; return {column: formula} of those added.

    Only `wanted` columns are added, and C if N and D are wanted; all of them if `wanted` is None.
    """
    derived: dict[str, str] = {}
    keep = None if wanted is None else set(wanted)
    if keep is not None and {"N", "D"} <= keep:
        keep.add("C")
    if keep is not None and keep <= set(table.columns):
        return derived
    sources = _IDENTITIES if keep is None else [n for n in _IDENTITIES if n in table.columns]
    _to_numbers(table, sources, where)
    rules = [*_IDENTITIES.items(), ("D", _D_FROM_C)]
    for _ in range(2):  # D = S B may give C = 6 N D in turn
        for name, (inputs, formula, value) in rules:
            if name not in table.columns and all(i in table.columns for i in inputs):
                table[name] = value(table)
                derived[name] = formula
    for name in set() if keep is None else set(derived) - keep:
        del table[name], derived[name]
    return derived


def _suspect(
    table: pd.DataFrame,
    where: str,
    wanted: Iterable[str],
    names: Mapping[str, str],
    *,
    sizes: bool,
    swapped: bool,
) -> None:
    """Warn about values in the columns `wanted` that are legal but most likely a mistake."""
    used, wanted = _used(table), set(wanted)
    if used.empty:
        return
    doubts = [*_suspect_sizes(used, wanted, swapped)] if sizes else []
    for doubt in (*doubts, *_suspect_loss(used, wanted, names)):
        warnings.warn(f"{where}: {doubt}", stacklevel=3)


def _suspect_sizes(used: pd.DataFrame, wanted: set[str], swapped: bool) -> Iterator[str]:
    tokens = "D_total" if "D_total" in used else "D"
    middle = {
        name: float(np.median(used[tokens if name == "D" else name]))
        for name in ("N", "D", "C")
        if name in wanted and name in used
    }
    units = "N counts parameters and D tokens, one by one: say map 1e6*COLUMN=N"
    small = [
        f"{n} = {middle[n]:.3g}"
        for n, least in (("N", 1e3), ("D", 1e5))
        if n in middle and middle[n] < least
    ]
    if small:
        yield f"the median run has {' and '.join(small)}; is that in millions or billions? {units}."
    elif {"N", "D"} <= set(middle):
        ratio = middle["D"] / middle["N"]
        if ratio < 0.1 and swapped:
            yield (
                f"the median run has {ratio:.2g} tokens per parameter; are N and D swapped, or D "
                "in millions? N is parameters, D is training tokens."
            )
        elif ratio > 1e5:
            yield (
                f"the median run has {ratio:.2g} tokens per parameter; is N in millions or "
                f"billions? {units}."
            )
    if {"N", "D", "C"} <= set(middle):
        off = float(np.median(used["C"] / (6.0 * used["N"] * used["D"])))
        if not 0.1 < off < 10:
            yield (
                f"C is {off:.2g} times 6 N D; are their units FLOPs, parameters and tokens "
                "(1 PF-day = 8.64e19 FLOPs)?"
            )


def _suspect_loss(used: pd.DataFrame, wanted: set[str], names: Mapping[str, str]) -> Iterator[str]:
    if "L" not in wanted or "L" not in used:
        return
    L = used["L"].to_numpy(float)
    origin = next((old for old, new in names.items() if new == "L"), "L")
    if any(word in origin.lower() for word in ("bpb", "bits", "bpc", "per_byte")):
        yield (
            f"L comes from {origin!r}, which looks like bits; L is nats/token "
            f"(1 bit = {math.log(2):.4f} nat), and floors and coefficients scale with the unit."
        )
        return
    if "vocab_size" in used.columns and "D_total" not in used.columns:
        uniform = np.log(used["vocab_size"].to_numpy(float))
        above = uniform < L
        if np.mean(above) > 0.5:
            yield (
                f"{above.sum()} of {len(used)} losses are above ln(vocab_size), worse than "
                "guessing; is L in bits/token? It should be nats/token."
            )
            return
    if float(np.median(L)) > 20:
        yield (
            f"the median L is {np.median(L):.3g} nats/token; is it a perplexity? L is its "
            "logarithm: say map log(COLUMN)=L."
        )
    elif float(np.median(L)) < 1 and {"N", "D"} <= wanted and "vocab_size" not in used.columns:
        yield (
            f"the median L is {np.median(L):.3g} nats/token, less than language models reach; is "
            "it in bits per byte? A law fits it as well, but with another floor and coefficients."
        )
