"""What scoring needs of a trained model, whatever its family and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scaling.weights import check_predicts_next

if TYPE_CHECKING:
    from scaling.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model that predicts the next token, with its tokenizer."""

    name: str
    """What messages call the model, such as the id of its run."""
    logits: Callable[[Tensor, Tensor], Tensor]
    """Maps tokens [B, T] and positions [n] among all B T to next-token logits [n, V]."""
    continued: Callable[..., Tensor] | None = None
    """Maps beginnings [B, T], rests [R, T], the lengths of both, the beginning that each rest
    follows and positions [n] among all B T and R T to logits [n, V]; None if the model keeps no
    keys and values."""
    pseudo: Callable[[Sequence[Any]], np.ndarray] | None = None
    """Maps requests to pseudo-log-likelihoods [nats] of context and continuation, for an encoder
    (scaling/abilities/pseudo.py); None if the model predicts the next token."""
    encode: Callable[[str], list[int]]
    """Maps text to token ids, without end-of-text."""
    tokenizer: str
    """Hash of the tokenizer: equal ones encode alike."""
    vocab_size: int
    end_of_text: int
    """Id of the token that stands for an empty context."""
    n_ctx: int
    """Most tokens of an input."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009


def predictor(weights: Weights) -> Predictor:
    """Return the predictor of a run's weights. Raises ConfigError for an encoder."""
    check_predicts_next(weights, "score text by its next tokens")
    model, flat_1p = weights.model, weights.flat_1p

    named = model.named(flat_1p)

    def logits(tokens_bt: Tensor, at_n: Tensor) -> Tensor:
        return model.logits(flat_1p, tokens_bt[None], at_n)[0]

    def continued(
        shared_bt: Tensor,
        rest_rt: Tensor,
        lengths_b: list[int],
        lengths_r: list[int],
        beginning_r: list[int],
        at_n: Tensor,
    ) -> Tensor:
        cache = model.cache(flat_1p, len(shared_bt), shared_bt.shape[1] + rest_rt.shape[1])
        assert cache is not None
        shared_nd = cache.states(shared_bt, lengths_b)
        cache.select(beginning_r)
        states_nd = torch.cat([shared_nd, cache.states(rest_rt, lengths_r)])
        return model.next_logits(named, states_nd[at_n])

    keeps = model.cache(flat_1p, 1, 1) is not None
    return Predictor(
        name=f"run {weights.run.run_id}",
        logits=logits,
        continued=continued if keeps else None,
        encode=weights.tokenizer.encode,
        tokenizer=weights.tokenizer.hash,
        vocab_size=weights.tokenizer.vocab_size,
        end_of_text=weights.tokenizer.end_of_text,
        n_ctx=weights.run.model.n_ctx,
        device=flat_1p.device,
    )
