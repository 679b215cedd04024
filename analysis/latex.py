"""Tables for a paper: a DataFrame as a LaTeX tabular with booktabs rules, symbols set as formulas."""

from __future__ import annotations

import re

import pandas as pd

_GREEK = ("alpha", "beta", "gamma", "eta", "kappa", "eps")


def tabular(table: pd.DataFrame, caption: str = "") -> str:
    """`table`, its index as the first column, as LaTeX; needs the package booktabs.

    Numbers have four digits, powers of ten where they are large or small; missing ones are empty.
    """
    named = not pd.api.types.is_numeric_dtype(table.index)
    shown = table.rename_axis(table.index.name or "parameter").reset_index() if named else table
    body = shown.map(_cell)
    body.columns = [_text(str(name)) for name in shown.columns]
    text = body.to_latex(index=False, escape=False, column_format="l" + "r" * (shown.shape[1] - 1))
    return f"% {' '.join(caption.split())}\n{text}" if caption else text


def symbol(name: str) -> str:
    """A parameter's name in mathematical type, without dollars: alpha_N -> \\alpha_{N}."""
    head, _, index = name.partition("_")
    head = rf"\{head}" if head in _GREEK else head
    return f"{head}_{{{index}}}" if index else head


def _cell(value: object) -> str:
    if isinstance(value, str):
        plain = re.fullmatch(rf"(?:{'|'.join(_GREEK)}|[A-Za-z])(?:_\w+)?", value)
        return f"${symbol(value)}$" if plain else _text(value)
    if value is None or value is pd.NA:
        return ""
    number = float(value)  # pyright: ignore[reportArgumentType]
    if number != number:
        return ""
    if number in (float("inf"), float("-inf")):
        return r"$\infty$" if number > 0 else r"$-\infty$"
    mantissa, e, power = f"{number:.4g}".partition("e")
    return rf"${mantissa} \cdot 10^{{{int(power)}}}$" if e else f"${mantissa}$"


_SPECIAL = {each: rf"\{each}" for each in "&%$#_{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}


def _text(text: str) -> str:
    """Text of anyone, in one line, that LaTeX prints as it stands."""
    return "".join(_SPECIAL.get(each, each) for each in " ".join(text.split()))
