import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from batch_scans import KAPLAN, batch_scan
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from analysis import figures, fit, frontier, laws, load
from analysis.critical_batch import contours, critical_batch, efficient
from analysis.figures import style
from analysis.laws import forms
from scaling import table
from scaling.errors import TableError


@pytest.fixture
def results(tmp_path, sweep):
    runs, curves = sweep()
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    return tmp_path


def repeated(sizes=(1e4, 1e5, 1e6), unique=(1e5, 3e5, 1e6, 3e6, 1e7)):
    """Return runs of 1e7 tokens, most with repeated data: the test loss falls to L(N, D) at S_stop
    and then rises."""
    p = {"N_c": 6e13, "D_c": 2e12, "alpha_N": 0.076, "alpha_D": 0.095}
    runs, curves = [], []
    S = np.unique(np.geomspace(50, 1e4, 40).round())
    for N in sizes:
        for D in unique:
            least = float(laws.kaplan_ND.predict(p, N=np.array([N]), D=np.array([D]))[0])
            stop = 1e4 * (D / 1e7) ** 0.6
            stop = S[np.argmin(np.abs(np.log(S / stop)))]
            L = least * (1 + 0.5 * np.maximum(S**-0.4 - stop**-0.4, 0))
            L = L + 0.1 * np.log(np.maximum(S / stop, 1))
            run = {"run_id": f"u{len(runs)}", "status": "ok", "N": N, "B": 1000, "D_unique": D}
            work = pd.DataFrame(
                {"S": S, "D": S * 1e3, "C": 6e3 * N * S, "L": L, "L_train": 0.9 * L}
            )
            runs.append(run | work.iloc[-1].to_dict())
            curves.append(work.assign(**run, D_total=1e7, L_final=L[-1], lr=1e-3))
    runs = pd.DataFrame(runs)
    return runs, pd.concat(curves, ignore_index=True).drop(columns="D_unique"), p


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
    assert bar.get_ylabel() == "Parameters $N$ (ticks: data)"


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
            label, xy = next(
                (str(ln.get_label()), np.asarray(ln.get_xydata()))
                for ln in ax.lines
                if ln.get_color() == style.METHODS[method] and str(ln.get_label()).startswith("$")
            )
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
    with pytest.raises(
        TableError, match=r"needs learning curves.*`scaling sweep headline` measures it"
    ):
        figures.of_results("kaplan2", results)


def test_all_figures_that_a_folder_allows(results, monkeypatch):
    keep = ("kaplan2", "kaplan10")
    monkeypatch.setattr(figures.registry, "FIGURES", {n: figures.FIGURES[n] for n in keep})
    files, lacking = figures.draw_all(results)
    assert files == [results / "figures" / f"kaplan2{end}" for end in (".pdf", ".png", ".csv")]
    assert all(path.stat().st_size > 5000 for path in files[:2]) and files[2].stat().st_size > 500
    assert list(lacking) == ["kaplan10"]
    (results / "figures" / "kaplan2.png").write_bytes(b"")
    assert figures.draw_all(results, again=True) == (files, {})
    assert files[1].stat().st_size > 5000


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


def test_unknown_names(results, tmp_path):
    with pytest.raises(TableError, match="Did you mean 'frontier'"):
        figures.draw("fronteir", results)
    with pytest.raises(TableError, match="does not exist"):
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
    assert figures.formula(fit(laws.bottleneck, runs, bootstrap=0)).startswith("$L = 1.8")
    assert figures.formula(fit(laws.power("N"), runs, bootstrap=0)) == "power_N"


def test_isoflop_fan(results):
    runs = load(results)
    front = frontier(runs, method="isoflop", bootstrap=20)
    left, right, data = figures.isoflop(runs).axes[:3]
    minima = np.array([ln.get_xydata()[0] for ln in left.lines if ln.get_marker() == "D"])
    assert minima == pytest.approx(front.optima[["N", "L"]].to_numpy(), rel=1e-6)
    for ax, name in ((right, "N"), (data, "D")):
        points = next(line for line in ax.lines if line.get_marker() == "o")
        assert points.get_xydata() == pytest.approx(front.optima[["C", name]].to_numpy(), rel=1e-6)


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


