"""Figures of tables of other scales: a reader can read all of them."""

import functools
import importlib

import numpy as np
import pytest
from batch_scans import batch_scan
from legible import faults
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.registry import drawings
from analysis.frontiers.choice import choose
from scaling import table

NAMES = (
    "contours", "frontier", "gpt3", "isoflop", "kaplan1", "kaplan2", "kaplan4", "kaplan6",
    "kaplan9", "kaplan10", "kaplan11", "kaplan18", "kaplan19", "kaplan23",
)  # fmt: skip
"""Figures that are drawn within a few seconds."""


_FITS = {
    "compute": ("fit_law", "envelope"), "frontier": ("fit_frontier", "fit_critical_batch"),
    "loss": ("fit_law",), "overfit": ("fit_law",), "shared_fits": ("critical_batch", "envelope"),
}  # fmt: skip
"""Functions by module that draw resamples, of which the looks of a figure need few."""


@pytest.fixture
def few_resamples(monkeypatch):
    for name, functions in _FITS.items():
        module = importlib.import_module(f"analysis.figures.{name}")
        for function in functions:
            quick = functools.partial(getattr(module, function), bootstrap=20)
            monkeypatch.setattr(module, function, quick)


def of_models(sweep):
    """Sizes from 1e8 to 1e12, with standard errors of the losses."""
    runs, curves = sweep(np.geomspace(1e8, 1e12, 5), np.geomspace(2e9, 2e13, 4))
    return runs.assign(L_stderr=0.01, n_layer=[1, 2] * 10), curves, ("column",), 10


def of_six_runs(sweep):
    runs, _ = sweep((1e4, 1e5, 1e6), (1e6, 1e7))
    return runs, None, ("full", "column"), 2


def of_one_size(sweep):
    return *sweep((1e6,), (1e6, 3e6, 1e7, 3e7)), ("full", "column"), 2


def of_batch_sizes(sweep):
    runs, curves = batch_scan(np.geomspace(1e8, 1e10, 3), (2**16, 2**18, 2**20, 2**22))
    whole = dict.fromkeys(("N", "S", "D"), 0)
    return runs.round(whole | {"D_unique": 0}), curves.round(whole), ("full",), 6


@pytest.mark.parametrize("make", [of_models, of_six_runs, of_one_size, of_batch_sizes])
def test_figures_of_other_scales_are_legible(make, sweep, few_resamples, tmp_path):
    runs, curves, widths, least = make(sweep)
    rows = [] if curves is None else curves.to_dict("records")
    table.write(tmp_path, runs.to_dict("records"), rows)
    if curves is None:
        (tmp_path / "curves.parquet").unlink()
    choice = choose(runs, bootstrap=20, alone=True) if runs["N"].nunique() > 1 else None
    found = {}
    for width in widths:
        made, _ = drawings(tmp_path, names=NAMES, width=width, shared={"choice": choice})
        assert len(made) >= least
        found |= {(name, width): seen for name, one in made.items() if (seen := faults(one))}
    assert found == {}


def test_faults_are_found():
    figure = Figure(figsize=(2, 2))
    ax = figure.subplots()
    ax.set(xscale="log", xlim=(1.1, 1.2), ylim=(0, 1))
    style.count_axis(ax)
    ax.plot([1.15, 1.3], [0.5, 0.5], "o")
    ax.text(1.15, 0.5, "here", fontsize=5)
    ax.text(1.15, 0.5, "and here", va="center", ha="center")
    figure.text(0.9, 0.9, "too far to the right")
    seen = " | ".join(faults(figure))
    for fault in ("overlaps", "leaves the page", "is small", "out of view", "lies over data"):
        assert fault in seen
    ax.set_xticks([])
    ax.set_xticks([], minor=True)
    assert "the x axis has 0 numbers" in " | ".join(faults(figure))
