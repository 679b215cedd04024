"""Read results into one plain, checked DataFrame: a sweep's folder, or anyone's table.

Columns are symbols: N parameters, D tokens, C FLOPs, B tokens a step, S steps, L [nats/token].
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.errors import TableError
from scaling.files import EncodingError, check_regular, check_utf8
from scaling.schema import STATUSES
from scaling.table import check, missing_column, read, read_curves

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

_SYMBOLS = ("N", "D", "C", "L")
"""What a table of runs must have where nothing else is asked for."""

_WANDB = {
    "finished": "ok", "crashed": "failed", "failed": "failed", "killed": "failed",
    "preempted": "failed", "running": None, "pending": None, "preempting": None,
}  # fmt: skip
"""Weights & Biases' word in the column State: our status; None for runs that have not ended."""


def load(
    path: str | Path | pd.DataFrame,
    *,
    map: Mapping[str, str] | None = None,
    curves: bool = False,
    need: Iterable[str] | None = None,
    mixed: bool = False,
) -> pd.DataFrame:
    """The runs of `path` as a checked table, one row a run, or one row an evaluation.

    path    a sweep's folder (``runs.csv``), or a table of any origin: .csv, .tsv, .parquet,
            .jsonl, .json; or a DataFrame. Numbers may be written 1,400,000 or 70M. The runs table
            that Weights & Biases exports is one: its State becomes `status`; a chart that it
            exports becomes one row a run and step.
    map     {column there: symbol here}, such as {"val/loss": "L", "params": "N"}; what is there may
            be an expression of columns: {"1e6 * params_M": "N", "10**log10_flops": "C"}.
    curves  one row an evaluation: S, D, C, L so far, with the run's N, B, D_total (its last D) and
            L_final beside. A table of another origin then needs a column run_id.
    need    the columns that must be there, such as those of a law, ("B", "S"); N, D, C and L where
            not given. Only these are derived and looked at.
    mixed   let rows through that were trained on different texts of one corpus (`corpus_hash`), for
            a caller that chooses among them and then calls :func:`check_one_text`.

    N, D, C, B and S that are missing are derived where that is exact (C = 6 N D, D = S B, ...);
    `.attrs["derived"]` says which and how, `.attrs["source"]` where the rows come from.

    Raises TableError where columns are missing, twice there or not numbers, or 'ok' rows have no
    positive, finite N, D or L, or different texts of one corpus. Warns (UserWarning) where a column looks as if its unit were another
    (N or D in millions, L in bits or a perplexity), where N and D look swapped (unless `need` names
    what a fit will use: its status says so then), and of rows that are left out.
    """
    names = dict(map or {})
    table, where = _open(path, curves, mixed)
    chart = _is_chart(table)
    if chart:
        table = _melt_chart(table)
    table = _rename(table, names, where)
    table = _wandb(table, where)
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
            f"{', '.join(f'{name}' for name in table.columns)} of its runs, and no {absent}. Export the table of "
            "runs (one row a run, with the columns of config and summary), or add the columns."
        )
    check(table, need=wanted, where=where)
    if not mixed:
        check_one_text(table, where)
    ours = isinstance(path, str | Path) and Path(path).is_dir()  # its units are no question
    _suspect(table, where, wanted, names, sizes=not ours, swapped=need is None)
    table.attrs |= {"source": where, "derived": derived}
    return table


def check_one_text(table: pd.DataFrame, where: str = "the table") -> None:
    """Raise TableError where 'ok' rows of one corpus and tokenizer were trained on different texts."""
    if not {"corpus", "tokenizer", "corpus_hash"} <= set(table.columns):
        return
    used = _used(table)
    used = used[used["corpus_hash"].notna() & (used["corpus_hash"] != "")]
    key = [name for name in ("corpus", "tokenizer", "max_bytes") if name in used.columns]
    for of, rows in used.groupby(key, dropna=False, sort=False):
        counts = rows["corpus_hash"].value_counts()
        if len(counts) > 1:
            said = ", ".join(f"{text!r} ({n} runs)" for text, n in counts.items())
            raise TableError(
                f"{where}: runs of corpus {of[0]!r} ({of[1]}) were trained on different texts, by "
                f"their corpus_hash: {said}. Their losses do not compare. Keep one text: --where "
                f'"corpus_hash == {counts.index[0]!r}" with fit, validate and design; for others, a '
                "table of these rows alone."
            )


def _open(
    path: str | Path | pd.DataFrame, curves: bool, mixed: bool = False
) -> tuple[pd.DataFrame, str]:
    if not isinstance(path, str | Path):
        return path.copy(), str(path.attrs.get("source", "the table"))
    path = Path(path)
    if path.is_dir():
        runs = read(path)
        if curves and not mixed:  # a curve's rows do not say of which text they are
            check_one_text(runs, str(path))
        _to_numbers(runs, ("N", "D", "C", "B", "S", "L"), str(path))
        return (_join(runs, read_curves(path), str(path)) if curves else runs), str(path)
    if not path.is_file():
        read(path)  # says what is missing, and what to give instead
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
        # Rows that hold nothing but the number that some tools write before each row.
        named = [c for c in table.columns if not str(c).startswith("Unnamed:")]
        return table.dropna(how="all", subset=named or None), str(path)
    except EncodingError as error:
        raise TableError(f"{path} is {error}.") from None
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors are these
        raise TableError(f"{path} is not a readable {path.suffix} table: {error}") from None


def _read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """The table with its column names as written: pandas would call a second L 'L.1'."""
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
    """One row an evaluation, with its run's columns."""
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
    # The evaluation at which a run diverged has no loss; the points before it are good.
    good = joined["L"].notna() & (joined["S"] > 0)
    return joined[good].reset_index(drop=True)


