"""Compare the solver with scipy and its derivatives with differences; detect sums of powers."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares, linprog

from analysis import laws
from analysis.fitting.autodiff import Dual
from analysis.fitting.minimise import minimise
from analysis.fitting.power_terms import terms
from analysis.fitting.problem import GeneralModel, PowerSumModel, Problem
from analysis.fitting.solver import gradients, solve

EXAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "fit_speed.py"))[
    "example_parameters"
]()
SPANS = {
    "N": (1e6, 1e10), "D": (1e8, 1e12), "D_unique": (1e8, 1e12), "C": (1e15, 1e22),
    "S": (1e3, 1e6), "B": (1e4, 1e7), "L": (2, 5), "E": (2, 128),
    "L_0": (2.5, 5), "N_nv": (1e7, 1e10), "N_v": (1e6, 1e9),
}  # fmt: skip


def inputs(law, n, seed):
    rng = np.random.default_rng(seed)
    x = {c: np.exp(rng.uniform(*np.log(SPANS[c]), n)) for c in law.inputs}
    if "D_unique" in x:
        x["D_unique"] = x["D"] / np.exp(rng.uniform(0, 4, n))
    return x


def problem(law, *, n=40, noise=0.01, seed=0, on="log", fixed=None, params=None, groups=None):
    x = inputs(law, n, seed)
    y = law.predict(params or EXAMPLES[law.name], **x)
    y = y * np.exp(noise * np.random.default_rng(seed + 1).standard_normal(n))
    groups = np.arange(n) if groups is None else groups
    return Problem(
        law=law, columns=x, target=y, weights=np.ones(n), groups=groups, fixed=fixed or {}, on=on
    )


@pytest.mark.parametrize("name", laws.LAWS)
@pytest.mark.parametrize("on", ["log", "raw"])
def test_jacobian_equals_finite_differences(name, on):
    p = problem(laws.LAWS[name], on=on, n=12)
    theta = p.theta(EXAMPLES[name])
    J = gradients(p, theta)
    for j in range(p.q):
        h = np.zeros_like(theta)
        h[j] = 1e-6
        slope = (p.residuals(theta + h) - p.residuals(theta - h))[0] / 2e-6
        assert J[:, j] == pytest.approx(slope, rel=1e-5, abs=1e-8 * np.abs(p.y).max())


@pytest.mark.parametrize("name", laws.LAWS)
def test_parameters_survive_the_change_of_variables(name):
    p = problem(laws.LAWS[name], n=12)
    back = p.params(p.theta(EXAMPLES[name]))
    for key, value in EXAMPLES[name].items():
        assert back[key][0] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 1e-2, np.inf])
@pytest.mark.parametrize("name", ["chinchilla", "gadre", "floor_N", "kaplan_ND", "bottleneck"])
def test_minimum_is_at_most_that_of_scipy(name, delta):
    p = problem(laws.LAWS[name], n=60, seed=3)
    ours = minimise(p, "ls" if np.isinf(delta) else "huber", delta, 0)
    assert ours.converged
    theirs = least_squares(
        lambda t: p.residuals(t[:, None])[0],
        p.theta(EXAMPLES[name])[:, 0],
        loss="linear" if np.isinf(delta) else "huber",
        f_scale=1.0 if np.isinf(delta) else delta,
        x_scale="jac",
        xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=2000,
    )  # fmt: skip
    assert ours.objective <= theirs.cost * (1 + 1e-9)


def test_lad_is_the_minimum_of_the_linear_program():
    # log L = log A - alpha log N is linear, so least absolute deviations is a linear program.
    p = problem(laws.power("N"), n=31, noise=0.05, params={"A": 20.0, "alpha": 0.2})
    found = minimise(p, "lad", None, 0)
    x, n = np.log(p.columns["N"]), p.n
    A = np.block([[np.ones((n, 1)), -x[:, None], -np.eye(n), np.eye(n)]])
    cost = np.r_[0, 0, np.ones(2 * n)]
    exact = linprog(cost, A_eq=A, b_eq=p.y, bounds=[(None, None)] * 2 + [(0, None)] * 2 * n)
    ours = np.abs(p.residuals(found.theta)).sum()
    assert ours == pytest.approx(exact.fun, rel=1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "gadre", "mccandlish", "learning_rate"])
@pytest.mark.parametrize("on", ["log", "raw"])
def test_sum_of_powers_and_general_solver_agree(name, on):
    p = problem(laws.LAWS[name], on=on, noise=0.003)
    q = problem(laws.LAWS[name], on=on, noise=0.003)
    q.__dict__["model"] = GeneralModel(q)
    assert isinstance(p.model, PowerSumModel)
    a, b = (minimise(each, "ls", None, 0) for each in (p, q))
    assert a.objective == pytest.approx(b.objective, rel=1e-9)
    for key, value in p.params(a.theta).items():
        assert value[0] == pytest.approx(q.params(b.theta)[key][0], rel=1e-4)


def test_laws_that_are_sums_of_powers():
    found = {
        name for name, law in laws.LAWS.items() if terms(law, inputs(law, 5, 0), {}) is not None
    }
    assert found == {
        "floor_N", "floor_D", "floor_C", "chinchilla", "gadre", "mccandlish", "learning_rate",
        "batch_size", "lovelace",
    }  # fmt: skip
    x = inputs(laws.chinchilla, 5, 0)
    found = terms(laws.chinchilla, x, {"E": 1.8, "beta": 0.3})
    assert found is not None and [sorted(t.coefficients) for t in found] == [[], ["A"], ["B"]]


def test_resampled_counts_equal_repeated_rows():
    p = problem(laws.chinchilla, n=50)
    counts = np.random.default_rng(0).multinomial(50, np.ones(50) / 50, 3)
    start = minimise(p, "huber", 5e-3, 0).theta
    batch = solve(p, np.repeat(start, 3, 1), 5e-3, counts=counts)
    for b, count in enumerate(counts):
        rows = np.repeat(np.arange(50), count)
        alone = replace(
            p, columns={k: x[rows] for k, x in p.columns.items()}, target=p.target[rows],
            weights=np.ones(50), groups=np.arange(50),
        )  # fmt: skip
        expected = minimise(alone, "huber", 5e-3, 0)
        assert batch.objective[b] == pytest.approx(expected.objective, rel=1e-9)


def test_more_fits_than_slots_equal_single_fits():
    p = problem(laws.chinchilla, n=300)
    counts = np.random.default_rng(1).multinomial(300, np.ones(300) / 300, 250)
    start = minimise(p, "ls", None, 0).theta
    assert p.slots < 250
    batch = solve(p, np.repeat(start, 250, 1), np.inf, counts=counts)
    assert batch.converged.all()
    for b in (0, 131, 249):
        alone = solve(p, start, np.inf, counts=counts[[b]])
        assert batch.objective[b] == pytest.approx(alone.objective[0], rel=1e-10)


def test_held_direction_keeps_its_value_while_others_are_minimised():
    p = problem(laws.chinchilla, n=60)
    found = minimise(p, "ls", None, 0)
    a = p.model.natural(np.eye(p.q))[p.free.index("A")]
    start = found.theta + 0.3 * a[:, None] / (a @ a)
    held = solve(p, start, np.inf, hold=a[:, None])
    value = p.params(held.theta)["A"][0]
    assert np.log(value / p.params(found.theta)["A"][0]) == pytest.approx(0.3, abs=1e-4)
    free = replace(p, fixed={"A": value})
    alone = minimise(free, "ls", None, 0)
    assert held.objective[0] == pytest.approx(alone.objective, rel=1e-6)


def test_many_rows_are_searched_in_a_thinned_table():
    p = problem(laws.chinchilla, n=9000, noise=0.004)
    found = minimise(p, "huber", None, 0)
    assert found.converged
    assert np.abs(gradients(p, found.theta).T @ np.clip(
        p.residuals(found.theta)[0], -found.delta, found.delta)).max() < 1e-6  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.1, 4), st.floats(-2, 2), st.lists(st.floats(0.2, 3), min_size=3, max_size=3)
)  # fmt: skip
def test_dual_numbers_differentiate(a, b, x):
    x = np.array(x)

    def f(a, b):
        y = np.exp(-a * x) + x**b / (1 + np.sqrt(a)) - np.log1p(a * x) * np.tanh(b)
        y = y + np.where(x > 1, a * x, b / x) + np.maximum(a, b * x) + np.logaddexp(a, b * x)
        return y + a**2 + np.expm1(b) ** 3 + np.minimum(a, x) + abs(b) * 2.0**a

    out = f(Dual(a, {0: 1.0}), Dual(b, {1: 1.0}))
    assert out.value == pytest.approx(f(a, b))
    for j, h in enumerate(((1e-6, 0), (0, 1e-6))):
        up, down = f(a + h[0], b + h[1]), f(a - h[0], b - h[1])
        kink = min(abs(b), *np.abs(a - b * x), *np.abs(a - x)) < 1e-4
        if not kink:
            slope = (up - down) / 2e-6
            assert np.broadcast_to(out.partials[j], 3) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_error_for_a_scalar_law_explains_how_to_write_it():
    import math

    @laws.law(A=laws.Range(1, 10), alpha=laws.Range(0.1, 1))
    def scalar(N, *, A, alpha):
        return A * math.exp(-alpha) / N

    x = {"N": np.array([1.0, 2.0, 3.0])}
    p = Problem(
        law=scalar, columns=x, target=np.ones(3), weights=np.ones(3), groups=np.arange(3),
        fixed={}, on="log",
    )  # fmt: skip
    with pytest.raises(laws.LawError, match="Use numpy functions"):
        minimise(p, "ls", None, 0)
