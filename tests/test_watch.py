"""Watching: one estimate of the time left, credit for checkpoints, signs of life, results first."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from disturbed import Project
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from small import BASE, SMALL, call

from scaling import progress
from scaling.cli.status_line import StatusLine
from scaling.config import RunConfig
from scaling.training.train import Interrupted, Progress, train_pack
from scaling.units import clock
from sweeps import Sweep, control
from sweeps.display import Display
from sweeps.estimate import FILE, Estimate, Pace, recorded, seconds_left
from sweeps.folder_status import status
from sweeps.queue import Job, Outcome, Queue
from sweeps.result import failed_row
from sweeps.spec import Spec
from sweeps.store import Store
from sweeps.tally import STOPPING, Tally

SHAPES = """
name = "watched"
[base]
data.tokenizer = "bytes"
tokens = 409_600
[axes]
seed = [0, 1, 2, 3]
model = [{ n_layer = 1, d_model = 32, n_head = 1 }, { n_layer = 2, d_model = 32, n_head = 1 }]
"""


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------ the time left, as a function


@given(
    jobs=st.lists(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1e6), min_size=1)),
    done=st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1)),
    workers=st.integers(1, 64),
)
def test_the_time_left_is_never_zero_while_runs_are_missing(jobs, done, workers):
    left = seconds_left(jobs, done, workers)
    assert (left >= 1) if jobs else (left == 0)
    assert left <= seconds_left(jobs, {}, workers) and left <= seconds_left(jobs, done, 1) + 1e-6
    for job in jobs:  # one job cannot be divided among workers
        assert left >= 0.999 * sum(s * (1 - done.get(run, 0)) for run, s in job.items())


@given(ratio=st.floats(0.1, 10), work=st.floats(0.1, 100), workers=st.integers(1, 8))
def test_the_bias_of_an_estimate_shrinks_with_every_observation(ratio, work, workers):
    pace, errors = Pace(), []
    for _ in range(60):
        errors.append(abs(math.log(pace.factor("shape") / ratio)))
        by_key = {"shape": (work * ratio, work)}
        pace.observe(work * ratio, work, by_key, elapsed=work * ratio / workers)
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))
    if work * ratio > 10:
        assert errors[-1] < 0.1 + 0.2 * errors[0]


def test_a_pace_forgets_a_load_that_is_gone_and_tells_shapes_apart():
    pace = Pace()
    for _ in range(600):
        pace.observe(4.0, 1.0, {"a": (2.0, 0.25), "b": (2.0, 0.75)}, elapsed=2.0)
    assert pace.factor() == pytest.approx(4, rel=0.05)
    assert pace.factor("a") == pytest.approx(8, rel=0.1)
    assert pace.factor("b") == pytest.approx(8 / 3, rel=0.1)
    assert pace.factor("new") == pace.factor()
    for _ in range(600):
        pace.observe(4.0, 4.0, {"a": (2.0, 2.0), "b": (2.0, 2.0)}, elapsed=2.0)
    assert pace.factor() == pytest.approx(1, rel=0.2)


# ------------------------------------------------------------------ a sweep on a slow machine


class Slow:
    """Two workers that train the runs of a sweep at a pace of their own, on a moved clock."""

    def __init__(self, folder: Path, pace: dict[int, float], packed: int = 1) -> None:
        """`pace` is {n_layer: real seconds per estimated second}; jobs have `packed` runs."""
        self.spec = Spec.from_text(SHAPES)
        self.store, self.clock, self.pace = Store(folder), Clock(), pace
        self.store.write_manifest({"name": "watched", "spec": SHAPES})
        self.seconds = {run.run_id: 50.0 * run.model.n_layer for run in self.spec.runs}
        self.queue = Queue(self.store, retries=0)
        by_layers = sorted(self.spec.runs, key=lambda run: run.model.n_layer)
        for i in range(0, len(by_layers), packed):
            runs = tuple(by_layers[i : i + packed])
            self.queue.add([Job(runs, sum(self.seconds[run.run_id] for run in runs))])
        self.D: dict[str, float] = {}
        self.tally = self.counting()

    def counting(self) -> Tally:
        return Tally(
            self.queue, self.store, self.spec.by_id, self.seconds, workers=2, clock=self.clock
        )

    def pass_second(self) -> None:
        """Let each worker train for a second."""
        while len(self.queue.running) < 2 and self.queue.take():
            pass
        self.clock.now += 1
        for job in list(self.queue.running.values()):
            total = sum(self.seconds[run.run_id] for run in job.runs)
            for run in job.runs:  # the members of a pack train side by side
                part = 1 / (total * self.pace[run.model.n_layer])
                D = self.D[run.run_id] = self.D.get(run.run_id, 0) + part * run.D
                self.store.begin(run)
                self.store.report_progress(run.run_id, {"D": min(D, run.D), "time": self.clock()})
            if all(self.D[run.run_id] >= run.D for run in job.runs):
                for run in job.runs:
                    self.store.finish(failed_row(run, "") | {"status": "ok", "L": 2.0}, [])
                self.queue.finish(job, [Outcome(run.run_id, "ok", L=2.0) for run in job.runs])

    @property
    def over(self) -> bool:
        return self.queue.exhausted


@pytest.mark.parametrize("packed", [1, 4])
@pytest.mark.parametrize("pace", [{1: 1.63, 2: 1.63}, {1: 1.0, 2: 3.0}, {1: 0.4, 2: 0.6}])
def test_the_estimate_of_a_sweep_adapts_to_the_speed_that_is_observed(tmp_path, pace, packed):
    slow = Slow(tmp_path / "s", pace, packed)
    promised = slow.tally.count().seconds
    assert promised == {1: 300, 4: 400}[packed]
    expected = []
    while not slow.over:
        slow.pass_second()
        count = slow.tally.count()
        expected.append(slow.clock() + count.seconds)
        assert count.seconds >= 1 or slow.over
    end = slow.clock()
    assert abs(end / promised - 1) > 0.3
    quarter, half = len(expected) // 4, len(expected) // 2
    errors = [abs(expected[i] / end - 1) for i in (quarter, half, -2)]
    assert errors[1] < 0.5 * abs(promised / end - 1) and errors[2] < 0.05
    if len({*pace.values()}) == 1:  # a shape that has not trained yet may have another pace
        assert errors[0] < 0.1 and errors[1] < 0.05


@pytest.mark.parametrize("packed", [1, 4, 8])
def test_status_shows_the_estimate_of_the_sweep_itself_with_every_missing_run(tmp_path, packed):
    slow = Slow(tmp_path / "s", {1: 1.5, 2: 2.0}, packed)
    out = io.StringIO()
    for second in range(200):
        slow.pass_second()
        slow.clock.now += 2  # long enough that the estimate is recorded again
        count = slow.tally.count()
        if slow.over:
            break
        if second % 7:
            continue
        running = [run for job in slow.queue.running.values() for run in job.runs]
        with slow.store.drive():
            leases = [slow.store.lease(run.run_id) for run in running]
            for lease in leases:
                lease.__enter__()
            seen = status(slow.store.folder)
            for lease in leases:
                lease.__exit__(None, None, None)
        assert seen.seconds == pytest.approx(count.seconds, rel=1e-6)
        assert (seen.C_done, seen.C) == pytest.approx((count.C_done, count.C))
        assert seen.active and seen.time_left == f"about {clock(seen.seconds)} to go"
        console = Console(file=out, force_terminal=True, width=200)
        display = Display(
            slow.queue, slow.store, slow.spec.by_id, slow.seconds, workers=2, console=console
        )
        display._tally = slow.tally
        console.print(display._render())
        shown = out.getvalue().rpartition("ETA ")[2].split()[0]
        assert shown == clock(seen.seconds)


def test_status_of_a_sweep_that_is_not_running_says_what_resuming_takes(tmp_path, capsys):
    slow = Slow(tmp_path / "s", {1: 2.0, 2: 2.0})
    for _ in range(150):
        slow.pass_second()
        slow.tally.count()
    for job in list(slow.queue.running.values()):
        for run in job.runs:  # the checkpoint is a little older than the last report
            stored = 0.9 * slow.D[run.run_id]
            values = {"D": slow.D[run.run_id], "stored": stored, "time": slow.clock()}
            slow.store.report_progress(run.run_id, values)
            (slow.store.run_folder(run.run_id) / "checkpoint.pt").touch()
        slow.queue.release(job)
    last = slow.tally.end()
    seen = status(slow.store.folder)
    assert not seen.active and seen.workers == 2 and seen.interrupted == 2
    assert seen.seconds == pytest.approx(last.seconds, rel=1e-6)
    assert seen.C_done == pytest.approx(last.C_done)
    assert call("status", slow.store.folder) == 0
    text = capsys.readouterr().out
    assert re.search(r"not running; about \dm\d\ds with 2 workers once resumed", text)
    # Selected runs count alone, and a new session begins at what the checkpoints hold.
    some = status(slow.store.folder, filters=["seed=3"])
    assert some.seconds is not None and some.seconds < seen.seconds
    again = slow.counting().count()
    assert again.C_done == pytest.approx(last.C_done)


def test_an_estimate_that_cannot_be_used_is_replaced_by_one_from_the_finished_runs(tmp_path):
    spec = Spec.from_text(SHAPES)
    store = Store(tmp_path / "s")
    store.write_manifest({"name": "w", "spec": SHAPES, "sessions": [{"workers": 4}]})
    expected = status(store.folder).seconds
    assert expected is not None and expected > 1 and status(store.folder).workers == 4
    run_id = spec.runs[0].run_id
    good = {"workers": 1, "jobs": [{run.run_id: 7.0} for run in spec.runs], "state": ""}
    for change in (
        {"workers": 0}, {"workers": True}, {"workers": 1e99}, {"jobs": {}}, {"jobs": [7]},
        {"jobs": [{run_id: "x"}]}, {"jobs": [{run_id: -1}]}, {"jobs": [{run_id: 1e300}]},
        {"state": 7},
    ):  # fmt: skip
        (store.folder / FILE).write_text(json.dumps(good | change))
        assert recorded(store) is None and status(store.folder).seconds == expected
    (store.folder / FILE).write_text("{")
    assert status(store.folder).seconds == expected
    Estimate(workers=1, jobs=good["jobs"][:1]).write(store)  # runs were added since
    assert status(store.folder).seconds > 7
    Estimate(**good).write(store)
    assert status(store.folder).seconds == pytest.approx(56)


def test_watch_prints_the_time_left_of_the_sweep(tmp_path, monkeypatch):
    slow = Slow(tmp_path / "s", {1: 1.0, 2: 1.0})
    slow.pass_second()
    slow.clock.now += 5
    slow.tally.count()
    asked = []

    def driver(self):
        asked.append(self)
        return (1, "host") if len(asked) < 6 else None

    monkeypatch.setattr(Store, "driver", driver)
    out = io.StringIO()
    control.watch(slow.store.folder, every=0.01, console=Console(file=out))
    first = out.getvalue().splitlines()[0]
    assert re.search(r"watched: 8 runs: .*missing.*; about 5m00s to go", first)


# ------------------------------------------------------------------ Ctrl-C: what checkpoints hold


def test_progress_tells_what_the_checkpoint_holds_of_runs_that_branch_and_wait(tmp_path, run):
    import dataclasses

    trunk = {"schedule": "wsd", "cooldown_fraction": 0.5, "warmup_tokens": 1280}
    optim = dataclasses.replace(run.optim, **trunk)
    runs = [dataclasses.replace(run, optim=optim, tokens=k * 15 * 256) for k in (1, 2, 4)]
    folders = [tmp_path / one.run_id for one in runs]
    last: dict[str, Progress] = {}
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 20

    def keep(run: RunConfig, report: Progress) -> None:
        last[run.run_id] = report

    with pytest.raises(Interrupted):
        train_pack(runs, slots=1, folders=folders, on_progress=keep, should_stop=stop)
    assert any(report.step for report in last.values())
    stopped = {run_id: report for run_id, report in last.items() if report.step < report.steps}
    assert len(stopped) == 3 and all(report.stored == report.D for report in stopped.values())
    resumed: dict[str, Progress] = {}

    def first(run: RunConfig, report: Progress) -> None:
        resumed.setdefault(run.run_id, report)

    train_pack(runs, slots=1, folders=folders, on_progress=first)
    assert {k: resumed[k].D for k in stopped} == {k: report.D for k, report in stopped.items()}


WATCHED = (
    BASE.replace("tokens = 2560", "tokens = 1_024_000").replace('"small"', '"watched"')
    + "seed = [0, 1]\n"
)


def percent(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+)%", text)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_keeps_its_progress_and_resumes_there(project: Project, how):
    project.spec("watched", WATCHED)
    words = ["sweep", "watched.toml", "--in-process", "--no-packs", "--checkpoint-seconds", "0.2"]
    import subprocess
    import sys

    driver = subprocess.Popen(
        [sys.executable, "-m", "scaling.cli", *words], cwd=project.folder,
        env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    project.started.append(driver)
    store = project.store("watched", "results")
    first = project.spec("watched", WATCHED).runs
    deadline = time.monotonic() + 120

    def done() -> float:
        return max(store.fraction_done(r.run_id, r.D, running=False) for r in first)

    while done() < 0.15:
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(how)
    out, _ = driver.communicate(timeout=60)
    seen = status(store.folder)
    share = 100 * seen.C_done / seen.C
    assert 7 < share < 100 and not seen.active and seen.missing == 2
    if how == signal.SIGINT:
        (stopped,) = re.findall(r"stopped at (\d+)%; finished runs and checkpoints are kept", out)
        assert int(stopped) == round(share)
    again = Tally(
        Queue(store, 0), store, {r.run_id: r for r in first}, {r.run_id: 9.0 for r in first},
        workers=1,
    )  # fmt: skip
    assert again.count().C_done == pytest.approx(seen.C_done)
    sweep = Sweep.from_toml(project.folder / "watched.toml", project.folder / "results")
    plan = sweep.plan(in_process=True)
    assert f"checkpoints hold {round(share)}% of it" in str(plan)
    whole = sum(job.seconds for job in plan.jobs)
    assert plan.wall_seconds == pytest.approx(whole * (1 - seen.C_done / seen.C), rel=1e-6)


def test_a_plain_display_says_at_once_that_the_sweep_is_stopping(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.display._FIRST_LINE_SECONDS", 1000.0)
    monkeypatch.setattr("sweeps.display._TICK_SECONDS", 0.01)
    slow = Slow(tmp_path / "s", {1: 1.0, 2: 1.0})
    slow.queue.stopping = True

    class Heard(io.StringIO):
        printed = threading.Event()

        def write(self, text: str) -> int:
            if STOPPING in text:
                self.printed.set()
            return super().write(text)

    out = Heard()
    with Display(
        slow.queue, slow.store, slow.spec.by_id, slow.seconds, workers=2, console=Console(file=out)
    ) as display:
        assert out.printed.wait(30)
    assert out.getvalue().count(STOPPING) == 1 and display.last is not None


# ------------------------------------------------------------------ nothing is silent


@settings(max_examples=50)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["fitting", "drawing", "measuring"]), st.floats(0, 50)),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_plain_lines_leave_no_silence_of_three_seconds_and_are_few(steps):
    clock, times = Clock(), [0.0]

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            times.append(clock())
            return super().write(text)

    out = Lines()
    line = StatusLine(out, live=False, clock=clock)
    for i, (text, seconds) in enumerate(steps):
        text = f"{text}{i}"
        line(text, "1 of 2")
        end = clock() + seconds
        while clock() < end:
            clock.now += 0.15
            line(text, "2 of 2")  # a detail is not a new step
            line.tick()
    gaps = [b - a for a, b in zip(times, [*times[1:], clock()], strict=True)]
    assert max(gaps) < 3
    assert len(times) <= 1 + clock() / 2
    assert all(re.fullmatch(r"scaling: \w+: 2 of 2 \.\.\.( [\dms]+)?", one)
               for one in out.getvalue().splitlines())  # fmt: skip


def test_plain_lines_of_a_long_step_become_rare():
    clock, out = Clock(), io.StringIO()
    line = StatusLine(out, live=False, clock=clock)
    line("waiting")
    while clock() < 3600:
        clock.now += 0.15
        line.tick()
    assert 60 < len(out.getvalue().splitlines()) < 120


def test_short_commands_print_nothing_and_other_output_ends_the_silence():
    clock, out = Clock(), io.StringIO()
    line = StatusLine(out, live=False, clock=clock)
    for _ in range(20):
        line("a step")
        clock.now += 1.5
        line.tick()
        line("")  # something is printed
    assert out.getvalue() == ""
    live = StatusLine(out, live=True, clock=clock)
    live("a step")
    clock.now += 0.3
    live.tick()
    live("")
    assert out.getvalue() == ""


def test_the_line_of_a_terminal_is_erased_and_shows_no_control_characters():
    clock, out = Clock(), io.StringIO()
    line = StatusLine(out, live=True, clock=clock)
    line("reading \x1b[31mred s3://key:secret@bucket/x" + "y" * 200)
    for _ in range(9):
        clock.now += 0.15
        line.tick()
    line("")
    drawn = out.getvalue().split("\r")
    assert drawn[-1] == "\x1b[K" and len(drawn) == 9
    for one in drawn[1:-1]:
        assert len(one.removesuffix("\x1b[K")) < 80 and "\\x1b[31mred" in one
        assert "secret" not in one and "\n" not in one


def test_a_line_is_printed_while_a_slow_step_still_works(monkeypatch, capsys):
    """The step ends only once the line has been printed, whatever the speed of the machine."""
    import sys

    import scaling.cli.status_line as module

    monkeypatch.setenv("SCALING_PROGRESS", "1")
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.001)
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.01)
    heard = threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if "preparing" in text:
                heard.set()
            return super().write(text)

    def slowly(*_: object) -> None:
        progress.step("preparing the corpus")
        assert heard.wait(60)
        raise KeyboardInterrupt("enough")

    monkeypatch.setattr(sys, "stderr", Stream())
    monkeypatch.setattr("scaling.data.corpus.prepare", slowly)
    assert call("data", "prepare", "prose") == 130
    out, err = capsys.readouterr()[0], sys.stderr.getvalue()
    assert out == "" and "scaling: preparing the corpus ..." in err
    assert err.endswith("scaling: enough\n")


def test_python_callers_see_nothing_unless_they_ask(capsys):
    seen: list[tuple[str, str]] = []
    progress.step("nobody listens")
    with progress.reported(lambda text, detail: seen.append((text, detail))):
        progress.step("fitting", "1 of 2")
        with progress.other_output():
            seen.append(("printed", ""))
        with progress.silent():
            progress.step("not heard")
        with progress.part("drawing"):
            progress.step("fitting", "1 of 2")
            with progress.part("inner"):
                progress.step("more")
        progress.step("last")
    progress.step("nobody listens")
    assert seen[5:] == [
        ("drawing", ""), ("drawing", "fitting, 1 of 2"), ("drawing", "inner"), ("drawing", "more"),
        ("last", ""),
    ]  # fmt: skip
    assert seen[:5] == [
        ("fitting", "1 of 2"), ("", ""), ("printed", ""), ("fitting", "1 of 2"), ("", "")
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A results folder with the runs and curves of a grid."""
    from conftest import SIZES, TOKENS, make_sweep

    folder = tmp_path_factory.mktemp("grid")
    runs, curves = make_sweep(SIZES[:5], TOKENS[:4])
    runs.to_csv(folder / "runs.csv", index=False)
    curves.to_parquet(folder / "curves.parquet")
    return folder


