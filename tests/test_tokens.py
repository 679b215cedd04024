"""Batches: pure functions of (seed, step), epochs without replacement, nested subsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.config import DataConfig
from scaling.data.corpus import prepare
from scaling.data.windows import TrainTokens, held_out_windows
from scaling.errors import ConfigError

CTX = 32


@pytest.fixture
def files(own_cache, text_file):
    return prepare(DataConfig(corpus=str(text_file), tokenizer="bytes"))


def tokens_of(files, **data):
    return TrainTokens(files, DataConfig(corpus="x", tokenizer="bytes", **data), CTX)


def test_batches_are_windows_of_the_text(files):
    tokens = tokens_of(files)
    batch = tokens.batch(seed=3, first=35, sequences=7)
    assert batch.shape == (7, CTX + 1) and batch.dtype == np.int64
    text = np.fromfile(files.train, dtype=np.uint16)
    for row in batch:
        starts = np.flatnonzero(text[:-CTX] == row[0])
        assert any((text[s : s + CTX + 1] == row).all() for s in starts)


def test_an_epoch_visits_every_window_once(files):
    tokens = tokens_of(files, unique_tokens=40 * CTX)
    sequences = 8
    first = np.concatenate([tokens.batch(1, step * sequences, sequences) for step in range(5)])
    second = np.concatenate([tokens.batch(1, 40 + step * 5, 5) for step in range(8)])
    key = [tuple(row) for row in first]
    assert len(set(key)) == 40 == tokens.unique // CTX
    assert set(key) == {tuple(row) for row in second}
    assert key != [tuple(row) for row in second]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 400), st.integers(1, 130), st.integers(0, 80))
def test_a_batch_does_not_depend_on_what_came_before(seed, first, sequences, before):
    tokens = test_a_batch_does_not_depend_on_what_came_before.tokens
    alone = tokens.batch(seed, first, sequences)
    tokens.batch(seed + 1, first + 1, 3)
    assert (tokens.batch(seed, first, sequences) == alone).all()
    tokens.batch(seed, max(0, first - before), 1)
    assert (tokens.batch(seed, first, sequences) == alone).all()
    # the order of the data does not depend on how it is cut into batches
    assert (tokens.batch(seed, first, 1)[0] == alone[0]).all()


@pytest.fixture(autouse=True)
def _tokens_for_property(files):
    test_a_batch_does_not_depend_on_what_came_before.tokens = tokens_of(
        files, unique_tokens=200 * CTX
    )


def test_seeds_differ(files):
    tokens = tokens_of(files)
    assert (tokens.batch(0, 0, 4) != tokens.batch(1, 0, 4)).any()


def test_subsets_are_nested(files):
    small, large = (set(tokens_of(files, unique_tokens=n * CTX).starts) for n in (50, 500))
    assert small < large
    other = set(tokens_of(files, unique_tokens=50 * CTX, data_seed=1).starts)
    assert other != small


def test_subset_larger_than_the_text(files):
    with pytest.raises(ConfigError, match="unique_tokens=1000000000 is not between one context"):
        tokens_of(files, unique_tokens=10**9)


def test_context_longer_than_the_text(files):
    with pytest.raises(ConfigError, match=r"less than one context of model\.n_ctx=1000000"):
        TrainTokens(files, DataConfig(corpus="x"), 10**6)


def test_test_windows_are_fixed_and_nested(files):
    few = held_out_windows(files.test, 10 * CTX, CTX)
    more = held_out_windows(files.test, 100 * CTX, CTX)
    assert few.shape == (10, CTX + 1)
    assert {tuple(w) for w in few} < {tuple(w) for w in more}
    assert (held_out_windows(files.test, 10 * CTX, CTX) == few).all()


def test_more_test_tokens_than_the_split_has(files):
    with pytest.raises(ConfigError, match=r"eval.test_tokens=99999999 is not between one context"):
        held_out_windows(files.test, 99_999_999, CTX)
