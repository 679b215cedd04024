"""Results on disk: writing, reading, damage, leases, and stores on a URI."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling import schema, table
from scaling.config import RunConfig, override
from scaling.files import write_atomic
from sweeps.errors import StoreError
from sweeps.remote import Remote
from sweeps.result import FORMAT, failed_row
from sweeps.store import Store

ROOT = Path(__file__).parents[1]


def run_number(seed: int) -> RunConfig:
    return override(RunConfig(), {"seed": seed, "tag": 'a, "b"\nc' if seed == 3 else ""})


def finish(store: Store, run: RunConfig, L: float = 2.0, status: str = "ok") -> dict:
    row = failed_row(run, "") | {
        "status": status,
        "L": L,
        "seconds": 0.1 + 0.2,
        "corpus_hash": "00e1",
    }
    point = {
        "run_id": run.run_id,
        "S": 1,
        "D": 4096,
        "C": 1e9 / 3,
        "L": L,
        "L_train": L,
        "lr": 1e-3,
    }
    store.finish(row, [point, point | {"S": 2}])
    return row


def as_in_a_table(rows: list[dict]) -> dict[str, dict]:
    """Return rows as CSV keeps them: missing text is empty text."""
    text = {column.name for column in schema.COLUMNS if column.dtype == "str"}
    plain = [
        {k: str("" if v is None else v) if k in text else v for k, v in r.items()} for r in rows
    ]
    return {row["run_id"]: row for row in plain}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "a sweep")


def test_a_result_survives_the_round_trip_through_file_and_table(store: Store):
    runs = [run_number(seed) for seed in range(4)]
    rows = [finish(store, run, L=2 + run.seed / 7) for run in runs]
    assert store.rows() == {row["run_id"]: row for row in rows}
    store.merge()
    first = (store.folder / "runs.csv").read_bytes()
    for run in runs[:2]:  # a committed table has no raw runs
        for path in store.run_folder(run.run_id).iterdir():
            path.unlink()
    assert store.rows() == as_in_a_table(rows)
    finish(store, run_number(9))
    store.merge()
    store.forget([run_number(9).run_id])
    assert (store.folder / "runs.csv").read_bytes() == first
    assert len(table.read_curves(store.folder)) == 8


def test_nan_and_infinity_become_null(store: Store):
    finish(store, run_number(0), L=math.nan, status="diverged")
    finish(store, run_number(1), L=math.inf, status="diverged")
    for seed in (0, 1):
        path = store.run_folder(run_number(seed).run_id) / "result.json"
        values = json.loads(path.read_text(), parse_constant=pytest.fail)
        assert values["row"]["L"] is None and values["curve"][0]["L"] is None
    store.merge()
    assert table.read(store.folder)["L"].isna().all()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"format": 1, "row": {"run_id"',
        b"[]",
        b"null",
        b"\xff\x00",
        b'{"format": 1, "row": {"run_id": "another", "status": "ok"}, "curve": []}',
        b'{"format": "1", "row": {}, "curve": []}',
    ],
)
def test_a_damaged_result_is_set_aside_with_a_message(store: Store, damage: bytes):
    run = run_number(0)
    for number in (1, 2):
        finish(store, run)
        path = store.run_folder(run.run_id) / "result.json"
        path.write_bytes(damage)
        assert store.rows() == {}
        assert not path.exists()
        assert path.with_name(f"result.json.bad-{number}").read_bytes() == damage
        assert "damaged" in store.messages[-1] and str(path) in store.messages[-1]


def test_a_newer_format_is_refused_not_set_aside(store: Store):
    run = run_number(0)
    finish(store, run)
    path = store.run_folder(run.run_id) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(StoreError, match="newer version"):
        store.rows()
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a results table"),
        ("a,b\n1,2\n", "not a results table"),
        ("run_id,status,N\nx,ok,1\ny,ok", "line 3: it has 2 cells"),
        ("run_id,status,N\nx,ok,many\n", "damaged"),
    ],
)
def test_a_damaged_table_is_refused(store: Store, text: str, said: str):
    store.folder.mkdir(parents=True)
    (store.folder / "runs.csv").write_text(text)
    with pytest.raises(StoreError, match=said):
        store.rows()


def test_a_table_of_an_older_schema_is_read_and_extended(store: Store):
    store.folder.mkdir(parents=True)
    (store.folder / "runs.csv").write_text("run_id,status,N,gone\nabc,ok,10,x\n")
    finish(store, run_number(0))
    store.merge()
    rows = table.read(store.folder)
    assert list(rows.columns) == [column.name for column in schema.COLUMNS]
    assert rows.set_index("run_id").N["abc"] == 10 and len(rows) == 2


def test_a_failed_write_keeps_the_old_file(store: Store, monkeypatch: pytest.MonkeyPatch):
    row = finish(store, run_number(0))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for run in (run_number(0), run_number(1)):
        with pytest.raises(StoreError, match="the disk is full"):
            finish(store, run, L=9.0)
    monkeypatch.undo()
    assert store.rows() == {row["run_id"]: row}
    left = sorted(path.name for path in store.run_folder(row["run_id"]).iterdir())
    assert left == ["result.json"]


def test_a_disk_that_is_really_full(tmp_path: Path):
    """On a file system of 64 KiB, mounted in its own namespace."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from sweeps.errors import StoreError
