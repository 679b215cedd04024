"""Commands in real processes: how they start, end, fail, flood, fork away, and die."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from commands import (
    Drivers,
    command_run,
    drivers,
    ends_of,
    events_after_the_end,
    jobs,
    line,
    log_of,
    marked,
    new_store,
    result,
    results_of,
    run_all,
    run_one,
    wait_until,
)
from small import call

from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.recorded_run import from_recorded, recorded
from sweeps.control import clean, logs, written_by_commands
from sweeps.driver import run_here
from sweeps.errors import StoreError
from sweeps.execute import execute
from sweeps.on_ray.resources import command_resources, cpus_of
from sweeps.queue import Job, Outcome, Queue
from sweeps.result import from_json, to_json
from sweeps.runner import several_nodes
from sweeps.runner.process import FOLDER, RUN_ID, Start, end_leftovers, processes_of, running
from sweeps.runner.runner import Failures, Runner, Sources

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are found through /proc"
)

# ------------------------------------------------------------------ a command and its result


def test_a_command_trains_a_run_and_its_result_is_stored(tmp_path: Path):
    command = f"echo $SCALING_RUN_ID $SCALING_RESUMED $PWD {{seed}} {{threads}}; {result()}"
    row = run_one(tmp_path / "r", command)
    assert (row["status"], row["L"], row["N"]) == ("ok", 2.5, 1000)
    run = command_run(command)
    assert log_of(tmp_path / "r", command) == f"{run.run_id} 0 {tmp_path} 0 1\n"
    assert marked(tmp_path) == []


def test_the_environment_has_the_placeholders_and_no_settings_of_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    command = f"env | grep -e ^RAY_ -e ^MINE; {result()}"
    run_one(tmp_path / "r", command, env={"MINE": "{seed}-{folder}"})
    work = tmp_path / "r" / "runs" / command_run(command).run_id / "work"
    assert log_of(tmp_path / "r", command) == f"MINE=0-{work}\n"


def test_stdin_is_empty(tmp_path: Path):
    command = f"cat; {result()}"
    assert run_one(tmp_path / "r", command)["status"] == "ok"


def test_the_attempts_show_the_command_and_the_log_what_it_printed(tmp_path: Path):
    command = f"echo hello; echo trouble >&2; {result()}"
    run = command_run(command)
    store, _ = run_all(tmp_path / "r", [run])
    store.write_manifest({"name": "r"})
    text = logs(tmp_path / "r", run.run_id)
    assert "hello\ntrouble" in text and "command=sh -c" in text


def test_what_a_command_wrote_is_removed_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "r"
    store, _ = run_all(
        folder, [command_run(f"head -c 100 /dev/zero > {{folder}}/model; {result()}")]
    )
    store.merge()
    store.write_manifest({"name": "r"})
    assert call("clean", str(folder)) == 0
    assert "have written (1 folder, 0.0 MiB) stays; --work" in capsys.readouterr().out
    (work,) = written_by_commands(folder)
    assert (work / "model").exists() and clean(folder, dry_run=True, work=True).keys() == {work}
    assert clean(folder, work=True)[work] > 100 and not work.exists()
    assert len(store.rows()) == 1


def test_a_run_is_recorded_with_its_keys():
    run = command_run(["train", "{lr}"], lr=0.5, seed=3)
    values = from_json(to_json({"run_id": run.run_id, **recorded(run)}))
    again = from_recorded(values)
    assert again == run and again is not None and (again.N, again.D) == (run.N, run.D)
    assert from_recorded(values | {"run_id": "0" * 12}) is None
    assert from_recorded({"run_id": "1"}) is None


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("command", "status", "parts"),
    [
        ("nosuch-command --lr 1", "failed", ["'nosuch-command' was not found", "PATH"]),
        ("/etc/passwd", "failed", ["'/etc/passwd' cannot be executed"]),
        ("sh -c 'echo trained; exit 0'", "failed", ["result.json"]),
        ("sh -c 'echo usage; exit 2'", "failed", ["exit code 2", "usage"]),
        ("sh -c 'nosuch'", "failed", ["exit code 127", "not found"]),
    ],
)
def test_a_failure_that_repeats_is_stored_at_once(
    tmp_path: Path, command: str, status: str, parts: list[str]
):
    import shlex

    run = command_run(shlex.split(command))
    store, _ = run_all(tmp_path / "r", [run], retries=3)
    finished = store.result(run.run_id)
    assert finished is not None and finished.row["status"] == status
    assert all(part in finished.row["error"] for part in parts), finished.row["error"]
    assert ends_of(store, run.run_id)["start"] == 1


def test_a_command_that_crashes_is_tried_again_and_then_stored_as_failed(tmp_path: Path):
    run = command_run("echo some words; echo the reason; exit 7")
    store, _ = run_all(tmp_path / "r", [run], retries=1)
    finished = store.result(run.run_id)
    assert finished is not None and finished.row["status"] == "failed"
    assert "2 attempts" in finished.row["error"] and "the reason" in finished.row["error"]
    assert "exit code 7" in finished.row["error"] and ends_of(store, run.run_id)["start"] == 2


def test_a_command_resumes_from_its_folder(tmp_path: Path):
    command = (
        f"echo $SCALING_RESUMED; test -e {{folder}}/there && {result()} && exit 0; "
        "touch {folder}/there; kill -9 $$"
    )
    row = run_one(tmp_path / "r", command, retries=1)
    assert row["status"] == "ok" and log_of(tmp_path / "r", command) == "0\n1\n"


@pytest.mark.parametrize("ends", ["exit 1", "exit 0", "sleep 100"])
def test_a_declared_pattern_means_that_the_loss_diverged(tmp_path: Path, ends: str):
    failures = Failures(diverged=("loss is (nan|inf)",))
    began = time.monotonic()
    row = run_one(tmp_path / "r", f"echo step 3: loss is nan; {ends}", failures=failures)
    assert row["status"] == "diverged" and row["error"] == "step 3: loss is nan"
    assert time.monotonic() - began < 20


def test_a_loss_that_is_not_finite_diverged(tmp_path: Path):
    command = 'echo \'{{"L": NaN, "N": 1000, "D": 1000}}\' > {folder}/result.json'
    assert run_one(tmp_path / "r", command)["status"] == "diverged"
    assert run_one(tmp_path / "s", f"{command}; exit 1", retries=2)["status"] == "diverged"


def test_a_lack_of_memory_is_recognised(tmp_path: Path):
    cuda = "echo torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB; exit 1"
    own = "echo arena exhausted; exit 1"
    memory = Failures(memory=("arena exhausted",))
    for folder, command, failures in (("a", cuda, Failures()), ("b", own, memory)):
        run = command_run(command)
        runner = Runner(workdir=tmp_path, failures=failures)
        store = new_store(tmp_path / folder)
        outcomes = execute(jobs([run], runner)[0], store, Execution(device="cpu"), lambda: False)
        assert [o.status for o in outcomes] == ["memory"], outcomes
        assert "MemoryError" in outcomes[0].error


def test_declared_exit_codes_decide(tmp_path: Path):
    codes = {"3": "diverged", "4": "memory", "5": "failed", "0": "failed"}
    failures = Failures(exit_codes=codes)
    assert run_one(tmp_path / "a", "exit 3", failures=failures)["status"] == "diverged"
    row = run_one(tmp_path / "b", "exit 5", failures=failures, retries=3)
    assert row["status"] == "failed" and "exit code 5" in row["error"]
    assert run_one(tmp_path / "c", f"{result()}; exit 0", failures=failures)["status"] == "failed"


def test_a_preempted_command_loses_no_attempt(tmp_path: Path):
    """By its exit code, by SIGTERM, or by the code of a shell whose child got SIGTERM."""
    count = "echo x >> {folder}/n; test $(wc -l < {folder}/n) -gt 4 &&"
    for folder, end in (("a", "exit 75"), ("b", "kill -TERM $$"), ("c", "exit 143")):
        command = f"{count} {result()} && exit 0; {end}"
        failures = Failures(exit_codes={"75": "preempted"})
        store, _ = run_all(tmp_path / folder, [command_run(command)], failures=failures)
        events = ends_of(store, command_run(command).run_id)
        assert (events["preempted"], events["ok"], events["killed"]) == (4, 1, 0)


def test_a_command_that_is_always_preempted_fails_in_the_end(tmp_path: Path):
    failures = Failures(exit_codes={"75": "preempted"})
    row = run_one(tmp_path / "r", "exit 75", failures=failures)
    assert row["status"] == "failed" and "preempted" in row["error"]


def test_a_command_that_never_ends_is_ended(tmp_path: Path):
    command = "trap '' TERM; echo working; while true; do sleep 0.1; done"
    row = run_one(tmp_path / "r", command, timeout_seconds=0.5, grace_seconds=0.5, retries=3)
    assert row["status"] == "failed" and "timeout_hours" in row["error"]
    assert marked(tmp_path) == []


@pytest.mark.parametrize("on_term", ["", "exit 0", "exit 1"])
def test_a_result_is_kept_if_the_command_hangs_after_it(tmp_path: Path, on_term: str):
    """As a trainer does whose processes do not find to their common end."""
    command = f"trap '{on_term}' TERM; {result()}; while true; do sleep 0.1; done"
    limits = {"timeout_seconds": 0.5, "grace_seconds": 0.5}
    row = run_one(tmp_path / "r", command, **limits)
    assert (row["status"], row["L"]) == ("ok", 2.5) and marked(tmp_path) == []
    assert "reported its result and was ended" in log_of(tmp_path / "r", command)
    part = command.replace('"D": 1000', '"D": 500')
    row = run_one(tmp_path / "part", part, **limits)
    assert row["status"] == "failed" and "timeout_hours" in row["error"]


def test_a_missing_workdir_is_named(tmp_path: Path):
    row = run_one(tmp_path / "r", "true", workdir=tmp_path / "nowhere")
    assert "nowhere" in row["error"] and "not a folder" in row["error"]


# ------------------------------------------------------------------ output


def test_a_flood_is_bounded_and_said(tmp_path: Path):
    command = f"echo first; yes flood | head -c 300000000; echo last; {result()}"
    began = time.monotonic()
    row = run_one(tmp_path / "r", command, log_bytes=100_000)
    text = log_of(tmp_path / "r", command)
    assert row["status"] == "ok" and len(text) < 110_000
    assert text.startswith("first\n") and text.endswith("last\n")
    assert "bytes of output are left out here" in text
    assert time.monotonic() - began < 30


def test_reports_within_a_flood_are_kept(tmp_path: Path):
    flood = "yes flood | head -c 999996"
    command = f"{flood}; {line(step=5, L=3.5)}; echo loss=4.5; {flood}; {result()}"
    run_one(tmp_path / "r", command, log_bytes=20_000, results=Sources(log={"L": r"loss=(.*)"}))
    text = log_of(tmp_path / "r", command)
    assert '{"step": 5, "L": 3.5}' in text and "loss=4.5" in text and len(text) < 30_000


def test_output_that_is_not_text_does_no_harm(tmp_path: Path):
    command = f"head -c 100000 /dev/urandom; {result()}"
    assert run_one(tmp_path / "r", command)["status"] == "ok"
    assert "exit code 1" in run_one(tmp_path / "s", "head -c 99999 /dev/urandom; exit 1")["error"]


# ------------------------------------------------------------------ processes left behind

AWAY = {
    "background": "sleep 1000 &",
    "session": "setsid sleep 1000 &",
    "twice": "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1000' &) &",
    "bare": "env -i /bin/sh -c 'exec /usr/bin/setsid /bin/sleep 1000' &",
}


def sleepers() -> int:
    return sum("sleep 1000" in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(
        ["cmdline"]
    ))  # fmt: skip


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("ends", ["exit 0", "exit 1", "never"])
def test_nothing_that_forks_away_is_left(tmp_path: Path, how: str, ends: str):
    end = {"never": "sleep 1000"}.get(ends, ends)
    command = f"{AWAY[how]} sleep 0.05; {result()}; {end}"
    row = run_one(tmp_path / "r", command, timeout_seconds=1.0, grace_seconds=0.2)
    assert row["status"] == ("failed" if ends == "exit 1" else "ok")  # its result is there
    assert marked(tmp_path) == [] and sleepers() == 0
    if ends == "exit 0":
        assert "left 1 process" in log_of(tmp_path / "r", command) or how == "twice"


def test_a_command_that_forks_away_without_a_result_is_told_so(tmp_path: Path):
    row = run_one(tmp_path / "r", "setsid sleep 1000 & exit 0")
    assert row["status"] == "failed" and "left 1 process behind" in row["error"]


def test_the_children_of_a_command_have_its_grace_too(tmp_path: Path):
    """A shell dies of SIGTERM at once; what it has started may write a checkpoint meanwhile."""
    child = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo begun; while true; do sleep 0.05; done"
    run = command_run(f'sh -c "{child}" & wait')
    store = new_store(tmp_path / "r")
    log = store.run_folder(run.run_id) / "output.log"
    runner = Runner(workdir=tmp_path, grace_seconds=5.0)
    begun = lambda: log.exists() and "begun" in log.read_text()  # noqa: E731
    outcomes = execute(jobs([run], runner)[0], store, Execution(device="cpu"), begun)
    assert [o.status for o in outcomes] == ["interrupted"] and "saved" in log.read_text()


def test_leftovers_of_an_earlier_attempt_end_before_the_next(tmp_path: Path):
    run = command_run(f"sleep 0.1; {result()}")
    store = new_store(tmp_path / "r")
    store.begin(run)
    store.note(run.run_id, "start", pid=1)
    env = os.environ | {RUN_ID: run.run_id, FOLDER: str(store.run_folder(run.run_id) / "work")}
    other = os.environ | {RUN_ID: run.run_id, FOLDER: "/elsewhere"}
    left, kept = (psutil.Popen(["sleep", "1000"], env=e) for e in (env, other))
    try:
        run_all(tmp_path / "r", [run])
        assert left.wait(5) == -signal.SIGKILL and kept.poll() is None
    finally:
        kept.kill()
        kept.wait()


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path):
    run = command_run(f"echo x >> {{folder}}/n; test $(wc -l < {{folder}}/n) -gt 1 && {result()} "
                      "&& exit 0; sleep 1000")  # fmt: skip
    ended = threading.Event()

    def kill() -> None:
        work = tmp_path / "r" / "runs" / run.run_id / "work"
        pid = wait_until(lambda: processes_of(run.run_id, work))[0]
        parent = psutil.Process(pid).parent()
        while parent is not None and "supervisor" not in " ".join(parent.cmdline()):
            parent = parent.parent()
        assert parent is not None
        parent.kill()
        ended.set()

    thread = threading.Thread(target=kill)
    thread.start()
    store, _ = run_all(tmp_path / "r", [run], retries=1)
    thread.join()
    assert ended.is_set() and ends_of(store, run.run_id)["ok"] == 1
    assert marked(tmp_path) == [] and sleepers() == 0


# ------------------------------------------------------------------ progress and early ends


def test_progress_is_reported_while_a_command_runs(tmp_path: Path):
    point = line(step=5, L=3.5, D=500)
    run = command_run(f"{point} > {{folder}}/curve.jsonl; sleep 1.2; {result()}")
    store = new_store(tmp_path / "r")
    found = []

    def look() -> bool:
        if (report := store.progress(run.run_id)) and report["step"]:
            found.append(report)
        return False

    execute(jobs([run], Runner(workdir=tmp_path))[0], store, Execution(device="cpu"), look)
    assert found and (found[0]["step"], found[0]["D"], found[0]["L"]) == (5, 500, 3.5)


def test_a_run_that_is_given_up_is_stopped_and_keeps_its_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def give_up(measured):
        ((run, curve),) = measured
        seen.append([point["S"] for point in curve])
        return {run.run_id: "it cannot win"} if curve[-1]["S"] == 4 else {}

    monkeypatch.setattr("sweeps.execute._Attempt._give_up", lambda self: give_up)
    points = "; ".join(line(step=step, L=5.0 - step) for step in (2, 4))
    command = f"({points}) > {{folder}}/curve.jsonl; sleep 1000"
    row = run_one(tmp_path / "r", command)
    assert (row["status"], row["error"], row["L"]) == ("stopped", "it cannot win", 1.0)
    assert seen == [[2], [2, 4]] and marked(tmp_path) == []


def test_a_part_of_a_run_is_not_taken_for_the_whole_when_it_is_interrupted(tmp_path: Path):
    """A trainer may write its loss at every evaluation, and end well on SIGTERM."""
    part, whole = line(L=3.0, N=1000, S=5), line(L=2.0, N=1000, S=10)
    command = (
        f"{part} > {{folder}}/result.json; trap 'exit 0' TERM; touch {{folder}}/begun; "
        f"test $SCALING_RESUMED = 1 && {whole} > {{folder}}/result.json && exit 0; "
        "while true; do sleep 0.05; done"
    )
    run = command_run(command)
    store = new_store(tmp_path / "r")
    job = jobs([run], Runner(workdir=tmp_path))[0]
    begun = (store.run_folder(run.run_id) / "work" / "begun").exists
    outcomes = execute(job, store, Execution(device="cpu"), begun)
    assert [o.status for o in outcomes] == ["interrupted"] and store.result(run.run_id) is None
    outcomes = execute(job, store, Execution(device="cpu"), lambda: False)
    assert [(o.status, o.L) for o in outcomes] == [("ok", 2.0)]


def test_a_report_of_another_run_is_refused(tmp_path: Path):
    row = run_one(tmp_path / "r", result(run_id="0" * 12))
    assert row["status"] == "failed"


def test_what_another_run_wrote_to_the_folder_of_a_run_does_not_count(tmp_path: Path):
    victim = command_run("sleep 0.1", seed=1)
    other = tmp_path / "r" / "runs" / victim.run_id / "work"
    bad = command_run(f"mkdir -p {other}; {result().replace('{folder}', str(other))}; {result()}")
    store, _ = run_all(tmp_path / "r", [bad])
    assert (other / "result.json").exists()
    run_all(tmp_path / "r", [victim])
    rows = [store.result(run.run_id) for run in (bad, victim)]
    assert [found.row["status"] for found in rows if found] == ["ok", "failed"]
    assert "work.bad-1" in (other.parent / "output.log").read_text()


# ------------------------------------------------------------------ several runs per job


def finished(queue: Queue, run_id: str, seconds: float) -> None:
    queue.outcomes.append(Outcome(run_id, "ok", started=0.0, ended=seconds))


def test_short_commands_share_jobs_that_shorten_towards_the_end(tmp_path: Path):
    runner, runs = Runner(workdir=tmp_path), [command_run("true", seed=i) for i in range(400)]
    queue = Queue(new_store(tmp_path / "r"), 0, workers=2)
    queue.add(jobs(runs, runner))
    first = queue.take()
    assert first is not None and len(first.runs) == 1  # nothing is known yet
    finished(queue, "a", 0.1)
    sizes = []
    while job := queue.take():
        sizes.append(len(job.runs))
        queue.running.clear()
    assert sizes[0] == 30 and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 399 and len(sizes) < 40


def test_long_commands_have_jobs_of_their_own(tmp_path: Path):
    runner, runs = Runner(workdir=tmp_path), [command_run("true", seed=i) for i in range(9)]
    queue = Queue(new_store(tmp_path / "r"), 0, workers=2)
    queue.add(jobs(runs, runner))
    finished(queue, "a", 60.0)
    assert [len(job.runs) for job in iter(queue.take, None)] == [1] * 9


def test_only_the_run_under_way_is_charged_when_a_worker_dies(tmp_path: Path):
    runs = [command_run(result(), seed=i) for i in range(4)]
    store = new_store(tmp_path / "r")
    queue = Queue(store, retries=2, workers=2)
    job = Job(tuple(runs), 4.0, runner=Runner(workdir=tmp_path))
    queue.running[job.id] = job
    execute(job.of(runs[:1]), store, Execution(device="cpu"), lambda: False)
    store.begin(runs[1])
    store.note(runs[1].run_id, "start", pid=1)
    queue.crash([job], "its worker died")
    assert [store.killed(run.run_id) for run in runs] == [0, 1, 0, 0]
    assert sorted(len(job.runs) for job in queue.waiting) == [1, 1, 1]


def test_a_job_returns_commands_that_would_begin_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sweeps.execute._BATCH_SECONDS", 0.2)
    runs = [command_run(f"sleep 0.3; {result()}", seed=i) for i in range(3)]
    store = new_store(tmp_path / "r")
    job = Job(tuple(runs), 1.0, runner=Runner(workdir=tmp_path))
    outcomes = execute(job, store, Execution(device="cpu"), lambda: False)
    assert [o.status for o in outcomes] == ["ok", "interrupted", "interrupted"]
    assert not store.has_begun(runs[1].run_id)


# ------------------------------------------------------------------ resources and nodes


def test_a_run_asks_ray_for_what_the_spec_says():
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
    half = Runner(workdir=Path(), cpus=2, gpus=0.5)
    found = command_resources(4, Execution(), half, nodes)
    assert found.bundles == [{"CPU": 2, "GPU": 0.5}] and found.workers_per_gpu == 2
    assert cpus_of(4, Execution(), half) == 8
    both = command_resources(1, Execution(), Runner(workdir=Path(), gpus=2, nodes=2), nodes)
    assert both.bundles == [{"CPU": 1.0, "GPU": 2}] * 2 and both.strategy == "STRICT_SPREAD"
    assert command_resources(2, Execution(device="cpu"), half, nodes).bundles == [{"CPU": 2}]
    with pytest.raises(StoreError, match=r"\[runner.resources\].*2 GPUs and 8 CPUs"):
        command_resources(1, Execution(), Runner(workdir=Path(), gpus=4), nodes)


def test_several_nodes_need_a_cluster(tmp_path: Path):
    _, queue = run_all(tmp_path / "r", [command_run("true")], nodes=2)
    assert isinstance(queue.fatal, ConfigError) and "--in-process" in str(queue.fatal)


ON_NODES = "echo node {node_rank} of {nodes} at {master_addr}:{master_port}; "


def test_a_command_starts_on_each_node(tmp_path: Path):
    command = f"{ON_NODES} test {{node_rank}} = 1 && sleep 0.5 && exit 0; {result()}"
    with several_nodes.reaching("127.0.0.1", [several_nodes.LocalNode()]):
        row = run_one(tmp_path / "r", command, nodes=2)
    assert row["status"] == "ok" and marked(tmp_path) == []
    folder = tmp_path / "r" / "runs" / command_run(command).run_id
    first, second = (folder / name for name in ("output.log", "output.node1.log"))
    assert first.read_text().startswith("node 0 of 2 at 127.0.0.1:")
    assert second.read_text() == first.read_text().replace("node 0", "node 1")


@pytest.mark.parametrize("dies", [0, 1])
def test_a_command_ends_everywhere_if_it_dies_on_one_node(tmp_path: Path, dies: int):
    command = f"{ON_NODES} test {{node_rank}} = {dies} && echo lost && exit 9; sleep 1000"
    began = time.monotonic()
    with several_nodes.reaching("127.0.0.1", [several_nodes.LocalNode()]):
        row = run_one(tmp_path / "r", command, nodes=2)
    assert row["status"] == "failed" and "exit code 9" in row["error"] and "lost" in row["error"]
    assert marked(tmp_path) == [] and time.monotonic() - began < 20


# ------------------------------------------------------------------ kills


def of_runs(folder: Path, kind: str) -> list[psutil.Process]:
    """Return the commands that run below a folder, or their children, or their supervisors."""
    found = []
    for pid in marked(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            parent = process.parent()
            if parent is None:
                continue
            top = "supervisor" in " ".join(parent.cmdline())
            if kind == "supervisor":
                found += [parent] if top else []
            elif top == (kind == "command"):
                found.append(process)
    return found


def kill_one(drivers: Drivers, driver: subprocess.Popen[bytes], kind: str) -> None:
    """Kill one process of a kind, if there is one now."""
    store = drivers.store("killed")
    if kind == "driver":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        return
    if kind == "worker":
        pids = [e["pid"] for r in store.run_ids() for e in store.attempts(r) if "pid" in e]
        victims = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    else:
        victims = of_runs(drivers.folder / "killed", kind)
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        victims[0].kill()


def kill_again_and_again(drivers: Drivers, kinds: list[str], seconds: float) -> None:
    rng = random.Random(0)
    undisturbed = results_of(drivers.run("alone"))
    driver = drivers.start("killed")
    moments = 0
    for kind in kinds:
        if len(results_of(drivers.store("killed"))) == len(undisturbed):
            break
        moments += 1
        if driver.poll() is not None:
            driver = drivers.start("killed")
        if kind != "driver":
            wait_until(
                lambda k=kind, d=driver: (
                    of_runs(drivers.folder / "killed", "command") or d.poll() is not None
                ),
                60,
            )
        time.sleep(rng.uniform(0, seconds))
        kill_one(drivers, driver, kind)
        if kind == "driver":
            driver.wait()
            wait_until(lambda: not marked(drivers.folder / "killed"), 20)
    driver.wait(timeout=300)
    store = drivers.run("killed")
    assert marked(drivers.folder) == []
    assert len(undisturbed) == len(drivers.runs) and results_of(store) == undisturbed
    assert all(events_after_the_end(store, run.run_id) == [] for run in drivers.runs)
    assert moments > 0.7 * len(kinds)
    starts = sum(ends_of(store, run.run_id)["start"] for run in drivers.runs)
    assert starts > len(drivers.runs)


def test_the_table_is_the_same_after_kills(tmp_path: Path):
    kinds = ["command", "child", "driver", "supervisor"]
    with drivers(tmp_path, 6, 30, "here") as found:
        kill_again_and_again(found, kinds, 0.6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["here", "ray"])
def test_the_table_is_the_same_after_kills_at_twenty_moments(tmp_path: Path, where: str):
    kinds = ["command", "child", "driver", "supervisor"] * 5
    if where == "ray":
        kinds = ["worker", "command", "child", "driver"] * 5
    number, steps, seconds = (10, 250, 1.5) if where == "here" else (16, 400, 2.5)
    with drivers(tmp_path, number, steps, where) as found:
        kill_again_and_again(found, kinds, seconds)


def test_two_workers_of_ray_run_commands(tmp_path: Path):
    with drivers(tmp_path, 6, 20, "ray") as found:
        store = found.run("alone")
        assert len(results_of(store)) == 6 and marked(tmp_path) == []
        pids = {e["pid"] for run in found.runs for e in store.attempts(run.run_id) if "pid" in e}
        assert len(pids) == 2


def test_running_leaves_nothing_if_the_caller_raises(tmp_path: Path):
    start = Start(
        words=["sh", "-c", "setsid sleep 1000 & sleep 1000"],
        cwd=str(tmp_path),
        env=os.environ | {RUN_ID: "a", FOLDER: str(tmp_path / "x")},
        log=str(tmp_path / "log"),
        limit=1000,
    )
    with pytest.raises(KeyboardInterrupt), running(start):
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert marked(tmp_path) == [] and end_leftovers("a", tmp_path / "x") == 0


def test_a_stopped_queue_returns_its_runs(tmp_path: Path):
    runs = [command_run("sleep 1000", seed=i) for i in range(2)]
    store = new_store(tmp_path / "r")
    queue = Queue(store, 0)
    queue.add(jobs(runs, Runner(workdir=tmp_path)))
    timer = threading.Timer(0.5, lambda: setattr(queue, "stopping", True))
    timer.start()
    run_here(queue, Execution(device="cpu"))
    assert queue.fatal is None and len(queue.waiting) == 2 and marked(tmp_path) == []
    assert ends_of(store, runs[0].run_id)["interrupted"] + ends_of(
        store, runs[1].run_id
    )["interrupted"] == 1  # fmt: skip
