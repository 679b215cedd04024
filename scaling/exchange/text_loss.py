"""The loss of a model on any text, per token and per byte, so that tokenizers can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from scaling.errors import ConfigError
from scaling.weights import Weights

_BATCH_TOKENS = 8192


def text_loss(weights: Weights, text: str) -> dict[str, float]:
    """Return the loss of a model on a text: L [nats per token], bits_per_byte, tokens and bytes.

    The text is divided into contexts of n_ctx tokens, each of which begins with the last token of
    the one before; the first begins with end-of-text. Raises ConfigError for an empty text.
    """
    ids = weights.tokenizer.encode(text)
    if not ids:
        raise ConfigError("the text is empty; it has no loss.")
    total = sum(-x for x, _ in log_likelihoods(weights, windows(weights, ids)))
    size = len(text.encode("utf-8", "replace"))
    return {
        "L": total / len(ids),
        "bits_per_byte": total / size / math.log(2),
        "tokens": len(ids),
        "bytes": size,
    }


def windows(weights: Weights, ids: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (context, continuation) so that every id is predicted once."""
    n_ctx, before = weights.model.model.n_ctx, weights.tokenizer.end_of_text
    for a in range(0, len(ids), n_ctx):
        yield [before], list(ids[a : a + n_ctx])
        before = ids[min(a + n_ctx, len(ids)) - 1]


@torch.no_grad()
def log_likelihoods(
    weights: Weights, pairs: Iterator[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Return the log-likelihood [nats] of each continuation after its context, and whether every
    token of it is the most likely one.

    A context is cut on the left to fit into n_ctx. Sequences of like length are computed together,
    padded on the right, where a causal model does not look. Raises ConfigError if a continuation
    is longer than n_ctx or a context is empty.
    """
    model, n_ctx = weights.model, weights.model.model.n_ctx
    items = list(pairs)
    for context, continuation in items:
        if len(continuation) > n_ctx or not context:
            raise ConfigError(
                f"a continuation of {len(continuation)} tokens after {len(context)} does not fit "
                f"into the context of {n_ctx} tokens (model.n_ctx)."
            )
    rows = [(context + continuation)[-(n_ctx + 1) :] for context, continuation in items]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
    device = weights.flat_1p.device
    while order:
        length = len(rows[order[-1]]) - 1  # the longest left comes first
        size = max(1, _BATCH_TOKENS // max(length, 1))
        some = [order.pop() for _ in range(min(size, len(order)))]
        if length < 1:
            continue
        tokens_bt = torch.full((len(some), length), weights.tokenizer.end_of_text)
        for tokens_t, i in zip(tokens_bt, some, strict=True):
            tokens_t[: len(rows[i]) - 1] = torch.tensor(rows[i][:-1])
        logits_nv = model.logits(weights.flat_1p, tokens_bt[None].to(device))[0]
        log_p_btv = logits_nv.float().log_softmax(1).view(*tokens_bt.shape, -1)
        for log_p_tv, i in zip(log_p_btv, some, strict=True):
            targets = torch.tensor(items[i][1], device=device)
            end = len(rows[i]) - 1
            log_p_cv = log_p_tv[end - len(targets) : end]
            chosen = log_p_cv.gather(1, targets[:, None]).sum().item()
            found[i] = chosen, bool((log_p_cv.argmax(1) == targets).all())
    return found
