"""The LSTM baseline (Hochreiter & Schmidhuber 1997; Kaplan et al. 2020, Fig. 7).

It has n_layer layers of width d_model, whose state is zero at the beginning of every context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scaling.model import Model, family
from scaling.model_config import ModelConfig


@family
class LSTM(Model):
    """torch's LSTM, applied to one model of the pack after another, as it has no batched kernel."""

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        super().__init__(model, vocab_size)
        with torch.device("meta"):  # the layout only; every call passes the parameters
            self.layers = nn.LSTM(model.d_model, model.d_model, model.n_layer, batch_first=True)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        d = self.model.d_model
        shapes: dict[str, tuple[int, ...]] = {}
        for i in range(self.model.n_layer):
            shapes |= {
                f"{i}.input.weight": (4 * d, d),
                f"{i}.recurrent.weight": (4 * d, d),
                f"{i}.bias": (4 * d,),
            }
        return shapes

    def std(self, name: str) -> float:
        """Return 0.02 for embeddings; for matrices the std of torch's initialisation, U(-1, 1) /
        sqrt(d_model)."""
        width = self.model.mup_base_width or self.model.d_model
        return (3 * width) ** -0.5 if self.kind(name) == "matrix" else 0.02

    def matrices_of(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        return tensor.chunk(4) if self.kind(name) == "matrix" else [tensor]  # one per gate

    def hidden(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        x_kbtd = self.embed(p, tokens_kbt)
        # Under autocast to any dtype, cuDNN would compute in float16.
        exact = torch.autocast("cuda", enabled=False) if x_kbtd.is_cuda else nullcontext()
        rows = []
        for k, x_btd in enumerate(x_kbtd):
            weights = {}
            for i in range(self.model.n_layer):
                weights |= {
                    f"weight_ih_l{i}": p[f"{i}.input.weight"][k],
                    f"weight_hh_l{i}": p[f"{i}.recurrent.weight"][k],
                    f"bias_ih_l{i}": p[f"{i}.bias"][k],  # torch's second bias adds nothing
                    f"bias_hh_l{i}": torch.zeros_like(p[f"{i}.bias"][k]),
                }
            with exact:
                y_btd, _ = functional_call(self.layers, weights, (x_btd,))
            rows.append(y_btd.flatten(0, 1))
        return torch.stack(rows)
