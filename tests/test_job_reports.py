"""Progress of a job: one file for all of its runs, written seldom on shared storage."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from small import BASE

from scaling import files, run_progress
from scaling.execution import Execution
from sweeps import control, job_reports
from sweeps.execute import execute
from sweeps.folder_status import status
from sweeps.job_reports import JobReports, type_is_shared
from sweeps.queue import Job, Queue
from sweeps.spec import Spec
from sweeps.store import Store
from sweeps.tally import Tally

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:27 / /shared rw,relatime - nfs4 head:/export rw,vers=4.2
31 22 0:28 / /my\040lustre rw - lustre 10.0.0.1@tcp:/scratch rw
32 22 0:29 / /local rw - xfs /dev/nvme0n1 rw
33 30 0:30 / /shared/fast rw - tmpfs tmpfs rw
34 22 0:31 / /bucket rw - fuse.gcsfuse bucket rw
35 22 0:32 / /home rw - fuse.fuse-overlayfs home rw
36 22 0:27 / /local rw - nfs head:/over rw
"""


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/results", False),
        ("/shared/results", True),
        ("/sharedness", False),
        ("/shared/fast/results", False),
        ("/my lustre/results", True),
        ("/bucket/results", True),
        ("/home/me", False),
        ("/local/results", True),  # mounted last
    ],
)
def test_storage_that_machines_share_is_known_by_its_file_system(path, shared):
    assert type_is_shared(MOUNTS, Path(path)) is shared
    assert type_is_shared("", Path(path)) is type_is_shared("torn - \nx\n", Path(path)) is False


