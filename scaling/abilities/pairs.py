"""Tasks of two choices that differ in one word, or in the order of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.abilities.held_out import WORD, HeldOutText
from scaling.abilities.item import Draws, Item, shuffled_item

ITEMS = 1000
"""Items of a task, if the text has as many."""

_BEFORE, _LEAST = 20, 4
"""Most and fewest words of a context."""

_SWAPPED_AFTER = 2
"""Words that follow two swapped ones in a choice."""


@dataclass(frozen=True)
class Contrast:
    """Forms of which one is right."""

    forms: tuple[tuple[str, str], ...]
    after: int
    """Words after the form that belong to a choice: what tells the form may follow it."""


CONTRASTS = {
    "agree": Contrast((("is", "are"), ("was", "were"), ("has", "have")), after=0),
    "case": Contrast(
        (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me")), after=1
    ),
    "article": Contrast((("a", "an"),), after=1),
    "this_these": Contrast((("this", "these"), ("that", "those")), after=1),
}


def contrast_items(name: str, text: HeldOutText) -> list[Item]:
    """Return items of a contrast, each form right equally often within its pair.

    A model that ignores the context is then right in half of them.
    """
    contrast, draws = CONTRASTS[name], Draws(f"task {name}")
    other = {a: b for pair in contrast.forms for a, b in (pair, pair[::-1])}
    found: dict[str, list[tuple[list[str], int]]] = {form: [] for form in other}
    for words in text.words_of_paragraphs:
        for i in range(_LEAST, len(words) - contrast.after):
            if words[i] in other:
                found[words[i]].append((words, i))
    available = [min(len(found[a]), len(found[b])) for a, b in contrast.forms]
    wanted = _shared_out(ITEMS // 2, available)
    chosen = [
        (words, i)
        for pair, n in zip(contrast.forms, wanted, strict=True)
        for form in pair
        for words, i in draws.sample(found[form], n)
    ]
    items = []
    for k, (words, i) in enumerate(draws.shuffled(chosen)):
        rest = words[i + 1 : i + 1 + contrast.after]
        right, wrong = (" " + " ".join([form, *rest]) for form in (words[i], other[words[i]]))
        items.append(shuffled_item(f"{name}-{k}", before(words, i), right, [wrong], draws))
    return items


def swap_items(text: HeldOutText) -> list[Item]:
    """Return passages whose next words are in order, or two neighbours of them swapped."""
    draws = Draws("task swap")
    places = [
        (words, i)
        for words in text.words_of_paragraphs
        for i in range(_LEAST, len(words) - 1 - _SWAPPED_AFTER)
        if WORD.fullmatch(words[i]) and WORD.fullmatch(words[i + 1]) and words[i] != words[i + 1]
    ]
    items = []
    for k, (words, i) in enumerate(draws.sample(places, ITEMS)):
        rest = words[i + 2 : i + 2 + _SWAPPED_AFTER]
        right, wrong = (
            " " + " ".join([*two, *rest])
            for two in ((words[i], words[i + 1]), (words[i + 1], words[i]))
        )
        items.append(shuffled_item(f"swap-{k}", before(words, i), right, [wrong], draws))
    return items


def before(words: Sequence[str], i: int, most: int = _BEFORE) -> str:
    """Return the up to `most` words before word i."""
    return " ".join(words[max(0, i - most) : i])


def _shared_out(total: int, available: Sequence[int]) -> list[int]:
    """Return how many to take of each kind: equally many, and more of others where one lacks."""
    taken = [0] * len(available)
    for k, i in enumerate(sorted(range(len(available)), key=lambda i: available[i])):
        taken[i] = min(available[i], -(-(total - sum(taken)) // (len(available) - k)))
    return taken
