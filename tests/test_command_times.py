"""The time that a sweep of commands still takes, as it is shown."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import command_run, new_store, run_all

from scaling import size
from scaling.command_run import CommandRun
from scaling.units import clock
from sweeps.folder_status import status
from sweeps.options import SweepOptions
from sweeps.queue import Job, Outcome, Queue
from sweeps.result import failed_row
from sweeps.runner.speed import CommandSpeed, Sample, speed_of
from sweeps.spec import Spec
from sweeps.sweep import Sweep
from sweeps.tally import Count, Tally

SPEC = """
name = "timed"
[runner]
command = "python train.py --width {width} --steps {steps} --seed {seed}"
timeout_hours = 2
[runner.derived]
N = "100 * width**2"
batch_tokens = "1000"
steps = "tokens / batch_tokens"
[axes]
width = [10, 20, 40]
tokens = [1e5, 2e5, 4e5, 8e5, 16e5]
seed = [0, 1]
"""

TIMES: dict[str, tuple[float, Callable[[float, float], float]]] = {
    "short": (1.5, lambda N, D: 3.5 * D * N / 2.56e11),
    "starts": (3.0, lambda N, D: 0.01),
    "FLOPs": (30.0, lambda N, D: N * D / 1e7),
    "both": (2.0, lambda N, D: D / 1e5 + N * D / 1e9),
}
"""Seconds that a command starts, and that it trains N parameters on D tokens."""


class Timed:
    """Two workers that execute commands on a moved clock."""

    def __init__(self, folder: Path, times: str, reports: int):
        """Commands take TIMES[times], with some noise, and report their steps so often."""
        self.start, seconds = TIMES[times]
        spec = Spec.from_text(SPEC)
        noise, self.runs = random.Random(0), [r for r in spec.runs if isinstance(r, CommandRun)]
        self.takes = {
            run.run_id: self.start
            + seconds(run.N or math.nan, run.D) * math.exp(noise.gauss(0, 0.05))
            for run in self.runs
        }
        self.reports, self.now = reports, 0.0
        self.store = new_store(folder)
        self.store.write_manifest({"name": "timed", "spec": SPEC})
        self.queue = Queue(self.store, retries=0)
        order = CommandSpeed()
        expected = {run.run_id: order.seconds(run) for run in self.runs}
        self.queue.add(Job((run,), expected[run.run_id], runner=spec.runner) for run in self.runs)
        self.began: dict[str, float] = {}
        self.tally = Tally(
            self.queue, self.store, spec.by_id, expected,
            workers=2, commands=order, clock=lambda: self.now,
        )  # fmt: skip

    def pass_time(self, seconds: float) -> Count:
        """Let the workers go on, and return what is shown then."""
        while len(self.queue.running) < 2 and (job := self.queue.take()):
            self.began[job.id] = self.now
        self.now += seconds
        for job in list(self.queue.running.values()):
            (run,) = job.runs
            assert isinstance(run, CommandRun)
            began, takes = self.began[job.id], self.takes[job.id]
            part = max(0.0, self.now - began - self.start) / (takes - self.start)
            part = math.floor(self.reports * part) / max(1, self.reports)
            self.store.begin(run)
            self.store.report_progress(run.run_id, {"D": part * run.D, "time": self.now})
            if self.now >= began + takes:
                row: Any = dict(failed_row(run, "")) | {"status": "ok", "L": 2.0}
                self.store.finish(row, [])
                self.queue.finish(
                    job, [Outcome(run.run_id, "ok", L=2.0, started=began, ended=began + takes)]
                )
        return self.tally.count()


@pytest.mark.parametrize("reports", [0, 20])
@pytest.mark.parametrize("name", TIMES)
def test_the_time_left_is_unknown_and_then_within_a_factor_of_two(
    tmp_path: Path, name: str, reports: int
):
    timed = Timed(tmp_path / "timed", name, reports)
    assert timed.tally.count().seconds is None
    seen, tick = [], sum(timed.takes.values()) / 300
    while not timed.queue.exhausted:
        count = timed.pass_time(tick)
        seen.append((timed.now, count.seconds, len(count.finished)))
    end = timed.now
    longest = max(timed.takes.values())
    for now, seconds, finished in seen:
        if seconds is None:
            assert not finished and (not reports or now < timed.start + 0.2 * longest)
        elif end - now > longest and finished >= 2:
            assert 0.5 < seconds / (end - now) < 2, (now, end, finished)
        elif end - now > longest:  # a run or its steps do not tell how the time follows sizes
            assert 0.25 < seconds / (end - now) < 4, (now, end, finished)
    assert seen[-1][1] == 0


def test_status_shows_what_the_sweep_shows(tmp_path: Path):
    timed = Timed(tmp_path / "timed", "both", reports=10)
    with timed.store.drive():
        timed.pass_time(1e-3)
        before = status(timed.store.folder)
        assert before.seconds is None and before.time_left == (
            "the time left is unknown until a run has finished"
        )
        while timed.tally.count().seconds is None:
            timed.pass_time(1.0)
        for _ in range(5):
            count = timed.pass_time(3.0)
            leases = [timed.store.lease(run_id) for run_id in timed.queue.running]
            for lease in leases:
                lease.__enter__()
            seen = status(timed.store.folder)
            for lease in leases:
                lease.__exit__(None, None, None)
            assert count.seconds and seen.seconds == pytest.approx(count.seconds, rel=1e-6)
            assert seen.time_left == f"about {clock(count.seconds)} to go"
    assert "not running" in status(timed.store.folder).time_left


def test_the_plan_says_that_the_time_is_unknown_and_its_limit(here: Path):
    (here / "timed.toml").write_text(SPEC)
    plan = Sweep.from_toml("timed.toml").plan(SweepOptions.of(None, {"workers": 2}))
    assert math.isnan(plan.wall_seconds)
    said = str(plan)
    assert "in unknown time, at most 1d06h by timeout_hours with 2 workers" in said
    assert "known once a run has finished" in said and "started now" not in said


def test_a_resumed_sweep_knows_the_time_of_its_finished_runs(tmp_path: Path):
    rows = [
        {"status": "ok", "D": D, "C": 6.0 * N * D, "seconds": 2 + D / 1e5 + N * D / 1e9}
        for N, D in itertools.product((1e4, 4e4, 16e4), (1e5, 4e5, 16e5))
    ]
    speed = speed_of([*rows, {"status": "failed", "D": 1, "seconds": 9e9}, {"status": "ok"}])
    assert speed.samples == 9
    for N, D in ((2e4, 2e5), (1e5, 1e6)):
        run = command_run("true", steps=round(D / 100))
        run = CommandRun(command=run.command, keys=run.keys, N=round(N), D=round(D))
        assert speed.seconds(run) == pytest.approx(2 + D / 1e5 + N * D / 1e9, rel=0.1)


def test_reports_tell_the_speed_without_the_start():
    D, N = 1e6, 1000
    run = CommandRun(command=("x",), keys={}, N=N, D=round(D))
    speed = CommandSpeed([Sample(0.1, 0.1 * D, 0.1 * size.flops_of(run), 100.0)])
    assert 1000 <= speed.seconds(run) < 1100


def test_a_finished_command_is_timed(tmp_path: Path):
    result = 'sleep 0.3; echo \'{{"L": 2, "N": 1000}}\''
    run = command_run(result)
    _, queue = run_all(tmp_path / "runs", [run])
    (outcome,) = queue.outcomes
    assert outcome.status == "ok" and 0.3 <= outcome.ended - outcome.started < 10
