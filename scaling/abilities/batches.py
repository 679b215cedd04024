"""Log-probabilities of many continuations in few forward passes.

All continuations of all tasks are known beforehand. Inputs that are beginnings of others need no
pass of their own, so a context that several continuations share is read once, if they are single
tokens, and no input is read twice. Inputs of like length form a batch; the output layer is applied
only where a continuation is read. Padding follows the tokens, which a causal model does not see.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scaling import progress
from scaling.abilities.predictor import Predictor

BATCH_TOKENS = 8192
"""Most tokens of a forward pass, padding included: bounds the memory of activations."""

BATCH_LOGITS = 1 << 23
"""Most logits of a forward pass."""


@dataclass(frozen=True)
class Request:
    """A continuation whose log-probability is wanted."""

    context: tuple[int, ...]
    """At least one token."""
    continuation: tuple[int, ...]
    """At least one token."""


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward pass, and what is read from it."""

    tokens_bt: np.ndarray
    rows_r: np.ndarray
    """Positions among all B T whose next token is read."""
    queries_q: np.ndarray
    """Row of each query, an index of `rows_r`."""
    targets_q: np.ndarray
    """Token whose probability each query asks for."""


@dataclass(frozen=True)
class Batches:
    """A fixed set of requests, arranged for forward passes; serves any model of one tokenizer."""

    batches: tuple[Batch, ...]
    query_of_token: np.ndarray
    """Query that answers each token of each request, the requests one after another."""
    ends: np.ndarray
    """Index in `query_of_token` at which each request ends."""

    @property
    def tokens(self) -> int:
        """Tokens of all forward passes, padding included."""
        return sum(batch.tokens_bt.size for batch in self.batches)


def arrange(
    requests: Sequence[Request], vocab_size: int, batch_tokens: int = BATCH_TOKENS
) -> Batches:
    """Arrange requests for forward passes of at most `batch_tokens` tokens (at least one input)."""
    inputs = [_packed((*r.context, *r.continuation[:-1])) for r in requests]
    kept, place = _longest(inputs)
    order = sorted(range(len(kept)), key=lambda i: (len(kept[i]), kept[i]))
    new = np.empty(len(kept), dtype=np.int64)
    new[order] = np.arange(len(kept))
    sequences = [np.frombuffer(kept[i], dtype=">u4").astype(np.int64) for i in order]

    lengths = np.array([len(r.continuation) for r in requests], dtype=np.int64)
    ends = lengths.cumsum()
    sequence_of_token = np.repeat(new[place], lengths)
    first = np.array([len(r.context) - 1 for r in requests], dtype=np.int64)
    position = np.repeat(first - ends + lengths, lengths) + np.arange(lengths.sum())
    target = np.fromiter(
        itertools.chain.from_iterable(r.continuation for r in requests), np.int64, lengths.sum()
    )
    # Equal queries are answered once, so that equal continuations get equal numbers, bit for bit.
    keys = np.stack([sequence_of_token, position, target])
    unique, query_of_token = np.unique(keys, axis=1, return_inverse=True)
    batches, begin = [], 0
    rows = np.bincount(np.unique(unique[:2], axis=1)[0], minlength=len(sequences)).tolist()
    widths = [len(sequence) for sequence in sequences]
    for chunk in _chunks(widths, rows, batch_tokens, max(1, BATCH_LOGITS // vocab_size)):
        width = len(sequences[chunk[-1]])
        tokens_bt = np.zeros((len(chunk), width), dtype=np.int64)
        for row, i in enumerate(chunk):
            tokens_bt[row, : len(sequences[i])] = sequences[i]
        end = int(np.searchsorted(unique[0], chunk[-1], side="right"))
        at = (unique[0, begin:end] - chunk[0]) * width + unique[1, begin:end]
        rows_r, queries_q = np.unique(at, return_inverse=True)
        batches.append(Batch(tokens_bt, rows_r, queries_q.reshape(-1), unique[2, begin:end]))
        begin = end
    return Batches(tuple(batches), query_of_token.reshape(-1), ends)


@torch.inference_mode()
def log_probabilities(
    model: Predictor, arranged: Batches, doing: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probability [nats] of every token of every request, the requests one after
    another, and whether each token is the most likely one.

    `doing` is what scaling.progress announces.
    """
    found, best = [], []
    for number, batch in enumerate(arranged.batches):
        if doing:
            progress.step(doing, f"{number} of {len(arranged.batches)} batches")
        tokens_bt = torch.from_numpy(batch.tokens_bt).to(model.device)
        logits_rv = model.logits(tokens_bt, torch.from_numpy(batch.rows_r).to(model.device)).float()
        row_q, target_q = (
            torch.from_numpy(x).to(model.device) for x in (batch.queries_q, batch.targets_q)
        )
        log_z_r = logits_rv.logsumexp(1)
        found.append((logits_rv[row_q, target_q] - log_z_r[row_q]).double().cpu().numpy())
        best.append((logits_rv.argmax(1)[row_q] == target_q).cpu().numpy())
    of_token = arranged.query_of_token
    return np.concatenate(found)[of_token], np.concatenate(best)[of_token]


def _packed(tokens: tuple[int, ...]) -> bytes:
    """Return tokens as bytes, which sort, hash and compare quickly."""
    return np.array(tokens, dtype=">u4").tobytes()


def _longest(inputs: Sequence[bytes]) -> tuple[list[bytes], np.ndarray]:
    """Return the inputs that are not the beginning of another, and the index among them of the one
    that begins with each input."""
    kept: list[bytes] = []
    place: dict[bytes, int] = {}
    # In descending order, what begins with an input comes before it, the last one right before.
    for packed in sorted(set(inputs), reverse=True):
        if not kept or not kept[-1].startswith(packed):
            kept.append(packed)
        place[packed] = len(kept) - 1
    return kept, np.array([place[packed] for packed in inputs], dtype=np.int64)


def _chunks(
    lengths: Sequence[int], rows: Sequence[int], most_tokens: int, most_rows: int
) -> Iterator[range]:
    """Yield ranges of the inputs, whose lengths ascend, that fit into one forward pass."""
    start = read = 0
    for i, (length, n) in enumerate(zip(lengths, rows, strict=True)):
        read += n
        if i > start and ((i - start + 1) * length > most_tokens or read > most_rows):
            yield range(start, i)
            start, read = i, n
    if start < len(lengths):
        yield range(start, len(lengths))
