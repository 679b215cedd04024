"""The command that compares two training recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scaling.cli.options import Decimal, Json, Level, Map, Rows, Seed, Strict, Where
from scaling.cli.output import show, show_json
from scaling.cli.tables import load_rows
from scaling.errors import ConfigError


def compare(
    runs: tuple[Path, ...],
    *,
    by: str | None = None,
    law: str | None = None,
    share: Literal["floor", "exponents", "nothing"] = "floor",
    floor: float | None = None,
    flops: float | None = None,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    bootstrap: int = 1000,
    level: Level = 0.9,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare two training recipes: effective speed-up and crossover.

    Example: scaling compare adamw.csv muon.csv
    Example: scaling compare runs.csv --by optimizer --flops 1e22

    Args:
        runs: Two tables or results folders, one of each recipe; or one table with --by.
        by: Column of one table whose two values are the recipes.
        law: Law that both recipes are fitted with: of N and D, or of C, such as floor_C. Default:
            the law of N and D that predicts the larger runs of both best, or floor_C if the tables
            do not tell N from D.
        share: What the recipes share: the irreducible loss (floor), that and the exponents
            (exponents), or nothing.
        floor: Hold the irreducible loss of both recipes at this value. Default: it is fitted.
        flops: Compute for which the recipes are compared, in FLOPs. Default: ten times the largest
            compute that both reach.
        bootstrap: Number of bootstrap draws for the intervals.
    """
    from analysis import compare as compare_recipes
    from analysis import laws as all_laws

    chosen = law and all_laws.resolve(law)
    options: dict[str, Any] = {
        "map": map, "where": where, "strict": strict, "rows": rows, "decimal": decimal
    }  # fmt: skip
    names, tables = _recipes(runs, by, chosen, options)
    found = compare_recipes(
        *tables,
        law=chosen or None,
        names=names,
        share=share,
        floor=floor,
        C=flops,
        level=level,
        bootstrap=bootstrap,
        seed=seed,
    )
    show_json(found.record()) if json else show(found)


def _recipes(
    runs: tuple[Path, ...], by: str | None, law: Any, options: dict[str, Any]
) -> tuple[tuple[str, str], tuple[Any, Any]]:
    """Return the names and the runs of the two recipes."""
    if by is None and len(runs) != 2:
        raise ConfigError(
            f"two recipes are compared, but {len(runs)} table{'s'[: len(runs) != 1]} "
            f"{'are' if len(runs) != 1 else 'is'} given. Give two tables, or one with --by COLUMN."
        )
    if by is None:
        first, second = (_loaded((path,), law, options) for path in runs)
        return _names(*runs), (first, second)
    from analysis.comparison.compare import split

    (a, rows_a), (b, rows_b) = split(_loaded(runs, law, options), by).items()
    return (a, b), (rows_a, rows_b)


def _loaded(paths: tuple[Path, ...], law: Any, options: dict[str, Any]) -> Any:
    """Return the runs with the columns of the law; of N and D, or of C, if there is none."""
    from analysis import laws as all_laws

    if law is None:
        law = all_laws.floor_C if _only_compute(paths, options) else all_laws.chinchilla
    return load_rows(paths, [law], **options)


def _only_compute(paths: tuple[Path, ...], options: dict[str, Any]) -> bool:
    """Return whether the tables have compute C, but not both N and D."""
    import warnings

    from analysis import load
    from scaling.cli.tables import one_source, selection

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = load(one_source(paths), need=("C", "L"), mixed=True, **selection(**options))
        except ValueError:  # the command says what is wrong when it reads N and D
            return False
        try:
            load(one_source(paths), need=("N", "D", "L"), mixed=True, **selection(**options))
        except ValueError:
            return not {"N", "D"} <= set(table.columns)
    return False


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return the shortest ends of two paths that differ, without suffixes."""
    a, b = (path.resolve() for path in (first, second))
    for n in range(1, max(len(a.parts), len(b.parts)) + 1):
        names = ["/".join(path.with_suffix("").parts[-n:]) for path in (a, b)]
        if names[0] != names[1]:
            return names[0], names[1]
    return str(first), str(second)
