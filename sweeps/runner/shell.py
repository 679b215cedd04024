"""The words of a command with their values, quoted where a shell reads them.

In a word that is the script of a shell, as in  sh -c 'train --lr {lr} > "{folder}/log"',  a value
is part of one word whatever it contains, so that neither a folder with a space nor a value such as
"1; rm -rf x" becomes code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from scaling.command_run import Value
from sweeps.runner.runner import filled, parts

_SHELL = re.compile(r"(?:.*/)?(?:ba|da|k|z|a)?sh")
_SCRIPT_FOLLOWS = re.compile(r"-[a-zA-Z]*c")


def filled_words(words: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """Return the words of a command with their {placeholders} replaced.

    Raises ValueError for a value that would have to be quoted where that is impossible, beside the
    errors of :func:`sweeps.runner.runner.filled`.
    """
    scripts = _scripts(words)
    return [
        _script(word, values) if place in scripts else filled(word, values)
        for place, word in enumerate(words)
    ]


def unread(words: Sequence[str]) -> list[str]:
    """Return the words of a command that no shell reads: those before the script of one."""
    return list(words[: min(_scripts(words), default=len(words))])


def _scripts(words: Sequence[str]) -> set[int]:
    """Return the places of the words that are scripts of a shell."""
    found = set()
    for place, word in enumerate(words):
        if _SHELL.fullmatch(word):
            for later in range(place + 1, len(words) - 1):
                if not words[later].startswith("-"):
                    break
                if _SCRIPT_FOLLOWS.fullmatch(words[later]):
                    found.add(later + 1)
                    break
    return found


def _script(text: str, values: Mapping[str, Value]) -> str:
    """Return a script with its placeholders replaced by quoted values."""
    script, scanner = "", _Quotes()
    for before, name, how in parts(text):
        script += before
        scanner.read(before)
        if name is not None:
            value = filled(f"{{{name}:{how}}}" if how else f"{{{name}}}", values)
            script += scanner.quoted(name, value)
    return script


class _Quotes:
    """Follows the quotes of a script in the language of POSIX shells."""

    def __init__(self) -> None:
        self._open = [""]
        """The quotes and brackets that are open, outermost first: "'", '"', '(' and '`'."""
        self._heredoc = False
        self._comment = False
        self._last = "\n"

    def read(self, text: str) -> None:
        """Read the next piece of the script."""
        escaped = False
        for sign in text:
            if escaped:
                escaped = False
            elif self._comment:
                self._comment = sign != "\n"
            elif sign == "\\" and self._open[-1] != "'":
                escaped = True
            else:
                self._read_sign(sign)
            self._last = sign

    def _read_sign(self, sign: str) -> None:
        inner = self._open[-1]
        if sign == inner or (inner == "(" and sign == ")"):
            self._open.pop()
        elif inner == "'":
            return
        elif sign in '"`' or (sign == "(" and (inner != '"' or self._last == "$")):
            self._open.append(sign)
        elif inner == '"':
            return
        elif sign == "'":
            self._open.append(sign)
        elif sign == "#" and self._last in " \t\n;(":
            self._comment = True
        elif sign == "<" and self._last == "<":
            self._heredoc = True

    def quoted(self, name: str, value: str) -> str:
        """Return a value as it is written here. Raises ValueError if there is no way."""
        self._last = "x"
        if not value or shlex.quote(value) == value:
            return value
        if self._comment or self._heredoc or "`" in self._open:
            raise ValueError(
                f"the value {value!r} of {{{name}}} cannot be quoted within `...`, after << or in "
                "a comment of a script of a shell; use $(...), or pass it as a word of its own: "
                f"['sh', '-c', 'script with \"$1\"', 'sh', '{{{name}}}']"
            )
        if self._open[-1] == "'":
            return value.replace("'", "'\"'\"'")
        if self._open[-1] == '"':
            return re.sub(r'([\\$`"])', r"\\\1", value)
        return shlex.quote(value)
