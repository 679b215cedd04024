"""Checks made before a command trains anything: the options of the call, the command itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from scaling.command_run import CommandRun
from scaling.errors import ConfigError
from sweeps import gpus
from sweeps.options import SweepOptions
from sweeps.runner.process import environment
from sweeps.runner.runner import PLACEHOLDERS, Runner, filled, placeholders

_OURS = ("micro_tokens", "recompute", "shard", "compile")
"""Options that tell our own trainer how to execute runs."""


def check_options(options: SweepOptions, runner: Runner) -> None:
    """Raise ConfigError for options that a command cannot follow, and for GPUs that are not
    there."""
    for name in _OURS:
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option} is for our own trainer; this spec trains with a command, which takes "
                "such options itself."
            )
    if runner.nodes > 1 and options.address is None:
        raise ConfigError(
            f"[runner] resources.nodes={runner.nodes}, but without an address the sweep has this "
            "machine only. Start Ray on the nodes and give --address host:port, or auto."
        )
    if runner.gpus and options.device == "cpu":
        raise ConfigError(
            f"[runner] resources.gpus={runner.gpus:g}, but --device cpu; leave one of them out."
        )
    if runner.gpus and options.address is None and runner.gpus > (there := len(gpus.visible())):
        raise ConfigError(
            f"[runner] resources.gpus={runner.gpus:g}, but this machine has {there or 'no'} GPUs. "
            "Ask for fewer, or give the --address of a Ray cluster that has them."
        )


def check_budget(runs: Iterable[CommandRun], options: SweepOptions) -> None:
    """Raise ConfigError for a budget of FLOPs if sizes are not known."""
    if options.budget_flops is not None and any(run.N is None for run in runs):
        raise ConfigError(
            f"--budget-flops {options.budget_flops:g} needs N of every run beforehand, to compute "
            "6 N D. Give N in [runner.derived], among the keys, or by `count`; or use "
            "--budget-hours."
        )


def check_commands(name: str, runs: Iterable[CommandRun], runner: Runner) -> None:
    """Raise ConfigError if the folder or the program of a command is not there."""
    if not runner.workdir.is_dir():
        raise ConfigError(f"{name}: [runner] workdir: {runner.workdir} is not a folder.")
    path = runner.env.get("PATH", environment()["PATH"])
    if placeholders(path):
        return
    known = dict.fromkeys(PLACEHOLDERS, 1)
    seen: set[str] = set()
    for run in runs:
        program = run.command[0]
        if set(placeholders(program)) & PLACEHOLDERS.keys():
            continue
        program = filled(program, {**known, **run.values})
        if program in seen:
            continue
        seen.add(program)
        if not _found(program, runner.workdir, path):
            where = runner.workdir if os.sep in program else "the PATH"
            raise ConfigError(
                f"{name}: [runner] command: the program {program!r} is not found in {where}, or "
                "cannot be executed."
            )


def _found(program: str, workdir: Path, path: str) -> bool:
    if os.sep in program:
        file = workdir / program
        return file.is_file() and os.access(file, os.X_OK)
    return shutil.which(program, path=path) is not None
