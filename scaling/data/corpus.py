"""Prepare a corpus: split its text into train and test, and write token files to the cache.

The default corpus is 19.6 MB of public-domain English prose, read as data from two Python packages;
this repository contains no text. Everything is deterministic: the same text gives the same split,
tokenizer and files, bit for bit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling import progress
from scaling.config import DataConfig
from scaling.data.sources import CORPORA, SOTU, content_hash, source
from scaling.data.tokenizer import PATTERN, Tokenizer, encoder, train_bpe
from scaling.errors import CorpusError
from scaling.files import cache, write_atomic

BLOCK_BYTES = 16_384
"""Approximate size of the paragraph-aligned blocks into which text is split. They are large enough
that only 0.5 % of test words lie in a 13-gram seen in training."""

TEST_PERCENT = 5
"""Percentage of blocks in the test split."""

MINIMUM_BYTES = 20_000
"""Size of the smallest corpus that can be divided into a train and a test split."""


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """Token files of one corpus under one tokenizer."""

    folder: Path
    hash: str
    """Content hash of both token files."""
    vocab_size: int
    train_tokens: int
    test_tokens: int
    train_bytes: int
    test_bytes: int

    @property
    def train(self) -> Path:
        return self.folder / "train.bin"

    @property
    def test(self) -> Path:
        return self.folder / "test.bin"

    def token_bytes(self) -> np.ndarray:
        """Return the length in bytes of every token id [vocab_size]; 0 for end-of-text."""
        tokens = self._tokens()
        if tokens is None:
            return np.array([0] + [1] * 255)
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        lengths[: len(tokens)] = [len(token) for token in tokens]
        return lengths

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.of(self._tokens(), self.vocab_size)

    def _tokens(self) -> list[bytes] | None:
        """Return the tokenizer's tokens by rank; None if tokens are bytes."""
        path = self.folder / "tokenizer.json"
        if not path.exists():
            return None
        return [base64.b64decode(token) for token in json.loads(path.read_text())["tokens"]]

    def test_of(self, corpus: str) -> Path:
        """Return the test split of another corpus in these tokens, from the cache if it is there.

        The content of a block decides which split it belongs to, so text that two corpora share is
        in the same split in both. Raises CorpusError as :func:`prepare` does.
        """
        from filelock import FileLock

        with _readable(corpus):
            name, known, read = source(DataConfig(corpus=corpus))
            if known is None:
                known = content_hash(read())
            path = self.folder / "others" / f"{name}-{known[:12]}.bin"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                with FileLock(path.with_suffix(".lock")):
                    progress.step(f"preparing the test split of {corpus}")
                    _, test = split(_documents(DataConfig(corpus=corpus), known, read))
                    ids = encoder(self._tokens(), self.vocab_size)(test)
                    write_atomic(path, ids.tobytes())
        return path