from sweeps.store import Store
from sweeps.result import failed_row
from scaling.config import RunConfig, override
from scaling.files import write_atomic
store, done = Store(sys.argv[1]), 0
try:
    for seed in range(100):
        run = override(RunConfig(), {"seed": seed})
        store.finish(failed_row(run, "x" * 5000), [])
        done += 1
except StoreError as error:
    assert "the disk is full" in str(error), error
    assert len(Store(sys.argv[1]).rows()) == done > 0
    print("refused")
"""
    mount = f"mount -t tmpfs -o size=64k none '{disk}' 2>/dev/null || exit 77"
    command = f"{mount}; exec '{sys.executable}' -c \"$1\" '{disk}' '{ROOT}'"
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", command, "sh", code],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.mark.parametrize("obstacle", ["file", "read-only"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path, obstacle: str):
    folder = tmp_path / "results"
    if obstacle == "file":
        folder.write_text("")
    elif os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    else:
        folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        Store(folder / "sweep").check_writable()


def test_attempts_survive_a_half_written_line_and_a_retry_resets_their_count(store: Store):
    run_id = run_number(0).run_id
    for _ in range(2):
        store.note(run_id, "start", pid=1)
        store.note(run_id, "killed", error="it died")
    with (store.run_folder(run_id) / "attempts.jsonl").open("ab") as file:
        file.write(b'{"event": "killed", "ti\xc3')
    assert store.killed(run_id) == 2
    store.note(run_id, "killed")
    assert store.killed(run_id) == 3
    store.forget([run_id])
    assert store.killed(run_id) == 0


HOLD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from sweeps.store import Store
store = Store(sys.argv[1])
with store.drive(), store.lease("abc") as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_leases_exclude_other_processes_and_end_with_their_own(store: Store):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.folder), str(ROOT)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout and holder.stdout.readline() == "True\n"
    try:
        with store.lease("abc") as held:
            assert not held
        with pytest.raises(StoreError, match=f"process {holder.pid} on"), store.drive():
            pass
        assert store.running(["abc", "other"]) == ["abc"]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with store.lease("abc", patience=1) as held, store.drive():
        assert held
    with store.lease("abc") as first, store.lease("abc") as second:
        assert (first, second) == (True, False)


TAKE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from sweeps.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Store(sys.argv[1]).lease("abc") as held:
    print(held, flush=True)
    time.sleep(1.5)
"""


def test_one_of_many_takes_over_a_stale_lease(store: Store):
    store.begin(run_number(0))
    lock = store.run_folder("abc") / "lock"
    lock.parent.mkdir()
    lock.write_text("process 1 on a machine that is gone\n")
    words = [sys.executable, "-c", TAKE, str(store.folder), str(ROOT)]
    rivals = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for rival in rivals:
        assert rival.stdout and rival.stdout.readline() == "ready\n"
    for rival in rivals:  # all at once
        assert rival.stdin
        rival.stdin.write("\n")
        rival.stdin.flush()
    said = [rival.communicate()[0] for rival in rivals]
    assert sorted(said) == ["False\n"] * 3 + ["True\n"]


def test_looking_at_a_lease_does_not_keep_a_driver_out(store: Store):
    import fcntl
    import threading

    store.folder.mkdir(parents=True)
    file = (store.folder / "lock").open("a+")
    fcntl.flock(file, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, file.close)
    timer.start()
    with store.drive():
        pass
    timer.join()


def test_messages_name_the_path_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    store = Store("../" + tmp_path.name + "/taken/sweep")
    for act in (store.rows, store.check_writable, store.merge, lambda: store.note("abc", "start")):
        with pytest.raises(StoreError) as error:
            act()
        message = str(error.value)
        assert message.startswith(f"../{tmp_path.name}/taken/sweep")
        assert "a file is where a folder should be" in message and "damaged" not in message
    folder = Path("unreadable/sweep")
    (folder / "runs.csv").mkdir(parents=True)
    with pytest.raises(
        StoreError, match=r"^unreadable/sweep/runs.csv cannot be read: .*a folder is where a file"
    ):
        Store(folder).rows()


