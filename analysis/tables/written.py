"""One number as people write it: 1,400,000, 70M, 2.1×10^7, 5.03 ± 0.004, 5.03(4)."""

from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

_MISSING_WORDS = """
nan -nan +nan inf +inf -inf infinity +infinity -infinity ∞ +∞ -∞ none null nil na <na> n/a n.a. n.a
nat - -- --- – — ― ? missing undefined #n/a #na #div/0! #value! #ref! #num! #name? #null! 1.#inf
-1.#inf 1.#qnan -1.#qnan 1.#ind -1.#ind
"""
MISSING = frozenset(["", *_MISSING_WORDS.split()])
"""Words that stand for a missing number, in lower case."""

_GROUP_MARKS = (" ", "\u00a0", "\u2007", "\u2009", "\u202f", "_", "'", "’")
"""Marks between groups of three digits that are never decimal; a comma or a point may be too."""

_WORDS = {
    1.0: "",
    1e3: "k thousand",
    1e6: "m mn mio mln million millions millionen",
    1e9: "b bn g mrd billion billions milliard milliards milliarde milliarden",
    1e12: "t tn trillion trillions",
}
SUFFIXES = {word: factor for factor, words in _WORDS.items() for word in words.split(" ")}

_SMALL_ERROR = 0.1
"""A second number in brackets, 5.03 (0.004), is a standard error if it is below this fraction of
the first. A larger one may be anything, such as the loss of another run."""

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_PLUS_MINUS = r"(?:±|\+/-|\+-)"


_UNIT = re.compile(
    r"(?<=[\dkmbgtn)])\s*(?:(?:trainable |total )?param(?:eter)?s?|tok(?:en)?s?|flops?|steps?"
    r"|nats?(?:(?:\s?/\s?| per )tok(?:en)?)?)\.?$",
    re.IGNORECASE,
)
"""Units behind a number that counts one by one: 20M params, 5.09 nats."""


class Number(NamedTuple):
    """A number and its standard error, which is nan where none is written."""

    value: float
    stderr: float = math.nan


def written(text: str, decimal: str) -> Number | None:
    """Return the number that a text is if `decimal` ("." or ",") is the decimal mark, or None."""
    found = _pattern(decimal).fullmatch(_UNIT.sub("", _plain(text)))
    if not found:
        return None
    try:
        number = _number(found, decimal)
    except OverflowError:
        return None
    return number if number and math.isfinite(number.value) else None


def is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def complaint(text: str) -> str:
    """Return why a text is not a usable number, or "" if nothing can be said."""
    text = text.strip()
    if text.endswith(("%", "‰")):
        return "a percentage; write it as a plain number in the column's unit"
    if text[:1] in "[(" and text[-1:] in ")]" and "," in text:
        return "a list; write one row for each of its numbers"
    if text[:1] in "<>≤≥≲≳":
        return "a bound, not a measured value"
    if text[:1] in "~≈∼≃" or re.match(r"(?:ca|approx|about)\b", text, re.IGNORECASE):
        return "an approximate value"
    return ""


def _plain(text: str) -> str:
    """Return a text with one way to write signs, powers and LaTeX."""
    text = text.strip()
    if text.isascii() and "\\" not in text and "$" not in text:
        return text
    text = text.strip("$").replace("\\times", "×").replace("\\pm", "±").replace("\\,", "\u2009")
    text = text.replace("\u2212", "-").strip()
    return re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS), text)


