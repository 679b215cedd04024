"""Frontiers of few runs and of short curves: no traceback, no impossible interval."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import make_sweep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.interpolate import make_smoothing_spline
from small import call

from analysis import fit, frontier, laws, load, plan
from analysis.critical_batch import critical_batch
from analysis.figures.frontier import frontier as frontier_figure
from analysis.fitting.checks import FitError
from analysis.fitting.draws import containing, open_interval
from analysis.frontiers.envelope import envelope, lower_hull
from analysis.frontiers.result import exponent_interval, interval_of
from analysis.frontiers.smoothing import KNOTS, smoothed
from analysis.in_words import cell, interval
from analysis.tables.conventions import counted
from scaling.errors import ConfigError, TableError

THREE_ROWS = "run_id,N,D,L\na,1e7,1e8,4.2\na,1e7,2e8,3.9\nb,3e7,6e8,3.4\n"
NONSENSE = re.compile(r"(?<![a-z])(inf|nan)(?![a-z])|e\+[4-9]\d|\d{4,}\.\d%|e\+\d{3}")
"""Numbers that no reader can use."""


def curves_of(**changes):
    runs, curves = make_sweep(**changes)
    return load(curves.merge(runs[["run_id", "N"]], on="run_id"), curves=True)


def nine_runs(noise: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    N, D = (x.ravel() for x in np.meshgrid([1e5, 3e5, 1e6], [1e7, 3e7, 1e8]))
    L = 1.7 + 400 / N**0.34 + 400 / D**0.28
    return pd.DataFrame(
        {"N": N, "D": D, "L": L * np.exp(noise * rng.standard_normal(9)), "C": 6 * N * D}
    )


# ------------------------------------------------------------------ many curves


def test_the_envelope_of_many_runs_is_that_of_all_their_tangents(monkeypatch):
    rng = np.random.default_rng(0)
    parts = []
    for i, N in enumerate(np.repeat(np.geomspace(1e5, 1e7, 5), 60)):
        D = N * rng.uniform(5, 100) * np.geomspace(0.05, 1, 6)
        L = 1.7 + 400 / N**0.34 + 400 / D**0.28
        L = L * np.exp(0.01 * rng.standard_normal(6))
        parts.append(pd.DataFrame({"run_id": f"r{i}", "N": N, "D": D, "C": 6 * N * D, "L": L}))
    curves = pd.concat(parts, ignore_index=True)
    fast = envelope(curves, bootstrap=50)
    for least in (2, 10**6):  # with 2, most resamples lack the lowest of some slope
        monkeypatch.setattr("analysis.frontiers.envelope._LOWEST", least)
        slow = envelope(curves, bootstrap=50)
        for name, line in fast.lines.items():
            np.testing.assert_allclose(line, slow.lines[name], rtol=1e-12)


def test_the_hull_of_many_points_is_the_hull_of_all(monkeypatch):
    rng = np.random.default_rng(1)
    u = rng.integers(0, 3000, 20_000) / 100.0
    v = np.exp(-u / 10) + rng.exponential(0.01, len(u))
    fast = lower_hull(u, v)
    monkeypatch.setattr("analysis.frontiers.envelope._CELLS", 10**6)
    slow = lower_hull(u, v)
    np.testing.assert_array_equal(fast, slow)
    assert len(fast[0]) > 5


@pytest.mark.parametrize("count", [5, 8, 40, 300])
def test_curves_are_smoothed_by_the_spline_that_cross_validation_chooses(count):
    rng = np.random.default_rng(count)
    D = np.sort(rng.uniform(1e7, 1e9, count))
    L = (2 + 400 / D**0.3) * np.exp(0.01 * rng.standard_normal(count))
    curve = pd.DataFrame({"run_id": "a", "N": 1e6, "D": D, "C": 6e6 * D, "L": L})
    one = smoothed(curve)[1]
    # A copy has the same curve, in whatever batch it is smoothed.
    both = smoothed(pd.concat([curve, curve.assign(run_id="b")]))[1]
    np.testing.assert_allclose(both.loss, one.loss[[0, 0]], rtol=1e-12)
    known = np.isfinite(one.loss[0])
    if count <= KNOTS:  # else neighbours are averaged first
        u, v = np.log(curve["C"].to_numpy()), np.log(L)

        # Natural splines for many stiffnesses; generalised cross-validation chooses.
        def trial(stiffness):
            fit = make_smoothing_spline(u, v, lam=stiffness)
            influence = np.array(
                [make_smoothing_spline(u, unit, lam=stiffness)(u) for unit in np.eye(count)]
            )
            rss = np.sum((fit(u) - v) ** 2)
            return rss / (count - np.trace(influence)) ** 2, fit

        _, best = min((trial(s) for s in np.geomspace(1e-6, 1e5, 200)), key=lambda t: t[0])
        np.testing.assert_allclose(one.loss[0][known], best(one.x[known]), atol=2e-3)
    assert np.isfinite(one.loss).all()


# ------------------------------------------------------------------ short curves


def test_a_size_with_one_evaluation_is_left_out_of_the_envelope_and_named():
    curves = curves_of()
    plain = frontier(curves, method="envelope", bootstrap=20)
    one = curves.iloc[[0]].assign(run_id="alone", N=2e6, D=1e6, C=1.2e13, L=3.0, D_total=1e6)
    found = frontier(pd.concat([curves, one]), method="all", bootstrap=20)
    front = found.fronts["envelope"]
    (note,) = [line for line in front.status if line.code == "runs_left_out"]
    assert "1 of 31 runs (alone) has one evaluation only, among them all of N = 2e+06" in note
    assert front.exponents["value"].tolist() == plain.exponents["value"].tolist()
    assert {"envelope", "akima", "parametric"} <= set(found.fronts)
    assert frontier_figure(found).axes


def test_a_short_run_of_a_size_with_others_leaves_the_size_in():
    curves = curves_of()
    short = curves.iloc[[3]].assign(run_id="short")
    front = envelope(pd.concat([curves, short]), bootstrap=10)
    (note,) = [line for line in front.status if line.code == "runs_left_out"]
    assert note == "1 of 31 runs (short) has one evaluation only; not used in the envelope"


def test_of_evaluations_at_the_same_compute_the_last_counts():
    curves = curves_of()
    stale = curves[curves["run_id"] == curves["run_id"].iloc[0]]
    both = pd.concat([stale.assign(L=stale["L"] * 1.5), curves])
    got, expected = (smoothed(counted(t, "N", "C"))[1] for t in (both, curves))
    np.testing.assert_array_equal(got.loss, expected.loss)
    # The same step twice and no other is one evaluation.
    twice = pd.concat([stale.iloc[[0]]] * 2).assign(run_id="twice")
    assert len(smoothed(counted(pd.concat([curves, twice]), "N", "C"))[1].left_out) == 1


def test_two_evaluations_between_points_of_the_grid_are_a_curve():
    curves = curves_of()
    pair = curves.iloc[[5, 5]].assign(run_id="pair", C=[1e10, 1.0001e10], D=[1e5, 1.0001e5])
    assert envelope(pd.concat([curves, pair]), bootstrap=5).optima["N"].gt(0).all()


@pytest.mark.parametrize("command", ["frontier", "plan"])
def test_a_table_of_three_rows_gets_a_message_and_no_traceback(command, tmp_path, capsys):
    path = tmp_path / "three.csv"
    path.write_text(THREE_ROWS)
    assert call(command, path, *(["--flops", "1e18"] if command == "plan" else [])) == 2
    message = capsys.readouterr().err
    assert "This is a bug" not in message and "Traceback" not in message
    if command == "frontier":
        assert "the envelope needs three sizes" in message and "(b) has one" in message


def test_curves_of_one_evaluation_each_have_the_parametric_frontier():
    curves = curves_of()
    last = curves[curves["D"] == curves["D_total"]]
    found = frontier(last, method="all", bootstrap=20)
    assert "no run has two evaluations at different C" in found.skipped["envelope"]
    assert "parametric" in found.fronts
    for sizes in (1, 2):
        few = curves[curves["N"].isin(curves["N"].unique()[:sizes])]
        with pytest.raises(TableError):
            frontier(few, method="envelope")


numbers = st.sampled_from([1e3, 1e4, 1.01e4, 3e4, 1e5, 3e5, 1e6])
tokens = st.sampled_from([1e5, 1e6, 1.0000001e6, 3e6, 1e7, 1e8])


@st.composite
def small_curves(draw):
    rows = []
    for run in range(draw(st.integers(1, 7))):
        N = draw(numbers)
        for _ in range(draw(st.sampled_from([1, 1, 2, 3, 5, 8]))):
            D = draw(tokens)
            law = 1.5 + 100 / N**0.3 + 300 / D**0.3
            L = draw(st.sampled_from([law, 1.01 * law, 0.98 * law, 3.0]))
            rows.append((f"r{run}", N, D, 6 * N * D, L))
    table = pd.DataFrame(rows, columns=["run_id", "N", "D", "C", "L"])
    return table.assign(D_total=table.groupby("run_id")["D"].transform("max"))


def attempt(function, *args, **options):
    """Only these errors may come out, with a message."""
    try:
        return function(*args, **options)
    except (TableError, FitError, ConfigError) as error:
        assert len(str(error)) > 10
    return None


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(small_curves())
def test_any_small_table_of_curves_gives_frontiers_or_a_message(table):
    found = attempt(frontier, table, method="all", bootstrap=20)
    if found is None:
        return
    assert not NONSENSE.search(str(found)), str(found)
    json.dumps(found.record(), allow_nan=False)
    attempt(frontier_figure, found)
    for front in found.fronts.values():
        rows = front.exponents
        unknown = rows["low"].isna()
        assert (unknown | ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"]))).all()
        for asked in ({"C": 1e12}, {"L": 2.0}, {"N": 1e7}):
            made = attempt(plan, front, **asked)
            if made is not None:
                assert not NONSENSE.search(str(made)), str(made)
                json.dumps(made.record(), allow_nan=False)


# ------------------------------------------------------------------ intervals


draws = st.lists(st.floats(-5, 5), min_size=3, max_size=40)


@given(st.floats(-8, 8), draws, st.sampled_from([0.5, 0.9, 0.95]))
def test_an_interval_holds_its_estimate_and_is_never_narrower_than_the_percentiles(x, rest, level):
    values = np.array([x, *rest])
    low, high = interval_of(values, level)
    ends = np.quantile(rest, [(1 - level) / 2, (1 + level) / 2])
    assert low <= x <= high
    assert low <= ends[0] + 1e-12 and high >= ends[1] - 1e-12


def test_draws_without_a_value_widen_an_interval_and_too_many_leave_it_open():
    rng = np.random.default_rng(0)
    known = rng.standard_normal(990)
    few = np.concatenate([known, np.full(10, np.nan)])
    low, high = open_interval(few, 0.95)
    assert low < np.quantile(known, 0.025) and high > np.quantile(known, 0.975)
    many = np.concatenate([known, np.full(60, np.nan)])
    assert [float(e) for e in open_interval(many, 0.95)] == [-np.inf, np.inf]
    assert np.isnan(open_interval(np.zeros((0, 2)), 0.95)).all()


def test_biased_draws_are_mirrored_in_logs_if_they_are_positive():
    assert [float(x) for x in containing(1.0, 2.0, 4.0)] == [0.25, 4.0]
    assert [float(x) for x in containing(-1.0, 2.0, 4.0)] == [-6.0, 4.0]
    assert [float(x) for x in containing(3.0, 2.0, 4.0)] == [2.0, 4.0]


def test_an_exponent_whose_interval_holds_every_possible_value_has_none():
    slopes = np.linspace(-0.4, 1.4, 201)
    assert exponent_interval(np.array([0.5, *slopes]), 0.95) == (-np.inf, np.inf)
    low, high = exponent_interval(np.array([0.5, *np.linspace(0.2, 0.8, 201)]), 0.95)
    assert 0.2 < low < 0.25 and 0.75 < high < 0.8


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.3, 0.5), "[0.300, 0.500]"),
        ((np.nan, 0.5), "[no interval]"),
        ((-np.inf, np.inf), "[not identified]"),
        ((0.0, np.inf), "[not identified]"),
        ((0.3, np.inf), "[0.300, not bounded above]"),
        ((-np.inf, 0.5), "[not bounded below, 0.500]"),
        ((1e-3, 1e13), "[not identified]"),
        ((np.inf, np.inf), "[not bounded]"),
        ((2.0, 1e300), "[not identified]"),
    ],
)
def test_an_interval_is_said_in_words_where_numbers_have_no_sense(ends, words):
    assert interval(*ends, ".3f") == words
    assert interval(1e-5, 3e5, ".3f", vast=10.0) == "[not identified]"
    assert [cell(x) for x in (np.nan, np.inf, 1e60, 2.5, "a")] == [
        "-", "unbounded", "unbounded", "2.5", "a",
    ]  # fmt: skip


def test_nine_noisy_runs_have_an_interval_around_the_estimate_or_none():
    said = 0
    for seed in range(4):
        front = frontier(nine_runs(0.02, seed), law="chinchilla", bootstrap=200)
        row = front.exponents.set_index("exponent").loc["N_opt"]
        assert row["low"] <= row["value"] <= row["high"]
        record = {r["exponent"]: r for r in front.record()["exponents"]}["N_opt"]
        if np.isinf(row["high"]):
            said += 1
            assert "[not identified]" in str(front)
            (note,) = [line for line in front.status if line.code == "exponent_not_identified"]
            assert note.startswith("9 runs in 3 sizes are too few, or too noisy")
            assert record["low"] is None and record["reason"] == "not identified"
        else:
            assert "reason" not in record
    assert said


def test_intervals_of_few_noisy_runs_cover_at_least_as_often_as_without_lost_resamples():
    """Nominal 90 %: leaving out the resamples without a frontier covers 77 % (60 tables)."""
    level, truth, hits, before = 0.9, 0.28 / 0.62, 0, 0
    for seed in range(16):
        nine = nine_runs(0.02, seed)
        front = frontier(nine, law="chinchilla", bootstrap=100, level=level)
        slopes = front.lines["N"][:, 1]
        low, high = exponent_interval(slopes, level)
        left_out = np.nanquantile(slopes[1:], [0.05, 0.95])
        before += left_out[0] <= truth <= left_out[1]
        hits += low <= truth <= high
    assert hits >= before and hits >= 14


def test_an_interval_of_the_critical_batch_size_that_says_nothing_is_not_stated():
    B = np.array([256.0, 512, 1024, 2048] * 2)
    L = np.repeat([4.0, 3.5], 4)
    noisy = np.array([1, 1.4, 0.7, 1.0] + [1.0] * 4)
    S = (np.where(L > 3.9, 100, 300) + 1e5 / B) * noisy
    found = critical_batch(pd.DataFrame({"L": L, "B": B, "S": S}), bootstrap=50)
    found.table.loc[0, ["low", "high"]] = 7e-8, 1e16
    found.table.loc[1, ["low", "high"]] = 1e3, 2e3
    assert "e-08" not in str(found) and "e+16" not in str(found)
    first = found.record()["contours"][0]
    assert first["low"] is None and first["reason"] == "not identified"
    assert "reason" not in found.record()["contours"][1]


def test_the_interval_of_a_fit_holds_its_estimate():
    """Resamples may all lie on one side of an estimate at a bound."""
    result = fit(laws.chinchilla, nine_runs(0.03, 1), bootstrap=100, intervals="bootstrap")
    rows = result.summary(0.5)
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    low, high = result.predict_interval(0.5, N=[1e5, 1e8], D=[1e7, 1e10])
    best = result.predict(N=[1e5, 1e8], D=[1e7, 1e10])
    assert ((low <= best) & (best <= high)).all()
