"""Standard errors against closed forms, clustering against a known correlation, profiles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import FitError, fit, laws, uncertainty

POWER = laws.power("N")


def line(n=200, noise=0.02, seed=0, heavy=False):
    """log L = log A - alpha log N + noise: ordinary regression, all in closed form."""
    rng = np.random.default_rng(seed)
    N = np.exp(rng.uniform(10, 20, n))
    e = rng.standard_t(3, n) if heavy else rng.standard_normal(n)
    return pd.DataFrame({"N": N, "L": 20 * N**-0.2 * np.exp(noise * e)})


def regression(runs):
    return stats.linregress(np.log(runs["N"]), np.log(runs["L"]))


@pytest.mark.parametrize("method", ["bootstrap", "residual", "wild", "delta"])
def test_every_method_gives_the_standard_error_of_a_regression(method):
    runs = line()
    exact = regression(runs)
    result = fit(POWER, runs, objective="ls", intervals=method, bootstrap=4000)
    assert result.params["alpha"] == pytest.approx(-exact.slope, rel=1e-8)
    assert result.stderr["alpha"] == pytest.approx(exact.stderr, rel=0.12)
    low, high = result.interval().loc["alpha", ["low", "high"]]
    assert (high - low) / 2 == pytest.approx(1.97 * exact.stderr, rel=0.12)


def test_delta_intervals_are_students_t_for_few_runs():
    runs = line(n=7, seed=3)
    exact = regression(runs)
    half = stats.t.ppf(0.975, 5) * exact.stderr
    for draws in (0, 4096):
        result = fit(POWER, runs, bootstrap=draws)
        low, high = result.interval(0.95).loc["alpha", ["low", "high"]]
        assert low == pytest.approx(-exact.slope - half, abs=1e-6 * half)
        assert high == pytest.approx(-exact.slope + half, abs=1e-6 * half)
    # A derived quantity goes through the draws.
    drawn = result.derived("alpha * 1.0", 0.95)
    assert drawn.low == pytest.approx(-exact.slope - half, abs=0.05 * half)
    assert drawn.stderr == pytest.approx(exact.stderr, rel=0.05)


def test_profile_of_a_regression_is_students_t():
    runs = line(n=12, seed=1)
    exact = regression(runs)
    result = fit(POWER, runs, objective="ls", bootstrap=0)
    found = result.profile("alpha", 0.9)
    half = stats.t.ppf(0.95, 10) * exact.stderr
    assert found.low == pytest.approx(-exact.slope - half, abs=1e-3 * half)
    assert found.high == pytest.approx(-exact.slope + half, abs=1e-3 * half)
    assert (np.diff(found.value) >= 0).all() and (np.diff(found.drop) >= -1e-6).all()


def checkpoints(seed, runs=40, each=8, shared=0.02, own=0.002):
    """`each` checkpoints a run whose errors share most of their variance."""
    rng = np.random.default_rng(seed)
    N = np.repeat(np.exp(rng.uniform(10, 20, runs)), each)
    noise = np.repeat(shared * rng.standard_normal(runs), each) + own * rng.standard_normal(len(N))
    return pd.DataFrame(
        {"run_id": np.repeat(np.arange(runs), each), "N": N, "L": 20 * N**-0.2 * np.exp(noise)}
    )


def test_clustered_intervals_know_that_checkpoints_of_a_run_agree():
    # The spread of alpha over fresh data sets is the truth that a standard error should tell.
    found = [fit(POWER, checkpoints(s), bootstrap=0).params["alpha"] for s in range(60)]
    truth = float(np.std(found, ddof=1))
    clustered = fit(POWER, checkpoints(0), bootstrap=2000)
    rows = fit(POWER, checkpoints(0), bootstrap=2000, cluster=None)
    linear = fit(POWER, checkpoints(0), bootstrap=0)
    assert clustered.stderr["alpha"] == pytest.approx(truth, rel=0.3)
    assert linear.stderr["alpha"] == pytest.approx(clustered.stderr["alpha"], rel=0.15)
    assert rows.stderr["alpha"] < 0.5 * truth
    assert clustered.certificate["groups"] == 40
    assert "clustered in 40 runs" in str(clustered)


def test_huber_resists_what_least_squares_does_not():
    runs = line(n=100)
    runs.loc[:4, "L"] *= 1.5
    robust, plain = fit(POWER, runs, bootstrap=0), fit(POWER, runs, objective="ls", bootstrap=0)
    clean = regression(line(n=100)).slope
    assert abs(robust.params["alpha"] + clean) < 0.2 * abs(plain.params["alpha"] + clean)


def test_resamples_below_the_number_of_unknowns_are_drawn_again():
    result = fit(POWER, line(n=4), objective="ls", intervals="bootstrap", bootstrap=500)
    assert result.certificate["resamples"] == 1.0 and np.isfinite(result.samples).all(axis=None)


def test_no_resample_is_left_in_a_worse_basin():
    rng = np.random.default_rng(0)
    truth = {"E": 1.8, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}
    N, D = np.exp(rng.uniform(17, 23, 30)), np.exp(rng.uniform(20, 26, 30))
    L = laws.chinchilla.predict(truth, N=N, D=D) * np.exp(0.01 * rng.standard_normal(30))
    result = fit("chinchilla", pd.DataFrame({"N": N, "D": D, "L": L}), bootstrap=200)
    problem, minimum = result.problem, result.minimum
    counts = uncertainty.resamples(problem, 200, np.random.default_rng(0))
    draws = uncertainty.draw(problem, minimum, "bootstrap", 200, 0)
    from analysis import engine

    rho = engine.huber(problem.residuals(draws.theta), minimum.delta)
    mine = np.einsum("bn,bn->b", rho, counts)
    # Any solution of any resample is a candidate for every other one.
    others = (counts @ rho.T).min(axis=1)
    assert (mine <= others * (1 + 1e-4)).all()


def test_profiling_asks_for_a_fitted_parameter():
    result = fit("floor_N", line(), fixed={"E": 0.01}, bootstrap=0)
    with pytest.raises(FitError, match="'E' is not a fitted parameter of floor_N; those are A"):
        result.profile("E")


def test_profile_finds_an_open_end():
    # A pure power law: any floor from nothing up to some size fits.
    result = fit("floor_N", line(n=40, noise=0.03), objective="ls", bootstrap=0)
    found = result.profile("E")
    assert found.low < 1e-4 and np.isfinite(found.high)
    assert "E" in result.certificate["not_identified"]


def test_few_runs_get_the_exact_interval_of_a_regression_line():
    # A power law is a line in log-log: Student's t interval of least squares is exact there.
    rng = np.random.default_rng(0)
    N = np.geomspace(3e3, 1e6, 7)
    L = (8.8e13 / N) ** 0.076 * np.exp(0.01 * rng.standard_normal(7))
    result = fit(laws.kaplan_N, pd.DataFrame({"N": N, "L": L}))
    x = np.geomspace(1e3, 1e8, 5)
    X, at = np.stack([np.ones(7), np.log(N)], 1), np.stack([np.ones(5), np.log(x)], 1)
    _, (rss,), *_ = np.linalg.lstsq(X, np.log(L), rcond=None)
    leverage = np.einsum("ij,jk,ik->i", at, np.linalg.inv(X.T @ X), at)
    for noise in (False, True):
        half = stats.t.ppf(0.95, 5) * np.sqrt(rss / 5 * (leverage + noise))
        low, high = result.predict_interval(0.9, noise=noise, N=x)
        best = result.predict(N=x)
        np.testing.assert_allclose(np.log(high / best), half, rtol=1e-4)
        np.testing.assert_allclose(np.log(best / low), half, rtol=1e-4)
