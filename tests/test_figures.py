import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from analysis import figures, fit, frontier, laws, load, style
from analysis.batch import critical_batch
from scaling import table
from scaling.table import TableError


@pytest.fixture
def results(tmp_path, sweep):
    runs, curves = sweep()
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    return tmp_path


def lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_triptych_shows_every_curve_run_and_law(results):
    runs, curves = load(results), load(results, curves=True)
    by_N = fit(laws.kaplan_N, figures.lower_edge(runs, "N"))
    figure = figures.kaplan_triptych(runs, curves, by_N=by_N)
    by_C, by_D, panel_N, bar = figure.axes
    (collection,) = (c for c in by_C.collections if isinstance(c, LineCollection))
    assert len(collection.get_segments()) == runs["run_id"].nunique()
    drawn = np.concatenate(collection.get_segments())
    assert sorted(drawn[:, 1]) == pytest.approx(sorted(curves["L"]))
    assert sorted(drawn[:, 0]) == pytest.approx(sorted(curves["C"]))
    for ax, x in ((by_D, "D"), (panel_N, "N")):
        dots = [c for c in ax.collections if isinstance(c, PathCollection)]
        assert len(dots[0].get_offsets()) == len(runs)
        edge = figures.lower_edge(runs, x)
        assert np.asarray(dots[1].get_offsets()) == pytest.approx(edge[[x, "L"]].to_numpy())
    label = next(name for name in lines(panel_N) if name.startswith("$L"))
    assert f"^{{-{by_N.params['alpha_N']:.3f}}}" in label and r"\alpha_N \in [" in label
    xy = lines(panel_N)[label]
    assert xy[:, 1] == pytest.approx(by_N.predict(N=xy[:, 0]))
    assert xy[:, 0].max() == pytest.approx(runs["N"].max(), rel=1e-9)
    dashed = next(line for line in panel_N.lines if line.is_dashed())
    assert np.min(dashed.get_xdata()) == pytest.approx(runs["N"].max())
    assert np.max(dashed.get_xdata()) == pytest.approx(figures.BEYOND * runs["N"].max())
    assert bar.get_ylabel() == "Parameters $N$"


def test_triptych_in_the_papers_unit_and_without_curves(results):
    runs, curves = load(results), load(results, curves=True)
    front = frontier(curves, bootstrap=20)
    plain, papers = (
        figures.kaplan_triptych(runs, curves, by_C=front, unit=unit).axes[0]
        for unit in ("FLOPs", "PF-days")
    )
    assert "PF-days" in papers.get_xlabel() and "FLOPs" in plain.get_xlabel()
    ratio = np.array(plain.get_xlim()) / np.array(papers.get_xlim())
    assert ratio == pytest.approx([8.64e19] * 2)
    alone = figures.kaplan_triptych(runs).axes[0]
    assert len(alone.collections[0].get_offsets()) == len(runs)


def test_lower_edge_is_what_no_smaller_run_beats(results):
    runs = load(results)
    edge = figures.lower_edge(runs, "N")
    assert edge["N"].is_unique and (edge["D"] == runs["D"].max()).all()
    assert edge["L"].is_monotonic_decreasing
    for row in edge.itertuples():
        assert not ((runs["N"] <= row.N) & (runs["L"] < row.L)).any()


def test_learning_curves(results):
    curves = load(results, curves=True)
    figure = figures.learning_curves(curves)
    for ax, x in zip(figure.axes, ("D", "C"), strict=False):
        collection = next(c for c in ax.collections if isinstance(c, LineCollection))
        drawn = np.concatenate(collection.get_segments())
        assert sorted(drawn[:, 0]) == pytest.approx(sorted(curves[x]))
    colours = collection.get_colors()
    assert len(np.unique(colours, axis=0)) == curves["N"].nunique()
    with pytest.raises(TableError, match="needs learning curves"):
        figures.learning_curves(load(results))


def test_frontier_lines_and_points(results):
    runs, curves = load(results), load(results, curves=True)
    every = frontier(runs, method="all", curves=curves, bootstrap=30)
    figure = figures.frontier(every)
    for ax, name in zip(figure.axes, ("N", "D"), strict=True):
        for method, front in every.fronts.items():
            label, xy = next((k, v) for k, v in lines(ax).items() if k.startswith(method))
            assert xy[:, 1] == pytest.approx(front.at(C=xy[:, 0])[name].to_numpy())
            value = front.exponents.set_index("exponent").loc[f"{name}_opt", "value"]
            assert f"C^{{{value:.2f}}}" in label
            assert xy[:, 0].min() >= front.ranges["C"][0] * 0.999
            assert xy[:, 0].max() <= front.ranges["C"][1] * 1.001
    points = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    crossings = every.fronts["envelope"].optima.query("kind == 'crossing'")
    assert points.get_xydata() == pytest.approx(crossings[["C", "N"]].to_numpy())


def test_a_figure_names_its_paper_its_columns_and_its_spec(results):
    listed = figures.listing()
    for name, one in figures.FIGURES.items():
        assert re.search(rf"^{name} .*{re.escape(one.source)}", listed, flags=re.M)
        assert f"scaling sweep {one.spec}" in listed and one.shows[0].isupper()
    with pytest.raises(TableError, match=r"at three batch sizes|at 3 batch sizes.*`scaling sweep"):
        figures.of_results("kaplan10", results)
    (results / "curves.parquet").unlink()
    with pytest.raises(TableError, match=r"needs learning curves.*`scaling sweep cpu` measures it"):
        figures.of_results("kaplan2", results)


