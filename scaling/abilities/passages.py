"""Tasks about the last word of a passage and the sentence that follows it."""

from __future__ import annotations

from collections.abc import Iterator

from scaling.abilities.held_out import WORD, HeldOutText
from scaling.abilities.item import Draws, Item, shuffled_item
from scaling.abilities.pairs import ITEMS, before

_PASSAGE, _SHORTEST_PASSAGE = 32, 12
"""Most and fewest words before a last word."""

_NEAR = 20
"""Words of like frequency: those at most this far in the vocabulary."""

_SENTENCE = 10
"""Words of a sentence that are a choice: its first ones."""

_SENTENCES_BEFORE = 24
"""Most words before a next sentence."""

_WORDS_REPEATED, _BYTES_REPEATED = 8, 40
"""Words of a passage that is repeated, and its most bytes."""


def last_word_items(text: HeldOutText) -> list[Item]:
    """Return passages with their last word and three words of like frequency."""
    draws = Draws("task last_word")
    vocabulary, rank = text.vocabulary, text.rank
    places = [place for place in _last_words(text) if place[1] in rank]
    items = []
    for k, (context, word) in enumerate(draws.sample(places, ITEMS)):
        start = min(max(0, rank[word] - _NEAR), max(0, len(vocabulary) - 2 * _NEAR - 1))
        near = [w for w in vocabulary[start : start + 2 * _NEAR + 1] if w != word]
        if len(near) >= 3:
            wrong = [f" {w}" for w in draws.sample(near, 3)]
            items.append(shuffled_item(f"last_word-{k}", context, f" {word}", wrong, draws))
    return items


def last_word_context_items(text: HeldOutText) -> list[Item]:
    """Return passages with their last word and three other words of the passage."""
    draws = Draws("task last_word_context")
    items: list[Item] = []
    places = [place for place in _last_words(text) if len(place[1]) >= 4]
    for context, word in draws.shuffled(places):
        if len(items) == ITEMS:
            break
        words = dict.fromkeys(w for w in context.split(" ")[:-1] if WORD.fullmatch(w))
        others = [w for w in words if len(w) >= 4 and w != word]
        if len(others) >= 3:
            wrong = [f" {w}" for w in draws.sample(others, 3)]
            name = f"last_word_context-{len(items)}"
            items.append(shuffled_item(name, context, f" {word}", wrong, draws))
    return items


def _last_words(text: HeldOutText) -> Iterator[tuple[str, str]]:
    """Yield (the words before, the last word) of sentences that end in a lower-case word."""
    for sentences in text.paragraphs():
        words: list[str] = []
        for sentence in sentences:
            words += sentence.split(" ")
            last = words[-1].rstrip(".!?\"')")
            if len(words) > _SHORTEST_PASSAGE and len(last) >= 3 and WORD.fullmatch(last):
                yield before(words, len(words) - 1, _PASSAGE), last


def next_sentence_items(text: HeldOutText) -> list[Item]:
    """Return passages with the next sentence and three others of the same document."""
    draws = Draws("task next_sentence")
    items: list[Item] = []
    places = [
        (number, context, following)
        for number, paragraphs in enumerate(text.documents)
        for context, following in _following(paragraphs)
    ]
    beginnings = [_beginnings(paragraphs) for paragraphs in text.documents]
    for number, context, following in draws.shuffled(places):
        others = [b for b in beginnings[number] if b != following]
        if len(items) == ITEMS:
            break
        if len(others) >= 3:
            wrong = draws.sample(others, 3)
            name = f"next_sentence-{len(items)}"
            items.append(shuffled_item(name, context, following, wrong, draws))
    return items


def next_sentence_pair_items(text: HeldOutText) -> list[Item]:
    """Return passages with the next sentence and a random one (Devlin et al. 2019)."""
    draws = Draws("task next_sentence_pair")
    places = [place for paragraphs in text.documents for place in _following(paragraphs)]
    everywhere = list(
        dict.fromkeys(b for paragraphs in text.documents for b in _beginnings(paragraphs))
    )
    items = []
    for k, (context, following) in enumerate(draws.sample(places, ITEMS)):
        wrong = [b for b in draws.sample(everywhere, 2) if b != following][:1]
        if wrong:
            name = f"next_sentence_pair-{k}"
            items.append(shuffled_item(name, context, following, wrong, draws))
    return items


def _beginnings(paragraphs: list[list[str]]) -> list[str]:
    """Return the different beginnings of sentences that are long enough."""
    found = (
        " " + " ".join(words[:_SENTENCE])
        for sentences in paragraphs
        for sentence in sentences
        if len(words := sentence.split(" ")) >= _SENTENCE
    )
    return list(dict.fromkeys(found))


def _following(paragraphs: list[list[str]]) -> Iterator[tuple[str, str]]:
    """Yield (context, beginning of the next sentence) of every sentence within a paragraph."""
    for sentences in paragraphs:
        words: list[str] = []
        for sentence in sentences:
            new = sentence.split(" ")
            if len(words) >= _SENTENCE and len(new) >= _SENTENCE:
                context = before(words, len(words), _SENTENCES_BEFORE)
                yield context, " " + " ".join(new[:_SENTENCE])
            words += new


def repeat_items(text: HeldOutText) -> list[Item]:
    """Return passages of a few words, whose loss is measured after none or more repetitions."""
    draws = Draws("task repeat")
    places = [
        " " + " ".join(words[i : i + _WORDS_REPEATED])
        for words in text.words_of_paragraphs
        for i in range(0, len(words) - _WORDS_REPEATED + 1, _WORDS_REPEATED)
    ]
    short = [
        passage for passage in dict.fromkeys(places) if len(passage.encode()) <= _BYTES_REPEATED
    ]
    chosen = draws.sample(short, ITEMS)
    return [Item(f"repeat-{k}", "", (passage,), 0) for k, passage in enumerate(chosen)]
