"""The torch device of an execution: its precision, copies to it, and waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

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


def choose_products(device: torch.device, precision: str) -> None:
    """Let this process multiply float32 matrices on a GPU in TF32 if `precision` is 'tf32', and in
    full otherwise.

    Raises ConfigError for 'tf32' on a device that has no such products. The choice includes cuDNN,
    which would use TF32 by default.
    """
    check_precision(device, precision)
    tf32 = precision == "tf32"
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


def check_precision(device: torch.device, precision: str) -> None:
    """Raise ConfigError for a precision that a device does not have."""
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"precision='tf32' needs a CUDA GPU, and this run would train on {device}; use "
            "precision='float32', or a GPU."
        )


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on a GPU, so that the clock counts it; elsewhere do nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(x_kp: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return a copy of the chosen rows, without waiting for the work queued on the device."""
    return x_kp.index_select(0, send(torch.tensor(chosen), x_kp.device))


def send_each(array: np.ndarray, device: torch.device) -> list[Tensor]:
    """Copy an array to `device` at once, as :func:`send` does; return its parts along the first
    axis."""
    if device.type == "cpu":
        return [torch.from_numpy(part) for part in array]
    return list(send(torch.from_numpy(array), device).unbind())


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to `device`, without waiting for the work queued there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
