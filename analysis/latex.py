"""LaTeX tables for papers, with booktabs rules and parameters set as symbols."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

_GREEK = ("alpha", "beta", "gamma", "eta", "kappa", "eps")
_ESCAPED = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\^{}",
    "~": r"\~{}",
}
"""Characters that LaTeX would not print literally."""


def tabular(table: pd.DataFrame, caption: str = "") -> str:
    """Return `table` as a LaTeX tabular, with its index as the first column.

    The document needs the package booktabs. Numbers have four digits, and powers of ten if they are
    large or small; missing values are empty cells.
    """
    named = not pd.api.types.is_numeric_dtype(table.index)
    shown = table.rename_axis(table.index.name or "parameter").reset_index() if named else table
    body = shown.map(_cell)
    body.columns = [_text(str(name)) for name in shown.columns]
    text = body.to_latex(index=False, escape=False, column_format="l" + "r" * (shown.shape[1] - 1))
    return f"% {' '.join(caption.split())}\n{text}" if caption else text


def symbol(name: str) -> str:
    """Return a parameter's name in math mode, without dollars: alpha_N -> \\alpha_{N}."""
    head, _, index = name.partition("_")
    head = rf"\{head}" if head in _GREEK else head
    return f"{head}_{{{index}}}" if index else head


def _cell(value: Any) -> str:
    if isinstance(value, str):
        plain = re.fullmatch(rf"(?:{'|'.join(_GREEK)}|[A-Za-z])(?:_\w+)?", value)
        return f"${symbol(value)}$" if plain else _text(value)
    if value is None or value is pd.NA:
        return ""
    number = float(value)
    if number != number:
        return ""
    if number in (float("inf"), float("-inf")):
        return r"$\infty$" if number > 0 else r"$-\infty$"
    mantissa, e, power = f"{number:.4g}".partition("e")
    return rf"${mantissa} \cdot 10^{{{int(power)}}}$" if e else f"${mantissa}$"


def _text(text: str) -> str:
    """Escape untrusted text to one line that LaTeX prints verbatim."""
    return "".join(_ESCAPED.get(character, character) for character in " ".join(text.split()))
