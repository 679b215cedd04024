"""The script that Slurm runs: a header for sbatch, and one of two bodies in bash."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.leases import MARK
from sweeps.options import SweepOptions
from sweeps.slurm.settings import Settings
from sweeps.spec import Spec

_WARNING_SECONDS = 120
"""Seconds before the end of its time at which Slurm warns the script."""

_KEPT_VARIABLES = ("PYTHONPATH", "SCALING_CACHE", "HF_HOME")
"""Environment variables that are written into the script, so that it works wherever it is
submitted."""

_GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task", "gres")

_STOP = """\
# Slurm warns with USR1 before the time is up; scancel and preemption send TERM. Both make the
# sweep write checkpoints and end. After USR1, the job is queued again and resumes.
stop="" child=""
on_signal() {{
    stop=$1
    [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
}}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM INT

# Start the sweep, wait for its end through all signals, and end with its exit code.
sweep() {{
    [ -z "$stop" ] || exit 130
    "$@" &
    child=$!
    while kill -0 "$child" 2> /dev/null; do wait "$child"; done
    wait "$child"
    code=$?
    child=""
    if [ "$stop" = USR1 ] && [ "$code" -eq 130 ]; then
        trap '' TERM USR1
        {requeue}
    fi
    exit "$code"
}}
"""

_REQUEUE = """\
echo "The time is up: job $SLURM_JOB_ID is queued again."
        scontrol requeue "$SLURM_JOB_ID\""""

_NO_REQUEUE = """\
echo "The time is up. Submit this script again to resume.\""""

_CLUSTER = """\
# One Ray cluster: its head on this node, the others join. Only this job knows its token.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
resources=(--num-cpus="$cpus" ${SLURM_GPUS_ON_NODE:+--num-gpus="$SLURM_GPUS_ON_NODE"})
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
others=$((${#nodes[@]} - 1))
head_pid="" others_pid=""
tear_down() {  # the others first, because they ask the head to let them go
    trap '' TERM USR1
    for pid in $others_pid $head_pid; do
        kill "$pid" 2> /dev/null
        wait "$pid"
    done
    rm -rf "$RAY_TMPDIR"
}
trap tear_down EXIT
rm -rf "$RAY_TMPDIR"
mkdir -m 700 "$RAY_TMPDIR" || exit 1
ray=("$python" -m ray.scripts.scripts start --block --disable-usage-stats)
"${ray[@]}" --head --port=$((20000 + SLURM_JOB_ID % 20000)) --include-dashboard=false \\
    "${resources[@]}" > /dev/null &
head_pid=$!
head=$("$python" -m sweeps.slurm.cluster head) || exit 1
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --cpus-per-task="$cpus" \\
        --exclude="${nodes[0]}" --kill-on-bad-exit=0 bash -c 'trap : TERM
            mkdir -p -m 700 "$RAY_TMPDIR" && [ -O "$RAY_TMPDIR" ] && "$@"
            rm -rf "$RAY_TMPDIR"' bash \\
        "${ray[@]}" --address="$head" "${resources[@]}" > /dev/null &
    others_pid=$!
fi
"$python" -m sweeps.slurm.cluster nodes "${#nodes[@]}" || exit 1
"""


@dataclass(frozen=True)
class Share:
    """What a sweep needs of each node."""

    cpus: int
    gpus: int
    """0 if the user must ask for GPUs, because they may not be wanted."""


def script(
    *,
    spec: Spec,
    options: SweepOptions,
    settings: Settings,
    words: Sequence[str],
    log: str,
    submitted: str,
) -> str:
    """Return the script whose job runs the command `words`.

    `log` is its file of output, with sbatch's patterns; `submitted` is the user's command.
    """
    header = _header(spec, settings, share_of(spec, options, settings), log)
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if os.environ.get(name)}
    path = Path(sys.executable).parent
    python = shlex.quote(sys.executable)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in header),
        "",
        f"# Trains the missing runs of {spec.name}. Written by the following command. Submit this",
        "# script again, or run the command again, to resume.",
        f"#   {submitted}",
        "",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        f'export {MARK}=1 PATH={shlex.quote(str(path))}:"$PATH"',
        *(f"export {name}={shlex.quote(value)}" for name, value in kept.items()),
        f"python={python}",
        "",
        _STOP.format(requeue=_NO_REQUEUE if settings.has("no-requeue") else _REQUEUE),
    ]
    if settings.tasks is None:
        lines.append(_CLUSTER)
    else:
        lines.append("# Each task takes runs that no other task has taken.")
    lines.append(f'sweep "$python" -m scaling.cli {shlex.join(words)}')
    return "\n".join(lines) + "\n"


def share_of(spec: Spec, options: SweepOptions, settings: Settings) -> Share:
    """Return the CPUs and GPUs that each node needs for the runs that train on it at once."""
    runner = spec.runner
    nodes = max(1, runner.nodes if runner else options.nodes)
    devices = math.ceil(options.devices / options.nodes)
    cpus: float = options.threads * devices
    gpus: float = devices if options.device == "cuda" else 0
    if runner is not None:
        cpus = cpus if runner.cpus is None else runner.cpus
        gpus = gpus if runner.gpus is None else runner.gpus
    runs = 1
    if settings.tasks is None:
        runs = math.ceil(options.workers * nodes / settings.nodes)
    return Share(cpus=max(1, math.ceil(runs * cpus)), gpus=math.ceil(runs * gpus))


def _header(spec: Spec, settings: Settings, share: Share, log: str) -> list[str]:
    """Return the options of sbatch: ours, and then the user's, which take their place."""
    options: dict[str, str | None] = {
        "job-name": spec.name,
        "output": log,
        "open-mode": "append",
        "nodes": str(settings.nodes),
        "ntasks-per-node": "1",
        "signal": f"B:USR1@{_WARNING_SECONDS}",
    }
    if settings.tasks is not None:
        limit = f"%{settings.at_once}" if settings.at_once else ""
        options["array"] = f"0-{settings.tasks - 1}{limit}"
    if not settings.has("no-requeue"):
        options["requeue"] = None
    if not settings.has("exclusive", "cpus-per-gpu"):
        options["cpus-per-task"] = str(share.cpus)
    if share.gpus and not settings.has(*_GPU_OPTIONS):
        options["gpus-per-node"] = str(share.gpus)
    options |= settings.options
    return [
        f"--{key}" if value is None else f"--{key}={_quoted(value)}"
        for key, value in options.items()
    ]


def _quoted(value: str) -> str:
    """Return a value as sbatch reads it in a script."""
    return f'"{value}"' if any(c.isspace() or c in "'#\\" for c in value) else value
