"""Tokenizers: a byte-level BPE trained on the corpus, or raw bytes."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2's tokenizer (Radford et al. 2019): words, numbers, punctuation, spaces."""


def train_bpe(train: list[list[str]], vocab_size: int) -> list[bytes]:
    """Train a byte-level BPE with GPT-2's pre-tokenizer; return its tokens by rank.

    There are at most vocab_size - 1 of them, because the last id is end-of-text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((block for blocks in train for block in blocks), trainer)
    byte_of = byte_of_unicode()
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[character] for character in token) for token, _ in by_id]


def byte_of_unicode() -> dict[str, int]:
    """Return the byte for each of GPT-2's 256 printable stand-in characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def encoder(tokens: list[bytes] | None, vocab_size: int) -> Callable[[list[list[str]]], np.ndarray]:
    """Return a function that maps documents to token ids, with end-of-text after each document.

    `tokens` are those of :func:`train_bpe`, or None for raw bytes.
    """
    if tokens is None:  # byte 0, which does not occur in text, is end-of-text

        def encode_bytes(documents: list[list[str]]) -> np.ndarray:
            text = "".join("".join(blocks).replace("\0", "") + "\0" for blocks in documents)
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)

        return encode_bytes
    import tiktoken

    encoding = tiktoken.Encoding(
        "scaling",
        pat_str=PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={"<|endoftext|>": vocab_size - 1},
    )

    def encode(documents: list[list[str]]) -> np.ndarray:
        flat = [block for blocks in documents for block in blocks]
        ids = iter(encoding.encode_ordinary_batch(flat, num_threads=os.cpu_count() or 1))
        parts = []
        for blocks in documents:
            parts += [np.array(next(ids), dtype=np.uint16) for _ in blocks]
            parts.append(np.array([vocab_size - 1], dtype=np.uint16))
        return np.concatenate(parts)

    return encode