def drawn(ax, marker="o"):
    """Return the points that plot drew with a marker, stacked."""
    return np.concatenate([ln.get_xydata() for ln in ax.lines if ln.get_marker() == marker])


def test_size_and_data(results):
    runs, curves = load(results), load(results, curves=True)
    by_ND = fit(laws.kaplan_ND, runs, bootstrap=0)
    left, right, _ = figures.size_and_data(runs, curves, by_ND=by_ND).axes
    (dots,) = (c for c in left.collections if isinstance(c, PathCollection))
    assert len(dots.get_offsets()) == len(runs)
    sizes = sorted(runs["N"].unique())
    solid = [ln for ln in left.lines if not ln.is_dashed()]
    for N, ln in zip(sizes, solid, strict=True):
        D, L = ln.get_xydata().T
        assert pytest.approx(by_ND.predict(N=N, D=D)) == L
        assert D.max() <= runs["D"].max() * 1.0001
    longest = curves[curves["D_total"] == runs["D"].max()]
    points = drawn(right, ".")
    assert len(points) == len(longest) and points[:, 1].min() == pytest.approx(longest["L"].min())
    # Under wsd, points in the cooldown are not shown; a decay over several horizons is refused.
    cooled = curves["S"] == curves.groupby("run_id")["S"].transform("max")
    wsd = curves.assign(schedule="wsd", lr=np.where(cooled, 1e-5, 1e-3))
    right = figures.size_and_data(runs, wsd, by_ND=by_ND).axes[1]
    assert len(drawn(right, ".")) == (~cooled[longest.index]).sum()
    kept = wsd[(wsd["D_total"] == wsd["D_total"].max()) | (wsd["N"] < wsd["N"].max())]
    decay = kept.assign(schedule="cosine", lr=1e-3)
    short = decay[(decay["N"] > decay["N"].min()) | (decay["D_total"] < decay["D_total"].max())]
    with pytest.raises(TableError, match=r"decays over .* 'constant' or 'wsd'"):
        figures.size_and_data(runs, short, by_ND=by_ND)
    with pytest.raises(TableError, match="between its warm-up and its cooldown"):
        figures.size_and_data(runs, wsd.assign(lr=np.where(cooled, 1e-3, 1e-5)), by_ND=by_ND)


def test_with_and_without_embeddings(results):
    runs = load(results)
    runs["n_layer"] = np.where(runs["N"] < 2e4, 1, np.where(runs["N"] < 2e5, 2, 3))
    left, right = figures.embeddings(runs).axes

    def drawn(ax):  # a line and a marker for each depth; the outlined dots have no line
        lines = [line for line in ax.lines if line.get_marker() in "osD" and line.get_ls() == "-"]
        return np.concatenate([line.get_xydata() for line in lines])

    best = runs.groupby("N")["L"].min()
    assert sorted(drawn(right)[:, 0]) == pytest.approx(best.index.to_list())
    assert sorted(drawn(left)[:, 0]) == pytest.approx(sorted(runs["N_total"].unique()))
    assert [t.get_text() for t in left.get_legend().get_texts()] == [
        "1 layer",
        "2 layers",
        "3 layers",
    ]


def test_overfitting_falls_on_one_line():
    runs, curves, p = repeated()
    _, right, _ = figures.overfitting(runs, curves).axes
    x, excess = np.asarray(right.collections[0].get_offsets()).T
    a = p["alpha_N"] / p["alpha_D"]
    expected = (1 + runs["N"] ** a * p["D_c"] / (p["N_c"] ** a * runs["D_unique"])) ** 0.095 - 1
    assert excess == pytest.approx(expected.to_numpy(), abs=2e-3)
    assert x == pytest.approx((runs["N"] ** a / runs["D_unique"]).to_numpy(), rel=0.02)
    grid, curve = next(ln for ln in right.lines if "alpha_D" in str(ln.get_label())).get_data()
    assert np.interp(np.log(x), np.log(grid), curve) == pytest.approx(excess, abs=2e-3)
    assert f"{a:.2f}" in right.get_xlabel()


