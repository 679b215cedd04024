"""Results folders of somebody else: nothing outside of them is deleted, written or run, and their
results are checked."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small import call

from scaling import table
from scaling.config import RunConfig
from scaling.files import remove, write_atomic
from sweeps.control import clean
from sweeps.errors import StoreError
from sweeps.result import failed_row, is_run_id
from sweeps.spec import Spec
from sweeps.store import Store

SPEC = """
name = "small"
[base]
model = { n_layer = 1, d_model = 16, n_head = 2, n_ctx = 32 }
data = { corpus = "corpus.txt", tokenizer = "bytes" }
eval = { test_tokens = 1024, points = 2 }
batch_tokens = 128
tokens = 512
[axes]
seed = [0, 1, 2]
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SPEC)
    return Spec.from_text(SPEC)


@pytest.fixture
def store(spec: Spec) -> Store:
    """Return a store of three finished runs, merged, with a manifest."""
    store = Store("results/small")
    for run in spec.runs:
        store.begin(run)
        finish(store, run)
    store.merge()
    store.write_manifest({"name": "small", "spec": SPEC})
    return store


def finish(store: Store, run: RunConfig, **changes: Any) -> None:
    row = failed_row(run, "") | {"status": "ok", "L": 2.5, "corpus_hash": "00e1"} | changes
    point = {"run_id": run.run_id, "S": 1, "D": 128, "C": 1e9, "L": 2.75, "L_train": 2.8}
    store.finish(row, [point, point | {"S": 4}])


