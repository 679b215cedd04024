"""Runs that begin from the weights of another run: their identity, numbers and errors."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import call

from scaling import Execution, init_from, train, train_pack, weights
from scaling.command_run import CommandRun
from scaling.config import DataConfig, RunConfig, canonical, override
from scaling.data.corpus import prepare
from scaling.errors import ConfigError
from scaling.model_config import ModelConfig
from scaling.recorded_run import recorded
from scaling.training.train import Interrupted
from sweeps.spec import Spec

KEEP = Execution(device="cpu", keep_weights=True)
CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> dict[str, str]:
    other = tmp_path_factory.mktemp("texts") / "other.txt"
    words = text_file.read_text("utf-8").split(" ")
    other.write_text(" ".join(reversed(words)), "utf-8")
    return {"first": str(text_file), "other": str(other)}


@pytest.fixture
def parent(run: RunConfig, own_cache: Path, tmp_path: Path) -> tuple[Path, RunConfig, float]:
    """The folder, config and loss of a trained run with weights."""
    pretrained = override(run, {"model.n_layer": 1, "tokens": 16 * 256, "eval.points": 2})
    folder = tmp_path / "pretrained" / "runs" / pretrained.run_id
    result = train(pretrained, execution=KEEP, folder=folder)
    return folder, pretrained, result.row["L"]


def child_of(folder: Path, run: RunConfig, **changes: object) -> RunConfig:
    values = {"init": str(folder), "tokens": 8 * 256, "eval.points": 2} | changes
    return init_from.resolved(override(run, values))


def test_a_run_begins_with_the_loss_of_its_parent(parent):
    folder, run, L = parent
    child = child_of(folder, run, seed=5)
    row = train(child, execution=CPU).row
    assert row["L_init"] == pytest.approx(L, abs=1e-6)
    assert row["L"] < L
    assert (row["init_run"], row["D_pretrain"], row["D_transfer"]) == (run.run_id, 4096, 2048)
    assert row["D"] == 2048


def test_the_tokens_of_all_ancestors_count_as_pretraining(parent, tmp_path: Path):
    folder, run, _ = parent
    second = train(child_of(folder, run), execution=KEEP, folder=tmp_path / "second").row
    third = train(child_of(tmp_path / "second", run), execution=CPU).row
    assert (second["D_pretrain"], third["D_pretrain"]) == (4096, 4096 + 2048)
    assert third["L_init"] == pytest.approx(second["L"], abs=1e-6)


def test_children_in_a_pack_are_those_trained_alone(parent):
    folder, run, _ = parent
    children = [child_of(folder, run, seed=seed) for seed in (1, 2)]
    children.append(override(children[0], {"init": "", "seed": 3}))
    together = train_pack(children, execution=CPU)
    for child, found in zip(children, together, strict=True):
        alone = train(child, execution=CPU)
        assert found.row["L"] == alone.row["L"] and found.curve == alone.curve
        assert found.row["L_init"] == alone.row["L_init"] if child.init else True


def test_a_resumed_child_ends_as_an_undisturbed_one(parent, tmp_path: Path):
    folder, run, _ = parent
    child = child_of(folder, run)
    steps = iter([False, False, True])
    with pytest.raises(Interrupted):
        train(child, execution=CPU, folder=tmp_path / "child", should_stop=lambda: next(steps))
    shutil.rmtree(folder)  # a checkpoint holds all that is needed
    resumed = train(child, execution=CPU, folder=tmp_path / "child").row
    shutil.rmtree(tmp_path / "child")
    assert resumed["L_init"] > resumed["L"] and resumed["init_run"] == run.run_id


def test_the_content_of_the_weights_identifies_a_run_and_their_place_does_not(
    parent, tmp_path: Path
):
    folder, run, _ = parent
    child = child_of(folder, run)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert child_of(moved, run).run_id == child.run_id
    results = folder.parent.parent
    assert child_of(f"{results}:{run.run_id[:5]}", run).run_id == child.run_id  # type: ignore[arg-type]
    assert canonical(child)["init"] == child.init.rpartition("@")[2]
    found = weights.load(moved)
    weights.save(
        moved,
        run=found.run,
        model=found.model,
        flat_p=found.flat_1p[0] * 1.5,
        tokenizer=found.tokenizer,
        row=found.row,
    )
    assert child_of(moved, run).run_id != child.run_id
    assert dataclasses.replace(child, init="").run_id != child.run_id


def test_weights_that_changed_after_planning_are_refused(parent):
    folder, run, _ = parent
    child = child_of(folder, run)
    found = weights.load(folder)
    flat_p, model = found.flat_1p[0] + 1, found.model
    weights.save(
        folder, run=run, model=model, flat_p=flat_p, tokenizer=found.tokenizer, row=found.row
    )
    with pytest.raises(ConfigError, match="others now"):
        train(child, execution=CPU)


def test_another_corpus_is_read_in_the_tokens_of_the_parent(corpora, own_cache, tmp_path: Path):
    run = override(
        RunConfig(),
        {"data.corpus": corpora["first"], "data.tokenizer": "bpe-300"}
        | {"model": {"n_layer": 1, "d_model": 16, "n_head": 2, "n_ctx": 32}}
        | {"tokens": 2048, "batch_tokens": 256, "eval.test_tokens": 1024, "eval.points": 2},
    )
    train(run, execution=KEEP, folder=tmp_path / "parent")
    small = {"tokens": 2048, "batch_tokens": 256, "eval.test_tokens": 1024, "eval.points": 2}
    plain = override(RunConfig(), {"data.corpus": corpora["other"], **small})
    child = init_from.resolved(override(plain, {"init": str(tmp_path / "parent")}))
    assert (child.model, child.data.tokenizer) == (run.model, "bpe-300")
    assert child.data.tokenizer_of == corpora["first"]
    files = prepare(child.data)
    assert files.tokenizer == prepare(run.data).tokenizer
    ids = np.fromfile(files.test, dtype=np.uint16)
    assert files.tokenizer.decode(ids[ids != files.tokenizer.end_of_text].tolist())
    own = prepare(dataclasses.replace(child.data, tokenizer_of=""))
    assert own.tokenizer != files.tokenizer and own.folder != files.folder
    row = train(child, execution=CPU).row
    assert row["tokenizer_of"] == corpora["first"] and row["L"] < row["L_init"]


def test_a_tokenizer_of_the_own_corpus_changes_no_run(run: RunConfig):
    same = override(run, {"data.tokenizer_of": run.data.corpus})
    assert same.run_id == run.run_id


BAD = {
    "another shape": ({"model.d_model": 32}, "has model.d_model="),
    "another tokenizer": ({"data.tokenizer": "bpe-512"}, "data.tokenizer"),
    "no such folder": ({"init": "nowhere"}, "nowhere"),
    "a wrong hash": ({"init": "{folder}@" + 64 * "0"}, "others now"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=list(BAD))
def test_a_parent_that_does_not_fit_is_refused(parent, changes: dict, message: str):
    folder, run, _ = parent
    values = {k: v.format(folder=folder) if k == "init" else v for k, v in changes.items()}
    if "model.d_model" in values:
        run = override(run, {"model.n_head": 1})
    with pytest.raises(ConfigError, match=message):
        child_of(folder, run, **values)


def test_a_parent_without_weights_is_refused(run: RunConfig, own_cache: Path, tmp_path: Path):
    train(run, execution=CPU, folder=tmp_path / "bare")
    with pytest.raises(ConfigError, match="keep-weights"):
        child_of(tmp_path / "bare", run)


def test_why_a_parent_has_no_weights_is_said(run: RunConfig, own_cache: Path, tmp_path: Path):
    steps = iter([False, True])
    with pytest.raises(Interrupted):
        train(run, execution=KEEP, folder=tmp_path / "begun", should_stop=lambda: next(steps))
    with pytest.raises(ConfigError, match="has not ended"):
        child_of(tmp_path / "begun", run)
    of_command = tmp_path / "own" / "runs" / "0123456789ab"
    of_command.mkdir(parents=True)
    write = CommandRun(command=("true",), keys={"width": 8})
    (of_command / "config.json").write_text(json.dumps(recorded(write)))
    for named in (of_command, tmp_path / "own", f"{tmp_path / 'own'}:0123"):
        with pytest.raises(ConfigError, match="trained by a command"):
            child_of(named, run)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        child_of(tmp_path / "file", run)


def test_a_run_never_replaces_the_weights_that_it_begins_from(parent):
    folder, run, _ = parent
    before = (folder / weights.TENSORS).read_bytes()
    for same in (folder, folder.parent / ".." / "runs" / folder.name):
        with pytest.raises(ConfigError, match="also the folder of the new run"):
            train(child_of(folder, run), execution=KEEP, folder=same)
    assert (folder / weights.TENSORS).read_bytes() == before


def test_a_config_that_was_not_looked_up_has_no_identity(run: RunConfig):
    with pytest.raises(ConfigError, match="has not been looked up"):
        _ = override(run, {"init": "runs/first"}).run_id


def test_a_spec_names_parents_by_path_or_tag(parent, tmp_path: Path, monkeypatch):
    _, run, _ = parent
    monkeypatch.chdir(tmp_path)
    text = f"""
        name = "children"
        [base]
        init = "pretrained:{run.run_id[:6]}"
        data.corpus = "{run.data.corpus}"
        data.tokenizer = "{run.data.tokenizer}"
        eval.test_tokens = {run.eval.test_tokens}
        batch_tokens = 256
        [axes]
        tokens = [2048, 4096]
        seed = [0, 1]
    """
    spec = Spec.from_text(text)
    assert len(spec.runs) == 4 and {r.model for r in spec.runs} == {run.model}
    with pytest.raises(ConfigError, match=r"\[base\]: init: .*matches no run"):
        Spec.from_text(text.replace(run.run_id[:6], "zzz"))


def test_the_command_refuses_a_parent_of_another_shape(parent, capsys, tmp_path, monkeypatch):
    folder, _, _ = parent
    monkeypatch.chdir(tmp_path)
    n_layer = ModelConfig().n_layer  # asked for, although it is the default
    for options, message in (
        (("--model.n-layer", 3), "has model.n_layer=1, and this run 3"),
        ((f"--model.n-layer={n_layer}",), f"has model.n_layer=1, and this run {n_layer}"),
        (("--model.no-tied",), "has model.tied=True, and this run False"),
        (("--data.tokenizer", DataConfig().tokenizer), "reads the tokens of data.tokenizer="),
    ):
        assert call("train", "--init", folder, *options) == 2
        assert message in capsys.readouterr().err
    spec = Path("shape.toml")
    spec.write_text(f'name = "shape"\nbase.init = "{folder}"\naxes.model.n_layer = [{n_layer}]\n')
    assert call("sweep", spec, "--dry-run") == 2
    assert f"and this run {n_layer}" in capsys.readouterr().err
