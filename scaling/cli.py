"""The `scaling` command. A command imports what it needs when it runs, so that help is quick; this
is the one module of `scaling` that looks up to `sweeps` and `analysis`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from scaling.config import RunConfig
from scaling.errors import ConfigError, one_line, out_of_memory
from scaling.execution import Execution
from scaling.files import code_file
from scaling.model_config import FAMILIES
from scaling.text import printable
from sweeps.options import SweepOptions

# ------------------------------------------------------------------ training


def train(config: RunConfig, *, folder: Path | None = None, execution: Execution) -> None:
    """Train one run and print its row.

    Args:
        folder: Keep a checkpoint here, and resume from it.
    """
    import signal

    from rich.console import Console

    from scaling.training.train import Interrupted, Progress
    from scaling.training.train import train as train_run

    console = Console(stderr=True)
    if config.model.family not in FAMILIES:
        _say_code(code_file(config.model.family))
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        if asked or folder is None:  # the second time at once, without a checkpoint
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with console.status(f"run {config.run_id}") as status:

            def show(p: Progress) -> None:
                L = "" if p.L is None else f"  L {p.L:.4f}"
                rate = f"{p.tokens_per_second:,.0f} tokens/s"
                status.update(f"run {config.run_id}  step {p.step} of {p.steps}{L}  {rate}")

            result = train_run(
                config,
                execution=execution,
                folder=folder,
                on_progress=show,
                should_stop=lambda: bool(asked),
            )
    except Interrupted:
        raise KeyboardInterrupt(
            f"stopped; the checkpoint is in {folder}. The same command goes on from there."
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    if execution.devices > 1 and os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    _print_json(result.row | {"tests": {test["corpus"]: test["L"] for test in result.tests}})


def sweep(
    spec: str,
    *,
    options: SweepOptions,
    results: str | None = None,
    scale: str | None = None,
    dry_run: bool = False,
    price: float | None = None,
    set: tuple[str, ...] = (),
    filter: tuple[str, ...] = (),
    tag: str | None = None,
    allow_code: tuple[str, ...] = (),
) -> None:
    """Train what is missing of a sweep, through Ray; call again to resume.

    Args:
        spec: A TOML file, or the name of a bundled spec such as quickstart.
        results: Folder for the sweep's own results folder; ./results by default. May be a URI such
            as s3://bucket/results. Leave credentials to the environment (AWS_ACCESS_KEY_ID, ...):
            other users of this machine can read command lines.
        scale: One of the spec's scales, such as gpu; none by default.
        dry_run: Print sizes, FLOPs and the estimated time, and train nothing.
        price: Price of this machine in dollars per hour, for the dry run.
        set: Change a field of every run, such as data.corpus=my.txt; may be repeated. name=...
            renames the sweep and so its folder.
        filter: Select the runs for which this holds, such as model.n_layer=2 or 'D<1e6'; may be
            repeated.
        tag: Select the runs with this tag.
        allow_code: Allow this Python file, outside the spec's folder, to be run for a model family
            or law that the spec names; may be repeated.
    """
    from sweeps import Sweep
    from sweeps.errors import BudgetSpent

    changes = _changes(set) | ({} if scale is None else {"scale": scale})
    it = Sweep.from_toml(
        spec,
        results,
        changes=changes,
        filters=filter,
        tag=tag,
        allow_code=allow_code,
        on_code=_say_code,
    )
    if dry_run:
        _print(it.plan(options, price=price, measure=True))
        return
    try:
        runs = it.run(options)
    except BudgetSpent as spent:
        _say(str(spent))
        raise SystemExit(3) from None
    ours = it.designed().runs.keys()
    failed = runs.run_id.isin(ours) & (runs.status == "failed")
    if failed.any():
        _say(f"{failed.sum()} of {len(ours)} runs failed; --retry-failed trains them again.")
        raise SystemExit(1)


def _say_code(file: Path) -> None:
    """Name a file of the user's own whose code is about to run."""
    _note(f"running code from {file}")


