"""Commands that run a sweep and manage its results folder."""

from __future__ import annotations

from pathlib import Path

from scaling import progress
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
    same_code: bool = False,
    slurm: tuple[str, ...] = (),
) -> None:
    """Train the missing runs of a sweep with Ray; run it again to resume.

    Example: scaling sweep quickstart --workers 2
    Example: scaling sweep quickstart --dry-run --price 2.5

    Args:
        spec: A TOML file, or the name of a bundled spec such as quickstart.
        results: Folder, or URI such as s3://bucket/results, in which the sweep creates its results
            folder. Default: ./results. Pass credentials through the environment
            (AWS_ACCESS_KEY_ID, ...): other users of this machine can read command lines.
        scale: Scale of the spec to use, such as gpu. Default: the spec as it is.
        dry_run: Print sizes, FLOPs and the estimated time without training.
        price: Price of this machine in dollars per hour, for the cost estimate of --dry-run.
        set: Change a field of every run, such as data.corpus=my.txt. name=... renames the sweep and
            thereby its results folder.
        allow_code: Allow a model family or law of the spec to run code from this Python file
            outside the spec's folder. Given the spec itself, allow it to run its command although
            it lies outside the current folder.
        same_code: Let the files of [runner] code count as unchanged since the results were made. By
            default, a changed file makes new runs.
        slurm: Submit the sweep to Slurm with this option of sbatch, KEY=VALUE such as
            partition=gpu: one allocation of nodes=K with a Ray cluster, or array=K tasks without
            Ray. --dry-run prints the script.
    """
    ray = () if slurm or dry_run or options.in_process else ("ray",)
    from sweeps import Sweep
    from sweeps.errors import BudgetSpent
    from sweeps.spec import find
    from sweeps.spec_code import names_command

    torch = () if names_command(find(spec)) else ("torch",)
    require(*torch, *ray, extra="train" if options.in_process else "sweep")

    progress.step(f"reading the spec {spec}")
    changes = settings(set) | ({} if scale is None else {"scale": scale})
    chosen = Sweep.from_toml(
        spec, results, changes=changes, filters=filter, tag=tag, allow_code=allow_code,
        on_code=note_code, same_code=same_code,
    )  # fmt: skip
    if slurm:
        from sweeps.slurm.submit import submit

        submit(chosen, slurm, options, dry_run=dry_run, say=show)
        return
    if dry_run:
        show(chosen.plan(options, price=price, measure=True))
        return
    try:
        runs = chosen.run(options)
    except BudgetSpent as spent:
        say(str(spent))
        raise SystemExit(3) from None
    if chosen.spec.tasks and chosen.spec.keep_weights:
        note(f"`scaling eval {chosen.store.shown(chosen.folder)}` evaluates the tasks of the spec.")
    ours = chosen.designed().runs.keys()
    failed = runs.run_id.isin(ours) & (runs.status == "failed")
    if failed.any():
        say(f"{failed.sum()} of {len(ours)} runs failed; --retry-failed trains them again.")
        raise SystemExit(1)


def status(results: Path, *, filter: Filter = (), tag: Tag = None) -> None:
    """Show which runs of a sweep are done, running, failed or missing.

    Example: scaling status results/quickstart
    Example: scaling status results/quickstart --filter 'D<1e6'

    Args:
        results: A sweep's results folder.
    """
    from sweeps.folder_status import status as status_of

    state = status_of(results, filters=filter, tag=tag)
    show(state)
    for each in state.notes:
        note(each)


def watch(results: Path, *, every: float = 2.0) -> None:
    """Follow the status of a sweep that runs in another terminal until it ends.

    Example: scaling watch results/quickstart
    Example: scaling watch results/quickstart --every 10

    Args:
        results: A sweep's results folder.
        every: Seconds between updates.
    """
    from sweeps.control import watch as watch_it

    watch_it(results, every=every)


def logs(results: Path, run: str) -> None:
    """Show the attempts of a run and its output.

    Example: scaling logs results/quickstart 3f2a

    Args:
        results: A sweep's results folder.
        run: A prefix of the run id, or the tag of the run.
    """
    from sweeps.control import logs as logs_of

    show(logs_of(results, run))


def cancel(results: Path, *, now: bool = False) -> None:
    """Stop a running sweep after it writes checkpoints, so that it can be resumed.

    Example: scaling cancel results/quickstart
    Example: scaling cancel results/quickstart --now

    Args:
        results: A sweep's results folder.
        now: Stop immediately, without waiting for checkpoints.
    """
    from sweeps.control import cancel as cancel_it

    cancel_it(results, now=now, say=show)
    show("stopped; `scaling status` shows what is done, `scaling sweep` resumes it.")


def clean(
    results: Path, *, weights: bool = False, work: bool = False, dry_run: bool = False
) -> None:
    """Remove checkpoints and temporary files of finished runs, never results.

    Example: scaling clean results/quickstart --dry-run
    Example: scaling clean results/quickstart --weights

    Args:
        results: A sweep's results folder.
        weights: Also remove the weights of finished runs (execution.keep_weights).
        work: Also remove what the commands of finished runs have written ([runner] in the spec).
        dry_run: Print what would be removed without removing it.
    """
    from sweeps.control import clean as clean_it
    from sweeps.control import written_by_commands

    sizes = clean_it(results, weights=weights, work=work, dry_run=dry_run)
    for path in sizes if dry_run else ():
        show(path)
    what = "would be removed" if dry_run else "removed"
    show(f"{len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB {what}")
    if not work and (kept := written_by_commands(results)):
        size = sum(kept.values()) / 2**20
        number = f"{len(kept)} folder{'' if len(kept) == 1 else 's'}"
        show(f"what commands have written ({number}, {size:.1f} MiB) stays; --work removes it")
