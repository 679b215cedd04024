"""Slurm jobs of a results folder: the last one submitted, and how to end them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scaling.files import write_atomic
from sweeps.errors import StoreError
from sweeps.folder import Folder
from sweeps.result import to_json

FOLDER = "slurm"
"""Folder of the scripts and logs in a results folder."""

_SECONDS = 30.0
"""Seconds that a command of Slurm may take."""


def record(folder: Folder, job: str) -> None:
    """Remember the job that was submitted last. Raises StoreError."""
    path = folder.folder / FOLDER / "job.json"
    with folder.writing(path):
        write_atomic(path, to_json({"job": job}))


def waiting(job: str) -> bool:
    """Return whether a job, or a task of its array, waits to start; False if Slurm is not here."""
    if not job or not shutil.which("squeue"):
        return False
    words = ["squeue", "--noheader", f"--jobs={job}", "--states=PENDING", "--format=%i"]
    done = call(words)
    return done.returncode == 0 and bool(done.stdout.strip())


def withdraw(job: str) -> None:
    """Cancel what has not started of a job. Raises StoreError."""
    _cancel(["--state=PENDING", job])


def stop(jobs: Sequence[str], *, now: bool) -> None:
    """Let running jobs write checkpoints and end, or end them `now`. Raises StoreError."""
    if not shutil.which("scancel"):
        how = "" if now else "--batch --signal=TERM "
        raise StoreError(
            f"the sweep runs in Slurm, which is not on this machine: run `scancel {how}"
            f"{' '.join(jobs)}` where it is."
        )
    _cancel([*([] if now else ["--batch", "--signal=TERM"]), *jobs])


def submit(path: Path) -> str:
    """Submit a script, and return the id of its job. Raises StoreError."""
    done = call(["sbatch", "--parsable", str(path)])
    job = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not re.fullmatch("[0-9]+", job):
        why = done.stderr.strip().splitlines() or ["it printed no job id"]
        raise StoreError(
            f"sbatch did not take the script {path}: {why[-1].removeprefix('sbatch: error: ')}. "
            "Change what --slurm asks for, or edit the script and submit it with sbatch."
        )
    return job


def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm and return its output. Raises StoreError if it does not answer."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"{words[0]} did not answer: {error}") from None


def _cancel(words: Sequence[str]) -> None:
    done = call(["scancel", *words])
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or ["no message"]
        raise StoreError(f"scancel failed: {why[-1]}")
