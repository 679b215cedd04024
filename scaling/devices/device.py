"""The torch device of an execution."""

from __future__ import annotations

import torch

from scaling.errors import ConfigError


def device_of(name: str, devices: int = 1, rank: int = 0) -> torch.device:
    """The torch device of Execution.device, of one rank of so many on this machine; 'auto' is a GPU
    where there is one. ConfigError where there are no such devices."""
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
    if devices > (here := torch.cuda.device_count()):
        raise ConfigError(
            f"devices={devices}, but this machine has {here} GPU{'' if here == 1 else 's'}; ask for as "
            "many, for more nodes, or for device='cpu'."
        )
    return torch.device("cuda", rank)
