"""Figures for papers. Functions return a Figure, which they do not show; they leave no pyplot
state.

figures.save(figures.kaplan_triptych(runs, curves), "fig1.pdf")
figures.save(figures.of_results("frontier", "results/quickstart"), "frontier.pdf")
"""

from analysis.figures.abilities import accuracy_of_loss, accuracy_of_size, aggregate, few_shot
from analysis.figures.allocation import allocation, least_compute, meeting, optimal_steps
from analysis.figures.backtest import backtest_errors
from analysis.figures.classify import classification
from analysis.figures.collapse import collapse
from analysis.figures.compute import (
    batch_scan,
    fixed,
    loss_contours,
    loss_of_compute,
    sample_efficiency,
)
from analysis.figures.context import distributions, generalization, positions
from analysis.figures.data_transferred import effective_data_transferred
from analysis.figures.forecast import forecast_bands
from analysis.figures.formula import formula
from analysis.figures.frontier import critical_batch, deviation, frontier, isoflop
from analysis.figures.loss import embeddings, forms, kaplan_triptych, learning_curves, size_and_data
from analysis.figures.marks import BEYOND
from analysis.figures.overfit import early_stopping, overfitting
from analysis.figures.panels import LABELS
from analysis.figures.registry import FIGURES, draw, draw_all, listing, of_results, save
from analysis.figures.schedule import best_rates, schedules, transfer
from analysis.figures.shape import families, proportions, recurrence
from analysis.figures.validation import held_out, parameters
from analysis.tables.select import lower_edge

__all__ = [
    "BEYOND", "FIGURES", "LABELS", "accuracy_of_loss", "accuracy_of_size", "aggregate",
    "allocation", "backtest_errors", "batch_scan", "best_rates", "classification", "collapse",
    "critical_batch",
    "deviation", "distributions", "draw", "draw_all", "early_stopping",
    "effective_data_transferred", "embeddings", "families", "few_shot",
    "fixed", "forecast_bands", "forms", "formula", "frontier", "generalization", "held_out",
    "isoflop", "kaplan_triptych", "learning_curves", "least_compute", "listing",
    "loss_contours", "loss_of_compute", "lower_edge", "meeting", "of_results", "optimal_steps",
    "overfitting", "parameters", "positions", "proportions", "recurrence", "sample_efficiency",
    "save", "schedules", "size_and_data", "transfer",
]  # fmt: skip
