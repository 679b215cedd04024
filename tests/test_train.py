"""One run: reproducible, resumable exactly, honest about divergence."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaling import count, table
from scaling.config import ConfigError, Execution, from_dict, override
from scaling.train import CHECKPOINT, Interrupted, evaluation_steps, train

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")


@pytest.fixture
def run(text_file):
    return from_dict(
        {
            "model": {"n_layer": 2, "d_model": 16, "n_head": 2, "n_ctx": 32},
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "optim.lr": 1e-2,
            "eval": {"test_tokens": 2048, "points": 5},
            "tokens": 60 * 256,
            "batch_tokens": 256,
        }
    )


def losses(result):
    return [point["L"] for point in result.curve], [point["L_train"] for point in result.curve]


def stop_after(n):
    calls = iter(range(1, 10**9))
    return lambda: next(calls) >= n


def test_training_learns_and_its_row_is_exact(run):
    result = train(run, execution=ONE)
    row = result.row
    assert result.status == "ok"
    assert 0 < row["mfu"] < 1 and row["peak_flops"] > 1e8 and row["memory"] > 1e7
    assert row["step_seconds"] == pytest.approx(256 / row["tokens_per_second"])
    (test,) = result.tests  # its own corpus
    assert set(test) == {c.name for c in table.TEST_COLUMNS}
    assert test["L"] == row["L"] == pytest.approx(sum(test["L_position"]) / 32)
    assert test["L_position"][0] > test["L_position"][31]  # context helps
    assert set(row) | {"tag"} == {c.name for c in table.COLUMNS}
    assert row["L"] < 3.3 < math.log(256) - 1
    assert (row["S"], row["D"], row["B"]) == (60, 60 * 256, 256)
    assert row["N"] == count.parameters(run.model, 256).N
    assert row["C"] == 6 * row["N"] * row["D"]
    assert row["L"] == result.curve[-1]["L"]
    # byte tokens: a byte is a token, and end-of-text hardly occurs
    assert row["bits_per_byte"] == pytest.approx(row["L"] / math.log(2), rel=0.01)
    assert 0 < row["L_stderr"] < 0.2
    assert [p["S"] for p in result.curve] == evaluation_steps(60, 5)
    assert all(p["D"] == p["S"] * 256 and p["C"] == 6 * row["N"] * p["D"] for p in result.curve)


def test_other_distributions(run, text_file, tmp_path):
    shouted = tmp_path / "shouted.txt"
    shouted.write_text(text_file.read_text()[:100_000].upper())
    plain = train(run, execution=ONE)
    run = override(run, {"eval.others": f"{shouted}, stdlib"})
    result = train(run, execution=dataclasses.replace(ONE, peak_flops=1e30))
    assert result.row["mfu"] < 1e-15 and losses(result) == losses(plain)
    own, other, code = result.tests
    assert (own["corpus"], other["corpus"]) == (run.data.corpus, str(shouted))
    # capitals are rare in training
    assert other["L"] > own["L"] + 0.5 and 0 < other["L_stderr"] < 0.3
    assert (own["tokens"], code["tokens"]) == (2048, 2048)
    assert 32 <= other["tokens"] < 2048 * 4 and other["tokens"] % 32 == 0
    with pytest.raises(ConfigError, match="'nowhere' is neither a bundled corpus"):
        train(override(run, {"eval.others": "nowhere"}), execution=ONE)


def test_same_seed_same_numbers_bit_for_bit(run):
    a, b = train(run, execution=ONE), train(run, execution=ONE)
    assert losses(a) == losses(b)
    assert train(override(run, {"seed": 1}), execution=ONE).row["L"] != a.row["L"]


@pytest.mark.parametrize("steps", [1, 13, 59])
def test_interrupted_and_resumed_equals_undisturbed(run, tmp_path, steps):
    whole = train(run, execution=ONE)
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=stop_after(steps))
    resumed = train(run, execution=ONE, folder=tmp_path)
    assert losses(resumed) == losses(whole)
    assert resumed.row["L_stderr"] == whole.row["L_stderr"]


def test_killed_and_resumed_equals_undisturbed(run, tmp_path):
    run = override(run, {"tokens": 1000 * 256})
    code = (
        "import json, sys; from pathlib import Path\n"
        "from scaling.config import Execution, from_dict\n"
        "from scaling.train import train\n"
        "ex = Execution(threads=1, device='cpu', checkpoint_seconds=0.05)\n"
        "train(from_dict(json.loads(sys.argv[1])), execution=ex, folder=Path(sys.argv[2]))"
    )
    from scaling.config import canonical

    words = [sys.executable, "-c", code, json.dumps(canonical(run)), str(tmp_path)]
    process = subprocess.Popen(words)
    deadline = time.monotonic() + 60
    while not (tmp_path / CHECKPOINT).exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    step = saved["members"][run.run_id]["step"]
    assert 0 < step < 1000
    assert losses(train(run, execution=ONE, folder=tmp_path)) == losses(train(run, execution=ONE))


def test_divergence_is_a_status(run):
    result = train(override(run, {"optim.lr": 1e4, "optim.clip": None}), execution=ONE)
    assert result.status == "diverged"
    assert "lower optim.lr" in result.row["error"]
    assert result.row["S"] <= 60 and result.row["D"] == result.row["S"] * 256


def test_damaged_checkpoint_is_set_aside(run, tmp_path):
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=stop_after(9))
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="cannot be read .* set aside"):
        result = train(run, execution=ONE, folder=tmp_path)
    assert losses(result) == losses(train(run, execution=ONE))
    assert (tmp_path / "checkpoint.damaged").exists()


def test_checkpoint_of_another_run(run, tmp_path):
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=stop_after(9))
    with pytest.raises(ConfigError, match="belongs to another config"):
        train(override(run, {"seed": 5}), execution=ONE, folder=tmp_path)


def test_bfloat16_and_untied(run):
    changes = {"precision": "bfloat16", "model.tied": False}
    result = train(override(run, changes), execution=ONE)
    assert result.status == "ok" and result.row["L"] < 3.4


@pytest.mark.parametrize("family", ["modern", "lstm", "own"])
def test_other_models_train_and_resume(run, family, own_family, tmp_path):
    modern = {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "qk_norm": True}
    model = {
        "modern": modern | {"bias": False, "n_kv_head": 1},
        "lstm": {"family": "lstm"},
        "own": {"family": f"{own_family}:Mean"},
    }
    run = override(run, {"model": model[family]})
    whole = train(run, execution=ONE)
    assert whole.row["L"] < math.log(256) - 0.8
    if family == "modern":
        assert train(override(run, {"precision": "bfloat16"}), execution=ONE).row["L"] < 3.3
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=stop_after(21))
    assert losses(train(run, execution=ONE, folder=tmp_path)) == losses(whole)


def test_progress_is_reported(run):
    seen = []
    train(run, execution=ONE, on_progress=seen.append)
    assert seen[-1].step == seen[-1].steps == 60
    assert pytest.approx(train(run, execution=ONE).row["L"]) == seen[-1].L
    assert all(p.tokens_per_second > 0 for p in seen)


@given(st.integers(1, 10**6), st.integers(1, 40))
def test_evaluation_steps(S, points):
    steps = evaluation_steps(S, points)
    assert steps == sorted(set(steps))
    assert steps[-1] == S and steps[0] >= 1 and len(steps) <= points


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu9", "is not a device"), ("cuda:0", "no CUDA GPU here")],
)
def test_unknown_device(run, device, message):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match=message):
        train(run, execution=dataclasses.replace(ONE, device=device))


@pytest.mark.slow
def test_compiled_training_is_near(run):
    a = train(run, execution=ONE)
    b = train(run, execution=dataclasses.replace(ONE, compile=True))
    assert b.row["L"] == pytest.approx(a.row["L"], abs=0.02)


def test_a_lost_loss_ends_the_run_at_once(run):
    # Evaluated at the end only, the run would otherwise train on for nothing.
    changes = {"optim.lr": 1e30, "optim.clip": None, "eval.points": 1, "tokens": 20_000 * 256}
    result = train(override(run, changes), execution=ONE)
    assert result.status == "diverged" and result.row["S"] < 20_000


def test_folder_that_cannot_be(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold checkpoints"):
        train(run, execution=ONE, folder=tmp_path / "file")


def test_checkpoints_at_every_step(run, tmp_path):
    # also when the last step and a checkpoint fall together
    often = dataclasses.replace(ONE, checkpoint_seconds=0.0)
    result = train(run, execution=often, folder=tmp_path)
    assert losses(result) == losses(train(run, execution=ONE))
