"""Standard errors against closed forms, clustering against a known correlation, profiles."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import FitError, fit, laws, load
from analysis.fitting.bootstrap import draw, resamples
from analysis.fitting.intervals import root

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
    """`each` checkpoints per run whose errors share most of their variance."""
    rng = np.random.default_rng(seed)
    N = np.repeat(np.exp(rng.uniform(10, 20, runs)), each)
    noise = np.repeat(shared * rng.standard_normal(runs), each) + own * rng.standard_normal(len(N))
    return pd.DataFrame(
        {"run_id": np.repeat(np.arange(runs), each), "N": N, "L": 20 * N**-0.2 * np.exp(noise)}
    )


def test_clustered_intervals_account_for_correlated_checkpoints():
    # The spread of alpha over fresh data sets is the truth that a standard error should tell.
    found = [fit(POWER, checkpoints(s), bootstrap=0).params["alpha"] for s in range(60)]
    truth = float(np.std(found, ddof=1))
    clustered = fit(POWER, checkpoints(0), bootstrap=2000)
    rows = fit(POWER, checkpoints(0), bootstrap=2000, cluster=None)
    linear = fit(POWER, checkpoints(0), bootstrap=0)
    assert clustered.stderr["alpha"] == pytest.approx(truth, rel=0.3)
    assert linear.stderr["alpha"] == pytest.approx(clustered.stderr["alpha"], rel=0.15)
    # Without the column of the run, the error that rows of one N share is found all the same.
    assert rows.certificate.size_effect is not None
    assert rows.stderr["alpha"] == pytest.approx(truth, rel=0.4)
    assert clustered.certificate.groups == 40
    assert "clustered in 40 runs" in str(clustered)


def test_huber_resists_what_least_squares_does_not():
    runs = line(n=100)
    runs.loc[:4, "L"] *= 1.5
    robust, plain = fit(POWER, runs, bootstrap=0), fit(POWER, runs, objective="ls", bootstrap=0)
    clean = regression(line(n=100)).slope
    assert abs(robust.params["alpha"] + clean) < 0.2 * abs(plain.params["alpha"] + clean)


def test_resamples_below_the_number_of_unknowns_are_drawn_again():
    result = fit(POWER, line(n=4), objective="ls", intervals="bootstrap", bootstrap=500)
    assert result.certificate.resamples == 1.0 and np.isfinite(result.samples).all(axis=None)


def test_no_resample_is_left_in_a_worse_basin():
    rng = np.random.default_rng(0)
    truth = {"E": 1.8, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}
    N, D = np.exp(rng.uniform(17, 23, 30)), np.exp(rng.uniform(20, 26, 30))
    L = laws.chinchilla.predict(truth, N=N, D=D) * np.exp(0.01 * rng.standard_normal(30))
    result = fit("chinchilla", pd.DataFrame({"N": N, "D": D, "L": L}), bootstrap=200)
    problem, minimum = result.problem, result.minimum
    counts = resamples(problem, 200, np.random.default_rng(0))
    draws = draw(problem, minimum, "bootstrap", 200, 0)
    from analysis.fitting.problem import huber

    rho = huber(problem.residuals(draws.theta), minimum.delta)
    mine = np.einsum("bn,bn->b", rho, counts)
    # Any solution of any resample is a candidate for every other one.
    others = (counts @ rho.T).min(axis=1)
    assert (mine <= others * (1 + 1e-4)).all()


def test_profiling_requires_a_fitted_parameter():
    result = fit("floor_N", line(), fixed={"E": 0.01}, bootstrap=0)
    with pytest.raises(FitError, match="'E' is not a fitted parameter of floor_N; those are A"):
        result.profile("E")


def test_a_profile_has_no_pits():
    """The likelihood of this sweep has bends, at which distant refits must not get stuck."""
    runs = load(Path(__file__).parents[1] / "results" / "headline")
    result = fit(laws.chinchilla, runs, bootstrap=0)
    for name in result.params:
        profile = result.profile(name)
        assert np.all(np.diff(profile.drop) >= -1e-6), name


def test_profile_finds_an_open_end():
    # A pure power law: any floor from nothing up to some size fits.
    result = fit("floor_N", line(n=40, noise=0.03), objective="ls", bootstrap=0)
    found = result.profile("E")
    assert found.low < 1e-4 and np.isfinite(found.high)
    assert "E" in result.certificate.not_identified


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


@pytest.mark.parametrize("n", [16, 60])
def test_least_absolute_deviations_linearised_agrees_with_theory_and_resampling(n):
    # stderr = 1 / (2 f(0)) / (sd(x) sqrt(n)): sqrt(pi / 2) times that of least squares, on average.
    ratio = []
    for seed in range(20):
        runs = line(n=n, seed=seed)
        linear = fit(POWER, runs, objective="lad", intervals="delta", bootstrap=0)
        x = np.log(runs["N"])
        ratio.append(linear.stderr["alpha"] / (0.02 / np.std(x) / np.sqrt(n)))
        assert abs(linear.params["alpha"] - 0.2) < 6 * linear.stderr["alpha"]
    assert np.mean(ratio) == pytest.approx(np.sqrt(np.pi / 2), rel=0.2)
    drawn = fit(POWER, runs, objective="lad", intervals="bootstrap", bootstrap=500)
    assert drawn.certificate.resamples > 0.95
    assert drawn.stderr["alpha"] == pytest.approx(linear.stderr["alpha"], rel=0.6)
    profile = linear.profile("alpha")
    half = 2 * linear.stderr["alpha"]
    assert profile.high - profile.low == pytest.approx(2 * half, rel=0.5)


def test_default_intervals_of_few_runs_by_least_absolute_deviations_cover():
    covered = 0
    for seed in range(60):
        result = fit(POWER, line(n=12, seed=seed), objective="lad", bootstrap=0)
        low, high = result.interval(0.9).loc["alpha", ["low", "high"]]
        covered += low <= 0.2 <= high
    assert 45 <= covered <= 59  # .9 of 60, four standard deviations either way


@pytest.mark.parametrize("seed", [17, 39])
def test_a_threshold_that_holds_no_row_does_not_throw_the_fit_off(seed):
    result = fit(POWER, line(n=16, seed=seed), objective="lad", bootstrap=0)
    assert result.residuals.abs().max() < 0.1


def test_profiles_account_for_correlated_checkpoints():
    covered = 0
    for seed in range(40):
        found = fit(POWER, checkpoints(seed), objective="ls", bootstrap=0).profile("alpha")
        covered += found.low <= 0.2 <= found.high
    assert covered >= 33  # a profile that took rows as independent covered 42 %


@pytest.mark.parametrize("runs", [1, 2])
def test_too_few_runs_give_no_intervals(runs):
    rows = checkpoints(0, runs=runs, each=12)
    rows["N"] = rows["N"] * np.tile(np.geomspace(1, 100, 12), runs)
    result = fit(POWER, rows)
    assert any(word.startswith("intervals not determined") for word in result.status)
    assert result.intervals == "none" and np.isnan(result.stderr["alpha"])
    assert result.interval().loc["alpha", ["low", "high"]].isna().all()
    assert np.isnan(result.predict_interval(N=[1e5, 1e6])).all()
    assert np.isnan(result.derived("2 * alpha").low)
    assert result.record()["params"]["alpha"]["stderr"] is None
    assert "nan" not in str(result) and re.search(r"alpha +\S+ +- +- +-", str(result))
    with pytest.raises(FitError, match="no profile of alpha"):
        result.profile("alpha")


def test_few_runs_of_many_rows_are_jackknifed_by_run():
    rows = checkpoints(0, runs=16)
    result = fit(POWER, rows, objective="ls", bootstrap=200)
    assert result.intervals == "delta" and result.certificate.groups == 16
    # The jackknife itself: leave out one run at a time.
    left = [
        fit(POWER, rows[rows["run_id"] != run], objective="ls", bootstrap=0).params["alpha"]
        for run in range(16)
    ]
    jackknife = np.sqrt(15 / 16 * np.sum((np.array(left) - result.params["alpha"]) ** 2))
    assert result.stderr["alpha"] == pytest.approx(jackknife, rel=0.01)
    drawn = fit(POWER, rows, intervals="bootstrap", bootstrap=200)
    assert "few runs: intervals rest on 16 runs and are narrow" in drawn.status
    assert not any(w.startswith("few runs") for w in fit(POWER, line(n=16)).status)
    with pytest.raises(FitError, match="the intervals 'residual' redraw single rows"):
        fit(POWER, checkpoints(0), intervals="residual")


def test_intervals_of_eight_runs_cover():
    covered = 0
    for seed in range(80):
        found = fit(POWER, checkpoints(seed, runs=8), objective="ls", bootstrap=0)
        covered += found.derived("alpha", 0.9).low <= 0.2 <= found.derived("alpha", 0.9).high
    assert 64 <= covered <= 79  # .9 of 80, three standard deviations either way


def test_an_open_direction_has_unbounded_intervals():
    # Two sizes fix two numbers, not three: E, A and alpha can be traded for each other.
    rng = np.random.default_rng(0)
    N, D = np.tile([1e7, 1e9], 40), np.exp(rng.uniform(20, 26, 80))
    truth = {"E": 1.8, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}
    L = laws.chinchilla.predict(truth, N=N, D=D) * np.exp(0.003 * rng.standard_normal(80))
    result = fit("chinchilla", pd.DataFrame({"N": N, "D": D, "L": L}), bootstrap=200)
    assert set(result.certificate.undetermined) == {"E", "A", "alpha"}
    assert any(w.startswith("not identified: E, A, alpha") for w in result.status)
    table = result.interval()
    assert (table.loc[["E", "A", "alpha"], "high"] == np.inf).all()
    assert np.isinf(result.stderr["E"]) and np.isfinite(result.stderr["beta"])
    assert table.loc["beta", "low"] < 0.36 < table.loc["beta", "high"]
    assert result.derived("a").high == np.inf and np.isfinite(result.derived("beta").high)
    assert result.samples["alpha"].std() > 0.03  # the draws lie along the valley


def test_without_draws_all_intervals_are_linearised():
    result = fit("chinchilla", clean := surface(), bootstrap=0)
    drawn = fit("chinchilla", clean, bootstrap=1000)
    assert result.intervals == "delta" and result.record()["intervals"] == "delta"
    for one, other in zip(result.derived("a"), drawn.derived("a"), strict=True):
        assert one == pytest.approx(other, rel=0.1)
    assert result.record()["derived"]["a"]["low"] is not None
    for one, other in zip(
        result.predict_interval(N=1e11, D=1e12), drawn.predict_interval(N=1e11, D=1e12), strict=True
    ):
        assert one == pytest.approx(other, rel=0.01)


def surface(n=80, noise=0.003, seed=0):
    rng = np.random.default_rng(seed)
    truth = {"E": 1.8, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}
    N, D = np.exp(rng.uniform(14, 22, n)), np.exp(rng.uniform(19, 26, n))
    L = laws.chinchilla.predict(truth, N=N, D=D) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "L": L})


def test_draws_that_overflow_make_an_interval_unbounded():
    from analysis.fitting.draws import central_interval, spread

    draws = np.r_[np.random.default_rng(0).normal(5, 1, 990), np.full(10, np.inf)]
    assert central_interval(draws, 0.9)[1] < 10
    low, high = central_interval(draws, 0.99)
    assert low > 0 and high == np.inf
    assert spread(draws) == pytest.approx(1, rel=0.1)


def test_covariances_of_nearly_flat_fits_have_no_negative_variance():
    cov = np.array([[1e16, 1e8 + 1.0], [1e8 + 1.0, 1.0]])  # not quite positive by rounding
    half = root(cov)
    assert np.isfinite(half).all() and (np.diag(half @ half.T) >= 0).all()
