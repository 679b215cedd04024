"""The style of figures, which the plots of fits share: see :mod:`analysis.style`."""

from analysis.style import (
    COLUMN,
    FIT,
    FULL,
    GREY,
    INK,
    METHODS,
    count_axis,
    loss_axis,
    paper,
    size_map,
    size_norm,
    words,
)

__all__ = [
    "COLUMN",
    "FIT",
    "FULL",
    "GREY",
    "INK",
    "METHODS",
    "count_axis",
    "loss_axis",
    "paper",
    "size_map",
    "size_norm",
    "words",
]
