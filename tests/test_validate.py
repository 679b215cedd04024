"""Backtests and verdicts on tables whose right answer is known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis import Range, fit, law, laws, validate
from analysis.validation.goodness import curvature, lack_of_fit
from analysis.verify import objective_at
from scaling.errors import TableError

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


def test_a_wrong_law_is_rejected_and_the_right_one_named():
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


def test_whether_a_floor_is_supported():
    with_floor = validate("floor_N", line(1.0), bootstrap=100)
    assert any("a floor is supported" in sentence for sentence in with_floor.verdict)
    without = validate("floor_N", line(0.0), bootstrap=100)
    assert any("a floor is not supported" in sentence for sentence in without.verdict)
    assert not without.supported  # E is not determined


def test_two_sizes_show_no_curvature():
    noise = 0.3 * np.random.default_rng(0).standard_normal(8)
    N = np.repeat([1e4, 3.5e4], 4)
    runs = pd.DataFrame({"N": N, "L": 4 * (N / 1e4) ** -0.1 + noise})
    found = validate("power_N", runs, bootstrap=3)
    (floor,) = (sentence for sentence in found.verdict if "a floor is" in sentence)
    assert floor.endswith("curvature is not known")


def test_curvature_is_a_t_test():
    t, p = curvature(*line(1.0)[["N", "L"]].to_numpy().T)
    assert t > 3 and p < 0.01
    # Under a pure power law p is uniform: the mean over tables is near a half.
    ps = [curvature(*line(0.0, seed=s)[["N", "L"]].to_numpy().T)[1] for s in range(200)]
    assert np.mean(ps) == pytest.approx(0.5, abs=0.08) and min(ps) > 1e-5


def test_a_narrow_range_is_reported():
    found = validate("floor_N", line(1.0, decades=0.7), bootstrap=50)
    assert any("N spans 0.7 decades: too narrow" in sentence for sentence in found.verdict)


@law(E=Range(0.3, 3), A=Range(1, 1e6), B=Range(1, 1e6), alpha=Range(0.1, 1), beta=Range(0.1, 1))
def chinchilla(N, D, *, E, A, B, alpha, beta):
    """L(N, D) = E + max(A / N^alpha, B / D^beta)."""
    return E + np.maximum(A * N**-alpha, B * D**-beta)


def test_laws_that_share_a_name_are_compared_as_two():
    runs = surface(n=60)
    found = validate(chinchilla, runs, against=["chinchilla", chinchilla], bootstrap=0)
    assert list(found.laws.index) == ["chinchilla", "chinchilla (2)"]
    published = validate(
        "chinchilla", runs, against=[], bootstrap=0, delta=found.fit.certificate.delta
    )
    assert found.laws.loc["chinchilla (2)", "error"] == pytest.approx(
        published.laws.loc["chinchilla", "error"], rel=1e-6
    )
    assert found.laws.loc["chinchilla", "error"] > 2 * found.laws.loc["chinchilla (2)", "error"]
    assert any(line.startswith("chinchilla (2) fits better") for line in found.verdict)


def test_a_law_named_like_a_published_one_is_compared_with_it():
    found = validate(chinchilla, surface(n=60), bootstrap=0)
    assert "chinchilla (2)" in found.laws.index


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


def checkpoints(seed, runs=40):
    """Eight checkpoints per run whose errors share 90 % of their variance."""
    rng = np.random.default_rng([7, seed])
    N = np.repeat(np.exp(rng.uniform(17, 23, runs)), 8)
    D = N * np.repeat(np.exp(rng.uniform(1, 5.7, runs)), 8) * np.tile(np.geomspace(0.1, 1, 8), runs)
    shared, own = np.repeat(rng.standard_normal(runs), 8), rng.standard_normal(8 * runs)
    noise = 0.005 * (np.sqrt(0.9) * shared + np.sqrt(0.1) * own)
    L = laws.chinchilla.predict(TRUTH, N=N, D=D) * np.exp(noise)
    return pd.DataFrame({"run_id": np.repeat(np.arange(runs), 8), "N": N, "D": D, "L": L})


def test_lack_of_fit_counts_runs_not_checkpoints():
    tables = [checkpoints(seed) for seed in range(12)]
    right = [lack_of_fit(fit("chinchilla", t, bootstrap=0)) for t in tables]
    blind = [lack_of_fit(fit("chinchilla", t, bootstrap=0, cluster=None)) for t in tables]

    assert sum(p < 0.05 for p in right) <= 1 < 4 <= sum(p < 0.05 for p in blind)
    wrong = tables[0].assign(L=lambda t: t["L"] * np.exp(0.002 * np.log(t["N"] / 4e8) ** 2))
    assert lack_of_fit(fit("kaplan_ND", wrong, bootstrap=0)) < 1e-3  # and it still has power


def test_curvature_counts_runs():
    def p_values(seed):
        rng = np.random.default_rng(seed)
        run = np.repeat(np.arange(16), 8)
        N = np.repeat(10 ** np.linspace(6, 9, 16), 8) * np.tile(np.geomspace(0.1, 1, 8), 16)
        L = 30 * N**-0.2 * np.exp(0.003 * rng.standard_normal(16)[run])
        return curvature(N, L)[1], curvature(N, L, run)[1]

    blind, right = (np.array([p_values(seed) for seed in range(200)]) < 0.05).mean(axis=0)
    assert right < 0.1 < 0.3 < blind
    t, p = curvature(*line(1.0)[["N", "L"]].to_numpy().T, np.arange(24))
    assert t > 3 and p < 0.01  # a run a row: as without


@pytest.mark.parametrize("objective", ["ls", "huber", "lad"])
def test_aicc_uses_the_likelihood_of_the_objective(objective):
    runs = surface(n=80, noise=0.003)
    found = validate("chinchilla", runs, against=["kaplan_ND"], objective=objective, bootstrap=0)
    r, worse = (
        np.log1p(fit(form, runs, objective=objective, delta=d, bootstrap=0).residuals)
        for form, d in (("chinchilla", None), ("kaplan_ND", None))
        for d in [found.fit.certificate.delta if objective == "huber" else None]
    )
    n = len(runs)
    if objective == "ls":
        gap = n * np.log((worse**2).sum() / (r**2).sum())
    elif objective == "lad":
        gap = 2 * n * np.log(worse.abs().sum() / r.abs().sum())
    else:  # the density, integrated and maximised by brute force
        delta = found.fit.certificate.delta
        x = np.linspace(-60 * 0.05, 60 * 0.05, 400_001)

        def rho(y):
            return np.where(np.abs(y) < delta, y**2 / 2, delta * (np.abs(y) - delta / 2))

        def deviance(r):
            s = np.sqrt(2 * rho(r).mean()) * np.geomspace(0.5, 4, 200)
            Z = [np.exp(-rho(x) / each**2).sum() * (x[1] - x[0]) for each in s]
            return (2 * rho(r).sum() / s**2 + 2 * n * np.log(Z)).min()

        gap = deviance(worse.to_numpy()) - deviance(r.to_numpy())

    def penalty(k):
        return 2 * k + 2 * k * (k + 1) / (n - k - 1)

    got = found.laws.loc["kaplan_ND", "aicc"] - found.laws.loc["chinchilla", "aicc"]
    assert got == pytest.approx(gap + penalty(5) - penalty(6), rel=2e-3)
    word = {"ls": "Gaussian", "huber": "Huber's density", "lad": "Laplace"}[objective]
    assert f"AICc by the {word} likelihood, its scale fitted, of 80 rows" in str(found)


def test_weights_follow_their_rows():
    runs = surface(n=60).assign(status="ok")
    runs.loc[[3, 17], "status"] = "failed"
    weights = np.linspace(1, 2, 60)
    found = validate("chinchilla", runs, weights=weights, bootstrap=20, against=["gadre"])
    kept = runs.drop(index=[3, 17])
    same = validate(
        "chinchilla", kept, weights=np.delete(weights, [3, 17]), bootstrap=20, against=["gadre"]
    )
    pd.testing.assert_frame_equal(found.laws, same.laws)
    pd.testing.assert_frame_equal(found.backtest, same.backtest)


def test_a_cut_off_without_a_fit_is_reported():
    @law(A=Range(1, 10), alpha=Range(0.1, 1))
    def late(N, *, A, alpha):
        """L(N) = A N^-alpha, above a size only."""
        return A * N**-alpha + (0 * N if np.max(N) > 1e8 else np.nan)

    found = validate(late, line(0.0), bootstrap=0, against=[])
    assert any(s.startswith("no fit to the runs up to") for s in found.verdict)


def test_a_law_of_the_loss_need_not_span_decades():
    rng = np.random.default_rng(3)
    L = np.linspace(2.2, 4, 40)
    runs = pd.DataFrame({"L": L, "B_crit": 2e8 * L**-4.8 * np.exp(0.02 * rng.standard_normal(40))})
    found = validate("critical_batch", runs, bootstrap=100)
    assert found.supported, found.verdict
    narrow = pd.DataFrame({"D": np.geomspace(1e9, 4e9, 40), "B": np.geomspace(1e5, 3e5, 40)})
    narrow["B"] *= np.exp(0.01 * rng.standard_normal(40))
    message = " ".join(validate("batch_size", narrow, bootstrap=50).verdict)
    assert "too narrow to know an exponent" in message and "floor" not in message


@law("absolute_error", E=Range(0.3, 3), A=Range(1, 1e4), alpha=Range(0.1, 1))
def floor_of_error(N, *, E, A, alpha):
    """absolute_error(N) = E + A / N^alpha."""
    return E + A * N**-alpha


@pytest.mark.parametrize(("kind", "density"), [("ls", "Gaussian"), ("lad", "Laplace")])
def test_the_name_of_the_target_does_not_decide_the_objective(kind, density):
    """A column called absolute_error is fitted, refitted and compared by the objective chosen."""
    runs = line(1.8, noise=0.02)
    options = {"objective": kind, "bootstrap": 50}
    renamed = runs.rename(columns={"L": "absolute_error"})
    found = validate(floor_of_error, renamed, against=[], **options)
    same = validate("floor_N", runs, against=[], **options)
    assert found.fit.objective_kind == kind and density in found.likelihood
    assert found.scales["error"].tolist() == pytest.approx(same.scales["error"].tolist(), rel=1e-6)
    assert found.laws["held_out"].iloc[0] == pytest.approx(same.laws["held_out"].iloc[0], rel=1e-6)


def test_objective_at_uses_the_objective_of_the_fit():
    runs = line(1.8, noise=0.02).rename(columns={"L": "absolute_error"})
    result = fit(floor_of_error, runs, objective="ls", bootstrap=0)
    assert objective_at(result, result.params) == pytest.approx(result.objective, rel=1e-9)