def heard(*words: object) -> str:
    """Run a command; return its exit code and the texts of its steps, one per line."""
    seen: list[str] = []

    def hear(text: str, detail: str) -> None:
        line = f"{text}: {detail}" if detail else text
        if line not in seen:
            seen.append(line)

    with progress.reported(hear):
        code = call(*words)
    return "\n".join([f"exit {code}", *seen])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["fit", "--law", "kaplan_ND"], ["running fit", "reading the table", "fitting kaplan_ND",
                                         "computing the intervals of kaplan_ND"]),
        (["validate", "--law", "kaplan_ND"], ["fitting kaplan_ND", "on held-out runs",
                                              "fitting shared_exponent", "leaving out each N"]),
        (["frontier", "--method", "all", "--bootstrap", "50"],
         [f"the frontier by {m}" for m in ("envelope", "isoflop", "akima", "parametric")]),
        (["plan", "--flops", "1e18"], ["fitting bottleneck", "planning with chinchilla"]),
        (["design", "--budget", "1e15"], ["fitting chinchilla", "choosing the runs"]),
        (["summary"], ["computing L(N)", "computing plan",
                       "saving the figure kaplan1"]),
        (["report"], ["computing L(N)", "drawing the figure kaplan1", "figures of the page"]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)  # fmt: skip
