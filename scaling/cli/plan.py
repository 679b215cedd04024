"""Commands that decide what to train: `frontier`, `plan` and `design`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from scaling.cli.budget import budget, check_no_schedule, show_schedule
from scaling.cli.options import (
    Critical,
    Decimal,
    Json,
    Latex,
    Level,
    Map,
    Rows,
    Seed,
    Strict,
    Where,
)
from scaling.cli.output import check_one_format, note, show, show_json
from scaling.cli.record import check_record, keep_record, show_scores
from scaling.cli.tables import load_rows, load_runs_and_curves
from scaling.errors import ConfigError


def frontier(
    results: tuple[Path, ...],
    *,
    method: Literal["envelope", "isoflop", "akima", "parametric", "kaplan", "all"] = "all",
    law: str | None = None,
    params: str = "N",
    flops: str = "C",
    tolerance: float | None = None,
    correct_bias: bool = False,
    near: float = 8.0,
    curve: Literal["log", "raw"] = "log",
    critical: Critical = None,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    bootstrap: int = 1000,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
    latex: Latex = False,
) -> None:
    """Estimate the compute-optimal frontier by several methods.

    Example: scaling frontier results/quickstart
    Example: scaling frontier results/quickstart --method isoflop

    Args:
        results: A results folder, or a table of runs or of learning curves (with run_id); several
            files are one table.
        method: Method: the lower envelope of the learning curves (envelope), the minima of isoFLOP
            curves by parabola (isoflop) or by Akima interpolation (akima), a fitted law
            (parametric), or each of these that the data allow (all). kaplan: exponents of N, B, S
            and D in C_min, from learning curves at three or more batch sizes.
        law: Law that the parametric method fits, and that the bias of isoFLOP methods is measured
            on. Default: the law that predicts the largest of these runs best, as for `scaling
            plan`.
        params: Parameter count to use as N: a column, or N_total, N_kaplan or N_head computed from
            the model shape.
        flops: FLOP count to use as C: a column, "6 N_total D", or C_kaplan, C_chinchilla or
            C_matmul computed from the model shape.
        tolerance: Largest relative difference in C among runs of one isoFLOP budget, such as 0.1.
            Default: the smallest of several values that groups nearly all runs.
        correct_bias: Subtract the bias that an isoFLOP method has on the law. Without it, the
            intervals hold the bias.
        near: An isoFLOP parabola uses the sizes within this factor of the best one, and at least
            five.
        curve: What an isoFLOP curve is fitted to: ln L (log) or L (raw).
        bootstrap: Number of bootstrap draws for the intervals.
    """
    from analysis import frontier as frontier_of
    from analysis import laws as all_laws

    check_one_format(json, latex)
    if critical is not None and method != "kaplan":
        raise ConfigError(f"--critical is for --method kaplan; --method {method} does not take it.")
    runs, curves = load_runs_and_curves(
        results, map=map, where=where, strict=strict, rows=rows, decimal=decimal, method=method
    )
    if method == "kaplan":
        if latex:
            raise ConfigError(
                "--latex is not available for --method kaplan; leave it out, or use --json."
            )
        points = runs if curves is None else curves
        exponents = _kaplan(points, critical, bootstrap=bootstrap, level=level, seed=seed)
        show_json(exponents.record()) if json else show(exponents)
        return
    found = frontier_of(
        runs,
        curves=curves,
        method=method,
        law=law and all_laws.resolve(law),
        params=params,
        flops=flops,
        tolerance=tolerance,
        correct_bias=correct_bias,
        near=near,
        on=curve,
        bootstrap=bootstrap,
        level=level,
        seed=seed,
    )
    if latex:
        from analysis.latex import tabular

        show(tabular(found.exponents))
        return
    show_json(found.record()) if json else show(found)


def _kaplan(points: Any, critical: Path | None, *, bootstrap: int, level: float, seed: int) -> Any:
    """Return the exponents of N, B, S and D in C_min."""
    from analysis import load
    from analysis.critical_batch import contours, critical_batch, efficient

    of = critical and critical_batch(contours(load(critical, curves=True)), seed=seed)
    return efficient(points, of, bootstrap=bootstrap, level=level, seed=seed)


def plan(
    results: tuple[Path, ...],
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
    record: str | None = None,
    score: bool = False,
    schedule: bool = False,
    steps: int | None = None,
    warmup: int | None = None,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Plan the next run from a budget, a model size, a token count or a target loss.

    Example: scaling plan results/quickstart --gpus 8 --hours 24
    Example: scaling plan results/quickstart --flops 1e18 --record larger

    Args:
        results: A results folder, or a table of runs; several files are one table.
        flops: Compute budget C = 6 N D, in FLOPs.
        params: Number of non-embedding parameters N. With --tokens, the loss of that very run is
            predicted, optimal or not.
        tokens: Number of training tokens D.
        loss: Target test loss, in nats per token.
        gpus: Budget as a number of GPUs; requires --hours.
        hours: Budget as hours on --gpus.
        gpu: GPU model: v100, a100, h100, h100-pcie, h200, b200, l4, rtx4090, mi300x, tpu-v4,
            tpu-v5e or tpu-v5p.
        mfu: Measured model FLOPs utilisation. Default: 0.4 is assumed.
        precision: Precision of the matrix products: bf16, fp8, fp16, tf32 or fp32.
        dollars: Budget in dollars, at the price given by --dollars-per-hour.
        dollars_per_hour: Price of one GPU per hour, in dollars.
        inference_tokens: Number of tokens to be served after training; their compute counts towards
            the budget.
        unique_tokens: Number of distinct training tokens available; training on more repeats them.
            Default: unlimited.
        law: Law of N and D to plan with; the first one given leads. Default: auto, the combined fit
            that best predicts the larger runs, next to chinchilla, kaplan_ND and shared_exponent.
        record: Keep the prediction under this name: a dated file in the folder `plans` of the
            results, which is never overwritten.
        score: Instead of planning, compare the predictions on record with the finished runs of
            these results. Default: of all folders in `results`.
        schedule: Instead of a size, plan the learning-rate schedule: the best one by a law of
            learning curves (--law multi_power or annealing), for --steps, --tokens or --flops, and
            its gain over cosine and wsd. Runs of one size are used (--params).
        steps: Number of steps of the run whose schedule is planned.
        warmup: Steps of linear warm-up of a table whose rows begin after it, with --schedule.
    """
    selection: dict[str, Any] = {
        "map": map, "where": where, "strict": strict, "rows": rows, "decimal": decimal
    }  # fmt: skip
    given = {
        "--flops": flops, "--params": params, "--tokens": tokens, "--loss": loss, "--gpus": gpus,
        "--dollars": dollars, "--record": record, "--steps": steps,
    }  # fmt: skip
    if score:
        show_scores(results, selection, asked=given, json=json)
        return
    if schedule:
        show_schedule(results, given, selection, law, warmup, level=level, seed=seed, json=json)
        return
    check_no_schedule(steps, warmup)
    check_record(record, results)
    C, words = budget(
        flops, gpus=gpus, hours=hours, gpu=gpu, mfu=mfu, precision=precision, dollars=dollars,
        dollars_per_hour=dollars_per_hour,
    )  # fmt: skip
    asked = {"C": C, "N": params, "D": tokens, "L": loss}
    found, runs = _planned(
        results, {k: v for k, v in asked.items() if v is not None}, selection,
        laws=law, served=inference_tokens, unique=unique_tokens, level=level, seed=seed,
    )  # fmt: skip
    text, values = _with_budget_and_scores(found, words, results, where, level)
    if record is not None:
        kept = keep_record(found, runs, record, results, selection, unique=unique_tokens)
        text, values = [*text, f"on record: {kept}"], values | {"on_record": kept}
    show_json(values) if json else show(*text)


