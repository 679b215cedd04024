"""Beam search. Shape suffixes as in scaling/model.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.generate.sequences import Sequences


@dataclass(frozen=True)
class Found:
    """A continuation: its tokens, the log-probability of each, and why it ended."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: str

    def score(self, length_penalty: float) -> float:
        """Return the summed log-probability over length^length_penalty."""
        return math.fsum(self.logprobs) / max(len(self.tokens), 1) ** length_penalty


def search(
    sequences: Sequences,
    log_p: Callable[[Tensor, int], Tensor],
    ended: Callable[[Sequence[int]], str | None],
    *,
    beams: int,
    limits: list[int],
    length_penalty: float,
) -> list[list[Found]]:
    """Return the best continuations of each sequence, at most `beams`, best first.

    Every step keeps the `beams` most likely extensions of a prompt's unfinished continuations;
    those that end leave the beam (Sutskever et al. 2014). A prompt's search stops when no
    continuation can still be better than the `beams` that are finished.

    log_p(logits, n) are the log-probabilities [B, V] of the next token after n tokens, -inf for
    those not allowed; ended(tokens) says why a continuation is over, or None; limits[i] is the
    largest number of tokens that follow prompt i.
    """
    live = [(prompt, Found((), (), "")) for prompt in range(len(limits))]
    done: list[list[Found]] = [[] for _ in limits]
    n = 0
    while live:
        log_p_bv = log_p(sequences.logits(), n)
        n += 1
        kept: list[tuple[int, int, Found]] = []
        for prompt in sorted({prompt for prompt, _ in live}):
            rows = [row for row, (own, _) in enumerate(live) if own == prompt]
            extended = []
            for row, token, logprob in _best(log_p_bv, rows, live, beams):
                before = live[row][1]
                found = Found((*before.tokens, token), (*before.logprobs, logprob), "")
                why = ended(found.tokens) or ("length" if n >= limits[prompt] else None)
                if why:
                    done[prompt].append(Found(found.tokens, found.logprobs, why))
                else:
                    extended.append((prompt, row, found))
            done[prompt].sort(key=lambda found: -found.score(length_penalty))
            del done[prompt][beams:]
            if extended and not _decided(
                done[prompt], extended[0][2], beams, limits[prompt], length_penalty
            ):
                kept += extended
        live = [(prompt, found) for prompt, _, found in kept]
        if live:
            sequences.select([row for _, row, _ in kept])
            sequences.append([found.tokens[-1] for _, found in live])
    return done


def _best(
    log_p_bv: Tensor, rows: list[int], live: list[tuple[int, Found]], beams: int
) -> list[tuple[int, int, float]]:
    """Return (row, token, log-probability) of a prompt's most likely extensions, best first."""
    so_far = [math.fsum(live[row][1].logprobs) for row in rows]
    so_far_b1 = torch.tensor(so_far, dtype=log_p_bv.dtype, device=log_p_bv.device)[:, None]
    own_bv = log_p_bv[rows]
    total_n = (own_bv + so_far_b1).flatten()
    value_n, index_n = total_n.topk(min(beams, len(total_n)))
    own_n = own_bv.flatten()[index_n]
    vocabulary = log_p_bv.shape[1]
    return [
        (rows[index // vocabulary], index % vocabulary, own)
        for value, index, own in zip(
            value_n.tolist(), index_n.tolist(), own_n.tolist(), strict=True
        )
        if value > -math.inf
    ]


def _decided(done: list[Found], best: Found, beams: int, limit: int, length_penalty: float) -> bool:
    """Return whether no extension of `best`, the most likely one, can enter the finished ones."""
    if len(done) < beams:
        return False
    # Log-probabilities only fall, and the length that favours them most is one of the two ends.
    length = limit if length_penalty > 0 else len(best.tokens) + 1
    bound = math.fsum(best.logprobs) / length**length_penalty
    return done[-1].score(length_penalty) >= bound
