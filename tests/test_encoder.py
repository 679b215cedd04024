"""Encoders: attention to both sides, masks, packs, and what cannot be done with them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_weights
from small import SMALL, call
from torch.nn import functional as F

from analysis import compare, fit, load
from scaling.abilities.item import Item, Task
from scaling.abilities.names import SUM
from scaling.abilities.predictor import predictor
from scaling.abilities.pseudo import masked_predictor, pseudo_log_likelihoods
from scaling.abilities.score import score
from scaling.config import ModelConfig, from_dict, override
from scaling.count import CONVENTIONS
from scaling.data import corpus
from scaling.data.masks import ABSENT, ELSEWHERE, NEXT, Masks, train_tokens
from scaling.data.masks import test_windows as held_out_windows_of
from scaling.errors import ConfigError, TableError
from scaling.exchange.harness import harness
from scaling.exchange.text_loss import text_loss
from scaling.execution import Execution
from scaling.generate import bits_per_byte, generate
from scaling.model import build
from scaling.size import flops_per_token, parameters, size_columns
from scaling.table import read, read_tests
from scaling.training.train import Interrupted, train, train_pack
from scaling.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
V = 50
SHAPE = ModelConfig(family="encoder", n_layer=2, d_model=24, n_head=3, d_ff=40, n_ctx=20)


@pytest.fixture
def encoder_run(run):
    return override(run, {"model.family": "encoder", "eval.points": 3, "tokens": 30 * 256})


def noisy(model, seeds):
    generator = torch.Generator().manual_seed(0)
    flat = model.init(seeds).double()
    return flat + 0.3 * torch.randn(flat.shape, generator=generator, dtype=flat.dtype)


def random_windows(k: int, b: int, shape: ModelConfig = SHAPE) -> torch.Tensor:
    """Windows [K, B, 2 T] of random tokens and masks."""
    rng = np.random.default_rng(0)
    input_kbt = rng.integers(0, V + 2, (k, b, shape.n_ctx))
    target_kbt = np.full_like(input_kbt, ABSENT)
    for each in target_kbt.reshape(-1, shape.n_ctx):
        at = rng.choice(np.arange(1, shape.n_ctx), shape.predicted, replace=False)
        each[at] = rng.integers(0, V, shape.predicted)
    target_kbt[:, :, 0] = rng.choice([NEXT, ELSEWHERE], (k, b))
    return torch.from_numpy(np.concatenate([input_kbt, target_kbt], axis=2))


def plain_losses(model, flat, windows):
    """Cross-entropies of masked tokens [K, B, M] and of pairs [K, B] from all logits."""
    T = model.model.n_ctx
    target = windows[:, :, T:]
    logits = model.logits(flat, windows[:, :, :T]).view(*target.shape, V)
    each = F.cross_entropy(logits.flatten(0, 2), target.clamp(min=0).flatten(), reduction="none")
    tokens = each.view(target.shape)[target >= 0].view(*target.shape[:2], -1)
    if not model.model.next_sentence:
        return tokens, torch.zeros(target.shape[:2])
    p = model.named(flat)
    first = model.hidden(p, windows[:, :, :T]).view(*target.shape, -1)[:, :, 0]
    scores = first @ p["next_embedding"].transpose(1, 2)
    label = (target[:, :, 0] == NEXT).long()
    return tokens, F.cross_entropy(scores.flatten(0, 1), label.flatten(), reduction="none").view(
        label.shape
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "rope", "norm": "rmsnorm", "activation": "swiglu"}, {"n_kv_head": 1}],
    ids=["default", "modern", "grouped"],
)
def test_every_position_sees_every_other(changes):
    model = build(dataclasses.replace(SHAPE, **changes), V)
    flat, tokens = noisy(model, [0]), torch.arange(20)[None, None]
    logits = model.logits(flat, tokens)[0]
    for changed in range(20):
        other = tokens.clone()
        other[0, 0, changed] = 40
        moved = (model.logits(flat, other)[0] - logits).abs().amax(1)
        assert (moved > 1e-9).all()
    decoder = build(dataclasses.replace(SHAPE, family="decoder"), V)
    other = tokens.clone()
    other[0, 0, 10] = 40
    flat = noisy(decoder, [0])
    moved = (decoder.logits(flat, other)[0] - decoder.logits(flat, tokens)[0]).abs().amax(1)
    assert (moved[:10] == 0).all() and (moved[10:] > 0).all()


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"next_sentence": True}, {"n_repeat": 2}])
def test_loss_and_gradient_are_those_of_the_masked_tokens(options):
    model = build(dataclasses.replace(SHAPE, **options), V)
    flat, windows = noisy(model, [0, 1]).requires_grad_(), random_windows(2, 4)
    tokens, pairs = plain_losses(model, flat, windows)
    found = model.losses(flat, windows)
    torch.testing.assert_close(found[windows[:, :, 20:] >= 0].view(tokens.shape), tokens.float())
    assert found[:, :, 1:].isnan().sum() == 2 * 4 * (19 - 3)
    if model.model.next_sentence:
        torch.testing.assert_close(found[:, :, 0], pairs.float())
    upstream = torch.tensor([1.0, -2.5])
    plain = tokens.mean((1, 2)) + pairs.mean(1)
    (expected,) = torch.autograd.grad((plain * upstream).sum(), flat)
    loss = model.mean_loss(flat, windows)
    (ours,) = torch.autograd.grad((loss * upstream).sum(), flat)
    torch.testing.assert_close(loss.double(), plain.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours, expected)


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        ModelConfig,
        family=st.just("encoder"),
        n_layer=st.integers(1, 3),
        d_model=st.sampled_from([8, 24]),
        n_ctx=st.integers(8, 40),
        tied=st.booleans(),
        next_sentence=st.booleans(),
        position=st.sampled_from(["learned", "rope"]),
        n_repeat=st.integers(1, 2),
    ),
    st.integers(2, 300),
)
def test_counts_equal_the_built_encoder(shape, vocab_size):
    model = build(shape, vocab_size)
    n = parameters(shape, vocab_size)
    assert n == model.count() and n.N_total == model.P
    assert model.forward_flops() == pytest.approx(flops_per_token(shape, vocab_size, "matmul") / 3)
    twin = dataclasses.replace(shape, family="decoder", next_sentence=False)
    assert n.N == parameters(twin, vocab_size).N  # N compares with decoders
    assert flops_per_token(shape, vocab_size) == flops_per_token(twin, vocab_size)


def test_flops_of_attention_are_not_halved():
    twin = dataclasses.replace(SHAPE, family="decoder")
    found = {name: flops_per_token(SHAPE, V, name) for name in CONVENTIONS}
    causal = {name: flops_per_token(twin, V, name) for name in CONVENTIONS}
    attention = 3 * 2 * 2 * 20 * 24  # the part beyond the matrices: 2 n_layer n_ctx d_model
    assert found["kaplan"] - causal["kaplan"] == attention
    output = 3 * 2 * V * 24 * (1 - 3 / 20)  # 3 of 20 positions have an output
    assert causal["matmul"] - found["matmul"] == pytest.approx(output)
    assert causal["chinchilla"] - found["chinchilla"] == pytest.approx(output)


# ------------------------------------------------------------------ masks


def test_masks_are_a_pure_function_of_seed_and_sequence(encoder_run):
    tokens = train_tokens(corpus.prepare(encoder_run.data), encoder_run)
    together = tokens.batch(3, 10, 70)
    for number in (0, 1, 69):
        alone = train_tokens(corpus.prepare(encoder_run.data), encoder_run)
        assert (alone.batch(3, 10 + number, 1) == together[number]).all()
    assert (tokens.batch(4, 10, 70) != together).any()
    n = len(tokens.starts)  # the second epoch reads the same text under other masks
    assert (tokens.batch(3, n, n)[:, 32:] >= 0).sum() == n * 5
    first, second = (tokens.batch(3, k * n, n)[:, 32:] for k in (0, 1))
    assert len({row.tobytes() for row in np.concatenate([first, second])}) > 1.9 * n


@pytest.mark.parametrize("next_sentence", [False, True])
def test_masks_are_those_of_bert(encoder_run, next_sentence):
    length = {"model.n_ctx": 40, "batch_tokens": 400, "eval.test_tokens": 4000}
    run = override(encoder_run, length | {"model.next_sentence": next_sentence})
    files = corpus.prepare(run.data)
    windows = train_tokens(files, run).batch(0, 0, 2000)
    inputs, targets = windows[:, :40], windows[:, 40:]
    at = targets >= 0
    assert (at.sum(1) == 6).all()  # exactly 15 %
    assert (inputs[:, 0] == 257).all() and not at[:, 0].any()
    became, was = inputs[at], targets[at]
    assert (became == 256).mean() == pytest.approx(0.8, abs=0.015)
    assert (became == was).mean() == pytest.approx(0.1, abs=0.015)
    assert ((became != 256) & (became != was)).mean() == pytest.approx(0.1, abs=0.015)
    assert became[became < 256].max() > 200  # random tokens are from the whole vocabulary
    share = at[:, 1:].mean(0)
    if next_sentence:
        assert not at[:, 20].any() and (inputs[:, 20] == 0).all()
        share = np.delete(share, 19)
        assert (targets[:, 0] == NEXT).mean() == pytest.approx(0.5, abs=0.04)
        assert set(targets[:, 0]) == {NEXT, ELSEWHERE}
    assert share == pytest.approx(6 / len(share), abs=0.04)
    restored = np.where(at, targets, inputs)
    text = files.train.read_bytes()[::2]
    halves = [(1, 20), (21, 40)] if next_sentence else [(1, 40)]
    for row, label in zip(restored[:200], targets[:200, 0], strict=True):
        parts = [bytes(row[a:b].astype(np.uint8)) for a, b in halves]
        assert all(part in text for part in parts)
        if label != ELSEWHERE:
            assert b"".join(parts) in text


def test_halves_from_elsewhere_are_of_the_text_that_a_run_may_see(encoder_run):
    changes = {"model.next_sentence": True, "data.unique_tokens": 10 * 32}
    run = override(encoder_run, changes)
    tokens = train_tokens(corpus.prepare(run.data), run)
    windows = tokens.batch(0, 0, 200)
    restored = np.where(windows[:, 32:] >= 0, windows[:, 32:], windows[:, :32])
    seen = {bytes(tokens.tokens[s + 15 : s + 30].astype(np.uint8)) for s in tokens.starts}
    assert {bytes(row[17:].astype(np.uint8)) for row in restored} == seen


def test_masks_of_the_test_windows_are_fixed(encoder_run):
    files = corpus.prepare(encoder_run.data)
    more = held_out_windows_of(files.test, 4096, encoder_run.model, files)
    fewer = held_out_windows_of(files.test, 1024, encoder_run.model, files)
    assert {row.tobytes() for row in fewer} < {row.tobytes() for row in more}
    assert (more == held_out_windows_of(files.test, 4096, encoder_run.model, files)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 70), st.booleans(), st.integers(0, 2**32), st.integers(2, 300))
def test_a_window_predicts_exactly_its_share_of_tokens(n_ctx, next_sentence, seed, vocab_size):
    model = ModelConfig(family="encoder", n_ctx=n_ctx, next_sentence=next_sentence)
    masks = object.__new__(Masks)
    masks.model, masks.vocab_size, masks.half = model, vocab_size, (n_ctx - 2) // 2
    masks.separator = vocab_size - 1 if next_sentence else None
    text = np.random.default_rng(0).integers(0, vocab_size, (3, n_ctx + 1))
    windows = masks.windows(text, text.ravel(), np.array([0]), seed, 3, np.array([5, 6, 10**9]))
    inputs, targets = windows[:, :n_ctx], windows[:, n_ctx:]
    assert (inputs >= 0).all() and (inputs < vocab_size + 2).all() and (targets < vocab_size).all()
    assert ((targets >= 0).sum(1) == round(0.15 * n_ctx)).all()
    unchanged = targets[:, 1:] < 0
    if not next_sentence:
        assert (inputs[:, 1:][unchanged] == text[:, : n_ctx - 1][unchanged]).all()
        assert (targets[:, 1:][~unchanged] == text[:, : n_ctx - 1][~unchanged]).all()


# ------------------------------------------------------------------ training


def curve(result):
    return [(p["S"], p["L"], p["L_train"], p["lr"]) for p in result.curve]


def test_an_encoder_trains_and_its_row_says_what_it_predicts(encoder_run):
    longer = {"tokens": 120 * 256, "optim.lr": 2e-2, "eval.test_tokens": 4096}
    row = train(override(encoder_run, longer), execution=ONE).row
    assert row["L"] < math.log(256) - 1.5 and row["family"] == "encoder"
    assert row["D_predicted"] == 120 * 8 * 5 and row["D"] == 120 * 256
    assert math.isnan(row["bits_per_byte"]) and math.isnan(row["L_next"])
    decoder = override(encoder_run, {"model.family": "decoder"})
    assert size_columns(decoder)["D_predicted"] == decoder.D


def test_next_sentence_loss_is_reported_apart(encoder_run):
    run = override(encoder_run, {"model.next_sentence": True})
    result = train(run, execution=ONE)
    assert result.row["L_next"] == pytest.approx(math.log(2), abs=0.05)
    assert 0.3 < result.row["next_accuracy"] < 0.7
    assert result.row["L"] < math.log(256)
    first = result.curve[0]
    assert first["L_train"] == pytest.approx(math.log(256) + math.log(2), abs=0.4)
    assert run.run_id != encoder_run.run_id


@pytest.mark.parametrize("options", [{}, {"model.next_sentence": True, "model.tied": False}])
def test_encoders_in_a_pack_equal_single_ones_bit_for_bit(encoder_run, options):
    changes = [{}, {"seed": 1}, {"optim.lr": 3e-3, "tokens": 20 * 256}]
    runs = [override(encoder_run, options | change) for change in changes]
    for member, run in zip(train_pack(runs, execution=ONE), runs, strict=True):
        alone = train(run, execution=ONE)
        assert curve(member) == curve(alone)
        for name in ("L", "L_stderr", "L_next", "next_accuracy"):
            assert member.row[name] == pytest.approx(alone.row[name], rel=0, abs=0, nan_ok=True)
        positions = [t["L_position"] for t in (*member.tests, *alone.tests)]
        np.testing.assert_array_equal(*positions)


def test_an_encoder_resumes_bit_for_bit(encoder_run, tmp_path):
    run = override(encoder_run, {"model.next_sentence": True})
    whole = train(run, execution=ONE)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        train(run, execution=ONE, folder=tmp_path, should_stop=lambda: next(calls) == 15)
    assert curve(train(run, execution=ONE, folder=tmp_path)) == curve(whole)


def test_an_encoder_loss_by_position_is_empty_only_where_nothing_is_predicted(encoder_run):
    result = train(override(encoder_run, {"eval.test_tokens": 8192}), execution=ONE)
    (own,) = result.tests
    assert len(own["L_position"]) == 32 and math.isnan(own["L_position"][0])
    assert np.isfinite(own["L_position"][1:]).all()
    assert np.mean(own["L_position"][1:]) == pytest.approx(own["L"], abs=0.05)


def test_a_sweep_of_encoders_has_complete_tables(here):
    spec = SMALL.replace("n_layer = 1", 'family = "encoder", n_layer = 1')
    Path("encoders.toml").write_text(spec)
    assert call("sweep", "encoders.toml", "--in-process") == 0
    runs, tests = read("results/small"), read_tests("results/small")
    assert (runs.D_predicted == runs.D / 32 * 5).all() and runs.bits_per_byte.isna().all()
    positions = np.stack(list(tests.L_position))
    assert positions.shape == (2, 32) and np.isnan(positions[:, 0]).all()
    assert np.isfinite(positions[:, 1:]).mean() > 0.9
    assert (load("results/small").L == runs.L).all()


def test_micro_batches_and_the_noise_scale_of_an_encoder(encoder_run):
    whole = train(encoder_run, execution=ONE)
    parts = train(encoder_run, execution=dataclasses.replace(ONE, micro_tokens=64))
    assert parts.row["L"] == pytest.approx(whole.row["L"], abs=1e-4)
    noise = train(override(encoder_run, {"eval.noise_parts": 2}), execution=ONE)
    assert noise.row["L"] == pytest.approx(whole.row["L"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # raised in torch
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # raised in torch
@pytest.mark.parametrize("options", [{}, {"model.next_sentence": True}])
def test_a_compiled_encoder_equals_the_plain_one(encoder_run, options):
    run = override(encoder_run, options)
    trainers = [Trainer([run], e, [None]) for e in (ONE, dataclasses.replace(ONE, compile=True))]
    for trainer in trainers:
        trainer.steps(10)
    assert trainers[1].training_step.one_graph is not None
    plain, compiled = (t.stack.loss_sum_k for t in trainers)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=0.0)


# ------------------------------------------------------------------ scores of texts


def test_a_pseudo_log_likelihood_masks_one_token_at_a_time():
    w = random_weights(family="encoder")
    texts = ["The cat sat on the mat", "", "café", "The cat sat on the mat"]
    found = pseudo_log_likelihoods(w, texts)
    for text, value in zip(texts, found, strict=True):
        ids, total = w.tokenizer.encode(text), 0.0
        for k, token in enumerate(ids):
            seen = [w.model.vocab_size + 1, *ids]
            seen[k + 1] = w.model.vocab_size
            logits = w.model.logits(w.flat_1p, torch.tensor([[seen]]))[0, k + 1]
            total += float(logits.log_softmax(0)[token])
        assert value == pytest.approx(total, abs=1e-3)
    with pytest.raises(ConfigError, match="text longer than the context: 'The cat sat"):
        pseudo_log_likelihoods(w, ["The cat sat on the mat. " * 20])
    with pytest.raises(ConfigError, match="predicts the next token"):
        pseudo_log_likelihoods(random_weights(), ["a"])


def test_an_encoder_is_scored_on_pairs_by_pseudo_log_likelihood():
    w = random_weights(family="encoder")
    items = (
        Item("a", "The cat sat on", (" the mat", " mat the"), 0),
        Item("b", "", ("What was it?", "Was what it?"), 1),
    )
    (found,) = score(masked_predictor(w), [(Task(name="pairs", items=items, metric=SUM), 0)])
    texts = [item.context + choice for item in items for choice in item.choices]
    value = np.array(pseudo_log_likelihoods(w, texts)).reshape(2, 2)
    expected = value.argmax(1) == [0, 1]
    assert (found.correct[SUM] == expected).all()
    weight = np.exp(value - value.max(1, keepdims=True))
    share = (weight / weight.sum(1, keepdims=True))[[0, 1], [0, 1]]
    assert found.p_gold[SUM] == pytest.approx(share, abs=1e-3)
    assert np.isnan(found.nll).all() and math.isnan(found.estimates()["bits_per_byte"].value)


def test_tasks_that_ask_an_encoder_for_the_next_token_are_refused(encoder_run, tmp_path, capsys):
    run = override(encoder_run, {"model.n_ctx": 128, "eval.test_tokens": 2048})
    folder = tmp_path / "runs" / run.run_id
    train(run, execution=dataclasses.replace(ONE, keep_weights=True), folder=folder)
    capsys.readouterr()
    for words in (["--tasks", "repeat"], ["--tasks", "in_context"]):
        assert call("eval", tmp_path, *words) == 2
        error = capsys.readouterr().err
        assert f"task {words[1]!r} asks for the next token" in error and "is an encoder" in error
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"id": "a", "context": "The", "choices": [" law", " wal"], "gold": 0}\n'
        '{"id": "b", "context": "A", "choices": [" bill", " libl"], "gold": 0}\n'
    )
    assert call("eval", tmp_path, "--file", own) == 0
    assert "own: accuracy_sum" in capsys.readouterr().out
    assert call("eval", tmp_path, "--file", own, "--shots", "1") == 2
    assert "1 shots of task 'own'" in capsys.readouterr().err
    for words in (
        ["generate", folder, "--prompt", "The"],
        ["export-model", folder, "--to", tmp_path / "hf"],
    ):
        assert call(*words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") <= 3 and "encoder" in error and "Traceback" not in error


def test_nothing_asks_an_encoder_for_the_next_token():
    w = random_weights(family="encoder")
    for ask in (
        lambda: generate(w, "The"),
        lambda: bits_per_byte(w, ["The"]),
        lambda: predictor(w),
        lambda: harness(w, ["piqa"]),
        lambda: text_loss(w, "The cat"),
    ):
        with pytest.raises(ConfigError, match=f"run {w.run.run_id} is an encoder"):
            ask()


# ------------------------------------------------------------------ what is refused


def mixed_table(sweep) -> pd.DataFrame:
    runs, _ = sweep()
    runs["family"] = ["encoder" if k % 2 else "decoder" for k in range(len(runs))]
    return runs


def test_encoders_and_decoders_are_never_in_one_fit(sweep, tmp_path, capsys):
    runs = mixed_table(sweep)
    for use in (load, lambda table: fit("chinchilla", table)):
        with pytest.raises(TableError, match=r"15 of 30 runs are encoders.*family == 'encoder'"):
            use(runs)
    path = tmp_path / "both.csv"
    runs.to_csv(path, index=False)
    for command in ("fit", "plan", "validate", "summary"):
        assert call(command, path, *(["--flops", "1e18"] if command == "plan" else [])) == 2
        error = capsys.readouterr().err
        assert """--where "family == 'encoder'\"""" in error and "Traceback" not in error
    where = "family == 'encoder'"
    assert call("fit", path, "--law", "chinchilla", "--where", where) == 0
    alone = fit("chinchilla", load(path, where=where))
    assert alone.params == pytest.approx(fit("chinchilla", runs[runs.family == "encoder"]).params)
    runs.loc[runs.family == "decoder", "status"] = "failed"
    assert len(load(runs.assign(status=runs.status.fillna("ok")))) == 30


def test_encoders_are_not_compared_with_decoders(sweep):
    runs, _ = sweep()
    with pytest.raises(TableError, match=r"B has encoders.* and A has models of the next token"):
        compare(runs, runs.assign(family="encoder"))


def test_the_settings_of_an_encoder_are_checked():
    with pytest.raises(ConfigError, match="next_sentence is an objective of encoders"):
        ModelConfig(next_sentence=True)
    with pytest.raises(ConfigError, match=r"model\.n_ctx=4 is too short"):
        ModelConfig(family="encoder", n_ctx=4)
    with pytest.raises(ConfigError, match="Did you mean 'encoder'"):
        from_dict({"model.family": "encodr"})