def status(results: Path, *, filter: tuple[str, ...] = (), tag: str | None = None) -> None:
    """What a results folder holds: done, running, failed, missing.

    Args:
        results: A sweep's results folder.
        filter: Only the runs for which this holds, as for `scaling sweep`.
        tag: Only the runs of this tag.
    """
    from sweeps.status import status as status_of

    state = status_of(results, filters=filter, tag=tag)
    _print(state)
    for note in state.notes:
        _note(note)


def watch(results: Path, *, every: float = 2.0) -> None:
    """Show the status of a sweep until it ends; it runs in another terminal.

    Args:
        results: A sweep's results folder.
        every: Seconds between two looks.
    """
    from sweeps.control import watch as watch_it

    watch_it(results, every=every)


def logs(results: Path, run: str) -> None:
    """A run's attempts and what it printed.

    Args:
        results: A sweep's results folder.
        run: The beginning of its id, or its tag.
    """
    from sweeps.control import logs as logs_of

    _print(logs_of(results, run))


def cancel(results: Path, *, now: bool = False) -> None:
    """Stop the sweep that works on a folder: checkpoints are written, the sweep can go on later.

    Args:
        results: A sweep's results folder.
        now: At once, without waiting for checkpoints.
    """
    from sweeps.control import cancel as cancel_it

    cancel_it(results, now=now, say=_print)
    _print("stopped; `scaling status` shows what is done, the same `scaling sweep` goes on.")


def clean(results: Path, *, dry_run: bool = False) -> None:
    """Remove checkpoints and litter of finished runs, never results.

    Args:
        results: A sweep's results folder.
        dry_run: Say what would be removed, and remove nothing.
    """
    from sweeps.control import clean as clean_it

    litter = clean_it(results, dry_run=dry_run)
    for path in litter if dry_run else ():
        _print(path)
    what = "would be removed" if dry_run else "removed"
    _print(f"{len(litter)} files, {sum(litter.values()) / 2**20:.1f} MiB {what}")


def export(
    results: Path, *, to: Literal["tensorboard", "wandb", "mlflow"], again: bool = False
) -> None:
    """Hand finished runs over to TensorBoard, Weights & Biases or MLflow.

    Args:
        results: A sweep's results folder.
        to: Each is an extra, such as pip install 'scaling-laws-lab[tensorboard]'.
        again: Those as well that were handed over before.
    """
    from sweeps.export import export as export_to
    from sweeps.status import status as status_of
    from sweeps.store import Store

    status_of(results)  # says where this is no sweep
    _print(f"{export_to(Store(results), to, again=again)} runs exported to {to}")


def data_prepare(
    corpus: str = "prose", *, tokenizer: str = "bpe-1024", max_bytes: int | None = None
) -> None:
    """Read a corpus, split it, train its tokenizer, write token files to the cache.

    Args:
        corpus: A bundled corpus, a text file or folder, or hub:<name>.
        tokenizer: 'bytes' or 'bpe-<vocabulary size>'.
        max_bytes: Read at most this much text.
    """
    from scaling.config import DataConfig
    from scaling.data.corpus import prepare

    files = prepare(DataConfig(corpus=corpus, tokenizer=tokenizer, max_bytes=max_bytes))
    per_token = files.train_bytes / files.train_tokens
    _print(
        f"{corpus} ({tokenizer}): {files.train_tokens:,} training and {files.test_tokens:,} test "
        f"tokens, {per_token:.2f} bytes a token; {files.folder}"
    )


def data_list() -> None:
    """The bundled corpora, and which of them are prepared."""
    from scaling.data.sources import CORPORA
    from scaling.files import cache

    for name, bundled in CORPORA.items():
        prepared = sorted(p.parent.name for p in (cache() / "tokens").glob(f"{name}-*/*/train.bin"))
        state = f"  [prepared: {', '.join(prepared)}]" if prepared else ""
        _print(f"{name:<10} {bundled.about}{state}")
    _print("Any UTF-8 text file or folder of .txt files, or hub:<dataset>, works as well.")


# ------------------------------------------------------------------ analysis


