"""The training state of one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(kw_only=True)
class State:
    """One row of a stack; a checkpoint stores its fields by name."""

    flat_p: Tensor
    """The parameters."""
    adamw: dict[str, Any]
    """State of the optimizer of any kind; empty before the first step."""
    loss_sum: float = 0.0
    """Sum of the training losses of all steps so far, in float64."""
    norm_sum: float = 0.0
    """Sum of the gradient norms of all steps so far, in float64."""
    noise_m: Tensor | None = None
    """State of scaling.training.noise.NoiseScale; None if the noise scale is not measured."""
    mean_p: Tensor | None = None
    """Running mean of the parameters; None if there is none."""

    def on_cpu(self) -> State:
        """Return a copy on the CPU, which takes no memory of a GPU."""
        return State(**{name: _on_cpu(value) for name, value in vars(self).items()})


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value
