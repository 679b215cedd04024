"""Commands that fit laws to a table and test them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.options import (
    Cluster,
    Decimal,
    Delta,
    Json,
    Latex,
    Level,
    Map,
    Noise,
    Objective,
    On,
    Rows,
    Seed,
    Strict,
    Where,
)
from scaling.cli.output import check_one_format, show, show_json
from scaling.cli.tables import load_rows
from scaling.errors import ConfigError


def fit(
    runs: tuple[Path, ...],
    *,
    law: tuple[str, ...] = (),
    map: Map = (),
    objective: Objective = "auto",
    delta: Delta = None,
    on: On = "log",
    row_noise: Noise = "constant",
    reduce: Literal["sum", "mean"] = "sum",
    bootstrap: int = 1000,
    intervals: Literal["auto", "bootstrap", "residual", "wild", "delta"] = "auto",
    cluster: Cluster = "run_id",
    level: Level = 0.95,
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    weights: str | None = None,
    prior: Literal["field"] | None = None,
    seed: Seed = 0,
    json: Json = False,
    latex: Latex = False,
) -> None:
    """Fit laws to a table of runs.

    Example: scaling fit runs.csv --map loss=L,params=N,tokens=D
    Example: scaling fit results/quickstart --law kaplan_ND --law bottleneck

    Args:
        runs: A results folder, a table (CSV, JSON, Parquet, Excel, ...), or runs of a tracker
            such as wandb:FOLDER; several files are one table.
        law: Law to fit: a name listed by `scaling laws`, file.py:name for your own, or auto: the
            fit of L(N, D) that best predicts the larger runs. Default: chinchilla.
        reduce: Take the sum or the mean of the objective over the rows.
        bootstrap: Number of bootstrap draws for the intervals; 0 computes no intervals.
        intervals: Method for the intervals: a bootstrap over runs (bootstrap), over residuals
            (residual, wild), or a linear approximation with Student's t (delta). auto: bootstrap,
            or delta for fewer than 25 runs.
        weights: Column with the weight of each row; or stderr, to weight each row by the inverse
            square of the standard error of its loss (column L_stderr, or losses written 5.03 ±
            0.004); or C, or C^0.5, to weight rows by compute. Default: all rows weigh the same.
        prior: Beliefs about the parameters: field, those of published sweeps. Default: none.
    """
    check_one_format(json, latex)
    from analysis import fit as fit_law
    from analysis import laws as all_laws
    from analysis.fitting.combination import AUTO

    chosen = [AUTO if name == AUTO else all_laws.resolve(name) for name in law or ("chinchilla",)]
    needed = [all_laws.bottleneck if each == AUTO else each for each in chosen]
    table = load_rows(runs, needed, map=map, where=where, strict=strict, rows=rows, decimal=decimal)
    records = []
    for each in chosen:
        result = fit_law(
            each,
            table,
            objective=objective,
            delta=delta,
            on=on,
            noise=row_noise,
            reduce=reduce,
            bootstrap=bootstrap,
            intervals=intervals,
            cluster=cluster,
            weights=weights,
            prior=prior,
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


def laws(*, json: Json = False) -> None:
    """List the laws that can be fitted, with their formulas and sources.

    Example: scaling laws
    Example: scaling laws --json
    """
    import shutil
    import textwrap

    from analysis import laws as all_laws
    from analysis.curves import laws as curve_laws

    rows = [*all_laws.table().to_dict("records"), *curve_laws.table().to_dict("records")]
    if json:
        show_json(rows)
        return
    indent = max(len(row["name"]) for row in rows) + 2
    width = shutil.get_terminal_size((100, 24)).columns
    wrap = textwrap.TextWrapper(max(width, 2 * indent), subsequent_indent=" " * indent)
    for row in rows:
        show(wrap.fill(f"{row['name']:<{indent}}{row['formula']}"))
        show(wrap.fill(f"{'':<{indent}}{row['source']}"))
    show("The last four are laws of learning curves: scaling forecast, plan --schedule.")
    show("power_X, floor_X and broken_X fit any column X; file.py:name fits your own law.")


def validate(
    runs: tuple[Path, ...],
    *,
    law: str = "chinchilla",
    against: tuple[str, ...] = (),
    by: str | None = None,
    regret: bool = False,
    level: Level = 0.9,
    map: Map = (),
    objective: Objective = "auto",
    delta: Delta = None,
    on: On = "log",
    bootstrap: int = 400,
    cluster: Cluster = "run_id",
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test a law on held-out larger runs and against competing laws.

    Example: scaling validate results/quickstart --law chinchilla --against bottleneck
    Example: scaling validate results/quickstart --regret

    Args:
        runs: A results folder, a table (CSV, JSON, Parquet, Excel, ...), or runs of a tracker
            such as wandb:FOLDER; several files are one table.
        law: Law to test: a name listed by `scaling laws`, or file.py:name for your own.
        against: Competing law. Default: the laws that differ from `law` in one assumption.
        by: Column whose largest values are held out. Default: C, or the first input of the
            law if the table has no C.
        regret: Print instead what it loses to act on the laws' advice: nats and FLOPs, at larger
            compute, against the best run there. Decisions are N and D, and learning rate and batch
            size where the table has searches over them.
        bootstrap: Number of bootstrap draws for the predictive intervals.
    """
    from analysis import laws as all_laws
    from analysis import validate as validate_law

    chosen = [all_laws.resolve(name) for name in (law, *against)]
    if regret:
        if by is not None:
            raise ConfigError(
                f"--by {by} does not go with --regret, which holds out the runs of larger compute; "
                "leave one of them out."
            )
        from analysis import regret as regret_of
        from analysis.validation.validate import rivals

        table = load_rows(
            runs, chosen, map=map, where=where, strict=strict, rows=rows, decimal=decimal,
            also=("lr_peak", "B"),
        )  # fmt: skip
        acted_on = chosen if against else [*chosen, *rivals(chosen[0])]
        lost = regret_of(acted_on, table, objective=objective, delta=delta, on=on, seed=seed)
        show_json(lost.record()) if json else show(lost)
        return
    found = validate_law(
        chosen[0],
        load_rows(runs, chosen, map=map, where=where, strict=strict, rows=rows, decimal=decimal),
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


def verify_published(data: Path, *, json: Json = False) -> None:
    """Refit published tables and compare the results with the published values.

    Example: scaling verify-published --data published

    Args:
        data: Folder of published tables, with one subfolder per paper.
    """
    from analysis.verify import verify

    found = verify(data)
    show_json(found.record()) if json else show(found)
