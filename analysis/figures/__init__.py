"""Figures for papers: (tables, fits) -> Figure. Nothing is shown and no pyplot state is left.

figures.save(figures.kaplan_triptych(runs, curves), "fig1.pdf")
figures.save(figures.of_results("frontier", "results/quickstart"), "frontier.pdf")
"""

from . import registry
from .frontier import critical_batch, deviation, frontier, isoflop
from .loss import kaplan_triptych, learning_curves
from .parts import BEYOND, LABELS, formula, lower_edge
from .registry import FIGURES, draw, draw_all, listing, of_results, save

__all__ = [
    "BEYOND", "FIGURES", "LABELS", "critical_batch", "deviation", "draw", "draw_all", "formula",
    "frontier", "isoflop", "kaplan_triptych", "learning_curves", "listing", "lower_edge",
    "of_results", "save",
]  # fmt: skip
