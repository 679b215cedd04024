"""Laws of learning curves: learning rates of runs, exact sums over steps, published values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.curves.laws import CURVE_LAWS, annealing, multi_power, resolve
from analysis.curves.rates import TOLERANCE, Rates, config_of
from analysis.curves.sums import nodes, rule
from analysis.laws.law import LawError
from scaling import RunConfig
from scaling.config import from_dict
from scaling.errors import TableError
from scaling.training.schedule import peaks, schedule

PUBLISHED = Path(__file__).parents[2] / "shared/published/multipower2025/curves_25M_100M.csv"
RESULTS = Path(__file__).parents[1] / "results"
LUO = dict(zip(
    multi_power.params,
    (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    strict=True,
))  # fmt: skip
"""Parameters published for the model of 25 million parameters."""

rates_of_runs = st.builds(
    lambda lengths, lr: Rates(np.cumsum([0, *lengths]), np.array(lr[: len(lengths) + 1])),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e-2), st.just(3e-4)), min_size=6, max_size=6),
).filter(lambda rates: rates.peak > 0)
"""Runs with falling, rising, constant and vanishing learning rates, and with jumps."""


def direct(rates: Rates, s: int, C: float, beta: float, gamma: float) -> float:
    """Sum of the multi-power law step by step."""
    lr = rates.at(np.arange(s + 1))
    since = np.cumsum(lr[:0:-1])[::-1]  # learning rates of steps k to s
    z = C * np.maximum(lr[1:], 1e-12 * rates.peak) ** -gamma * since
    return float(np.sum(np.diff(lr) * (1 - (1 + z) ** -beta)))


@settings(deadline=None, max_examples=60)
@given(rates_of_runs, st.floats(1e-3, 1e3), st.floats(0.05, 2), st.floats(-0.5, 1.2))
def test_the_sum_over_pieces_is_the_sum_over_all_steps(
    rates: Rates, C: float, beta: float, gamma: float
) -> None:
    end = int(rates.steps[-1])
    steps = np.unique(np.linspace(1, end + 50, 7).astype(int))
    at = nodes(rates, steps)
    z = C * at.lr**-gamma * at.x
    found = at.sum(at.weight * (1 - (1 + z) ** -beta))
    expected = np.array([direct(rates, int(s), C, beta, gamma) for s in steps])
    assert np.abs(found - expected).max() <= 1e-9 * max(rates.peak, 1e-9)


@settings(deadline=None, max_examples=60)
@given(rates_of_runs, st.floats(1e-5, 0.5))
def test_the_annealing_sum_is_the_recursion_over_all_steps(rates: Rates, r: float) -> None:
    end = int(rates.steps[-1]) + 30
    steps = np.unique(np.linspace(1, end, 7).astype(int))
    lr = rates.at(np.arange(end + 1))
    momentum, S2 = 0.0, [0.0]
    for fall in -np.diff(lr):
        momentum = (1 - r) * momentum + fall
        S2.append(S2[-1] + momentum)
    found = annealing.drop(annealing.points([(rates, steps)]), (r,)).value
    assert found == pytest.approx(
        -np.array(S2)[steps], rel=1e-9, abs=1e-10 * rates.peak / r + 1e-18
    )


@given(st.integers(1, 5000), st.integers(1, 9), st.lists(st.floats(-1, 1), min_size=1, max_size=17))
def test_a_rule_sums_polynomials_exactly(size: int, count: int, coefficients: list[float]) -> None:
    at, weight = rule(size, count)
    terms = coefficients[: 2 * min(count, size)]
    k = np.arange(1, size + 1) / size
    direct_sum = np.polynomial.polynomial.polyval(k, terms).sum()
    by_rule = weight @ np.polynomial.polynomial.polyval(at / size, terms)
    assert by_rule == pytest.approx(direct_sum, rel=1e-9, abs=1e-9 * size)


@given(rates_of_runs)
def test_cumulative_rates_are_those_of_all_steps(rates: Rates) -> None:
    steps = np.arange(1, int(rates.steps[-1]) + 20)
    assert rates.cumulative(steps) == pytest.approx(np.cumsum(rates.at(steps)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", CURVE_LAWS)
def test_the_slopes_of_a_law_are_its_derivatives(name: str) -> None:
    law = resolve(name)
    rates = Rates(
        np.array([0, 50, 400, 600, 601, 900]), np.array([0, 1, 1, 0.4, 0.2, 0.02]) * 3e-4, 50
    )
    points = law.points([(rates, np.array([80, 450, 600, 601, 640, 900]))])
    params = {
        "L0": 3.0,
        "A": 0.5,
        "alpha": 0.5,
        "B": 300.0,
        "C": 2.0,
        "beta": 0.5,
        "gamma": 0.6,
        "r": 0.01,
    }
    params = {p: params[p] for p in law.params}
    _, slopes = law.loss_and_slopes(params, points)
    for i, p in enumerate(law.params):
        h = 1e-6 * params[p]
        up, down = (law.loss(params | {p: params[p] + s * h}, points) for s in (1, -1))
        assert slopes[:, i] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-9), p


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published curves are not on this machine")
@pytest.mark.parametrize(
    ("curve", "R2", "mae"),
    [("wsdcon_9", 0.999471, 0.002926), ("wsdcon_3", 0.998253, 0.004487),
     ("wsdcon_18", 0.999606, 0.002505)],
)  # fmt: skip
def test_published_parameters_give_the_published_errors(curve: str, R2: float, mae: float) -> None:
    table = pd.read_csv(PUBLISHED)
    rows = table[(table["model_M"] == 25) & (table["curve"] == curve)]
    rates = Rates.from_logged(rows["step"], rows["lr"], warmup=2160)
    loss = rows["loss"].to_numpy()
    off = loss - multi_power.loss(LUO, multi_power.points([(rates, rows["step"])]))
    assert 1 - (off**2).sum() / ((loss - loss.mean()) ** 2).sum() == pytest.approx(R2, abs=1e-6)
    assert np.abs(off).mean() == pytest.approx(mae, abs=1e-6)


def test_a_rate_that_jumps_between_two_rows_jumps_at_the_second() -> None:
    rates = Rates.from_logged([100, 200, 300, 400], [2.0, 2.0, 1.0, 1.0])
    assert rates.at([200, 299, 300, 400]).tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize("kind", ["linear", "geometric"])
def test_a_decay_starts_where_its_rows_continued_backwards_meet_the_constant(kind: str) -> None:
    step = np.arange(100, 2000, 100)

    def lr(s: np.ndarray) -> np.ndarray:
        left = np.clip((s - 1030) / 970, 0, 1)
        return 3e-4 * (1 - 0.9 * left) if kind == "linear" else 3e-4 * 0.1**left

    rates = Rates.from_logged(step, lr(step))
    assert rates.at([1000, 1030]) == pytest.approx([3e-4, 3e-4])
    assert np.interp(1100, rates.steps, rates.lr) == pytest.approx(lr(np.array(1100)))
    assert rates.at(1031) < 3e-4


def test_warm_up_before_the_first_row_rises_from_zero() -> None:
    rates = Rates.from_logged([30, 60], [1.0, 1.0], warmup=11)
    assert rates.at([0, 5, 10, 30]).tolist() == [0, 0.5, 1, 1]
    assert rates.warmup == 10


def test_a_logged_warm_up_is_found() -> None:
    rates = Rates.from_logged([10, 20, 30, 40], [1.0, 2.0, 3.0, 3.0])
    assert rates.warmup == 30 and rates.at(5) == 0.5


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear", "constant"])
def test_rates_of_a_config_are_its_schedule(kind: str) -> None:
    run = from_dict({"tokens": 512 * 3000, "batch_tokens": 512, "optim.schedule": kind})
    rates = Rates.from_config(run)
    steps = np.arange(1, run.S + 1)
    exact = np.array([schedule(run, int(s) - 1) for s in steps]) * peaks(run)[0]
    assert np.abs(rates.at(steps) - exact).max() <= 1.1 * TOLERANCE * rates.peak
    assert len(rates.steps) < 600


def test_rates_of_a_row_are_those_that_its_run_logged() -> None:
    runs = pd.read_csv(RESULTS / "headline/runs.csv")
    curves = pd.read_parquet(RESULTS / "headline/curves.parquet")
    for _, row in runs.iloc[::15].iterrows():
        curve = curves[curves["run_id"] == row["run_id"]]
        assert Rates.from_row(row).at(curve["S"]) == pytest.approx(curve["lr"].to_numpy())


def test_a_row_gives_back_its_config() -> None:
    from scaling.columns import config_row
    from scaling.config import flatten

    run = RunConfig(seed=3)
    row = config_row(flatten(run)) | {"D": run.D, "B": run.batch_tokens}
    assert config_of(row) == from_dict(flatten(run) | {"tokens": run.D})


def test_an_unknown_law_is_answered_with_the_nearest() -> None:
    with pytest.raises(LawError, match="Did you mean 'multi_power'"):
        resolve("multipower")


@pytest.mark.parametrize(
    ("steps", "lr", "message"),
    [([1, 1], [1, 1], "must increase"), ([1, 2], [1, np.nan], "finite"), ([1.5], [1], "whole")],
)
def test_rates_that_are_no_schedule_are_refused(steps: list, lr: list, message: str) -> None:
    with pytest.raises(TableError, match=message):
        Rates(np.array(steps), np.array(lr))


def test_the_command_lists_laws_of_curves(capsys: pytest.CaptureFixture[str]) -> None:
    from scaling.cli.fit import laws

    laws()
    shown = capsys.readouterr().out
    assert (
        all(name in shown for name in (*CURVE_LAWS, "multi_power_size")) and "2408.11029" in shown
    )
