"""Runs whose end is known well enough are stopped, and a sweep that is killed decides the same."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from disturbed import Project, assert_same_results, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

import analysis
from analysis.planning.adaptive import interval_width
from scaling.config import RunConfig, override
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.training.schedule import evaluation_steps, warmup_steps
from sweeps import Sweep
from sweeps.adaptive.forecast import CurveSoFar, Decision, Forecast, decision_steps
from sweeps.adaptive.halving import Arm, hopeless, rungs
from sweeps.adaptive.interval import Interval
from sweeps.early_stopping import Halving
from sweeps.execute import execute
from sweeps.folder_status import status
from sweeps.forecast_stopping import ForecastStopping
from sweeps.queue import Job, Queue
from sweeps.result import failed_row
from sweeps.spec import Spec
from sweeps.store import Store

REAL = """
name = "real"
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 }
batch_tokens = 256
eval = { test_tokens = 2048, points = 8 }
optim = { lr = 0.01, schedule = "wsd", warmup_tokens = 1024 }
[axes]
model = [{ d_model = 8 }, { d_model = 16 }]
tokens = [5_120, 10_240, 20_480]
[until]
forecast = { N = 1e5, D = 1e6, after = 0.3, worth = 0.001 }
"""
FULL = REAL.partition("[until]")[0]


@dataclass
class Double:
    """Stops a run once two runs have ended and three evaluations of it are known."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    seen: list[dict[str, tuple[int, str]]] = field(default_factory=list)
    sharp: float = 100.0

    def check_question(self, options: Forecast) -> None:
        if options.law == "none":
            raise ConfigError("there is no law 'none'.")

    def decide_ends(
        self, options: Forecast, curves: Sequence[CurveSoFar], due: Sequence[str]
    ) -> Mapping[str, Decision]:
        by_id = {curve.run.run_id: curve for curve in curves}
        self.seen.append({i: (len(c.points), c.status) for i, c in by_id.items()})
        ended = sum(bool(curve.status) for curve in curves)
        found = {}
        for run_id in due:
            points = by_id[run_id].points
            self.asked.append((run_id, points[-1]["S"]))
            stops = ended >= 2 and len(points) >= 3
            found[run_id] = stops, f"{ended} ended", {"loss": points[-1]["L"]}
        return found

    def win_probabilities(self, curves: Any, S: int) -> Mapping[str, float]:
        last = {run_id: points[-1]["L"] for run_id, points in curves.items()}
        weights = {run_id: np.exp(-self.sharp * L) for run_id, L in last.items()}
        return {run_id: float(w / sum(weights.values())) for run_id, w in weights.items()}


def train(
    text: str, results: str = "results", double: Any = None, **options: Any
) -> tuple[pd.DataFrame, str]:
    out = io.StringIO()
    sweep = Sweep(Spec.from_text(text), results, forecaster=double or Double())
    how: dict[str, Any] = {"in_process": True, "packs": False} | options
    rows = sweep.run(console=Console(file=out, width=200), **how)
    return rows.set_index("run_id"), out.getvalue()


MEASURED = ["status", "S", "D", "C", "L", "error"]

# ------------------------------------------------------------------ the options


@given(st.integers(1, 400), st.integers(1, 40), st.floats(0, 0.9), st.floats(0.01, 0.99))
def test_runs_stop_at_evaluations_after_the_warm_up_and_before_the_end(
    S: int, points: int, warmup: float, after: float
):
    run = override(
        RunConfig(),
        {"batch_tokens": 256, "model.n_ctx": 32, "tokens": 256 * S, "eval.points": points}
        | {"optim.warmup_fraction": warmup},
    )
    found = decision_steps(run, after)
    assert set(found) == {
        s for s in evaluation_steps(S, points) if s >= after * S and s > warmup_steps(run) and s < S
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("N = 1e5", "N and D"),
        ("D = 1e5", "N and D"),
        ("width = 0.1", "N and D"),
        ("N = 1e5, D = 1e6, parameter = 'alpha'", "N and D"),
        ("N = 1e5, parameter = 'alpha'", "N and D"),
        ("N = 0, D = 1e6", "forecast.N=0.0 must be above 0"),
        ("N = 1e5, D = 1e6, width = -1", "forecast.width=-1.0 must be above 0"),
        ("N = 1e5, D = 1e6, gain = 1.5", "forecast.gain=1.5 must be below 1"),
        ("N = 1e5, D = 1e6, after = 2", "forecast.after=2 must be below 1"),
        ("N = 1e5, D = 1e6, worth = 1", "forecast.worth=1 must be below 1"),
        ("N = 1e5, D = 1e6, gian = 0.1", "unknown key 'gian'"),
    ],
)
def test_mistakes_in_the_question_are_reported(options: str, message: str):
    with pytest.raises(ConfigError) as error:
        Spec.from_text(f"{FULL}[until]\nforecast = {{ {options} }}\n")
    assert message in str(error.value) and "[until]" in str(error.value)


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("lr = { win = 0.1 }", "lr.win=0.1 needs lr.halving"),
        ("lr = { halving = 2, win = 0.6 }", "lr.win=0.6 must be below 0.5"),
        ("lr = {}\nforecast = { N = 1e5, D = 1e6 }", "lr and forecast do not go together"),
    ],
)
def test_searches_that_do_not_go_with_forecasts_are_refused(until: str, message: str):
    with pytest.raises(ConfigError) as error:
        Spec.from_text(f"{FULL}[until]\n{until}\n")
    assert message in str(error.value)


