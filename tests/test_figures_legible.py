"""Figures as a reader sees them: nothing is covered, cut off or unexplained."""

import itertools

import numpy as np
import pandas as pd
import pytest
from batch_scans import batch_scan
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import figures, fit, frontier, laws
from analysis.critical_batch import critical_batch
from analysis.curves.rates import config_of
from analysis.figures import style
from analysis.figures.formula import between, spread
from analysis.figures.marks import WIDE, near_lines, outside_band
from analysis.figures.panels import MOST_TICKS, Colours, panels
from analysis.figures.uncertainty import interval_bars, within_reach
from analysis.frontiers.envelope import envelope
from analysis.in_words import typeset
from analysis.tables.select import with_trunks
from scaling.training.schedule import schedule


def boxes(figure, artists):
    """Return the extents of artists on the page, after the layout."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [artist.get_window_extent(canvas.get_renderer()) for artist in artists]


def with_sizes(runs, curves):
    """Return runs, and curves with the sizes of their runs."""
    return runs, curves.merge(runs[["run_id", "N", "status"]], on="run_id")


def test_panels_have_letters_and_a_single_one_has_none():
    for count, letters in ((1, [""]), (3, ["a", "b", "c"])):
        for width in ("column", "full"):
            _, axes = panels(count, width)
            assert [ax.get_title("left") for ax in axes] == letters


@settings(deadline=None, max_examples=20)
@given(count=st.integers(2, 40), decades=st.floats(0.01, 6))
def test_a_colour_bar_marks_every_value_and_says_so(count, decades):
    values = np.geomspace(1e3, 1e3 * 10**decades, count)
    figure = Figure()
    Colours(values).bar(figure, [figure.subplots()])
    bar = figure.axes[1]
    if count > MOST_TICKS:
        assert "ticks" not in bar.get_ylabel()
        return
    assert bar.get_ylabel() == "Parameters $N$ (ticks: data)"
    ticks = [*bar.yaxis.get_majorticklocs(), *bar.yaxis.get_minorticklocs()]
    assert sorted(ticks) == pytest.approx(values)
    lines = [c for c in bar.collections if isinstance(c, LineCollection)][-1]
    assert [segment[0][1] for segment in lines.get_segments()] == pytest.approx(values)


def test_a_single_value_is_named_and_has_no_colour_bar():
    figure, axes = panels(2, "full")
    Colours([3.1e6]).bar(figure, axes)
    assert len(figure.axes) == 2
    assert axes[1].get_title("right") == r"Parameters $N$: $3.1\cdot 10^{6}$"


@given(low=st.floats(1e-6, 1e15), decades=st.floats(0.01, 9))
def test_an_axis_of_counts_has_two_numbers_at_least(low, decades):
    ax = Figure().subplots()
    high = low * 10**decades
    ax.set_xlim(low, high)
    style.count_axis(ax)
    axis = ax.xaxis
    pairs = ((axis.get_majorticklocs(), axis.get_major_formatter()),
             (axis.get_minorticklocs(), axis.get_minor_formatter()))  # fmt: skip
    numbers = [text for at, form in pairs for v, text in zip(at, form.format_ticks(at), strict=True)
               if low <= v <= high and text]  # fmt: skip
    assert 2 <= len(numbers) <= 9 and len(set(numbers)) == len(numbers)


def test_the_numbers_of_major_and_minor_ticks_stand_in_one_line():
    with rc_context(style.paper()):
        figure = Figure()
        ax = figure.subplots()
        ax.set_xlim(4e4, 3e5)
        style.count_axis(ax)
    FigureCanvasAgg(figure).draw()
    major, minor = ax.xaxis.get_major_ticks(), ax.xaxis.get_minor_ticks()
    tops = {round(t.label1.get_position()[1], 6) for t in (*major, *minor)}
    pads = {tick.get_pad() + tick._size for tick in (major[0], minor[0])}
    assert len(tops) == 1 and len(pads) == 1


@given(low=st.floats(-9, 9), width=st.floats(0, 0.9))
def test_negative_ends_of_intervals_have_minus_signs(low, width):
    high = low + width
    for text in (spread(low, high, ".2f"), between("p", -np.inf, low)):
        assert "-" not in text
    assert spread(low, high, ".2f").count("\N{MINUS SIGN}") == sum(
        f"{end:.2f}".startswith("-") for end in (low, high)
    )


def test_only_hyphens_before_numbers_become_minus_signs():
    assert typeset("[-1e-05, not bounded above]") == "[−1e−05, not bounded above]"
    assert typeset("bpe-1024 of 1-2, GPT-3") == "bpe-1024 of 1-2, GPT-3"


@pytest.mark.parametrize("name", ["loss_of_compute", "kaplan_triptych"])
def test_the_envelope_touches_the_curves_from_below(sweep, name):
    runs, curves = with_sizes(*sweep(points=9, noise=0.01))
    front = envelope(curves, bootstrap=20)
    options = {"front": front} if name == "loss_of_compute" else {"by_C": front}
    ax = getattr(figures, name)(runs, curves, **options).axes[0]
    (line,) = (ln for ln in ax.lines if ln.get_label() == "envelope of the curves")
    x, y = np.log(line.get_xydata()).T
    (collection,) = (c for c in ax.collections if isinstance(c, LineCollection))
    gaps = []
    for path in collection.get_segments():
        u, v = np.log(path).T
        at = np.unique(np.concatenate([u, x]))
        at = at[(at >= max(u[0], x[0])) & (at <= min(u[-1], x[-1]))]
        gaps += (np.interp(at, u, v) - np.interp(at, x, y)).tolist()
    assert min(gaps) == pytest.approx(0, abs=1e-9) and min(gaps) > -1e-9
    assert sum(gap < 1e-9 for gap in gaps) >= 2
    drawn = np.log(np.concatenate(collection.get_segments()))
    for end in (0, -1):  # it ends where it touches a curve
        assert np.abs(drawn - [x[end], y[end]]).max(axis=1).min() < 1e-9


def test_some_of_very_many_curves_are_drawn_and_a_text_says_so(sweep, monkeypatch):
    runs, curves = sweep()
    monkeypatch.setattr("analysis.figures.marks.MOST_LINES", 7)
    figure = figures.learning_curves(runs, curves.merge(runs[["run_id", "N"]], on="run_id"))
    count = runs["run_id"].nunique()
    for ax in figure.axes[:2]:
        (drawn,) = [c for c in ax.collections if isinstance(c, LineCollection)]
        assert len(drawn.get_segments()) == 7 < count
        assert f"7 of {count} runs are drawn" in [text.get_text() for text in ax.texts]
        colours = np.unique(drawn.get_edgecolor(), axis=0)
        assert len(colours) >= min(5, runs["N"].nunique())  # sizes from one end to the other


def test_branches_of_a_trunk_show_the_evaluations_of_their_shared_part():
    rows = [(1e5, 8e4), (3e5, 24e4), (9e5, 0)]
    runs = pd.DataFrame(
        {"run_id": f"t{i}", "status": "ok", "N": 1e4, "D": D, "D_shared": shared, "seed": seed}
        for seed in (0, 1) for i, (D, shared) in enumerate(rows)
    )  # fmt: skip
    runs["run_id"] += runs["seed"].astype(str)
    points = {0: (2e4, 7e4, 1e5), 1: (3e4, 9e4, 26e4, 3e5), 2: (5e4, 7e4, 2e5, 5e5, 9e5)}
    curves = pd.DataFrame(
        {"run_id": row["run_id"], "D": D, "N": 1e4, "C": 6e4 * D, "L": 5 + row["seed"]}
        for row in runs.to_dict("records") for D in points[int(row["run_id"][1])]
    )  # fmt: skip
    found = with_trunks(curves, runs).groupby("run_id")
    for seed in (0, 1):
        at = {i: found.get_group(f"t{i}{seed}")["D"].tolist() for i in range(3)}
        assert at[0] == [2e4, 3e4, 5e4, 7e4, 1e5]
        assert at[1] == [2e4, 3e4, 5e4, 7e4, 9e4, 2e5, 26e4, 3e5]
        assert at[2] == [2e4, 3e4, 5e4, 7e4, 9e4, 2e5, 5e5, 9e5]
        assert (found.get_group(f"t0{seed}")["L"] == 5 + seed).all()
    alone = runs.assign(D_shared=0)
    assert with_trunks(curves, alone) is curves


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_runs_outside_the_band_of_a_law_are_explained(factor):
    N = np.geomspace(1e3, 1e7, 9)
    L = 1e3 * N**-0.1 * np.random.default_rng(0).lognormal(0, 0.02, 9)
    L[4] *= factor
    law = fit(laws.kaplan_N, pd.DataFrame({"N": N, "D": 1e9, "C": 6e9 * N, "L": L}), bootstrap=50)
    low, high = law.predict_interval(N=N)
    out = int(((low > L) | (high < L)).sum())
    assert out >= 1 if factor > 1 else out < 9
    ax = Figure().subplots()
    outside_band(ax, law, "N")
    assert [t.get_text().split(" outside")[0] for t in ax.texts] == [f"{out} of 9"][: out > 0]
    assert "lowest loss at its $N$" in ax.lines[0].get_label()


def test_the_triptych_shows_its_laws_to_their_ends(sweep):
    runs, curves = with_sizes(*sweep())
    figure = figures.kaplan_triptych(runs, curves, by_C=frontier(curves, bootstrap=20))
    for ax in figure.axes[1:3]:
        low, high = ax.get_ylim()
        for line in ax.lines:
            y = np.asarray(line.get_ydata(), float)
            assert low <= y.min(initial=np.inf) and y.max(initial=0) <= high


def test_the_colour_bar_between_two_panels_keeps_its_distance():
    runs, curves = batch_scan(sizes=np.geomspace(1e4, 1e6, 5), batches=(4096,), end=0.05)
    figure = figures.fixed(runs, curves)
    _, right, bar, _ = figure.axes
    label, axis = boxes(figure, [bar.yaxis.label, right])
    assert label.x1 < axis.x0 - 2
    ticks = [t for t in right.get_yticklabels() if t.get_text() and t.get_visible()]
    assert not any(label.overlaps(box) for box in boxes(figure, ticks))
    budgets = np.sort([*bar.yaxis.get_majorticklocs(), *bar.yaxis.get_minorticklocs()])
    assert (budgets[1:] / budgets[:-1] >= 1.8).all()


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_a_schedule_is_drawn_as_a_function(kind):
    config = {"lr": 1e-3, "warmup_fraction": 0.1, "N": 1e5, "D": 512_000, "B": 512, "L": 3.0,
              "status": "ok", "S": 1000, "C": 6e5 * 512_000}  # fmt: skip
    rows = pd.DataFrame([config | {"run_id": k, "schedule": k} for k in (kind, "constant")])
    S = np.array([100, 400, 1000])
    curves = pd.DataFrame(
        {"run_id": row["run_id"], "S": s, "D": s * 512, "C": 6e5 * s * 512, "N": 1e5, "L": 3.0,
         "lr": 1e-3 * schedule(config_of(row), s - 1), "status": "ok"}
        for row in rows.to_dict("records") for s in S
    )  # fmt: skip
    left, right = figures.schedules(rows, curves).axes
    run = config_of(rows.iloc[0].to_dict())
    exact = 1e-3 * np.array([schedule(run, s) for s in range(1000)])
    drawn = next(ln for ln in left.lines if len(set(ln.get_ydata())) > 2)
    at = np.interp(np.arange(1, 1001), *drawn.get_xydata().T)
    assert at == pytest.approx(exact, abs=2e-8)
    sums = [ln.get_xdata()[0] for ln in right.lines]
    assert min(abs(total - exact.sum()) for total in sums) < 1e-5


def test_depths_are_not_joined():
    runs, curves = batch_scan(sizes=np.geomspace(1e4, 1e6, 6), batches=(4096,), end=0.05)
    runs["n_layer"] = np.tile([1, 2], 3)
    figure = figures.sample_efficiency(runs, curves)
    ax = figure.axes[0]
    depth = dict(zip(runs["N"], runs["n_layer"], strict=True))
    for line in ax.lines:
        assert len({depth[N] for N in np.asarray(line.get_xdata()).tolist()}) == 1
    legend = ax.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["1 layer", "2 layers"]
    above, inside = boxes(figure, [legend, ax])
    assert above.y0 >= inside.y1 - 1


def test_the_legend_of_many_depths_stays_on_the_page():
    runs, curves = batch_scan(sizes=np.geomspace(1e4, 1e6, 12), batches=(4096,), end=0.05)
    runs["n_layer"] = np.tile([1, 2, 3, 4, 6, 8], 2)
    figure = figures.sample_efficiency(runs, curves)
    (legend,) = boxes(figure, [figure.axes[0].get_legend()])
    assert legend.x1 <= figure.bbox.x1 and figure.axes[0].get_position().width > 0.6


@pytest.mark.parametrize("grid", [True, False])
def test_contours_leave_their_labels_and_runs_free(sweep, grid):
    runs = sweep()[0]
    if not grid:  # runs of equal compute
        runs = runs.assign(C=np.tile(np.geomspace(1e12, 1e14, 5), 6)[: len(runs)])
    law = fit(laws.chinchilla, sweep()[0], bootstrap=30)
    figure = figures.loss_contours(runs, law=law)
    left, right, _ = figure.axes
    labels = [text for text in left.texts if text.get_text()]
    assert len(labels) >= 4
    inside = boxes(figure, [left])[0]
    extents = boxes(figure, labels)
    dots = next(ln for ln in left.lines if ln.get_marker() == "o").get_xydata()
    dots = left.transData.transform(dots)
    for box in extents:
        assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
        # Labels are rotated, and their boxes larger than they are: only centres are compared.
        centre = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
        assert np.hypot(*(dots - centre).T).min() > 0.05 * figure.dpi
    for one, other in itertools.combinations(extents, 2):
        gap = np.hypot(one.x0 - other.x0, one.y0 - other.y0)
        assert gap > 0.1 * figure.dpi
    legend = boxes(figure, [figure.legends[0]])[0]
    assert legend.y0 >= inside.y1 - 1
    (measured,) = (c for c in right.collections if isinstance(c, PathCollection))
    shown = np.asarray(measured.get_offsets())
    assert len(shown) >= 4 * 3
    for ax, points in ((left, runs[["C", "N"]].to_numpy(float)), (right, shown)):
        (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
        x, y = points.T
        assert x0 < x.min() and x.max() < x1 and y0 < y.min() and y.max() < y1
    for line in right.lines:
        assert np.max(line.get_ydata()) <= right.get_ylim()[1]


@pytest.mark.parametrize("law", [laws.chinchilla, laws.bottleneck])
def test_no_size_costs_less_than_the_best(sweep, law):
    result = fit(law, sweep(noise=0.02)[0], bootstrap=40)
    figure = figures.deviation(result)
    (ax,) = figure.axes
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    assert band.get_paths()[0].vertices[:, 1].min() >= 1
    legend, inside = boxes(figure, [ax.get_legend(), ax])
    assert legend.y0 >= inside.y1 - 1


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (4, 4), (6, 4)])
def test_batch_scans_have_a_panel_for_each_size(count, shown):
    runs, curves = batch_scan(sizes=np.geomspace(1e4, 1e6, count))
    figure = figures.batch_scan(runs, curves)
    *axes, _ = figure.axes
    assert len(axes) == shown
    titles = [ax.get_title("right") for ax in axes]
    assert len(set(titles)) == shown and "1.0" in titles[0]
    assert count == 1 or r"10^{6}" in titles[-1]
    for ax in axes:
        name = next(t for t in ax.findobj(Text) if t.get_text() == ax.get_title("right"))
        below, title = boxes(figure, [ax, name])
        assert title.y0 >= below.y1


def test_intervals_of_the_critical_batch_size_are_whole():
    L = np.array([3.0, 3.2, 3.5, 4.0])
    rng = np.random.default_rng(0)
    points = pd.DataFrame(
        {"L": loss, "B": b, "S": 500 * (1 + 2e6 * loss**-4.8 / b) * rng.lognormal(0, 0.1)}
        for loss in L for b in np.geomspace(256, 65536, 5)
    )  # fmt: skip
    critical = critical_batch(points, bootstrap=20)
    table = critical.table.copy()
    table.loc[0, ["low", "high"]] = [1e-9, np.inf]
    table.loc[1, "high"] = 20 * table.loc[1, "B_crit"]
    object.__setattr__(critical, "table", table)
    (ax,) = figures.critical_batch(critical).axes
    bars = next(c for c in ax.collections if isinstance(c, LineCollection))
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends[1:] == pytest.approx(table[["low", "high"]].to_numpy()[1:])
    low, high = ax.get_ylim()
    assert low < ends.min() and ends.max() < high
    arrows = [ln.get_marker() for ln in ax.lines if ln.get_marker() in ("v", "^")]
    assert arrows == ["v", "^"]
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names.count("interval reaches further") == 1


def test_a_band_without_bounds_does_not_squeeze_lines():
    ax = Figure().subplots()
    x = np.geomspace(1, 1e3, 9)
    ax.plot(x, x)
    ax.fill_between(x, 1e-90, 1e90)
    ax.set(xscale="log", yscale="log")
    near_lines(ax)
    assert ax.get_ylim() == pytest.approx((1 / WIDE, 1e3 * WIDE))
    style.count_axis(ax, which="y")
    FigureCanvasAgg(ax.figure).draw()


def test_intervals_beyond_the_axis_have_arrows():
    ax = Figure().subplots()
    values = np.array([10.0, 20.0, 30.0])
    ends = np.array([[-5.0, 40.0], [15.0, np.inf], [25.0, 35.0]])
    reach = within_reach(ends, values)
    assert reach == pytest.approx((10 / 1.5, 60))
    keys = interval_bars(ax, np.arange(3.0), ends, ["k"] * 3, reach)
    assert [(ln.get_marker(), ln.get_xdata()[0]) for ln in ax.lines] == [("v", 0), ("^", 1)]
    drawn = [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()]
    assert np.array(drawn) == pytest.approx(np.array([[reach[0], 40], [15, reach[1]], [25, 35]]))
    assert [key.get_label() for key in keys] == ["interval reaches further"]
    assert interval_bars(ax, np.arange(1.0), ends[2:], ["k"], reach) == []


def test_outlying_rates_are_within_and_rings_explained():
    rates = 1e-3 * 2.0 ** np.arange(7)
    runs = pd.DataFrame(
        {"d_model": d, "mup_base_width": base, "B": B, "lr_peak": lr, "N": 24.0 * d**2}
        | {"L": 3 + 1 / d + 0.05 * np.log(lr / 8e-3) ** 2 + 9 * (lr == rates[-1])}
        for d, base in ((16, None), (64, None), (64, 16)) for lr in rates for B in (512, 2048)
    ).assign(status="ok", D=2e5, C=1e12)  # fmt: skip
    figure = figures.transfer(runs)
    for ax in figure.axes:
        low, high = ax.get_ylim()
        for line in ax.lines:
            assert low <= np.min(line.get_ydata()) and np.max(line.get_ydata()) <= high
        legend, inside = boxes(figure, [ax.get_legend(), ax])
        assert legend.y0 >= inside.y1 - 1
    names = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert "minimum of a parabola (3 points)" in names


def test_legends_of_frontiers_cover_no_band(sweep):
    runs, curves = with_sizes(*sweep())
    figure = figures.frontier(frontier(runs, method="all", curves=curves, bootstrap=20))
    for ax in figure.axes:
        (legend,) = boxes(figure, [ax.get_legend()])
        drawn = [ln.get_xydata() for ln in ax.lines if ln.get_transform() == ax.transData]
        drawn += [path.vertices for band in ax.collections for path in band.get_paths()]
        at = ax.transData.transform(np.concatenate(drawn))
        assert not any(legend.contains(*point) for point in at)
