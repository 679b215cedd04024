"""Commands that say what to train: the frontier, a plan, a design."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from scaling.cli.options import Critical, Json, Latex, Level, Map, Seed, Where
from scaling.cli.output import check_one_format, show, show_json
from scaling.cli.tables import load_rows, load_runs_and_curves
from scaling.errors import ConfigError


def frontier(
    results: Path,
    *,
    method: Literal["envelope", "isoflop", "akima", "parametric", "kaplan", "all"] = "all",
    law: str = "chinchilla",
    params: str = "N",
    flops: str = "C",
    tolerance: float | None = None,
    critical: Critical = None,
    map: Map = (),
    where: Where = None,
    bootstrap: int = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
    latex: Latex = False,
) -> None:
    """The compute-optimal frontier, by several methods side by side.

    Example: scaling frontier results/quickstart --method isoflop

    Args:
        results: A results folder, or a table of runs or of learning curves (with run_id).
        method: Lower envelope of the learning curves, isoFLOP minima (by parabola or by Akima
            interpolation), a fitted law; or kaplan: the exponents of N, B, S and D in C_min, of
            learning curves at three batch sizes or more.
        law: What the parametric method fits.
        params: What N counts: a column, or N_total, N_kaplan, N_head counted from the shape.
        flops: What C counts: a column, "6 N_total D", or C_kaplan, C_chinchilla, C_matmul counted
            from the shape.
        tolerance: How far apart the C of one isoFLOP budget may lie, such as 0.1.
        bootstrap: Draws behind the intervals.
    """
    from analysis import frontier as frontier_of
    from analysis import laws as all_laws

    check_one_format(json, latex)
    if critical is not None and method != "kaplan":
        raise ConfigError(f"--critical is for --method kaplan; --method {method} does not take it.")
    runs, curves = load_runs_and_curves(results, map, where, method)
    if method == "kaplan":
        if latex:
            raise ConfigError(
                "--latex prints exponents, which method 'kaplan' gives as text or --json."
            )
        from analysis import load
        from analysis.critical_batch import contours, critical_batch, efficient

        points = runs if curves is None else curves
        of = critical and critical_batch(contours(load(critical, curves=True)), seed=seed)
        exponents = efficient(points, of, bootstrap=bootstrap, level=level, seed=seed)
        show_json(exponents.record()) if json else show(exponents)
        return
    found = frontier_of(
        runs,
        curves=curves,
        method=method,
        law=all_laws.resolve(law),
        params=params,
        flops=flops,
        tolerance=tolerance,
        bootstrap=bootstrap,
        level=level,
        seed=seed,
    )
    if latex:
        from analysis.latex import tabular

        show(tabular(found.exponents))
        return
    show_json(found.record()) if json else show(found)


def plan(
    results: Path,
    *,
    flops: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    loss: float | None = None,
    gpus: float | None = None,
    hours: float | None = None,
    gpu: str = "h100",
    mfu: float | None = None,
    precision: str = "bf16",
    dollars: float | None = None,
    dollars_per_hour: float | None = None,
    inference_tokens: float = 0.0,
    unique_tokens: float | None = None,
    law: tuple[str, ...] = (),
    map: Map = (),
    where: Where = None,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What to train next: give one of a budget, a size, a number of tokens, a loss.

    Example: scaling plan results/quickstart --flops 1e18

    Args:
        results: A results folder, or a table of runs.
        flops: Training budget C = 6 N D.
        params: Non-embedding parameters N.
        tokens: Training tokens D.
        loss: Target test loss [nats/token].
        gpus: Budget in GPUs, with --hours.
        hours: Budget in hours of --gpus.
        gpu: Which GPU: v100, a100, h100, h200, b200, l4, rtx4090, mi300x, tpu-v4, ...
        mfu: Model FLOPs utilisation, measured; 0.4 is assumed where not given.
        precision: bf16, fp8, fp16, tf32 or fp32.
        dollars: Budget in dollars, with --dollars-per-hour.
        dollars_per_hour: What one GPU costs for an hour.
        inference_tokens: Tokens that the model is to be run on later; the budget counts them.
        unique_tokens: Tokens of data that there are; more are epochs.
        law: Laws of N and D to plan with, the first to be read. Where none is given, chinchilla,
            kaplan_ND, bottleneck and shared_exponent; first, of those that the data determine, the
            one that predicts the larger of these runs best. May be given more than once.
    """
    from analysis import laws as all_laws
    from analysis.fitting.checks import FitError
    from analysis.planning.accelerators import compute_budget
    from analysis.planning.plans import plans
    from scaling.errors import TableError

    words = None
    if any(x is not None for x in (gpus, hours, dollars, dollars_per_hour, mfu)):
        bought = compute_budget(
            gpus=gpus, hours=hours, gpu=gpu, mfu=mfu, precision=precision, dollars=dollars,
            dollars_per_hour=dollars_per_hour,
        )  # fmt: skip
        if flops is not None:
            raise ConfigError("a budget is --flops, or GPUs and hours, or dollars: give one.")
        flops, words = bought.C, bought.description
    asked = {"C": flops, "N": params, "D": tokens, "L": loss}
    given: dict[str, Any] = {k: value for k, value in asked.items() if value is not None}
    usual = ("chinchilla", "kaplan_ND", "bottleneck", "shared_exponent")
    chosen = [all_laws.resolve(name) for name in law or usual]
    runs = load_rows(results, map, where, chosen)
    fits, skipped = _fits(chosen, runs, seed=seed, need_first=bool(law))
    critical = None
    if "B" in runs.columns and runs["B"].nunique() >= 3:
        try:
            critical = _critical_batch(load_runs_and_curves(results, map, where)[1], seed)
        except (FitError, TableError) as error:
            skipped["batch size of these runs"] = str(error)
    found = plans(
        fits, rank=not law, **given, level=level, served=inference_tokens, unique=unique_tokens,
        critical=critical,
    )  # fmt: skip
    found.skipped.update(skipped)
    if json:
        show_json(found.record() | {"budget": words})
    else:
        show(found if words is None else f"{words}\n{found}")