def _with_budget_and_scores(
    found: Any, words: str | None, results: tuple[Path, ...], where: str | None, level: float
) -> tuple[list[str], dict[str, Any]]:
    """Return a plan as text and as values, with what buys its budget and the expected scores."""
    text, values = [str(found)], found.record() | {"budget": words}
    if words is not None:
        text.append(f"budget: {words}")
    if (accuracies := _accuracies(results, found, where, level)) is not None:
        text.append(str(accuracies))
        values["abilities"] = accuracies.record()
    return text, values


def _accuracies(results: tuple[Path, ...], found: Any, where: str | None, level: float) -> Any:
    """Return the accuracies predicted for the run of a plan; None for results without scores of
    tasks, or, after a note, with scores that cannot be used."""
    from analysis.abilities.outlook import folder_with_scores, outlook
    from scaling.errors import TableError

    if folder_with_scores(results) is None:
        return None
    try:
        return outlook(results, found, where=where, level=level)
    except TableError as error:
        note(str(error))
        return None


def _planned(
    results: tuple[Path, ...],
    given: dict[str, Any],
    selection: dict[str, Any],
    *,
    laws: tuple[str, ...],
    served: float,
    unique: float | None,
    level: float,
    seed: int,
) -> tuple[Any, Any]:
    """Return the plans, or the prediction for given N and D, and the runs that they rest on."""
    from analysis.critical_batch import has_batch_sizes
    from analysis.frontiers.choice import CANDIDATES, choose, laws_named
    from analysis.planning.plans import plans
    from analysis.planning.prediction import predict_run

    one_run = given.keys() == {"N", "D"}
    if one_run and served:
        raise ConfigError(
            "--inference-tokens matters for the best size; leave it out for a run of given "
            "--params and --tokens."
        )
    candidates = laws_named(laws)
    runs = load_rows(results, candidates or CANDIDATES, **selection)
    choice = choose(runs, candidates, rank=not candidates, seed=seed)
    if one_run:
        found = predict_run(choice, N=given["N"], D=given["D"], level=level, unique=unique)
        return found, runs
    skipped: dict[str, str] = {}
    critical = None
    if has_batch_sizes(runs):
        critical = _critical_batch(results, runs, selection, seed, skipped)
    found = plans(
        choice, **given, level=level, served=served, unique=unique, critical=critical
    )  # fmt: skip
    found.skipped.update(skipped)
    return found, runs


