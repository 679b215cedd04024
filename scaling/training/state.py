"""The state of a row of the stacked tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class State:
    """What a row of the stacked tensors holds."""

    flat_p: Tensor
    adamw: dict[str, Any]
    loss_sum: float = 0.0
    """Of all steps so far, in float64."""
    norm_sum: float = 0.0
    """Of the gradients of all steps so far."""
    noise_m: Tensor | None = None
    """Of scaling.training.noise.NoiseScale, where the noise scale is measured."""
    mean_p: Tensor | None = None
    """Running mean of the parameters, where there is one."""

    def clone(self) -> State:
        return State(**{name: _cloned(value) for name, value in vars(self).items()})


def _cloned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
