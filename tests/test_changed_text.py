"""Texts that change: during a sweep, between two calls, and within a table."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from small import SMALL

import sweeps.driver
from analysis import load
from analysis.tables.load import check_one_text
from scaling import table
from scaling.cli import main
from scaling.config import DataConfig, RunConfig, override
from scaling.data import corpus, sources
from scaling.errors import ConfigError, TableError
from scaling.execution import Execution
from scaling.run_progress import CHECKPOINT
from scaling.training.train import Interrupted, train
from sweeps import Sweep
from sweeps.errors import StoreError

ROOT = Path(__file__).parents[1]

SPEC = SMALL.replace("[0, 1]", "[0, 1, 2]")
OTHER = SPEC.replace("points = 4", 'points = 4, others = "other.txt"')
BYTES = DataConfig(corpus="corpus.txt", tokenizer="bytes")


def turned(path: str | Path) -> None:
    """Change a text but not its size, by swapping upper and lower case."""
    Path(path).write_text(Path(path).read_text("utf-8").swapcase(), "utf-8")


@pytest.fixture(autouse=True)
def texts(here: Path) -> None:
    shutil.copy("corpus.txt", "other.txt")
    turned("other.txt")


def run(text: str = SPEC, **options) -> pd.DataFrame:
    Path("small.toml").write_text(text)
    options = {"packs": False} | options
    it = Sweep.from_toml("small.toml")
    return it.run(in_process=True, console=Console(file=io.StringIO()), **options)


def after_the_first(change: str):
    """Return an `on_finish` that changes a file when the first run ends."""
    seen = []

    def finished(result) -> None:
        if not seen:
            turned(change)
        seen.append(result)

    return finished


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(("spec", "changed"), [(SPEC, "corpus.txt"), (OTHER, "other.txt")])
def test_a_sweep_ends_when_its_text_changes_and_resumes_when_it_is_restored(spec, changed, packs):
    spec = spec.replace("seed = [0, 1, 2]", "seed = [0, 1, 2]\nmodel.d_model = [8, 16]")
    before = Path(changed).read_bytes()
    with pytest.raises(
        ConfigError, match=r"the text of corpus .*changed since the sweep began"
    ) as e:
        run(spec, on_finish=after_the_first(changed), packs=packs)
    assert changed in str(e.value) and "\n" not in str(e.value)
    was, now = (word for word in str(e.value).split() if len(word) == 16)
    assert was != now
    runs = table.read("results/small")
    assert 1 <= len(runs) < 6 and runs.corpus_hash.nunique() == 1
    with pytest.raises(StoreError, match="on another text"):
        run(spec)
    Path(changed).write_bytes(before)
    again = run(spec)
    assert len(again) == 6 and again.corpus_hash.nunique() == 1
    assert set(runs.run_id) <= set(again.run_id)


def test_a_checkpoint_is_kept_if_the_text_changed(run: RunConfig, tmp_path):
    Path("small.toml").write_text(SPEC.replace("[0, 1, 2]", "[0]"))
    it = Sweep.from_toml("small.toml")
    (one,) = it.spec.runs
    steps = iter(range(100))
    folder = it.store.begin(one)
    with pytest.raises(Interrupted):
        train(
            one,
            execution=Execution(device="cpu"),
            folder=folder,
            should_stop=lambda: next(steps) > 3,
        )
    saved = (folder / CHECKPOINT).read_bytes()
    prepare = sweeps.driver.prepare

    def then_change(*arguments, **options):
        found = prepare(*arguments, **options)
        turned("corpus.txt")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps.driver, "prepare", then_change)
        with pytest.raises(ConfigError, match="changed since the sweep began"):
            it.run(in_process=True, quiet=True)
    assert (folder / CHECKPOINT).read_bytes() == saved and it.store.rows() == {}
    turned("corpus.txt")
    assert len(it.run(in_process=True, quiet=True)) == 1
    assert not list(folder.glob(f"{CHECKPOINT}.*"))  # it was resumed


def test_an_adaptive_sweep_ends_when_its_text_changes():
    until = SPEC.replace("seed = [0, 1, 2]", "optim.lr = [1e-3, 3e-3]") + (
        "[until]\nlr = { within = 1.7 }\n"
    )
    with pytest.raises(ConfigError, match="changed since the sweep began"):
        run(until, on_finish=after_the_first("corpus.txt"))
    assert table.read("results/small").corpus_hash.nunique() == 1


def test_a_sweep_under_ray_ends_when_its_text_changes():
    Path("small.toml").write_text(SPEC)
    code = """
import sys
from pathlib import Path
from sweeps import Sweep
def change(finished):
    text = Path("corpus.txt").read_text("utf-8")
    Path("corpus.txt").write_text(text.swapcase(), "utf-8")
try:
    Sweep.from_toml("small.toml").run(workers=1, packs=False, quiet=True, on_finish=change)
