"""Packs: each member is the run alone, whatever the others do."""

from __future__ import annotations

import pytest
import torch

from scaling.config import ConfigError, Execution, from_dict, override
from scaling.train import CHECKPOINT, Interrupted, train, train_pack

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")


@pytest.fixture
def run(text_file):
    return from_dict(
        {
            "model": {"n_layer": 2, "d_model": 16, "n_head": 2, "n_ctx": 32},
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "optim.lr": 3e-3,
            "eval": {"test_tokens": 2048, "points": 4},
            "tokens": 40 * 256,
            "batch_tokens": 256,
        }
    )


@pytest.fixture
def runs(run):
    """Members that differ in all that they may."""
    changes = [
        {},
        {"seed": 1},
        {"optim.lr": 6e-3, "optim.lr_embedding": 1e-2, "optim.weight_decay": 0.0},
        {"tokens": 20 * 256, "optim.schedule": "wsd"},
        {"data.unique_tokens": 3200, "data.data_seed": 4, "optim.clip": None},
        {"optim.beta2": 0.99, "eval.points": 2, "tokens": 55 * 256},
    ]
    return [override(run, change) for change in changes]


def curve(result):
    return [(p["S"], p["L"], p["L_train"], p["lr"]) for p in result.curve]


def assert_same(member, alone):
    assert member.status == alone.status
    assert curve(member) == curve(alone)  # bit for bit
    for name in ("run_id", "S", "D", "D_unique", "C", "lr_peak", "L", "L_stderr", "bits_per_byte"):
        assert member.row[name] == alone.row[name]


def test_members_are_the_runs_alone(runs):
    ended = []
    together = train_pack(runs, execution=ONE, on_result=lambda r: ended.append(r.row["run_id"]))
    assert [r.row["run_id"] for r in together] == [run.run_id for run in runs]
    assert ended[0] == runs[3].run_id and ended[-1] == runs[5].run_id  # by horizon
    for member, run in zip(together, runs, strict=True):
        assert_same(member, train(run, execution=ONE))


def test_gradients_of_a_pack_are_exact_in_float64(runs):
    from scaling.model import Decoder

    decoder = Decoder(runs[0].model, 256)
    flat = decoder.init([0, 1, 2]).double().requires_grad_()
    windows = torch.randint(0, 256, (3, 4, 33), generator=torch.Generator().manual_seed(0))
    (together,) = torch.autograd.grad(decoder.mean_loss(flat, windows).sum(), flat)
    for k in range(3):
        row = flat.detach()[k : k + 1].requires_grad_()
        loss = decoder.mean_loss(row, windows[k : k + 1])
        (alone,) = torch.autograd.grad(loss.sum(), row)
        torch.testing.assert_close(together[k], alone[0], rtol=1e-10, atol=1e-14)


def test_divergence_of_one_leaves_the_others(runs):
    bad = override(runs[0], {"optim.lr": 1e5, "optim.clip": None, "seed": 9})
    together = train_pack([runs[0], bad, runs[1]], execution=ONE)
    assert [r.status for r in together] == ["ok", "diverged", "ok"]
    assert together[1].row["S"] < 40
    assert_same(together[0], train(runs[0], execution=ONE))
    assert_same(together[2], train(runs[1], execution=ONE))


def test_a_pack_resumes_bit_for_bit(runs, tmp_path):
    whole = train_pack(runs, execution=ONE)
    folders = [tmp_path / run.run_id for run in runs]
    calls = iter(range(1, 1000))
    early = []
    with pytest.raises(Interrupted):
        train_pack(
            runs,
            execution=ONE,
            folders=folders,
            on_result=early.append,
            should_stop=lambda: next(calls) >= 25,
        )
    assert [r.row["run_id"] for r in early] == [runs[3].run_id]
    left = [k for k in range(len(runs)) if k != 3]
    resumed = train_pack([runs[k] for k in left], execution=ONE, folders=[folders[k] for k in left])
    for k, result in zip(left, resumed, strict=True):
        assert curve(result) == curve(whole[k])
        assert result.row["L"] == whole[k].row["L"]


def test_a_member_resumes_alone_and_in_another_pack(runs, tmp_path):
    calls = iter(range(1, 1000))
    folders = [tmp_path / str(k) for k in range(3)]
    with pytest.raises(Interrupted):
        train_pack(runs[:3], execution=ONE, folders=folders, should_stop=lambda: next(calls) >= 17)
    assert torch.load(folders[0] / CHECKPOINT, weights_only=True)["step"] == 17
    assert_same(train(runs[0], execution=ONE, folder=folders[0]), train(runs[0], execution=ONE))
    # beside a run that starts from nothing
    mixed = train_pack([runs[5], runs[1]], execution=ONE, folders=[None, folders[1]])
    assert_same(mixed[0], train(runs[5], execution=ONE))
    assert_same(mixed[1], train(runs[1], execution=ONE))


@pytest.mark.parametrize(
    "change",
    [
        {"model.d_model": 32},
        {"batch_tokens": 512},
        {"eval.test_tokens": 1024},
        {"model.tied": False},
    ],
)
def test_members_of_other_shapes_are_refused(run, change):
    with pytest.raises(ConfigError, match=f"runs of one pack differ in {next(iter(change))}"):
        train_pack([run, override(run, change)], execution=ONE)


def test_shares_of_time_add_up(runs):
    import time

    start = time.perf_counter()
    results = train_pack(runs, execution=ONE)
    wall = time.perf_counter() - start
    assert sum(r.row["seconds"] for r in results) < wall
    assert sum(r.row["seconds"] for r in results) > 0.3 * wall


def test_no_runs():
    assert train_pack([]) == []
