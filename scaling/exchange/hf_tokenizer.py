"""Our tokenizers as tokenizer.json of Hugging Face, with the same ids for every text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scaling.data.tokenizer import END_OF_TEXT, PATTERN, byte_of_unicode


def hf_tokenizer(tokens: Sequence[bytes] | None, vocab_size: int) -> Any:
    """Return the `tokenizers.Tokenizer` of our tokens by rank; None stands for raw bytes.

    As in ours, text never becomes end-of-text, and raw bytes leave out the character NUL, whose id
    is end-of-text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as InTurn

    letter_of = {byte: letter for letter, byte in byte_of_unicode().items()}

    def spelt(token: bytes) -> str:
        return "".join(letter_of[byte] for byte in token)

    if tokens is None:
        vocabulary = {letter_of[byte]: byte for byte in range(1, 256)} | {END_OF_TEXT: 0}
        merges: list[tuple[str, str]] = []
    else:
        vocabulary = {spelt(token): rank for rank, token in enumerate(tokens)}
        vocabulary[END_OF_TEXT] = vocab_size - 1
        merges = [(spelt(a), spelt(b)) for a, b in merges_of(tokens)]
    # As tiktoken does, a word that is a token is taken whole. Raw bytes have no words.
    whole = tokens is not None
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole))
    if tokens is None:
        tokenizer.normalizer = normalizers.Replace("\0", "")
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        words = Split(Regex(PATTERN), behavior="isolated")
        tokenizer.pre_tokenizer = InTurn(
            [words, ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def merges_of(tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the merges of a byte-level BPE in order: every way to join two tokens to a third.

    tiktoken, which encodes our text, joins whatever two neighbours form the token of lowest rank.
    """
    known = set(tokens)
    for token in tokens:
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield token[:cut], token[cut:]


def tokenizer_config(n_ctx: int) -> dict[str, Any]:
    """Return tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": n_ctx,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
