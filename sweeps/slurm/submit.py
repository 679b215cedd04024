"""Submission of a sweep to Slurm."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.files import write_atomic
from sweeps.checks import check_joined, prepare
from sweeps.errors import StoreError
from sweeps.options import SweepOptions
from sweeps.slurm import jobs
from sweeps.slurm.script import script, share_of
from sweeps.slurm.settings import Settings, parse
from sweeps.sweep import Sweep


def submit(
    sweep: Sweep,
    slurm: Sequence[str],
    options: SweepOptions,
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Submit a sweep to Slurm with the options of sbatch in `slurm`, KEY=VALUE each.

    The script is written to the sweep's results folder and printed. Mistakes in the runs are found,
    and the token files of their texts are made, before it is submitted. With `dry_run`, the script
    is only printed. Raises ConfigError and StoreError.
    """
    settings = parse(slurm)
    _check(options)
    inside = _inside(options, settings)
    check_joined(inside, sweep.spec, sweep.store)
    folder = sweep.store.folder / jobs.FOLDER
    end = "%j" if settings.tasks is None else "%A_%a"
    log = f"{str(folder).replace('%', '%%')}/{sweep.spec.name}-{end}.log"
    text = script(
        spec=sweep.spec,
        options=options,
        settings=settings,
        words=sweep.resume_words(inside)[1:],
        log=log,
        submitted=shlex.join(
            [*sweep.resume_words(options), *(w for word in slurm for w in ("--slurm", word))]
        ),
    )
    if dry_run:
        say(text.rstrip("\n"))
        return
    if not _prepared(sweep, options, settings, say):
        return
    path = folder / f"{sweep.spec.name}.sh"
    with sweep.store.writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
        path.chmod(0o755)
    say(text)
    shown = sweep.store.shown(path)
    if shutil.which("sbatch") is None:
        raise StoreError(
            f"sbatch is not on this machine. The script is written: submit it with `sbatch {shown}`"
            " on a machine that has it and sees this folder."
        )
    job = jobs.submit(path)
    jobs.record(sweep.store, job)
    where = sweep.store.shown(sweep.store.folder)
    logs = folder / f"{path.stem}-{job}{'' if settings.tasks is None else '_*'}.log"
    say(f"submitted Slurm job {job}; script {shown}, log {sweep.store.shown(logs)}")
    say(f"`scaling status {where}` shows the sweep, `scaling cancel {where}` stops it")
    for hint in _hints(sweep, options, settings):
        say(hint)


def _check(options: SweepOptions) -> None:
    """Raise ConfigError for options that --slurm sets itself."""
    for name, given in (
        ("--address", options.address), ("--in-process", options.in_process),
        ("--join", options.join),
    ):  # fmt: skip
        if given:
            raise ConfigError(f"{name} is set by the script of --slurm; leave it out.")
    if options.workers < 1:
        raise ConfigError(f"workers={options.workers!r} must be a whole number of at least 1.")


def _inside(options: SweepOptions, settings: Settings) -> SweepOptions:
    """Return the options of the command in the script."""
    if settings.tasks is None:
        return replace(options, address="auto")
    default = SweepOptions()
    return replace(
        options,
        workers=default.workers,
        in_process=True,
        join=True,
        retry_failed=False,  # done once, before the tasks start
        reuse=(),
    )


def _prepared(
    sweep: Sweep, options: SweepOptions, settings: Settings, say: Callable[[str], None]
) -> bool:
    """Check the missing runs and make their token files. Return False if no run is missing."""
    if settings.tasks is not None:  # what the tasks must not do each
        sweep.known(options, Console(quiet=True))
    plan = sweep.plan(SweepOptions(in_process=True))
    again = options.retry_failed and "failed" in plan.finished.values()
    if not plan.missing and not again:
        say(f"{len(plan.runs)} runs, all finished: nothing to train.")
        return False
    rows = sweep.store.rows()
    missing, runner = plan.missing.values(), sweep.spec.runner
    prepare(sweep.spec.name, sweep.store, missing, rows, Execution(), runner=runner)
    return True


def _hints(sweep: Sweep, options: SweepOptions, settings: Settings) -> list[str]:
    """Return what in the request looks like a mistake."""
    value = settings.options.get("gpus-per-node") or ""
    number = value.rpartition(":")[2]
    if settings.tasks is not None or not number.isdecimal() or options.device == "cpu":
        return []
    given = settings.nodes * int(number)
    used = settings.nodes * share_of(sweep.spec, replace(options, device="cuda"), settings).gpus
    if used >= given:
        return []
    return [
        f"the allocation has {given} GPUs, of which --workers {options.workers} use {used}; give "
        "more workers, or ask for fewer GPUs"
    ]
