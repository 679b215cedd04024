"""The combined fit, 'auto': what it predicts, how sure it is, and what it says."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import FitError, LawError, choose, fit, frontier, laws, plans
from analysis.fitting.combination import Combination, combine
from scaling.errors import TableError


def grid(law, noise=0.004, seed=0, sizes=6, lengths=6) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    N, D = np.meshgrid(np.geomspace(1e7, 5e8, sizes), np.geomspace(2e8, 2e10, lengths))
    runs = pd.DataFrame({"N": N.ravel(), "D": D.ravel()}).eval("C = 6 * N * D")
    return runs.assign(L=law(runs.N, runs.D) * np.exp(noise * rng.normal(size=len(runs))))


def chinchilla(N, D):
    return 1.8 + 480 * N**-0.35 + 2000 * D**-0.36


def kaplan(N, D):
    return ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103


@pytest.fixture(scope="module")
def auto():
    return fit("auto", grid(chinchilla), bootstrap=200)


def test_auto_names_the_fits_with_weights_and_errors(auto):
    assert isinstance(auto, Combination)
    assert sum(auto.weights.values()) == pytest.approx(1)
    first = str(auto).splitlines()[0]
    for name, weight in auto.weights.items():
        assert f"{name}: weight {weight:.2f}, held-out error {auto.errors[name]:.2%}" in first
    assert list(auto.weights.values()) == sorted(auto.weights.values(), reverse=True)


def test_the_prediction_is_the_weighted_geometric_mean(auto):
    at = {"N": np.array([1e9, 3e9]), "D": 5e10}
    logs = sum(w * np.log(auto.laws[name].predict(**at)) for name, w in auto.weights.items())
    np.testing.assert_allclose(auto.predict(**at), np.exp(logs), rtol=1e-12)


@pytest.mark.parametrize("law", [chinchilla, kaplan])
def test_an_exact_law_is_predicted_at_ten_times_the_compute(law):
    auto = fit("auto", grid(law), bootstrap=0)
    N, D = 1.5e9, 6.3e10
    assert float(auto.predict(N=N, D=D)) == pytest.approx(law(N, D), rel=0.02)


def test_the_extrapolation_interval_contains_the_statistical_one(auto):
    at = {"N": np.array([1e8, 1e9, 1e10]), "D": np.array([1e10, 6e10, 6e11])}
    narrow = auto.predict_interval(0.9, kind="statistical", **at)
    wide = auto.predict_interval(0.9, kind="extrapolation", **at)
    assert np.all(wide[0] <= narrow[0]) and np.all(wide[1] >= narrow[1])
    growth = np.log(wide[1] / wide[0])
    assert growth[2] > growth[1]
    np.testing.assert_array_equal(auto.predict_interval(0.9, **at), wide)


def test_a_slow_term_lies_inside_the_extrapolation_interval():
    """A third term, 2 % of the loss at the largest compute, with an exponent of .1: the bootstrap
    does not see it."""
    inside = {"statistical": 0, "extrapolation": 0}
    for seed in range(6):
        top = 6 * 5e8 * 2e10

        def slow(N, D, top=top):
            return chinchilla(N, D) + 0.045 * (6 * N * D / top) ** -0.1

        auto = fit("auto", grid(slow, noise=1e-3, seed=seed), bootstrap=200)
        N, D = 5e9, 2e11
        for kind in inside:
            low, high = auto.predict_interval(0.9, kind=kind, N=N, D=D)
            inside[kind] += bool(low <= slow(N, D) <= high)
    assert inside["extrapolation"] >= 5


def test_the_frontier_of_auto_has_its_losses(auto):
    front = frontier(grid(chinchilla), method="parametric", bootstrap=50)
    row = front.at(C=1e21).iloc[0]
    assert isinstance(front.fit, Combination)
    assert pytest.approx(float(front.fit.predict(N=row.N, D=row.D)), rel=1e-9) == row.L
    near = front.fit.predict(N=row.N * np.array([0.7, 1.4]), D=row.D / np.array([0.7, 1.4]))
    assert near.min() >= row.L


def test_plans_lead_with_auto_and_show_other_laws():
    found = plans(choose(grid(chinchilla), bootstrap=50), C=1e21)
    assert next(iter(found.plans)) == "auto"
    assert {"chinchilla", "kaplan_ND", "shared_exponent"} <= set(found.plans)
    lead = str(found).split(":")[0]
    assert "auto (bottleneck" in lead
    if all(error >= found.held_out["auto"] for error in found.held_out.values()):
        assert lead.endswith("predicts these runs best")
    else:
        assert lead.startswith("The answer is that of auto")


def test_a_law_without_N_and_D_cannot_be_chosen():
    with pytest.raises(LawError, match="kaplan_N is a law of N; a choice of N and D needs one of"):
        choose(grid(chinchilla), [laws.kaplan_N], rank=False)


def test_the_record_has_weights_errors_and_parameters(auto):
    record = json.loads(json.dumps(auto.record()))
    assert set(record["laws"]) == set(auto.weights)
    for member in record["laws"].values():
        assert member["weight"] >= 0 and member["held_out"] > 0 and "alpha" in member["params"]
    assert set(record["params"]) == set(auto.params)


def test_few_runs_are_combined_without_a_backtest():
    auto = combine(grid(chinchilla, sizes=3, lengths=3), bootstrap=0)
    assert set(auto.weights.values()) == {0.5}
    assert "held-out" not in auto.sentence


@pytest.mark.parametrize(
    ("runs", "error"),
    [
        (grid(chinchilla).query("N < 1.1e7"), (FitError, TableError)),
        (grid(chinchilla).head(4), (FitError, TableError)),
        (grid(chinchilla).drop(columns="D"), TableError),
    ],
)
def test_tables_that_cannot_be_combined_get_one_message(runs, error):
    with pytest.raises(error) as caught:
        fit("auto", runs)
    assert len(str(caught.value).splitlines()) == 1


def test_options_of_one_law_are_refused():
    with pytest.raises(FitError, match="weights is for one law"):
        fit("auto", grid(chinchilla), weights="C")
