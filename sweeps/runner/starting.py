"""How the command of a run starts: its words, its environment and its logs."""

from __future__ import annotations

import math
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path

from scaling.command_run import CommandRun, Value
from scaling.execution import Execution
from sweeps import gpus
from sweeps.runner.process import FOLDER, RUN_ID, Start
from sweeps.runner.runner import WORK, Runner, filled
from sweeps.runner.shell import filled_words


def words_of(run: CommandRun, values: Mapping[str, Value]) -> list[str]:
    """Return the words of a run's command. Raises ValueError as `filled_words` does."""
    return filled_words(run.command, values)


def shown(run: CommandRun, runner: Runner, folder: Path, execution: Execution) -> str:
    """Return the command of a run as a line of a shell, as it starts on the first node."""
    try:
        return shlex.join(words_of(run, values_of(run, runner, folder / WORK, execution)))
    except ValueError:  # it will not start
        return shlex.join(run.command)


def values_of(
    run: CommandRun, runner: Runner, work: Path, execution: Execution, node_rank: int = 0
) -> dict[str, Value]:
    """Return {placeholder: value} of a run, on one of its nodes."""
    return run.values | {
        "folder": str(work),
        "run_id": run.run_id,
        "devices": _devices(runner, execution),
        "threads": threads_of(runner, execution),
        "nodes": runner.nodes,
        "node_rank": node_rank,
        "master_addr": "127.0.0.1",
        "master_port": 0,
    }


def threads_of(runner: Runner, execution: Execution) -> int:
    return execution.threads if runner.cpus is None else max(1, int(runner.cpus))


def _devices(runner: Runner, execution: Execution) -> int:
    if runner.gpus is not None:
        return max(1, math.ceil(runner.gpus))
    return max(1, execution.devices // execution.nodes)


def start_of(
    run: CommandRun, runner: Runner, values: Mapping[str, Value], log: Path, *, resumed: bool
) -> Start:
    """Return what to start on one node, given the values of its placeholders.

    Its environment has only what the run adds to that of the node.
    """
    env = {key: filled(value, values) for key, value in runner.env.items()}
    env |= {RUN_ID: run.run_id, FOLDER: str(values["folder"]), "SCALING_RESUMED": str(int(resumed))}
    results = runner.results
    keep = [r"^[ \t]*\{.*\}[ \t\r]*$"] if results.stdout else []
    return Start(
        words=words_of(run, values),
        cwd=str(runner.workdir),
        env=env,
        log=str(log),
        limit=runner.log_bytes,
        keep=[*keep, *results.log.values()],
        watch=runner.failures.diverged,
        resumed=resumed,
    )


def log_of(log: Path, node_rank: int) -> Path:
    """Return the log of a node, beside that of the first."""
    return log if node_rank == 0 else log.with_name(f"{log.stem}.node{node_rank}{log.suffix}")


def free_port(address: str = "") -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.create_server((address, 0)) as server:
        return server.getsockname()[1]


def device_of(runner: Runner, execution: Execution) -> str:
    """Return the column `device` of a run."""
    threads = threads_of(runner, execution)
    if execution.device == "cpu" or runner.gpus == 0 or not gpus.visible():
        return f"cpu x{threads}"
    number, model = _devices(runner, execution), gpus.model_of(gpus.visible())
    return model if number == 1 else f"{number} x {model}"
