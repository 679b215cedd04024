"""Continuations of prompts: :func:`generate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaling.errors import ConfigError
from scaling.generate.beams import Found, search
from scaling.generate.decoding import DEFAULT_TOKENS, Decoding
from scaling.generate.sequences import Sequences
from scaling.weights import Weights, check_predicts_next


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A continuation of a prompt."""

    text: str
    """The text after the prompt, up to end-of-text or to a text that stops it."""
    tokens: tuple[int, ...]
    """Its token ids, with end-of-text if that ended it."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the model, whatever the temperature."""
    ended: str
    """Why it ended: end (end-of-text), stop (a text in `stop`), or length."""
    score: float
    """The summed log-probability, over length^length_penalty in a beam search."""

    @property
    def logprob(self) -> float:
        """The summed log-probability."""
        return math.fsum(self.logprobs)


def generate(
    weights: Weights,
    prompts: str | Sequence[str],
    *,
    max_tokens: int | None = None,
    min_tokens: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    length_penalty: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    slide: bool = False,
    batch_size: int = 64,
    use_cache: bool = True,
) -> list[list[Sample]]:
    """Continue prompts; return for each prompt a list of `samples` continuations.

    weights        A trained model, from :func:`scaling.weights.load`.
    prompts        Texts to continue. An empty one starts a new text, after end-of-text.
    max_tokens     Most tokens of a continuation; by default 50, or fewer if the context has no room
                   for them.
    min_tokens     Tokens before which end-of-text cannot come.
    temperature    Divides the logits; 0 takes the most likely token (greedy decoding). The default
                   is 1, sampling from the model itself.
    top_k, top_p   Sample from the k most likely tokens, from the smallest set of tokens with this
                   probability, or both.
    beams          Width of a beam search, which excludes sampling. The beam's score is its summed
                   log-probability over length^length_penalty; its length counts end-of-text.
    samples        Continuations per prompt; of a beam search the best, best first.
    seed           Seed of the samples. What follows a prompt depends on it and on the prompt, not
                   on the other prompts.
    stop           Texts at which a continuation ends; they are left out.
    slide          Generate beyond the context, each token from the last n_ctx tokens. Without it, a
                   prompt and `max_tokens` that do not fit are refused.
    batch_size     Most sequences computed at once. Logits of a batch equal those of each prompt
                   alone up to rounding.
    use_cache      Keep keys and values. Without it, every token is computed from all before it.

    Raises ConfigError for prompts that do not fit the context, and for settings that are out of
    range or exclude each other.
    """
    decoding = Decoding(
        max_tokens=max_tokens, min_tokens=min_tokens, temperature=temperature, top_k=top_k,
        top_p=top_p, beams=beams, length_penalty=length_penalty, samples=samples, seed=seed,
        slide=slide,
    )  # fmt: skip
    check_predicts_next(weights, "continue text")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    stops = _Stops(weights, [stop] if isinstance(stop, str) else list(stop))
    encoded = [_encoded(weights, text) for text in texts]
    limits = [
        _limit(weights, decoding, text, len(ids)) for text, ids in zip(texts, encoded, strict=True)
    ]
    found: list[list[Found]] = []
    each = beams if beams > 1 else samples
    at_once = max(1, batch_size // each)
    with torch.inference_mode():
        for a in range(0, len(texts), at_once):
            part = slice(a, a + at_once)
            sequences = Sequences(weights, encoded[part], max(limits[part]), use_cache=use_cache)
            found += _continued(weights, decoding, stops, sequences, limits[part])
    return [[stops.sample(one, decoding) for one in best[:samples]] for best in found]


def _encoded(weights: Weights, text: object) -> list[int]:
    """Return the token ids of a prompt, which are never none."""
    if not isinstance(text, str):
        raise ConfigError(f"a prompt must be text, not {text!r}.")
    return weights.tokenizer.encode(text) or [weights.tokenizer.end_of_text]


def _limit(weights: Weights, decoding: Decoding, text: str, length: int) -> int:
    """Return the most tokens that may follow a prompt. Raises ConfigError if they do not fit."""
    wanted = DEFAULT_TOKENS if decoding.max_tokens is None else decoding.max_tokens
    wanted = max(wanted, decoding.min_tokens)
    if decoding.slide:
        return wanted
    n_ctx = weights.run.model.n_ctx
    room = n_ctx + 1 - length  # the last token is not fed back
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    if room < 1:
        raise ConfigError(
            f"prompt longer than the context: {shown!r} has {length} tokens, and the model sees "
            f"{n_ctx} (model.n_ctx). Shorten it, or let the context slide with --slide."
        )
    if wanted > room and (decoding.max_tokens is not None or decoding.min_tokens > room):
        raise ConfigError(
            f"prompt {shown!r} of {length} tokens and {wanted} more exceed the context of {n_ctx} "
            f"tokens (model.n_ctx). Generate at most {room}, or let the context slide with --slide."
        )
    return min(wanted, room)


class _Stops:
    """Where continuations end, and the text that they leave."""

    def __init__(self, weights: Weights, texts: list[str]) -> None:
        for text in texts:
            if not isinstance(text, str) or not text:
                raise ConfigError(f"stop {text!r} must be a text of at least one character.")
        self._tokenizer = weights.tokenizer
        self._texts = texts
        # Every token is at least a byte, so that a text that ends now lies within this many.
        self._within = max((len(text.encode()) for text in texts), default=0)

    def ended(self, tokens: Sequence[int]) -> str | None:
        """Return why a continuation ends after these tokens; None if it does not."""
        if tokens[-1] == self._tokenizer.end_of_text:
            return "end"
        if self._texts:
            tail = self._tokenizer.decode(tokens[-self._within - 4 :])
            if any(text in tail for text in self._texts):
                return "stop"
        return None

    def sample(self, found: Found, decoding: Decoding) -> Sample:
        text = self._tokenizer.decode(found.tokens)
        cuts = [at for at in map(text.find, self._texts) if at >= 0]
        return Sample(
            text=text[: min(cuts)] if cuts else text,
            tokens=found.tokens,
            logprobs=found.logprobs,
            ended=found.ended,
            score=found.score(decoding.length_penalty if decoding.beams > 1 else 0.0),
        )


def _continued(
    weights: Weights,
    decoding: Decoding,
    stops: _Stops,
    sequences: Sequences,
    limits: list[int],
) -> list[list[Found]]:
    """Return the continuations of a batch of prompts."""
    prompts = sequences.tokens
    allowed = _Allowed(weights, decoding.min_tokens)
    if decoding.beams > 1:
        return search(
            sequences, allowed.log_p, stops.ended, beams=decoding.beams, limits=limits,
            length_penalty=decoding.length_penalty,
        )  # fmt: skip
    repeated = [row for row in range(len(prompts)) for _ in range(decoding.samples)]
    sequences.select(repeated)
    uniform = _Uniform(decoding, prompts)
    rows = list(range(len(repeated)))  # those still under way
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    why: list[str] = ["length"] * len(rows)
    n = 0
    while rows:
        log_p_bv = sequences.logits().double().log_softmax(1)
        next_b = decoding.choose(allowed.only(sequences.logits(), n), uniform.following(rows))
        own_b = log_p_bv.gather(1, next_b[:, None])[:, 0]
        n += 1
        kept = []
        for k, (row, token, own) in enumerate(
            zip(rows, next_b.tolist(), own_b.tolist(), strict=True)
        ):
            tokens[row].append(token)
            logprobs[row].append(own)
            if reason := stops.ended(tokens[row]):
                why[row] = reason
            elif n < limits[repeated[row]]:
                kept.append(k)
        rows = [rows[k] for k in kept]
        if rows:
            sequences.select(kept)
            sequences.append([tokens[row][-1] for row in rows])
    found = [Found((*t,), (*p,), w) for t, p, w in zip(tokens, logprobs, why, strict=True)]
    each = decoding.samples
    return [found[a : a + each] for a in range(0, len(found), each)]


class _Allowed:
    """Tokens that may come next: all that stand for text, and end-of-text after `min_tokens`."""

    def __init__(self, weights: Weights, min_tokens: int) -> None:
        tokenizer = weights.tokenizer
        known = tokenizer.vocab_size if tokenizer.tokens is None else len(tokenizer.tokens)
        ids = torch.arange(tokenizer.vocab_size, device=weights.flat_1p.device)
        self._end = tokenizer.end_of_text
        self._none_v = (ids >= known) & (ids != self._end)
        self._any_none = bool(self._none_v.any())
        self._min_tokens = min_tokens

    def only(self, logits_bv: Tensor, n: int) -> Tensor:
        """Return the logits after n tokens, -inf for tokens that are not allowed."""
        if self._any_none:
            logits_bv = logits_bv.masked_fill(self._none_v, -math.inf)
        if n < self._min_tokens:
            logits_bv = logits_bv.clone()
            logits_bv[:, self._end] = -math.inf
        return logits_bv

    def log_p(self, logits_bv: Tensor, n: int) -> Tensor:
        """Return the model's log-probabilities, -inf for tokens that are not allowed."""
        return self.only(logits_bv.double().log_softmax(1), n)


class _Uniform:
    """Random numbers by prompt, sample and position; the other prompts have no part in them."""

    def __init__(self, decoding: Decoding, prompts: list[list[int]]) -> None:
        self._streams = [
            np.random.default_rng([decoding.seed, sample, len(prompt), *prompt])
            for prompt in prompts
            for sample in range(decoding.samples)
        ]

    def following(self, rows: list[int]) -> Tensor:
        """Return the next number of each of these rows, in [0, 1)."""
        return torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64)