class Watched(Store):
    """A store on a disk that takes `seconds` for each report, on a clock of its own."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        super().__init__(folder)
        self.now, self.seconds, self.writes = 100.0, seconds, []

    def report_progress(self, run_id, values):
        self.writes.append(run_id)
        self.now += self.seconds
        super().report_progress(run_id, values)

    def report_pack(self, leader, reports):
        self.writes.append(f"pack of {len(reports)}")
        self.now += self.seconds
        super().report_pack(leader, reports)


def trained(store: Watched, reports: JobReports, run_ids: list[str], seconds: float) -> list[str]:
    """Return what is written while the runs report twice a second."""
    store.writes.clear()
    end, step = store.now + seconds, 0
    while store.now < end:
        step += 1
        for run_id in run_ids:
            reports.add(run_id, {"step": step, "D": step, "stored": 0, "time": store.now})
        reports.write_if_due()
        store.now += 0.5
    return store.writes


@pytest.mark.parametrize("K", [1, 64])
def test_a_job_writes_one_file_however_many_runs_it_has_and_seldom_on_shared_storage(
    tmp_path, monkeypatch, K
):
    ids = [f"run{i}" for i in range(K)]
    for shared, seconds, most in ((False, 0.0, 121), (True, 0.0, 13), (False, 0.1, 7)):
        store = Watched(tmp_path / f"{shared}{seconds}", seconds)
        for run_id in ids:
            store.run_folder(run_id).mkdir(parents=True)
        monkeypatch.setattr(job_reports, "on_shared_storage", lambda path, shared=shared: shared)
        monkeypatch.setattr(job_reports.time, "monotonic", lambda store=store: store.now)
        reports = JobReports(store, ids)
        writes = trained(store, reports, ids, seconds=60)
        assert most - 3 <= len(writes) <= most, (shared, seconds)
        assert set(writes) == {"run0" if K == 1 else "pack of 64"}
        # what a new checkpoint holds is not delayed
        for run_id in ids:
            reports.add(run_id, {"step": 1000, "D": 1000, "stored": 1000})
        reports.write_if_due()
        assert all(store.progress(run_id)["stored"] == 1000 for run_id in ids)
        reports.add(ids[-1], {"step": 1001, "D": 1001, "stored": 1000})
        reports.end(finished=False)
        assert store.progress(ids[-1])["step"] == 1001
        assert store.progress_of(reversed(ids)).keys() == set(ids)
        assert store.progress_of(ids, one_job=True) == store.progress_of(ids)


def test_the_files_of_a_pack_are_its_runs_progress_and_leave_with_them(tmp_path, here, monkeypatch):
    text = BASE.replace("tokens = 2560", "tokens = 25_600")
    spec = Spec.from_text(text + "seed = [0, 1, 2]\n")
    store = Store(tmp_path / "s")
    store.write_manifest({"name": "small", "spec": spec.text})
    queue = Queue(store, retries=0)
    queue.add([Job(spec.runs, 3.0, 2)])
    job = queue.take()
    write, written, seen = files.write_atomic, [], []

    def note(path, data, **how):
        written.append(path.relative_to(store.folder / "runs"))
        return write(path, data, **how)

    monkeypatch.setattr("scaling.files.write_atomic", note)
    seconds = dict.fromkeys(spec.by_id, 1.0)
    tally = Tally(queue, store, spec.by_id, seconds, workers=1)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        if steps == 1:
            return False
        state = status(store.folder, spec)
        seen.append((state.running, tally.count().C_done))
        return steps > 2

    monkeypatch.setattr("sweeps.execute._STOP_CHECK_SECONDS", {"local": 0, "shared": 0})
    monkeypatch.setattr(job_reports, "LOCAL_SECONDS", 0.0)
    outcomes = execute(job, store, Execution(checkpoint_seconds=0.0), stop)
    assert {outcome.status for outcome in outcomes} == {"interrupted"}
    leader = spec.runs[0].run_id
    packs = [path for path in written if path.name == "pack.json"]
    assert len(packs) >= 2 and {path.parent.name for path in packs} == {leader}
    own = [path.parent.name for path in written if path.name == "progress.json"]
    assert sorted(own) == sorted(spec.by_id)  # once, to point to the pack
    running, C_done = seen[-1]
    assert set(running) == set(spec.by_id) and C_done > 0
    assert [report.get("step") for report in running.values()] == [1, 1, None]  # two slots

    state = status(store.folder, spec)
    assert not state.running and state.interrupted >= 2 and 0 < state.C_done < state.C
    steps = -(10**9)
    outcomes = execute(job, store, Execution(), lambda: False)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert not [*store.folder.glob("runs/*/pack.json"), *store.folder.glob("runs/*/progress.json")]


def test_damaged_reports_count_as_missing(tmp_path):
    store = Store(tmp_path / "s")
    for run_id in ("a", "b", "c"):
        store.run_folder(run_id).mkdir(parents=True)
    for text in ("[" * 100_000, "{", "[1]", '{"runs": [1]}', '{"runs": {"b": 3}}', "{}"):
        store.begin_pack(["a", "b"])
        (store.run_folder("a") / run_progress.PACK).write_text(text)
        assert store.progress("b") == {} and store.progress("c") is None
    for leader in ("../a", "", 3, None, ["a"], "nowhere"):
        path = store.run_folder("b") / run_progress.PROGRESS
        path.write_text(json.dumps({"pack": leader, "step": 3, "D": -1, "L": math.nan}))
        assert store.progress("b") == {"step": 3}


def test_cleaning_removes_the_reports_of_packs_that_were_killed(tmp_path, here):
    spec = Spec.from_text(BASE + "seed = [0, 1]\n")
    store = Store(tmp_path / "s")
    execute(Job(spec.runs[:1], 1.0), store, Execution(), lambda: False)
    done = store.run_folder(spec.runs[0].run_id)
    (done / "pack.json").write_text("{}")
    (done / ".pack.json.999999").write_text("{}")
    names = {path.name for path in control.clean(store.folder)}
    assert {"pack.json", ".pack.json.999999"} <= names
    assert not (done / "pack.json").exists() and (done / "result.json").exists()


def test_a_run_that_left_its_pack_reports_for_itself(tmp_path):
    store = Store(tmp_path / "s")
    ids = ["a", "b", "c"]
    for run_id in ids:
        store.run_folder(run_id).mkdir(parents=True)
    store.begin_pack(ids)
    store.report_pack("a", {run_id: {"step": 3} for run_id in ids})
    store.report_progress("b", {"step": 7})  # tried alone, after the pack was killed
    steps = {run_id: report["step"] for run_id, report in store.progress_of(ids).items()}
    assert steps == {"a": 3, "b": 7, "c": 3}
    assert store.begin_pack(["b", "c"]) == {"b": {"step": 7}, "c": {"step": 3}}
    assert store.progress("a") == {"step": 3} and store.progress("c") == {"step": 3}
