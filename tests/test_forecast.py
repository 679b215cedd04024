"""Forecasts of runs that have not finished: reading, ends, conditioning, and leaving the law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import forecast
from analysis.curves.conditional import Noise, condition
from analysis.curves.curve_tables import read_table
from analysis.curves.departure import FALSE_ALARMS, departure, threshold
from analysis.curves.named_schedule import parse_schedule
from analysis.curves.rates import Rates
from analysis.curves.run_curve import RunCurves
from analysis.curves.segments import in_order
from scaling.errors import ConfigError, TableError

PEAK, WARMUP = 1e-3, 200
TRUTH = {"L0": 2.5, "A": 1.1, "alpha": 0.5, "B": 120.0}
COSINE = f"cosine:peak={PEAK},warmup={WARMUP},steps={{}},final=0.1"
CONSTANT = f"constant:peak={PEAK},warmup={WARMUP},steps={{}}"
EVERY = 50


def truth(rates: Rates, step: np.ndarray) -> np.ndarray:
    """Loss of the law multi_power_start."""
    t = TRUTH
    return (
        t["L0"] + t["A"] * rates.cumulative(step) ** -t["alpha"] - t["B"] * (PEAK - rates.at(step))
    )


def curve(
    run: str,
    schedule: str,
    rng: np.random.Generator,
    *,
    to: int | None = None,
    factor=1.0,
    noise=1e-3,
) -> pd.DataFrame:
    """Rows of a run under a schedule, logged from its warm-up to step `to`."""
    config = parse_schedule(schedule)
    rates = Rates.from_config(config)
    step = np.arange(WARMUP + EVERY, (to or config.S) + 1, EVERY)
    loss = truth(rates, step) * np.exp(noise * rng.standard_normal(len(step))) * factor
    return pd.DataFrame({"run": run, "step": step, "lr": rates.at(step), "loss": loss})


def finished(rng: np.random.Generator) -> list[pd.DataFrame]:
    return [
        curve("a", COSINE.format(2000), rng),
        curve("b", COSINE.format(4000), rng),
        curve("c", CONSTANT.format(3000), rng),
    ]


def table(*more: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    return pd.concat([*finished(np.random.default_rng(seed)), *more], ignore_index=True)


def true_end(schedule: str) -> float:
    config = parse_schedule(schedule)
    return float(truth(Rates.from_config(config), np.array([config.S]))[0])


# ------------------------------------------------------------------ schedules


def test_a_named_schedule_has_the_learning_rates_of_the_config():
    run = parse_schedule("cosine:peak=3e-4,warmup=2000,steps=72000,final=0.1")
    rates = Rates.from_config(run)
    assert run.S == 72000 and rates.peak == pytest.approx(3e-4)
    assert rates.at([1000, 2000, 72000]) == pytest.approx([1.5e-4, 3e-4, 3e-5], rel=1e-3)
    wsd = Rates.from_config(parse_schedule("wsd:peak=1e-3,steps=1000,cooldown=0.25"))
    assert wsd.at([750, 876]) == pytest.approx([1e-3, 5e-4], rel=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin:peak=1e-3,steps=10", "Did you mean 'cosine'"),
        ("cosine:peak=3e-4", "lacks steps"),
        ("cosine:steps=3000", "lacks peak"),
        ("cosine:peak=3e-4,steps=many", "steps=many is not a number"),
        ("cosine:peak=3e-4,steps=100,finall=2", "Did you mean 'final'"),
        ("wsd:peak=1e-3,steps=100,warmup=200", "below steps=100"),
        ("cosine:peak", "is not NAME=VALUE"),
        ("cosine:peak=-1,steps=10", "must be a positive number"),
        ("cosine:peak=1e-3,steps=100,final=3", "must lie between 0 and 1"),
    ],
)
def test_a_schedule_that_is_misspelt_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_schedule(text)


# ------------------------------------------------------------------ reading


def test_the_end_of_a_run_under_a_cosine_follows_from_its_learning_rates():
    rng = np.random.default_rng(1)
    runs = read_table(table(curve("d", COSINE.format(6000), rng, to=3000)))
    (run,) = runs.unfinished
    assert (run.run, run.end, run.done) == ("d", 6000, 3000)
    assert run.rates.at([4500, 6000]) == pytest.approx(
        Rates.from_config(parse_schedule(COSINE.format(6000))).at([4500, 6000]), rel=1e-2
    )
    assert [run.run for run in runs.finished] == ["a", "b", "c"]
    assert all(run.warmup == pytest.approx(WARMUP, abs=2) for run in runs.runs)


def test_rows_with_a_learning_rate_and_no_loss_are_the_steps_to_come():
    rng = np.random.default_rng(2)
    rows = curve("d", CONSTANT.format(6000), rng)
    rows.loc[rows["step"] > 2500, "loss"] = np.nan
    rows.loc[rows["step"] == 1000, "loss"] = np.nan
    runs = read_table(table(rows))
    (run,) = runs.unfinished
    assert (run.end, run.done) == (6000, 2500)
    assert runs.notes == [
        "1 rows without a loss are left out",
        *[note for note in runs.notes if "warm-up" in note],
    ]


def test_the_steps_of_a_run_may_be_a_column():
    rng = np.random.default_rng(3)
    rows = curve("d", COSINE.format(4000), rng, to=1000).assign(total=4000)
    runs = read_table(table(rows), map={"total": "steps"})
    (run,) = runs.unfinished
    assert run.end == 4000  # like b, whose rates it has so far


def test_a_schedule_that_is_named_gives_the_end_of_the_runs_that_follow_it():
    rng = np.random.default_rng(4)
    rows = curve("d", COSINE.format(20000), rng, to=700)
    named = parse_schedule(COSINE.format(20000))
    assert not read_table(table(rows)).unfinished  # too short to tell
    (run,) = read_table(table(rows), schedule=named).unfinished
    assert (run.run, run.end) == ("d", 20000)


def test_a_schedule_that_does_not_match_is_refused():
    rng = np.random.default_rng(5)
    rows = table(curve("d", COSINE.format(6000), rng, to=3000))
    with pytest.raises(TableError, match=r"does not match .* of 'c'.*Correct peak"):
        read_table(rows, schedule=parse_schedule("cosine:peak=2e-3,warmup=200,steps=6000"))


def test_without_learning_rates_the_message_says_what_to_give():
    rows = table().drop(columns="lr")
    with pytest.raises(TableError, match=r"no learning rates.*COLUMN=lr.*--lr-schedule cosine"):
        read_table(rows)
    runs = read_table(rows[rows["run"] == "a"], schedule=parse_schedule(COSINE.format(2000)))
    assert [run.status for run in runs.runs] == ["ok"]


def test_a_run_without_a_known_end_is_not_taken_as_finished_if_the_table_says_it_runs():
    rng = np.random.default_rng(6)
    rows = table(curve("d", CONSTANT.format(6000), rng, to=3500))
    rows["state"] = np.where(rows["run"] == "d", "running", "finished")
    with pytest.raises(TableError, match=r"'d' has not finished, and where it ends"):
        read_table(rows)
    assert len(read_table(rows.drop(columns="state")).finished) == 4


def test_a_resumed_run_counts_each_step_once_the_later_rows_win():
    step = np.array([100, 200, 300, 400, 250, 350, 450], float)
    order = in_order("x", step, np.arange(7.0), "t")
    assert step[order.kept].tolist() == [100, 200, 250, 350, 450] and order.replaced == 2
    twice = in_order("x", np.array([1.0, 2, 2, 3]), np.array([5.0, 4, 4, 3]), "t")
    assert twice.kept.tolist() == [0, 1, 3] and twice.repeated == 1


def test_two_runs_under_one_name_are_refused():
    rng = np.random.default_rng(7)
    one, two = curve("a", COSINE.format(4000), rng), curve("a", COSINE.format(4000), rng)
    for rows in (pd.concat([one, two]), pd.concat([one, two]).sort_values("step")):
        with pytest.raises(TableError, match=r"'a' is the name of two runs.*--map COLUMN=run"):
            read_table(rows)
    sizes = table().assign(N=lambda t: np.where(t.index % 2, 1e6, 2e6))
    with pytest.raises(TableError, match="N=1e"):
        read_table(sizes)


def test_files_of_one_run_each_are_runs(tmp_path):
    for name, rows in table().groupby("run"):
        rows.drop(columns="run").to_csv(tmp_path / f"run_{name}.csv", index=False)
    runs = read_table(tmp_path)
    assert [run.run for run in runs.runs] == ["run_a", "run_b", "run_c"]
    assert {run.end for run in runs.finished} == {2000, 4000, 3000}


# ------------------------------------------------------------------ the forecast


def test_forecasts_hold_the_true_end_as_often_as_they_say():
    hits, errors = [], []
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        schedules = {"d": COSINE.format(8000), "e": COSINE.format(5000)}
        rows = table(*(curve(n, s, rng, to=2500) for n, s in schedules.items()), seed=seed)
        found = forecast(rows, law="multi_power_start", level=0.9)
        assert [f.run for f in found] == ["d", "e"]
        for f in found:
            end = true_end(schedules[f.run])
            hits.append(f.low <= end <= f.high)
            errors.append(np.log(f.loss / end))
            assert f.steps_left == f.steps - 2500 and f.off_law is None
    assert np.mean(hits) >= 0.8
    assert np.std(errors) < 5e-3


def test_published_curves_lie_in_the_intervals_of_their_forecasts(published):
    rows = pd.read_csv(published / "multipower2025" / "curves_25M_100M.csv")
    fitted, hits, errors = ["cosine_24000", "constant_24000", "wsdcon_9"], [], []
    for _, curves in rows.groupby("model_M"):
        whole = read_table(curves.drop(columns="model_M"))
        cut = [
            run if run.run in fitted else run.cut(run.end // 2)
            for run in whole.runs
        ]  # fmt: skip
        true = {run.run: run.loss[-1] for run in whole.runs}
        for each in forecast(RunCurves(runs=cut, source="published"), law="multi_power"):
            hits.append(each.low <= true[each.run] <= each.high)
            errors.append(np.log(true[each.run] / each.loss))
    assert len(hits) == 12 and np.mean(hits) >= 0.75
    assert np.sqrt(np.mean(np.square(errors))) < 4e-3


def test_the_probability_to_beat_the_best_run_is_that_of_the_interval():
    rng = np.random.default_rng(8)
    found = forecast(table(curve("d", COSINE.format(8000), rng, to=4000)), law="multi_power_start")
    assert found.best is not None and found.best[0] == "b"
    assert found["d"].p_best > 0.99  # twice as long as the best one
    short = forecast(table(curve("d", COSINE.format(1000), rng, to=600)), law="multi_power_start")
    assert short["d"].p_best < 0.01


def test_a_table_of_finished_runs_has_nothing_to_forecast():
    found = forecast(table())
    assert len(found) == 0 and "all 3 runs have finished" in str(found)
    everything = forecast(table(), finished=True)
    assert [f.steps_left for f in everything] == [0, 0, 0]
    assert everything["a"].loss == table().query("run == 'a'")["loss"].iloc[-1]


def test_without_a_finished_run_the_message_says_so():
    rng = np.random.default_rng(9)
    rows = curve("d", COSINE.format(6000), rng, to=3000)
    with pytest.raises(ValueError, match=r"no run has finished.*at least one"):
        forecast(rows)


def test_too_few_points_after_the_warm_up_are_named():
    rng = np.random.default_rng(10)
    rows = pd.concat([
        curve("a", COSINE.format(2000), rng).iloc[-3:],
        curve("d", COSINE.format(6000), rng, to=3000),
    ])  # fmt: skip
    with pytest.raises(ValueError, match=r"3 evaluations after their warm-up.*'a' has 3 after"):
        forecast(rows, schedule=COSINE.format(6000))


# ------------------------------------------------------------------ conditioning


def test_conditioning_on_all_points_predicts_a_gaussian_process():
    rng = np.random.default_rng(0)
    step = np.geomspace(100, 10000, 12)
    n = len(step)
    noise = Noise(point=1e-3, along=np.full(n, 5e-3), length=1.0, factors=(np.full(n, 4e-3),))
    cov = noise.covariance(step) + 1e-6 * np.eye(n)
    z = []
    for _ in range(2000):
        y = rng.multivariate_normal(np.zeros(n), cov)
        found = condition(step[:-1], y[:-1], step[-1:], np.zeros(n), np.zeros((n, n)), noise)
        z.append((y[-1] - found.mean[0]) / found.sd[0])
        assert len(found.innovations) == n - 1
    assert np.std(z) == pytest.approx(1, abs=0.05) and abs(np.mean(z)) < 0.08


def test_a_run_without_points_has_the_forecast_of_the_law():
    noise = Noise(point=1e-3, along=np.array([5e-3]), length=1.0)
    found = condition(
        np.array([]), np.array([]), np.array([100.0]), np.array([1.0]), np.zeros((1, 1)), noise
    )
    assert found.mean[0] == 1.0 and found.sd[0] == pytest.approx(np.hypot(1e-3, 5e-3))


# ------------------------------------------------------------------ leaving the law


def healthy(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(n)


@pytest.mark.parametrize("n", [8, 30, 120, 400])
def test_healthy_curves_raise_few_alarms(n):
    rng = np.random.default_rng(n)
    step, law = np.arange(1, n + 1) * 100, np.full(n, 3.0)
    alarms = 0
    for _ in range(1500):
        z = healthy(n, rng)
        alarms += departure(step, law * np.exp(3e-3 * z), law, z) is not None
    assert alarms / 1500 <= 2 * FALSE_ALARMS


def test_the_threshold_grows_with_the_length_of_a_curve():
    heights = [threshold(n) for n in (5, 50, 500, 5000)]
    assert heights == sorted(heights) and threshold(50, 0.1) < threshold(50, 0.01)


def left(kind: str, at: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Residuals of ln loss of a run that leaves the law at a point."""
    r = 2e-3 * rng.standard_normal(n)
    after = np.arange(n) >= at
    if kind == "jump":
        return r + 0.03 * after
    if kind == "diverging":
        return r + after * 2e-3 * np.maximum(np.arange(n) - at, 0) ** 1.5
    return r + after * 4e-3  # another recipe: a shift of two standard deviations


