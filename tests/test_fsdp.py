"""Sharded parameters: same numbers as one process, and tensors are whole only while in use."""

from __future__ import annotations

import dataclasses
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

from scaling.config import ModelConfig, OptimConfig, from_dict, override
from scaling.devices.ranks import Ranks
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.models.decoder import Decoder
from scaling.training.fsdp import Sharding
from scaling.training.optim import Optimizer
from scaling.training.state import State
from scaling.training.train import train, train_pack
from scaling.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
SHARDED = dataclasses.replace(ONE, devices=2, shard=True)
CLOSE = {"rel": 1e-5}
"""Tolerance for losses after a few steps in float32, summed in another order."""


@pytest.fixture
def run(text_file):
    """No size is a multiple of two or three; the 31 test windows are odd."""
    shape = {"n_layer": 3, "d_model": 15, "n_head": 3, "n_ctx": 16, "d_ff": 33, "tied": False}
    return from_dict(
        {
            "model": shape,
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "optim.lr": 1e-2,
            "eval": {"test_tokens": 31 * 16, "points": 2, "update_ratio": True},
            "tokens": 8 * 192,
            "batch_tokens": 192,
        }
    )


def curve(result, *names):
    return [point[name] for point in result.curve for name in names]


MODERN = {
    "model.norm": "rmsnorm",
    "model.position": "rope",
    "model.activation": "swiglu",
    "model.qk_norm": True,
    "model.bias": False,
    "model.d_model": 18,
}


@pytest.mark.parametrize(
    "settings, execution, close",
    [
        (MODERN, {"devices": 3, "recompute": True}, CLOSE),
        ({"precision": "bfloat16", "model.tied": True}, {"micro_tokens": 32}, {"rel": 2e-3}),
        ({"model.family": "lstm"}, {}, CLOSE),
        (
            {"model.family": "encoder", "model.next_sentence": True, "model.tied": True},
            {"recompute": True},
            CLOSE,
        ),
    ],
)
def test_sharded_runs_match_one_process(run, settings, execution, close):
    run = override(run, settings)
    alone = train(run, execution=ONE)
    result = train(run, execution=dataclasses.replace(SHARDED, **execution))
    names = "L", "L_train", "grad_norm", "update_norm"
    assert curve(result, *names) == pytest.approx(curve(alone, *names), **close)
    assert result.row["D"] == alone.row["D"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # raised in torch
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # raised in torch
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # elsewhere torch hides it
def test_blocks_are_compiled_when_sharded(run):
    alone = train(run, execution=ONE)
    result = train(run, execution=dataclasses.replace(SHARDED, compile=True, recompute=True))
    assert curve(result, "L", "grad_norm") == pytest.approx(
        curve(alone, "L", "grad_norm"), rel=1e-4
    )


def test_the_noise_scale_of_sharded_ranks_compares_micro_batches_of_all_ranks(run):
    one_step = override(run, {"tokens": 192, "eval.noise_parts": 2})  # 12 sequences
    (point,) = train(one_step, execution=SHARDED).curve
    trainer = Trainer([one_step], ONE, [None])
    # The first micro-batches of both ranks, then the second ones.
    order = [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
    windows_bt = trainer.trajectories[0].leader.tokens.batch(one_step.seed, 0, 12)[order]
    trainer.training_step.gradient(trainer.stack, torch.from_numpy(windows_bt)[None])
    assert trainer.stack.noise is not None
    expected = [float(scale_k) for scale_k in trainer.stack.noise.scales()]
    assert [point["B_noise"], point["B_noise_norm"]] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("recompute", [False, True])
def test_tensors_are_whole_only_while_in_use(run, monkeypatch, recompute):
    run = override(run, {"model.n_layer": 16})
    gather, alive, most = Ranks.gather, [], []

    def counted(ranks, part_ku):
        whole_ku = gather(ranks, part_ku)
        alive.append((StorageWeakRef(whole_ku.untyped_storage()), whole_ku.numel()))
        alive[:] = [(storage, n) for storage, n in alive if not storage.expired()]
        most.append(sum(n for _, n in alive))
        return whole_ku

    monkeypatch.setattr(Ranks, "gather", counted)  # only in rank 0
    train(run, execution=dataclasses.replace(SHARDED, recompute=recompute))
    block = sum(prod(shape) for name, shape in _model(run).shapes.items() if name[:2] == "0.")
    # A layer, the embedding or the output layer, and what gloo's thread frees late.
    assert block <= max(most) < _model(run).P / 3


def _model(run):
    return Decoder(run.model, 256)


@given(
    st.integers(1, 5),
    st.sampled_from([1, 4, 6]),
    st.booleans(),
    st.sampled_from(["matrices", "embeddings", "all"]),
)
def test_the_shards_of_all_ranks_make_up_the_whole_state(size, d_model, tied, decay):
    model = Decoder(ModelConfig(n_layer=2, d_model=d_model, n_head=1, n_ctx=4, tied=tied), 7)
    optim = OptimConfig(decay=decay)
    row_1p = model.init([0])
    whole = Optimizer(row_1p, model, [optim])
    whole.step(torch.randn(1, model.P), [(1e-3, 1e-3)])
    state = State(flat_p=row_1p[0], adamw=whole.row(0), mean_p=2 * row_1p[0])
    each = [Sharding(Decoder(model.model, 7), Ranks(r, size, sharded=True)) for r in range(size)]
    for sharding in each:
        assert torch.equal(sharding.init(0), sharding.own(model.init([0])))
    own = [sharding.own_state(state, optim) for sharding in each]
    assert len({len(mine.flat_p) for mine in own}) == 1

    class StandIn(Ranks):
        """A rank that has the rows of all others."""

        def gather(self, part_ku):
            return torch.cat(next(parts))[None]

    def row(mine, name):
        if name in ("flat_p", "mean_p"):
            return getattr(mine, name)
        return torch.cat([v for key, v in mine.adamw.items() if key.endswith(f".{name}")])

    for name in ("flat_p", "mean_p", "exp_avg", "exp_avg_sq"):
        each[0].ranks = StandIn(0, size)
        parts = zip(*(row(mine, name).split(each[0].sizes) for mine in own), strict=True)
        assert torch.equal(each[0].whole([row(own[0], name)]), row(state, name))
    assert own[0].adamw.keys() == state.adamw.keys()


def test_runs_that_cannot_be_sharded_are_refused(run):
    growing = override(run, {"optim.batch_warmup_tokens": 768, "batch_tokens": 768})
    with pytest.raises(ConfigError, match=r"needs steps that all devices share equally"):
        train(growing, execution=SHARDED)
    with pytest.raises(ConfigError, match=r"optim.optimizer='adafactor' updates them whole"):
        train_pack([override(run, {"optim.optimizer": "adafactor"})], execution=SHARDED)
