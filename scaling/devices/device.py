"""The torch device of an execution, and its precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from scaling.errors import ConfigError


def device_of(name: str, devices: int = 1, rank: int = 0) -> torch.device:
    """Return the torch device for `Execution.device`, for one of `devices` ranks on this machine.

    'auto' is a GPU if there is one. Raises ConfigError if there are no such devices.
    """
    if name == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ConfigError(f"device={name!r} is not a device; use auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name!r}, but torch finds no CUDA GPU here; use cpu or auto.")
    if devices == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(f"device={name!r} is one GPU, not devices={devices}; use device='cuda'.")
    if devices > (available := torch.cuda.device_count()):
        s = "" if available == 1 else "s"
        raise ConfigError(
            f"devices={devices}, but this machine has {available} GPU{s}; use at most that many, "
            "more nodes, or device='cpu'."
        )
    return torch.device("cuda", rank)


def precision(device: torch.device, bfloat16: bool) -> AbstractContextManager[Any]:
    """Return a context that autocasts to bfloat16, or one that does nothing.

    torch caches no compiled graph that contains an autocast, not even a disabled one.
    """
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()