def _rename(table: pd.DataFrame, names: Mapping[str, str], where: str) -> pd.DataFrame:
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise TableError(
            f"{where}: two columns are called {twice[0]!r}; which one is meant? Rename or remove one."
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
    """What an expression of columns gives, such as 1e6 * params_M."""
    said = [quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|(\w+)", expression)]
    words = [word for word in table.columns if str(word) in said]
    if expression.isidentifier() or not words:
        raise TableError(f"{where}: {missing_column(expression, table.columns)} (asked for by map)")
    numbers = table.copy()
    _to_numbers(numbers, words, where)
    try:
        return pd.Series(numbers.eval(expression), table.index, dtype=float)
    except Exception as error:
        raise TableError(
            f"{where}: map: {expression!r} is no column, and no expression of columns "
            f"({str(error).partition(chr(10))[0]}). Write names that are not plain words in `backticks`."
        ) from None


# ------------------------------------------------------------------ exports of Weights & Biases


def _is_chart(table: pd.DataFrame) -> bool:
    """A chart's export: the horizontal axis, then a column 'RUN - METRIC' for each line."""
    names = [str(c) for c in table.columns]
    return len(names) > 1 and " - " not in names[0] and all(" - " in name for name in names[1:])


def _melt_chart(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run and step: run_id, the axis (Step as S), and each metric."""
    axis = table.columns[0]
    parts = {}
    for name in table.columns[1:]:
        run, _, metric = str(name).rpartition(" - ")
        if not metric.endswith(("__MIN", "__MAX")):  # the band that a chart draws about its line
            parts.setdefault(run, {})[metric] = table[name]
    rows = [
        pd.DataFrame({"run_id": run, "S" if axis == "Step" else axis: table[axis], **metrics})
        for run, metrics in parts.items()
    ]
    metrics = list(dict.fromkeys(metric for found in parts.values() for metric in found))
    return pd.concat(rows, ignore_index=True).dropna(subset=metrics, how="all", ignore_index=True)


def _wandb(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The runs table of Weights & Biases with our `status` and `run_id`; other tables as they are."""
    if "State" not in table.columns or "status" in table.columns:
        return table
    state = table["State"].astype(str).str.strip().str.lower()
    if not state.isin(list(_WANDB)).all():
        return table
    going = state.map(_WANDB).isna()
    if going.any():
        warnings.warn(
            f"{where}: {going.sum()} of {len(table)} runs have not ended "
            f"({', '.join(sorted(state[going].unique()))}); they are left out.",
            stacklevel=3,
        )
    table = table.assign(status=state.map(_WANDB))[~going].reset_index(drop=True)
    for name in ("ID", "Name"):
        if "run_id" not in table.columns and name in table.columns and table[name].is_unique:
            table["run_id"] = table[name]
    return table


def _statuses(table: pd.DataFrame, where: str) -> None:
    """Say which rows are left out for a status that is not ours, or that none is left."""
    if "status" not in table.columns or not len(table):
        return
    counts = table["status"].astype(str).value_counts()
    said = ", ".join(f"{n} {word!r}" for word, n in counts.items())
    strange = [word for word in counts.index if word not in STATUSES]
    if strange and "ok" not in counts.index:
        raise TableError(
            f"{where}: status is {said}, but rows that count are called 'ok' (the others 'diverged', "
            "'stopped' or 'failed'). Replace the words, or rename the column so that every row counts, say "
            "map={'status': 'note'}."
        )
    if strange:
        warnings.warn(
            f"{where}: status is {said}; only 'ok' rows count, and {', '.join(map(repr, strange))} "
            f"is none of ours ({', '.join(STATUSES)}).",
            stacklevel=3,
        )


# ------------------------------------------------------------------ numbers and units


def _used(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "ok"] if "status" in table.columns else table


def _to_numbers(table: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Make columns of text numbers, in place; what is no number in a row that counts is refused."""
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


_WRITTEN = re.compile(
    r"\s*([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?)\s*([kmbgt]?)\s*", re.IGNORECASE
)
_TIMES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def _parsed(column: pd.Series) -> pd.Series:
    """Text as numbers, 1,400,000 and 70M and 1.4T too; nan where it is none."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    for row in np.flatnonzero(values.isna() & column.notna()):
        found = _WRITTEN.fullmatch(str(column.iloc[row]))
        number = pd.to_numeric(found[1].replace(",", ""), errors="coerce") if found else np.nan
        values.iloc[row] = number * _TIMES[found[2].lower()] if found else np.nan
    return values


def _derive(table: pd.DataFrame, wanted: Iterable[str] | None, where: str) -> dict[str, str]:
    """Add what follows exactly, in place; {column: formula} of what was added.

    Of `wanted` only, and C beside N and D; everything where `wanted` is None.
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
    """Warn of what is legal but most likely a mistake, in the columns `wanted`."""
    used, wanted = _used(table), set(wanted)
    if used.empty:
        return
    said = [*_suspect_sizes(used, wanted, swapped)] if sizes else []
    for sentence in (*said, *_suspect_loss(used, wanted, names)):
        warnings.warn(f"{where}: {sentence}", stacklevel=3)


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
                f"the median run has {ratio:.2g} tokens per parameter; are N and D swapped, or D in "
                "millions? N is parameters, D is training tokens."
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
            f"the median L is {np.median(L):.3g} nats/token, less than language models reach; is it "
            "in bits per byte? A law fits it as well, but its floor and coefficients are then others."
        )
