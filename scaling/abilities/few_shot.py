"""Tasks in the style of GPT-3 (Brown et al. 2020, section 3.9): input = output, four choices.

They are short: sixteen examples take up to 280 bytes, or 180 tokens of the tokenizer bpe-1024.
"""

from __future__ import annotations

import itertools

from scaling.abilities.held_out import HeldOutText
from scaling.abilities.item import Draws, Item, shuffled_item
from scaling.abilities.pairs import ITEMS

SEPARATOR = "\n"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHORTEST, _LONGEST = 4, 6
"""Letters of the words that are copied, and so on."""


def copy_items(text: HeldOutText) -> list[Item]:
    """Return words to copy; the other choices are other words."""
    draws, words = Draws("task copy"), _words(text)
    items = []
    for word in draws.sample(words, ITEMS):
        others = draws.sample([w for w in draws.sample(words, 4) if w != word], 3)
        items.append(_item("copy", len(items), word, word, others, draws))
    return items


def reverse_items(text: HeldOutText) -> list[Item]:
    """Return three letters to reverse; the other choices are other orders of them."""
    draws = Draws("task reverse")
    items = []
    for letters in draws.sample(list(itertools.permutations(_LETTERS, 3)), ITEMS):
        right = letters[::-1]
        orders = [order for order in itertools.permutations(letters) if order != right]
        others = [" ".join(order) for order in draws.sample(orders, 3)]
        given, answer = " ".join(letters), " ".join(right)
        items.append(_item("reverse", len(items), given, answer, others, draws))
    return items


def addition_items(text: HeldOutText) -> list[Item]:
    """Return the hundred sums of two digits; the other choices differ by at most three."""
    draws = Draws("task addition")
    items = []
    for a, b in itertools.product(range(10), range(10)):
        near = [n for n in range(max(0, a + b - 3), a + b + 4) if n != a + b]
        others = [str(n) for n in draws.sample(near, 3)]
        items.append(_item("addition", len(items), f"{a} + {b}", str(a + b), others, draws))
    return items


def plurals_items(text: HeldOutText) -> list[Item]:
    """Return words whose plural also occurs; the others are wrong forms and another word."""
    draws = Draws("task plurals")
    nouns = [word for word in _words(text) if _plural(word) in text.counts]
    items = []
    for noun in draws.sample(nouns, ITEMS):
        right = _plural(noun)
        wrong_form = noun + ("s" if right != noun + "s" else "es")
        another = [word for word in draws.sample(nouns, 2) if word != noun]
        others = [noun, wrong_form, *(_plural(word) for word in another[:1])]
        items.append(_item("plurals", len(items), noun, right, others, draws))
    return items


def capitals_items(text: HeldOutText) -> list[Item]:
    """Return words to write with a capital letter; the others are other ways, and another word."""
    draws, words = Draws("task capitals"), _words(text)
    items = []
    for word in draws.sample(words, ITEMS):
        another = [w for w in draws.sample(words, 2) if w != word]
        others = [word, word.upper(), *(w.capitalize() for w in another[:1])]
        items.append(_item("capitals", len(items), word, word.capitalize(), others, draws))
    return items


def _words(text: HeldOutText) -> list[str]:
    return [word for word in text.vocabulary if _SHORTEST <= len(word) <= _LONGEST]


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _item(name: str, k: int, given: str, right: str, others: list[str], draws: Draws) -> Item:
    return shuffled_item(
        f"{name}-{k}", f"{given} =", f" {right}", [f" {other}" for other in others], draws
    )