def summary(results: Path, *, figures: Path | None = None) -> None:
    """Laws with intervals, held-out error, frontier, plan and figures of a sweep.

    Args:
        results: A sweep's results folder.
        figures: Where figures go; the results folder's own `figures` where not given.
    """
    from analysis.reporting.summary import summarise

    _print(summarise(results, figures=figures))


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
    _one_format(json, latex)
    from analysis import fit as fit_law
    from analysis import laws as all_laws

    chosen = [all_laws.resolve(name) for name in law or ("chinchilla",)]
    table = _load(runs, map, where, chosen)
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

            _print(tabular(result.interval(level), result.law.formula))
        else:
            _print(result.text(level))
    if json:
        _print_json(records[0] if len(records) == 1 else records)


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
        _print_json(rows)
        return
    indent = max(len(row["name"]) for row in rows) + 2
    width = shutil.get_terminal_size((100, 24)).columns
    wrap = textwrap.TextWrapper(max(width, 2 * indent), subsequent_indent=" " * indent)
    for row in rows:
        _print(wrap.fill(f"{row['name']:<{indent}}{row['formula']}"))
        _print(wrap.fill(f"{'':<{indent}}{row['source']}"))
    _print("power_X, floor_X and broken_X fit any column X; your own: file.py:name.")


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
        _load(runs, map, where, chosen),
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
    _print_json(found.record()) if json else _print(found)


def verify_published(data: Path, *, json: bool = False) -> None:
    """Refit published tables: published value, ours, objective at both, verdict.

    Args:
        data: Folder of published tables, one sub-folder a paper.
        json: Print one JSON object instead of a table.
    """
    from analysis.verify import verify

    found = verify(data)
    _print_json(found.record()) if json else _print(found)


