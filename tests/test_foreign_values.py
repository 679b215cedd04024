"""Odd values in a results folder, a spec or a URI are read if valid, else refused in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from small import SMALL, call

from scaling import table
from scaling.config import RunConfig, from_dict, override
from scaling.errors import ConfigError
from sweeps import control, own_sizes
from sweeps.adaptive.halving import Arm
from sweeps.early_stopping import Halving
from sweeps.errors import StoreError
from sweeps.export import _points
from sweeps.result import Finished, dump, failed_row, parse
from sweeps.spec import Spec
from sweeps.store import Store

HUGE = 10**400
HEX = "0x" + "f" * 5000


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store of two finished runs, merged, with a manifest."""
    monkeypatch.chdir(tmp_path)
    store = Store("results/small")
    for run in Spec.from_text(SMALL).runs:
        store.begin(run)
        finish(store, run)
    store.merge()
    store.write_manifest({"name": "small", "spec": SMALL})
    return store


def finish(store: Store, run: RunConfig, **changes: Any) -> None:
    row = failed_row(run, "") | {"status": "ok", "L": 2.5} | changes
    store.finish(row, [{"run_id": run.run_id, "S": 1, "D": 256, "L": 2.75}])


# ------------------------------------------------------------------ results


def test_a_newer_result_of_another_machine_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def on(machine: str) -> Store:
        monkeypatch.setenv("SCALING_CACHE", str(tmp_path / machine))
        return Store(f"memory://{tmp_path.name}/results/mine")

    run = RunConfig()
    first = on("one")
    finish(first, run, status="failed", L=None, error="no memory")
    first.merge()
    second = on("two")
    second.forget([run.run_id])
    finish(second, run)
    second.merge()
    for _ in range(2):
        again = on("one")
        assert again.rows()[run.run_id]["status"] == "ok"
        again.merge()
        assert table.read(on("three").folder if on("three").rows() else "").status.tolist() == [
            "ok"
        ]


def test_a_damaged_object_is_left_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    uri = f"memory://{tmp_path.name}/results/torn"
    remote = Store(uri).remote
    assert remote is not None
    remote.write("results/abc.json", b"{")
    for _ in range(3):
        store = Store(uri)
        assert not store.rows() and "damaged" in store.messages[0]
    assert not list(store.folder.glob("runs/*"))


def test_files_of_the_user_are_not_leftovers(store: Store):
    run_id = next(iter(store.rows()))
    mine = [store.folder / ".backup.20240101", store.folder / ".notes.2024"]
    mine += [store.run_folder(run_id) / ".plot.7", store.folder / ".merge-plans"]
    mine[0].mkdir()
    for path in (mine[0] / "file", *mine[1:]):
        path.write_text("mine")
    control.clean(store.folder)
    with store.drive():
        store.remove_leftovers()
    assert all(path.exists() for path in mine)


@pytest.mark.parametrize(
    "changes", [{"error": "no file \udcff", "status": "failed", "L": None}, {"L": 0.0}]
)
def test_results_are_read_as_they_were_written(changes: dict[str, Any]):
    run = RunConfig()
    row = failed_row(run, "") | {"status": "ok", "L": 2.5} | changes
    found = parse(dump(row, [], []), run.run_id).row
    assert found["status"] == row["status"] and found["L"] == row["L"]
    assert found["error"].encode() == str(row["error"]).encode("utf-8", "backslashreplace")


def test_curves_of_a_table_survive_a_note(store: Store):
    run_id = next(iter(store.rows()))
    for path in (store.folder / "runs").rglob("*.json"):
        path.unlink()
    store.note(run_id, "exported")
    assert [len(found.curve) for found in store.results()] == [1, 1]


@pytest.mark.parametrize(
    ("name", "cell"), [("L", ""), ("L", "-1"), ("L", "inf"), ("L", "nan"), ("N", "1.5"), ("D", "0")]
)
def test_rows_are_checked_as_results_are(store: Store, name: str, cell: str, capsys):
    path = store.folder / "runs.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[1][lines[0].index(name)] = cell
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    assert call("status", store.folder) == 2
    assert f"runs.csv, line 2: {name}=" in capsys.readouterr().err


def test_an_unclosed_quote_is_one_record(store: Store, capsys):
    path = store.folder / "runs.csv"
    path.write_text(path.read_text() + 'x,"ok\n' + "y,ok\n" * 20_000)
    assert call("status", store.folder) == 2
    assert "runs.csv, line 4: " in (err := capsys.readouterr().err) and len(err) < 400


def test_points_without_a_step_are_not_exported():
    curve = [{"S": None, "L": 2.0}, {"S": 3, "L": 1.5}]
    assert _points(Finished({}, curve)) == [(3, {"L": 1.5})]


# ------------------------------------------------------------------ other files


def test_a_probe_is_not_written_through_a_link(store: Store, tmp_path: Path):
    (target := tmp_path / "mine").write_text("mine")
    (store.folder / f".probe-{os.getpid()}").symlink_to(target)
    store.check_writable()
    assert target.read_text() == "mine"


