"""Conventions for what N and C count, and conversion of tables to another convention.

Conventions alone move the exponent of N_opt from .37 to .70 (nanochat, dev/LOG.md), and Kaplan's
.73 to Chinchilla's .50 (Pearce and Song 2024, arXiv 2406.12907; Porian et al. 2024, arXiv
2406.19146).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling.columns import COLUMNS
from scaling.count import FLOP_COLUMNS
from scaling.errors import ConfigError, TableError
from scaling.model_config import FAMILIES, ModelConfig
from scaling.size import flops_per_token, parameters
from scaling.table import check, missing_column

_MEANING = {column.name: column.meaning for column in COLUMNS}
_COUNTS = {
    "N_kaplan": "non-embedding parameters, matrices only (Kaplan et al. 2020, eq. 2.1)",
    "N_head": "all parameters but embeddings: those of the output layer count, tied or not",
    "C_min": "compute far below the critical batch size (Kaplan et al. 2020, eq. 5.5)",
}
_FLOPS = {column: name for column, name in FLOP_COLUMNS.items() if column != "C"}
"""{column: convention} of the FLOPs that can be counted from the shape."""
_SHAPE_COLUMNS = ("n_layer", "d_model", "n_head", "n_ctx", "vocab_size")
_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig))
_SIX_ND = re.compile(r"6 ?\*? ?(\w+) ?\*? ?D")
"""Pattern of '6 N_total D' and '6*N_total*D'."""


def flops_6N(N: Any) -> Any:
    """Return the FLOPs per token under C = 6 N D (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * N


def in_words(flops: str | Callable[[Any], Any]) -> str:
    """Return a short label of how C was counted."""
    if callable(flops):
        return f"{getattr(flops, '__name__', 'flops')}(N) D"
    return "6 N D" if flops == "C" else flops


def meaning(name: str) -> str:
    """Return what a column of N or C counts; '' for a column outside the schema."""
    return (_COUNTS | _MEANING).get(name, "")


def counted(
    table: pd.DataFrame, params: str, flops: str, need: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return the rows with status 'ok', with the count `params` as N and `flops` as C.

    params: a column; or N_total, N_kaplan or N_head, counted from the model's shape.
    flops: a column; '6 X D' for any count X; or C_kaplan, C_chinchilla or C_matmul, counted from
        the model's shape: columns n_layer, d_model, n_head, n_ctx and vocab_size, and any other
        field of ModelConfig (d_ff, tied, ...) that differs from its default.

    Raises TableError for a count that is neither a column nor can be computed, and if no row is
    left.
    """
    if "status" in table.columns:
        table = table[table["status"] == "ok"]
        if table.empty:
            raise TableError("no run has status 'ok': there is nothing to draw a frontier from.")
    N = _count(table, params)
    again = _SIX_ND.fullmatch(flops)
    C = 6.0 * _count(table, again[1]) * table["D"] if again else _count(table, flops)
    table = table.assign(N=N, C=C)
    check(table, need=("N", "D", "C", "L", *need))
    table = table.reset_index(drop=True)
    return table.astype({"N": float, "D": float, "C": float, "L": float})


def per_token(table: pd.DataFrame) -> Callable[[Any], Any]:
    """Return FLOPs per token as a function of N, from the table's own C, N and D.

    This is exact for C = 6 N D; otherwise C / (N D) is interpolated in ln N, and constant outside.
    """
    ratio = (table["C"] / (table["N"] * table["D"])).groupby(table["N"]).median()
    if np.allclose(ratio, 6.0, rtol=1e-6):
        return flops_6N
    u, v = np.log(ratio.index.to_numpy(float)), np.log(ratio.to_numpy(float))
    return lambda N: N * np.exp(np.interp(np.log(N), u, v))


def _count(table: pd.DataFrame, name: str) -> pd.Series:
    if name in table.columns:
        return table[name]
    known = name in ("N_total", "N_kaplan", "N_head") or name in _FLOPS
    lacking = [column for column in _SHAPE_COLUMNS if column not in table.columns]
    if not known or lacking or "D" not in table.columns:
        more = (
            f" It can be counted from the shape, given {', '.join(lacking)} too." if known else ""
        )
        raise TableError(missing_column(name, table.columns) + more)
    shapes = table[[c for c in table.columns if c in _FIELDS or c == "vocab_size"]]
    kinds = shapes.drop_duplicates()
    values = [_count_of_model(row, name) for row in kinds.to_dict("records")]
    each = shapes.merge(kinds.assign(value=values), how="left", on=list(shapes.columns))["value"]
    value = pd.Series(each.to_numpy(float), table.index)
    return value * table["D"] if name in _FLOPS else value


def _count_of_model(row: Mapping[Any, Any], name: str) -> float:
    shape = {field: value for field, value in row.items() if field in _FIELDS and pd.notna(value)}
    try:
        model = ModelConfig(**shape)
        vocab = int(row["vocab_size"])
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise TableError(
            f"{name} cannot be counted from the shape {shape} with "
            f"vocab_size={row['vocab_size']}: {error}"
        ) from None
    if model.family not in FAMILIES:
        raise TableError(
            f"{name} of model.family={model.family!r} cannot be known without running its code, "
            "which the analysis does not do. Choose a count that is a column of the table."
        )
    if name in _FLOPS:
        return flops_per_token(model, vocab, _FLOPS[name])
    count = parameters(model, vocab)
    return float(count.N + vocab * model.d_model if name == "N_head" else getattr(count, name))
