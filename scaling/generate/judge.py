"""Generated text under a larger model, and how much it repeats itself.

Text sampled at temperature 1 costs a larger model more than human text does, and the less so the
better the model that wrote it. Greedy and beam search degenerate instead: the judge finds their
text easy while it repeats itself (Holtzman et al. 2020, arXiv 1904.09751).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scaling.errors import ConfigError
from scaling.generate.continuation import generate
from scaling.weights import Weights, check_predicts_next

PASSAGES = 128
"""Held-out passages that models continue when they are judged."""
_PROMPT_BYTES = 120
_PASSAGE_BYTES = 720
"""Size of a passage; its first bytes are the prompt."""
_TOKENS = 64
"""Most tokens of a judged continuation."""
_ROWS = 32
"""Windows that the judge reads at once."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model wrote after held-out prompts, beside what people wrote, under one judge."""

    bits_per_byte: float
    """Bits per byte of the model's text under the judge."""
    human: float
    """Bits per byte of the human text that follows the same prompts."""
    difference: float
    """bits_per_byte - human: 0 for a model that the judge cannot tell from people."""
    stderr: float
    """Standard error of the difference, paired by passage."""
    repeated: float
    """Share of the model's 4-grams of tokens that its continuation already contained."""
    repeated_human: float
    """The same of the human text, in the model's tokens."""
    passages: int
    """Number of passages."""