def test_early_stopping_takes_the_least_test_loss():
    runs, curves, _ = repeated()
    left, right, _ = figures.early_stopping(runs, curves).axes
    stops = np.asarray(left.collections[0].get_offsets())[:, 1]
    true = curves.loc[curves.groupby("run_id")["L"].idxmin(), "S"]
    assert sorted(stops) == sorted(true[true < 9800]) and len(right.lines) >= 10
    with pytest.raises(TableError, match="no run's test loss turned"):
        figures.early_stopping(runs[runs["D_unique"] == 1e7], curves[curves["run_id"] == "u4"])


def test_batch_figures_recover_the_law_behind_them():
    runs, curves = batch_scan()
    *sizes, _ = figures.batch_scan(runs, curves).axes
    for ax, N in zip(sizes, (1e4, 1e5, 1e6), strict=True):
        floor = (KAPLAN["N_c"] / N) ** KAPLAN["alpha_N"]
        for ln in (ln for ln in ax.lines if ln.get_marker() == "o"):
            S, E = ln.get_xydata().T
            S_min, E_min = np.linalg.lstsq(np.column_stack([np.ones_like(S), S / E]), S)[0]
            L = floor + (S_min / KAPLAN["S_c"]) ** -KAPLAN["alpha_S"]
            crit = KAPLAN["B_star"] * L ** (-1 / KAPLAN["alpha_B"])
            assert E_min / S_min == pytest.approx(crit, rel=0.05)
    (ax, _) = figures.least_compute(runs, curves).axes
    (collection,) = (c for c in ax.collections if isinstance(c, LineCollection))
    assert len(collection.get_segments()) == len(runs)
    C = np.concatenate(collection.get_segments())[:, 0]
    crit = KAPLAN["B_star"] * curves["L"] ** (-1 / KAPLAN["alpha_B"])
    least = curves["C"] / (1 + curves["B"] / crit)
    assert sorted(C) == pytest.approx(sorted(least), rel=0.05)
    # One run of each size at the most common batch size gives no interval, so C as trained is left
    # out.
    (label,) = (label for label in lines(ax) if label.startswith("$L"))
    assert "mathrm{min}" in label and "or $C$" not in ax.get_xlabel()


@pytest.fixture(scope="module")
def scan():
    """Five sizes at four batch sizes that follow the laws of KAPLAN, their compute-efficient
    training, and the input of its figures."""
    runs, curves = batch_scan(np.geomspace(1e4, 1e6, 5), (1024, 4096, 16384, 65536), end=0.05)
    critical = critical_batch(contours(curves, count=3), bootstrap=20)
    return runs, curves, critical, efficient(curves, critical, bootstrap=30)


def test_a_billion_times_the_compute_is_split(scan):
    *_, found = scan
    (ax,) = figures.allocation(found).axes
    tops = [ln for ln in ax.lines if ln.is_dashed() and ln.get_linestyle() != ":"]
    ends = [float(np.asarray(ln.get_ydata())[-1]) for ln in tops]
    slope = {name: found.frontier.lines[name][0, 1] for name in "SBN"}
    shares = np.cumsum([slope["S"], slope["B"], slope["N"]])
    assert np.log(ends) == pytest.approx(np.log(1e9) * shares) and ends[-1] == pytest.approx(1e9)
    words = [t.get_text() for t in ax.texts]
    assert [w.split(" $")[0] for w in words] == ["serial steps", "batch size", "model size"]
    assert f"{1e9 ** slope['N']:.1e}"[:3] in words[-1] and "[$" in words[-1]
    dotted = next(ln for ln in ax.lines if ln.get_label() == "Kaplan et al. 2020")
    assert np.asarray(dotted.get_ydata())[-1] == pytest.approx(1e9**0.27)


