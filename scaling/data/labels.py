"""Labelled excerpts: documents of a corpus by author or time, or a file of labels and texts.

Excerpts of a corpus are cut from the blocks of its train and test splits, so that no test excerpt
is part of the text that a language model is trained on. A window holds an excerpt of n_ctx tokens,
then the number of its class. An encoder's begins with [CLS], which takes the place of a token.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.classify_config import ClassifyConfig
from scaling.config import DataConfig, RunConfig
from scaling.data.corpus import TokenFiles, blocks_by_document
from scaling.data.windows import TrainTokens
from scaling.errors import ConfigError, CorpusError
from scaling.files import EncodingError, read_text

LEAST_TEST = 32
"""Classes of a corpus with fewer test excerpts are left out."""

_TEST_SHARE = 0.2
"""Share of the texts of each class that is the test set of a file."""

_CHOICE = 5
"""Philox stream, beside those of scaling/data/masks.py."""

Sides = dict[str, tuple[list[list[int]], list[list[int]]]]
"""{class: token ids of its train and test excerpts}."""


@dataclass(frozen=True, eq=False)
class Excerpts:
    """Labelled excerpts of one task."""

    classes: tuple[str, ...]
    train_nt: np.ndarray
    """All training windows [N, T + 1], class by class."""
    counts: tuple[int, ...]
    """Number of training windows of each class."""
    test_bt: np.ndarray
    """The fixed test windows [B, T + 1]."""

    @property
    def most(self) -> int:
        """Number of training excerpts, if all classes have as many as the rarest."""
        return min(self.counts) * len(self.classes)

    def chosen(self, seed: int, examples: int | None) -> np.ndarray:
        """Return the numbers of the training windows of a run [examples], as many of each class.

        The seed chooses them; fewer are a subset of more.
        """
        n = self.most if examples is None else examples
        if not len(self.classes) <= n <= self.most:
            raise ConfigError(
                f"classify.examples={examples} is not between the {len(self.classes)} classes and "
                f"{self.most}: the rarest class has {min(self.counts)} training excerpts. "
                "Use fewer examples, a shorter model.n_ctx, or more text."
            )
        each, rest = divmod(n, len(self.classes))
        first = np.cumsum((0, *self.counts))
        parts = [
            first[i] + np.sort(_shuffled(count, seed, i)[: each + (i < rest)])
            for i, count in enumerate(self.counts)
        ]
        return np.concatenate(parts)


class LabelledExcerpts(TrainTokens):
    """Windows of a run's training excerpts, in the order of :class:`TrainTokens`."""

    def __init__(self, files: TokenFiles, run: RunConfig) -> None:
        found = excerpts(files, run)
        numbers = found.chosen(run.seed, run.classify.examples)
        self.classes = found.classes
        self.n_ctx = run.model.n_ctx
        self.tokens = found.train_nt.reshape(-1)  # the same for all members of a pack
        self.starts = numbers * found.train_nt.shape[1]
        self._epochs = {}


def excerpts(files: TokenFiles, run: RunConfig) -> Excerpts:
    """Return the labelled excerpts that a run classifies. Raises CorpusError."""
    limit = run.eval.test_tokens // run.model.n_ctx
    content = labels_hash(run.classify)
    return _excerpts(
        files, run.data, run.classify.labels, content, run.model.n_ctx, run.model.masked, limit
    )


def labels_hash(classify: ClassifyConfig) -> str:
    """Return the SHA-256 of a file of labels; empty for labels of documents. Raises CorpusError."""
    if not classify.is_file:
        return ""
    try:
        return hashlib.sha256(Path(classify.labels).expanduser().read_bytes()).hexdigest()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(
            f"classify.labels={classify.labels!r} cannot be read: {reason}. Give a file with one "
            "label and text per line."
        ) from None