def repeated(tokens: Sequence[int], n: int = 4) -> float:
    """Return the share of n-grams that occurred before in the sequence; NaN if it has none.

    This is seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319).
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


def bits_per_byte(judge: Weights, texts: Sequence[str], prompts: Sequence[str] = ()) -> list[float]:
    """Return the bits per byte of texts under a model, each given the prompt before it.

    Prompt and text are encoded apart, in the judge's own tokens. A text without a prompt follows
    end-of-text. NaN for an empty text.
    """
    prompts = prompts or [""] * len(texts)
    nats = _nats(judge, list(zip(prompts, texts, strict=True)))
    return [
        loss / math.log(2) / len(text.encode()) if text else math.nan
        for loss, text in zip(nats, texts, strict=True)
    ]


def judged(
    weights: Weights,
    judge: Weights,
    texts: Sequence[tuple[str, str]] | None = None,
    *,
    tokens: int = _TOKENS,
    seed: int = 0,
    **decoding: Any,
) -> Judged:
    """Let a model continue held-out text, and compare it with people under a larger model.

    weights    The model that writes.
    judge      The model that judges; its tokenizer may be another.
    texts      (prompt, human continuation) pairs; by default :func:`passages` of the model's
               held-out text.
    tokens     Tokens of a continuation, at most half a context. The human text has as many.
    seed       Seed of the samples.
    decoding   Settings of :func:`scaling.generate.generate`; the default is temperature 1.

    Prompts are shortened from the left so that the context holds them, and the human text is cut to
    the same number of the model's tokens. Neither text can end with end-of-text. Raises ConfigError
    as `generate` does, and for fewer than two texts that are long enough.
    """
    check_predicts_next(judge, "judge text")
    n_ctx = weights.run.model.n_ctx
    tokens = min(tokens, max(1, n_ctx // 2))
    encode, decode = weights.tokenizer.encode, weights.tokenizer.decode
    pairs = []
    for prompt, human in passages(weights) if texts is None else texts:
        ids = encode(human)[:tokens]
        if len(ids) == tokens:
            pairs.append((decode(encode(prompt)[-(n_ctx + 1 - tokens) :]), ids))
    if len(pairs) < 2:
        raise ConfigError(
            f"judging needs at least 2 texts of {tokens} tokens after their prompts, not "
            f"{len(pairs)}; use longer texts, or fewer tokens."
        )
    # A prompt cut within a character may have more tokens than before; hence slide.
    settings: dict[str, Any] = {
        "slide": True,
        "seed": seed,
        "max_tokens": tokens,
        "min_tokens": tokens,
    } | decoding
    prompts = [prompt for prompt, _ in pairs]
    written = generate(weights, prompts, **settings)
    mine = [_whole(best[0].text) for best in written]
    theirs = [_whole(decode(ids)) for _, ids in pairs]
    model, model_terms = _ratio(judge, prompts, mine)
    human, human_terms = _ratio(judge, prompts, theirs)
    terms = model_terms - human_terms
    return Judged(
        bits_per_byte=model,
        human=human,
        difference=model - human,
        stderr=float(terms.std(ddof=1) / math.sqrt(len(terms))),
        repeated=float(np.nanmean([repeated(best[0].tokens) for best in written])),
        repeated_human=float(np.nanmean([repeated(ids) for _, ids in pairs])),
        passages=len(pairs),
    )


def _ratio(
    judge: Weights, prompts: list[str], texts: list[str]
) -> tuple[float, np.ndarray[Any, Any]]:
    """Return the bits per byte of all texts together, and what each contributes to its error.

    The ratio of sums is linearised, so that its standard error is that of the mean of these terms.
    """
    bits = np.array(_nats(judge, list(zip(prompts, texts, strict=True)))) / math.log(2)
    size = np.array([len(text.encode()) for text in texts], float)
    if not size.sum():
        return math.nan, np.full(len(texts), math.nan)
    ratio = bits.sum() / size.sum()
    return float(ratio), (bits - ratio * size) / size.mean()


def passages(weights: Weights, number: int = PASSAGES) -> list[tuple[str, str]]:
    """Return (prompt, continuation) pairs from the held-out text of a run's corpus.

    They are spread evenly over the text, and are the same for all models of a corpus and a
    tokenizer. A prompt ends before a space. Raises CorpusError if the corpus is missing, and
    ConfigError if its tokens are no longer those of the run.
    """
    from scaling.data.corpus import prepare

    files = prepare(weights.run.data)
    if files.tokenizer.hash != weights.tokenizer.hash:
        raise ConfigError(
            f"data.corpus={weights.run.data.corpus!r} has changed since the run was trained: it "
            "gives another tokenizer. Restore the text, or judge with prompts of your own."
        )
    ids = np.fromfile(files.test, dtype=np.uint16)
    ends = np.flatnonzero(ids == weights.tokenizer.end_of_text)
    documents = [weights.tokenizer.decode(part.tolist()) for part in np.split(ids, ends)]
    found = [pair for text in documents for pair in _cut(text)]
    if len(found) > number:
        found = [found[i * len(found) // number] for i in range(number)]
    return found


def _cut(text: str) -> Iterator[tuple[str, str]]:
    """Yield (prompt, continuation) pairs, one after another; both begin and end at spaces."""
    data = text.encode()
    at = 0
    while at + _PASSAGE_BYTES < len(data):
        end = at + _PASSAGE_BYTES
        middle = data.find(b" ", at + _PROMPT_BYTES, end)
        if middle > 0:
            prompt = data[at:middle].decode(errors="ignore")
            yield prompt, data[middle:end].decode(errors="ignore")
        at = end


def _whole(text: str) -> str:
    """Return the text without a last character that is cut in the middle."""
    return text.rstrip("\ufffd")


def _nats(judge: Weights, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the summed cross-entropy [nats] of each text after its prompt.

    A window of the judge's context slides by half its length over longer texts.
    """
    check_predicts_next(judge, "judge text")
    n_ctx, tokenizer = judge.run.model.n_ctx, judge.tokenizer
    windows: list[tuple[int, list[int], int]] = []  # text, tokens, first token that counts
    for i, (prompt, text) in enumerate(pairs):
        before = tokenizer.encode(prompt) or [tokenizer.end_of_text]
        ids = before + tokenizer.encode(text)
        first = len(before)
        while first < len(ids):
            # as much before the first token as leaves half a window for what follows it
            start = max(0, min(first - max(1, n_ctx // 2), len(ids) - n_ctx - 1))
            window = ids[start : start + n_ctx + 1]
            windows.append((i, window, first - start))
            first = start + len(window)
    windows.sort(key=lambda window: len(window[1]))
    total = [0.0] * len(pairs)
    for a in range(0, len(windows), _ROWS):
        part = windows[a : a + _ROWS]
        longest = max(len(ids) for _, ids, _ in part)
        rows = [ids + [0] * (longest - len(ids)) for _, ids, _ in part]
        tokens_kbt = torch.tensor([rows], device=judge.flat_1p.device)
        loss_bt = judge.model.losses(judge.flat_1p, tokens_kbt)[0].double().cpu()
        for (i, ids, first), loss_t in zip(part, loss_bt, strict=True):
            total[i] += float(loss_t[first - 1 : len(ids) - 1].sum())
    return total
