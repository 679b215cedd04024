"""The tasks by name, made from the held-out text of a corpus by a fixed protocol.

The same text gives the same items, for every model whatever its tokenizer and context. The items
are cached beside the token files; their hash is the version of the task.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from scaling import progress
from scaling.abilities import few_shot, pairs, passages
from scaling.abilities.held_out import HeldOutText
from scaling.abilities.item import Item, Task
from scaling.abilities.names import FEW_SHOT_TASKS, MAIN, check_names
from scaling.config import DataConfig
from scaling.data.corpus import test_text
from scaling.errors import ConfigError
from scaling.files import cache, read_bytes, write_atomic

PROTOCOL = 1
"""Version of the protocol. Raise it with every change of the items that a text gives: cached items
are then made anew."""

ITEMS: dict[str, Callable[[HeldOutText], list[Item]]] = {
    **{name: functools.partial(pairs.contrast_items, name) for name in pairs.CONTRASTS},
    "swap": pairs.swap_items,
    "last_word": passages.last_word_items,
    "last_word_context": passages.last_word_context_items,
    "next_sentence": passages.next_sentence_items,
    "next_sentence_pair": passages.next_sentence_pair_items,
    "copy": few_shot.copy_items,
    "reverse": few_shot.reverse_items,
    "addition": few_shot.addition_items,
    "plurals": few_shot.plurals_items,
    "capitals": few_shot.capitals_items,
    "repeat": passages.repeat_items,
}
"""Functions that make the items of each task from held-out text."""


def make(name: str, text: HeldOutText) -> Task:
    """Return a task made from held-out text, with no items if the text has none."""
    return _task(name, ITEMS[name](text))


def _task(name: str, items: Iterable[Item]) -> Task:
    separator = few_shot.SEPARATOR if name in FEW_SHOT_TASKS else None
    return Task(
        name=name,
        items=tuple(items),
        metric=MAIN[name],
        separator="" if name == "repeat" else separator,
        repeats=name == "repeat",
    )


def tasks_of(data: DataConfig, names: Iterable[str]) -> list[Task]:
    """Return tasks made from the held-out text of a corpus, from the cache if they are there.

    Raises ConfigError for a name that is no task and for a text without items for it, and
    CorpusError if the corpus cannot be read.
    """
    names = list(dict.fromkeys(names))
    check_names(names)
    text_name, read = test_text(data)
    folder = cache() / "tasks" / f"{text_name}-protocol-{PROTOCOL}"
    found = {name: task for name in names if (task := _cached(folder / f"{name}.json", name))}
    if missing := [name for name in names if name not in found]:
        text = HeldOutText(read())
        folder.mkdir(parents=True, exist_ok=True)
        for name in missing:
            progress.step("making the items of tasks", name)
            task = found[name] = make(name, text)
            items = [[i.id, i.context, i.choices, i.gold] for i in task.items]
            write_atomic(folder / f"{name}.json", json.dumps([task.version, items]).encode())
    for name, task in found.items():
        if not task.items:
            others = [other for other in FEW_SHOT_TASKS if other not in ("plurals", "capitals")]
            raise ConfigError(
                f"the held-out text of data.corpus={data.corpus!r} has no items for task {name!r}: "
                f"it needs English prose. Leave the task out, or use {', '.join(others)} or --file."
            )
    return [found[name] for name in names]


def _cached(path: Path, name: str) -> Task | None:
    """Return a task from the cache; None if it is missing, or not as it was written."""
    try:
        version, items = json.loads(read_bytes(path))
        task = _task(
            name, (Item(i, text, tuple(choices), gold) for i, text, choices, gold in items)
        )
        return task if task.version == version else None
    except (OSError, ValueError, TypeError):
        return None