def frontier(
    results: Path,
    *,
    method: Literal["envelope", "isoflop", "akima", "parametric", "kaplan", "all"] = "all",
    law: str = "chinchilla",
    params: str = "N",
    flops: str = "C",
    tolerance: float | None = None,
    critical: Path | None = None,
    map: tuple[str, ...] = (),
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    json: bool = False,
    latex: bool = False,
) -> None:
    """The compute-optimal frontier, by several methods side by side.

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
        critical: A results folder with several batch sizes, such as results/batch, whose critical
            batch size method kaplan takes, for runs that have but one.
        map: Column names there and here, such as loss=L,params=N,flops=C.
        bootstrap: Draws behind the intervals.
        level: Of the intervals.
        seed: Of the draws.
        json: Print one JSON object.
        latex: Print the exponents as a LaTeX table (booktabs).
    """
    from analysis import frontier as frontier_of
    from analysis import laws as all_laws

    _one_format(json, latex)
    if critical is not None and method != "kaplan":
        raise ConfigError(f"--critical is for --method kaplan; --method {method} does not take it.")
    runs, curves = _runs_and_curves(results, map, method)
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
        _print_json(exponents.record()) if json else _print(exponents)
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

        _print(tabular(found.exponents))
        return
    _print_json(found.record()) if json else _print(found)


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
    map: tuple[str, ...] = (),
    level: float = 0.95,
    json: bool = False,
) -> None:
    """What to train next: give one of a budget, a size, a number of tokens, a loss.

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
        map: Column names there and here.
        level: Of the intervals.
        json: Print one JSON object.
    """
    from analysis import fit as fit_law
    from analysis import laws as all_laws
    from analysis.critical_batch import contours, critical_batch
    from analysis.fitting.checks import FitError
    from analysis.planning.accelerators import budget
    from analysis.planning.plans import plans
    from scaling.errors import TableError

    words = None
    if any(x is not None for x in (gpus, hours, dollars, dollars_per_hour, mfu)):
        bought = budget(
            gpus=gpus, hours=hours, gpu=gpu, mfu=mfu, precision=precision, dollars=dollars,
            dollars_per_hour=dollars_per_hour,
        )  # fmt: skip
        if flops is not None:
            raise ConfigError("a budget is --flops, or GPUs and hours, or dollars: give one.")
        flops, words = bought.C, bought.said
    asked = {"C": flops, "N": params, "D": tokens, "L": loss}
    given: dict[str, Any] = {k: value for k, value in asked.items() if value is not None}
    usual = ("chinchilla", "kaplan_ND", "bottleneck", "shared_exponent")
    chosen = [all_laws.resolve(name) for name in law or usual]
    runs = _load(results, map, None, chosen)
    fits, lacking = {}, {}
    for each in chosen:
        try:
            fits[each.name] = fit_law(each, runs)
        except (FitError, TableError) as error:
            if each is chosen[0] and law:
                raise
            lacking[each.name] = str(error)
    if not fits:
        raise FitError(next(iter(lacking.values())))
    critical = None
    if "B" in runs.columns and runs["B"].nunique() >= 3:
        try:
            curves = _runs_and_curves(results, map)[1]
            critical = None if curves is None else critical_batch(contours(curves))
        except (FitError, TableError) as error:
            lacking["batch size of these runs"] = str(error)
    found = plans(
        fits, rank=not law, **given, level=level, served=inference_tokens, unique=unique_tokens,
        critical=critical,
    )  # fmt: skip
    found.skipped.update(lacking)
    if json:
        _print_json(found.record() | {"budget": words})
    else:
        _print(found if words is None else f"{words}\n{found}")


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
    map: tuple[str, ...] = (),
    where: str | None = None,
    bootstrap: int = 400,
    level: float = 0.95,
    seed: int = 0,
    json: bool = False,
) -> None:
    """The runs to train next, so that one number becomes as certain as a budget allows.

    Args:
        results: The runs so far: a results folder, or a table.
        budget: FLOPs for the whole sweep, 6 N D of its runs.
        target: What is to be known: a, the exponent of N_opt; L@1e18 or N@1e18, the best loss or
            size at so many FLOPs; L or N alone are at 1000 times the budget; or a parameter of the
            law, such as alpha.
        law: The law of N and D to be fitted.
        out: Write a sweep's TOML here, for `scaling sweep`.
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
        map: Column names there and here.
        where: Keep the rows that match.
        bootstrap: Draws of the law's parameters that the design is averaged over.
        level: Of the intervals.
        seed: Of the draws.
        json: Print one JSON object.
    """
    import pandas as pd

    import analysis.planning.design as designs
    from analysis import fit as fit_law
    from analysis import laws as all_laws
    from analysis.planning.design_spec import expected
    from analysis.tables.load import check_one_text

    chosen = all_laws.resolve(law)
    so_far = _load(results, map, where, [chosen])
    if achieved is not None:
        if out is None:
            raise ConfigError("--achieved needs --out, the TOML that the design wrote.")
        text = _text(out)
        new = _load(achieved, map, where, [chosen])
        if expected(text)["kept"]:
            new = pd.concat([so_far, new], join="inner", ignore_index=True)
            check_one_text(new, f"{results} and {achieved}")
        fitted = fit_law(chosen, new, bootstrap=bootstrap, seed=seed)
        found = designs.achieved(fitted, text)
        _print_json(found._asdict()) if json else _print(found)
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
    _print_json(made.record()) if json else _print(made)
    if out is not None and not json:
        _print(f"{out}: `scaling sweep {out}` trains it.")


def figure(
    name: str = "",
    results: Path | None = None,
    *,
    out: Path | None = None,
    width: Literal["column", "full"] | None = None,
    critical: Path | None = None,
    list: bool = False,
) -> None:
    """Draw a figure of the papers from a results folder, or all that it allows.

    Args:
        name: Which figure (--list shows them), all, or again: those that lie there already.
        results: A results folder.
        out: A file name; its suffix, .pdf, .png or .svg, says the format. Where not given, a .pdf
            and a .png are written to the results folder's `figures`. A folder for all and again.
        width: One column of a page (3.25 inches) or the full text (6.75); what suits the figure
            where not given.
        critical: A results folder with several batch sizes, such as results/batch, for figures that
            take the critical batch size, of runs that have but one.
        list: List the figures, the columns that they take and the spec that measures these.
    """
    from analysis import figures

    if list:
        _print(figures.listing())
        return
    if not name or results is None:
        raise ConfigError(
            "`scaling figure` needs a figure and a results folder, such as kaplan1 results/headline; "
            "--list shows the figures."
        )
    if name in ("all", "again"):
        files, lacking = figures.draw_all(
            results, out, again=name == "again", width=width, critical=critical
        )
        _print(*files)
        for why in lacking.values():
            _say(f"note: {why}")
        return
    for path in figures.draw(name, results, out, width=width, critical=critical):
        _print(path)


