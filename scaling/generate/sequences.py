"""Token sequences that grow at their ends, and the model's logits of what comes next."""

from __future__ import annotations

import torch
from torch import Tensor

from scaling.weights import Weights


class Sequences:
    """Sequences of different lengths under one model.

    A decoder keeps keys and values (:mod:`scaling.models.cache`). Other families, and sequences
    longer than the context, are computed anew for every token, from the last n_ctx tokens.
    """

    def __init__(
        self, weights: Weights, prompts: list[list[int]], room: int, *, use_cache: bool = True
    ) -> None:
        """Begin with prompts of at least one token; up to `room` tokens will be appended.

        `use_cache` is whether to use a cache if the family has one.
        """
        self._model, self._flat_1p = weights.model, weights.flat_1p
        self._p = weights.model.named(weights.flat_1p)
        self._device = weights.flat_1p.device
        self.tokens = [list(prompt) for prompt in prompts]
        n_ctx, longest = self._model.model.n_ctx, max(map(len, prompts))
        self._cache = None
        if use_cache and longest <= n_ctx:
            positions = min(longest + room, n_ctx)
            self._cache = self._model.cache(self._flat_1p, len(prompts), positions)
        self._new: list[list[int]] = self.tokens
        """What the cache does not hold yet."""
        self._logits_bv: Tensor | None = None

    def logits(self) -> Tensor:
        """Return the logits [B, V] of the next token of each sequence."""
        if self._logits_bv is None:
            if max(map(len, self.tokens)) > self._model.model.n_ctx:
                self._cache = None
            if self._cache is not None:
                counts = [len(new) for new in self._new]
                x_bd = self._cache.extend(self._padded(self._new), counts)
            else:
                x_bd = self._recomputed()
            self._logits_bv = self._model.next_logits(self._p, x_bd)
        return self._logits_bv

    def append(self, tokens: list[int]) -> None:
        """Append one token to each sequence."""
        self.logits()
        self._new = [[token] for token in tokens]
        self.tokens = [[*old, token] for old, token in zip(self.tokens, tokens, strict=True)]
        self._logits_bv = None

    def select(self, rows: list[int]) -> None:
        """Keep these sequences, in this order; one may occur several times."""
        logits_bv = self.logits()
        if rows == list(range(len(self.tokens))):
            return
        self.tokens = [self.tokens[row] for row in rows]
        self._logits_bv = logits_bv[rows]
        if self._cache is not None:
            self._cache.select(rows)

    def _recomputed(self) -> Tensor:
        """Return the final hidden state [B, D] of the last token of each sequence."""
        n_ctx = self._model.model.n_ctx
        windows = [tokens[-n_ctx:] for tokens in self.tokens]
        tokens_bt = self._padded(windows)
        b, t = tokens_bt.shape
        x_btd = self._model.hidden(self._p, tokens_bt[None]).view(b, t, -1)
        last_b = torch.tensor([len(window) - 1 for window in windows], device=self._device)
        return x_btd[torch.arange(b, device=self._device), last_b]

    def _padded(self, rows: list[list[int]]) -> Tensor:
        """Return token ids [B, T], padded at the end, which no earlier token sees."""
        longest = max(map(len, rows))
        padded = [row + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=self._device)