def _critical_batch(
    results: tuple[Path, ...],
    runs: Any,
    selection: dict[str, Any],
    seed: int,
    skipped: dict[str, str],
) -> Any:
    """Return the critical batch size measured by learning curves; None without curves, or, with the
    reason in `skipped`, if they do not allow it."""
    from analysis.critical_batch import critical_batch_for_plans
    from analysis.fitting.checks import FitError
    from scaling.errors import TableError

    try:
        curves = load_runs_and_curves(results, quiet=True, **selection)[1]
        return critical_batch_for_plans(runs, curves, seed=seed)
    except (FitError, TableError) as error:
        skipped["batch size of these runs"] = str(error)
        return None


def design(
    results: tuple[Path, ...],
    *,
    budget: float | None = None,
    target: str = "a",
    law: str | None = None,
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
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    bootstrap: int = 400,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Choose the next runs that make one quantity as certain as a budget allows.

    The optimal design is compared with an isoFLOP set, a ladder and a plain grid of about equal
    cost by simulation on the law, and the best of them is taken.

    Example: scaling design results/quickstart --budget 1e16 --out next.toml

    Args:
        results: The existing runs: a results folder, or a table of one or several files.
        budget: FLOPs for the whole sweep, the sum of 6 N D over its runs.
        target: Quantity to determine: a, the exponent of N_opt; L@1e18 or N@1e18, the optimal loss
            or model size at 1e18 FLOPs; L or N, the same at 1000 times the budget; or a parameter
            of the law, such as alpha.
        law: Law of N and D to fit. Default: the law that predicts the largest of these runs best,
            among those that have the target.
        out: Output file: the spec of the designed sweep (TOML), for `scaling sweep`.
        achieved: Results folder of a sweep designed by this command, whose spec is given as --out.
            Print its expected and its achieved interval and design nothing.
        alone: Design the new runs to determine the target without the existing ones.
        most_runs: Maximum number of runs.
        seeds: Maximum number of seeds per model size and number of tokens.
        check_lr: Also train the smallest and the largest size at half and twice the learning rate.
        params: Smallest and largest N. Default: from the smallest N of the existing runs to four
            times their largest.
        tokens: Smallest and largest D. Default: from the smallest D of the existing runs to four
            times their largest.
        tokens_per_parameter: Smallest and largest D / N. Default: the range of the existing runs.
        noise: Standard deviation of ln L around the law. Default: that of the fit's residuals.
        bootstrap: Number of draws of the law's parameters to average the design over.
    """
    import analysis.planning.design as designs
    from analysis import fit as fit_law
    from analysis import laws as all_laws
    from analysis.frontiers.choice import CANDIDATES
    from analysis.planning.design_law import best_law
    from scaling.jsonable import finite

    asked = law and all_laws.resolve(law)
    selection: dict[str, Any] = {
        "map": map, "where": where, "strict": strict, "rows": rows, "decimal": decimal
    }  # fmt: skip
    if achieved is not None:
        if out is None:
            raise ConfigError("--achieved needs --out, the spec that `scaling design` wrote.")
        found = _achieved(
            results, achieved, _text(out), asked, selection, bootstrap=bootstrap, seed=seed
        )
        show_json(finite(found._asdict())) if json else show(found)
        return
    if budget is None:
        raise ConfigError("`scaling design` needs --budget, the FLOPs of the whole sweep.")
    so_far = load_rows(results, [asked] if asked else CANDIDATES, **selection)
    made = designs.design(
        fit_law(asked, so_far, bootstrap=bootstrap, seed=seed)
        if asked
        else best_law(so_far, target, bootstrap=bootstrap, seed=seed),
        budget=budget, target=target, keep=not alone, runs=most_runs, seeds=seeds, checks=check_lr,
        N=params, D=tokens, ratio=tokens_per_parameter, noise=noise, level=level, seed=seed,
    )  # fmt: skip
    if out is not None:
        out.write_text(made.toml(out.stem))
    show_json(made.record()) if json else show(made)
    if out is not None and not json:
        show(f"{out}: train it with `scaling sweep {out}`.")


def _achieved(
    results: tuple[Path, ...],
    achieved: Path,
    spec: str,
    law: Any,
    selection: dict[str, Any],
    *,
    bootstrap: int,
    seed: int,
) -> Any:
    """Return the target of a designed sweep, given its spec, as it was expected and came out."""
    from analysis import fit
    from analysis import laws as all_laws
    from analysis.planning.design import achieved as achieved_by
    from analysis.planning.design_spec import expected

    note = expected(spec)
    law = law or all_laws.resolve(note["law"])
    so_far, new = (load_rows(each, [law], **selection) for each in (results, [achieved]))
    if note["kept"]:
        new = _together(so_far, new, achieved)
    return achieved_by(fit(law, new, bootstrap=bootstrap, seed=seed), spec)


def _together(so_far: Any, new: Any, achieved: Path) -> Any:
    """Return the rows of both tables, which must come from one text."""
    import pandas as pd

    from analysis.tables.load import check_one_text

    both = pd.concat([so_far, new], join="inner", ignore_index=True)
    check_one_text(both, f"{so_far.attrs['source']} and {achieved}")
    return both


def _text(path: Path) -> str:
    from scaling.files import EncodingError, read_text

    try:
        return read_text(path)
    except EncodingError as error:
        raise ConfigError(f"{path} is {error}.") from None
