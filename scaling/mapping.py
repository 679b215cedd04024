"""The option --map: COLUMN=SYMBOL pairs as text, parsed and written.

What is in the table stands on the left, its symbol here on the right. A pair splits at its last
`=`. Commas separate pairs, except within `backticks`, quotes, brackets and parentheses. Text
without `=` belongs to the name after it: 'loss, test=L' maps the column 'loss, test'.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from scaling.errors import ConfigError

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_PLAIN = re.compile(r"[^\W\d]\w*")


def parse(options: Iterable[str]) -> dict[str, str]:
    """Return {column: symbol} of the values of --map: ['loss=L,params=N'] -> {'loss': 'L', ...}.

    Raises ConfigError for a value that is not COLUMN=SYMBOL, and for a column with two symbols.
    """
    names: dict[str, str] = {}
    for option in options:
        for pair in _pairs(option):
            column, equals, symbol = (part.strip() for part in pair.rpartition("="))
            if not (equals and column and symbol) or re.search("[`'\"]", symbol):
                raise ConfigError(f"--map {pair.strip()!r} is not COLUMN=SYMBOL, such as loss=L.")
            column = unquoted(column)
            if names.setdefault(column, symbol) != symbol:
                raise ConfigError(
                    f"--map gives the column {column!r} two symbols, {names[column]} and {symbol}; "
                    "keep one of them."
                )
    return names


def option(names: Mapping[str, str]) -> str:
    """Return names as the option --map, quoted for a shell: "--map 'val/loss=L,params=N'"."""
    pairs = [f"{_quoted(column)}={symbol}" for column, symbol in names.items()]
    values = [",".join(pairs)]
    if not _means(values, names):  # quotes or brackets of two names match each other
        values = pairs
    return " ".join(f"--map {shlex.quote(value)}" for value in values)


def alternatives(columns: Iterable[str], symbol: str) -> str:
    """Return one --map for each of the columns, joined by "or"."""
    return " or ".join(option({column: symbol}) for column in columns)


def in_expression(column: str) -> str:
    """Return a column's name as an expression takes it: in backticks unless it is a plain word."""
    return column if _PLAIN.fullmatch(column) and column.isascii() else f"`{column}`"


def unquoted(column: str) -> str:
    """Return a name without the quotes around all of it, if there are any."""
    match = re.fullmatch(r"`([^`]+)`|'([^']+)'|\"([^\"]+)\"", column, re.DOTALL)
    return next(filter(None, match.groups())) if match else column


def _quoted(column: str) -> str:
    """Return a name such that a pair with it is parsed as meant."""
    for text in (column, f"`{column}`", f'"{column}"', f"'{column}'"):
        if _means([f"a=b,{text}=x,c=d"], {"a": "b", column: "x", "c": "d"}):
            return text
    return column


def _means(values: list[str], names: Mapping[str, str]) -> bool:
    """Return whether values of --map are parsed as `names`."""
    try:
        return parse(values) == dict(names)
    except ConfigError:
        return False


def _pairs(text: str) -> Iterator[str]:
    """Yield the pairs of one value; a part without `=` is joined to the next one."""
    before = ""
    for part in _split(text):
        whole = f"{before},{part}" if before else part
        if "=" in part:
            yield whole
            before = ""
        else:
            before = whole
    if before.strip():
        yield before


def _split(text: str) -> list[str]:
    """Split at the commas outside quotes and brackets, or outside quotes if brackets do not match.

    A single or double quote counts at the start of a part only; elsewhere it is an apostrophe.
    """
    for openings in ("([{", "{", ""):
        parts, start, stack, quote, at = [], 0, [], "", 0
        while at < len(text):
            sign = text[at]
            if quote:
                quote = "" if sign == quote else quote
            elif sign == "\\" and stack:  # an escaped bracket of a pattern
                at += 1
            elif sign == "`" or (sign in "'\"" and not text[start:at].strip()):
                quote = sign if sign in text[at + 1 :] else ""
            elif sign in openings:
                stack.append(_CLOSING[sign])
            elif stack and sign == stack[-1]:
                stack.pop()
            elif sign == "," and not stack:
                parts.append(text[start:at])
                start = at + 1
            at += 1
        if not stack:
            break
    return [*parts, text[start:]]
