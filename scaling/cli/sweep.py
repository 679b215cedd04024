"""Commands of a sweep and of its results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.arguments import settings
from scaling.cli.options import Filter, Tag
from scaling.cli.output import note, note_code, say, show
from scaling.extras import require
from sweeps.options import SweepOptions


def sweep(
    spec: str,
    *,
    options: SweepOptions,
    results: str | None = None,
    scale: str | None = None,
    dry_run: bool = False,
    price: float | None = None,
    set: tuple[str, ...] = (),
    filter: Filter = (),
    tag: Tag = None,
    allow_code: tuple[str, ...] = (),
) -> None:
    """Train what is missing of a sweep, through Ray; call again to resume.

    Example: scaling sweep quickstart --workers 2

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
        allow_code: Allow this Python file, outside the spec's folder, to be run for a model family
            or law that the spec names; may be repeated.
    """
    ray = () if dry_run or options.in_process else ("ray",)
    require("torch", *ray, extra="train" if options.in_process else "sweep")
    from sweeps import Sweep
    from sweeps.errors import BudgetSpent

    changes = settings(set) | ({} if scale is None else {"scale": scale})
    it = Sweep.from_toml(
        spec, results, changes=changes, filters=filter, tag=tag, allow_code=allow_code,
        on_code=note_code,
    )  # fmt: skip
    if dry_run:
        show(it.plan(options, price=price, measure=True))
        return
    try:
        runs = it.run(options)
    except BudgetSpent as spent:
        say(str(spent))
        raise SystemExit(3) from None
    ours = it.designed().runs.keys()
    failed = runs.run_id.isin(ours) & (runs.status == "failed")
    if failed.any():
        say(f"{failed.sum()} of {len(ours)} runs failed; --retry-failed trains them again.")
        raise SystemExit(1)


def status(results: Path, *, filter: Filter = (), tag: Tag = None) -> None:
    """What a results folder holds: done, running, failed, missing.

    Example: scaling status results/quickstart

    Args:
        results: A sweep's results folder.
    """
    from sweeps.folder_status import status as status_of

    state = status_of(results, filters=filter, tag=tag)
    show(state)
    for each in state.notes:
        note(each)


def watch(results: Path, *, every: float = 2.0) -> None:
    """Show the status of a sweep until it ends; it runs in another terminal.

    Example: scaling watch results/quickstart

    Args:
        results: A sweep's results folder.
        every: Seconds between two looks.
    """
    from sweeps.control import watch as watch_it

    watch_it(results, every=every)


def logs(results: Path, run: str) -> None:
    """A run's attempts and what it printed.

    Example: scaling logs results/quickstart 3f2a

    Args:
        results: A sweep's results folder.
        run: The beginning of its id, or its tag.
    """
    from sweeps.control import logs as logs_of

    show(logs_of(results, run))


def cancel(results: Path, *, now: bool = False) -> None:
    """Stop the sweep that works on a folder: checkpoints are written, the sweep can go on later.

    Example: scaling cancel results/quickstart

    Args:
        results: A sweep's results folder.
        now: At once, without waiting for checkpoints.
    """
    from sweeps.control import cancel as cancel_it

    cancel_it(results, now=now, say=show)
    show("stopped; `scaling status` shows what is done, the same `scaling sweep` goes on.")


def clean(results: Path, *, dry_run: bool = False) -> None:
    """Remove checkpoints and litter of finished runs, never results.

    Example: scaling clean results/quickstart --dry-run

    Args:
        results: A sweep's results folder.
        dry_run: Say what would be removed, and remove nothing.
    """
    from sweeps.control import clean as clean_it

    litter = clean_it(results, dry_run=dry_run)
    for path in litter if dry_run else ():
        show(path)
    what = "would be removed" if dry_run else "removed"
    show(f"{len(litter)} files, {sum(litter.values()) / 2**20:.1f} MiB {what}")


def export(
    results: Path, *, to: Literal["tensorboard", "wandb", "mlflow"], again: bool = False
) -> None:
    """Hand finished runs over to TensorBoard, Weights & Biases or MLflow.

    Example: scaling export results/quickstart --to tensorboard

    Args:
        results: A sweep's results folder.
        to: Each is an extra, such as pip install 'scaling-laws-lab[tensorboard]'.
        again: Those as well that were handed over before.
    """
    from sweeps.export import export as export_to
    from sweeps.folder_status import status as status_of
    from sweeps.store import Store

    status_of(results)  # says where this is no sweep
    show(f"{export_to(Store(results), to, again=again)} runs exported to {to}")
