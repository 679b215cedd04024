"""What the names that a command reports mean: columns of our tables, with conversions by name.

A declared name counts first, then our own names (L, N, D, S, ...), then names that say what they
hold, such as val_loss or eval/perplexity (scaling.column_words). All other names stay as they are
and become columns of the table.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scaling.column_words import Meaning, meaning
from scaling.columns import COLUMNS
from scaling.command_run import Value
from scaling.text import printable
from scaling.units import number

POINT_COLUMNS = ("S", "D", "L", "L_train", "lr")
"""Columns of a point of a learning curve."""

_EXACT = frozenset(c.name for c in COLUMNS) | {"L_train", "lr"}
_SYNONYMS = {"step": "S", "steps": "S", "tokens": "D"}
_OF_POINT = {"step": "S", "_step": "S", "iter": "S", "global_step": "S", "trainer/global_step": "S"}
_NUMBERS = frozenset(c.name for c in COLUMNS if c.dtype in ("int", "float") and not c.is_config)
_NUMBERS |= {"L_train"}
_TAKEN_BY_NAME = frozenset({"L", "L_train", "L_stderr", "N", "N_total", "D", "S", "B", "lr"})
"""Columns that a name may fill by its meaning. Others need their own name or a declaration."""

_OURS, _GIVEN = (9,), (99,)
"""Ranks of our own names, and of those that the spec declares."""

_LONGEST_NAME, _LONGEST_TEXT, _MOST_COLUMNS = 120, 1000, 200

_CONVERSIONS: dict[str, tuple[str, Callable[[float], float]]] = {
    "perplexity": ("log({})", lambda x: math.log(x) if x > 0 else math.nan),
    "bits": ("log(2)*{}", lambda x: math.log(2) * x),
    "log10 perplexity": ("log(10)*{}", lambda x: math.log(10) * x),
    "log2 perplexity": ("log(2)*{}", lambda x: math.log(2) * x),
}
"""{what a name says that a loss is: the conversion to nats per token}."""

_DECLARED = re.compile(
    r"(?:log\((?P<log>[^()]+)\)|(?P<factor>log\(2\)|[-+0-9.eE]+)\s*\*\s*(?P<name>.+))"
)


@dataclass(frozen=True)
class Target:
    """The column that a reported name fills."""

    column: str
    rank: tuple[int, ...] = ()
    """If several names stand for one column, that of the highest rank counts."""
    convert: Callable[[float], float] | None = None
    said: str = ""
    """The conversion as an expression, such as log(val_ppl); empty if there is none."""

    @property
    def is_guess(self) -> bool:
        """Whether the name fills a size of the run by its meaning alone."""
        return self.column in ("N", "N_total", "D", "S", "B") and self.rank not in (_OURS, _GIVEN)


class Names:
    """Which column each reported name fills."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        """`columns` are declared: {column: name or log(name) or factor*name}."""
        self._declared: dict[str, list[Target]] = {}
        for column, text in columns.items():
            column = _SYNONYMS.get(column, column)
            name, target = _declared(column, text)
            self._declared.setdefault(name, []).append(target)
        self._given = {t.column for targets in self._declared.values() for t in targets}
        self.ours = _TAKEN_BY_NAME | {"lr_peak"} | self._given
        """Columns by which a report is recognised."""

    def columns_of(
        self, values: Mapping[str, Any], *, point: bool
    ) -> tuple[dict[str, Value], dict[str, str]]:
        """Return {column: value} of one report, and {column: expression} of the conversions made.

        `point` says that the report is a point of a curve.

        Of several names for one column, the one that says most counts; the others keep their
        names. Values that are not plain become text or are left out.
        """
        found: dict[str, Value] = {}
        conversions: dict[str, str] = {}
        ranks: dict[str, tuple[int, ...]] = {}
        rest: list[tuple[str, Any]] = []
        for name, value in values.items():
            targets = self.targets(str(name), point)
            for target in targets:
                used = _value(target.column, value)
                if used is None or (used == 0 and not point and target.is_guess):
                    continue  # a size of 0 is a counter that was not used
                if target.convert is not None and isinstance(used, int | float):
                    used = target.convert(float(used))
                if target.column not in found or target.rank > ranks[target.column]:
                    found[target.column], ranks[target.column] = used, target.rank
                    conversions[target.column] = target.said
            if not targets or all(t.rank != ranks.get(t.column) for t in targets):
                rest.append((str(name), value))
        for name, value in rest[:_MOST_COLUMNS]:
            column, own = own_name(name), _plain(value)
            column = f"reported_{column}" if column in _EXACT else column
            if own is not None and column not in found:
                found[column] = own
        return found, conversions

    def targets(self, name: str, point: bool) -> list[Target]:
        """Return the columns that a name fills; none if it is a name of its own."""
        if name in self._declared:
            return self._declared[name]
        if point and name in _OF_POINT and "S" not in self._given:
            return [Target("S", (1,))]
        if name in _EXACT:
            column = "lr_peak" if name == "lr" and not point else name
            return [] if column in self._given else [Target(column, _OURS)]
        target = _by_meaning(name, point)
        return [target] if target and target.column not in self._given else []


def own_name(name: str) -> str:
    """Return the name of a column for a reported name that is not one of ours."""
    return printable(name).replace("\n", " ").strip()[:_LONGEST_NAME] or "unnamed"


def _declared(column: str, text: str) -> tuple[str, Target]:
    match = _DECLARED.fullmatch(text.strip())
    if match and match["log"]:
        _, convert = _CONVERSIONS["perplexity"]
        return match["log"].strip(), Target(column, _GIVEN, convert, text.strip())
    if match:
        factor = math.log(2) if match["factor"].startswith("log") else float(match["factor"])
        return match["name"].strip(), Target(column, _GIVEN, lambda x: factor * x, text.strip())
    what = meaning(text)
    if column in ("L", "L_train") and what is not None and what.function in _CONVERSIONS:
        shown, convert = _CONVERSIONS[what.function]
        return text, Target(column, _GIVEN, convert, shown.format(text))
    return text, Target(column, _GIVEN)


@functools.lru_cache(maxsize=4096)
def _by_meaning(name: str, point: bool) -> Target | None:
    what = meaning(name)
    if what is None:
        return None
    column = _column(what, point)
    if column not in _TAKEN_BY_NAME:
        return None
    if what.symbol == "L":
        if what.function not in ("", *_CONVERSIONS):
            return None
        if what.function:
            shown, convert = _CONVERSIONS[what.function]
            return Target(column, what.rank, convert, shown.format(name))
    elif what.function:
        return None
    if what.scale != 1:
        scale = what.scale
        return Target(column, what.rank, lambda x: scale * x, f"{scale:g}*{name}")
    return Target(column, what.rank)


def _column(what: Meaning, point: bool) -> str:
    """Return the column that a meaning stands for.

    Trainers print the training loss as `loss` beside each step, and the held-out one as `loss` of
    a final report.
    """
    if what.symbol == "L":
        train = what.kind == "training" or (point and not what.kind and not what.function)
        return "L_train" if train else "L"
    if what.symbol == "N":
        return {"total": "N_total", "active": ""}.get(what.kind, "N")
    if what.symbol == "lr_peak":
        return "lr" if point else ""
    return what.symbol


def _value(column: str, value: Any) -> Value | None:
    """Return a value for one of our columns; None if it is none."""
    if column not in _NUMBERS and column != "lr":
        return _plain(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        return as_number(value)
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int | float) else None


def as_number(text: str) -> float | int | None:
    """Return the number that a text writes, such as 1,000, 3e-4, 1.2M or nan; None if none."""
    text = text.strip().strip("\"'").rstrip(",;")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        pass
    try:
        value = number(text)
    except ValueError:
        return None
    return int(value) if value % 1 == 0 and abs(value) < 2**53 else value


def _plain(value: Any) -> Value | None:
    if hasattr(value, "item") and not isinstance(value, str):
        try:
            value = value.item()
        except (ValueError, TypeError, RuntimeError):
            return None
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else float(value)
    return printable(value)[:_LONGEST_TEXT] if isinstance(value, str) else None