def test_a_law_that_does_not_exist_is_refused_before_anything_trains(here: Path):
    with pytest.raises(ConfigError, match="no law 'none'"):
        train(REAL.replace("after = 0.3, worth = 0.001", "law = 'none'"))
    assert not Path("results").exists()


def test_cheap_runs_train_first_if_runs_stop_on_forecasts(tmp_path: Path):
    runs = Spec.from_text(REAL).runs
    jobs = [Job((run,), float(run.D)) for run in runs[:3]]

    def order(jobs: list[Job]) -> list[float]:
        queue = Queue(Store(tmp_path), 0)
        queue.add(jobs)
        taken = [queue.take() for _ in jobs]
        return [job.seconds for job in taken if job]

    assert order(jobs) == [20_480, 10_240, 5_120]
    stops = Forecast(N=1e5, D=1e6, worth=0.001)
    assert order([replace(job, forecast=stops) for job in jobs]) == [5_120, 10_240, 20_480]


# ------------------------------------------------------------------ the records


def points(run: RunConfig, upto: int) -> list[dict[str, Any]]:
    steps = [S for S in evaluation_steps(run.S, run.eval.points) if upto >= S]
    return [{"S": S, "D": S * run.batch_tokens, "L": 3 + 1 / S, "lr": 0.01} for S in steps]


def test_a_decision_is_final_for_its_question_and_made_again_for_another(tmp_path: Path):
    small, large = Spec.from_text(REAL).runs[:2]
    store, double = Store(tmp_path), Double()
    options = Forecast(N=1e5, D=1e6, worth=0.001)
    stopping = ForecastStopping(store, options, double)
    stopping.prepare({run.run_id: run for run in Spec.from_text(REAL).runs})
    at = decision_steps(large, options.after)[1]
    assert stopping([(large, points(large, at))]) == {}
    assert double.asked == [(large.run_id, at)]
    assert len(double.seen[0]) == 6 and double.seen[0][small.run_id] == (0, "")
    for run in Spec.from_text(REAL).runs[2:4]:
        store.finish(failed_row(run, ""), [])
    # It comes again from an older checkpoint: what was decided stands, though more runs have ended.
    assert stopping([(large, points(large, at))]) == {} and len(double.asked) == 1
    other = ForecastStopping(store, replace(options, N=2e5), double)
    assert list(other([(large, points(large, at))])) == [large.run_id]
    assert len(double.asked) == 2
    record = json.loads((tmp_path / "forecasts" / f"{large.run_id}.json").read_text())
    assert [S for S, *_ in record["decisions"]] == [at]
    assert [p["S"] for p in record["points"]] == [p["S"] for p in points(large, at)]


