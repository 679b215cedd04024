"""The held-out text of a corpus as paragraphs, sentences and words.

Every run of white space becomes one space, so that no item can be told by its line ends.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

_END = re.compile(
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bNo\.)(?<!\bMessrs\.)(?<!\b[A-Z]\.)"
    r"(?:(?<=[.!?])|(?<=[.!?][\"')])) (?=[\"'(]?[A-Z])"
)
"""The space between two sentences: not after common abbreviations and initials."""

WORD = re.compile(r"[a-z]+")
"""What counts as a word when a task replaces one: lower case, without punctuation."""


class HeldOutText:
    """Paragraphs, sentences and word counts of held-out text."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        """`documents` are lists of blocks (scaling.data.corpus.split)."""
        self.documents: list[list[list[str]]] = []
        """Sentences by document and paragraph."""
        for blocks in documents:
            paragraphs = [
                _END.split(" ".join(paragraph.split()))
                for block in blocks
                for paragraph in re.split(r"\n\s*\n", block)
                if paragraph.strip()
            ]
            self.documents.append(paragraphs)

    def paragraphs(self) -> Iterator[list[str]]:
        """Yield the sentences of every paragraph."""
        for paragraphs in self.documents:
            yield from paragraphs

    @functools.cached_property
    def words_of_paragraphs(self) -> list[list[str]]:
        """The words of every paragraph, with their punctuation."""
        return [" ".join(sentences).split(" ") for sentences in self.paragraphs()]

    @functools.cached_property
    def counts(self) -> Counter[str]:
        """How often each lower-case word occurs."""
        return Counter(
            bare
            for words in self.words_of_paragraphs
            for word in words
            if WORD.fullmatch(bare := word.strip(".,;:!?\"'()"))
        )

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """Words of at least three letters that occur three times, the rarest first."""
        known = [word for word, n in self.counts.items() if n >= 3 and len(word) >= 3]
        return sorted(known, key=lambda word: (self.counts[word], word))

    @functools.cached_property
    def rank(self) -> dict[str, int]:
        """Index of each word in the vocabulary."""
        return {word: i for i, word in enumerate(self.vocabulary)}
