"""How text is generated: the settings, their checks, and the choice of the next token.

Shape suffixes as in scaling/model.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.errors import ConfigError

DEFAULT_TOKENS = 50
"""Most tokens of a continuation, unless the caller asks for another number."""

_LARGEST_PENALTY = 20
"""A length to a larger power may exceed the largest float."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of :func:`scaling.generate.generate`, under the names of `transformers`.

    Raises ConfigError for values that are out of range or exclude each other.
    """

    max_tokens: int | None = None
    """Most tokens of a continuation, end-of-text included. Default: 50, or fewer if the context
    has no room for them."""
    min_tokens: int = 0
    """Tokens before which a continuation cannot end with end-of-text."""
    temperature: float | None = None
    """Divides the logits before sampling; 0 takes the most likely token (greedy decoding).
    Default: 1, and none with beams."""
    top_k: int | None = None
    """Sample from this many of the most likely tokens."""
    top_p: float | None = None
    """Sample from the smallest set of the most likely tokens whose probability reaches this
    (nucleus sampling, Holtzman et al. 2020)."""
    beams: int = 1
    """Width of a beam search; 1 searches nothing."""
    length_penalty: float = 0.0
    """A beam's score is its log-probability divided by its number of tokens to this power."""
    samples: int = 1
    """Continuations per prompt; of a beam search, the best ones."""
    seed: int = 0
    """Seed of the samples."""
    slide: bool = False
    """Generate beyond the context: every token then follows from the last n_ctx tokens only."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k", "beams", "samples"):
            self._check_whole(name, 1)
        self._check_whole("min_tokens", 0)
        self._check_whole("seed", 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"min-tokens {self.min_tokens} exceeds max-tokens {self.max_tokens}; lower it."
            )
        heat, share, penalty = self.temperature, self.top_p, self.length_penalty
        if heat is not None and not (_is_number(heat) and 0 <= heat < math.inf):
            raise ConfigError(f"temperature {heat} must be 0 or a positive number.")
        if share is not None and not (_is_number(share) and 0 < share <= 1):
            raise ConfigError(f"top-p {share} must be above 0 and at most 1, such as 0.9.")
        if not (_is_number(penalty) and abs(penalty) <= _LARGEST_PENALTY):
            raise ConfigError(
                f"length-penalty {penalty} must be a number from -{_LARGEST_PENALTY} to "
                f"{_LARGEST_PENALTY}, such as 1."
            )
        if self.beams > 1:
            self._check_search()
        elif self.length_penalty:
            raise ConfigError(
                f"length-penalty {penalty} needs a beam search; set beams to 4, for example."
            )
        elif self.greedy and self.samples > 1:
            raise ConfigError(
                f"samples {self.samples}: greedy decoding has one continuation; raise the "
                "temperature above 0."
            )

    def _check_search(self) -> None:
        drawing = {"temperature": self.temperature, "top-k": self.top_k, "top-p": self.top_p}
        drawing = {name: value for name, value in drawing.items() if value}
        if drawing:
            name, value = next(iter(drawing.items()))
            raise ConfigError(
                f"beams {self.beams} and {name} {value} exclude each other: a beam search draws "
                "nothing at random. Leave one of them out."
            )
        if self.samples > self.beams:
            raise ConfigError(
                f"samples {self.samples} exceeds beams {self.beams}, which is how many "
                "continuations a beam search finds."
            )

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is None and name in ("max_tokens", "top_k"):
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            shown = name.replace("_", "-")
            raise ConfigError(f"{shown} {value} must be a whole number of at least {least}.")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.beams == 1 and self.temperature == 0

    def choose(self, logits_bv: Tensor, uniform_b: Tensor) -> Tensor:
        """Return the next token of each sequence, given a uniform random number for each.

        Settings act in the order temperature, top-k, top-p.
        """
        if self.greedy:
            return logits_bv.argmax(1)
        heat = 1.0 if self.temperature is None else self.temperature
        # Subtracting the largest logit first keeps tiny temperatures finite.
        logits_bv = (logits_bv - logits_bv.amax(1, keepdim=True)).double() / heat
        p_bv = logits_bv.softmax(1)
        if self.top_k is None and self.top_p is None:
            return _inverse(p_bv, uniform_b)
        p_bv, token_bv = p_bv.sort(dim=1, descending=True, stable=True)
        if self.top_k is not None:
            p_bv[:, self.top_k :] = 0
        if self.top_p is not None:
            p_bv /= p_bv.sum(1, keepdim=True)
            p_bv[p_bv.cumsum(1) - p_bv >= self.top_p] = 0
        return token_bv.gather(1, _inverse(p_bv, uniform_b)[:, None])[:, 0]


def _inverse(p_bv: Tensor, uniform_b: Tensor) -> Tensor:
    """Return the first index at which the cumulative probability exceeds its share u."""
    cumulative_bv = p_bv.cumsum(1)
    wanted_b1 = uniform_b[:, None].to(p_bv) * cumulative_bv[:, -1:]
    index_b = torch.searchsorted(cumulative_bv, wanted_b1, right=True)[:, 0]
    # Rounding must not lead behind the last token that has a probability.
    last_b = p_bv.shape[1] - 1 - (p_bv > 0).flip(1).int().argmax(1)
    return torch.minimum(index_b, last_b)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