@functools.lru_cache(maxsize=8)
def _excerpts(
    files: TokenFiles,
    data: DataConfig,
    labels: str,
    content: str,
    n_ctx: int,
    masked: bool,
    limit: int,
) -> Excerpts:
    if content:
        sides = _sides_of_file(labels, files, n_ctx - masked)
        where = f"classify.labels={labels!r}"
    else:
        sides = _sides_of_corpus(data, labels, files, n_ctx, kept=n_ctx - masked)
        where = f"classify.labels={labels!r} of data.corpus={data.corpus!r}"
        sides = {name: side for name, side in sides.items() if len(side[1]) >= LEAST_TEST}
    if len(sides) < 2:
        one = f" ({next(iter(sides))!r})" if sides else ""
        raise CorpusError(
            f"{where}: {len(sides)} class{'es' * (not sides)}{one}; a classification needs at "
            "least two"
            + ("." if content else f", each with {LEAST_TEST} test excerpts of model.n_ctx={n_ctx}"
            " tokens. Documents are named '<author>-<title>' or begin with a year, as those of "
            "data.corpus='prose' do.")
        )  # fmt: skip
    names = sorted(sides)
    cls = files.vocab_size + 1 if masked else None
    train, test = (
        [
            _windows(sides[name][side], i, n_ctx, cls, files.tokenizer.end_of_text)
            for i, name in enumerate(names)
        ]
        for side in (0, 1)
    )
    shuffled = [rows[_shuffled(len(rows), 0, i)] for i, rows in enumerate(test)]
    each = max(map(len, test)) if content else min(map(len, test))
    in_turn = [rows[j] for j in range(each) for rows in shuffled if j < len(rows)]
    most = len(in_turn) if content else len(names) * max(1, limit // len(names))
    return Excerpts(
        classes=tuple(names),
        train_nt=np.concatenate(train),
        counts=tuple(map(len, train)),
        test_bt=np.stack(in_turn[: min(most, max(2, limit))]),
    )


def _windows(
    texts: list[list[int]], label: int, n_ctx: int, cls: int | None, pad: int
) -> np.ndarray:
    """Return the int64 windows [n, n_ctx + 1] of the excerpts of one class.

    A shorter text is preceded by end-of-text in a decoder, which reads its last token, and followed
    by it in an encoder, which reads [CLS].
    """
    rows = np.full((len(texts), n_ctx + 1), pad, dtype=np.int64)
    rows[:, -1] = label
    for row, ids in zip(rows, texts, strict=True):
        if cls is None:
            row[n_ctx - len(ids) : n_ctx] = ids
        else:
            row[0] = cls
            row[1 : 1 + len(ids)] = ids
    return rows


def _shuffled(n: int, seed: int, number: int) -> np.ndarray:
    """Return a permutation of 0..n-1 for one class."""
    key = ((seed << 64) | (_CHOICE << 56) | number) % (1 << 128)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


# ------------------------------------------------------------------ documents of a corpus


def _sides_of_corpus(
    data: DataConfig, labels: str, files: TokenFiles, length: int, *, kept: int
) -> Sides:
    """Return excerpts of `length` tokens, the first `kept` of each."""
    sides: Sides = {}
    for name, *blocks_of_sides in blocks_by_document(data):
        label = label_of(name, labels)
        if label is None:
            continue
        for side, blocks in zip(sides.setdefault(label, ([], [])), blocks_of_sides, strict=True):
            for block in blocks:
                ids = files.tokenizer.encode(block)
                side += [ids[i : i + kept] for i in range(0, len(ids) - length + 1, length)]
    return sides


def label_of(document: str, labels: str) -> str | None:
    """Return the label that a document's name gives; None if it gives none.

    Names are such as austen-emma.txt, by author, or 1790-Washington-1.txt, by year.
    """
    name = Path(document).name
    year = re.match(r"(1[0-9]{3}|20[0-9]{2})(?!\d)", name)
    if labels == "author":
        author, dash, _ = name.partition("-")
        return author if dash and author and not year else None
    if year is None:
        return None
    years = 10 if labels == "decade" else 50
    return f"{int(year[1]) // years * years}"


# ------------------------------------------------------------------ a file of labels and texts


def _sides_of_file(path: str, files: TokenFiles, length: int) -> Sides:
    by_label: dict[str, dict[str, list[int]]] = {}
    for number, label, text in _lines(path):
        ids = files.tokenizer.encode(text)[:length]
        if not label.strip() or not ids:
            what = "label" if not label.strip() else "text"
            raise CorpusError(
                f"{path}, line {number}: no {what}; each line has a label and a text."
            )
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        by_label.setdefault(label.strip(), {})[digest] = ids
    sides: Sides = {}
    for label, texts in by_label.items():
        if len(texts) < 2 and len(by_label) > 1:
            raise CorpusError(
                f"{path}: label {label!r} has {len(texts)} distinct text; a label needs at least "
                "two, one of them to test with."
            )
        ordered = [texts[digest] for digest in sorted(texts)]
        n = max(1, round(_TEST_SHARE * len(ordered)))
        sides[label] = ordered[n:], ordered[:n]
    return sides


def _lines(path: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, label, text) of a file. Raises CorpusError."""
    try:
        lines: Iterable[str] = read_text(Path(path).expanduser()).split("\n")
    except EncodingError as error:
        raise CorpusError(f"{path} is {error}.") from None
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if path.endswith(".jsonl"):
            yield number, *_json_line(path, number, line)
            continue
        label, tab, text = line.partition("\t")
        if not tab:
            raise CorpusError(
                f"{path}, line {number}: no tab between a label and a text ({line[:40]!r})."
            )
        if (number, label.strip().lower(), text.strip().lower()) != (1, "label", "text"):
            yield number, label, text


def _json_line(path: str, number: int, line: str) -> tuple[str, str]:
    try:
        values = json.loads(line)
        label, text = values["label"], values["text"]
    except KeyError as error:
        raise CorpusError(f"{path}, line {number}: no {error.args[0]}.") from None
    except (ValueError, TypeError, RecursionError):
        raise CorpusError(
            f"{path}, line {number} is no JSON object with a label and a text."
        ) from None
    if not isinstance(text, str) or type(label) not in (str, int):
        raise CorpusError(
            f"{path}, line {number}: the text must be a string, and the label a string or a whole "
            f"number ({line[:40]!r})."
        )
    return str(label), text