@pytest.mark.parametrize("kind", ["jump", "diverging", "another recipe"])
def test_a_run_that_leaves_the_law_is_flagged_near_the_step_where_it_left(kind):
    n, found = 80, []
    step = np.arange(1, n + 1) * 100
    law = 2.5 + 2.0 / np.sqrt(np.arange(1, n + 1))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        at = 0 if kind == "another recipe" else 40
        r = left(kind, at, n, rng)
        off = departure(step, law * np.exp(r), law, r / 2e-3)
        if off is not None:
            found.append(off)
    assert len(found) >= 38
    expected = 0 if kind == "another recipe" else 4000
    assert np.median([abs(off.step - expected) for off in found]) <= 600
    assert np.mean([off.kind == kind for off in found]) > 0.8


def test_a_run_of_another_learning_rate_is_off_the_law_and_a_diverging_one_too():
    rng = np.random.default_rng(11)
    other = curve("d", COSINE.format(6000), rng, to=3000, factor=1.06)
    worse = curve("e", COSINE.format(6000), rng, to=3000)
    late = worse["step"] > 1500
    worse.loc[late, "loss"] *= np.exp(2e-5 * (worse.loc[late, "step"] - 1500) ** 1.4)
    fine = curve("f", COSINE.format(6000), rng, to=3000)
    found = forecast(table(other, worse, fine), law="multi_power_start")
    assert found["f"].off_law is None
    assert found["d"].off_law is not None and found["d"].off_law.kind == "another recipe"
    off = found["e"].off_law
    assert off is not None and off.kind == "diverging" and 1300 <= off.step <= 2200
    assert "e: off the law: diverging since step" in str(found)
