"""Pseudo-log-likelihoods of texts under an encoder (Salazar et al. 2020, arXiv 1910.14659).

An encoder gives no probability of a text. In its place stands the sum of the log-probabilities of
every token, masked alone, given all others on both sides. It ranks texts that differ in a few
tokens, such as the choices of an item; it has no meaning in bits per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaling.abilities.batches import Request
from scaling.abilities.item import Task
from scaling.abilities.predictor import Predictor
from scaling.data.masks import cls_token, mask_token
from scaling.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from scaling.model import Model
    from scaling.weights import Weights

_BATCH_TOKENS = 8192
"""Tokens of a forward pass."""


def pseudo_log_likelihoods(weights: Weights, texts: Sequence[str]) -> list[float]:
    """Return the pseudo-log-likelihood [nats] of each text under an encoder; 0 for an empty one.

    Raises ConfigError if the model is no encoder, or for a text that is longer than its context.
    """
    run = weights.run
    if not run.model.masked:
        raise ConfigError(
            f"run {run.run_id} predicts the next token (model.family={run.model.family!r}), so its "
            "texts have a likelihood; pseudo-log-likelihoods are those of encoders."
        )
    sequences = [weights.tokenizer.encode(text) for text in texts]
    for text, ids in zip(texts, sequences, strict=True):
        if len(ids) >= run.model.n_ctx:
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise ConfigError(
                f"text longer than the context: {shown!r} has {len(ids)} tokens, and the encoder "
                f"sees {run.model.n_ctx - 1} beside [CLS]; shorten it."
            )
    return sums_of_masked(weights.model, weights.flat_1p, sequences).tolist()


@torch.inference_mode()
def sums_of_masked(model: Model, flat_1p: Tensor, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the summed log-probability of the tokens of each sequence, each masked alone.

    Sequences of one length are computed together: padding would be seen.
    """
    vocab_size = model.vocab_size
    total = np.zeros(len(sequences))
    known: dict[tuple[int, ...], list[int]] = {}
    for number, ids in enumerate(sequences):
        known.setdefault(tuple(ids), []).append(number)
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for ids in known:
        by_length.setdefault(len(ids), []).append(ids)
    for length, group in by_length.items():
        if not length:
            continue
        at_once = max(1, _BATCH_TOKENS // (length * (length + 1)))
        for a in range(0, len(group), at_once):
            part = torch.tensor(group[a : a + at_once], device=flat_1p.device)
            rows = part.repeat_interleave(length, 0)
            number = torch.arange(len(rows), device=part.device)
            rows[number, number % length] = mask_token(vocab_size)
            cls = torch.full_like(rows[:, :1], cls_token(vocab_size))
            at_n = number * (length + 1) + 1 + number % length
            logits = model.logits(flat_1p, torch.cat([cls, rows], 1)[None], at_n)[0].float()
            log_p = logits.log_softmax(1).gather(1, part.reshape(-1, 1)).view(len(part), length)
            for ids, value in zip(
                group[a : a + at_once], log_p.double().sum(1).tolist(), strict=True
            ):
                total[known[ids]] = value
    return total


def masked_predictor(weights: Weights) -> Predictor:
    """Return what scores items by the pseudo-log-likelihoods of an encoder."""
    model, flat_1p, end_of_text = weights.model, weights.flat_1p, weights.tokenizer.end_of_text

    def pseudo(requests: Sequence[Request]) -> np.ndarray:
        whole = [(*r.context, *r.continuation) for r in requests]
        return sums_of_masked(
            model, flat_1p, [ids[1:] if ids[0] == end_of_text else ids for ids in whole]
        )

    def logits(*_: Tensor) -> Tensor:
        raise AssertionError("an encoder has no logits of the next token")

    return Predictor(
        name=f"run {weights.run.run_id}",
        logits=logits,
        pseudo=pseudo,
        encode=weights.tokenizer.encode,
        tokenizer=f"{weights.tokenizer.hash} of encoders",
        vocab_size=weights.tokenizer.vocab_size,
        end_of_text=end_of_text,
        n_ctx=weights.run.model.n_ctx - 2,
        device=flat_1p.device,
    )


def check_pairs(task: Task, shots: int, name: str) -> None:
    """Raise ConfigError if the items of a task offer no choice, or follow examples."""
    if shots or any(len(item.choices) < 2 for item in task.items):
        what = f"{shots} shots of task {task.name!r}" if shots else f"task {task.name!r}"
        raise ConfigError(refusal(f"{what} asks for the next token", name))


def refusal(what: str, name: str) -> str:
    """Return the message that an encoder cannot do what a task asks."""
    return (
        f"{what}, and {name} is an encoder, which predicts masked tokens. Tasks of two or more "
        "choices without examples are scored by pseudo-log-likelihood; leave the others out of "
        "--tasks and --shots, or choose a decoder with --run."
    )