def test_every_long_part_of_an_analysis_announces_itself(
    results, tmp_path, words, steps, monkeypatch, capsys
):  # fmt: skip
    from matplotlib.figure import Figure

    from analysis.figures.registry import FIGURES

    def draw_nothing(self: Figure, file: str | Path | io.StringIO, **_: object) -> None:
        file.write("<svg") if isinstance(file, io.StringIO) else Path(file).touch()

    monkeypatch.setattr(Figure, "savefig", draw_nothing)
    for name in set(FIGURES) - {"kaplan1", "kaplan2"}:  # to save time
        monkeypatch.delitem(FIGURES, name)
    place = {
        "summary": ["--figures", tmp_path], "report": ["--out", tmp_path / "r.html"]
    }.get(words[0], [])  # fmt: skip
    texts = heard(words[0], results, *words[1:], *place)
    assert texts.startswith("exit 0") and "\n".join(steps[:1]) in texts
    for step in steps:
        assert step in texts, texts
    assert "..." not in capsys.readouterr().out


def test_every_figure_announces_itself(results, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).touch())
    texts = heard("figure", "kaplan2", results, "--out", tmp_path / "k.pdf")
    assert texts.index("drawing the figure kaplan2") < texts.index("saving the figure k")


@pytest.mark.usefixtures("here")
def test_every_long_part_of_a_sweep_announces_itself(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))  # nothing is prepared or measured
    Path("small.toml").write_text(SMALL.replace('"bytes"', '"bpe-300"'))
    dry = heard("sweep", "small.toml", "--dry-run")
    at = -1
    for step in (
        "running sweep", "reading the spec small.toml", "reading the results in results/small",
        "grouping the runs into jobs", "checking the runs", "reading the corpus corpus.txt",
        "preparing the corpus corpus.txt (bpe-300)", "timing the training steps of 1 model shape",
    ):  # fmt: skip
        assert dry.find(step) > at, dry
        at = dry.find(step)
    trained = heard("sweep", "small.toml", "--in-process")
    assert trained.startswith("exit 0") and "merging the results" in trained
    assert "training" not in trained.replace("timing the training", "")  # the display shows that
    assert "reading the results" in heard("status", "results/small")
    words = ["data", "prepare", "corpus.txt", "--tokenizer", "bpe-310"]
    assert "preparing the corpus corpus.txt (bpe-310)" in heard(*words)
    capsys.readouterr()