def test_a_merge_that_fails_leaves_the_table_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    finish(store, run_number(0))
    store.merge()
    before = {p.name: p.read_bytes() for p in store.folder.iterdir() if p.is_file()}
    finish(store, run_number(1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="the disk is full"):
            store.merge()
    assert {p.name: p.read_bytes() for p in store.folder.iterdir() if p.is_file()} == before
    left = sorted(p.name for p in store.folder.iterdir())
    assert left == [".index.json", "curves.parquet", "runs", "runs.csv", "tests.parquet"]


def test_tests_are_merged_once_and_kept(store: Store):
    for number in (0, 1):
        run = run_number(number)
        row = finish(store, run)
        at = {"run_id": run.run_id, "corpus": "kjv", "tokens": 64, "L": 4.0 + number}
        store.finish(row, store.result(run.run_id).curve, [at | {"L_position": [4.5, 3.5]}])
        store.merge()  # the second time beside the merged rows
    shutil.rmtree(store.folder / "runs")
    store.merge()
    tests = table.read_tests(store.folder)
    assert sorted(tests.L) == [4.0, 5.0] and [list(x) for x in tests.L_position] == [[4.5, 3.5]] * 2
    store.merge()
    assert len(table.read(store.folder)) == 2


# ------------------------------------------------------------------ a store on a URI


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return stores of one URI, each as another machine sees it."""

    def on(name: str, uri: str = f"memory://{tmp_path.name}/results/mine") -> Store:
        monkeypatch.setenv("SCALING_CACHE", str(tmp_path / name))
        return Store(uri)

    return on


def test_a_store_on_a_uri_is_shared_by_machines(machine):
    one = machine("one")
    rows = [finish(one, run_number(seed)) for seed in range(3)]
    one.write_manifest({"name": "mine"})
    one.check_writable()
    assert len(one.rows()) == 3
    two = machine("two")
    assert two.folder != one.folder
    assert (
        two.rows() == {row["run_id"]: row for row in rows} == pickle.loads(pickle.dumps(two)).rows()
    )
    assert two.manifest() == {"name": "mine"}
    finish(two, run_number(3))
    assert run_number(3).run_id not in one.rows()  # it has just looked
    assert (one.result(run_number(3).run_id) or pytest.fail("not there")).row["seed"] == 3
    two.merge()
    three = machine("three")
    assert len(three.rows()) == 4 and len(table.read_curves(three.folder)) == 8
    assert not list((three.folder).glob("runs/*"))  # the table has all of it
    assert [len(found.curve) for found in three.results()] == [2] * 4
    three.forget([run_number(0).run_id])
    assert len(machine("four").rows()) == 3
    assert str(three.shown(three.folder / "runs.csv")).startswith("memory://")


def test_results_that_did_not_reach_the_uri_are_written_there_later(
    machine, monkeypatch: pytest.MonkeyPatch
):
    store = machine("one")
    finish(store, run_number(0))

    def cut(self: Remote, name: str, data: bytes) -> None:
        raise OSError(errno.EIO, "the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "write", cut)
        with pytest.raises(
            StoreError, match=r"memory://.* cannot be written: the connection broke"
        ):
            finish(store, run_number(1))
        with pytest.raises(StoreError, match="cannot be written"):
            store.check_writable()
    assert len(machine("two").rows()) == 1
    machine("one").merge()
    assert len(machine("three").rows()) == 2


def test_a_torn_object_is_set_aside_and_replaced(machine):
    store = machine("one")
    finish(store, run_number(0))
    Remote(str(store._given)).write(f"results/{run_number(0).run_id}.json", b'{"format": 1, "ro')
    other = machine("two")
    assert other.rows() == {} and "damaged" in other.messages[0]
    finish(other, run_number(0))
    assert len(machine("three").rows()) == 1


@pytest.mark.parametrize("uri", ["nowhere://bucket/results", "hdfs+x://a/b"])
def test_unreachable_storage_is_reported(machine, uri: str):
    with pytest.raises(StoreError) as error:
        machine("one", uri).rows()
    assert str(error.value).startswith(f"{uri} cannot be reached: ") and "\n" not in str(
        error.value
    )


def test_a_file_uri_is_a_local_folder(tmp_path: Path):
    store = Store(f"file://{tmp_path}/s")
    assert store.remote is None and store.folder == tmp_path / "s"


def test_results_of_older_versions_get_the_defaults_of_new_fields(store: Store):
    row = finish(store, run_number(0))
    path = store.run_folder(row["run_id"]) / "result.json"
    values = json.loads(path.read_text())
    for name in ("precision", "norm", "n_ctx"):
        del values["row"][name]
    path.write_text(json.dumps(values))
    old = store.rows()[row["run_id"]]
    assert (old["precision"], old["norm"], old["n_ctx"]) == ("float32", "layernorm", 128)
    store.merge()
    lines = (store.folder / "runs.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines]
    gone = cells[0].index("norm")
    (store.folder / "runs.csv").write_text(
        "\n".join(",".join(c[:gone] + c[gone + 1 :]) for c in cells) + "\n"
    )
    assert store.rows()[row["run_id"]]["norm"] == "layernorm"


def test_writing_is_atomic(tmp_path: Path):
    path = tmp_path / "a"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(tmp_path) == ["a"]


@pytest.mark.slow
def test_a_hundred_thousand_runs_list_and_load_in_seconds(store: Store):
    row = failed_row(run_number(0), "") | {"status": "ok", "L": 2.0, "seconds": 1 / 3}
    rows = [row | {"run_id": f"{seed:012x}"} for seed in range(100_000)]
    table.write(store.folder, rows, [])
    start = time.process_time()  # independent of the machine's load
    assert len(store.rows()) == 100_000
    assert time.process_time() - start < 3
