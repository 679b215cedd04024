"""Figures say what they show: names in words, fitted subsets, uncertainty, comparable fits."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from batch_scans import batch_scan
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import figures, fit, frontier, laws, load
from analysis.critical_batch import contours, critical_batch, efficient
from analysis.figures import style
from analysis.figures.room import make_room
from analysis.figures.uncertainty import BAND, OVER_TEXT
from analysis.fitting.held_out import held_out_tests
from analysis.frontiers.choice import choose
from analysis.frontiers.result import Frontier
from analysis.laws import forms
from scaling import table


@pytest.fixture(scope="module")
def scan():
    """Runs and curves of several sizes and batch sizes, their critical batch size, and the
    compute-efficient training that follows from it."""
    runs, curves = batch_scan(np.geomspace(1e4, 1e6, 5), (1024, 4096, 16384, 65536), end=0.05)
    critical = critical_batch(contours(curves, count=3), bootstrap=20)
    return SimpleNamespace(
        runs=runs, curves=curves, critical=critical, found=efficient(curves, critical, bootstrap=30)
    )


def words(legend):
    return [text.get_text() for text in legend.get_texts()]


def with_errors(runs):
    return runs.assign(L_stderr=0.02)


def bars(ax):
    """Return the heights of the vertical bars of a panel."""
    heights = []
    for collection in ax.collections:
        for path in collection.get_paths():
            x, y = np.asarray(path.vertices).T
            if len(x) == 2 and x[0] == x[1]:
                heights.append(y[1] - y[0])
    return heights


def test_frontier_methods_are_named_in_words(sweep):
    runs, curves = sweep()
    every = frontier(runs, method="all", curves=curves, bootstrap=20)
    figure = figures.frontier(every)
    names = words(figure.legends[0])
    assert {"isoFLOP parabolas", "isoFLOP splines (Akima)"} <= set(names)
    assert not {"isoflop", "akima", "parametric"} & set(names)
    assert sum("the plan uses this one" in name for name in names) <= 1
    for width in ("column", "full"):
        assert words(figures.frontier(every, width=width).legends[0]) == names


def test_frontiers_show_the_slopes_of_kaplan_and_hoffmann(sweep):
    figure = figures.frontier(frontier(sweep()[0], method="isoflop", bootstrap=20))
    for ax, slopes in zip(figure.axes, ({0.73, 0.5}, {0.27, 0.5}), strict=True):
        FigureCanvasAgg(figure).draw()
        drawn = set()
        for ln in (ln for ln in ax.lines if str(ln.get_label()).startswith("_Kaplan")
                   or str(ln.get_label()).startswith("_Hoffmann")):  # fmt: skip
            (x0, y0), (x1, y1) = ax.transLimits.inverted().transform(ln.get_xydata())
            drawn.add(round((y1 - y0) / (x1 - x0), 2))
        assert drawn == slopes
        assert {t.get_text().split()[0] for t in ax.texts} == {"Kaplan", "Hoffmann"}


def test_isoflop_figures_show_the_best_tokens_and_explain_the_diamonds(sweep):
    runs = sweep()[0]
    left, size, data = figures.isoflop(runs).axes[:3]
    assert "minimum of the parabola" in words(left.get_legend())
    front = frontier(runs, method="isoflop", bootstrap=20)
    assert isinstance(front, Frontier)
    for ax, name in ((size, "N"), (data, "D")):
        assert f"{name}_\\mathrm{{opt}}" in ax.get_ylabel()
        points = next(ln for ln in ax.lines if ln.get_marker() == "o").get_ydata()
        assert np.asarray(points) == pytest.approx(front.optima[name].to_numpy(), rel=1e-6)


def test_isoflop_figures_have_the_intervals_of_frontiers(sweep):
    runs = sweep()[0]
    choice = choose(runs, bootstrap=50, alone=True)
    drawing = figures.FIGURES["frontier"].draw(runs, None, choice=choice)
    together = {text for ax in drawing.axes for text in words(ax.get_legend())}
    alone = figures.isoflop(runs, choice=choice).axes[1:3]
    assert {words(ax.get_legend())[0] for ax in alone} <= together


def test_the_law_of_data_is_the_same_in_kaplan1_and_kaplan15(scan):
    drawing = figures.FIGURES["kaplan15"].draw
    (ax,) = drawing(scan.runs, scan.curves, critical=scan.critical).axes
    by_D = fit(laws.kaplan_D, figures.lower_edge(scan.runs, "D"), bootstrap=0)
    (text,) = (text for text in words(ax.get_legend()) if "L(D(" in text)
    assert text.endswith(f"from {figures.formula(by_D)}")
    named = words(ax.get_legend())
    assert "where the curves touch the frontier" in named


def test_wedges_have_lines_of_their_own_colours_and_text(scan):
    (ax,) = figures.allocation(scan.found).axes
    inks = {text.get_color() for text in ax.texts}
    assert len(inks) == 3
    assert {ln.get_color() for ln in ax.lines} == inks
    assert words(ax.get_legend()) == ["within the data", "extrapolated", "Kaplan et al. 2020"]


def test_best_sizes_and_steps_have_no_colour_bar_that_repeats_an_axis(scan):
    figure = figures.optimal_steps(scan.runs, scan.curves, critical=scan.critical)
    assert len(figure.axes) == 2
    assert any("the best size changes" in text for text in words(figure.axes[0].get_legend()))


def test_held_out_errors_show_the_best_law_and_explain_the_band(sweep):
    choice = choose(sweep()[0], alone=True)
    figure = figures.held_out(sweep()[0], choice=choice)
    *axes, _ = figure.axes
    shown = [float(re.findall(r"([\d.]+) % rms", ax.texts[0].get_text())[0]) for ax in axes]
    alone = fit(choice.first.law, sweep()[0], bootstrap=0)
    tests = {**choice.tests, **held_out_tests({alone.law.name: alone})}
    best = min(test.error for test in tests.values())
    assert min(shown) == pytest.approx(100 * best, rel=0.06, abs=0.006)
    assert words(axes[0].get_legend()) == ["within 1 %"]
    assert axes[0].get_ylabel().startswith("Error")


def test_parameters_name_their_axes_intervals_and_law(sweep):
    figure = figures.parameters(fit(forms.floor_N, sweep(tokens=(3e7,))[0], bootstrap=50))
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "Parameters of floor_N"
    assert {"estimate", "95 % of the bootstrap", "95 % by the profile"} <= set(words(legend))
    first = figure.axes[0]
    assert first.get_ylabel() and [t.get_text() for t in first.get_yticklabels()] == [
        "0", "0.5", "1",
    ]  # fmt: skip
    assert first.get_xlim()[0] > -0.1 * first.get_xlim()[1]  # a floor is not negative


def test_families_outline_the_fitted_runs_and_keep_a_symbol_per_depth(sweep):
    runs = with_errors(sweep()[0]).assign(n_layer=2, family="decoder")
    shallow = runs.assign(L=runs["L"] * 1.1, run_id=runs["run_id"] + "x", family="lstm", n_layer=1)
    deep = runs.assign(L=runs["L"] * 1.2, run_id=runs["run_id"] + "y", family="lstm")
    figure = figures.families(pd.concat([runs, shallow, deep]))
    (ax,) = figure.axes
    dots = [ln for ln in ax.lines if ln.get_marker() != "None" and np.size(ln.get_xdata())]
    marks = {str(ln.get_label()): ln.get_marker() for ln in dots}
    assert marks["Transformer, 2 layers"] == marks["LSTM, 2 layers"] != marks["LSTM, 1 layer"]
    outlined = [
        ln for ln in ax.lines if ln.get_markeredgecolor() == style.INK and len(ln.get_xdata())
    ]
    fitted = figures.lower_edge(runs, "N")
    assert np.asarray(outlined[0].get_xydata()) == pytest.approx(fitted[["N", "L"]].to_numpy())
    assert {"outlined: fitted", OVER_TEXT, BAND} <= set(words(figure.legends[0]))


def test_a_run_at_the_place_of_a_fitted_one_is_seen(sweep):
    runs = with_errors(sweep()[0]).assign(n_layer=2, family="decoder")
    other = runs.assign(run_id=runs["run_id"] + "x", family="lstm")
    (ax,) = figures.families(pd.concat([runs, other])).axes
    outlined = [ln for ln in ax.lines if ln.get_markeredgecolor() == style.INK]
    plain = [ln for ln in ax.lines if ln.get_marker() == "o" and ln not in outlined]
    assert all(
        one.get_zorder() > ring.get_zorder() and one.get_markersize() < ring.get_markersize()
        for one in plain for ring in outlined
    )  # fmt: skip


def test_depths_outline_the_runs_that_the_law_is_fitted_to(sweep):
    runs = sweep()[0].assign(n_layer=2, N_total=lambda r: r["N"] + 1e5)
    one = runs.assign(L=runs["L"] * 0.95, run_id=runs["run_id"] + "x", n_layer=1)
    _, right = figures.embeddings(pd.concat([runs, one])).axes
    outlined = [ln for ln in right.lines if ln.get_markeredgecolor() == style.INK]
    xy = np.concatenate([ln.get_xydata() for ln in outlined])
    assert xy == pytest.approx(figures.lower_edge(runs, "N")[["N", "L"]].to_numpy())


def test_bars_are_95_percent_intervals_over_the_test_text(sweep, tmp_path):
    runs, curves = sweep()
    table.write(tmp_path, with_errors(runs).to_dict("records"), curves.to_dict("records"))
    points = load(tmp_path, curves=True)
    runs = with_errors(runs).assign(n_repeat=1)
    both = pd.concat([runs, runs.assign(n_repeat=2, run_id=runs["run_id"] + "x")])
    left, _ = figures.recurrence(both).axes
    assert bars(left) == pytest.approx([2 * 1.96 * 0.02] * 2 * runs["N"].nunique())
    assert OVER_TEXT in words(left.get_legend())
    left, right, _ = figures.size_and_data(runs, points).axes
    assert len(bars(left)) == len(runs)
    assert len(right.collections) == runs["N"].nunique()  # a band for each size
    without = figures.recurrence(both.drop(columns="L_stderr")).axes[0]
    assert not bars(without) and OVER_TEXT not in words(without.get_legend())


def test_the_best_learning_rates_have_bars_as_wide_as_their_minimum_is_flat():
    rates, sizes = np.geomspace(1e-4, 3e-2, 9), np.geomspace(1e4, 1e6, 4)
    runs = pd.DataFrame(
        {"N": N, "lr_peak": lr, "L": 3 + 0.05 * np.log(lr / (0.1 * N**-0.3)) ** 2}
        for N in sizes for lr in rates
    ).assign(status="ok", D=1e6, C=1e12)  # fmt: skip
    wide, narrow = (
        figures.best_rates(runs.assign(L_stderr=error)).axes[1] for error in (0.1, 0.01)
    )
    assert len(bars(wide)) == len(bars(narrow)) == len(sizes)
    assert all(a > b > 0 for a, b in zip(bars(wide), bars(narrow), strict=True))


@pytest.mark.parametrize("loc", ["upper right", "upper left"])
def test_no_data_lies_behind_a_legend_that_has_room(loc):
    figure = Figure(layout="constrained", figsize=(3, 2))
    ax = figure.subplots()
    x = np.geomspace(1, 1e4, 2)
    ax.plot(x, x**0.5, label="a line of two points")
    ax.plot(x, x**-0.5, label="another")
    ax.set(xscale="log", yscale="log")
    legend = ax.legend(loc=loc)
    make_room(ax, legend)
    FigureCanvasAgg(figure).draw()
    box = legend.get_window_extent()
    for ln in ax.lines:
        path = np.geomspace(*np.asarray(ln.get_xydata()), 201)
        at = ax.transData.transform(path)
        assert not any(box.contains(*point) for point in at)
