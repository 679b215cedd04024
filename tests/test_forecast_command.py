"""`scaling forecast` on tables, files and the folder of a sweep that was killed half-way."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
from disturbed import kill_tree, tree, wait_for
from small import call

from analysis import figures, forecast
from analysis.curves.named_schedule import parse_schedule
from analysis.curves.rates import Rates

PEAK, WARMUP, EVERY = 1e-3, 200, 50
SCHEDULES = {
    "a": f"cosine:peak={PEAK},warmup={WARMUP},steps=2000,final=0.1",
    "b": f"cosine:peak={PEAK},warmup={WARMUP},steps=4000,final=0.1",
    "c": f"constant:peak={PEAK},warmup={WARMUP},steps=3000",
    "d": f"cosine:peak={PEAK},warmup={WARMUP},steps=6000,final=0.1",
}


def loss_of(rates: Rates, step: np.ndarray) -> np.ndarray:
    return 2.5 + 1.1 * rates.cumulative(step) ** -0.5 - 120.0 * (PEAK - rates.at(step))


@pytest.fixture
def curves() -> pd.DataFrame:
    """Three finished runs, and one at half of its steps."""
    rng, rows = np.random.default_rng(0), []
    for run, schedule in SCHEDULES.items():
        config = parse_schedule(schedule)
        rates = Rates.from_config(config)
        step = np.arange(WARMUP + EVERY, (3000 if run == "d" else config.S) + 1, EVERY)
        loss = loss_of(rates, step) * np.exp(1e-3 * rng.standard_normal(len(step)))
        rows.append(pd.DataFrame({"name": run, "step": step, "lr": rates.at(step), "loss": loss}))
    return pd.concat(rows, ignore_index=True)


def forecasts(capsys, *words: object) -> list[dict]:
    assert call("forecast", *words, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    """The message of a command that is refused, one line with exit code 2."""
    assert call("forecast", *words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if not line.startswith("scaling: note:")]
    assert len(lines) == 1
    return lines[0]


def test_a_table_gives_one_entry_for_each_unfinished_run(curves, tmp_path, capsys):
    curves.to_csv(tmp_path / "curves.csv", index=False)
    (entry,) = forecasts(capsys, tmp_path / "curves.csv", "--map", "step=step,loss=L,lr=lr")
    assert entry["run"] == "d" and entry["steps_left"] == 3000 and entry["off_law"] is None
    assert entry["low"] < entry["loss"] < entry["high"]
    rates = Rates.from_config(parse_schedule(SCHEDULES["d"]))
    assert entry["loss"] == pytest.approx(loss_of(rates, np.array([6000]))[0], rel=5e-3)
    everything = forecasts(capsys, tmp_path / "curves.csv", "--all")
    assert [each["run"] for each in everything] == ["a", "b", "c", "d"]
    assert [each["steps_left"] for each in everything] == [0, 0, 0, 3000]


def test_the_run_may_be_another_column(curves, tmp_path, capsys):
    named = curves.rename(columns={"name": "curve id", "step": "update", "loss": "train/loss"})
    named.to_parquet(tmp_path / "curves.parquet")
    columns = "curve id=run,update=step,train/loss=L,lr=lr"
    (entry,) = forecasts(capsys, tmp_path / "curves.parquet", "--map", columns)
    assert entry["run"] == "d"


def test_files_of_one_run_each(curves, tmp_path, capsys):
    for name, rows in curves.groupby("name"):
        rows.drop(columns="name").to_csv(tmp_path / f"{name}.csv", index=False)
    (entry,) = forecasts(capsys, *sorted(tmp_path.glob("*.csv")))
    assert entry["run"] == "d"
    assert forecasts(capsys, tmp_path)[0]["loss"] == entry["loss"]


def test_the_text_has_a_row_for_each_run_and_says_what_was_assumed(curves, tmp_path, capsys):
    curves.loc[5, "loss"] = np.nan
    curves.to_csv(tmp_path / "curves.csv", index=False)
    assert call("forecast", tmp_path / "curves.csv", "--plot", tmp_path / "f.png") == 0
    printed = capsys.readouterr()
    assert "1 cut off; 3 finished" in printed.out and "90% interval" in printed.out
    assert "3,000 of 6,000" in printed.out and "best finished run: b" in printed.out
    assert "1 rows without a loss are left out" in printed.err
    assert "cosine that ends at step 6000" in printed.err
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_the_figure_has_the_curve_and_a_band_for_each_unfinished_run(curves, tmp_path, capsys):
    curves.to_csv(tmp_path / "curves.csv", index=False)
    assert call("figure", "forecast", tmp_path / "curves.csv", "--out", tmp_path / "f.png") == 0
    assert (tmp_path / "f.png").stat().st_size > 5000
    capsys.readouterr()
    found = forecast(tmp_path / "curves.csv")
    figure = figures.forecast_bands(forecasts=found)
    (ax,) = figure.axes
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["finished runs", "forecast", "90 % interval"]
    (band,) = ax.collections
    low, high = band.get_paths()[0].get_extents().get_points()
    assert low[0] == pytest.approx(3000) and high[0] == pytest.approx(6000)
    lines = [line for line in ax.lines if line.get_label() == "d"]
    assert len(lines) == 1 and lines[0].get_xdata()[-1] == 3000
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(found["d"].loss)
    finished = curves[curves["name"] != "d"]
    finished.to_csv(tmp_path / "finished.csv", index=False)
    assert call("figure", "forecast", tmp_path / "finished.csv") == 2
    assert "nothing to forecast" in capsys.readouterr().err


def test_the_schedule_may_be_named(curves, tmp_path, capsys):
    curves[curves["name"] != "c"].drop(columns="lr").to_csv(tmp_path / "c.csv", index=False)
    message = refused(capsys, tmp_path / "c.csv")
    assert "no learning rates" in message and "--lr-schedule cosine:peak=" in message
    entries = forecasts(
        capsys, tmp_path / "c.csv", "--lr-schedule", SCHEDULES["b"], "--where", "name != 'd'"
    )
    assert [(e["run"], e["steps_left"]) for e in entries] == [("a", 2000)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr-schedule", "cosine:peak=9e-3,warmup=200,steps=6000"], "does not match the logged"),
        (["--lr-schedule", "cosin:peak=1e-3,steps=9"], "Did you mean 'cosine'"),
        (["--law", "multi_powr"], "Did you mean 'multi_power'"),
        (["--level", "3"], "level"),
        (["--where", "name == 'd' or (name == 'a' and step > 1900)"], "'a' has 2 after step 201"),
        (["--map", "los=L"], "no column 'los'"),
    ],
)
def test_bad_input_is_refused_in_one_line(curves, tmp_path, capsys, words, message):
    curves.to_csv(tmp_path / "curves.csv", index=False)
    assert message in refused(capsys, tmp_path / "curves.csv", *words)


def test_two_runs_under_one_name_are_refused(curves, tmp_path, capsys):
    curves.assign(name="one").to_csv(tmp_path / "curves.csv", index=False)
    assert "the name of two runs" in refused(capsys, tmp_path / "curves.csv")


def test_a_resumed_run_is_put_in_order_and_said(curves, tmp_path, capsys):
    d = curves[curves["name"] == "d"]
    again = d[(d["step"] > 1000) & (d["step"] <= 1500)].assign(loss=lambda t: t["loss"] + 9)
    mixed = pd.concat([curves[curves["name"] != "d"], d[d["step"] <= 1000], again,
                       d[d["step"] > 1000]])  # fmt: skip
    mixed.to_csv(tmp_path / "curves.csv", index=False)
    curves.to_csv(tmp_path / "plain.csv", index=False)
    (plain,) = forecasts(capsys, tmp_path / "plain.csv")
    assert call("forecast", tmp_path / "curves.csv", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["loss"] == pytest.approx(plain["loss"], rel=1e-9)
    assert "d: resumed from an earlier step; 10 rows" in printed.err


def test_a_results_folder_has_its_own_schedules(tmp_path, capsys):
    (tmp_path / "results" / "runs").mkdir(parents=True)
    message = refused(capsys, tmp_path / "results", "--lr-schedule", SCHEDULES["a"])
    assert "holds the schedules of its runs" in message
    assert "holds no run" in refused(capsys, tmp_path / "results")


# ------------------------------------------------------------------ a sweep under way

SPEC = """
name = "half"
[base]
data = {{ corpus = "corpus.txt", tokenizer = "bytes" }}
model = {{ n_layer = 1, d_model = 16, n_head = 1, n_ctx = 32 }}
batch_tokens = 256
eval = {{ test_tokens = 2048, points = 24 }}
[axes]
tokens = [{}]
"""


def test_the_runs_of_a_killed_sweep_are_forecast(project, capsys, monkeypatch):
    project.spec("half", SPEC.format("20480, 40960"))
    project.run("half", "results", "in_process=1")
    spec = project.spec("half", SPEC.format("20480, 40960, 614400, 2457600"))
    store = project.store("half", "results")
    runs = {run.D: run.run_id for run in spec.runs}
    longest = runs[max(runs)]
    driver = project.start("half", "results", "in_process=1")

    def is_under_way() -> bool:
        values = store.read_object(store.run_folder(longest) / "progress.json") or {}
        return len(values.get("curve") or []) >= 13

    wait_for(is_under_way)
    monkeypatch.chdir(project.folder)
    live = {each["run"]: each for each in forecasts(capsys, store.folder)}
    assert live[longest]["status"] == "running"
    kill_tree([*tree(driver)])
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    found = {each["run"]: each for each in forecasts(capsys, store.folder)}
    assert set(found) == {runs[614400], longest}
    assert found[runs[614400]]["status"] == "planned" and found[longest]["status"] == "cut off"
    cut = found[longest]
    assert 0 < cut["steps_left"] < cut["steps"] == 9600 and cut["points"] >= 3
    assert found[runs[614400]]["steps_left"] == 2400
    assert all(each["low"] < each["loss"] < each["high"] for each in found.values())
    assert cut["seconds_left"] > 0 and cut["flops_left"] > 0
    assert cut["p_best"] > 0.5  # thirty times as long as the longest finished one
    rows = forecasts(capsys, store.folder, "--all")
    assert sum(each["status"] == "ok" for each in rows) == 2