def test_a_damaged_record_or_a_full_disk_costs_only_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = {run.run_id: run for run in Spec.from_text(REAL).runs}
    small, large = list(runs.values())[:2]
    double = Double()
    stopping = ForecastStopping(
        Store(tmp_path), Forecast(N=1e5, D=1e6, after=0.3, worth=0.001), double
    )
    stopping.prepare(runs)
    stopping([(small, points(small, 10))])
    record = tmp_path / "forecasts" / f"{small.run_id}.json"
    whole = record.read_bytes()
    at = decision_steps(large, 0.3)[-1]
    stopping([(large, points(large, at))])
    assert double.seen[-1][small.run_id] == (len(points(small, 10)), "")
    (tmp_path / "forecasts" / f"{large.run_id}.json").unlink()
    damaged = (b"", whole[:50], b"[]", b"{}", b'{"config": 3}', whole.replace(b'"S"', b'"T"'))
    for torn in damaged:
        record.write_bytes(torn)
        stopping([(large, points(large, at))])
        (tmp_path / "forecasts" / f"{large.run_id}.json").unlink()
        assert small.run_id not in double.seen[-1] and len(double.seen[-1]) == 5
    record.write_bytes(b"")
    stopping([(small, points(small, 10))])  # its next evaluation repairs the record
    assert json.loads(record.read_bytes())["points"] == json.loads(whole)["points"]
    # Records of runs that the sweep no longer has are removed, others are kept.
    stopping.prepare({small.run_id: small})
    assert [path.stem for path in (tmp_path / "forecasts").iterdir()] == [small.run_id]

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeps.forecast_stopping.write_atomic", full)
    asked = len(double.asked)
    assert stopping([(large, points(large, at))]) == {} and len(double.asked) == asked + 1


def test_a_forecaster_that_fails_stops_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class Broken(Double):
        def decide_ends(self, options: Any, curves: Any, due: Any) -> Any:
            raise ZeroDivisionError("a fit went wrong")

    run = Spec.from_text(REAL).runs[0]
    stopping = ForecastStopping(Store(tmp_path), Forecast(N=1e5, D=1e6, worth=0.001), Broken())
    at = decision_steps(run, 0.1)[0]
    assert stopping([(run, points(run, at))]) == {}
    assert "a fit went wrong" in capsys.readouterr().out
    record = json.loads((tmp_path / "forecasts" / f"{run.run_id}.json").read_text())
    ((S, stops, reason, _),) = record["decisions"]
    assert (S, stops) == (at, False) and "a fit went wrong" in reason


# ------------------------------------------------------------------ real training


