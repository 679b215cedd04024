"""Commands of a sweep and of its results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.arguments import settings
from scaling.cli.options import Filter, Tag
from scaling.cli.output import note, note_code, say, show
from scaling.extras import require


def sweep(
    spec: str,
    *,
    results: str | None = None,
    scale: str | None = None,
    workers: int = 2,
    threads: int = 1,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    shard: bool = False,
    retries: int = 2,
    packs: bool = True,
    compile: bool = False,
    address: str | None = None,
    dry_run: bool = False,
    price: float | None = None,
    in_process: bool = False,
    retry_failed: bool = False,
    reuse: tuple[str, ...] = (),
    budget_flops: float | None = None,
    budget_hours: float | None = None,
    set: tuple[str, ...] = (),
    filter: Filter = (),
    tag: Tag = None,
    allow_code: tuple[str, ...] = (),
    export: Literal["tensorboard", "wandb", "mlflow"] | None = None,
) -> None:
    """Train what is missing of a sweep, through Ray; call again to go on where it stopped.

    Example: scaling sweep quickstart --workers 2

    Args:
        spec: A TOML file, or the name of a bundled spec such as quickstart.
        results: Folder in which the sweep's own results folder lies; ./results where not given.
            A local one, or a URI such as s3://bucket/results. Leave credentials to the environment
            (AWS_ACCESS_KEY_ID, ...): others on this machine can read command lines.
        scale: One of the spec's scales, such as gpu; as it is where not given.
        workers: Runs side by side.
        threads: CPU threads of each; the same number gives the same bits.
        device: 'auto' (a GPU where there is one), 'cpu' or 'cuda'.
        devices: Devices that train each run together: GPUs, or on a CPU processes.
        nodes: Machines of a Ray cluster that these are on, as many on each.
        shard: Share parameters, gradients and optimizer state among them (FSDP).
        retries: How often a run whose worker died is tried again.
        packs: Train runs of one shape together where that is measured to pay, and what runs have in
            common once. Changes the time, not the numbers.
        compile: Use torch.compile for shapes with minutes of training ahead, where measured to be faster.
            Changes last digits.
        address: Join a Ray cluster that runs already, from one of its machines: host:port, or auto.
        dry_run: Print sizes, FLOPs and the time that it would take, and train nothing.
        price: Dollars for an hour of this machine, for the dry run.
        in_process: One run after another in this process, without Ray.
        retry_failed: Train failed runs again.
        reuse: A results folder whose finished runs need no training here; may be given more than once.
        budget_flops: Begin no run that would take this call beyond so many FLOPs (6 N D).
        budget_hours: Begin no run after so many hours. Where a budget leaves runs, the exit code
            is 3 and the same command goes on.
        set: Change a field for every run, such as data.corpus=my.txt; may be given more than once.
            name=... renames the sweep and so its folder.
        allow_code: Allow this Python file, from outside the spec's folder, to be run for a model family
            or law that the spec names; may be given more than once.
        export: Hand every run over as it finishes; `scaling export` does so later.
    """
    ray = () if dry_run or in_process else ("ray",)
    require("torch", *ray, extra="train" if in_process else "sweep")
    from sweeps import Sweep, SweepOptions
    from sweeps.errors import BudgetSpent

    changes = settings(set) | ({} if scale is None else {"scale": scale})
    it = Sweep.from_toml(
        spec, results, changes=changes, filters=filter, tag=tag,
        allow_code=allow_code, on_code=note_code,
    )  # fmt: skip
    options = SweepOptions(
        workers=workers, threads=threads, device=device, devices=devices, nodes=nodes,
        shard=shard, retries=retries, packs=packs, compile=compile, address=address,
        in_process=in_process, retry_failed=retry_failed, reuse=reuse,
        budget_flops=budget_flops, budget_hours=budget_hours, export=export,
    )  # fmt: skip
    if dry_run:
        show(it.plan(options, price=price, measure=True))
        return
    try:
        runs = it.run(options)
    except BudgetSpent as spent:
        say(str(spent))
        raise SystemExit(3) from None
    mine = it.designed().runs.keys()
    failed = runs.run_id.isin(mine) & (runs.status == "failed")
    if failed.any():
        say(f"{failed.sum()} of {len(mine)} runs failed; --retry-failed trains them again.")
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