@functools.cache
def _pattern(decimal: str) -> re.Pattern[str]:
    other, mark = ("," if decimal == "." else "."), re.escape(decimal)
    groups = "|".join(rf"(?:{re.escape(m)}\d{{3}})+" for m in (*_GROUP_MARKS, other))
    indian = r"|[1-9]\d?(?:,\d\d)+,\d{3}" if other == "," else ""
    bare = rf"(?:\d+(?:{mark}\d*)?|{mark}\d+)"
    numeral = rf"(?:[1-9]\d{{0,2}}(?:{groups})(?:{mark}\d*)?{indian}|{bare})"
    power = r"\s?(?:\^|\*\*)\s?\{?(?P<%s>[+-]?\d{1,4})\}?"
    ten = rf"\s?[x×·*]\s?10{power}"
    words = "|".join(sorted(filter(None, SUFFIXES), key=len, reverse=True))
    return re.compile(
        rf"(?P<sign>[+-]?)(?:"
        rf"(?P<base>\d+){power % 'exponent'}"
        # A number in scientific notation is not grouped.
        rf"|(?P<mantissa>{bare})(?:\((?P<last>\d+)\))?"
        rf"(?:[ed](?P<e>[+-]?\d{{1,4}})|{ten % 'ten'})\s*(?P<unit>{words})?\.?"
        rf"(?:\s*{_PLUS_MINUS}\s*(?P<error>{bare}(?:e[+-]?\d{{1,4}})?))?"
        rf"|(?P<numeral>{numeral})(?:\((?P<digits>\d+)\))?\s*(?P<suffix>(?:{words})?)\.?"
        rf"(?:\s*{_PLUS_MINUS}\s*(?P<spread>{numeral}(?:e[+-]?\d{{1,4}})?)"
        rf"\s*(?P<after>(?:{words})?)\.?"
        rf"|\s*\((?P<sure>{_PLUS_MINUS}\s*)?(?P<bracket>{bare})\))?"
        r")",
        re.IGNORECASE,
    )


def _number(found: re.Match[str], decimal: str) -> Number | None:
    """Return the number of a match of `_pattern`, or None if its parts do not fit together."""
    part = found.groupdict()
    sign = -1.0 if part["sign"] == "-" else 1.0
    if part["base"]:
        return Number(sign * float(part["base"]) ** int(part["exponent"]))
    if part["mantissa"]:
        exponent = part["e"] if part["e"] is not None else part["ten"]
        unit = _factor(part["unit"])
        value = _float(part["mantissa"], decimal, exponent) * unit
        error = math.nan
        if part["last"]:
            error = _last_digits(part["mantissa"], part["last"], decimal) * unit
            error *= 10.0 ** int(exponent)
        elif part["error"]:
            error = _float(part["error"], decimal) * unit
        return Number(sign * value, error)
    unit = _factor(part["suffix"])
    numeral = _float(part["numeral"], decimal)
    if part["digits"]:
        error = _last_digits(part["numeral"], part["digits"], decimal)
        return None if part["spread"] or part["bracket"] else _counted(sign, numeral, error, unit)
    if part["spread"]:
        unit = _factor(part["suffix"] or part["after"])
        of_error = _factor(part["after"] or part["suffix"])
        return Number(sign * numeral * unit, _float(part["spread"], decimal) * of_error)
    if part["bracket"]:
        error = _float(part["bracket"], decimal)
        if not part["sure"] and not (decimal in part["bracket"] and error < _SMALL_ERROR * numeral):
            return None
        return Number(sign * numeral * unit, error * unit)
    return Number(sign * numeral * unit)


def _counted(sign: float, numeral: float, error: float, unit: float) -> Number | None:
    return None if math.isnan(error) else Number(sign * numeral * unit, error * unit)


def _last_digits(numeral: str, digits: str, decimal: str) -> float:
    """Return the error 0.04 of 5.03(4); nan without decimals, as 21(2) may be a footnote."""
    decimals = len(numeral.partition(decimal)[2])
    return int(digits) * 10.0**-decimals if decimals else math.nan


def _factor(word: str | None) -> float:
    return SUFFIXES[(word or "").lower()]


def _float(numeral: str, decimal: str, exponent: str | None = None) -> float:
    for mark in (*_GROUP_MARKS, "," if decimal == "." else "."):
        numeral = numeral.replace(mark, "")
    return float(numeral.replace(decimal, ".") + (f"e{exponent}" if exponent else ""))
