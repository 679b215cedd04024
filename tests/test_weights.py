"""Weights of finished runs: what is written, what is refused, and how sweeps keep them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from small import SMALL, call

from scaling import Execution, train, train_pack
from scaling import weights as kept
from scaling.config import RunConfig, from_dict, override
from scaling.data.corpus import prepare
from scaling.data.tokenizer import Tokenizer
from scaling.data.windows import held_out_windows
from scaling.errors import ConfigError, WeightsError
from scaling.model import build
from scaling.training.evaluate import evaluate
from scaling.weights import RECORD, TENSORS, Weights, find, load, save
from sweeps import Sweep, kept_weights
from sweeps.control import clean
from sweeps.spec import Spec
from sweeps.store import Store

KEEP = Execution(device="cpu", keep_weights=True)
BYTES = Tokenizer.of(None, 256)


@pytest.fixture
def short(run: RunConfig, own_cache: Path) -> RunConfig:
    return override(run, {"model.n_layer": 1, "tokens": 8 * 256, "eval.points": 2})


def measured(weights: Weights) -> float:
    """Return the test loss of stored weights, from the files of their config alone."""
    run = weights.run
    files = prepare(run.data)
    windows = held_out_windows(files.test, run.eval.test_tokens, run.model.n_ctx)
    lengths = torch.from_numpy(files.token_bytes())
    (found,) = evaluate(weights.model, weights.flat_1p, torch.from_numpy(windows), lengths)
    return found.L


def stored(folder: Path, **changes: object) -> Path:
    """Store the initial weights of a tiny model, whose run has never been trained."""
    values = {"model": {"n_layer": 1, "d_model": 8, "n_head": 1, "n_ctx": 16}}
    run = from_dict(values | {"data.tokenizer": "bytes", "tag": "tiny"} | changes)
    model = build(run.model, 256)
    folder.mkdir(parents=True, exist_ok=True)
    row = {"run_id": run.run_id, "L": 5.0, "S": run.S}
    flat_p = model.init([0])[0]
    save(folder, run=run, model=model, flat_p=flat_p, tokenizer=BYTES, row=row)
    return folder


# ------------------------------------------------------------------ tokenizer


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe-400"])
def test_a_tokenizer_reads_text_as_training_did(short: RunConfig, tokenizer: str):
    files = prepare(override(short, {"data.tokenizer": tokenizer}).data)
    known = files.tokenizer
    ids = np.fromfile(files.test, dtype=np.uint16)[:4000].tolist()
    text = known.decode(ids)
    documents = [i for i in ids if i != known.end_of_text]
    assert known.decode(documents) == text and len(text) > 1000
    # Training encodes blocks of paragraphs; inside one, the ids are those of the text.
    assert known.encode(text)[:500] == documents[:500]
    assert Tokenizer.from_record(json.loads(json.dumps(known.record()))) == known
    assert known.end_of_text == (0 if tokenizer == "bytes" else 399)


def test_tokenizers_are_told_apart_by_their_hash(short: RunConfig):
    first, second = (
        prepare(override(short, {"data.tokenizer": f"bpe-{n}"}).data).tokenizer for n in (300, 400)
    )
    assert len({first.hash, second.hash, BYTES.hash}) == 3
    with pytest.raises(ValueError, match="hash"):
        Tokenizer.from_record(first.record() | {"tokens": second.record()["tokens"][:298]})


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_bytes_decode_to_the_text_that_they_encode(text: str):
    clean_text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert BYTES.decode(BYTES.encode(text)) == clean_text.replace("\0", "")


def test_end_of_text_decodes_to_nothing_and_other_ids_are_refused():
    assert BYTES.decode([0, 72, 0, 105]) == "Hi"
    with pytest.raises(ValueError, match="token 256 is outside the vocabulary of 256"):
        BYTES.decode([256])


# ------------------------------------------------------------------ what training writes


def test_stored_weights_have_the_loss_of_the_row(short: RunConfig, tmp_path: Path):
    result = train(short, execution=KEEP, folder=tmp_path)
    weights = load(tmp_path)
    assert weights.run == short and weights.run.run_id == result.row["run_id"]
    assert measured(weights) == result.row["L"] == weights.row["L"]
    for name in ("run_id", "N", "D", "C", "status", "corpus_hash", "bits_per_byte"):
        assert weights.row[name] == result.row[name]
    assert weights.tokenizer == prepare(short.data).tokenizer and not weights.mean
    assert weights.flat_1p.dtype == torch.float32 and weights.flat_1p.shape == (1, weights.model.P)


def test_the_file_holds_one_named_tensor_for_each_tensor_of_the_model(tmp_path: Path):
    folder = stored(tmp_path)
    weights = load(folder)
    named = weights.model.named(weights.flat_1p)
    assert (folder / TENSORS).stat().st_mode == (folder / RECORD).stat().st_mode
    tensors = load_file(folder / TENSORS)
    assert tensors.keys() == named.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        assert torch.equal(torch.from_numpy(tensor), named[name][0])


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_weights_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, seed: int):
    folder = stored(tmp_path_factory.mktemp("run"))
    first = load(folder)
    flat_p = torch.randn(first.model.P, generator=torch.Generator().manual_seed(seed))
    flat_p[0], flat_p[1] = -0.0, 1e-42
    save(folder, run=first.run, model=first.model, flat_p=flat_p, tokenizer=BYTES, row={})
    again = load(folder).flat_1p[0]
    assert torch.equal(again.view(torch.int32), flat_p.view(torch.int32))


def test_packs_and_branches_of_a_trunk_keep_the_weights_of_each_run(
    short: RunConfig, tmp_path: Path
):
    wsd = {"optim.schedule": "wsd", "optim.warmup_tokens": 512}
    runs = [override(short, wsd | {"tokens": n * 256}) for n in (6, 8, 10)]
    runs.append(override(short, wsd | {"seed": 1}))
    folders = [tmp_path / str(i) for i in range(4)]
    results = train_pack(runs, execution=KEEP, folders=folders)
    assert max(r.row["D_shared"] for r in results) > 0 and max(r.row["pack"] for r in results) > 1
    for result, folder in zip(results, folders, strict=True):
        weights = load(folder)
        assert weights.run == result.config
        assert measured(weights) == result.row["L"]


def test_a_running_mean_is_what_is_kept(short: RunConfig, tmp_path: Path):
    means = [override(short, {"optim.ema": 0.9}), override(short, {"seed": 2})]
    folders = [tmp_path / "mean", tmp_path / "last"]
    for run, folder in zip(means, folders, strict=True):
        result = train(run, execution=KEEP, folder=folder)
        assert measured(load(folder)) == result.row["L"]
    assert load(folders[0]).mean and not load(folders[1]).mean


def test_with_patience_the_best_evaluation_is_kept(short: RunConfig, tmp_path: Path):
    run = override(short, {"optim.lr": 0.3, "tokens": 60 * 256, "eval.points": 20})
    run = override(run, {"eval.patience": 3, "optim.schedule": "constant"})
    result = train(run, execution=KEEP, folder=tmp_path)
    assert result.row["S"] < result.curve[-1]["S"]
    assert measured(load(tmp_path)) == result.row["L"]
    assert load(tmp_path).row["S"] == result.row["S"]


def test_a_run_that_diverges_or_is_given_up_has_no_weights(short: RunConfig, tmp_path: Path):
    stored(tmp_path)  # left by an earlier training
    run = override(short, {"optim.lr": 1e6, "optim.clip": None, "optim.schedule": "constant"})
    assert train(run, execution=KEEP, folder=tmp_path).status == "diverged"
    assert not kept.has_weights(tmp_path)
    patient = override(short, {"eval.points": 8})
    stopped = train(
        patient,
        execution=KEEP,
        folder=tmp_path,
        give_up=lambda evaluated: {run.run_id: "enough" for run, _ in evaluated},
    )
    assert stopped.status == "stopped" and not kept.has_weights(tmp_path)


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_keep_whole_weights(short: RunConfig, tmp_path: Path, shard: bool):
    run = override(short, {"optim.ema": 0.9})
    execution = Execution(device="cpu", devices=2, shard=shard, keep_weights=True)
    result = train(run, execution=execution, folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [RECORD, TENSORS]
    assert measured(load(tmp_path)) == pytest.approx(result.row["L"], rel=1e-6)


def test_runs_are_the_same_with_and_without_their_weights(short: RunConfig, tmp_path: Path):
    plain = train(short, execution=Execution(device="cpu"), folder=tmp_path / "plain")
    with_weights = train(short, execution=KEEP, folder=tmp_path / "kept")
    assert plain.row["run_id"] == with_weights.row["run_id"]
    assert plain.row["L"] == with_weights.row["L"]
    assert list((tmp_path / "plain").iterdir()) == []


def test_weights_need_a_folder(short: RunConfig, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match="--folder"):
        train(short, execution=KEEP)
    assert call("train", "--execution.keep-weights") == 2
    assert "give one with --folder" in capsys.readouterr().err


# ------------------------------------------------------------------ what reading refuses


def damage(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "flipped":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 64]) + data[-8:])
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        values = json.loads(data)
        exec(kind, {}, {"values": values})
        path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", [RECORD, TENSORS])
@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "flipped", "pipe", "folder"])
def test_damaged_weights_are_refused_in_one_line(tmp_path: Path, name: str, kind: str):
    folder = stored(tmp_path)
    damage(folder, name, kind)
    with pytest.raises(WeightsError) as refused:
        load(folder)
    said = str(refused.value)
    assert str(folder) in said and "\n" not in said and name in said


@pytest.mark.parametrize(
    "change",
    [
        "values['format'] = 2",
        "values['format'] = '1'",
        "del values['config']",
        "values['config'] = []",
        "values['config']['model.new_field'] = 1",
        "values['config']['model.d_model'] = 16",
        "values['config']['model.n_layer'] = 'two'",
        "values['tokenizer']['hash'] = 'x'",
        "values['tokenizer']['vocab_size'] = 300",
        "values['config']['data.tokenizer'] = 'bpe-300'",
        "values['row'] = 3",
        "values['sha256'] = None",
    ],
)
def test_a_record_that_does_not_fit_is_refused(tmp_path: Path, change: str):
    folder = stored(tmp_path)
    damage(folder, RECORD, change)
    with pytest.raises(WeightsError, match=r"damaged|another version"):
        load(folder)


def test_another_version_says_so(tmp_path: Path):
    damage(stored(tmp_path), RECORD, "values['format'] = 2")
    with pytest.raises(WeightsError, match=r"format 2; this one reads 1.*Update the package"):
        load(tmp_path)


def test_a_run_without_weights_says_how_to_keep_them(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"holds no weights.*--set execution.keep_weights=true"):
        load(tmp_path)
    with pytest.raises(WeightsError, match=r"holds no weights.*--execution.keep-weights"):
        find(tmp_path)
    with pytest.raises(WeightsError, match="is not there"):
        load(tmp_path / "gone")


def test_a_family_in_a_foreign_record_runs_only_if_it_is_allowed(own_family: Path, tmp_path: Path):
    folder = stored(tmp_path / "run")
    damage(folder, RECORD, f"values['config']['model.family'] = {f'{own_family}:Mean'!r}")
    own_family.write_text("raise SystemExit('executed')")
    with pytest.raises(WeightsError, match=r"runs only if you allow it.*--allow-code"):
        load(folder)


def test_a_custom_family_that_was_trained_here_is_loaded(
    short: RunConfig, own_family: Path, tmp_path: Path
):
    run = override(short, {"model.family": f"{own_family}:Mean", "model.tied": False})
    result = train(run, execution=KEEP, folder=tmp_path / "run")
    assert measured(load(tmp_path / "run")) == result.row["L"]


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path):
    target = tmp_path / "mine"
    target.write_text("thesis")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (TENSORS, RECORD):
        (folder / name).symlink_to(target)
    kept.discard_unless(folder, None)
    assert not any(folder.iterdir()) and target.read_text() == "thesis"
    for name in (TENSORS, RECORD):
        (folder / name).symlink_to(target)
    stored(folder)
    assert target.read_text() == "thesis" and load(folder).run.tag == "tiny"


def test_a_run_is_found_by_prefix_or_tag(tmp_path: Path):
    for name in ("abc1", "abd2", "xyz3"):
        stored(tmp_path / "runs" / name, tag=name[::-1])
    (tmp_path / "runs" / "none").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "runs" / "abc1")
    runs = tmp_path / "runs"
    assert find(tmp_path) == [runs / "abc1", runs / "abd2", runs / "xyz3"]
    assert find(str(tmp_path), "abc") == [runs / "abc1"] == find(tmp_path, "1cba")
    assert find(runs / "xyz3") == [runs / "xyz3"]
    with pytest.raises(WeightsError, match="matches 2 runs: abc1, abd2"):
        find(tmp_path, "ab")
    with pytest.raises(WeightsError, match="matches no run with weights"):
        find(tmp_path, "q")


# ------------------------------------------------------------------ sweeps


WITH_WEIGHTS = SMALL.replace("[axes]", "[execution]\nkeep_weights = true\n[axes]")


def sweep(*words: object, spec: str = WITH_WEIGHTS) -> int:
    Path("small.toml").write_text(spec)
    return call("sweep", "small.toml", "--in-process", *words)


def test_keeping_weights_changes_no_run(here: Path):
    plain, with_weights = Spec.from_text(SMALL), Spec.from_text(WITH_WEIGHTS)
    changed = Spec.from_text(SMALL, changes={"execution.keep_weights": True})
    assert plain.by_id == with_weights.by_id == changed.by_id
    assert (plain.keep_weights, with_weights.keep_weights, changed.keep_weights) == (0, 1, 1)
    off = Spec.from_text(WITH_WEIGHTS, changes={"execution.keep_weights": False})
    assert not off.keep_weights


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[execution]\nthreads = 2", "cannot set execution.threads.*options of the command"),
        ("[execution]\nkeep_weights = 1", "keep_weights=1 must be true or false"),
        ("execution = 3", "execution=3 must be a table"),
    ],
)
def test_a_wrong_execution_in_a_spec_is_named(text: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        Spec.from_text(f"{SMALL}{text}" if text.startswith("[") else f"{text}\n{SMALL}")


def test_a_sweep_keeps_the_weights_of_its_runs(here: Path, capsys: pytest.CaptureFixture[str]):
    assert sweep() == 0
    store = Store("results/small")
    rows = store.rows()
    folders = find("results/small")
    assert [folder.name for folder in folders] == sorted(rows)
    for folder in folders:
        assert measured(load(folder)) == rows[folder.name]["L"]
        assert not (folder / "checkpoint.pt").exists()
    clean("results/small")
    assert find("results/small") == folders  # weights are results
    assert call("status", "results/small") == 0
    assert "no weights" not in capsys.readouterr().out


def test_finished_runs_without_weights_are_named_and_trained_again_on_request(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    assert sweep("--set", "execution.keep_weights=false") == 0
    assert sweep("--filter", "seed=0", "--set", "name=part") == 0
    part = find("results/part")
    capsys.readouterr()
    before = (Path("results/small/runs.csv")).stat().st_mtime_ns
    for words in (["--dry-run"], []):
        assert sweep(*words) == 0
        said = capsys.readouterr().out
        assert "2 finished runs have no weights" in said
        assert "--set name=NEW --reuse results/small" in said
    assert (Path("results/small/runs.csv")).stat().st_mtime_ns == before
    both = ("--reuse", "results/small", "--reuse", "results/part")
    assert sweep("--set", "name=new", *both) == 0
    said = capsys.readouterr().out
    assert "2 finished runs in results/small have no weights and are not reused" in said
    assert "1 finished runs taken from" in said and "1 of 2 runs to train" in said
    assert len(find("results/new")) == 2
    same = find("results/new", part[0].name)[0]
    assert (same / TENSORS).read_bytes() == (part[0] / TENSORS).read_bytes()
    assert measured(load(same)) == Store("results/new").rows()[same.name]["L"]


def test_status_names_finished_runs_without_weights(here: Path, capsys):
    assert sweep() == 0
    shutil.rmtree(find("results/small")[0])
    assert call("status", "results/small") == 0
    assert "1 finished run has no weights" in capsys.readouterr().out


def test_clean_removes_weights_only_when_asked_to(here: Path, capsys):
    assert sweep() == 0
    capsys.readouterr()
    assert call("clean", "results/small", "--weights", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.count(TENSORS) == said.count(RECORD) == 2 and "would be removed" in said
    assert len(find("results/small")) == 2
    assert call("clean", "results/small", "--weights") == 0
    with pytest.raises(WeightsError):
        find("results/small")
    rows = Store("results/small").rows()
    assert len(rows) == 2 and all(row["status"] == "ok" for row in rows.values())


def test_clean_deletes_no_weights_through_links(here: Path, tmp_path: Path):
    assert sweep() == 0
    first, second = find("results/small")
    outside = tmp_path / "mine"
    first.rename(outside)
    first.symlink_to(outside)
    for name in (TENSORS, RECORD):
        (second / name).rename(outside / f"other-{name}")
        (second / name).symlink_to(outside / f"other-{name}")
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    clean("results/small", weights=True)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    assert not (second / TENSORS).is_symlink() and first.is_symlink()


def test_a_store_on_a_uri_carries_the_weights(here: Path, tmp_path: Path):
    # file:// means a local folder to a store, so another scheme stands in for an object store.
    uri = f"local://{tmp_path}/bucket"
    # pyarrow does not know it and asks fsspec, which does.
    spec = Spec.from_text(WITH_WEIGHTS)
    Sweep(spec, uri).run(in_process=True, quiet=True)
    objects = sorted(path.name for path in (tmp_path / "bucket/small/weights").iterdir())
    assert objects == sorted(f"{i}.{e}" for i in spec.by_id for e in ("json", "safetensors"))
    rows = Store(f"{uri}/small").rows()
    # Another machine: its cache has neither results nor weights.
    shutil.rmtree(Store(f"{uri}/small").folder)
    store = Store(f"{uri}/small")
    assert kept_weights.with_weights(store, rows) == set(rows)
    folder = kept_weights.local_folder(f"{uri}/small")
    for run_folder in find(folder):
        assert measured(load(run_folder)) == rows[run_folder.name]["L"]
    removed = clean(f"{uri}/small", weights=True)
    assert sum(path.name == TENSORS for path in removed) == 2
    assert list((tmp_path / "bucket/small/weights").iterdir()) == []
    assert not kept_weights.with_weights(Store(f"{uri}/small"), rows)


def test_a_file_uri_is_a_local_folder_with_weights(here: Path, tmp_path: Path):
    Sweep(Spec.from_text(WITH_WEIGHTS), f"file://{tmp_path}/there").run(in_process=True, quiet=True)
    assert len(find(tmp_path / "there/small")) == 2