def listing(folder: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Return mode, time of change and content of everything below a folder."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else b""
        what = path.read_bytes() if path.is_file() and not path.is_symlink() else what
        found[str(path)] = (status.st_mode, status.st_mtime_ns, what)
    return found


LOOKS = (
    ("status",),
    ("watch",),
    ("logs", "abc"),
    ("cancel",),
    ("clean", "--dry-run"),
    ("clean",),
    ("export", "--to", "tensorboard"),
)


# ------------------------------------------------------------------ ids, links, deletion


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/abs", "a/b", "a b", ".hidden", "a\n", "é"]
)
def test_ids_of_runs_are_plain_words(store: Store, name: str):
    assert not is_run_id(name)
    with pytest.raises(StoreError, match="a single plain word"):
        store.run_folder(name)


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
@pytest.mark.parametrize("kind", ["absolute", "parent", "empty row", "empty id"])
def test_ids_in_a_table_reach_nothing_outside(
    store: Store, tmp_path: Path, kind: str, command: tuple[str, ...], capsys
):
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "thesis.txt").write_text("three years")
    path = store.folder / "runs.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[0] = {"absolute": str(outside), "parent": "../../../mine", "empty id": ""}.get(kind, "")
    bad = "," * lines[0].count(",") if kind == "empty row" else ",".join(cells)
    path.write_text("\n".join([*lines, bad]) + "\n")
    before = listing(outside), listing(store.folder / "runs")
    assert call(command[0], store.folder, *command[1:]) == 2
    said = capsys.readouterr().err
    assert "runs.csv, line 5: " in said and len(said.splitlines()) == 1
    assert "Correct or restore the file" in said
    assert (listing(outside), listing(store.folder / "runs")) == before


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
@pytest.mark.parametrize("where", ["runs", "run", "tensorboard", "lock", "attempts", "result"])
def test_links_are_neither_written_nor_deleted_through(
    store: Store, spec: Spec, tmp_path: Path, where: str, command: tuple[str, ...]
):
    outside = tmp_path / "mine"
    outside.mkdir()
    for name in ("checkpoint.pt", "lock", "attempts.jsonl", "result.json", "notes.txt"):
        (outside / name).write_text("mine")
    first = store.run_folder(spec.runs[0].run_id)
    links = {
        "runs": (store.folder / "runs", outside),
        "run": (first, outside),
        "tensorboard": (store.folder / "tensorboard", outside),
        "lock": (store.folder / "lock", outside / "lock"),
        "attempts": (first / "attempts.jsonl", outside / "attempts.jsonl"),
        "result": (first / "result.json", outside / "result.json"),
    }
    place, target = links[where]
    if place.exists():
        place.rename(tmp_path / "moved")
    place.symlink_to(target)
    before = listing(outside)
    assert call(command[0], store.folder, *command[1:]) in (0, 2)
    assert listing(outside) == before


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the tensorboard package, with a writer that makes a file of events."""

    class Writer:
        def __init__(self, folder: str) -> None:
            Path(folder).mkdir(parents=True)
            self.path = Path(folder, "events")

        def add_event(self, event: object) -> None:
            self.path.write_text("events")

        def close(self) -> None:
            pass

    def some(**values: object) -> dict[str, object]:
        return values

    some.Value = some  # type: ignore[attr-defined]
    of = {
        "compat.proto.event_pb2": {"Event": some},
        "compat.proto.summary_pb2": {"Summary": some},
        "summary.writer.event_file_writer": {"EventFileWriter": Writer},
    }
    for name in ("", ".compat", ".compat.proto", ".summary", ".summary.writer"):
        monkeypatch.setitem(sys.modules, f"tensorboard{name}", types.ModuleType("tensorboard"))
    for name, values in of.items():
        module = types.SimpleNamespace(**values)
        monkeypatch.setitem(sys.modules, f"tensorboard.{name}", module)


@pytest.mark.parametrize("kind", ["id", "tensorboard", "run"])
def test_export_replaces_nothing_outside(
    store: Store, spec: Spec, tmp_path: Path, kind: str, tensorboard: None
):
    words = ("export", store.folder, "--to", "tensorboard", "--again")
    assert call(*words) == 0 and call(*words) == 0
    run_id = spec.runs[0].run_id
    outside = tmp_path / "mine"
    (outside / run_id).mkdir(parents=True)
    (outside / run_id / "thesis.txt").write_text("three years")
    place = store.folder / "tensorboard"
    if kind == "id":
        text = (store.folder / "runs.csv").read_text()
        (store.folder / "runs.csv").write_text(text.replace(run_id, str(outside / run_id)))
    else:
        place = place if kind == "tensorboard" else place / run_id
        place.rename(tmp_path / "moved")
        place.symlink_to(outside if kind == "tensorboard" else outside / run_id)
    before = listing(outside)
    assert call(*words) == (0 if kind == "run" else 2)
    assert listing(outside) == before
    assert kind != "run" or (place / "events").exists()  # the link was replaced


@pytest.mark.parametrize("place", ["report.html", "figures", "figures/kaplan2.pdf"])
def test_pages_and_figures_are_not_written_through_links(
    sweep, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
):
    folder, outside = tmp_path / "theirs", tmp_path / "mine"
    outside.mkdir()
    (outside / "thesis").write_text("three years")
    runs, curves = sweep()
    table.write(folder, runs.to_dict("records"), curves.to_dict("records"))
    target = outside if place == "figures" else outside / "thesis"
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(target)
    before = listing(outside)
    words = {"report.html": ("report", folder)}.get(place, ("figure", "kaplan2", folder))
    assert call(*words) == 2
    assert f"symbolic links are not followed: {folder / place}" in capsys.readouterr().err
    assert listing(outside) == before


@pytest.mark.parametrize("where", ["run", "config.json", "output.log", "checkpoint.pt.new", "lock"])
def test_a_run_is_not_trained_through_links(store: Store, spec: Spec, tmp_path: Path, where: str):
    outside = tmp_path / "mine"
    outside.mkdir()
    run = spec.runs[0]
    store.forget([run.run_id])
    folder = store.run_folder(run.run_id)
    if where == "run":
        folder.rename(tmp_path / "moved")
        folder.symlink_to(outside)
    else:
        (folder / where).unlink(missing_ok=True)
        (folder / where).symlink_to(outside / where)
    before = listing(outside)
    with pytest.raises(StoreError, match="symbolic links are not followed"):
        store.begin(run)
    with pytest.raises(StoreError, match="symbolic links"), store.lease(run.run_id):
        if where not in ("run", "lock"):
            store.begin(run)
    assert listing(outside) == before


def test_clean_keeps_what_it_does_not_know_and_every_result(store: Store, spec: Spec):
    folder = store.run_folder(spec.runs[0].run_id)
    (folder / "my notes.txt").write_text("why this run matters")
    (folder / "checkpoint.pt").write_text("x")
    clean(store.folder)
    left = {path.name for path in folder.iterdir()}
    assert left == {"config.json", "result.json", "my notes.txt"}
    assert len(Store(store.folder).rows()) == 3


def test_deletion_stays_below_the_folder(tmp_path: Path):
    folder, outside = tmp_path / "in", tmp_path / "out"
    for path in (folder / "a" / "b", outside):
        path.mkdir(parents=True)
        (path / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    for bad in (outside, folder, folder / "..", folder / "link" / "file", folder / "a/../../out"):
        with pytest.raises(OSError):
            remove(bad, folder)
    assert (outside / "file").exists()
    remove(folder / "link", folder)
    remove(folder / "a", folder)
    remove(folder / "gone", folder)
    assert (outside / "file").exists() and not list(folder.iterdir())


def test_leftovers_of_killed_processes_are_removed_and_files_of_living_ones_kept(
    store: Store, spec: Spec
):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run = spec.runs[0]
    store.forget([run.run_id])
    folder = store.run_folder(run.run_id)
    gone = [folder / f".config.json.{dead.pid}", store.folder / f".runs.csv.{dead.pid}"]
    kept = [folder / f".result.json.{os.getpid()}"]
    for path in (*gone, *kept):
        path.write_text("{")
    (store.folder / ".merge-abc").mkdir()
    with store.drive():
        store.remove_leftovers()
    assert not any(path.exists() for path in (*gone, store.folder / ".merge-abc"))
    assert all(path.exists() for path in kept)


# ------------------------------------------------------------------ code


EVIL = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
from scaling.model import Model, family
@family
class X(Model):
    def tensors(self):
        return {"mix.weight": (self.model.d_model, self.model.d_model)}
    def hidden(self, p, tokens_kbt):
        return self.embed(p, tokens_kbt).flatten(1, 2) @ p["mix.weight"]
"""


