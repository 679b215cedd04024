"""The loss of a model on any text, per token and per byte, so that tokenizers can be compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scaling.abilities.batches import Request, arrange, log_probabilities
from scaling.abilities.predictor import predictor
from scaling.errors import ConfigError
from scaling.weights import Weights


def text_loss(weights: Weights, *documents: str) -> dict[str, float]:
    """Return the loss of a model on text: L [nats per token], bits_per_byte, tokens and bytes.

    A document is divided into contexts of n_ctx tokens, each of which begins with the last token
    of the one before; the first begins with end-of-text. Raises ConfigError for an empty text.
    """
    ids = [weights.tokenizer.encode(document) for document in documents]
    tokens = sum(map(len, ids))
    if not tokens:
        raise ConfigError("the text is empty; it has no loss.")
    pairs = itertools.chain.from_iterable(windows(weights, some) for some in ids)
    total = -sum(log_p for log_p, _ in log_likelihoods(weights, pairs))
    size = sum(len(document.encode("utf-8", "replace")) for document in documents)
    return {
        "L": total / tokens,
        "bits_per_byte": total / size / math.log(2),
        "tokens": tokens,
        "bytes": size,
    }


def windows(weights: Weights, ids: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (context, continuation) so that every id is predicted once."""
    n_ctx, before = weights.model.model.n_ctx, weights.tokenizer.end_of_text
    for a in range(0, len(ids), n_ctx):
        yield [before], list(ids[a : a + n_ctx])
        before = ids[min(a + n_ctx, len(ids)) - 1]


def log_likelihoods(
    weights: Weights, pairs: Iterable[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Return the log-likelihood [nats] of each continuation after its context, and whether every
    token of it is the most likely one.

    A context is cut on the left to fit into n_ctx. Raises ConfigError if a context is empty or a
    continuation longer than n_ctx.
    """
    model = predictor(weights)
    requests = []
    for context, continuation in pairs:
        if len(continuation) > model.n_ctx or not context:
            raise ConfigError(
                f"a continuation of {len(continuation)} tokens after {len(context)} does not fit "
                f"into the context of {model.n_ctx} tokens (model.n_ctx)."
            )
        room = model.n_ctx + 1 - len(continuation)
        requests.append(Request(tuple(context[-room:]), tuple(continuation)))
    asked = [request for request in requests if request.continuation]
    if not asked:
        return [(0.0, True)] * len(requests)
    arranged = arrange(asked, weights.model.vocab_size)
    log_p, best = log_probabilities(model, arranged)
    starts = np.concatenate([[0], arranged.ends[:-1]])
    found = zip(np.add.reduceat(log_p, starts), np.logical_and.reduceat(best, starts), strict=True)
    scores = ((float(total), bool(exact)) for total, exact in found)
    return [next(scores) if request.continuation else (0.0, True) for request in requests]
