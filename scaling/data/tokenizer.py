"""Tokenizers: a byte-level BPE trained on the corpus, or raw bytes."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2's tokenizer (Radford et al. 2019): words, numbers, punctuation, spaces."""


END_OF_TEXT = "<|endoftext|>"
"""Name of the end-of-text token. Text never encodes to it."""

_BYTES = {bytes([b]) for b in range(256)}


@dataclass(frozen=True)
class Tokenizer:
    """Maps text to token ids and back."""

    tokens: tuple[bytes, ...] | None
    """Tokens by rank, as :func:`train_bpe` returns them; None if tokens are raw bytes."""
    vocab_size: int
    """Number of token ids, end-of-text included."""
    end_of_text: int
    """Id of the token between documents."""
    hash: str
    """SHA-256 of what identifies the tokenizer: pattern, tokens and vocabulary."""

    @classmethod
    def of(cls, tokens: Iterable[bytes] | None, vocab_size: int) -> Tokenizer:
        """Return the tokenizer with these tokens by rank, or that of raw bytes.

        Raises ValueError if the tokens do not fit into the vocabulary, or repeat.
        """
        tokens = None if tokens is None else tuple(tokens)
        if tokens is None:
            if vocab_size != 256:
                raise ValueError(f"a vocabulary of bytes has 256 ids, not {vocab_size}")
        elif len(tokens) >= vocab_size:
            raise ValueError(f"its {len(tokens)} tokens exceed the vocabulary of {vocab_size}")
        elif len(known := set(tokens)) < len(tokens):
            raise ValueError("two of its tokens are equal")
        elif not known >= _BYTES:
            raise ValueError("its tokens lack some single bytes")
        identity = json.dumps(_identity(tokens, vocab_size), sort_keys=True)
        end_of_text = 0 if tokens is None else vocab_size - 1
        return cls(tokens, vocab_size, end_of_text, hashlib.sha256(identity.encode()).hexdigest())

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Tokenizer:
        """Return the tokenizer of a :meth:`record`.

        Raises ValueError for a record that is damaged or of another pattern.
        """
        try:
            coded, vocab_size = record["tokens"], record["vocab_size"]
            if coded is not None and record["pattern"] != PATTERN:
                raise ValueError(f"its pattern {record['pattern']!r} is not the one used here")
            tokens = None if coded is None else [base64.b64decode(t, validate=True) for t in coded]
            found = cls.of(tokens, vocab_size)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is incomplete ({type(error).__name__}: {error})") from None
        if record.get("hash") != found.hash:
            raise ValueError("its hash is not that of its tokens")
        return found

    def record(self) -> dict[str, Any]:
        """Return what identifies the tokenizer as plain JSON values, and its hash."""
        own = {"end_of_text": self.end_of_text, "hash": self.hash}
        return _identity(self.tokens, self.vocab_size) | own

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without end-of-text.

        Raw bytes leave out the character NUL, whose byte is end-of-text.
        """
        # Lone surrogates, which no UTF-8 text contains, become the replacement character.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if self.tokens is None:
            return list(text.replace("\0", "").encode())
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids. End-of-text and ids without a token are left out.

        Bytes that are not UTF-8 become the replacement character. Raises ValueError for an id
        outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"token {i} is outside the vocabulary of {self.vocab_size}")
        if self.tokens is None:
            data = bytes(i for i in ids if i != self.end_of_text)
        else:
            data = b"".join(self.tokens[i] for i in ids if i < len(self.tokens))
        return data.decode("utf-8", "replace")

    @functools.cached_property
    def _encoding(self) -> Any:
        assert self.tokens is not None
        return _tiktoken(self.tokens, self.vocab_size)


def _identity(tokens: tuple[bytes, ...] | None, vocab_size: int) -> dict[str, Any]:
    if tokens is None:
        return {"kind": "bytes", "pattern": None, "tokens": None, "vocab_size": vocab_size}
    coded = [base64.b64encode(token).decode() for token in tokens]
    return {"kind": "bpe", "pattern": PATTERN, "tokens": coded, "vocab_size": vocab_size}


def _tiktoken(tokens: Iterable[bytes], vocab_size: int) -> Any:
    """Return the tiktoken.Encoding of tokens by rank."""
    import tiktoken

    return tiktoken.Encoding(
        "scaling",
        pat_str=PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={END_OF_TEXT: vocab_size - 1},
    )


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


def encoder(
    tokens: Sequence[bytes] | None, vocab_size: int
) -> Callable[[list[list[str]]], np.ndarray]:
    """Return a function that maps documents to token ids, with end-of-text after each document.

    `tokens` are those of :func:`train_bpe`, or None for raw bytes.
    """
    if tokens is None:  # byte 0, which does not occur in text, is end-of-text

        def encode_bytes(documents: list[list[str]]) -> np.ndarray:
            text = "".join("".join(blocks).replace("\0", "") + "\0" for blocks in documents)
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)

        return encode_bytes
    encoding = _tiktoken(tokens, vocab_size)

    def encode(documents: list[list[str]]) -> np.ndarray:
        flat = [block for blocks in documents for block in blocks]
        ids = iter(encoding.encode_ordinary_batch(flat, num_threads=os.cpu_count() or 1))
        parts = []
        for blocks in documents:
            parts += [np.array(next(ids), dtype=np.uint16) for _ in blocks]
            parts.append(np.array([vocab_size - 1], dtype=np.uint16))
        return np.concatenate(parts)

    return encode