def _fits(
    laws: Sequence[Any], runs: Any, *, seed: int, need_first: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """The laws that can be fitted, by name, and why the others cannot."""
    from analysis import fit
    from analysis.fitting.checks import FitError
    from scaling.errors import TableError

    fits, skipped = {}, {}
    for law in laws:
        try:
            fits[law.name] = fit(law, runs, seed=seed)
        except (FitError, TableError) as error:
            if law is laws[0] and need_first:
                raise
            skipped[law.name] = str(error)
    if not fits:
        raise FitError(next(iter(skipped.values())))
    return fits, skipped


def _critical_batch(curves: Any, seed: int) -> Any:
    """The critical batch size of learning curves, if there are any."""
    from analysis.critical_batch import contours, critical_batch

    return None if curves is None else critical_batch(contours(curves), seed=seed)


def design(
    results: Path,
    *,
    budget: float | None = None,
    target: str = "a",
    law: str = "chinchilla",
    out: Path | None = None,
    achieved: Path | None = None,
    alone: bool = False,
    most_runs: int = 40,
    seeds: int = 1,
    check_lr: bool = False,
    params: tuple[float, float] | None = None,
    tokens: tuple[float, float] | None = None,
    tokens_per_parameter: tuple[float, float] | None = None,
    noise: float | None = None,
    map: Map = (),
    where: Where = None,
    bootstrap: int = 400,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The runs to train next, so that one number becomes as certain as a budget allows.

    Example: scaling design results/quickstart --budget 1e16 --out next.toml

    Args:
        results: The runs so far: a results folder, or a table.
        budget: FLOPs for the whole sweep, 6 N D of its runs.
        target: What is to be known: a, the exponent of N_opt; L@1e18 or N@1e18, the best loss or
            size at so many FLOPs; L or N alone are at 1000 times the budget; or a parameter of the
            law, such as alpha.
        law: The law of N and D to be fitted.
        out: Output file: the TOML of a sweep, for `scaling sweep`.
        achieved: The results folder of a sweep that this wrote (its TOML given as --out): print the
            interval that was expected beside the one that came out.
        alone: The new runs must tell on their own, without those so far.
        most_runs: At most so many runs.
        seeds: At most so many of them at one size and horizon.
        check_lr: Also train the smallest and the largest size at half and twice the learning rate.
        params: Smallest and largest N; the data's least to four times their largest where not given.
        tokens: Smallest and largest D, likewise.
        tokens_per_parameter: Least and most D / N; the data's where not given.
        noise: Standard deviation of ln L about the law; the fit's residuals' where not given.
        bootstrap: Draws of the law's parameters that the design is averaged over.
    """
    import pandas as pd

    import analysis.planning.design as designs
    from analysis import fit as fit_law
    from analysis import laws as all_laws
    from analysis.planning.design_spec import expected
    from analysis.tables.load import check_one_text

    chosen = all_laws.resolve(law)
    so_far = load_rows(results, map, where, [chosen])
    if achieved is not None:
        if out is None:
            raise ConfigError("--achieved needs --out, the TOML that the design wrote.")
        text = _text(out)
        new = load_rows(achieved, map, where, [chosen])
        if expected(text)["kept"]:
            new = pd.concat([so_far, new], join="inner", ignore_index=True)
            check_one_text(new, f"{results} and {achieved}")
        fitted = fit_law(chosen, new, bootstrap=bootstrap, seed=seed)
        found = designs.achieved(fitted, text)
        show_json(found._asdict()) if json else show(found)
        return
    if budget is None:
        raise ConfigError("`scaling design` needs --budget, the FLOPs of the whole sweep.")
    made = designs.design(
        fit_law(chosen, so_far, bootstrap=bootstrap, seed=seed),
        budget=budget, target=target, keep=not alone, runs=most_runs, seeds=seeds, checks=check_lr,
        N=params, D=tokens, ratio=tokens_per_parameter, noise=noise, level=level, seed=seed,
    )  # fmt: skip
    if out is not None:
        out.write_text(made.toml(out.stem))
    show_json(made.record()) if json else show(made)
    if out is not None and not json:
        show(f"{out}: `scaling sweep {out}` trains it.")


def _text(path: Path) -> str:
    from scaling.files import EncodingError, read_text

    try:
        return read_text(path)
    except EncodingError as error:
        raise ConfigError(f"{path} is {error}.") from None
