"""Collapse of learning curves: on ladders whose truth is known, and on committed results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import collapse, figures
from analysis.curves.collapse_result import BESIDE, LADDER
from analysis.reporting.summary import collapse_of_a_ladder, summarise
from scaling.errors import TableError

RESULTS = Path(__file__).parents[1] / "results"
E, A, ALPHA, BETA = 1.5, 20.0, 0.3, 0.3
SIZES = [1e4, 3e4, 1e5, 3e5, 1e6]
X = np.geomspace(0.01, 1, 16)


def ladder(gamma=ALPHA / BETA, *, seeds=1, noise=0.0, sizes=SIZES, horizons=None, **more):
    """Runs of L(N, D) = E + A (N^-alpha + (D / 20)^-beta) with D = 20 N at N = 1e5.

    At gamma = alpha / beta the two terms keep their ratio, and normalised curves are one curve.
    `noise` multiplies the reducible loss of each run as a whole.
    """
    rng = np.random.default_rng(0)
    runs, curves = [], []
    for N in sizes:
        for D in horizons or [20 * 1e5 * (N / 1e5) ** gamma]:
            for seed in range(seeds):
                run_id = f"r{N:.0f}-{D:.0f}-{seed}{more.get('tag', '')}"
                factor = np.exp(noise * rng.standard_normal())
                L = E + A * (N**-ALPHA + (X * D / 20) ** -BETA) * factor
                row = {"run_id": run_id, "N": N, "D": D, "C": 6 * N * D, "L": L[-1], "seed": seed}
                runs.append(row | {"status": "ok", "lr_peak": 1e-3} | more)
                at = {
                    "run_id": run_id,
                    "N": N,
                    "S": np.round(1000 * X),
                    "D": X * D,
                    "C": 6 * N * D * X,
                }
                curves.append(pd.DataFrame(at | {"L": L, "lr": 1e-3 * np.minimum(X / 0.05, 1)}))
    return pd.DataFrame(runs), pd.concat(curves, ignore_index=True)


def changed(curves, run_id, power):
    """The curves with one run whose reducible loss falls faster, by x^-power."""
    curves = curves.copy()
    rows = curves["run_id"] == run_id
    x = curves.loc[rows, "D"] / curves.loc[rows, "D"].max()
    curves.loc[rows, "L"] = E + (curves.loc[rows, "L"] - E) * x**-power
    return curves


def test_a_compute_optimal_ladder_falls_on_one_curve():
    found = collapse(*ladder())
    assert found.sizes == 5 and found.gamma == pytest.approx(1)
    assert found.floor == pytest.approx(E, abs=0.02) and found.floor_is == "fitted"
    assert found.total_spread < 2e-3 and found.outliers.empty
    exact = collapse(*ladder(), floor=E)
    assert exact.total_spread < 1e-12 and exact.floor_is == "given"
    truth = (1 + exact.points["x"] ** -BETA) / 2
    assert np.allclose(exact.points["value"], truth)


def test_noise_that_a_run_keeps_to_its_end_makes_a_supercollapse():
    """The spread is below the noise between seeds, which the final loss of a run takes away."""
    found = collapse(*ladder(seeds=3, noise=0.01), floor=E)
    assert found.total_noise == pytest.approx(0.01, rel=0.5) and found.noise_dof == 10
    assert found.total_spread < 1e-9 and found.ratio < 1
    assert found.brief.startswith("these 5 sizes collapse to")
    low, high = found.ratio_interval()
    assert low < found.ratio < high


def test_horizons_that_grow_too_slowly_do_not_collapse():
    found = collapse(*ladder(0.4, seeds=2, noise=0.003), floor=E)
    assert found.gamma == pytest.approx(0.4) and found.ratio > 5
    assert "these 5 sizes do not collapse: their spread is" in found.brief


@pytest.mark.parametrize("power", [-0.1, 0.1])
def test_a_mistuned_run_of_the_ladder_stands_out(power):
    runs, curves = ladder(seeds=2, noise=0.003)
    bad = runs["run_id"].iloc[6]
    alone = runs[(runs["N"] != runs["N"].iloc[6]) | (runs["run_id"] == bad)]
    found = collapse(alone, changed(curves, bad, power), floor=E)
    assert list(found.outliers["run_id"]) == [bad]
    assert found.sizes == 4 and "these 4 sizes collapse to" in found.brief
    assert f"run {bad}" in found.brief and "stands out" in str(found)


def test_other_settings_of_a_size_are_compared_with_the_ladder():
    runs, curves = ladder()
    worse, other = ladder(lr_peak=1e-2, tag="x")
    bad = worse["run_id"].iloc[2]
    for table in (worse, other):
        table["L"] = E + 1.05 * (table["L"] - E)
    found = collapse(pd.concat([runs, worse]), pd.concat([curves, changed(other, bad, 0.2)]))
    roles = found.runs.set_index("run_id")["role"]
    assert (roles[runs["run_id"]] == LADDER).all() and (roles[worse["run_id"]] == BESIDE).all()
    assert list(found.outliers["run_id"]) == [bad]
    assert f"; run {bad} (" in found.brief and found.brief.endswith("does not")


def test_a_ladder_is_found_in_a_grid():
    horizons = list(np.geomspace(5e4, 8e7, 12))
    found = collapse(*ladder(horizons=horizons))
    on_ladder = found.runs[found.runs["role"] == LADDER]
    assert found.sizes == 5 and (on_ladder.groupby("N").size() == 1).all()
    assert found.gamma == pytest.approx(1, abs=0.25)


def test_runs_of_another_schedule_are_left_out():
    runs, curves = ladder(schedule="wsd", cooldown_fraction=0.2)
    few, more = ladder(sizes=SIZES[:3], schedule="cosine", final_fraction=0.1, tag="c")
    found = collapse(pd.concat([runs, few]), pd.concat([curves, more]))
    assert set(found.runs["run_id"]) == set(runs["run_id"])


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 2), st.floats(0.1, 10), st.floats(0.2, 1.2))
def test_a_collapse_does_not_depend_on_units(unit, scale, gamma):
    """Losses in other units, such as bits, and compute in other FLOPs change nothing."""
    runs, curves = ladder(gamma)
    one = collapse(runs, curves, floor=E)
    scaled = [t.assign(L=t["L"] * unit, C=t["C"] * scale) for t in (runs, curves)]
    other = collapse(*scaled, floor=E * unit)
    assert np.allclose(one.points["value"], other.points["value"])
    assert other.total_spread == pytest.approx(one.total_spread)
    ends = one.points[one.points["x"] == 1]
    assert len(ends) == 5 and np.allclose(ends["value"], 1) and (one.points["value"] >= 1).all()


def test_the_curves_begin_after_the_warm_up():
    runs, curves = ladder()
    late = curves.assign(lr=1e-3 * np.minimum(curves["S"] / 350, 1))
    assert collapse(runs, late).spread.index.min() >= 0.35
    assert collapse(runs, curves).spread.index.min() == pytest.approx(0.1, rel=0.2)
    with pytest.raises(TableError, match="after the warm-up; there are 0"):
        collapse(runs, curves.assign(lr=1e-3 * curves["S"] / 1000))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: (ladder()[0], None), {}, "needs learning curves"),
        (lambda: ladder(sizes=SIZES[:3]), {}, "needs 4 sizes .* there are 3"),
        (lambda: ladder(sizes=SIZES[:2]), {"floor": E}, "needs 3 sizes"),
        (lambda: ladder(sizes=[1e4, 1.1e4, 1.2e4, 1.3e4]), {}, "over a factor of 4 at least"),
        (lambda: ladder(), {"floor": 9.0}, "floor 9 is not below the least loss"),
        (lambda: (ladder()[0].drop(columns="run_id"), ladder()[1]), {}, "needs a column run_id"),
    ],
)
def test_what_cannot_collapse_is_one_clear_error(make, options, message):
    with pytest.raises(TableError, match=message):
        collapse(*make(), **options)


def test_a_figure_shows_the_curves_and_both_spreads():
    runs, curves = ladder(seeds=2, noise=0.01)
    left, right, _ = figures.collapse(runs, curves, width="column").axes
    assert len(left.lines) == 10
    ends = [tuple(line.get_xydata()[-1]) for line in left.lines]
    assert np.allclose(ends, (1, 1))
    sizes, seeds = right.lines
    found = collapse(runs, curves)
    assert np.allclose(sizes.get_ydata(), 100 * found.spread)
    assert np.allclose(seeds.get_ydata(), 100 * found.noise)


def test_the_headline_does_not_collapse():
    """Our ladder's horizons and rates are not those of a collapse, and the summary says so."""
    found = collapse(RESULTS / "headline")
    assert found.sizes == 7 and 0.3 < found.gamma < 0.8
    assert found.ratio > 3 and "do not collapse" in found.brief
    assert found.record()["ratio"] == pytest.approx(found.ratio)


def test_curves_at_one_horizon_are_said_not_to_be_expected_to_collapse():
    found = collapse(RESULTS / "lr")
    assert np.isnan(found.gamma) and found.floor_is == "none" and found.floor == 0
    assert "not expected to collapse" in str(found)


def test_the_summary_has_the_collapse():
    runs, curves = ladder(seeds=2, noise=0.003, horizons=list(np.geomspace(5e4, 8e7, 12)))
    found = collapse_of_a_ladder(runs, curves)
    assert found is not None and found.brief == collapse(runs, curves).brief
    one_horizon = ladder(horizons=[1e6])
    assert collapse_of_a_ladder(*one_horizon) is None  # nothing to expect
    assert collapse_of_a_ladder(runs, None) is None
    summary = summarise(RESULTS / "distributions", draw=False)
    assert summary.collapse is not None
    assert f"curves: {summary.collapse.brief}" in str(summary).replace("\n  ", " ")
    assert f"collapse of learning curves: {summary.collapse.brief}" in summary.details()
    assert summary.record()["collapse"]["sizes"] == summary.collapse.sizes
