"""The command `backtest`: which rule predicts larger runs best, over a suite of tables."""

from __future__ import annotations

from pathlib import Path

from scaling import files
from scaling.cli.options import Decimal, Json, Level, Map, Rows, Seed, Strict, Where
from scaling.cli.output import note, show, show_json
from scaling.cli.tables import selection
from scaling.errors import ConfigError
from scaling.units import number


def backtest(
    runs: tuple[Path, ...],
    *,
    rule: tuple[str, ...] = (),
    axis: tuple[str, ...] = (),
    factors: str = "4,16,64",
    baseline: str = "held_out",
    level: Level = 0.9,
    bootstrap: int = 0,
    root: Path | None = None,
    cache: Path | None = None,
    workers: int = 1,
    csv: Path | None = None,
    plot: Path | None = None,
    details: bool = False,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare rules by how well they predict the larger runs of tables.

    Example: scaling backtest results/quickstart --rule bottleneck --baseline chinchilla

    Args:
        runs: Tables, results folders, folders of them, or suite files (.toml); each table is
            tested by itself.
        rule: Name of a rule, or a pattern such as 'bottleneck*'. Default: all rules.
        axis: Column to extrapolate: C, N or D. Default: C.
        factors: Factors of extrapolation, separated by commas: runs with at most the largest C
            over the factor are fitted, and the larger ones are predicted.
        baseline: Rule to which the others are compared.
        bootstrap: Number of bootstrap draws for the predictive intervals; 0 takes a linear
            approximation, which is faster.
        root: Folder to which the paths in suite files are relative. Default: the folder of the
            suite file.
        cache: Folder that keeps the scores, by the content of table, rule and code, so that a
            second call is quick. Default: `backtest` in the user's cache.
        workers: Number of processes.
        csv: File to which the rows, one per table, rule and factor, are written as well.
        details: Print the ratio to the baseline in each group of tables as well.
        plot: File for the figure of error against factor (.pdf, .png or .svg).
    """
    from analysis.validation.suite import backtest as run

    found = run(
        list(runs),
        rules=rule,
        axes=axis or ("C",),
        factors=_factors(factors),
        baseline=baseline,
        level=level,
        bootstrap=bootstrap,
        seed=seed,
        root=root,
        cache=cache or files.cache() / "backtest",
        workers=workers,
        **selection(map, where, strict, rows, decimal),
    )
    for name, why in found.skipped.items():
        note(f"{name} is left out: {why}")
    for name, count in found.failed.items():
        note(f"{name} has no fit in {count} cells, at first: {found.reasons[name]}")
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(csv, found.rows.to_csv(index=False).encode())
    if plot is not None:
        from analysis import figures

        figures.save(figures.backtest_errors(found), plot)
    show_json(found.record()) if json else show(found.details() if details else found)


def _factors(text: str) -> list[float]:
    """Return the numbers of a list such as '4,16,64'."""
    try:
        return [number(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--factors {text!r}: {error}; write them as 4,16,64.") from error
