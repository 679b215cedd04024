"""Backtests and verdicts on tables whose right answer is known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis import laws, validate
from analysis.validate import curvature, lack_of_fit
from scaling.table import TableError

TRUTH = {"E": 1.8, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}


def surface(form="chinchilla", params=TRUTH, n=90, noise=0.003, seed=0):
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(16, 23, n)), np.exp(rng.uniform(20, 27, n))
    L = laws.LAWS[form].predict(params, N=N, D=D) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "C": 6 * N * D, "L": L})


@pytest.fixture(scope="module")
def right():
    return validate("chinchilla", surface(), bootstrap=300)


def test_a_true_law_is_supported(right):
    assert right.supported, right.verdict
    assert right.by == "C" and (right.backtest["n_held"] > 0).all()
    covered = np.average(right.backtest["coverage"], weights=right.backtest["n_held"])
    assert 0.8 < covered <= 1
    assert right.backtest["error"].max() < 0.01
    assert right.laws.loc["chinchilla", "aicc"] < 4
    assert right.laws.loc["kaplan_ND", "aicc"] > 50


def test_the_text_and_the_record_hold_everything(right):
    text = str(right)
    for word in ("supported by these runs", "bottleneck", "coverage", "cut"):
        assert word in text
    record = json.loads(json.dumps(right.record(), allow_nan=False))
    assert record["supported"] and len(record["backtest"]) == len(right.backtest)
    assert record["laws"][0]["law"] == "chinchilla"


def test_a_wrong_law_is_told_so_and_the_right_one_named():
    runs = surface("bottleneck", {**TRUTH, "k": 4.0}, noise=0.001)
    found = validate("chinchilla", runs, bootstrap=200)
    assert not found.supported
    assert any("bottleneck fits better" in sentence for sentence in found.verdict)
    assert lack_of_fit(found.fit) < 1e-3


def line(floor, n=24, noise=0.003, seed=0, decades=3):
    rng = np.random.default_rng(seed)
    N = 10 ** np.linspace(6, 6 + decades, n)
    L = (floor + 30 * N**-0.2) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "L": L})


def test_floor_or_none():
    with_floor = validate("floor_N", line(1.0), bootstrap=100)
    assert any("a floor is supported" in sentence for sentence in with_floor.verdict)
    without = validate("floor_N", line(0.0), bootstrap=100)
    assert any("a floor is not supported" in sentence for sentence in without.verdict)
    assert not without.supported  # E is not determined


def test_curvature_is_a_t_test():
    t, p = curvature(*line(1.0)[["N", "L"]].to_numpy().T)
    assert t > 3 and p < 0.01
    # Under a pure power law p is uniform: the mean over tables is near a half.
    ps = [curvature(*line(0.0, seed=s)[["N", "L"]].to_numpy().T)[1] for s in range(200)]
    assert np.mean(ps) == pytest.approx(0.5, abs=0.08) and min(ps) > 1e-5


def test_a_narrow_range_is_told():
    found = validate("floor_N", line(1.0, decades=0.7), bootstrap=50)
    assert any("N spans 0.7 decades: too narrow" in sentence for sentence in found.verdict)


def test_runs_are_held_out_whole():
    runs = surface(n=40)
    curves = pd.concat([runs.assign(run_id=np.arange(40), C=runs["C"] * f) for f in (0.1, 0.5, 1)])
    found = validate("chinchilla", curves, by="C", bootstrap=50, against=[])
    assert (found.backtest["n_fit"] % 3 == 0).all() and (found.backtest["n_held"] % 3 == 0).all()


def test_hold_out_by_any_column_and_only_by_one_that_is_there():
    found = validate("chinchilla", surface(n=60), by="D", against=["gadre"], bootstrap=50)
    assert found.by == "D" and list(found.laws.index) == ["chinchilla", "gadre"]
    with pytest.raises(TableError, match="no column 'S'"):
        validate("chinchilla", surface(n=60), by="S")
