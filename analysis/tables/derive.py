"""Columns that follow from others: by identities such as C = 6 N D, and N from a model's shape."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.tables.numbers import to_numbers

IDENTITIES = {
    "D": (("S", "B"), "S B", lambda t: t["S"] * t["B"]),
    "N": (("C", "D"), "C / (6 D)", lambda t: t["C"] / (6 * t["D"])),
    "C": (("N", "D"), "6 N D", lambda t: 6.0 * t["N"] * t["D"]),
    "S": (("D", "B"), "D / B", lambda t: t["D"] / t["B"]),
    "B": (("D", "S"), "D / S", lambda t: t["D"] / t["S"]),
}
"""Inputs, formula and value of each column that can be derived exactly; D = S B comes first, as it
needs no convention."""
_D_FROM_C = (("C", "N"), "C / (6 N)", lambda t: t["C"] / (6 * t["N"]))
RULES = [*IDENTITIES.items(), ("D", _D_FROM_C)]
"""(column, (inputs, formula, value)) of each identity, in the order in which they are tried."""

SHAPE = ("n_layer", "d_model")
"""Columns from which N is counted if nothing else gives it."""
_ACTIVATIONS = (
    "activation", "act", "act_fn", "activation_function", "hidden_act", "hidden_activation",
    "activation_type", "mlp_type", "ffn_type", "mlp",
)  # fmt: skip
"""Names of columns whose words tell gated feed-forward layers, such as swiglu."""
_GATED = ("swiglu", "geglu", "glu", "gated", "gated_mlp", "gated_linear_unit", "gated_linear_units")
"""Names of columns that say yes or no to them."""
_SHAPE_DETAILS = ("d_ff", "n_head", "n_kv_head")


def derive(table: pd.DataFrame, wanted: Iterable[str] | None, where: str) -> dict[str, str]:
    """Add columns that can be derived, in place; return {column: formula} of those added.

    Only `wanted` columns are added, and C if N and D are wanted; all of them if `wanted` is None.
    N is counted from the shape if no identity gives it.
    """
    derived: dict[str, str] = {}
    keep = None if wanted is None else set(wanted)
    if keep is not None and {"N", "D"} <= keep:
        keep.add("C")
    if keep is not None and keep <= set(table.columns):
        return derived
    sources = IDENTITIES if keep is None else [n for n in IDENTITIES if n in table.columns]
    to_numbers(table, sources, where)
    for last in (False, True):  # D = S B may give C = 6 N D in turn
        if last and "N" not in table.columns and set(SHAPE) <= set(table.columns):
            to_numbers(table, [*SHAPE, *_SHAPE_DETAILS], where)
            table["N"], derived["N"] = _counted_from_shape(table)
        for name, (inputs, formula, value) in RULES:
            if name not in table.columns and all(i in table.columns for i in inputs):
                table[name] = value(table)
                derived[name] = formula
    for name in set() if keep is None else set(derived) - keep:
        del table[name], derived[name]
    return derived


def derivable(present: Iterable[str]) -> set[str]:
    """Return the columns that are present or follow from those that are."""
    known = set(present)
    for _ in range(3):
        known |= {name for name, (inputs, *_) in RULES if set(inputs) <= known}
        if set(SHAPE) <= known:
            known.add("N")
    return known


def _counted_from_shape(table: pd.DataFrame) -> tuple[pd.Series, str]:
    """Return the parameters in the matrices of the blocks of a transformer, and the formula.

    This is Kaplan et al. 2020, eq. 2.1, with grouped key and value heads (Ainslie et al. 2023) and
    gated feed-forward layers (Shazeer 2020) where the table names them.
    """
    n_layer, d = (table[name].astype(float) for name in SHAPE)
    gated = _gated(table)
    attention, said = 4 * d * d, ["4 d_model^2"]
    if {"n_head", "n_kv_head"} <= set(table.columns):
        groups = (table["n_kv_head"] / table["n_head"]).astype(float)
        if (groups < 1).any():
            attention, said = 2 * d * d * (1 + groups), ["2 d_model^2 (1 + n_kv_head / n_head)"]
    matrices = 2 + gated.astype(float)
    if "d_ff" in table.columns:
        d_ff, assumed = table["d_ff"].astype(float), ""
        factor = {0: "2", len(gated): "3"}.get(int(gated.sum()), "(2 or, if gated, 3)")
        said.append(f"{factor} d_model d_ff")
    else:
        d_ff, assumed = 8 * d / matrices, "; d_ff taken as 4 d_model"
        if gated.any():
            assumed += ", 8/3 d_model if gated"
        said.append("8 d_model^2")
    value = n_layer * (attention + matrices * d * d_ff)
    formula = "12 n_layer d_model^2" if said == ["4 d_model^2", "8 d_model^2"] else (
        f"n_layer ({' + '.join(said)})"
    )  # fmt: skip
    source = "non-embedding matrices, Kaplan et al. 2020, eq. 2.1"
    return value, f"{formula} ({source}{assumed})"


def _gated(table: pd.DataFrame) -> pd.Series:
    """Return in which rows feed-forward layers are gated: activation=swiglu, use_swiglu=True, or
    hidden_act=silu, whose models in transformers are gated."""
    gated = pd.Series(False, table.index)
    for name in map(str, table.columns):
        word = name.lower().rpartition(".")[2].rpartition("/")[2].removeprefix("use_")
        values = table[name].astype(str).str.strip().str.lower()
        if word in _ACTIVATIONS:
            gated |= values.str.contains("glu")
        if word == "hidden_act":
            gated |= values.isin(("silu", "swish"))
        if word in _GATED:
            gated |= values.isin(("true", "1", "1.0", "yes"))
    return gated
