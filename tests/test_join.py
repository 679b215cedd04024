"""Several processes that share a results folder: nothing is trained twice, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from disturbed import LONG, ROOT, Project, assert_same_results, starts, wait_for
from hypothesis import given
from hypothesis import strategies as st
from small import call

from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps import Sweep, leases, sharing
from sweeps.errors import StoreError
from sweeps.execute import execute
from sweeps.queue import Job, Outcome, Queue, Shared
from sweeps.result import failed_row
from sweeps.spec import Spec
from sweeps.store import Store

JOIN = ["-m", "scaling.cli", "sweep", "long.toml", "--join", "--checkpoint-seconds", "0.2"]

HELD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from sweeps.store import Store
with Store(sys.argv[1]).drive(share=sys.argv[3] == "share") as hold:
    print(hold.stand_by(), flush=True)
    time.sleep(60)
"""


def helper(project: Project, *options: str) -> subprocess.Popen[str]:
    """Start a process that trains the runs of `LONG` that no other has taken."""
    process = subprocess.Popen(
        [sys.executable, *JOIN, *options],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    project.started.append(process)
    return process


@contextlib.contextmanager
def holding(folder: Path, how: str):
    """Let another process hold a results folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(folder), str(ROOT), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "True\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def sessions(store: Store) -> list[dict[str, Any]]:
    return json.loads((store.folder / "manifest.json").read_bytes())["sessions"]


def test_processes_that_join_train_each_run_once(project: Project, undisturbed: Store):
    project.spec("long", LONG)
    helpers = [helper(project, "--in-process") for _ in range(3)]
    outputs = [process.communicate(timeout=200)[0] for process in helpers]
    assert [process.returncode for process in helpers] == [0, 0, 0], outputs
    store = project.store("long", "results")
    assert_same_results(store, undisturbed)
    assert [len(starts(store, run_id)) for run_id in store.run_ids()] == [1, 1, 1, 1]
    assert len({starts(store, run_id)[0] for run_id in store.run_ids()}) > 1
    assert len(sessions(store)) == 3
    assert all("wall_seconds" in session for session in sessions(store))
    assert not store.drivers()
    assert not list((store.folder / ".joined").glob("*.lock"))


def test_a_killed_process_loses_no_run_and_repeats_none(project: Project, undisturbed: Store):
    spec = project.spec("long", LONG)
    store = project.store("long", "results")
    longest = max(spec.runs, key=lambda run: run.D).run_id
    helpers = {process.pid: process for process in (helper(project, "--in-process") for _ in "12")}
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists())
    killed = helpers.pop(starts(store, longest)[0])
    killed.kill()
    (other,) = helpers.values()
    assert other.wait(timeout=200) == 0
    assert_same_results(store, undisturbed)
    attempts = {run_id: len(starts(store, run_id)) for run_id in store.run_ids()}
    assert attempts.pop(longest) == 2 and set(attempts.values()) == {1}
    assert [e["event"] for e in store.attempts(longest)] == ["start", "killed", "start", "ok"]


@pytest.mark.slow
def test_a_process_that_joins_with_ray_stops_alone(project: Project, undisturbed: Store):
    spec = project.spec("long", LONG)
    store = project.store("long", "results")
    longest = max(spec.runs, key=lambda run: run.D).run_id
    with_ray = helper(project, "--workers", "1")
    wait_for(lambda: (store.run_folder(longest) / "checkpoint.pt").exists())
    other = helper(project, "--in-process")
    wait_for(lambda: len(store.drivers()) == 2)
    with_ray.send_signal(signal.SIGTERM)
    assert with_ray.wait(timeout=60) == 130
    assert "--join" in with_ray.communicate(timeout=10)[0]  # in the command that resumes
    assert other.wait(timeout=200) == 0
    assert_same_results(store, undisturbed)


def test_who_works_on_a_folder_alone_and_who_shares_it(tmp_path: Path):
    store = Store(tmp_path / "results")
    with holding(store.folder, "share") as one:
        with store.drive(share=True) as hold:
            assert [other.pid for other in hold.others] == [one.pid]
            assert {driver.pid for driver in store.drivers()} == {one.pid, os.getpid()}
            assert not hold.stand_by()  # the other does
            with hold.writing(wait=False) as held:
                assert held
        message = f"shared by process {one.pid} on .*--join"
        with pytest.raises(StoreError, match=message), store.drive():
            pass
    assert not store.drivers()
    with store.drive(share=True) as hold:
        assert not hold.others and hold.stand_by()
    with holding(store.folder, "alone") as one:
        assert store.driver() == leases.holder(store.folder / "lock")
        message = f"process {one.pid} on .*start it again with --join"
        with pytest.raises(StoreError, match=message), store.drive(share=True):
            pass
    with store.drive():
        assert [driver.pid for driver in store.drivers()] == [os.getpid()]
        assert not list((store.folder / ".joined").glob("*.lock"))  # of the killed process


def test_the_table_is_written_by_one_process_at_a_time(tmp_path: Path):
    store = Store(tmp_path / "results")
    with store.drive(share=True) as one, store.drive(share=True) as other:
        with one.writing(), other.writing(wait=False) as held:
            assert not held
        with other.writing(wait=False) as held:
            assert held


@given(
    st.integers(1, 2**31 - 1),
    st.from_regex("[A-Za-z0-9.-]{1,30}", fullmatch=True),
    st.from_regex("|[0-9]{1,9}|[0-9]{1,9}_[0-9]{1,5}", fullmatch=True),
)
def test_a_lock_names_its_process_and_its_slurm_job(pid: int, host: str, job: str):
    import tempfile
    from unittest.mock import patch

    array, _, task = job.partition("_")
    names = {"SLURM_JOB_ID": "99"} if task else {"SLURM_JOB_ID": array}
    names |= {leases.MARK: "1"}
    names |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lock")
        with (
            patch("os.getpid", lambda: pid),
            patch("socket.gethostname", lambda: host),
            patch.dict(os.environ, names),
        ):
            for sharing_it in (False, True):
                lease = leases.take(path, path, sharing=sharing_it)
                assert lease is not None
                with lease:
                    assert leases.holder(path) == leases.Holder(pid, host, job, sharing_it)


@pytest.fixture
def spec(here: Path) -> Spec:
    (here / "long.toml").write_text(LONG)
    return Spec.from_toml("long.toml")


def job_of(spec: Spec, visits: int = 0) -> Job:
    return Job((min(spec.runs, key=lambda run: run.D),), 1.0, shared=Shared(2, visits))


def test_a_held_run_is_visited_later_and_a_finished_one_never(spec: Spec):
    store = Store("results/long")
    job = job_of(spec)
    (run,) = job.runs
    queue = Queue(store, 2)
    queue.add([job])
    taken = queue.take()
    assert taken is not None and taken.patience == 0
    with store.lease(run.run_id):
        outcomes = execute(taken, store, Execution(), lambda: False)
    assert [outcome.status for outcome in outcomes] == ["busy"]
    queue.finish(taken, outcomes)
    assert queue.fatal is None and not queue.exhausted
    store.begin(run)
    store.finish(failed_row(run, "elsewhere"), [])
    assert queue.take() is None and queue.exhausted
    assert queue.outcomes[-1] == Outcome(run.run_id, "failed", elsewhere=True)


def test_a_process_does_not_wait_for_held_runs_if_another_one_does(spec: Spec):
    queue = Queue(Store("results/long"), 2)
    queue.stand_by = lambda: False
    queue.add([job_of(spec, visits=1)])
    assert queue.take() is None and queue.exhausted and len(queue.left_to_others) == 1


def test_a_run_that_kills_its_processes_fails_after_its_retries(spec: Spec):
    """An array would otherwise lose one task after another to it."""
    store = Store("results/long")
    job = job_of(spec)
    (run,) = job.runs
    store.begin(run)
    for event in ("start", "killed", "start", "killed", "start"):
        store.note(run.run_id, event, pid=1)
    (outcome,) = execute(job, store, Execution(), lambda: False)
    assert outcome.status == "failed" and "3 attempts ended badly" in outcome.error
    row = store.rows()[run.run_id]
    assert row["status"] == "failed"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"retry_failed": True}, "--retry-failed cannot be used with --join"),
        ({"reuse": ("results/other",)}, "--reuse cannot be used with --join"),
    ],
)
def test_what_would_be_done_by_each_process_is_refused(
    spec: Spec, options: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        Sweep(spec).run(join=True, in_process=True, quiet=True, **options)


def test_a_spec_that_grows_and_a_uri_cannot_be_shared(
    spec: Spec, here: Path, capsys: pytest.CaptureFixture[str]
):
    until = '"optim.lr" = [1e-3, 2e-3, 4e-3]\n[until]\nlr = { within = 1.2 }\n'
    (here / "grows.toml").write_text(LONG.replace("long", "grows") + until)
    assert call("sweep", "grows.toml", "--join", "--in-process") == 2
    assert "has [until]" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is a URI"):
        Sweep(spec, "memory://bucket/results").run(join=True, in_process=True)


def test_members_of_a_folder_are_found_by_their_locks_only(tmp_path: Path):
    store = Store(tmp_path)
    (tmp_path / ".joined").mkdir()
    (tmp_path / ".joined" / "dead-1-abc.lock").write_text("process 1 on dead, sharing\n")
    (tmp_path / ".joined" / "dead-1-abc.stop").touch()
    assert sharing.joined(store) == []
    with store.drive():
        assert list((tmp_path / ".joined").iterdir()) == []
