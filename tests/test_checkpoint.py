"""Checkpoints: a damaged one is set aside and the run starts anew; odd files do no harm."""

from __future__ import annotations

import dataclasses
import os
import random

import pytest
import torch

from scaling.config import override
from scaling.execution import Execution
from scaling.run_progress import CHECKPOINT
from scaling.training.train import Interrupted, train, train_pack

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
SHARDED = dataclasses.replace(ONE, devices=2, shard=True)


@pytest.fixture
def short(run):
    return override(run, {"tokens": 20 * 256, "eval.points": 3})


def stop_after(n):
    calls = iter(range(1, 10**9))
    return lambda: next(calls) >= n


def interrupted(runs, folders, execution=ONE):
    """Leave checkpoints at step 7."""
    with pytest.raises(Interrupted):
        train_pack(runs, execution=execution, folders=folders, should_stop=stop_after(7))


def curve(result):
    return [(point["L"], point["L_train"]) for point in result.curve]


def flipped(path):
    """Flip one bit of the weights, which torch.load does not notice."""
    data = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["state"]["flat_p"]
    place = data.index(weights.numpy().tobytes()) + 4 * (len(weights) // 2)
    data[place] ^= 16
    path.unlink()  # it may be a link to the file of a trunk
    path.write_bytes(data)
    again = torch.load(path, weights_only=True)["state"]["flat_p"]
    assert (again != weights).sum() == 1


def test_a_flipped_bit_is_detected_and_the_run_starts_anew(short, tmp_path):
    interrupted([short], [tmp_path])
    flipped(tmp_path / CHECKPOINT)
    with pytest.warns(
        UserWarning, match=r"cannot be read .*checksum.* set aside as checkpoint\.dam"
    ):
        result = train(short, execution=ONE, folder=tmp_path)
    assert curve(result) == curve(train(short, execution=ONE))
    assert (tmp_path / "checkpoint.damaged").exists()


def test_a_flipped_bit_is_detected_in_a_sharded_checkpoint(short, tmp_path):
    interrupted([short], [tmp_path], SHARDED)
    flipped(tmp_path / CHECKPOINT)
    with pytest.warns(UserWarning, match="checksum"):
        result = train(short, execution=SHARDED, folder=tmp_path)
    assert curve(result) == curve(train(short, execution=SHARDED))


def test_a_flipped_bit_in_a_pack_leaves_the_other_members(short, tmp_path):
    pack = [override(short, {"seed": seed}) for seed in (0, 1)]
    folders = [tmp_path / run.run_id for run in pack]
    interrupted(pack, folders)
    flipped(folders[1] / CHECKPOINT)
    seen = []
    with pytest.warns(UserWarning, match="checksum"):
        results = train_pack(
            pack,
            execution=ONE,
            folders=folders,
            on_progress=lambda run, progress: seen.append((run.seed, progress.step)),
        )
    assert min(step for seed, step in seen if seed == 0) == 7  # where it resumes
    for result, run in zip(results, pack, strict=True):
        assert curve(result) == curve(train(run, execution=ONE))


@pytest.mark.filterwarnings("ignore:.*set aside")
def test_no_damage_changes_a_number(short, tmp_path):
    interrupted([short], [tmp_path])
    path = tmp_path / CHECKPOINT
    whole, expected = path.read_bytes(), curve(train(short, execution=ONE))
    chosen = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chosen.choice([1, 1, 100])):
            data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data[: chosen.choice([len(data)] * 3 + [chosen.randrange(len(data))])])
        assert curve(train(short, execution=ONE, folder=tmp_path)) == expected


OF_MEMBER = {
    "beyond the end": {"step": 21},
    "before the start": {"step": -1},
    "a step of text": {"step": "7"},
    "a step that is true": {"step": True},
    "a part of a step": {"step": 7.5},
    "evaluated later": {"loss_from": 8},
    "shared later": {"shared_steps": 8},
    "no curve": {"curve": {"S": 1}},
    "no points": {"curve": [1]},
    "no tests": {"tests": None},
    "text for seconds": {"train_seconds": "1"},
    "negative seconds": {"eval_seconds": -1.0},
    "another best": {"best": {"step": 7, "held_out": {"loss": 3.0}}},
    "best later": {"best": {"step": 9, "held_out": {}}},
}
OF_STATE = {
    "no weights": {"flat_p": None},
    "fewer weights": {"flat_p": torch.zeros(3)},
    "whole numbers": {"flat_p": torch.zeros(3, dtype=torch.int64)},
    "no optimizer": {"adamw": [1]},
    "strange optimizer": {"adamw": {"step": 1.0}},
    "no sum": {"loss_sum": None},
    "text": {"norm_sum": "1"},
    "another mean": {"mean_p": torch.zeros(3)},
}


@pytest.mark.parametrize("damage", [*OF_MEMBER, *OF_STATE, "no member", "a list", "no state"])
def test_implausible_values_are_set_aside(short, tmp_path, damage):
    interrupted([short], [tmp_path])
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    saved["members"][short.run_id] |= OF_MEMBER.get(damage, {})
    saved["state"] |= OF_STATE.get(damage, {})
    if damage == "no member":
        saved["members"][short.run_id] = None
    if damage == "no state":
        del saved["state"]
    torch.save([saved] if damage == "a list" else saved, tmp_path / CHECKPOINT)
    with pytest.warns(UserWarning, match="set aside as checkpoint.damaged; the run starts anew"):
        result = train(short, execution=ONE, folder=tmp_path)
    assert curve(result) == curve(train(short, execution=ONE))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_anything_but_a_regular_file_is_set_aside(short, tmp_path, kind):
    path = tmp_path / CHECKPOINT
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.warns(UserWarning, match="not a regular file|Is a directory"):
        result = train(short, execution=ONE, folder=tmp_path)
    assert curve(result) == curve(train(short, execution=ONE))


@pytest.mark.timeout(60)
def test_nothing_is_written_through_links_or_pipes_in_the_folder(short, tmp_path):
    folder, victim, made = tmp_path / "run", tmp_path / "victim", tmp_path / "made"
    folder.mkdir()
    victim.write_text("mine")
    (folder / f"{CHECKPOINT}.new").symlink_to(victim)
    (folder / f"{CHECKPOINT}.probe").symlink_to(made)
    interrupted([short], [folder])
    assert victim.read_text() == "mine" and not made.exists()
    os.mkfifo(folder / f"{CHECKPOINT}.new")
    interrupted([short], [folder])
    assert not (folder / CHECKPOINT).is_symlink()
