"""MAP fits: the prior's part of the objective, its draws, and what it decides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import LawError, fit
from analysis.fitting.prior import Belief, Prior, field_prior
from analysis.fitting.solver import solve

TRUTH = {"E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37}


def chinchilla_runs(noise: float = 0.003, rows: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(np.log(1e7), np.log(1e9), rows)), np.exp(rng.uniform(20, 24, rows))
    L = TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] + TRUTH["B"] * D ** -TRUTH["beta"]
    return pd.DataFrame({"N": N, "D": D, "L": L * np.exp(noise * rng.normal(size=rows))})


def prior(**beliefs) -> Prior:
    return Prior({name: Belief(*belief) for name, belief in beliefs.items()})


def test_a_vague_prior_changes_nothing_and_a_sharp_one_decides():
    runs = chinchilla_runs()
    free = fit("chinchilla", runs, objective="ls", bootstrap=0)
    vague = fit("chinchilla", runs, objective="ls", bootstrap=0, prior=prior(alpha=(0.3, 50.0)))
    sharp = fit("chinchilla", runs, objective="ls", bootstrap=0, prior=prior(alpha=(0.5, 1e-4)))
    assert vague.params["alpha"] == pytest.approx(free.params["alpha"], rel=1e-3)
    assert sharp.params["alpha"] == pytest.approx(0.5, rel=1e-3)
    assert sharp.informed["alpha"] == pytest.approx(1, abs=0.02)
    assert vague.informed["alpha"] < 0.02


def test_the_penalised_minimum_is_that_of_a_hand_written_objective():
    """The gradient of sum r^2 / 2 + v (ln alpha - m)^2 / (2 s^2) is zero at the minimum."""
    runs = chinchilla_runs(noise=0.02, rows=12)
    result = fit("bottleneck", runs, objective="ls", bootstrap=0, prior=prior(alpha=(0.6, 0.3)))
    v = result.problem.strain

    def objective(theta):
        p = {k: float(x[0]) for k, x in result.problem.params(theta[:, None]).items()}
        r = np.log(result.law.predict(p, N=runs.N, D=runs.D)) - np.log(runs.L)
        return 0.5 * np.sum(r**2) + 0.5 * v * ((np.log(p["alpha"]) - np.log(0.6)) / 0.3) ** 2

    at = result.minimum.theta[:, 0]
    assert objective(at) == pytest.approx(result.objective, rel=1e-9)
    step = 1e-3 * np.eye(len(at))
    higher = [objective(at + s) for s in (*step, *-step)]
    assert min(higher) >= objective(at) * (1 - 1e-9)


def test_the_prior_acts_on_an_exponent_of_a_sum_of_powers():
    """Its unknown is the exponent itself, not its logarithm."""
    result = fit("chinchilla", chinchilla_runs(0.01), bootstrap=0, prior=prior(beta=(0.6, 0.1)))
    found = solve(result.problem, result.minimum.theta + 0.01, result.minimum.delta)
    assert found.converged.all()
    np.testing.assert_allclose(found.theta, result.minimum.theta, atol=1e-5)
    assert result.certificate.gradient < 1e-6


def test_draws_without_information_are_those_of_the_prior():
    """A few rows with much noise say little about k, so that its draws follow the prior."""
    runs = chinchilla_runs(noise=0.1, rows=30)
    result = fit("bottleneck", runs, bootstrap=400, prior=prior(k=(2.0, 0.3)))
    draws = np.log(result.samples["k"])
    assert np.median(draws) == pytest.approx(np.log(2), abs=0.1)
    assert draws.std() == pytest.approx(0.3, rel=0.2)
    assert result.informed["k"] == pytest.approx(1, abs=0.15)


def test_weights_by_compute_follow_the_large_runs():
    """Small runs with a loss that is off by 5 % hardly move a fit weighted by C."""
    runs = chinchilla_runs(noise=0.0, rows=60)
    C = 6 * runs.N * runs.D
    small = C.quantile(0.3) > C
    far = {"N": 1e10, "D": 1e12}
    truth = float(fit("chinchilla", runs, objective="ls", bootstrap=0).predict(**far))
    runs.loc[small, "L"] *= 1.05

    def miss(weights):
        result = fit("chinchilla", runs, objective="ls", bootstrap=0, weights=weights)
        return abs(float(result.predict(**far)) - truth)

    assert max(miss("C"), miss("C^0.5")) < 0.7 * miss(None)


def test_weights_by_compute_are_those_of_the_column():
    runs = chinchilla_runs(0.01)
    given = runs.assign(C=6 * runs.N * runs.D)
    a, b = (fit("chinchilla", x, bootstrap=0, weights="C").params for x in (runs, given))
    assert a == pytest.approx(b, rel=1e-9)


def test_the_prior_of_the_field_names_its_source():
    found = field_prior()
    assert set(found.beliefs) == {"alpha", "beta", "E", "k"}
    assert "besiroglu2024" in found.source and "porian2024" in found.source
    assert "with the prior 'field'" in fit("chinchilla", chinchilla_runs(), prior="field").loss


PUBLISHED = Path(__file__).parents[2] / "shared" / "published"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published tables beside the checkout")
def test_a_published_table_is_no_part_of_its_own_prior():
    table = pd.read_csv(PUBLISHED / "gadre2024" / "models104.csv").rename(
        columns={"loss_c4_val": "L"}
    )
    half = table[["N", "D", "L"]].query("D < D.median()")
    own = field_prior(half)
    assert "gadre2024" not in own.source and "besiroglu2024" in own.source
    assert own.beliefs["alpha"].centre != field_prior().beliefs["alpha"].centre
    assert field_prior(chinchilla_runs()).source == field_prior().source


@pytest.mark.parametrize("wrong", ["fild", 3])
def test_an_unknown_prior_is_refused(wrong):
    with pytest.raises(LawError, match="'field' or a Prior"):
        fit("chinchilla", chinchilla_runs(), prior=wrong)
