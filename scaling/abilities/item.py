"""Items of tasks, their version, and prompts with solved examples before them."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scaling.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A question: which of the choices continues the context? One choice alone is an answer whose
    loss is measured."""

    id: str
    context: str
    choices: tuple[str, ...]
    """Continuations, each with the white space that separates it from the context."""
    gold: int
    """Index of the right choice."""

    @property
    def answer(self) -> str:
        return self.choices[self.gold]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A set of items, the same for all models."""

    name: str
    items: tuple[Item, ...]
    metric: str
    """The main metric (scaling/abilities/names.py)."""
    separator: str | None = None
    """What separates the examples of a prompt; None if a prompt has none."""
    repeats: bool = False
    """A shot is not an example but the answer of the item itself, which the model sees again."""

    @functools.cached_property
    def version(self) -> str:
        """Hash of the items, in 12 hexadecimal digits. Scores compare only within a version."""
        digest = hashlib.sha256(f"{self.separator!r} {self.repeats}\n".encode())
        for item in self.items:
            values = [item.id, item.context, list(item.choices), item.gold]
            digest.update(json.dumps(values, ensure_ascii=True).encode() + b"\n")
        return digest.hexdigest()[:12]

    @property
    def chance(self) -> float:
        """Expected accuracy of a random choice; 0 for an exact match."""
        each = [1 / len(item.choices) if len(item.choices) > 1 else 0.0 for item in self.items]
        return sum(each) / len(each)

    def contexts(self, shots: int) -> list[str]:
        """Return the context of every item after `shots` solved examples.

        The examples are drawn for each item by its name, never the item itself; the last ones of a
        prompt are the prompt of fewer shots. Raises ConfigError if there are too few items.
        """
        if shots == 0:
            return [item.context for item in self.items]
        if self.separator is None:
            raise ConfigError(f"task {self.name!r} takes no examples; evaluate it with --shots 0.")
        if self.repeats:
            return [self.separator.join([item.answer] * shots) for item in self.items]
        if len({item.context for item in self.items}) <= shots:
            raise ConfigError(
                f"task {self.name!r} has {len(self.items)} items, too few to draw {shots} examples "
                "for each; use fewer --shots."
            )
        return [self._prompt(item, shots) for item in self.items]

    def _prompt(self, item: Item, shots: int) -> str:
        draws = Draws(f"shots {self.name} {item.id}")
        examples: list[str] = []
        seen = {item.context}
        while len(examples) < shots:
            other = self.items[draws.below(len(self.items))]
            if other.context not in seen:
                seen.add(other.context)
                examples.append(other.context + other.answer)
        return (self.separator or "").join([*reversed(examples), item.context])


class Draws:
    """Random draws that are the same on every machine and Python.

    Python guarantees that of `Random.random` only, so everything here is made from it.
    """

    def __init__(self, key: str) -> None:
        self._random = random.Random(key).random

    def below(self, n: int) -> int:
        """Return an integer from 0 to n - 1."""
        return int(self._random() * n)

    def shuffled(self, values: Iterable[T]) -> list[T]:
        """Return the values in random order."""
        keyed = [(self._random(), k, value) for k, value in enumerate(values)]
        return [value for _, _, value in sorted(keyed, key=lambda each: each[:2])]

    def sample(self, values: Sequence[T], k: int) -> list[T]:
        """Return k different elements in random order."""
        taken: dict[int, None] = {}
        while len(taken) < min(k, len(values)):
            taken[self.below(len(values))] = None
        return [values[i] for i in taken]


def shuffled_item(id: str, context: str, right: str, wrong: Sequence[str], draws: Draws) -> Item:
    """Return an item whose choices are in random order."""
    order = draws.shuffled(range(len(wrong) + 1))
    choices = [right, *wrong]
    return Item(id, context, tuple(choices[i] for i in order), order.index(0))