def report(results: Path, *, out: Path | None = None) -> None:
    """Write one HTML page of a sweep: laws, verdicts, figures, plan, runs, provenance.

    Args:
        results: A sweep's results folder.
        out: The file to write; report.html in the results folder where not given.
    """
    from analysis.reporting.html import report as write

    _print(write(results, out))


def doctor() -> None:
    """Where each package comes from, its version, and this machine."""
    import importlib.metadata
    import importlib.util
    import platform

    owners = importlib.metadata.packages_distributions()
    fine = True
    for package in ("scaling", "sweeps", "analysis"):
        spec = importlib.util.find_spec(package)
        origin = spec.origin if spec else None
        ours = origin is not None and "scaling-laws-lab" in Path(origin).read_text()
        fine &= ours
        note = "" if ours else f"  NOT OURS: it belongs to {', '.join(owners.get(package, ['?']))}"
        _print(f"{package:<9} {origin or 'is not installed'}{note}")
    for name in ("scaling-laws-lab", "torch", "ray", "numpy", "scipy", "pandas", "matplotlib"):
        try:
            _print(f"{name:<17} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            _print(f"{name:<17} not installed")
    _print(f"{'python':<17} {platform.python_version()}, {os.cpu_count()} CPUs")
    if not fine:
        raise ConfigError(
            "another package shadows one of ours; rename that file, or use an environment of its own."
        )


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "sweep": sweep,
    "status": status,
    "watch": watch,
    "logs": logs,
    "cancel": cancel,
    "clean": clean,
    "export": export,
    "summary": summary,
    "fit": fit,
    "laws": laws,
    "validate": validate,
    "verify-published": verify_published,
    "frontier": frontier,
    "plan": plan,
    "design": design,
    "figure": figure,
    "report": report,
    "data prepare": data_prepare,
    "data list": data_list,
    "doctor": doctor,
}
_POSITIONAL = {"spec", "results", "runs", "name", "corpus", "run"}


# ------------------------------------------------------------------ plumbing


BUG = 70
"""Exit code of what is neither a result nor a user's mistake: EX_SOFTWARE of sysexits.h."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0, 2 for a user's mistake, 130 for Ctrl-C, 70 for a bug.

    The traceback of a bug is written to a file in the system's temporary folder, and a line says
    where; SCALING_DEBUG=1 prints it instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # what an ASCII terminal cannot show is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _note
                name, rest = _command(arguments)
                _parse(name, rest)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except Exception as error:
            mistake = _mistake(error)
            if mistake is None and os.environ.get("SCALING_DEBUG") == "1":
                raise
            _say(mistake or _bug(error, arguments))
            raise SystemExit(2 if mistake else BUG) from None
    except KeyboardInterrupt as stop:
        _say(str(stop) or "stopped.")
        raise SystemExit(130) from None


def _mistake(error: Exception) -> str | None:
    """What to tell a user of an error that is the command's, the machine's or the data's; None for a bug."""
    if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
        return f"out of memory: {one_line(error)} Use a smaller model or batch_tokens."
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
    # Ours say what, where and what to do; anything else is a bug.
    ours = type(error).__module__.partition(".")[0] in ("scaling", "sweeps", "analysis")
    return str(error) if isinstance(error, ValueError) and ours else None


