"""Text from untrusted sources, made safe to print."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of invisible characters: controls (C0, DEL, C1), formats (such as those that
reverse the writing direction), lone surrogates, and line and paragraph separators."""


def printable(text: object, encoding: str | None = None) -> str:
    """Return `text` with control characters escaped.

    The text then cannot move the cursor, nor colour, hide or reverse what a terminal shows. With an
    `encoding`, characters that the encoding lacks are escaped as well. Line ends and tabs stay;
    '\\r\\n' is a line end.
    """
    shown = str(text).replace("\r\n", "\n")
    if not shown.replace("\n", "").replace("\t", "").isprintable():
        shown = "".join(map(_escaped, shown))
    if encoding is not None:
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    return shown


def _escaped(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
