"""Packs: each member equals the run alone, whatever the others do."""

from __future__ import annotations

import pytest
import torch

from scaling.config import override
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.run_progress import CHECKPOINT
from scaling.training.train import Interrupted, train, train_pack

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")


@pytest.fixture
def run(run):
    return override(run, {"optim.lr": 3e-3, "eval.points": 4, "tokens": 40 * 256})


@pytest.fixture
def runs(run):
    """Members that differ in everything that may differ."""
    changes = [
        {},
        {"seed": 1},
        {"optim.lr": 6e-3, "optim.lr_embedding": 1e-2, "optim.weight_decay": 0.0},
        {"tokens": 20 * 256, "optim.schedule": "wsd"},
        {"data.unique_tokens": 3200, "data.data_seed": 4, "optim.clip": None},
        {"optim.beta2": 0.99, "eval.points": 2, "tokens": 55 * 256},
        {"optim.optimizer": "muon", "optim.decay": "all", "seed": 7},
    ]
    return [override(run, change) for change in changes]


def curve(result):
    return [(p["S"], p["L"], p["L_train"], p["lr"]) for p in result.curve]


def assert_same(member, alone):
    assert member.status == alone.status
    assert curve(member) == curve(alone)  # bit for bit
    for name in ("run_id", "S", "D", "D_unique", "C", "lr_peak", "L", "L_stderr", "bits_per_byte"):
        assert member.row[name] == alone.row[name]


def test_members_equal_the_runs_alone(runs):
    ended = []
    together = train_pack(runs, execution=ONE, on_result=lambda r: ended.append(r.row["run_id"]))
    assert [r.row["run_id"] for r in together] == [run.run_id for run in runs]
    assert ended[0] == runs[3].run_id and ended[-1] == runs[5].run_id  # by horizon
    for member, run in zip(together, runs, strict=True):
        assert_same(member, train(run, execution=ONE))


def test_members_with_long_rows_equal_the_runs_alone(run):
    """torch computes norms of 2^16 and more elements by another path."""
    large = {"model.d_model": 64, "model.n_ctx": 64, "batch_tokens": 1024, "tokens": 6 * 1024}
    runs = [override(run, large | {"seed": seed}) for seed in (0, 1)]
    together = train_pack(runs, execution=ONE)
    for member, alone in zip(together, runs, strict=True):
        assert_same(member, train(alone, execution=ONE))


def test_gradients_of_a_pack_are_exact_in_float64(runs):
    from scaling.models.decoder import Decoder

    decoder = Decoder(runs[0].model, 256)
    flat = decoder.init([0, 1, 2]).double().requires_grad_()
    windows = torch.randint(0, 256, (3, 4, 33), generator=torch.Generator().manual_seed(0))
    (together,) = torch.autograd.grad(decoder.mean_loss(flat, windows).sum(), flat)
    for k in range(3):
        row = flat.detach()[k : k + 1].requires_grad_()
        loss = decoder.mean_loss(row, windows[k : k + 1])
        (alone,) = torch.autograd.grad(loss.sum(), row)
        torch.testing.assert_close(together[k], alone[0], rtol=1e-10, atol=1e-14)


def test_divergence_of_one_member_does_not_affect_the_others(runs):
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
    saved = torch.load(folders[0] / CHECKPOINT, weights_only=True)
    assert saved["members"][runs[0].run_id]["step"] == 17
    assert_same(train(runs[0], execution=ONE, folder=folders[0]), train(runs[0], execution=ONE))
    # Beside a run that starts from its seed.
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


def test_an_empty_pack():
    assert train_pack([]) == []


def test_more_runs_than_slots_take_turns(runs, tmp_path):
    folders = [tmp_path / run.run_id for run in runs]
    calls = iter(range(1, 1000))
    with pytest.raises(Interrupted):
        train_pack(
            runs, slots=2, execution=ONE, folders=folders, should_stop=lambda: next(calls) >= 50
        )
    left = [run for run in runs if (tmp_path / run.run_id / CHECKPOINT).exists()]
    assert len(left) == 2
    resumed = train_pack(runs[2:], slots=3, execution=ONE, folders=folders[2:])
    for member, run in zip(resumed, runs[2:], strict=True):
        assert_same(member, train(run, execution=ONE))
        assert 2 <= member.row["pack"] <= 3


def ladder(run, **changes):
    """Five horizons of one trunk, the longest once more with one evaluation, and another seed."""
    common = {"optim.schedule": "wsd", "optim.warmup_tokens": 1280, **changes}
    horizons = [10, 20, 40, 44, 80]
    runs = [override(run, {**common, "tokens": S * 256}) for S in horizons]
    return [*runs, override(runs[-1], {"eval.points": 1}), override(runs[1], {"seed": 5})]


def test_branches_are_the_runs_alone(run, tmp_path):
    runs = ladder(run)
    alone = {one.run_id: train(one, execution=ONE) for one in runs}
    for slots in (1, 2, None):
        steps = 0

        def count(*_):
            nonlocal steps
            steps += 1
            return False

        ended: list[str] = []
        together = train_pack(
            runs,
            slots=slots,
            execution=ONE,
            should_stop=count,
            on_result=lambda result, ended=ended: ended.append(result.row["run_id"]),
        )
        for member in together:
            assert_same(member, alone[member.row["run_id"]])
        if slots != 1:  # a branch trains beside its trunk, and ends before it
            assert ended.index(runs[0].run_id) < ended.index(runs[4].run_id)
        shared = [r.row["D_shared"] // 256 for r in together]
        assert shared[:5] == [8, 16, 32, 35, 0] and shared[5] in (64, 80) and shared[6] == 0
        if slots == 1:  # one row at a time: shared steps are done once
            assert abs(steps - (sum(one.S for one in runs) - sum(shared))) <= 1
    # The numbers stay the same when the runs are interrupted and resumed in other packs.
    folders = [tmp_path / one.run_id for one in runs]
    calls = iter(range(1, 1000))
    with pytest.raises(Interrupted):
        train_pack(
            runs, slots=1, execution=ONE, folders=folders, should_stop=lambda: next(calls) > 34
        )
    assert (folders[4] / CHECKPOINT).stat().st_nlink > 1  # the trunk's members share one file
    for chosen, slots in ((range(2), 1), (range(2, 7), 2)):
        some = [runs[i] for i in chosen]
        for member in train_pack(
            some, slots=slots, execution=ONE, folders=[folders[i] for i in chosen]
        ):
            assert_same(member, alone[member.row["run_id"]])


def test_runs_that_depend_on_the_horizon_share_no_steps(run):
    for changes in (
        {"optim.warmup_tokens": None},
        {"optim.lr": "0.01 D^-0.1"},
        {"optim.schedule": "cosine"},
    ):
        runs = ladder(run, **changes)[:3]
        assert [r.row["D_shared"] for r in train_pack(runs, execution=ONE)] == [0, 0, 0]
    constant = ladder(run, **{"optim.schedule": "constant"})[:3]
    assert [r.row["D_shared"] for r in train_pack(constant, execution=ONE)] == [2560, 5120, 0]


def test_a_lost_trunk_loses_its_branches_as_each_would_be_alone(run):
    runs = ladder(run, **{"optim.lr": 1e5, "optim.clip": None})[2:5]
    together = train_pack(runs, execution=ONE)
    assert [r.status for r in together] == ["diverged"] * 3
    assert all(r.row["S"] < r.config.S and r.row["error"] for r in together)