def test_a_sweep_stops_runs_that_keep_their_curves_and_is_the_same_after_any_kill(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, _ = train(FULL, "whole")
    double = Double()
    runs, out = train(REAL, double=double)
    stopped, ok = runs[runs.status == "stopped"], runs[runs.status == "ok"]
    assert len(runs) == 6 and len(stopped) >= 2 and set(runs.index) == set(whole.index)
    assert f"{len(ok)} ok, {len(stopped)} stopped in" in out
    pd.testing.assert_series_equal(ok.L, whole.L[ok.index])
    assert (whole.D[stopped.index] > stopped.D).all() and runs.D.sum() < whole.D.sum()
    assert stopped.error.str.fullmatch(r"\d ended").all()
    # Their curves are those of the whole runs, up to where they stopped.
    curves = pd.read_parquet("results/real/curves.parquet").groupby("run_id")
    uncut = pd.read_parquet("whole/real/curves.parquet").groupby("run_id")
    for run_id in stopped.index:
        mine, theirs = curves.get_group(run_id), uncut.get_group(run_id)
        assert mine.S.max() == stopped.S[run_id] and len(mine) >= 3
        np.testing.assert_array_equal(mine.L, theirs.L[: len(mine)])
    state = status("results/real")
    assert state.finished["stopped"] == len(stopped) and not state.missing
    assert "nothing to train" in train(REAL, retry_failed=True)[1]

    # Kill it at every fourth evaluation, and when a stopped run is about to be stored.
    calls, call, finish = 0, ForecastStopping.__call__, Store.finish
    torn = set()

    def dies(self: ForecastStopping, measured: Any) -> dict[str, str]:
        nonlocal calls
        calls += 1
        stops = call(self, measured)
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return stops

    def dies_at_first(self: Store, row: Any, *others: Any) -> None:
        if row["status"] == "stopped" and row["run_id"] not in torn:
            torn.add(row["run_id"])
            raise KeyboardInterrupt
        finish(self, row, *others)

    kills, killed, again = 0, None, Double()
    with monkeypatch.context() as patch:
        patch.setattr(ForecastStopping, "__call__", dies)
        patch.setattr(Store, "finish", dies_at_first)
        while killed is None:
            try:
                killed, _ = train(REAL, "killed", again, checkpoint_seconds=0.0)
            except KeyboardInterrupt:
                kills += 1
    assert kills > len(stopped) == len(torn)
    pd.testing.assert_frame_equal(killed[MEASURED], runs[MEASURED])
    assert len(set(again.asked)) == len(again.asked)  # each decision was made once

    # A spec without the option trains the stopped runs to the end.
    plan = Sweep(Spec.from_text(FULL)).plan(in_process=True)
    assert plan.stopped_early == set(plan.missing) == set(stopped.index)
    runs, _ = train(FULL)
    pd.testing.assert_frame_equal(runs[MEASURED], whole[MEASURED])


def test_laws_of_final_losses_leave_stopped_runs_out(sweep: Callable[..., Any]):
    rows, _ = sweep()
    rows = rows.assign(status="ok")
    cut = rows.index[::4]
    rows.loc[cut, "status"] = "stopped"
    rows.loc[cut, "L"] += 1.0
    ok = rows[rows.status == "ok"]
    mixed, alone = (analysis.fit("chinchilla", table) for table in (rows, ok))
    assert mixed.params == pytest.approx(alone.params, rel=1e-9)
    assert interval_width(Interval(width=0.1), rows.to_dict("records")) == pytest.approx(
        interval_width(Interval(width=0.1), ok.to_dict("records")), rel=1e-6
    )


def test_branches_of_a_trunk_go_on_when_the_longest_run_stops(here: Path):
    whole, _ = train(FULL, "whole", packs=True)
    spec = Spec.from_text(REAL)
    store, double = Store("results/real"), Double()
    options = spec.forecast
    assert options
    runs = spec.runs[:3]
    for run in spec.runs[3:5]:  # two others have ended
        ForecastStopping(store, options, double).prepare({r.run_id: r for r in spec.runs})
        store.finish(failed_row(run, ""), [])
    ordered = tuple(sorted(runs, key=lambda run: -run.D))
    job = Job(ordered, 1.0, slots=1, forecast=options, forecaster=double)
    outcomes = execute(job, store, Execution(threads=1), lambda: False)
    by_id = {outcome.run_id: outcome.status for outcome in outcomes}
    assert by_id[ordered[0].run_id] == "stopped" and len(by_id) == 3
    rows = {run.run_id: store.result(run.run_id) for run in runs}
    executed = sum(found.row["D"] - found.row["D_shared"] for found in rows.values() if found)
    assert executed < ordered[0].D
    for run_id, found in rows.items():
        assert found
        if found.row["status"] == "ok":
            assert found.row["L"] == whole.L[run_id]


# ------------------------------------------------------------------ real kills

DOUBLE = """
import json, os, time
from sweeps import Sweep

class Double:
    def check_question(self, options): pass
    def decide_ends(self, options, curves, due):
        by_id = {curve.run.run_id: curve for curve in curves}
        found = {}
        for run_id in due:
            points = by_id[run_id].points
            with open("asked.txt", "a") as file:
                file.write(f"{run_id} {points[-1]['S']}\\n")
            stops = by_id[run_id].run.D > 50_000 and len(points) >= 3
            found[run_id] = stops, "known well enough", {"loss": points[-1]["L"]}
        return found
"""
DRIVER = """
import sys
from double import Double
from sweeps import Sweep
try:
    Sweep.from_toml("forecast.toml", results=sys.argv[1], forecaster=Double()).run(
        workers=2, in_process=sys.argv[2] == "here", packs=False, checkpoint_seconds=0.1
    )
except KeyboardInterrupt as stop:
    print(stop)
"""
KILLED = (
    REAL.replace('"real"', '"forecast"')
    .replace("5_120, 10_240, 20_480", "20_480, 102_400, 204_800")
    .replace("[{ d_model = 8 }, { d_model = 16 }]", "[{ d_model = 8 }]")
)


@pytest.mark.parametrize("where", ["here", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_and_resumed_stops_the_same_runs(project: Project, where: str):
    project.spec("forecast", KILLED)
    (project.folder / "double.py").write_text(DOUBLE)
    environment = project.environment | {
        "PYTHONPATH": f"{project.environment['PYTHONPATH']}{os.pathsep}{project.folder}"
    }

    def start(results: str) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, results, where],
            cwd=project.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        project.started.append(driver)
        return driver

    out, err = start("alone").communicate(timeout=200)
    assert (err, "2 stopped" in out) == ("", True), out + err
    (project.folder / "asked.txt").unlink()
    store = project.store("forecast", "killed")
    records = store.folder / "forecasts"
    for kill in range(3):
        driver = start("killed")
        before = len(list(records.glob("*.json"))) if kill else 0
        wait_for(
            lambda d=driver, b=before: (
                d.poll() is not None or any(store.running(os.listdir(store.folder / "runs")))
                if (store.folder / "runs").is_dir()
                else False
            ),
            120,
        )
        time.sleep(0.4 * kill)
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    out, err = start("killed").communicate(timeout=200)
    assert err == "", err
    assert_same_results(store, project.store("forecast", "alone"), ("pack", "D_shared"))
    rows = {run_id: row["status"] for run_id, row in store.rows().items()}
    assert sorted(rows.values()) == ["ok", "stopped", "stopped"]
    asked = (project.folder / "asked.txt").read_text().split("\n")
    decided = {
        (path.stem, S)
        for path in records.glob("*.json")
        for S, *_ in json.loads(path.read_text())["decisions"]
    }
    # Only a decision that a kill left without a record is asked for twice.
    assert len(asked) - 1 <= len(decided) + 3


# ------------------------------------------------------------------ halving on forecasts

probabilities = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=1), st.floats(0.0, 1.0), min_size=1
)


