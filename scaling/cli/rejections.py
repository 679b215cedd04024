"""Messages for words of a command line that do not fit: what is wrong, and what would fit."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from scaling.cli.help import usage_line
from scaling.cli.signature import options


def explain(name: str, command: Callable[..., None], words: Sequence[str], printed: str) -> str:
    """Return one line for the words that the parser refused with the text `printed`."""
    known = options(name, command)
    for fault in _faults(name, known, words):
        return fault
    title, lines = _content(printed)
    usage = usage_line(name, command)
    if title.startswith("Required"):
        lacking = [line.strip() for line in lines[1:] if re.match(r" {4}\S", line)]
        return f"`scaling {name}` needs {' and '.join(lacking)}; {usage}."
    text = " ".join(" ".join(lines).split())
    if title.startswith("Unrecognized"):
        extra = text.partition(": ")[2]
        return f"`scaling {name}` has no place for {extra}; {usage}."
    return f"{_ended(_rephrased(text))} `scaling {name} --help` explains every option."


def _rephrased(text: str) -> str:
    """Return a sentence of the parser in the words of our messages."""
    text = text.removeprefix("Error parsing ").rstrip(".")
    if found := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{found[1]} needs a value"
    if found := re.match(r"invalid choice '(.*)' for argument '(.*?)'.*?\((.*)\)$", text):
        known = [each.strip("', ") for each in found[3].split(",")]
        return _not_one_of(found[2].upper(), found[1], [each for each in known if each])
    if found := re.match(
        r"(\S+): no type matching (.*) could be instantiated from \[(.*?)\]", text
    ):
        kinds = " or ".join(kind.strip("{}") for kind in found[2].split("|") if kind != "{None}")
        wrong = "is not a number" if kinds == "FLOAT" else f"is not {kinds}"
        return f"{found[1]} {found[3]} {wrong}"
    text = re.sub(r"could not convert string to \w+: (.*)", r"\1 is not a number", text)
    return re.sub(r"^(\S+): (?='.*' is not a number)", r"\1 ", text)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _not_one_of(what: str, given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given.lower(), known, n=1)
    hint = f". Did you mean {near[0]}?" if near else ""
    return f"{what} {given!r} is not one of: {', '.join(known)}{hint}"


def _faults(name: str, known: Mapping[str, tuple[str, ...]], words: Sequence[str]) -> Iterator[str]:
    """Yield a message for each unknown option, missing value and impossible choice."""
    for word, after in zip(words, [*words[1:], None], strict=True):
        if not re.match(r"--[A-Za-z]", word):
            continue
        given, equals, value = word.partition("=")
        option = given.replace("_", "-")
        if option not in known:
            near = _near(option, known)
            hint = f"Did you mean {near}?" if near else f"`scaling {name} --help` lists them all."
            quoted = word if equals or after is None or after[:2] == "--" else f"{word} {after}"
            yield f"{quoted}: `scaling {name}` has no option {given}. {hint}"
            continue
        if not known[option]:
            continue
        chosen = value if equals else after
        if chosen is None or chosen.startswith("--"):
            yield f"{option} needs a value: {_either(known[option])}."
        elif chosen not in known[option]:
            yield _ended(_not_one_of(option, chosen, known[option]))


def _near(option: str, known: Mapping[str, tuple[str, ...]]) -> str:
    """Return the options that may be meant: those with the same last name, or a similar one."""
    name = option.removeprefix("--").rpartition(".")[2]
    same = [each for each in known if each.removeprefix("--").rpartition(".")[2] == name]
    return _either(same[:3] or difflib.get_close_matches(option, known, n=1, cutoff=0.6))


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _content(printed: str) -> tuple[str, list[str]]:
    """Return the title and the lines of the first section of the parser's box.

    Its borders are drawn with lines or, if the terminal lacks these, with spaces.
    """
    rows = [row.rstrip(" \u2502")[2:] for row in printed.splitlines()]
    ends = [i for i, row in enumerate(rows) if row and set(row.strip()) <= {"\u2500", "-"}]
    first = 2 if 1 in ends else 1
    title = printed.partition("\n")[0].strip("\u256d\u2500\u256e ")
    return title, rows[first : next((i for i in ends if i >= first), len(rows))]
