"""The GPUs of this machine, found without torch.

torch takes seconds to import, and a process that has initialised CUDA holds memory on its GPU.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that CUDA shows to a process."""

_SECONDS = 30.0
"""Seconds that nvidia-smi may take to answer; without a daemon, it first wakes every GPU."""

_GPU = re.compile(r"GPU (\d+): (.+?) \(UUID: (GPU-[\w-]+)\)")
_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[\w/-]+)\)")
_DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG instance of one."""

    id: str
    """What CUDA_VISIBLE_DEVICES calls it."""
    model: str
    """Its name, as torch gives it."""


def visible() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use, in CUDA's order."""
    return _visible(os.environ.get(VISIBLE))


@functools.cache
def _visible(names: str | None) -> tuple[Gpu, ...]:
    if names is not None and not names.strip():
        return ()
    return selected(_listed(), names)


def selected(listing: str, names: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs in the output of `nvidia-smi -L` that CUDA_VISIBLE_DEVICES=`names` shows.

    Without `names`, that is every GPU. Of a GPU that is divided (MIG), CUDA then shows the first
    instance only, and none of the other GPUs.
    """
    whole: list[tuple[Gpu, str]] = []
    instances: list[Gpu] = []
    for line in listing.splitlines():
        if found := _GPU.match(line):
            whole.append((Gpu(found[1], found[2]), found[3]))
        elif (found := _INSTANCE.match(line)) and whole:
            instances.append(Gpu(found[2], f"{whole[-1][0].model} MIG {found[1]}"))
    if names is None:
        return (instances[0],) if instances else tuple(gpu for gpu, _ in whole)
    chosen: list[Gpu] = []
    for name in map(str.strip, names.split(",")):
        matches = [gpu for gpu, uuid in whole if name == gpu.id or _begins(uuid, name, "GPU-")]
        matches += [gpu for gpu in instances if _begins(gpu.id, name, "MIG-")]
        if len(matches) != 1:  # CUDA ignores an unknown device and all that follow it
            break
        chosen.append(Gpu(name, matches[0].model))
    return tuple(chosen)


def _begins(uuid: str, name: str, kind: str) -> bool:
    return name.startswith(kind) and uuid.startswith(name)


def _listed() -> str:
    """Return the output of `nvidia-smi -L`, or the same from the driver's files."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        return done.stdout
    lines = []
    with contextlib.suppress(OSError):
        for i, folder in enumerate(sorted(_DRIVER.iterdir())):
            text = (folder / "information").read_text()
            model = re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE)
            uuid = re.search(r"^GPU UUID:\s*(GPU-[\w-]+)", text, re.MULTILINE)
            if model and uuid:
                lines.append(f"GPU {i}: {model[1]} (UUID: {uuid[1]})")
    return "\n".join(lines)


def model_of(gpus: Sequence[Gpu]) -> str:
    """Return the model of the GPUs; the different models, joined, if they are of several."""
    return " + ".join(sorted({gpu.model for gpu in gpus}))


def workers_per_gpu(workers: int, gpus: float) -> int:
    """Return the least number of workers per GPU such that all of them run at once."""
    return math.ceil(workers / gpus) if gpus else 0