@pytest.mark.usefixtures("here")
def test_reading_results_at_a_uri_announces_itself(tmp_path):
    store = Store(f"memory://{tmp_path.name}/small")
    seen: list[str] = []
    with progress.reported(lambda text, _: seen.append(text)):
        store.rows()
    assert f"reading memory://{tmp_path.name}/small" in seen


# ------------------------------------------------------------------ status and train


@pytest.mark.usefixtures("here")
def test_status_shows_N_D_and_B_beside_the_id_of_a_run(capsys):
    spec = Spec.from_text(SMALL)
    store = Store("results/small")
    store.write_manifest({"name": "small", "spec": SMALL})
    running, failed = spec.runs
    store.begin(failed)
    store.finish(failed_row(failed, "KeyError: 'a'"), [])
    store.begin(running)
    store.report_progress(running.run_id, {"step": 3, "steps": 10, "D": 768, "L": 4.5})
    with store.lease(running.run_id):
        assert call("status", "results/small") == 0
    lines = capsys.readouterr().out.splitlines()
    size = r"N=\d+ D=2\.56k B=256"
    trains = f"  {running.run_id}  {size}  step 3 of 10, L=4.5000"
    fails = f"  {failed.run_id}  {size}  failed: KeyError: 'a'"
    for pattern in (trains, fails):
        assert any(re.fullmatch(pattern, line) for line in lines), lines