def test_best_size_and_fewest_steps(scan):
    runs, curves, critical, _ = scan
    left, right = figures.optimal_steps(runs, curves, critical=critical).axes
    found = efficient(curves, critical)
    for ax, name in ((left, "N"), (right, "S")):
        label, xy = next((k, v) for k, v in lines(ax).items() if "mathrm{min}" in k)
        assert xy[:, 1] == pytest.approx(found.frontier.at(C=xy[:, 0])[name].to_numpy())
        assert f"{found.frontier.lines[name][0, 1]:.2f}}}$ [" in label
        assert any("$B$ = 1024" in k for k in lines(ax))  # as trained
    C, N = np.asarray(left.collections[-1].get_offsets()).T
    _, S = np.asarray(right.collections[-1].get_offsets()).T
    assert critical.law is not None
    L = found.frontier.at(C=C)["L"].to_numpy()
    assert pytest.approx(C / (6 * N * critical.law.predict(L=L))) == S


def test_the_laws_of_compute_and_of_data_contradict(scan):
    *_, found = scan
    D = np.geomspace(1e6, 1e9, 9)
    by_D = fit(laws.kaplan_D, pd.DataFrame({"D": D, "L": (1e20 / D) ** 0.05}), bootstrap=20)
    (ax,) = figures.meeting(found, by_D).axes
    C, L = next(ln for ln in ax.lines if ln.get_marker() == "D").get_xydata()[0]
    row = found.frontier.at(C=C).iloc[0]
    assert pytest.approx(row["L"]) == L
    assert by_D.predict(D=C / (3 * row["N"])) == pytest.approx(L, rel=1e-5)
    assert ax.get_xlim()[1] > C and "C^* = " in ax.texts[0].get_text()
    steep = fit(laws.kaplan_D, pd.DataFrame({"D": D, "L": (1e12 / D) ** 0.9}), bootstrap=20)
    assert figures.meeting(found, steep).axes[0].texts[0].get_text() == "the two never meet"


def test_another_sweeps_critical_batch(scan, results, tmp_path_factory):
    runs, curves, *_ = scan
    other = tmp_path_factory.mktemp("batch")
    whole = dict.fromkeys(("N", "S", "D", "D_unique"), 0)
    table.write(other, *(t.round(whole).to_dict("records") for t in (runs, curves)))
    figure = figures.of_results("kaplan4", results, critical=other)
    assert "S_" in figure.axes[1].get_xlabel()
    assert "S_" not in figures.of_results("kaplan4", results).axes[1].get_xlabel()
    with pytest.raises(TableError, match=r"critical batch size of .*at 3 batch sizes"):
        figures.of_results("kaplan4", results, critical=results)
    assert "or --critical" in figures.listing()


def test_power_law_against_logarithm(results):
    runs = load(results)
    axes = figures.forms(runs).axes
    for ax, x in zip(axes, "NDC", strict=False):
        edge = figures.lower_edge(runs, x)
        power, log = (ln for ln in ax.lines if not ln.is_dashed())
        at, L = log.get_xydata().T
        slope, start = np.polyfit(np.log(at), L, 1)
        assert pytest.approx(start + slope * np.log(at)) == L  # straight in L itself
        misfits = [
            float(re.findall(r"([\d.e-]+) % rms", str(ln.get_label()))[0]) for ln in (power, log)
        ]
        off = np.interp(np.log(edge[x]), np.log(at), L) / edge["L"] - 1
        assert misfits[1] == pytest.approx(100 * np.sqrt(np.mean(off**2)), rel=0.1)
        assert rf"\ln({x}/" in str(log.get_label()) and f"({x}/" in str(power.get_label())


def test_fixed_compute_and_fixed_steps():
    runs, curves = batch_scan(sizes=np.geomspace(1e4, 1e6, 5), batches=(4096,), end=0.05)
    left, right, *_ = figures.fixed(runs, curves).axes
    for ax in (left, right):
        assert len(ax.lines) >= 10
    for S in np.unique(drawn(right)[:, 0]).tolist():
        assert S in runs["N"].tolist()
    # a larger model is never worse after the same number of steps
    for ln in (ln for ln in right.lines if ln.get_marker() == "o"):
        assert (np.diff(ln.get_ydata()) < 0).all()


