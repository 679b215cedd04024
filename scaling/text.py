"""Text that anyone may have written, as people see it."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that show nothing themselves: control characters (C0, DEL, C1), formats (such
as those that turn the direction of writing), lone surrogates, separators of lines and paragraphs."""


def printable(text: object, encoding: str | None = None) -> str:
    """`text` with control characters escaped, so that it cannot move the cursor, colour, hide or
    reverse what a terminal shows; with an `encoding`, characters as well that this lacks.

    Line ends and tabs stay; '\\r\\n' is a line end.
    """
    said = str(text).replace("\r\n", "\n")
    if not said.replace("\n", "").replace("\t", "").isprintable():
        said = "".join(map(_escaped, said))
    if encoding is not None:
        said = said.encode(encoding, "backslashreplace").decode(encoding)
    return said


def _escaped(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
