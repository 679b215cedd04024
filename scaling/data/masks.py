"""Windows of an encoder: corrupted text, and the tokens that it predicts (Devlin et al. 2019).

Of every context, 15 % of the positions are predicted. Of these, 80 % are replaced by [MASK] and
10 % by a random token; 10 % stay as they are. The context begins with [CLS], which takes the place
of a token. With the next-sentence objective, it holds two halves of text with end-of-text between
them as [SEP]; in half of the contexts the second half is from a random place of the corpus.

A window is [2 T]: the input, then the targets, negative where there is none. It is a pure function
of (seed, number of the sequence) in training, and of the place of its text in a test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scaling.config import RunConfig
from scaling.data.corpus import TokenFiles
from scaling.data.labels import LabelledExcerpts
from scaling.data.windows import TrainTokens, held_out, held_out_windows
from scaling.model_config import ModelConfig

ABSENT, NEXT, ELSEWHERE = -1, -2, -3
"""Targets that are no tokens: no target; and at [CLS], whether the second half follows the
first."""

_TRAIN, _TEST = 3, 4
"""Philox streams, beside those of scaling/data/windows.py."""

_PER_BLOCK = 4
"""Numbers per block of Philox."""


def mask_token(vocab_size: int) -> int:
    """Return the id of [MASK]."""
    return vocab_size


def cls_token(vocab_size: int) -> int:
    """Return the id of [CLS]."""
    return vocab_size + 1


class Masks:
    """Turns text into windows of one encoder."""

    def __init__(self, model: ModelConfig, files: TokenFiles) -> None:
        self.model, self.vocab_size = model, files.vocab_size
        self.separator = files.tokenizer.end_of_text if model.next_sentence else None
        self.half = (model.n_ctx - 2) // 2
        """Tokens of the first half, with the next-sentence objective."""

    def windows(
        self,
        text_bt: np.ndarray,
        tokens: np.ndarray,
        starts: np.ndarray,
        seed: int,
        stream: int,
        numbers_b: np.ndarray,
    ) -> np.ndarray:
        """Return windows [B, 2 T] of texts [B, T + 1], whose masks the numbers choose.

        Halves from elsewhere are cut from `tokens`, in windows that begin at `starts`.
        """
        T, M = self.model.n_ctx, self.model.predicted
        random = _random(seed, stream, numbers_b, T + 2 * M + 2)
        rank_bt, action_bm, token_bm, pair_b2 = np.split(random, [T, T + M, T + 2 * M], axis=1)
        input_bt = np.empty((len(text_bt), T), dtype=np.int64)
        input_bt[:, 0] = cls_token(self.vocab_size)
        target_bt = np.full_like(input_bt, ABSENT)
        never = [0]
        if self.separator is None:
            input_bt[:, 1:] = text_bt[:, : T - 1]
        else:
            never.append(1 + self.half)
            target_bt[:, 0] = self._fill_halves(input_bt, text_bt, tokens, starts, pair_b2)
        rank_bt[:, never] = np.iinfo(np.uint64).max
        at_bm = np.sort(np.argsort(rank_bt, axis=1, kind="stable")[:, :M], axis=1)
        was_bm = np.take_along_axis(input_bt, at_bm, 1)
        np.put_along_axis(target_bt, at_bm, was_bm, 1)
        tenth_bm, random_bm = action_bm % 10, (token_bm % self.vocab_size).astype(np.int64)
        becomes_bm = np.where(tenth_bm < 8, mask_token(self.vocab_size), random_bm)
        np.put_along_axis(input_bt, at_bm, np.where(tenth_bm == 9, was_bm, becomes_bm), 1)
        return np.concatenate([input_bt, target_bt], axis=1)

    def _fill_halves(
        self,
        input_bt: np.ndarray,
        text_bt: np.ndarray,
        tokens: np.ndarray,
        starts: np.ndarray,
        pair_b2: np.ndarray,
    ) -> np.ndarray:
        """Fill inputs with two halves of text and [SEP] between them; return their labels [B]."""
        h, both = self.half, self.model.n_ctx - 2
        elsewhere_b = pair_b2[:, 0] % 2 == 1
        start_b = starts[(pair_b2[:, 1] % len(starts)).astype(np.int64)]
        others = tokens[start_b[:, None] + np.arange(h, both)]
        input_bt[:, 1 : h + 1] = text_bt[:, :h]
        input_bt[:, h + 1] = self.separator
        input_bt[:, h + 2 :] = np.where(elsewhere_b[:, None], others, text_bt[:, h:both])
        return np.where(elsewhere_b, ELSEWHERE, NEXT)


class MaskedTokens(TrainTokens):
    """Windows of an encoder from the training split, in the order of :class:`TrainTokens`."""

    are_cut = False

    def __init__(self, files: TokenFiles, run: RunConfig) -> None:
        super().__init__(files, run.data, run.model.n_ctx)
        self.masks = Masks(run.model, files)

    def numbered(self, seed: int, sequences: np.ndarray) -> np.ndarray:
        """Return the int64 windows [..., 2 n_ctx] of the given sequences of a run."""
        numbers_b = sequences.reshape(-1)
        text = super().numbered(seed, numbers_b)
        made = self.masks.windows(text, self.tokens, self.starts, seed, _TRAIN, numbers_b)
        return made.reshape(*sequences.shape, -1)


def train_tokens(files: TokenFiles, run: RunConfig) -> TrainTokens:
    """Return the training windows of a run."""
    if run.classify.labels:
        return LabelledExcerpts(files, run)
    if run.model.masked:
        return MaskedTokens(files, run)
    return TrainTokens(files, run.data, run.model.n_ctx)


def test_windows(
    path: Path, tokens: int, model: ModelConfig, files: TokenFiles, *, at_most: bool = False
) -> np.ndarray:
    """Return the fixed test windows of a model: those of
    :func:`scaling.data.windows.held_out_windows`, for an encoder with fixed masks [B, 2 T]."""
    if not model.masked:
        return held_out_windows(path, tokens, model.n_ctx, at_most=at_most)
    data, starts_b = held_out(path, tokens, model.n_ctx, at_most=at_most)
    text = data[starts_b[:, None] + np.arange(model.n_ctx + 1)].astype(np.int64)
    every = np.arange((len(data) - 1) // model.n_ctx) * model.n_ctx
    return Masks(model, files).windows(text, data, every, 0, _TEST, starts_b // model.n_ctx)


def _random(seed: int, stream: int, numbers_b: np.ndarray, each: int) -> np.ndarray:
    """Return `each` random numbers for every sequence [B, each], which depend on its number
    only."""
    blocks = -(-each // _PER_BLOCK)
    key = ((seed << 64) | (stream << 56)) % (1 << 128)
    rows = [
        np.random.Philox(key=key, counter=int(number) * blocks).random_raw(blocks * _PER_BLOCK)
        for number in numbers_b
    ]
    return np.stack(rows)[:, :each]