@given(probabilities, st.floats(1.01, 8), st.floats(0.01, 0.49))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_most_likely_winner_always_continues(found: dict[str, float], eta: float, win: float):
    arms = {run_id: Arm({40: (2.0, None)}) for run_id in found}
    stops = {
        run_id for run_id in found if hopeless(run_id, 40, arms, eta, win=win, probabilities=found)
    }
    assert not stops or len(found) >= eta
    assert all(found[run_id] < win for run_id in stops)
    best = max(found.values())
    assert not stops & {run_id for run_id, p in found.items() if p == best}
    if len(found) >= eta:  # no other arm that cannot win goes on
        assert stops == {run_id for run_id, p in found.items() if p < min(win, best)}


RATES = """
name = "rates"
[base]
model = { n_layer = 1, d_model = 16, n_head = 1, n_ctx = 32 }
data.tokenizer = "bytes"
batch_tokens = 256
tokens = 25_600
optim.lr = 0.01
[axes]
seed = [0]
[until]
lr = { within = 1.2, halving = 2, win = 0.05 }
"""


def test_arms_stop_when_they_are_unlikely_to_win_and_decisions_are_final(tmp_path: Path):
    spec = Spec.from_text(RATES)
    runs = list(spec.designed({}).runs.values())
    store, double = Store(tmp_path), Double()
    halving = Halving(store, 2.0, 0.05, double)
    losses = dict(zip([run.run_id for run in runs], (2.5, 2.0, 2.01), strict=True))

    def arrive(chosen: Sequence[RunConfig]) -> dict[str, str]:
        measured = [
            (r, [{"S": S, "L": losses[r.run_id]} for S in [1, rungs(r)[0]]]) for r in chosen
        ]
        return halving(measured)

    stops = arrive(runs)
    assert list(stops) == [runs[0].run_id]
    assert "as the best of 3 arms with probability" in stops[runs[0].run_id]
    losses[runs[2].run_id] = 3.0  # it comes again from an older checkpoint, with other numbers
    assert arrive(runs[2:]) == {}
    assert list(arrive(runs[:1])) == [runs[0].run_id]


def test_a_search_whose_arms_stop_on_forecasts_ends_and_keeps_its_best(here: Path):
    text = RATES.replace("data.tokenizer", 'data.corpus = "corpus.txt"\ndata.tokenizer')
    text = textwrap.dedent(text).replace("25_600", "10_240").replace("1.2,", "1.7, factor = 8,")
    text = text.replace("[axes]", "eval = { test_tokens = 2048, points = 8 }\n[axes]")
    runs, out = train(text, double=Double(sharp=10.0))
    whole, _ = train(text.replace(", halving = 2, win = 0.05", ""), "whole")
    stopped, ok = runs[runs.status == "stopped"], runs[runs.status == "ok"]
    assert len(stopped) >= 1 and ok.L.idxmin() == whole.L.idxmin()
    assert stopped.error.str.contains("with probability").all()
    assert f"{len(stopped)} stopped" in out
