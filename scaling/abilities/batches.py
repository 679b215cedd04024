"""Log-probabilities of many continuations in few forward passes.

All continuations of all tasks are known beforehand. No input is read twice, and one that is the
beginning of another needs no pass of its own. Inputs that begin alike, such as the choices of an
item, form a group: a decoder reads their common beginning once and keeps its keys and values; other
families read whole inputs. Groups of like length form a batch. The output layer is applied only
where a continuation is read. Padding follows the tokens, where a causal model does not see it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scaling import progress
from scaling.abilities.predictor import Predictor

BATCH_TOKENS = 2048
"""Most tokens of a forward pass, padding included: activations that fit into a cache of the CPU."""

BATCH_LOGITS = 1 << 23
"""Most logits of a forward pass."""

_TYPE, _WIDTH = ">u4", 4
"""How token ids are packed into bytes, and the bytes of each."""


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

    shared_bt: np.ndarray
    """Beginnings that inputs share, or whole inputs."""
    lengths_b: list[int]
    """Tokens of each beginning; the rest is padding."""
    rest_rt: np.ndarray
    """What follows the beginnings; none in a batch of whole inputs."""
    lengths_r: list[int]
    beginning_r: list[int]
    """Index in `shared_bt` of what each rest follows."""
    rows_n: np.ndarray
    """Positions whose next token is read: among all B T, followed by all R T."""
    queries_q: np.ndarray
    """Row of each query, an index of `rows_n`."""
    targets_q: np.ndarray
    """Token whose probability each query asks for."""

    @property
    def tokens(self) -> int:
        """Tokens of the pass, padding included."""
        return self.shared_bt.size + self.rest_rt.size


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
        return sum(batch.tokens for batch in self.batches)


@dataclass(frozen=True)
class _Group:
    """Inputs with a common beginning; a single input is its own beginning, without a rest."""

    beginning: bytes
    rests: tuple[bytes, ...]

    @property
    def widths(self) -> tuple[int, int]:
        """Tokens of the beginning and of the longest rest."""
        return len(self.beginning) // _WIDTH, max(map(len, self.rests), default=0) // _WIDTH


def arrange(
    requests: Sequence[Request],
    vocab_size: int,
    *,
    share: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> Batches:
    """Arrange requests for forward passes of at most `batch_tokens` tokens (at least one group).

    With `share`, inputs that begin alike are divided into their beginning and their rests.
    """
    inputs = [_packed((*r.context, *r.continuation[:-1])) for r in requests]
    kept, place = _longest(inputs)
    groups, group_of, rest_of = _groups(kept, share)
    order = sorted(range(len(groups)), key=lambda g: groups[g].widths)
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups))
    groups = [groups[g] for g in order]

    lengths = np.array([len(r.continuation) for r in requests], dtype=np.int64)
    ends = lengths.cumsum()
    first = np.array([len(r.context) - 1 for r in requests], dtype=np.int64)
    position = np.repeat(first - ends + lengths, lengths) + np.arange(lengths.sum())
    target = np.fromiter(
        itertools.chain.from_iterable(r.continuation for r in requests), np.int64, lengths.sum()
    )
    group = np.repeat(rank[group_of[place]], lengths)
    start = np.array([group.widths[0] for group in groups], dtype=np.int64)[group]
    rest = np.where(position < start, 0, np.repeat(rest_of[place], lengths) + 1)
    position = np.where(position < start, position, position - start)
    # Equal queries are answered once, so that equal continuations get equal numbers, bit for bit.
    keys = np.stack([group, rest, position, target])
    unique, query_of_token = np.unique(keys, axis=1, return_inverse=True)
    read = np.bincount(np.unique(unique[:3], axis=1)[0], minlength=len(groups)).tolist()
    batches, begin = [], 0
    for chunk in _chunks(groups, read, batch_tokens, max(1, BATCH_LOGITS // vocab_size)):
        end = int(np.searchsorted(unique[0], chunk[-1], side="right"))
        batches.append(_batch([groups[g] for g in chunk], unique[:, begin:end], chunk[0]))
        begin = end
    return Batches(tuple(batches), query_of_token.reshape(-1), ends)


def _batch(groups: Sequence[_Group], queries: np.ndarray, first: int) -> Batch:
    """Return the batch of some groups, the first of which is number `first` in the queries
    (group, rest, position, target)."""
    shared_bt, lengths_b = _padded([group.beginning for group in groups])
    rest_rt, lengths_r = _padded([rest for group in groups for rest in group.rests])
    counts = [len(group.rests) for group in groups]
    group, rest, position, target = queries
    group = group - first
    row = np.cumsum([0, *counts[:-1]])[group] + rest - 1
    at = np.where(
        rest == 0,
        group * shared_bt.shape[1] + position,
        shared_bt.size + row * rest_rt.shape[1] + position,
    )
    rows_n, queries_q = np.unique(at, return_inverse=True)
    beginning_r = np.repeat(np.arange(len(groups)), counts).tolist()
    return Batch(
        shared_bt, lengths_b, rest_rt, lengths_r, beginning_r, rows_n, queries_q.reshape(-1), target
    )


def _padded(packed: Sequence[bytes]) -> tuple[np.ndarray, list[int]]:
    """Return token ids [B, T], padded with 0, and their lengths."""
    lengths = [len(each) // _WIDTH for each in packed]
    tokens_bt = np.zeros((len(packed), max(lengths, default=0)), dtype=np.int64)
    for row, each in zip(tokens_bt, packed, strict=True):
        row[: len(each) // _WIDTH] = np.frombuffer(each, dtype=_TYPE)
    return tokens_bt, lengths


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
        logits_nv = _logits(model, batch).float()
        row_q, target_q = (
            torch.from_numpy(x).to(model.device) for x in (batch.queries_q, batch.targets_q)
        )
        log_z_n = logits_nv.logsumexp(1)
        found.append((logits_nv[row_q, target_q] - log_z_n[row_q]).double().cpu().numpy())
        best.append((logits_nv.argmax(1)[row_q] == target_q).cpu().numpy())
    of_token = arranged.query_of_token
    return np.concatenate(found)[of_token], np.concatenate(best)[of_token]


def _logits(model: Predictor, batch: Batch) -> torch.Tensor:
    """Return the logits [n, V] at the rows of a batch."""
    shared_bt, rest_rt, at_n = (
        torch.from_numpy(x).to(model.device) for x in (batch.shared_bt, batch.rest_rt, batch.rows_n)
    )
    if not batch.lengths_r:
        return model.logits(shared_bt, at_n)
    assert model.continued is not None
    lengths = batch.lengths_b, batch.lengths_r
    return model.continued(shared_bt, rest_rt, *lengths, batch.beginning_r, at_n)


def _packed(tokens: tuple[int, ...]) -> bytes:
    """Return tokens as bytes, which sort, hash and compare quickly."""
    return np.array(tokens, dtype=_TYPE).tobytes()


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


def _groups(kept: Sequence[bytes], share: bool) -> tuple[list[_Group], np.ndarray, np.ndarray]:
    """Return groups of neighbouring inputs that share at least half of their tokens, and for each
    input the index of its group and of its rest."""
    found: list[tuple[list[bytes], int]] = []
    for packed in kept:
        if share and found:
            members, common = found[-1]
            same = _same(members[0][:common], packed)
            if 2 * same >= max(len(packed), 2 * _WIDTH):
                found[-1] = ([*members, packed], same)
                continue
        found.append(([packed], len(packed)))
    groups = [
        _Group(members[0][:common], tuple(x[common:] for x in members) if len(members) > 1 else ())
        for members, common in found
    ]
    counts = [len(members) for members, _ in found]
    group_of = np.repeat(np.arange(len(groups)), counts)
    rest_of = np.concatenate([np.arange(n) for n in counts])
    return groups, group_of, rest_of


def _same(a: bytes, b: bytes) -> int:
    """Return the length of the common beginning of packed tokens, in bytes."""
    n = min(len(a), len(b)) // _WIDTH
    x, y = (np.frombuffer(each, dtype=_TYPE, count=n) for each in (a, b))
    different = np.flatnonzero(x != y)
    return _WIDTH * int(different[0] if len(different) else n)


def _chunks(
    groups: Sequence[_Group], read: Sequence[int], most_tokens: int, most_rows: int
) -> Iterator[range]:
    """Yield ranges of the groups, which are in order of their widths, that fit into one forward
    pass."""
    start = rests = rows = longest = 0
    for i, (group, n) in enumerate(zip(groups, read, strict=True)):
        beginning, rest = group.widths
        rests, rows, longest = rests + len(group.rests), rows + n, max(longest, rest)
        tokens = (i - start + 1) * beginning + rests * longest
        if i > start and (tokens > most_tokens or rows > most_rows):
            yield range(start, i)
            start, rests, rows, longest = i, len(group.rests), n, rest
    if groups:
        yield range(start, len(groups))