def _bug(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback of `error` to a file that only its owner can read; returns a line that says so."""
    import platform
    import shlex
    import tempfile
    import traceback

    said = str(error).partition("\n")[0]
    what = f"{type(error).__name__}{f': {said}' if said else ''}"
    text = (
        f"scaling {shlex.join(arguments)}\n"
        f"scaling-laws-lab {_version()}, Python {platform.python_version()}, {platform.platform()}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    try:
        number, path = tempfile.mkstemp(prefix="scaling-bug-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_masked(text))
    except OSError as why:
        where = (
            f"SCALING_DEBUG=1 prints its traceback, which cannot be kept ({why.strerror or why})"
        )
    else:
        where = f"its traceback is in {path}"
    return f"{what[:300]}. This is a bug; {where}."


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("scaling-laws-lab")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _say(message: str) -> None:
    line = printable(_masked(message.strip())).replace("\n", "\\n")
    try:
        print(f"scaling: {line}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it; what is left in the buffer must not fail again at the end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _masked(text: str) -> str:
    """The text without the credentials of URIs."""
    if "://" not in text:
        return text
    from sweeps.remote import masked

    return masked(text)


def _print(*said: object) -> None:
    """Print texts, which may hold what anyone has written, a line each."""
    print(*map(printable, said), sep="\n")


def _note(message: Warning | str, *_: Any) -> None:
    """A warning without the path and source line that Python would print beside it."""
    _say(f"note: {message}")


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print(_overview())
        raise SystemExit(0)
    if arguments[0] == "--version":
        _print(_version())
        raise SystemExit(0)
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    if arguments[0] == "data":
        raise ConfigError("`scaling data` needs one of: prepare, list.")
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "`scaling --help` lists the commands."
    raise ConfigError(f"there is no command {arguments[0]!r}. {hint}")


def _overview() -> str:
    lines = [
        "scaling: train, sweep and fit neural scaling laws",
        "",
        "usage: scaling COMMAND [--help] ...",
        "",
    ]
    for name, function in COMMANDS.items():
        lines.append(f"  {name:<17} {(function.__doc__ or '').splitlines()[0]}")
    lines += [
        "",
        "  scaling sweep quickstart --dry-run       what it would train, and how long that takes",
        "  scaling sweep quickstart --workers 2     train what is missing",
        "  scaling summary results/quickstart       laws, frontier, plan, figures",
    ]
    return "\n".join(lines)


def _parse(name: str, arguments: list[str]) -> None:
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def whole_number(info: Any) -> Any:  # lets an int be written 2e8
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: _whole(words[0]),
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def folder(info: Any) -> Any:  # lets a results folder be a URI
        if info.type is not Path:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: _folder(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    function = COMMANDS[name]
    hints = dict(function.__annotations__)
    hints.pop("return", None)
    function.__annotations__ = {key: _marked(name, key, hints[key], tyro) for key in hints}

    @functools.wraps(function)
    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return lambda: function(*args, **options)

    with _masked_errors(arguments):
        call = tyro.cli(
            parsed,
            prog=f"scaling {name}",
            args=arguments,
            registry=registry,
            # a switch of a command is off by default; one of a run may be either
            config=() if name == "train" else (tyro.conf.FlagCreatePairsOff,),
        )
    call()


@contextlib.contextmanager
def _masked_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Mask the credentials of URIs among the arguments, which the parser quotes where it refuses them."""
    if not any("://" in argument for argument in arguments):
        yield
        return
    from sweeps.remote import masked

    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "9999"  # no URI is broken into lines
    try:
        with contextlib.redirect_stderr(printed):
            yield
    finally:
        del os.environ["COLUMNS"]
        os.environ.update({} if columns is None else {"COLUMNS": columns})
        sys.stderr.write(masked(printed.getvalue()))


def _marked(name: str, key: str, hint: Any, tyro: Any) -> Any:
    """A parameter's type with its place on the command line."""
    hint = eval(hint) if isinstance(hint, str) else hint
    if key == "config":  # its fields need no prefix: --model.n-layer 6 --tokens 2e8
        return Annotated[hint, tyro.conf.arg(name="")]
    if key == "options":
        return tyro.conf.UseAppendAction[Annotated[hint, tyro.conf.arg(name="")]]
    if key in _POSITIONAL and not (key == "results" and name == "sweep"):
        return tyro.conf.Positional[hint]
    if hint == tuple[str, ...]:  # --set a=1 --set b=2
        return tyro.conf.UseAppendAction[hint]
    return hint


def _folder(text: str) -> Path:
    """A path; of a URI the local folder that stands for it, level with it."""
    if "://" not in text:
        return Path(text)
    from sweeps.errors import StoreError
    from sweeps.store import Store

    try:
        store = Store(text)
        store.pull()
    except StoreError as error:  # the parser would put it in a box
        _say(str(error))
        raise SystemExit(2) from None
    return store.folder


def _whole(text: str) -> int:
    value = float(text)
    if value % 1:
        raise ValueError(f"{text} is not a whole number")
    return int(text) if text.lstrip("+-").isdigit() else int(value)


def _changes(pairs: Sequence[str]) -> dict[str, Any]:
    """['data.corpus=my.txt', 'seed=3'] -> values as TOML reads them, bare words as strings."""
    import tomllib

    changes = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE, such as data.corpus=my.txt.")
        try:
            changes[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            changes[key] = text
    return changes


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    """['loss=L,params=N'] -> {'loss': 'L', 'params': 'N'}."""
    mapping = {}
    for pair in ",".join(pairs).split(","):
        if not pair:
            continue
        there, equals, here = pair.partition("=")
        if not equals:
            raise ConfigError(f"--map {pair!r} is not COLUMN=SYMBOL, such as loss=L.")
        mapping[there.strip()] = here.strip()
    return mapping


def _load(path: Path, pairs: Sequence[str], where: str | None, laws: Sequence[Any]) -> Any:
    """The rows that count, with the columns of `laws` and those that `where` names."""
    from analysis import load
    from analysis.tables.load import check_one_text
    from scaling.errors import TableError

    need = [name for law in laws for name in (*law.inputs, law.target)]
    need += [name for name in ("N", "D", "C", "B", "S") if name in re.findall(r"\w+", where or "")]
    everything = load(path, map=_mapping(pairs), need=need, mixed=True)
    table = everything
    if "status" in table.columns:
        table = table[table.status == "ok"]
    if table.empty:
        counts = everything.status.value_counts().items()
        said = ", ".join(f"{n} {word}" for word, n in counts)
        raise TableError(f"{path}: no row has status 'ok' ({said}): nothing to fit.")
    if not where:
        check_one_text(table, str(path))
        return table
    try:
        kept = table.query(where)
        if not isinstance(kept, type(table)):
            raise TypeError("it is not true or false for each row")
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise TableError(
            f"--where {where!r} is not a condition on the rows ({why}). Compare columns, as in "
            f"'D > 1e9' or 'D == D.max()'; there are {', '.join(map(str, table.columns))}."
        ) from None
    if kept.empty:
        raise TableError(
            f"--where {where!r} leaves an empty table: none of {len(table)} rows match."
        )
    check_one_text(kept, str(path))
    return kept


def _runs_and_curves(path: Path, pairs: Sequence[str], method: str = "all") -> tuple[Any, Any]:
    """(runs or curves, curves or None) of a results folder or a table; a table in which a run_id
    comes back is one of learning curves."""
    from analysis import load

    names = _mapping(pairs)
    # A law that is fitted says itself where N and D look swapped; once is enough.
    need = ("N", "D", "C", "L") if method in ("parametric", "all") else None
    runs = load(path, map=names, need=need)
    folder = path.is_dir() and (path / "curves.parquet").exists()
    repeated = "run_id" in runs.columns and runs["run_id"].duplicated().any()
    if not (folder or repeated):
        return runs, None
    curves = load(path, map=names, curves=True, need=need)
    return (runs, curves) if folder else (curves, None)


def _text(path: Path) -> str:
    from scaling.files import EncodingError, read_text

    try:
        return read_text(path)
    except EncodingError as error:
        raise ConfigError(f"{path} is {error}.") from None


def _one_format(json: bool, latex: bool) -> None:
    if json and latex:
        raise ConfigError("--json and --latex are two formats of one answer; give one of them.")


def _print_json(value: Any) -> None:
    from scaling.jsonable import finite

    print(json.dumps(finite(value), indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