def test_records_of_rungs_are_checked_and_links_not_followed(store: Store, tmp_path: Path):
    run = Spec.from_text(SMALL).runs[0]
    halving = Halving(store, 2)
    path = halving._path(run)
    path.parent.mkdir(parents=True)
    for text in ("[" * 100_000, '{"passed": [[Infinity, 1, true]]}', f"[{HUGE}]",
                 f'{{"passed": [[1, {HUGE}, true]]}}', '{"passed": [[1, NaN, true]]}'):  # fmt: skip
        path.write_text(text)
        assert halving._arms(run) == {}
    path.with_name("not an id.json").write_text('{"passed": [[1, 2.0, true]]}')
    assert halving._arms(run) == {}
    path.with_name("not an id.json").unlink()
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside := tmp_path / "mine")
    outside.mkdir()
    halving._write(run, Arm({1: (2.0, True)}))
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["attempts.jsonl", "output.log", "lock"])
def test_pipes_do_not_block(store: Store, name: str):
    run_id = next(iter(store.rows()))
    path = store.run_folder(run_id) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"(named pipe|No such device)"):
        if name == "lock":
            with store.lease(run_id):
                pass
        else:
            store.note(run_id, "x") if name == "attempts.jsonl" else store.log(run_id, "x")


def test_rounds_beyond_four_digits_are_read(store: Store):
    (store.folder / "rounds").mkdir()
    for number in (9999, 10000, 10001):
        (store.folder / "rounds" / f"{number}.json").write_text("[]")
    assert store.rounds() == [] and len(store.messages) == 3
    (store.folder / "rounds" / "0001.json").write_text(
        json.dumps({"format": 1, "width": HUGE, "expected": 1, "runs": {}, "asked": {}})
    )
    assert store.rounds() == [] and len(store.messages) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"own_sizes": [{"flops_per_token": {"6N": HUGE, "matmul": 1}, "model": {}, "N": 1}]},
        {"own_sizes": [{"model": {"family": "x.py:X"}, "vocab_size": 256, "N": 1, "N_kaplan": 1,
                        "embedding": 1, "head": 0, "flops_per_token": {"6N": HUGE}}]},
        {"own_sizes": {"a": 1}},
        {"corpus_hashes": {"": "abc"}},
        {"changes": {"scale": []}},
        {"spec": SMALL.replace("2560", HEX)},
        {"spec": SMALL + f"[until]\nlr = {{ within = {HUGE} }}\n"},
        {"spec": SMALL + f"[until]\nlr = {{ within = {HEX} }}\n"},
        {"spec": SMALL.replace("n_head = 1", "n_head = 1152921504606846977").replace(
            "d_model = 8", "d_model = 2305843009213693951")},
        {"spec": SMALL.replace("tokens = 2560", "tokens = 2560\noptim.batch_warmup_tokens = 4e18")},
        {"spec": SMALL.replace("seed = [0, 1]", "seed = { from = 1, to = 1e9, num = 100000 }\n"
                               "tokens_per_parameter = { from = 1, to = 9, num = 100000 }")},
    ],
)  # fmt: skip
def test_a_manifest_with_odd_values_gives_no_traceback(
    here: Path, store: Store, changes: dict, capsys
):
    store.write_manifest({"name": "small", "spec": SMALL} | changes)
    for words in (("status",), ("clean", "--dry-run")):
        assert call(words[0], store.folder, *words[1:]) in (0, 2)
    assert "bug" not in capsys.readouterr().err
    if "spec" not in changes:
        Path("small.toml").write_text(SMALL.replace("[0, 1]", "[0, 1, 2]"))
        assert call("sweep", "small.toml", "--in-process") in (0, 2)
        assert "bug" not in capsys.readouterr().err


@pytest.mark.parametrize("said", ["process 9999999999 on", "process 0 on", "process \u0663 on"])
def test_a_lock_that_names_an_impossible_process_is_ignored(store: Store, said: str, monkeypatch):
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number) if number else None)
    with store.drive():
        (store.folder / "lock").write_text(f"{said} {socket.gethostname()}\n")
        with pytest.raises(StoreError, match="no sweep is running"):
            control.cancel(store.folder)
    assert signal.SIGINT not in signals


# ------------------------------------------------------------------ specs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", f"tokens={HEX}"), "tokens is too large"),
        (("--set", f"seed={HUGE}"), "is too large"),
        (("--filter", f"tokens<{HEX}"), "tokens is too large"),
        (("--filter", f"tokens<{'9' * 5000}"), "is not int"),
        (("--set", "model=" + "[" * 3000), "model is a table of fields"),
    ],
)
def test_impossible_numbers_are_refused(here: Path, words: tuple[str, ...], said: str, capsys):
    Path("small.toml").write_text(SMALL)
    assert call("sweep", "small.toml", "--dry-run", *words) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_unbounded_sizes_are_refused():
    with pytest.raises(ConfigError, match="more than 100000 steps"):
        from_dict({"optim.batch_warmup_tokens": 4e18})
    with pytest.raises(ConfigError, match="does not divide"):
        from_dict({"model.d_model": 2**61 - 1, "model.n_head": 2**60 + 1})
    with pytest.raises(ConfigError, match="hundreds of digits"):
        override(RunConfig(), {"optim.beta1": HUGE})
    ranges = (
        "seed = { from = 1, to = 1e9, num = 100000 }\noptim.lr = { from = 1, to = 2, num = 99 }"
    )
    with pytest.raises(ConfigError, match=r"the axes make 9.9e\+06 runs; at most 1e\+06"):
        Spec.from_text(SMALL.replace("seed = [0, 1]", ranges))


def test_sizes_of_two_calls_are_kept_together(tmp_path: Path):
    one, two = ({"model": {"d_model": d}, "vocab_size": 256, "N": d} for d in (8, 16))
    assert own_sizes.together([one, "x", 3], [two, one]) == [one, two]
    assert own_sizes.together("none", [one]) == [one]