def test_sample_efficiency_reads_the_curves():
    runs, curves = batch_scan(sizes=np.geomspace(1e4, 1e6, 5), batches=(4096,), end=0.05)
    ax = figures.sample_efficiency(runs, curves).axes[0]
    assert len(ax.lines) >= 4
    for ln in ax.lines:
        assert (np.diff(ln.get_ydata()) < 0).all()


def test_compute_in_pf_days(results):
    curves = load(results, curves=True)
    front = frontier(curves, bootstrap=20)
    ax = figures.loss_of_compute(load(results), curves, front=front).axes[0]
    (collection,) = (c for c in ax.collections if isinstance(c, LineCollection))
    C = np.concatenate(collection.get_segments())[:, 0]
    assert sorted(C * 8.64e19) == pytest.approx(sorted(curves["C"]))


def test_contours_have_the_optimum_at_the_bottom(sweep):
    runs = sweep()[0]
    law = fit(laws.chinchilla, runs, bootstrap=50)
    _, right, _ = figures.loss_contours(runs, law=law).axes
    curves = [ln.get_xydata() for ln in right.lines if ln.get_marker() == "None"]
    minima = [ln.get_xydata()[0] for ln in right.lines if ln.get_marker() == "D"]
    assert len(curves) == len(minima) >= 4
    for curve, (_, L) in zip(curves, minima, strict=True):
        assert curve[:, 1].min() >= L - 1e-9


def shapes():
    rows = []
    for tag, key, values in (
        ("feed_forward", "d_ff", (64, 128, 256, 512)), ("aspect", "n_layer", (1, 2, 4, 8)),
        ("heads", "n_head", (1, 2, 4, 8)),
    ):  # fmt: skip
        for i, value in enumerate(values):
            for seed in (0, 1):
                one = {"n_layer": 2, "d_model": 64, "n_head": 4, "d_ff": 256} | {key: value}
                L = 3 * (1 + 0.01 * abs(i - 1) + 0.002 * seed)
                rows.append(one | {"tag": tag, "N": 100_000 + 500 * i, "L": L, "seed": seed})
    return pd.DataFrame(rows).assign(status="ok", D=1e6, C=6e11)


def test_proportions_show_the_rise_over_the_best():
    runs = shapes()
    figure = figures.proportions(runs)
    for ax, x in zip(figure.axes, ([1, 2, 4, 8], [64, 32, 16, 8], [64, 32, 16, 8]), strict=False):
        points = next(ln for ln in ax.lines if ln.get_marker() == "o").get_xydata()
        rise = dict(zip(points[:, 0], points[:, 1], strict=True))
        assert [rise[v] for v in x] == pytest.approx(
            [100 * (v / 1.001 - 1) for v in (1.011, 1.001, 1.011, 1.021)], abs=1e-6
        )
    with pytest.raises(TableError, match="tagged feed_forward"):
        figures.proportions(runs.assign(tag=""))


def test_families_and_recurrence(sweep):
    runs = sweep()[0].assign(n_layer=2, family="decoder", n_repeat=1)
    other = runs.assign(L=runs["L"] * 1.1, run_id=runs["run_id"] + "x")
    (ax,) = figures.families(pd.concat([runs, other.assign(family="lstm")])).axes
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert "Transformer, 2 layers" in texts and "LSTM, 2 layers" in texts
    assert sum(t.startswith("$L = (N/") for t in texts) == 2
    left, right = figures.recurrence(pd.concat([runs, other.assign(n_repeat=4)])).axes
    once, often = (ln.get_xdata() for ln in left.lines[:2])
    assert once == pytest.approx(often)
    assert right.lines[1].get_xdata() == pytest.approx(4 * np.asarray(once))
    for draw, word in ((figures.families, "family"), (figures.recurrence, "n_repeat")):
        with pytest.raises(TableError, match=word):
            draw(runs)


