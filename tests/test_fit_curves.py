"""Fits of laws of learning curves: recovery, published numbers, intervals, unusable tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import fit_curves
from analysis.curves.fit import CurveFit
from analysis.curves.laws import CURVE_LAWS, resolve
from analysis.curves.rates import Rates
from analysis.fitting.checks import FitError
from scaling.errors import TableError

PUBLISHED = Path(__file__).parents[2] / "shared/published/multipower2025/curves_25M_100M.csv"
TRUTH = {
    "L0": 2.8, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.5, "r": 0.01,
}  # fmt: skip
PEAK, WARMUP, STEPS = 3e-4, 100, 4000
NAMES = {"run": "run", "step": "step", "lr": "lr", "loss": "loss"}


def rate(kind: str, step: np.ndarray, end: int = STEPS) -> np.ndarray:
    done = np.clip((step - WARMUP) / (end - WARMUP), 0, 1)
    return {
        "cosine": PEAK * (0.55 + 0.45 * np.cos(np.pi * done)),
        "constant": np.full(len(step), PEAK),
        "jump": np.where(step < end / 2, PEAK, 0.3 * PEAK),
        "wsd": PEAK * np.clip((1.05 - done) / 0.25, 0.2, 1),
    }[kind]


def curve(kind: str, law: str = "multi_power", end: int = STEPS, every: int = 40) -> pd.DataFrame:
    """A curve by the law without noise."""
    step = np.arange(WARMUP + every, end + 1, every)
    lr = rate(kind, step, end)
    form = resolve(law)
    points = form.points([(Rates.from_logged(step, lr, WARMUP), step)])
    loss = form.loss({p: _of(law, p) for p in form.params}, points)
    return pd.DataFrame({"run": kind, "step": step, "lr": lr, "loss": loss})


def _of(law: str, p: str) -> float:
    return 0.5 if (law, p) == ("annealing", "C") else TRUTH[p]


def table(law: str = "multi_power", every: int = 40) -> pd.DataFrame:
    kinds = ("cosine", "constant", "jump")
    return pd.concat([curve(k, law, every=every) for k in kinds], ignore_index=True)


def fitted(curves: pd.DataFrame, law: str = "multi_power", **options: Any) -> CurveFit:
    chosen: dict[str, Any] = NAMES | {"warmup": WARMUP} | options
    return fit_curves(law, curves, **chosen)


@pytest.mark.parametrize("law", CURVE_LAWS)
def test_a_law_is_recovered_from_curves_that_follow_it(law: str) -> None:
    fit = fitted(table(law), law, prior=False)
    assert fit.converged and fit.objective < 1e-11
    assert fit.params == pytest.approx({p: _of(law, p) for p in fit.params}, rel=0.02)


def test_with_its_prior_a_fit_still_predicts_another_schedule() -> None:
    fit, new = fitted(table()), curve("wsd", end=2 * STEPS)
    found = fit.predict(step=new["step"], lr=new["lr"])
    assert found == pytest.approx(new["loss"].to_numpy(), rel=1e-3)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published curves are not on this machine")
@pytest.mark.parametrize(
    ("size", "start", "most", "mae"),
    [(25, 2.482e-4, 2.48e-4, 0.00376), (100, 2.210e-4, 2.21e-4, 0.00435)],
)
def test_published_curves_are_fitted_and_forecast(
    size: int, start: float, most: float, mae: float
) -> None:
    rows = pd.read_csv(PUBLISHED)
    rows = rows[rows["model_M"] == size]
    fit_on = ["cosine_24000", "constant_24000", "wsdcon_9"]
    names: dict[str, Any] = {"run": "curve", "warmup": 2160, "fit_on": fit_on}
    simple = fitted(rows, "multi_power_start", prior=False, weights="equal", **names)
    assert simple.objective == pytest.approx(start, rel=1e-3)
    fit = fitted(rows, **names)
    assert fit.converged and fit.objective <= most and fit.seconds < 5
    free = fitted(rows, prior=False, weights="equal", **names)
    assert free.objective < fit.objective
    errors, inside = [], []
    for name, each in rows.groupby("curve"):
        if name in fit_on:
            continue
        loss, at = each["loss"].to_numpy(), {"step": each["step"], "lr": each["lr"]}
        errors.append(np.abs(fit.predict(**at) - loss).mean())
        if str(name).endswith("72000"):
            low, high = fit.predict_interval(0.9, **at)
            inside.append((low <= loss) & (loss <= high))
    assert np.mean(errors) <= mae
    assert 0.85 <= np.concatenate(inside).mean() <= 0.95


def test_intervals_cover_a_known_truth() -> None:
    covered = []
    for seed in range(12):
        rng = np.random.default_rng(seed)

        def run(kind: str, end: int = STEPS, rng: np.random.Generator = rng) -> pd.DataFrame:
            each = curve(kind, end=end)
            # A slow deviation along the run, whole stretches long, and noise of points.
            knots = np.linspace(0, end, 6)
            slow = np.interp(each["step"], knots, rng.normal(0, 1.2e-3, len(knots)))
            return each.assign(loss=each["loss"] * np.exp(slow + rng.normal(0, 3e-4, len(each))))

        fit = fitted(pd.concat([run(k) for k in ("cosine", "constant", "jump")]))
        new = run("constant", 3 * STEPS)
        low, high = fit.predict_interval(0.9, step=new["step"], lr=new["lr"])
        covered.append(((low <= new["loss"]) & (new["loss"] <= high)).mean())
    assert 0.8 <= np.mean(covered) <= 1


def test_an_interval_with_noise_contains_that_of_the_law() -> None:
    fit, new = fitted(table()), curve("wsd")
    at = {"step": new["step"], "lr": new["lr"]}
    low, high = fit.predict_interval(0.9, **at)
    inner_low, inner_high = fit.predict_interval(0.9, noise=False, **at)
    loss = fit.predict(**at)
    assert (low <= inner_low).all() and (inner_low <= loss).all()
    assert (loss <= inner_high).all() and (inner_high <= high).all()


def test_a_prediction_does_not_depend_on_the_order_of_the_steps() -> None:
    fit, new = fitted(table()), curve("wsd")
    mixed = new.sample(frac=1, random_state=0)
    found = fit.predict(step=mixed["step"], lr=mixed["lr"])
    again = fit.predict(step=new["step"], lr=new["lr"])
    assert found == pytest.approx(again[mixed.index.to_numpy()])


def test_a_fit_is_text_json_and_html() -> None:
    fit = fitted(table())
    values = json.loads(json.dumps(fit.to_json()))
    assert values["params"].keys() == fit.params.keys() and values["n"] == fit.n
    assert "objective" in str(fit) and "<table>" in fit._repr_html_()
    assert all(low <= fit.params[p] <= high for p, (low, high) in fit.intervals.items())
    assert len(fit.draws) == 200


def test_draws_depend_on_the_seed_alone() -> None:
    one, two, other = (fitted(table(), seed=seed).draws for seed in (0, 0, 1))
    assert one.equals(two) and not one.equals(other)


# ------------------------------------------------------------------ unusable tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="lr"), "no column 'lr' of learning rates.*give the rates"),
        (lambda t: t.assign(lr=np.nan), "column lr is empty"),
        (lambda t: t.rename(columns={"loss": "loss_"}), "no column 'loss'.*Did you mean 'loss_'"),
        (lambda t: t.assign(loss="high"), "column loss, row 0: 'high' is not a number"),
        (lambda t: t.assign(step=t["step"] + 0.5), "is not a step"),
        (lambda t: t.assign(loss=np.nan), "no row has a step"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.iloc[:5], "needs at least 8 points after warm-up; there are 5"),
        (lambda t: t.assign(lr=0.0), "0 throughout"),
        (lambda t: t.assign(lr=-t["lr"]), "must be finite and 0 or more"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(change, message: str) -> None:
    with pytest.raises((TableError, FitError), match=message):
        fitted(change(table()))


def test_rows_with_missing_values_are_dropped_and_counted() -> None:
    rows = table()
    rows.loc[[3, 50], "loss"] = np.nan
    rows.loc[7, "lr"] = np.nan
    rows.loc[9, "loss"] = np.inf
    fit = fitted(rows)
    assert fit.n == len(rows) - 4
    assert "3 rows with missing values (NaN) dropped." in fit.notes
    assert any(note.startswith("1 rows whose loss is not") for note in fit.notes)


def test_a_resumed_run_counts_its_later_rows() -> None:
    rows = table()
    first = rows[rows["run"] == "cosine"].iloc[:60]
    again = rows[rows["run"] == "cosine"].iloc[50:]
    crashed = first.assign(loss=first["loss"].where(np.arange(60) < 50, 9.0))
    resumed = pd.concat([crashed, again, rows[rows["run"] != "cosine"]], ignore_index=True)
    fit = fitted(resumed)
    assert fit.params == pytest.approx(fitted(rows).params)
    assert any("10 rows that were written again are replaced" in note for note in fit.notes)


def test_shuffled_rows_are_sorted() -> None:
    fit = fitted(table().sample(frac=1, random_state=1))
    assert fit.params == pytest.approx(fitted(table()).params, rel=1e-5)
    assert any("not in the order of steps" in note for note in fit.notes)


@pytest.mark.parametrize("how", ["appended", "by step", "other rates"])
def test_two_runs_under_one_id_are_refused(how: str) -> None:
    one = curve("cosine")
    two = curve("constant").assign(run="cosine") if how == "other rates" else one.assign(
        loss=one["loss"] * 1.01
    )  # fmt: skip
    both = pd.concat([one, two], ignore_index=True)
    both = both.sort_values("step", kind="stable") if how == "by step" else both
    with pytest.raises(TableError, match=r"'cosine' is the name of two runs.*column run"):
        fitted(both)


def test_given_rates_replace_a_column_and_must_match_a_logged_one() -> None:
    rows = table()
    rates = {
        run: Rates.from_logged(each["step"], each["lr"], WARMUP)
        for run, each in rows.groupby("run")
    }
    with_column = fitted(rows)
    assert fitted(rows.drop(columns="lr"), rates=rates).params == pytest.approx(with_column.params)
    wrong = rates | {"cosine": rates["constant"]}
    with pytest.raises(TableError, match=r"run cosine: the schedule does not match.*at step"):
        fitted(rows, rates=wrong)
    with pytest.raises(TableError, match="no learning rates are given for run 'jump'"):
        fitted(rows, rates={k: v for k, v in rates.items() if k != "jump"})


def test_curves_without_a_decay_are_said_not_to_determine_it() -> None:
    fit = fitted(curve("constant"), "annealing")
    assert any("no fitted curve has a falling learning rate" in note for note in fit.notes)
    low, high = fit.intervals["C"]
    assert high / low > 100


def test_an_unknown_run_to_fit_is_named() -> None:
    with pytest.raises(TableError, match=r"no run is called 'cosin'.*Did you mean 'cosine'"):
        fitted(table(), fit_on=["cosin"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"delta": 0}, "delta=0"), ({"weights": "x"}, "weights='x'"), ({"warmup": -1}, "warmup=-1"),
     ({"n_boot": -1}, "bootstrap=-1")],
)  # fmt: skip
def test_options_without_meaning_are_refused(options: dict, message: str) -> None:
    with pytest.raises(FitError, match=message):
        fitted(table(), **options)


def test_a_prediction_needs_learning_rates() -> None:
    with pytest.raises(FitError, match="needs the learning rates"):
        fitted(table()).predict(step=[100])
