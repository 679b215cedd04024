"""Tasks in files of one JSON object per line.

    {"id": "1", "context": "The sky is", "choices": [" blue", " green"], "gold": 0}
    {"id": "1", "context": "The sky is", "answer": " blue"}

White space between context and continuation belongs to the continuation; white space at the end of
a context is moved there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scaling.abilities.item import Item, Task
from scaling.abilities.names import EXACT, SUM, TASKS
from scaling.errors import ConfigError
from scaling.files import EncodingError, read_text

SEPARATOR = "\n\n"
"""What separates the examples of a prompt."""

_FORMS = (
    'a line is {"id": ..., "context": ..., "choices": [...], "gold": 0} or '
    '{"id": ..., "context": ..., "answer": ...}'
)


def task_of(path: Path) -> Task:
    """Return the task in a file; its name is that of the file without its ending.

    Raises ConfigError, which names file and line, for anything that is not an item, ids that occur
    twice, and a file with items of both forms.
    """
    try:
        lines = read_text(path).split("\n")
    except EncodingError as error:
        raise ConfigError(f"{path} is {error}.") from None
    except OSError as error:
        raise ConfigError(f"--file {path}: {error.strerror or error}.") from None
    if path.stem in TASKS:
        raise ConfigError(
            f"--file {path}: {path.stem!r} is the name of another task; rename the file."
        )
    items: list[Item] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        item = _item(line, where)
        if item.id in seen:
            raise ConfigError(
                f"{where}: the id {item.id!r} is also that of line {seen[item.id]}; give every "
                "line its own."
            )
        seen[item.id] = number
        if items and (len(items[0].choices) > 1) != (len(item.choices) > 1):
            here, before = ("choices", "answer") if len(item.choices) > 1 else ("answer", "choices")
            raise ConfigError(
                f"{where} has {here!r}, but the lines before have {before!r}; use one file for "
                "each form."
            )
        items.append(item)
    if not items:
        raise ConfigError(f"{path} has no items; {_FORMS}.")
    metric = SUM if len(items[0].choices) > 1 else EXACT
    return Task(name=path.stem, items=tuple(items), metric=metric, separator=SEPARATOR)


def _item(line: str, where: str) -> Item:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error}); {_FORMS}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is no JSON object; {_FORMS}.")
    id, context = values.get("id"), values.get("context")
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise ConfigError(f"{where}: 'id' is {_shown(id)}; it must be a text or a whole number.")
    if not isinstance(context, str):
        raise ConfigError(f"{where}: 'context' is {_shown(context)}; it must be a text.")
    if "choices" in values:
        choices, gold = _choices(values, where)
    else:
        choices, gold = (_continuation(values.get("answer"), "'answer'", where),), 0
    end = len(context.rstrip())
    choices = tuple(context[end:] + choice for choice in choices)
    for text in (context, *choices):
        if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigError(f"{where} holds half of a surrogate pair, which is no text.")
    return Item(str(id), context[:end], choices, gold)


def _choices(values: dict[str, Any], where: str) -> tuple[tuple[str, ...], int]:
    """Return the checked choices of a line and the index of the right one."""
    choices, gold = values["choices"], values.get("gold")
    if "answer" in values:
        raise ConfigError(f"{where} has both 'choices' and 'answer'; {_FORMS}.")
    if not isinstance(choices, list) or len(choices) < 2:
        raise ConfigError(
            f"{where}: 'choices' is {_shown(choices)}; it must be a list of at least two texts."
        )
    if gold is None:
        raise ConfigError(f"{where} has no 'gold', the index of the right choice, from 0.")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise ConfigError(
            f"{where}: 'gold' is {_shown(gold)}; it must be a whole number from 0 to "
            f"{len(choices) - 1}, the index of the right choice."
        )
    names = (f"choice {k}" for k in range(len(choices)))
    texts = [_continuation(c, name, where) for c, name in zip(choices, names, strict=True)]
    if texts.count(texts[gold]) > 1:
        raise ConfigError(f"{where}: the right choice {_shown(texts[gold])} occurs twice.")
    return tuple(texts), gold


def _continuation(value: object, name: str, where: str) -> str:
    if value is None:
        raise ConfigError(f"{where} has no {name.strip(chr(39))}; {_FORMS}.")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: {name} is {_shown(value)}; it must be a text.")
    return value


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
