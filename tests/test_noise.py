"""The gradient noise scale, compared with exact values."""

from __future__ import annotations

import pytest
import torch

from scaling.config import ModelConfig, from_dict, override
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.models.decoder import Decoder
from scaling.training.noise import NoiseScale, moments
from scaling.training.train import Interrupted, train, train_pack
from scaling.training.trainer import Trainer

ONE = Execution(threads=1, device="cpu")


def test_moments_of_gaussian_gradients():
    """Both moments and their ratio are right for gradients G + N(0, Sigma) of tokens, for two
    models."""
    generator = torch.Generator().manual_seed(0)
    G = torch.tensor([[0.5, -1.0, 0.25], [2.0, 0.0, 0.0]], dtype=torch.float64)
    sigma = torch.tensor(
        [[1.0, 2.0, 0.5], [3.0, 1.0, 4.0]], dtype=torch.float64
    )  # standard deviations
    noise = NoiseScale(torch.zeros(2, NoiseScale.SIZE, dtype=torch.float64))
    estimates = []
    for _ in range(4000):  # 8 micro-batches of 4 tokens
        parts = (
            G[:, None]
            + sigma[:, None]
            * torch.randn(2, 8, 3, generator=generator, dtype=torch.float64)
            / 4**0.5
        )
        small, big = parts.square().sum(2).mean(1), parts.mean(1).square().sum(1)
        noise.update((small, 4), (big, 32), (small, 4), big)
        estimates.append(torch.stack(moments(small, big, 4, 32)))
    trace, square = torch.stack(estimates).mean(0)
    torch.testing.assert_close(trace, sigma.square().sum(1), rtol=0.03, atol=0)
    torch.testing.assert_close(square, G.square().sum(1), rtol=0.05, atol=0)
    scales, cross = noise.scales()
    assert (scales == cross).all()
    # The running mean covers only about 50 steps.
    torch.testing.assert_close(scales, sigma.square().sum(1) / G.square().sum(1), rtol=0.4, atol=0)


def test_running_means_are_corrected_for_their_start():
    noise = NoiseScale(torch.zeros(1, NoiseScale.SIZE, dtype=torch.float64))
    for steps in range(1, 4):
        small, big = torch.tensor([3.0]), torch.tensor([2.0])
        noise.update((small, 1), (big, 2), (small, 1), big)
        # |G|^2 = (2 2 - 1 3) / 1, tr = (3 - 2) / (1 - 1/2), whatever the number of steps
        assert noise.moments()[0].tolist() == pytest.approx([2.0, 1.0, 2.0, 1.0]), steps


def test_the_scale_is_nan_when_noise_hides_the_gradient():
    noise = NoiseScale(torch.zeros(1, NoiseScale.SIZE, dtype=torch.float64))
    noise.update(
        (torch.tensor([3.0]), 1),
        (torch.tensor([1.0]), 2),
        (torch.tensor([3.0]), 1),
        torch.tensor([1.0]),
    )
    assert noise.scales()[0].isnan().all()


@pytest.fixture
def run(text_file, own_cache):
    return from_dict(
        {
            "model": {"n_layer": 2, "d_model": 16, "n_head": 2, "n_ctx": 16},
            "data": {"corpus": str(text_file), "tokenizer": "bytes", "unique_tokens": 64 * 16},
            "optim.lr": 3e-3,
            "eval": {"test_tokens": 1024, "points": 3, "noise_parts": 4, "update_ratio": True},
            "tokens": 24 * 128,
            "batch_tokens": 128,
        }
    )


def test_both_estimates_match_the_gradients_of_all_sequences(run):
    """Sigma and G are computed exactly from the gradients of all 64 sequences of the data."""
    trainer = Trainer([run], ONE, [None])
    model, flat = trainer.model, trainer.stack.flat_kp
    windows = torch.from_numpy(trainer.trajectories[0].leader.tokens.batch(0, 0, 64))
    each = []
    for window in windows:
        loss = model.mean_loss(flat, window[None, None])
        each.append(torch.autograd.grad(loss.sum(), flat)[0][0].double())
    grads = torch.stack(each)
    gains = torch.zeros(1, model.P)
    for name in model.gains:
        model.named(gains)[name].fill_(1)
    exact = []
    for which in (gains[0] * 0 + 1, gains[0]):
        mine = grads * which
        G = mine.mean(0)
        exact.append((16 * (mine - G).square().sum(1).mean() / G.square().sum()).item())
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, 4, dtype=torch.float64)
    for _ in range(150):
        drawn = windows[torch.randint(0, 64, (8,), generator=generator)]
        trainer.stack.noise = NoiseScale(torch.zeros(1, NoiseScale.SIZE, dtype=torch.float64))
        trainer.training_step.gradient(trainer.stack, drawn[None])
        total += trainer.stack.noise.moments()
    trace, square, trace_norm, square_norm = total[0].tolist()
    assert trace / square == pytest.approx(exact[0], rel=0.1)
    assert trace_norm / square_norm == pytest.approx(exact[1], rel=0.1)


def test_a_run_records_the_scale_and_packs_and_resumes_agree(run, tmp_path):
    other = override(run, {"seed": 3, "optim.lr": 1e-3})
    whole = train(run, execution=ONE)
    last = whole.curve[-1]
    assert last["B_noise"] > 0 and last["B_noise_norm"] > 0 and last["grad_norm"] > 0
    plain = train(override(run, {"eval.noise_parts": None}), execution=ONE)
    assert whole.row["L"] == pytest.approx(plain.row["L"], abs=1e-4)  # sums of four micro-batches
    assert plain.curve[-1]["B_noise"] != plain.curve[-1]["B_noise"]
    together = train_pack([run, other], execution=ONE)
    assert together[0].curve == whole.curve
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=lambda: next(calls) >= 13)
    assert train(run, execution=ONE, folder=tmp_path).curve == whole.curve
    with pytest.raises(ConfigError, match=r"differ in eval\.noise_parts"):
        train_pack([run, override(run, {"eval.noise_parts": 2})], execution=ONE)


def test_noise_parts_must_divide_a_step(run):
    with pytest.raises(
        ConfigError, match=r"noise_parts=3 does not divide the 8 sequences .* use 2"
    ):
        override(run, {"eval.noise_parts": 3})
    with pytest.raises(ConfigError, match="must be at least 2"):
        override(run, {"eval.noise_parts": 1})


def test_gains_repeated_per_sequence_give_the_same_loss():
    model = Decoder(ModelConfig(n_layer=2, d_model=8, n_head=2, n_ctx=8, norm="rmsnorm"), 32)
    flat = model.init([0, 1]).double()
    p = model.named(flat)
    each = {name: p[name][:, None].expand(-1, 3, -1).flatten(0, 1) for name in model.gains}
    windows = torch.randint(0, 32, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.mean_loss(flat, windows, each), model.mean_loss(flat, windows))