except ValueError as error:
    sys.exit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1 and "changed since the sweep began" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    runs = table.read("results/small")
    assert len(runs) == 1 and runs.corpus_hash.nunique() == 1


def test_a_single_run_raises_the_same_error_and_trains_without_a_record(run: RunConfig):
    files = corpus.prepare(run.data)
    other = override(run, {"eval.others": "other.txt", "tokens": 2560})
    known = corpus.hashes(run.data, files, {"other.txt": files.test_of("other.txt")})
    one = Execution(device="cpu")
    assert train(other, execution=one, texts=known).status == "ok"
    for name in known:
        with pytest.raises(ConfigError, match="hash 0000000000000000 and has"):
            train(other, execution=one, texts=known | {name: "0" * 64})
    assert train(other, execution=one).status == "ok"


def test_a_changed_text_is_read_again_even_with_equal_size_and_modification_time():
    path = Path("corpus.txt")
    first = corpus.prepare(BYTES)
    stat = path.stat()
    turned(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    second = corpus.prepare(BYTES)
    assert second.hash != first.hash
    turned(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert corpus.prepare(BYTES) == first


def test_changes_within_one_clock_tick_are_noticed():
    path = Path("corpus.txt")
    texts = [path.read_bytes(), path.read_bytes().swapcase()]
    found = []
    for i in range(40):
        path.write_bytes(texts[i % 2])
        os.utime(path, ns=(0, 0))
        found.append(corpus.prepare(BYTES).hash)
    assert found == found[:2] * 20 and found[0] != found[1]


def test_no_token_files_are_made_from_a_text_that_changes_while_it_is_read(monkeypatch):
    read = sources._local

    def late(path: Path):
        turned(path)
        return read(path)

    data = DataConfig(corpus="corpus.txt", tokenizer="bpe-300")
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_local", late)
        with pytest.raises(ConfigError, match="changed while it was read"):
            corpus.prepare(data)
    changed = corpus.prepare(data)
    turned("corpus.txt")
    assert corpus.prepare(data).hash != changed.hash


# ------------------------------------------------------------------ tables


@pytest.fixture
def mixed(sweep) -> Path:
    """A results folder with two texts of one corpus, as older versions wrote it."""
    runs, curves = sweep()
    first = runs.index < 20
    runs = runs.assign(corpus="my.txt", tokenizer="bytes", max_bytes=None)
    runs["corpus_hash"] = ["a" * 16 if one else "b" * 16 for one in first]
    folder = Path("results/mixed")
    table.write(folder, runs.to_dict("records"), curves.to_dict("records"))
    return folder


def test_a_table_with_two_texts_is_refused_unless_one_is_chosen(mixed, capsys):
    said = (
        r"corpus 'my.txt' \(bytes\) were trained on different texts, by their corpus_hash: "
        r"'a{16}' \(20 runs\), 'b{16}' \(10 runs\)"
    )
    for options in ({}, {"curves": True}):
        with pytest.raises(TableError, match=said):
            load(mixed, **options)
    runs = load(mixed, mixed=True)
    with pytest.raises(TableError, match=said):
        check_one_text(runs)
    assert len(load(runs[runs.corpus_hash == "a" * 16])) == 20
    for command in (
        ["fit", str(mixed), "--bootstrap", "0"],
        ["fit", str(mixed), "--bootstrap", "0", "--where", "D > 0"],
        ["plan", str(mixed), "--flops", "1e18"],
        ["frontier", str(mixed)],
        ["summary", str(mixed)],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert "different texts" in err and len(err.splitlines()) == 1
    where = f"corpus_hash == '{'a' * 16}'"
    assert f'--where "{where}"' in err
    main(["fit", str(mixed), "--bootstrap", "0", "--where", where, "--json"])
    assert json.loads(capsys.readouterr().out)["n"] == 20


def test_a_table_may_hold_different_corpora_and_rows_that_do_not_count(mixed):
    runs = load(mixed, mixed=True)
    second = runs.corpus_hash == "b" * 16
    for column, value in (("corpus", "your.txt"), ("tokenizer", "bpe-1024"), ("max_bytes", 100)):
        apart = runs.astype({"max_bytes": object})
        apart.loc[second, column] = value
        load(apart)
    load(runs.assign(status=["failed" if other else "ok" for other in second]))
    load(runs.assign(corpus_hash=[None if other else "a" for other in second]))
    load(runs.drop(columns=["corpus"]))  # who knows of what these are the hashes


@pytest.mark.parametrize(
    "folder", sorted(p.parent for p in (ROOT / "results").glob("*/runs.csv")), ids=lambda p: p.name
)
def test_each_committed_result_uses_one_text(folder):
    runs = table.read(folder)
    if "command" in runs and runs["command"].fillna("").ne("").all():
        pytest.skip("a command says nothing of its text")
    assert {"corpus", "tokenizer", "max_bytes", "corpus_hash"} <= set(runs.columns)
    assert runs.corpus_hash.notna().all()
    load(folder, need=("L",))
    load(folder, need=("L",), curves=True)
