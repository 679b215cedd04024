"""Batches from token files.

A batch is a pure function of (seed, step). There is no loader state, so resuming is exact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scaling.config import DataConfig
from scaling.data.corpus import TokenFiles
from scaling.errors import ConfigError

_ORDER, _SUBSET, _TEST = 0, 1, 2
"""Independent Philox streams; scaling/data/masks.py has others."""

_EPOCHS_KEPT = 8
"""Number of epochs whose order is kept in memory."""


def _permutation(n: int, seed: int, stream: int, epoch: int = 0) -> np.ndarray:
    """Return a permutation of 0..n-1, the same on every platform, unlike Generator.permutation."""
    key = (seed << 64) | (stream << 56) | epoch
    return np.argsort(np.random.Philox(key=key % (1 << 128)).random_raw(n), kind="stable")


class TrainTokens:
    """Windows of n_ctx tokens of the training split, without replacement within an epoch."""

    are_cut = True
    """Whether a window is a slice of the tokens, so that its start tells all about it."""

    def __init__(self, files: TokenFiles, data: DataConfig, n_ctx: int) -> None:
        # Memory-mapped, so that the members of a pack share it.
        empty = files.train.stat().st_size == 0
        self.tokens = np.asarray([] if empty else np.memmap(files.train, np.uint16, "r"))
        self.n_ctx = n_ctx
        windows = (len(self.tokens) - 1) // n_ctx
        if windows < 1:
            raise ConfigError(
                f"data.corpus={data.corpus!r} has {len(self.tokens)} training tokens, less than "
                f"one context of model.n_ctx={n_ctx}; use more text or a shorter context."
            )
        self.starts = np.arange(windows) * n_ctx
        if data.unique_tokens is not None:
            subset = data.unique_tokens // n_ctx
            if not 1 <= subset <= windows:
                raise ConfigError(
                    f"data.unique_tokens={data.unique_tokens} is not between one context "
                    f"({n_ctx}) and the {windows * n_ctx} training tokens of {data.corpus!r}."
                )
            # Subsets are prefixes of one permutation, so a smaller one is contained in a larger
            # one.
            order = _permutation(windows, data.data_seed, _SUBSET)
            self.starts = np.sort(self.starts[order[:subset]])
        self._epochs: dict[tuple[int, int], np.ndarray] = {}

    @property
    def unique(self) -> int:
        """Number of distinct tokens per epoch."""
        return len(self.starts) * self.n_ctx

    def starts_of(self, seed: int, sequences: np.ndarray) -> np.ndarray:
        """Return the indices of the tokens at which the given sequences of a run begin; sequences
        are numbered from 0 over all epochs."""
        n = len(self.starts)
        epochs = sequences // n
        order = np.empty_like(sequences)
        for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
            here = epochs == epoch
            order[here] = self._epoch(seed, epoch)[sequences[here] - epoch * n]
        return self.starts[order]

    def windows(self, starts: np.ndarray) -> np.ndarray:
        """Return the int64 windows [..., n_ctx + 1] that begin at `starts`."""
        return self.tokens[starts[..., None] + np.arange(self.n_ctx + 1)].astype(np.int64)

    def numbered(self, seed: int, sequences: np.ndarray) -> np.ndarray:
        """Return the int64 windows [..., n_ctx + 1] of the given sequences of a run."""
        return self.windows(self.starts_of(seed, sequences))

    def batch(self, seed: int, first: int, sequences: int) -> np.ndarray:
        """Return the windows of a run's next sequences, starting from sequence `first`."""
        return self.numbered(seed, np.arange(first, first + sequences))

    def _epoch(self, seed: int, epoch: int) -> np.ndarray:
        key = (seed, epoch)
        if key not in self._epochs:
            if len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.clear()
            self._epochs[key] = _permutation(len(self.starts), seed, _ORDER, epoch)
        return self._epochs[key]


def held_out_windows(path: Path, tokens: int, n_ctx: int, *, at_most: bool = False) -> np.ndarray:
    """Return the fixed int64 test windows [tokens // n_ctx, n_ctx + 1].

    They are spread over the whole test split and always the same; the windows for fewer tokens are
    a subset of those for more. With `at_most`, a shorter test split gives as many windows as it
    has.
    """
    data, starts = held_out(path, tokens, n_ctx, at_most=at_most)
    return data[starts[:, None] + np.arange(n_ctx + 1)].astype(np.int64)


def held_out(
    path: Path, tokens: int, n_ctx: int, *, at_most: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a test split, and where the windows of :func:`held_out_windows` begin.

    Raises ConfigError if the split has too few tokens.
    """
    data = np.fromfile(path, dtype=np.uint16)
    available = (len(data) - 1) // n_ctx
    wanted = tokens // n_ctx
    if at_most:
        wanted = min(wanted, available)
    if not 1 <= wanted <= available:
        raise ConfigError(
            f"eval.test_tokens={tokens} is not between one context ({n_ctx}) and the "
            f"{max(0, available * n_ctx)} tokens of the test split; change eval.test_tokens or use "
            "more text."
        )
    return data, np.sort(_permutation(available, 0, _TEST)[:wanted]) * n_ctx
