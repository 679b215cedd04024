"""Training one run: reproducible, exactly resumable, honest about divergence."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaling import size
from scaling.columns import COLUMNS, TEST_COLUMNS
from scaling.config import override
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.model import Model
from scaling.run_progress import CHECKPOINT
from scaling.training.schedule import evaluation_steps
from scaling.training.train import Interrupted, train, train_pack
from scaling.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")


def losses(result):
    return [point["L"] for point in result.curve], [point["L_train"] for point in result.curve]


def stop_after(n):
    calls = iter(range(1, 10**9))
    return lambda: next(calls) >= n


OF_OTHER_OBJECTIVES = {
    "init_run", "D_pretrain", "D_transfer", "L_pretrain", "L_init", "accuracy", "classes",
    "D_predicted", "L_next", "next_accuracy",
}  # fmt: skip
"""Columns of runs that begin from another one, of classifiers and of encoders."""


def test_training_learns_and_its_row_is_exact(run):
    result = train(run, execution=ONE)
    row = result.row
    assert result.status == "ok"
    assert 0 < row["mfu"] < 1 and row["peak_flops"] > 1e8 and row["memory"] > 1e7
    assert row["step_seconds"] == pytest.approx(256 / row["tokens_per_second"])
    (test,) = result.tests  # the run's own corpus
    assert set(test) == {c.name for c in TEST_COLUMNS}
    assert test["L"] == row["L"] == pytest.approx(sum(test["L_position"]) / 32)
    assert test["L_position"][0] > test["L_position"][31]  # context helps
    assert set(row) | {"tag", "command"} | OF_OTHER_OBJECTIVES == {c.name for c in COLUMNS}
    assert row["L"] < 3.3 < math.log(256) - 1
    assert (row["S"], row["D"], row["B"]) == (60, 60 * 256, 256)
    assert row["N"] == size.parameters(run.model, 256).N
    assert row["C"] == 6 * row["N"] * row["D"]
    assert row["L"] == result.curve[-1]["L"]
    # With byte tokens every token is a byte; end-of-text is rare.
    assert row["bits_per_byte"] == pytest.approx(row["L"] / math.log(2), rel=0.01)
    assert 0 < row["L_stderr"] < 0.2
    assert [p["S"] for p in result.curve] == evaluation_steps(60, 5)
    assert all(p["D"] == p["S"] * 256 and p["C"] == 6 * row["N"] * p["D"] for p in result.curve)


def test_other_distributions(run, text_file, tmp_path):
    shouted = tmp_path / "shouted.txt"
    shouted.write_text(text_file.read_text()[:100_000].upper())
    plain = train(run, execution=ONE)
    run = override(run, {"eval.others": f"{shouted}, {text_file}"})
    result = train(run, execution=dataclasses.replace(ONE, peak_flops=1e30))
    assert result.row["mfu"] < 1e-15 and losses(result) == losses(plain)
    own, other = result.tests  # its own corpus is listed twice, but measured once
    assert (own["corpus"], other["corpus"]) == (run.data.corpus, str(shouted))
    # Capital letters are rare in training.
    assert other["L"] > own["L"] + 0.5 and 0 < other["L_stderr"] < 0.3
    assert own["tokens"] == 2048
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
        "from scaling.config import from_dict\n"
        "from scaling.execution import Execution\n"
        "from scaling.training.train import train\n"
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


def test_the_checkpoint_of_another_run_is_refused(run, tmp_path):
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=stop_after(9))
    for change in ({"seed": 5}, {"data.tokenizer": "bpe-300"}):
        with pytest.raises(ConfigError, match="belongs to another config"):
            train(override(run, change), execution=ONE, folder=tmp_path)


def test_micro_batches_change_only_the_last_digits(run):
    whole = train(run, execution=ONE)
    # At most 3 of 8 sequences fit, and so 2 are taken.
    parted = train(run, execution=dataclasses.replace(ONE, micro_tokens=100))
    for ours, theirs in zip(losses(parted), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)
    assert losses(parted) != losses(whole)
    assert losses(train(run, execution=dataclasses.replace(ONE, recompute=True))) == losses(whole)
    with pytest.raises(ConfigError, match="micro_tokens=31 is less than one context"):
        train(run, execution=dataclasses.replace(ONE, micro_tokens=31))


def test_out_of_memory_halves_a_step(run, monkeypatch):
    whole = train(run, execution=ONE)
    room = 4
    model_loss = Model.mean_loss

    def full(self, flat_kp, windows_kbt, instead=None):
        if windows_kbt.shape[1] > room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 GB")
        return model_loss(self, flat_kp, windows_kbt, instead)

    monkeypatch.setattr(Model, "mean_loss", full)
    with pytest.warns(UserWarning, match="does not fit into memory .* in 2 micro-batches"):
        halved = train(run, execution=ONE)
    assert halved.row["L"] == pytest.approx(whole.row["L"], abs=2e-4)
    room = 2  # a user who fixes the size of the parts is asked for smaller ones
    fixed = dataclasses.replace(ONE, micro_tokens=128)
    with pytest.raises(MemoryError, match=r"9 GB .*micro_tokens=64 or"):
        train(run, execution=fixed)


def test_a_batch_larger_than_the_data_is_refused(run):
    with pytest.raises(ConfigError, match=r"batch_tokens=256 is more than the 128 .*unique_tokens"):
        train(override(run, {"data.unique_tokens": 128}), execution=ONE)


def test_early_stopping_keeps_the_least_loss(run, tmp_path):
    """A run overfits a few repeated sentences (Kaplan et al. 2020, section 4.1)."""
    changes = {"data.unique_tokens": 512, "tokens": 3000 * 256, "eval.points": 24, "optim.lr": 2e-2}
    changes |= {"model.d_model": 32, "optim.schedule": "constant"}
    run = override(run, changes | {"eval.patience": 3})
    result = train(run, execution=ONE)
    seen = losses(result)[0]
    assert result.status == "ok" and result.row["L"] == min(seen) == seen[-4]
    assert result.curve[-1]["S"] < 3000
    assert result.row["S"] == result.curve[-4]["S"]
    assert (result.row["D"], result.row["C"]) == (result.curve[-4]["D"], result.curve[-4]["C"])
    assert result.tests[0]["L"] == result.row["L"]
    steps = result.curve[-2]["S"] + 1  # after two of three worse evaluations
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=stop_after(steps))
    again = train(run, execution=ONE, folder=tmp_path)
    assert losses(again) == losses(result) and again.row["S"] == result.row["S"]


def test_batch_warmup(run, tmp_path):
    grown = override(run, {"optim.batch_warmup_tokens": 20 * 256, "eval.points": 6})
    result = train(grown, execution=ONE)
    assert grown.S > run.S and abs(grown.D - run.D) <= 128
    assert result.row["D"] == grown.D == result.curve[-1]["D"]
    assert [p["D"] for p in result.curve] == [grown.tokens_at(p["S"]) for p in result.curve]
    assert result.row["C"] == 6 * result.row["N"] * grown.D
    assert result.row["L"] < 3.3
    with pytest.raises(Interrupted):
        train(grown, execution=ONE, folder=tmp_path, should_stop=stop_after(9))
    resumed = train(grown, execution=ONE, folder=tmp_path)
    assert losses(resumed) == losses(result)
    # Packed runs take turns, since their batches may differ in size. There are fewer micro-batches
    # while the batch is small.
    parts = dataclasses.replace(ONE, micro_tokens=64)
    both = train_pack([override(grown, {"seed": 1}), grown], execution=parts)
    assert both[1].row["pack"] == 1
    assert losses(both[1])[0] == pytest.approx(losses(result)[0], abs=2e-4)


def test_exponential_moving_average_of_the_weights(run, tmp_path):
    """The mean is evaluated; it does not change the training."""
    run = override(run, {"optim.schedule": "constant", "eval.points": 4})
    averaged = override(run, {"optim.ema": 0.9})
    plain, mean = train(run, execution=ONE), train(averaged, execution=ONE)
    assert losses(plain)[1] == losses(mean)[1] and losses(plain)[0] != losses(mean)[0]
    assert mean.row["L"] == pytest.approx(plain.row["L"], abs=0.2)
    assert train_pack([run, averaged], execution=ONE)[1].curve == mean.curve
    with pytest.raises(Interrupted):
        train(averaged, execution=ONE, folder=tmp_path, should_stop=stop_after(31))
    assert losses(train(averaged, execution=ONE, folder=tmp_path)) == losses(mean)
    trainer = Trainer([averaged], ONE, [None])
    expected = trainer.stack.flat_kp.detach().clone()
    for t in range(20):
        trainer.steps(1)
        d = min(0.9, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * trainer.stack.flat_kp.detach()
    torch.testing.assert_close(trainer.stack.mean_kp, expected)


def test_bfloat16_with_untied_embeddings(run):
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
def test_a_device_that_does_not_exist_is_refused(run, device, message):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match=message):
        train(run, execution=dataclasses.replace(ONE, device=device))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # raised in torch
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # raised in torch
def test_a_compiled_pack_matches_and_resumes_uncompiled(run, tmp_path):
    runs = [override(run, {"seed": k, "optim.lr": 1e-2 / (k + 1)}) for k in range(3)]
    runs[1] = override(runs[1], {"tokens": 30 * 256, "optim.clip": 0.5, "optim.decay": "all"})
    alone = [train(one, execution=ONE) for one in runs]
    compiled = dataclasses.replace(ONE, compile=True)
    folders = [tmp_path / "first" / one.run_id for one in runs]
    calls = itertools.count()
    with pytest.raises(Interrupted):  # one of the three has finished
        train_pack(runs, execution=compiled, folders=folders, should_stop=lambda: next(calls) == 40)
    for execution in (compiled, ONE):
        root = tmp_path / str(execution.compile)
        shutil.copytree(tmp_path / "first", root)
        copies = [root / folder.name for folder in folders]
        again = train_pack(runs, execution=execution, folders=copies)
        for one, other in zip(alone, again, strict=True):
            np.testing.assert_allclose(losses(other), losses(one), atol=2e-3)
    trainer = Trainer(runs, compiled, [None] * 3)
    trainer.steps(2)
    assert trainer.training_step.one_graph is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_step_as_one_function_equals_the_step_in_parts(run, monkeypatch, precision):
    # This checks the arithmetic; the slow test above checks what the compiler makes of it.
    changes = {"precision": precision, "optim.clip": 0.3, "optim.z_loss": 1e-3}
    runs = [override(run, {"seed": k} | changes) for k in range(2)]
    apart = Trainer(runs, ONE, [None, None])
    monkeypatch.setattr("scaling.training.step.compiled", lambda function, *_, **__: function)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    as_one = Trainer(runs, dataclasses.replace(ONE, compile=True), [None, None])
    monkeypatch.setattr(as_one.training_step, "gradient", None)  # must not be called
    apart.steps(20)
    as_one.steps(20)
    close = {"float32": 1e-5, "bfloat16": 1e-2}[precision]
    for name in ("loss_sum_k", "norm_sum_k"):
        torch.testing.assert_close(
            getattr(as_one.stack, name), getattr(apart.stack, name), rtol=close, atol=0.0
        )


def test_update_ratios_are_those_of_the_matrices(run):
    asked = override(run, {"eval.update_ratio": True})
    trainer = Trainer([run, asked], ONE, [None, None])
    matrices = trainer.model.ends["matrix"]
    for step in range(1, 61):
        before = trainer.stack.flat_kp.detach().clone()
        trainer.steps(1)
        assert list(trainer.updates) == [1] * (step in evaluation_steps(60, 5))
        for k, found in trainer.updates.items():
            old, new = before[k, :matrices], trainer.stack.flat_kp.detach()[k, :matrices]
            assert 1e-5 < found.item() < 1
            assert found.item() == pytest.approx(((new - old).norm() / old.norm()).item())
    plain, measured = train_pack([run, asked], execution=ONE)
    assert losses(plain) == losses(measured) == losses(train(run, execution=ONE))
    assert all(point["update_norm"] > 0 for point in measured.curve)
    assert all(math.isnan(point["update_norm"]) for point in plain.curve)


def test_a_loss_that_is_not_finite_ends_the_run_at_once(run):
    # It is evaluated only at the end, so it would otherwise train on in vain.
    changes = {"optim.lr": 1e30, "optim.clip": None, "eval.points": 1, "tokens": 20_000 * 256}
    result = train(override(run, changes), execution=ONE)
    assert result.status == "diverged" and result.row["S"] < 20_000


def test_a_loss_lost_between_evaluations_ends_the_run_at_the_next(run):
    changes = {"optim.lr": 1e30, "optim.clip": None, "eval.points": 2, "tokens": 600 * 256}
    result = train(override(run, changes), execution=ONE)  # the first evaluation is at step 6
    assert result.status == "diverged" and result.row["S"] == 6
    assert len(result.curve) == 1


def test_a_folder_that_cannot_hold_checkpoints_is_refused(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold checkpoints"):
        train(run, execution=ONE, folder=tmp_path / "file")


def test_checkpoints_at_every_step(run, tmp_path):
    # The last step and a checkpoint may coincide.
    often = dataclasses.replace(ONE, checkpoint_seconds=0.0)
    result = train(run, execution=often, folder=tmp_path)
    assert losses(result) == losses(train(run, execution=ONE))


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt belongs to glibc")
def test_memory_that_a_step_frees_is_reused():
    program = """
import resource
import numpy as np
from scaling.devices.hardware import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [np.ones(500_000) for _ in range(5)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_memory()
faults()
print(given_back, faults())
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    given_back, kept = map(int, answer.stdout.split())
    assert kept < 0.01 * given_back, answer.stderr