def split(documents: Iterable[tuple[str, str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Return (train, test), each a list of blocks of text for every document.

    A block consists of whole paragraphs and has about 16 KB (less for a corpus below 6.5 MB, so
    that about 20 blocks are test). It is test if sha256(block) % 100 < 5.
    """
    sides = [sides for _, *sides in _sides(documents)]
    train, test = ([each[side] for each in sides if each[side]] for side in (0, 1))
    return train, test


def _sides(
    documents: Iterable[tuple[str, str]],
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (name, train blocks, test blocks) of every document."""
    named = list(documents)
    size = min(BLOCK_BYTES, max(512, sum(len(text) for _, text in named) // 400))
    for name, text in named:
        sides: tuple[list[str], list[str]] = ([], [])
        for block in _blocks(text, size):
            digest = int.from_bytes(hashlib.sha256(block.encode()).digest(), "big")
            sides[digest % 100 < TEST_PERCENT].append(block)
        yield name, *sides


def blocks_by_document(data: DataConfig) -> list[tuple[str, list[str], list[str]]]:
    """Return (name, train blocks, test blocks) of every document of a corpus, split as for its
    token files. Raises CorpusError as :func:`prepare` does."""
    progress.step(f"reading the corpus {data.corpus}")
    with _readable(data.corpus):
        _, known, read = source(data)
        known = content_hash(read()) if known is None else known
        return list(_sides(_documents(data, known, read)))


def _blocks(text: str, size: int) -> Iterator[str]:
    block: list[str] = []
    length = 0
    # A paragraph keeps the blank lines that follow it; a very long one is cut at line ends.
    for paragraph in re.split(r"(?<=\n\n)(?=[^\n])", text):
        pieces = [paragraph] if len(paragraph) <= 2 * size else paragraph.splitlines(keepends=True)
        for piece in pieces:
            block.append(piece)
            length += len(piece)
            if length >= size:
                yield "".join(block)
                block, length = [], 0
    if block:
        yield "".join(block)


def prepare(data: DataConfig) -> TokenFiles:
    """Return the token files of `data`, from the cache if they are there.

    This is deterministic, safe to call from several processes at once, and quick if the files
    exist. Raises CorpusError if the corpus is missing, unreadable or too small.
    """
    from filelock import FileLock

    limit = f"-{data.max_bytes}" if data.max_bytes else ""
    progress.step(f"reading the corpus {data.corpus}")
    with _readable(data.corpus):
        name, known, read = source(data)
        if known is None:
            known = content_hash(read())
        given = _tokenizer_of(data)
        tokenizer = data.tokenizer + (f"-{given.hash[:12]}" if given else "")
        folder = cache() / "tokens" / f"{name}-{known[:12]}{limit}" / tokenizer
        if (folder / "manifest.json").exists():
            return _open(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{tokenizer}.lock"):
            if not (folder / "manifest.json").exists():
                _write(folder, data, known, read, given)
        return _open(folder)


def _tokenizer_of(data: DataConfig) -> Tokenizer | None:
    """Return the tokenizer that another corpus gives; None if the corpus trains its own."""
    if data.tokenizer == "bytes" or data.tokenizer_of in ("", data.corpus):
        return None
    return prepare(DataConfig(corpus=data.tokenizer_of, tokenizer=data.tokenizer)).tokenizer


def test_text(data: DataConfig) -> tuple[str, Callable[[], list[list[str]]]]:
    """Return (name, reader) of the test split of a corpus as text: blocks by document.

    The name identifies the text. The reader raises CorpusError if the corpus is missing, unreadable
    or too small.
    """
    with _readable(data.corpus):
        name, known, read = source(data)
        known = content_hash(read()) if known is None else known

    def read_blocks() -> list[list[str]]:
        progress.step(f"reading the corpus {data.corpus}")
        with _readable(data.corpus):
            return split(_documents(data, known, read))[1]

    return f"{name}-{known[:12]}{f'-{data.max_bytes}' if data.max_bytes else ''}", read_blocks


def text_name(data: DataConfig, test_of: str | None = None) -> str:
    """Return the name under which :func:`hashes` records the text of `data`, or the test split of
    another corpus in the same tokens."""
    parts = [data.corpus, data.tokenizer, data.tokenizer_of or None, data.max_bytes]
    name = " ".join(str(part) for part in parts if part is not None)
    return name if test_of is None else f"{name}; test of {test_of}"


def hashes(
    data: DataConfig,
    files: TokenFiles,
    others: Mapping[str, Path],
    labels: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return {name: hash} of the texts that a run uses.

    They are the token files of `data` and the test splits {corpus: path} of other corpora in the
    same tokens (:meth:`TokenFiles.test_of`). `labels` are the hashes of files of labels by name.
    """
    found = {text_name(data): files.hash}
    for other, path in others.items():
        found[text_name(data, test_of=other)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found | {f"labels of {name}": found for name, found in (labels or {}).items()}


def check_unchanged(found: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    """Raise CorpusError if one of a text's :func:`hashes` differs from the recorded one."""
    for name, now in found.items():
        before = recorded.get(name, now)
        if before != now:
            raise CorpusError(
                f"the text of corpus {name!r} changed since the sweep began: it had hash "
                f"{before[:16]} and has {now[:16]} now. Losses would not be "
                "comparable. Restore the text and run the same command: it continues with the "
                "remaining runs. Or train on the new text in another results folder."
            )


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn operating-system errors into a CorpusError that names the corpus."""
    try:
        yield
    except OSError as error:
        # The error of a failed write names no file; all writes go to the cache.
        place = cache() if error.filename is None else error.filename
        ours = str(place).startswith(str(cache()))
        raise CorpusError(
            f"could not prepare data.corpus={_short(name)}: {error.strerror or error} "
            f"({_short(str(place))}). "
            + ("SCALING_CACHE names another cache folder." if ours else "Choose another corpus.")
        ) from None


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) < 200 else f"{shown[:100]}...{shown[-50:]}"


def _open(folder: Path) -> TokenFiles:
    m = json.loads((folder / "manifest.json").read_text())
    return TokenFiles(
        folder=folder,
        hash=m["hash"],
        vocab_size=m["vocab_size"],
        train_tokens=m["train"]["tokens"],
        test_tokens=m["test"]["tokens"],
        train_bytes=m["train"]["bytes"],
        test_bytes=m["test"]["bytes"],
    )


def _limited(documents: Iterable[tuple[str, str]], max_bytes: int | None) -> list[tuple[str, str]]:
    if max_bytes is None:
        return list(documents)
    kept: list[tuple[str, str]] = []
    left = max_bytes
    for name, text in documents:
        raw = text.encode()[:left]
        kept.append((name, raw.decode(errors="ignore")))
        left -= len(raw)
        if left <= 0:
            break
    return kept


def _checked(
    documents: Iterable[tuple[str, str]], corpus: str, max_bytes: int | None = None
) -> list[tuple[str, str]]:
    """Return the documents. Raises CorpusError if there is too little text or it is not the pinned
    one."""
    kept = _limited(documents, max_bytes)
    pinned = CORPORA[corpus].hash if corpus in CORPORA else None
    if pinned is not None and not max_bytes and content_hash(kept) != pinned:
        raise CorpusError(
            f"the text of corpus {corpus!r} is not the pinned one (sha256 "
            f"{content_hash(kept)[:12]}..., not {pinned[:12]}...); install {SOTU} again."
        )
    size = sum(len(text.encode()) for _, text in kept)
    if size < MINIMUM_BYTES:
        raise CorpusError(
            f"data.corpus={corpus!r} has {size} bytes of text; a train and a test split need at "
            f"least {MINIMUM_BYTES}."
        )
    return kept


def _documents(
    data: DataConfig, known: str, read: Callable[[], Iterable[tuple[str, str]]]
) -> list[tuple[str, str]]:
    """Return the checked text of a source with the hash `known`. Raises CorpusError."""
    documents = _checked(read(), data.corpus, data.max_bytes)
    # Without this check, token files named after one text could hold another.
    if source(data)[1] not in (None, known):
        raise CorpusError(
            f"data.corpus={data.corpus!r} changed while it was read; start again once it is "
            "complete."
        )
    return documents


def _write(
    folder: Path,
    data: DataConfig,
    known: str,
    read: Callable[[], Iterable[tuple[str, str]]],
    given: Tokenizer | None,
) -> None:
    """Write the token files of a corpus, in the tokens of the tokenizer `given`, or else of its
    own."""
    preparing = f"preparing the corpus {data.corpus} ({data.tokenizer})"
    progress.step(preparing, "reading and splitting")
    documents = _documents(data, known, read)
    train, test = split(documents)
    if not train or not test:
        raise CorpusError(
            f"data.corpus={data.corpus!r}: the text has too few blocks for a train and a test "
            "split; use text with paragraphs or lines."
        )
    tokens: Sequence[bytes] | None = None
    if given is not None:
        tokens = given.tokens
    elif data.tokenizer != "bytes":
        progress.step(preparing, "training the tokenizer")
        tokens = train_bpe(train, data.vocab_size)
    progress.step(preparing, "writing the tokens")
    encode = encoder(tokens, data.vocab_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{data.tokenizer}-", dir=folder.parent))
    try:
        digest = hashlib.sha256()
        manifest: dict = {"corpus": data.corpus, "source_hash": known, "tokenizer": data.tokenizer}
        for side, side_documents in (("train", train), ("test", test)):
            ids = encode(side_documents)
            (partial / f"{side}.bin").write_bytes(ids.data)
            digest.update(ids.tobytes())
            manifest[side] = {
                "tokens": len(ids),
                "bytes": sum(len(b.encode()) for blocks in side_documents for b in blocks),
                "documents": len(side_documents),
            }
        if tokens is not None:
            saved = {"pattern": PATTERN, "tokens": [base64.b64encode(t).decode() for t in tokens]}
            (partial / "tokenizer.json").write_text(json.dumps(saved))
        manifest |= {"vocab_size": data.vocab_size, "hash": digest.hexdigest()}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
        if folder.exists():  # left by an older, interrupted preparation
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