def test_all_figures_that_a_folder_allows(results, monkeypatch):
    keep = ("kaplan2", "kaplan10")
    monkeypatch.setattr(figures.registry, "FIGURES", {n: figures.FIGURES[n] for n in keep})
    files, lacking = figures.draw_all(results)
    assert files == [results / "figures" / f"kaplan2{end}" for end in (".pdf", ".png")]
    assert all(path.stat().st_size > 5000 for path in files) and list(lacking) == ["kaplan10"]


def test_widths(results):
    runs, curves = load(results), load(results, curves=True)
    wide, narrow = (
        figures.learning_curves(runs, curves, width=width) for width in ("full", "column")
    )
    assert wide.get_figwidth() == style.FULL and narrow.get_figwidth() == style.COLUMN
    left, right = (ax.get_position() for ax in wide.axes[:2])
    assert left.y0 == pytest.approx(right.y0) and left.x1 < right.x0
    top, bottom = (ax.get_position() for ax in narrow.axes[:2])
    assert top.x0 == pytest.approx(bottom.x0) and bottom.y1 < top.y0


def test_a_file_has_type_42_fonts_and_the_same_bytes_each_time(tmp_path, results):
    curves = load(results, curves=True)
    first, second = tmp_path / "a.pdf", tmp_path / "b.pdf"
    for path in (first, second):
        assert figures.save(figures.learning_curves(curves), path) == [path]
    assert first.read_bytes() == second.read_bytes()
    assert b"/Type3" not in first.read_bytes() and b"CIDFontType2" in first.read_bytes()
    (png,) = figures.save(figures.learning_curves(curves), tmp_path / "c.png")
    again = tmp_path / "d.png"
    figures.save(figures.learning_curves(curves), again)
    assert png.read_bytes() == again.read_bytes()


def test_no_global_state(results):
    before = dict(matplotlib.rcParams)
    figure = figures.learning_curves(load(results, curves=True))
    assert isinstance(figure, Figure) and dict(matplotlib.rcParams) == before
    assert figure.axes[0].xaxis.label.get_fontfamily() == ["STIXGeneral"]


def test_names_that_are_not_there(results, tmp_path):
    with pytest.raises(TableError, match="Did you mean 'frontier'"):
        figures.draw("fronteir", results)
    with pytest.raises(TableError, match="is not there"):
        figures.draw("kaplan1", tmp_path / "nothing")


@pytest.mark.parametrize(("low", "high"), [(2.3, 6.1), (2.51, 2.62), (0.5, 0.9), (1, 9), (3, 3.1)])
def test_losses_have_round_ticks(low, high):
    ax = Figure().subplots()
    ax.set_ylim(low, high)
    style.loss_axis(ax)
    ticks = [t for t in ax.get_yticks() if low <= t <= high]
    assert 3 <= len(ticks) <= 10
    assert all(len(ax.yaxis.get_major_formatter()(t)) <= 5 for t in ticks)


def test_formula_has_the_fitted_numbers(sweep):
    runs, _ = sweep()
    result = fit(laws.chinchilla, runs, bootstrap=0)
    text = figures.formula(result)
    assert f"N^{{-{result.params['alpha']:.3f}}}" in text and text.startswith("$L = 1.9")
    assert figures.formula(fit(laws.bottleneck, runs, bootstrap=0)) == "bottleneck"


def test_isoflop_fan(results):
    runs = load(results)
    front = frontier(runs, method="isoflop", bootstrap=20)
    left, right = figures.isoflop(runs).axes[:2]
    minima = np.array([ln.get_xydata()[0] for ln in left.lines if ln.get_marker() == "D"])
    assert minima == pytest.approx(front.optima[["N", "L"]].to_numpy(), rel=1e-6)
    points = next(line for line in right.lines if line.get_marker() == "o")
    assert points.get_xydata() == pytest.approx(front.optima[["C", "N"]].to_numpy(), rel=1e-6)


def test_deviation_is_least_at_the_optimum(sweep):
    result = fit(laws.chinchilla, sweep()[0], bootstrap=50)
    (ax,) = figures.deviation(result, C=[1e12, 1e14]).axes
    first, second = (line.get_xydata() for line in ax.lines[:2])
    assert first[:, 1] == pytest.approx(second[:, 1], rel=1e-6)  # one curve for every budget
    assert first[:, 1].min() == pytest.approx(1, abs=0.01)
    assert first[first[:, 1].argmin(), 0] == pytest.approx(1, rel=0.1)


def test_critical_batch_figure():
    L = np.array([3.0, 3.2, 3.5, 4.0])
    B = np.geomspace(256, 65536, 5)
    points = pd.DataFrame(
        {"L": loss, "B": b, "S": 500 * (1 + 2e6 * loss**-4.8 / b)} for loss in L for b in B
    )
    (ax,) = figures.critical_batch(critical_batch(points, bootstrap=20)).axes
    line = next(line for line in ax.lines if "B_" in str(line.get_label()))
    assert np.asarray(line.get_ydata()) == pytest.approx(
        2e6 * np.asarray(line.get_xdata()) ** -4.8, rel=1e-3
    )