def test_schedules_and_their_sums(sweep):
    runs, curves = sweep(sizes=(1e5,), tokens=(1e6,))
    both, points = [], []
    for i, (kind, lr) in enumerate((("cosine", 1e-3), ("constant", 2e-3))):
        both.append(runs.assign(run_id=f"r{i}", schedule=kind))
        points.append(curves.assign(run_id=f"r{i}", lr=lr, N=1e5, status="ok"))
    _, right = figures.schedules(pd.concat(both), pd.concat(points)).axes
    sums = [ln.get_xdata()[0] for ln in right.lines]
    S = np.arange(1, curves["S"].max() + 1)
    expected = np.interp(S, [0, curves["S"].min()], [0, 1e-3]).sum()
    assert sums == pytest.approx([expected, 2 * expected])
    with pytest.raises(TableError, match="differ in their schedule"):
        figures.schedules(both[0], points[0])


def test_best_rates_are_the_minima():
    rates = np.geomspace(1e-4, 3e-2, 9)
    sizes = np.geomspace(1e4, 1e6, 4)
    runs = pd.DataFrame(
        {"N": N, "lr_peak": lr, "L": 3 + 0.05 * np.log(lr / (0.1 * N**-0.3)) ** 2}
        for N in sizes for lr in rates
    ).assign(status="ok", D=1e6, C=1e12)  # fmt: skip
    _, right, _ = figures.best_rates(runs).axes
    found = np.asarray(right.collections[0].get_offsets())
    assert found == pytest.approx(np.column_stack([sizes, 0.1 * sizes**-0.3]), rel=1e-3)
    label = next(label for label in lines(right) if "N^{" in label)
    assert "N^{-0.30}" in label
    kaplan = next(
        ln for ln in right.lines if ln.get_label() == "Kaplan et al., eq. D.1"
    ).get_xydata()
    assert kaplan[:, 1] == pytest.approx(0.003239 - 0.0001395 * np.log(kaplan[:, 0]))
    with pytest.raises(TableError, match="widen the rates"):
        figures.best_rates(runs[runs["lr_peak"] > 1e-2])


def test_learning_rates_transfer_where_they_do():
    rates = 1e-3 * 2.0 ** np.arange(7)
    runs = pd.DataFrame(
        {"d_model": d, "mup_base_width": base, "B": B}
        | {"lr_peak": lr / (1 if base is None else d / base)}
        | {"L": 3 + 1 / d + 0.05 * np.log(lr / (8e-3 * (16 / d if base is None else 1))) ** 2}
        for d, base in ((16, None), (64, None), (64, 16), (128, 16)) for lr in rates
        for B in (512, 2048)
    ).assign(status="ok", N=lambda r: 24.0 * r["d_model"] ** 2, D=2e5, C=1e12)  # fmt: skip
    left, right = figures.transfer(runs).axes
    rings = [
        [ln.get_xdata()[0] for ln in ax.lines if ln.get_markerfacecolor() == "none"]
        for ax in (left, right)
    ]
    assert rings[0] == pytest.approx([8e-3, 2e-3] * 2)
    assert rings[1] == pytest.approx([8e-3] * 6)  # the base width is in both
    assert [t.get_text() for t in right.get_legend().get_texts()] == [
        r"$d_\mathrm{model} = 16$", "64", "128",
    ]  # fmt: skip
    with pytest.raises(TableError, match="both parametrisations"):
        figures.transfer(runs[runs["mup_base_width"].isna()])


def test_held_out_errors_of_the_true_law_are_small(sweep):
    runs = sweep(noise=0.0, anneal=0.0)[0]
    ax = figures.held_out(runs, against=(laws.chinchilla,)).axes[0]
    factor, off = drawn(ax).T
    assert factor.min() > 1 and np.abs(off).max() < 0.05
    assert "chinchilla" in ax.texts[0].get_text()


