"""The best schedule by a fitted law of learning curves."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis.curves.best_schedule import best_schedule
from analysis.curves.fit import CurveFit, fit_curves
from analysis.curves.laws import multi_power
from analysis.curves.rates import Rates
from analysis.fitting.checks import FitError
from scaling.cli.app import main

TRUTH = {"L0": 2.8, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.5}
PEAK, WARMUP, STEPS = 3e-4, 100, 4000


def table(kinds: tuple[str, ...] = ("cosine", "constant", "steps")) -> pd.DataFrame:
    """Curves by the law without noise: cosine to a tenth, constant, and one jump."""
    step = np.arange(140, STEPS + 1, 40)
    done = (step - WARMUP) / (STEPS - WARMUP)
    lr = {
        "cosine": PEAK * (0.55 + 0.45 * np.cos(np.pi * done)),
        "constant": np.full(len(step), PEAK),
        "steps": np.where(step < STEPS / 2, PEAK, 0.3 * PEAK),
    }
    parts = []
    for kind in kinds:
        rates = Rates.from_logged(step, lr[kind], WARMUP)
        loss = multi_power.loss(TRUTH, multi_power.points([(rates, step)]))
        parts.append(pd.DataFrame({"run": kind, "step": step, "lr": lr[kind], "loss": loss}))
    return pd.concat(parts, ignore_index=True)


def fitted(law: str = "multi_power", curves: pd.DataFrame | None = None) -> CurveFit:
    rows = table() if curves is None else curves
    return fit_curves(law, rows, run="run", step="step", lr="lr", loss="loss", warmup=WARMUP)


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a command."""
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def fit() -> CurveFit:
    return fitted()


def test_the_best_schedule_never_rises_after_warm_up_and_beats_the_usual_ones(
    fit: CurveFit,
) -> None:
    best = best_schedule(fit, STEPS)
    after = best.knots[best.knots["step"] >= WARMUP]
    assert (np.diff(after["lr"]) <= 1e-12).all()
    assert after["lr"].max() == pytest.approx(PEAK) and after["step"].iloc[-1] == STEPS
    assert (best.gains["gain"] > 0).all()
    assert (best.gains["low"] <= best.gains["gain"]).all()
    assert best.gains.loc["cosine", "gain"] > best.gains.loc["wsd", "gain"]
    assert best.low < best.loss < best.high
    assert best.loss == pytest.approx(fit.predict(step=[STEPS], rates=best.rates)[0])


def test_no_schedule_of_a_random_search_is_better(fit: CurveFit) -> None:
    best = best_schedule(fit, STEPS)
    rng = np.random.default_rng(0)
    for _ in range(200):
        at = np.sort(rng.integers(WARMUP, STEPS, 3))
        lr = np.sort(rng.uniform(0.1 * PEAK, PEAK, 3))[::-1]
        knots = pd.Series(lr, at).groupby(level=0).first().drop(WARMUP - 1, errors="ignore")
        steps = np.r_[0, WARMUP - 1, knots.index, STEPS]
        rates = Rates(steps, np.r_[0, PEAK, knots, 0.1 * PEAK], WARMUP - 1)
        assert fit.predict(step=[STEPS], rates=rates)[0] > best.loss - 1e-4


def test_a_schedule_that_would_decay_further_stops_and_says_so(fit: CurveFit) -> None:
    best = best_schedule(fit, STEPS, lowest=0.3 * PEAK)
    assert best.knots["lr"].iloc[-1] == pytest.approx(0.3 * PEAK, rel=0.02)
    assert any("would go below a learning rate of 9e-05" in note for note in best.notes)


def test_a_rate_below_the_fitted_ones_is_called_untested(fit: CurveFit) -> None:
    assert any("not tested below" in note for note in best_schedule(fit, STEPS, lowest=1e-6).notes)


def test_a_longer_budget_is_called_an_extrapolation_and_a_far_one_refused(fit: CurveFit) -> None:
    assert any("extrapolation" in note for note in best_schedule(fit, 2 * STEPS).notes)
    with pytest.raises(FitError, match=r"5\.0 times the longest fitted run"):
        best_schedule(fit, 5 * STEPS)


def test_a_higher_peak_than_was_fitted_is_refused(fit: CurveFit) -> None:
    with pytest.raises(FitError, match="knows nothing of what a larger one does"):
        best_schedule(fit, STEPS, peak=2 * PEAK)


def test_a_law_that_saw_no_decay_is_refused() -> None:
    with pytest.raises(FitError, match="no fitted run decays"):
        best_schedule(fitted("annealing", table(("constant",))), STEPS)


def test_a_law_without_memory_is_refused() -> None:
    with pytest.raises(FitError, match="takes effect at once"):
        best_schedule(fitted("multi_power_start"), STEPS)


def test_a_budget_within_the_warm_up_is_refused(fit: CurveFit) -> None:
    with pytest.raises(FitError, match="more than the warm-up"):
        best_schedule(fit, 50)


def test_the_command_prints_knots_and_gains(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curves.csv"
    table().to_csv(path, index=False)
    options = ["plan", str(path), "--schedule", "--steps", str(STEPS), "--warmup", str(WARMUP)]
    _, shown, _ = command(capsys, *options)
    assert "lower than cosine" in shown and "lower than wsd" in shown
    values = json.loads(command(capsys, *options, "--json")[1])
    assert values["knots"][-1]["step"] == STEPS and values["gains"]["wsd"]["gain"] > 0
    assert values["low"] < values["loss"] < values["high"]


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "needs one budget"), (["--steps", "9", "--tokens", "9"], "needs one budget"),
     (["--tokens", "1e6"], "give --steps")],
)  # fmt: skip
def test_a_schedule_without_a_clear_budget_is_a_clear_message(
    tmp_path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    path = tmp_path / "curves.csv"
    table().to_csv(path, index=False)
    code, _, errors = command(
        capsys, "plan", str(path), "--schedule", "--warmup", str(WARMUP), *options
    )
    assert code == 2 and message in errors


def test_steps_without_schedule_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = command(capsys, "plan", "results/quickstart", "--steps", "100")
    assert code == 2 and "--schedule" in errors
