"""Commands that fit laws to a table and test them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.output import check_one_format, show, show_json
from scaling.cli.tables import load_rows


def fit(
    runs: Path,
    *,
    law: tuple[str, ...] = (),
    map: tuple[str, ...] = (),
    objective: Literal["auto", "huber", "ls", "lad"] = "auto",
    delta: float | None = None,
    on: Literal["log", "raw"] = "log",
    reduce: Literal["sum", "mean"] = "sum",
    bootstrap: int = 1000,
    intervals: Literal["auto", "bootstrap", "residual", "wild", "delta"] = "auto",
    cluster: str = "run_id",
    level: float = 0.95,
    where: str | None = None,
    seed: int = 0,
    json: bool = False,
    latex: bool = False,
) -> None:
    """Fit laws to a table of runs.

    Args:
        runs: A results folder, or a CSV, parquet or JSONL table.
        law: A law's name (`scaling laws`), or file.py:name for your own; chinchilla where none is
            given. May be given more than once.
        map: Column names there and here, such as loss=L,params=N,tokens=D; what is there may be an
            expression, such as 1e6*params_M=N or 10**log10_flops=C.
        objective: Huber, least squares, or least absolute deviations; auto is Huber, or least squares
            for fewer than 25 runs.
        delta: Huber's threshold; tied to the residual scale where not given. Hoffmann et al. used 1e-3.
        on: Residuals of log loss, or of the loss itself.
        reduce: Sum or mean over the rows.
        bootstrap: Draws behind the intervals; 0 for none.
        intervals: Bootstrap over runs, or linearised with Student's t (delta) for fewer than 25.
        cluster: The column whose equal values are one run, drawn together.
        level: Of the intervals.
        where: Keep the rows that match, such as "D == D.max()" or "n_layer > 1".
        seed: Of starts and draws.
        json: Print one JSON object instead of tables.
        latex: Print LaTeX tables (booktabs) instead.
    """
    check_one_format(json, latex)
    from analysis import fit as fit_law
    from analysis import laws as all_laws

    chosen = [all_laws.resolve(name) for name in law or ("chinchilla",)]
    table = load_rows(runs, map, where, chosen)
    records = []
    for each in chosen:
        result = fit_law(
            each,
            table,
            objective=objective,
            delta=delta,
            on=on,
            reduce=reduce,
            bootstrap=bootstrap,
            intervals=intervals,
            cluster=cluster,
            seed=seed,
        )
        if json:
            records.append(result.record(level))
        elif latex:
            from analysis.latex import tabular

            show(tabular(result.interval(level), result.law.formula))
        else:
            show(result.text(level))
    if json:
        show_json(records[0] if len(records) == 1 else records)


def laws(*, json: bool = False) -> None:
    """The laws that can be fitted, with formula and source.

    Args:
        json: Print one JSON list, with the inputs and parameters of each.
    """
    import shutil
    import textwrap

    from analysis import laws as all_laws

    rows = all_laws.table().to_dict("records")
    if json:
        show_json(rows)
        return
    indent = max(len(row["name"]) for row in rows) + 2
    width = shutil.get_terminal_size((100, 24)).columns
    wrap = textwrap.TextWrapper(max(width, 2 * indent), subsequent_indent=" " * indent)
    for row in rows:
        show(wrap.fill(f"{row['name']:<{indent}}{row['formula']}"))
        show(wrap.fill(f"{'':<{indent}}{row['source']}"))
    show("power_X, floor_X and broken_X fit any column X; your own: file.py:name.")


def validate(
    runs: Path,
    *,
    law: str = "chinchilla",
    against: tuple[str, ...] = (),
    by: str | None = None,
    level: float = 0.9,
    map: tuple[str, ...] = (),
    objective: Literal["auto", "huber", "ls", "lad"] = "auto",
    delta: float | None = None,
    on: Literal["log", "raw"] = "log",
    bootstrap: int = 400,
    cluster: str = "run_id",
    where: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Test a law on held-out larger runs, and beside competing laws.

    Args:
        runs: A results folder, or a CSV, parquet or JSONL table.
        law: Name of a law (`scaling laws`), or file.py:name for your own.
        against: Competing laws; those that differ in one assumption where not given.
        by: The column whose largest values are held out; C where there is one.
        level: Of the predictive intervals whose coverage is counted.
        map: Column names there and here, such as loss=L,params=N,tokens=D.
        objective: Huber, least squares, or least absolute deviations, as for `scaling fit`.
        delta: Huber's threshold; tied to the residual scale where not given.
        on: Residuals of log loss, or of the loss itself.
        bootstrap: Draws behind the predictive intervals.
        cluster: The column whose equal values are one run, held out and counted together.
        where: Keep the rows that match.
        seed: Of starts and draws.
        json: Print one JSON object instead of tables.
    """
    from analysis import laws as all_laws
    from analysis import validate as validate_law

    chosen = [all_laws.resolve(name) for name in (law, *against)]
    found = validate_law(
        chosen[0],
        load_rows(runs, map, where, chosen),
        against=chosen[1:] or None,
        by=by,
        level=level,
        objective=objective,
        delta=delta,
        on=on,
        bootstrap=bootstrap,
        cluster=cluster,
        seed=seed,
    )
    show_json(found.record()) if json else show(found)


def verify_published(data: Path, *, json: bool = False) -> None:
    """Refit published tables: published value, ours, objective at both, verdict.

    Args:
        data: Folder of published tables, one sub-folder a paper.
        json: Print one JSON object instead of a table.
    """
    from analysis.published import verify

    found = verify(data)
    show_json(found.record()) if json else show(found)