def test_parameters_show_draws_profile_and_both_intervals(sweep):
    result = fit(forms.floor_N, sweep(tokens=(3e7,))[0], bootstrap=100)
    axes = figures.parameters(result).axes
    assert [ax.get_xlabel() for ax in axes] == ["$E$", "$A$", r"$\alpha$"]
    for ax, name in zip(axes, result.law.params, strict=True):
        profile = result.profile(name)
        curve, estimate, _, bar = (ln.get_xydata() for ln in ax.lines)
        assert estimate[0, 0] == pytest.approx(result.params[name])
        assert curve[:, 1].max() == pytest.approx(1, abs=0.02)
        assert bar[:, 0] == pytest.approx([profile.low, profile.high], rel=0.3)


def with_tests(sweep):
    """Return runs with rows of tests.parquet: E + A / T^0.6 by position, other corpora 10 %
    worse."""
    runs = sweep()[0]
    rows, tests = [], []
    for run in runs.to_dict("records"):
        for n_ctx in (32, 128):
            run_id = f"{run['run_id']}{n_ctx}"
            rows.append(run | {"run_id": run_id, "n_ctx": n_ctx, "corpus": "prose"})
            curve = run["L"] + 2 * np.arange(1, n_ctx + 1) ** -0.6
            for corpus, factor in (("prose", 1.0), ("kjv", 1.1), ("wikipedia", 1.2)):
                tests.append(
                    {"run_id": run_id, "corpus": corpus, "tokens": 4096, "L": factor * run["L"],
                     "L_stderr": 0.01, "bits_per_byte": factor * run["L"] / 2,
                     "L_position": factor * curve}
                )  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(tests)


def test_other_distributions_and_positions(sweep, tmp_path):
    runs, tests = with_tests(sweep)
    table.write(tmp_path, runs.to_dict("records"), [], tests.to_dict("records"))
    (tmp_path / "curves.parquet").unlink()
    left, right = figures.of_results("kaplan8", tmp_path).axes
    by_name = lines(left)
    assert list(by_name) == ["English prose (training text)", "King James Bible", "Wikipedia"]
    prose, kjv, _ = by_name.values()
    assert kjv[:, 1] == pytest.approx(1.1 * prose[:, 1])
    assert len(right.lines) == 3 * runs["N"].nunique()
    for ln in right.lines:  # every text rises as much as the training text does
        own = np.asarray(ln.get_xdata())
        best = tests.loc[tests["corpus"] == "prose", "bits_per_byte"].min()
        assert np.asarray(ln.get_ydata()) == pytest.approx(100 * (own / best - 1))
    with pytest.raises(TableError, match=r"one size .* differ in depth"):
        figures.of_results("kaplan24", tmp_path)
    shaped = runs.assign(n_layer=np.tile([2, 4], len(runs) // 2))
    table.write(tmp_path, shaped.to_dict("records"), [], tests.to_dict("records"))
    (tmp_path / "curves.parquet").unlink()
    ax, change = figures.of_results("kaplan24", tmp_path).axes
    named = {c.get_label(): c.lines[0].get_xydata() for c in ax.containers}
    assert list(named) == ["English prose (training text)", "King James Bible", "Wikipedia"]
    same = runs[(runs["N"] == runs["N"].min()) & (runs["D"] == runs["D"].max())]
    assert named["King James Bible"] == pytest.approx(
        np.array([[n, 1.1 * same["L"].mean() / 2] for n in (2, 4)])
    )
    for bars in change.containers:
        assert np.asarray(bars.lines[0].get_ydata()) == pytest.approx(0, abs=1e-9)
    left, right = figures.of_results("kaplan20", tmp_path).axes
    run = runs[(runs["D"] == runs["D"].max()) & (runs["n_ctx"] == 128)].iloc[0]
    T, L = left.lines[0].get_xydata().T
    assert run["L"] + 2 * T**-0.6 == pytest.approx(L, rel=2e-3) and T[0] == 1
    law = left.lines[1].get_xydata()
    assert law[:, 1] == pytest.approx(run["L"] + 2 * law[:, 0] ** -0.6, rel=2e-3)
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["32", "128"]
    (tmp_path / "tests.parquet").unlink()
    with pytest.raises(
        TableError, match=r"needs test losses \(tests.parquet\); `scaling sweep context"
    ):
        figures.of_results("kaplan20", tmp_path)