@pytest.mark.usefixtures("here")
def test_train_prints_its_result_first_and_the_config_on_request(capsys, monkeypatch):
    words = ["--data.corpus", "corpus.txt", "--data.tokenizer", "bytes", "--tokens", "2560"]
    words += ["--model.n-layer", "1", "--model.d-model", "8", "--model.n-head", "1"]
    words += ["--model.n-ctx", "32", "--batch-tokens", "256", "--eval.test-tokens", "2048"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call("train", *words) == 0
    plain = capsys.readouterr().out.splitlines()
    assert len(plain) == 2
    found = re.fullmatch(
        r"run ([0-9a-f]+): test loss L = (\d\.\d{4}) nats per token "
        r"\(\d\.\d{4} bits per byte\)", plain[0],
    )  # fmt: skip
    assert found
    assert re.match(r"N = \d+ parameters, D = 2\.56k tokens, B = 256 tokens, C = ", plain[1])
    assert re.search(r"FLOPs; \d+s on cpu x1 \(.* tokens/s\)$", plain[1])
    assert call("train", *words, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["run_id"], f"{row['L']:.4f}") == (found[1], found[2])
    assert row["tests"] == {"corpus.txt": row["L"]} and row["B"] == 256
    assert call("train", *words, "--verbose") == 0
    verbose = capsys.readouterr().out.splitlines()
    assert verbose[0] == plain[0] and "test_tokens = 2048" in verbose
    assert os.environ["SCALING_PROGRESS"] == "0"
