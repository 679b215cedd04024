"""Tables with a column of losses for each size: tokens, loss_21M, loss_53M, ..."""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

import pandas as pd

from scaling.column_words import meaning

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?[ ]?[kKmMbB]|\d{6,})(?![A-Za-z0-9])")
"""A number of parameters in the name of a column."""
_SIGNS = " _-/=:()[],"


class Wide(NamedTuple):
    """What the names of such columns say."""

    sizes: dict[str, str]
    """{column: size as written}."""
    loss: str
    """Name of the loss without the size."""


def wide(table: pd.DataFrame) -> Wide | None:
    """Return the columns of a table that are the loss of one size each; None if it has none.

    Their names are equal but for the size, and the other columns count tokens or steps, but no
    parameters.
    """
    names = [str(name) for name in table.columns]
    found = {name: match for name in names if (match := _one(name))}
    rest = {name[: m.start()] + name[m.end() :] for name, m in found.items()}
    others = [what for name in names if name not in found and (what := meaning(name))]
    symbols = {what.symbol for what in others}
    if len(found) < 2 or len(rest) > 1 or "N" in symbols or not symbols & {"D", "S"}:
        return None
    loss = rest.pop().strip(_SIGNS)
    loss = re.sub(r"^(?:n|params?|size|model)$", "", loss, flags=re.IGNORECASE)
    what = meaning(loss) if loss else None
    if loss and (what is None or what.symbol != "L"):
        return None
    return Wide({name: match[1] for name, match in found.items()}, loss or "loss")


def melt(table: pd.DataFrame, found: Wide, source: str) -> pd.DataFrame:
    """Return one row per size and point, with the columns run_id, params and the loss."""
    shown = ", ".join(map(repr, list(found.sizes)[:4]))
    more = ", ..." if len(found.sizes) > 4 else ""
    warnings.warn(
        f"{source}: the columns {shown}{more} are taken as {found.loss} of one size each.",
        stacklevel=4,
    )
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    rest = table.drop(columns=list(found.sizes))
    rows = [
        rest.assign(**{"run_id": name, "params": size, found.loss: table[name]})
        for name, size in found.sizes.items()
    ]
    return pd.concat(rows, ignore_index=True).dropna(subset=[found.loss], ignore_index=True)


def _one(name: str) -> re.Match[str] | None:
    """Return the only size in a name; None if there is none, or more than one."""
    sizes = list(_SIZE.finditer(name))
    return sizes[0] if len(sizes) == 1 else None