@pytest.fixture
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a model family, outside the folder, that leaves a mark when it runs."""
    path = tmp_path_factory.mktemp("elsewhere") / "evil.py"
    path.write_text(EVIL)
    return path


def executed(file: Path) -> bool:
    return file.with_name("executed").exists()


def own(text: str, path: object) -> str:
    return text.replace("n_layer = 1,", f'n_layer = 1, family = "{path}:X",')


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_commands_that_look_run_no_code(
    store: Store, spec: Spec, tmp_path: Path, evil: Path, command: tuple[str, ...]
):
    path = evil
    for horizon in ("tokens = 512", "tokens_per_parameter = 20"):
        text = own(SPEC, path).replace("tokens = 512", horizon)
        store.write_manifest({"name": "small", "spec": text})
        values = json.loads((store.run_folder(spec.runs[0].run_id) / "config.json").read_text())
        values["model.family"] = f"{path}:X"
        (store.run_folder(spec.runs[0].run_id) / "config.json").write_text(json.dumps(values))
        call(command[0], store.folder, *command[1:])
    assert not executed(evil)


def test_a_table_with_a_custom_family_runs_no_code(store: Store, tmp_path: Path, evil, capsys):
    import pandas as pd

    rows = table.read(store.folder).assign(family=f"{evil}:X")
    rows = pd.concat([rows.assign(run_id=rows.run_id + str(i), N=rows.N * i) for i in (1, 2, 3)])
    rows = rows.assign(D=10**8, C=6e8 * rows.N)
    rows.to_csv("theirs.csv", index=False)
    for params in ("N_kaplan", "N_head"):
        assert call("frontier", "theirs.csv", "--params", params, "--bootstrap", 0) == 2
        assert "cannot be known without running its code" in capsys.readouterr().err
    assert not executed(evil)


def test_a_spec_runs_the_code_beside_it_and_reports_it(store: Store, tmp_path: Path, evil, capsys):
    elsewhere = evil
    Path("theirs.toml").write_text(own(SPEC, elsewhere))
    for words in (["theirs.toml"], ["small.toml", "--set", f"model.family={elsewhere}:X"]):
        assert call("sweep", *words, "--dry-run") == 2
        said = capsys.readouterr().err
        assert f"--allow-code {elsewhere}" in said and len(said.splitlines()) == 1
    assert not executed(evil)
    beside = evil.with_name("theirs.toml")
    beside.write_text(own(SPEC, elsewhere))
    evil.with_name("link.py").symlink_to(tmp_path / "other.py")
    (tmp_path / "other.py").write_text(EVIL)
    assert Spec.from_toml(beside).by_id and executed(evil)
    beside.write_text(own(SPEC, elsewhere.with_name("link.py")))
    with pytest.raises(Exception, match="names code outside its own folder"):
        Spec.from_toml(beside)
    told: list[Path] = []
    spec = Spec.from_toml("theirs.toml", allow_code=[elsewhere], on_code=told.append)
    assert told == [elsewhere] and spec.allowed == (str(elsewhere),)


def test_a_law_that_a_spec_names_is_code(spec: Spec, evil):
    law = f"{evil}:X"
    Path("theirs.toml").write_text(
        f'{SPEC}[until]\ninterval = {{ law = "{law}", width = 0.1, seeds = 2 }}\n'
    )
    with pytest.raises(Exception, match="names code outside its own folder"):
        Spec.from_toml("theirs.toml")
    assert not executed(evil)


def test_status_knows_the_sizes_of_a_custom_family_without_its_code(here: Path, capsys):
    """Use separate processes: one counts the sizes, the other must read them."""
    (here / "evil.py").write_text(EVIL)
    text = own(SPEC, "evil.py").replace("tokens = 512", "tokens_per_parameter = 4")
    (here / "own.toml").write_text(text)
    sweep = [sys.executable, "-P", "-m", "scaling.cli", "sweep", "own.toml", "--in-process"]
    sweep += ["--set", "name=own", "--filter", "seed=0"]
    done = subprocess.run(sweep, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"running code from {here / 'evil.py'}" in done.stderr
    (here / "executed").unlink()
    status = [sys.executable, "-P", "-m", "scaling.cli", "status", "results/own"]
    done = subprocess.run(status, capture_output=True, text=True)
    assert done.stdout.startswith("own: 3 runs: 1 ok, 2 missing"), done.stderr
    assert not (here / "executed").exists()


# ------------------------------------------------------------------ results


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("row", "N"), "abc", "N='abc' must be a whole number"),
        (("row", "N"), True, "N=True must be a whole number"),
        (("row", "N"), 1.5, "N=1.5 must be a whole number"),
        (("row", "N"), 10**30, "N=1000.* must be a whole number below"),
        (("row", "N"), 0, "N=0 of an 'ok' run must be positive"),
        (("row", "seed"), 1e30, r"seed=1e\+30 must be a whole number"),
        (("row", "tied"), 1, "tied=1 must be true or false"),
        (("row", "L"), None, "L=None of an 'ok' run"),
        (("row", "L"), float("nan"), "L=None of an 'ok' run"),
        (("row", "L"), float("inf"), "L=None of an 'ok' run"),
        (("row", "L"), -1.0, "L=-1.0 of an 'ok' run"),
        (("row", "L"), [2.5], r"L=\[2.5\] must be a number"),
        (("row", "L"), 10**400, "L=1000.* must be a number"),
        (("row", "corpus"), {"a": 1}, "corpus=.* must be text"),
        (("row", "status"), "finished", "status='finished' is none of"),
        (("row", "status"), ["ok"], "status=.* must be text"),
        (("row", "run_id"), "../../x", "it belongs to run"),
        (("row",), [1, 2], "it lacks a row"),
        (("curve",), "abc", "its curve is not a list of points"),
        (("curve", 0, "L"), "abc", "L='abc' must be a number"),
        (("curve", 0, "S"), None, "point 0 of its curve has no S"),
        (("curve", 0, "run_id"), "another", "belongs to another run"),
        (("tests",), [{"corpus": 3}], "corpus=3 must be text"),
        (("format",), "1", "format='1' is not a whole number"),
        (("format",), True, "format=True is not a whole number"),
    ],
)
def test_a_result_with_wrong_values_is_set_aside_and_the_table_is_kept(
    store: Store, spec: Spec, place: tuple[Any, ...], value: object, said: str
):
    run = spec.runs[0]
    path = store.run_folder(run.run_id) / "result.json"
    values = json.loads(path.read_text())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(values))
    (store.folder / "runs.csv").unlink()
    again = Store(store.folder)
    assert set(again.rows()) == {run.run_id for run in spec.runs[1:]}
    assert path.with_name("result.json.bad-1").exists()
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(again.messages[0])
    again.merge()
    assert len(table.read(store.folder)) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"row":' * 50_000, "1" * 10_000, "\x00", "{}"])
def test_a_result_that_is_not_an_object_is_set_aside(store: Store, spec: Spec, text: str):
    path = store.run_folder(spec.runs[0].run_id) / "result.json"
    path.write_text(text)
    (store.folder / "runs.csv").unlink()
    assert len(Store(store.folder).rows()) == 2 and not path.exists()


def test_a_diverged_run_without_a_loss_is_a_result(store: Store, spec: Spec):
    run = spec.runs[0]
    store.forget([run.run_id])
    finish(store, run, status="diverged", L=None)
    path = store.run_folder(run.run_id) / "result.json"
    path.write_text(path.read_text().replace('"L": null', '"L": NaN'))
    again = Store(store.folder)
    assert again.rows()[run.run_id]["status"] == "diverged" and not again.messages
    again.merge()
    assert table.read(store.folder).status.value_counts().to_dict() == {"ok": 2, "diverged": 1}


# ------------------------------------------------------------------ derived files


def sweep_again(*words: str) -> int:
    return call("sweep", "small.toml", "--in-process", *words)


def table_of(store: Store) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = table.read(store.folder).drop(columns="seconds")
    curves = table.read_curves(store.folder)
    return rows.to_dict("records"), curves[["run_id", "S", "L"]].to_dict("records")


@pytest.mark.parametrize("name", ["runs.csv", "curves.parquet", "tests.parquet", ".index.json"])
@pytest.mark.parametrize("damage", ["deleted", "torn", "text"])
def test_derived_files_are_written_again(store: Store, name: str, damage: str):
    before = table_of(store)
    path = store.folder / name
    if damage == "deleted":
        path.unlink()
    elif damage == "torn" and name != "runs.csv":
        path.write_bytes(path.read_bytes()[:-20])
    elif name != "runs.csv":
        path.write_text("not parquet")
    assert sweep_again() == 0
    assert str(table_of(store)) == str(before)
    assert not table.read_tests(store.folder).size
    assert not Store(store.folder).merge_is_due()


def test_damaged_curves_do_not_end_a_sweep_with_a_run_missing(here: Path, spec: Spec, capsys):
    assert sweep_again("--filter", "seed<2") == 0
    folder = Path("results/small")
    (folder / "curves.parquet").write_bytes(b"PAR1 torn")
    assert sweep_again() == 0
    assert "curves.parquet is damaged" in capsys.readouterr().out
    assert (folder / "curves.parquet.bad-1").read_bytes() == b"PAR1 torn"
    assert table.read_curves(folder).run_id.nunique() == 3 == len(table.read(folder))


def test_an_edited_row_does_not_replace_a_measurement(
    store: Store, spec: Spec, capsys: pytest.CaptureFixture[str]
):
    path = store.folder / "runs.csv"
    path.write_text(path.read_text().replace(",2.5,", ",1.5,", 1))
    edited = path.read_bytes()
    again = Store(store.folder)
    assert {row["L"] for row in again.rows().values()} == {2.5}
    assert "1 row differs from the result of its run" in again.messages[0]
    assert "L=1.5 in the table and 2.5 as measured" in again.messages[0]
    assert path.read_bytes() == edited  # reading changes nothing
    assert call("status", store.folder) == 0
    assert "1 row differs" in capsys.readouterr().err
    assert sweep_again() == 0
    assert "1 row differs" in capsys.readouterr().out
    assert set(table.read(store.folder).L) == {2.5}
    assert sweep_again() == 0
    assert "differs" not in capsys.readouterr().out


def test_a_table_without_its_raw_runs_is_left_as_it_is(store: Store):
    import shutil

    shutil.rmtree(store.folder / "runs")
    (store.folder / ".index.json").unlink()
    before = listing(store.folder)
    assert sweep_again() == 0
    after = listing(store.folder)
    for name in ("runs.csv", "curves.parquet", "tests.parquet", "manifest.json"):
        assert after[str(store.folder / name)] == before[str(store.folder / name)]


# ------------------------------------------------------------------ damage without a traceback


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[1]"),
        ("manifest.json", '{"spec": 3, "sessions": 4, "name": ["x"]}'),
        ("manifest.json", '{"sessions": [{"wall_seconds": "long"}, 7]}'),
        ("run/config.json", "[1, 2]"),
        ("run/config.json", '{"tag": 7}'),
        ("run/progress.json", '{"step": "many", "steps": null, "D": [1], "L": "x"}'),
        ("run/progress.json", '{"step": 3}'),
        ("run/attempts.jsonl", '[1]\n"x"\n{"event": 7}\n'),
        ("rounds/0001.json", "[]"),
        ("rounds/abcd.json", "[]"),
        ("rungs/x/y.json", "[]"),
    ],
)
def test_damaged_files_give_no_traceback(
    here: Path, store: Store, spec: Spec, name: str, text: str, capsys
):
    run = spec.runs[0]
    store.forget([run.run_id])
    path = store.folder / name.replace("run/", f"runs/{run.run_id}/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with store.lease(run.run_id):
        for command in LOOKS[:5]:
            assert call(command[0], store.folder, *command[1:]) in (0, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err and "bug" not in said.err
    if name == "manifest.json":
        assert sweep_again("--set", "data.corpus=corpus.txt") in (0, 2)
        assert "bug" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (("seed", "inf"), "seed='inf' is not a whole number"),
        (("seed", "1e30"), "seed='1e30' is not a whole number"),
        (("N", "many"), "N='many' is not a whole number"),
        (("L", "low"), "L='low' is not a number"),
        (("tied", "perhaps"), "tied='perhaps' is not True or False"),
        (("status", "finished"), "status='finished' is none of ok"),
    ],
)
def test_invalid_cells_are_named(store: Store, cell: tuple[str, str], said: str, capsys):
    path = store.folder / "runs.csv"
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    lines[2][lines[0].index(cell[0])] = cell[1]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    assert call("status", store.folder) == 2
    err = capsys.readouterr().err
    assert f"runs.csv, line 3: {said}" in err and len(err.splitlines()) == 1


def test_a_duplicate_row_is_named(store: Store, capsys):
    path = store.folder / "runs.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert call("status", store.folder) == 2
    assert "runs.csv, line 5: run" in (err := capsys.readouterr().err) and "is in line 2" in err


def test_temporary_files_are_not_written_through_links(tmp_path: Path):
    target = tmp_path / "mine"
    target.write_text("mine")
    for kind in ("link", "pipe"):
        temporary = tmp_path / f".a.{os.getpid()}"
        temporary.symlink_to(target) if kind == "link" else os.mkfifo(temporary)
        write_atomic(tmp_path / "a", b"ours")
        assert (tmp_path / "a").read_text() == "ours" and target.read_text() == "mine"
