"""Tokens per step of batches that are split, counts of sequences, and gated layers."""

from __future__ import annotations

import numpy as np
import pytest
from test_guess import N, read, refusal

SHAPE = {"n_layer": [6, 8, 12, 24, 30], "n_embd": [384, 512, 768, 1024, 1536]}
STEPS = np.array([600, 1600, 3000, 60000, 70000])
LOSS = np.array([4.3, 3.6, 3.3, 2.7, 2.6])
TOKENS = {"block_size": 1024, "max_iters": STEPS, "val_loss": LOSS}
HF = {
    "num_hidden_layers": SHAPE["n_layer"], "hidden_size": SHAPE["n_embd"], "max_steps": STEPS,
    "max_position_embeddings": 1024, "eval_loss": LOSS,
}  # fmt: skip


def test_nanogpt_counts_a_micro_batch():
    runs = SHAPE | TOKENS | {"batch_size": 32, "gradient_accumulation_steps": 8}
    table, note = read(runs, need=("N", "D", "L"))
    assert np.allclose(table["D"], STEPS * 32 * 8 * 1024.0) and "micro-batch" in note


def test_a_batch_per_device_is_multiplied_by_devices_and_accumulation():
    split = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "world_size": 2}
    table, note = read(HF | split, need=("N", "D", "L"))
    assert np.allclose(table["D"], STEPS * 8 * 4 * 2 * 1024.0)
    del split["world_size"]
    table, note = read(HF | split, need=("N", "D", "L"))
    assert np.allclose(table["D"], STEPS * 8 * 4 * 1024.0) and "that of one device" in note


def test_devices_are_counted_by_nodes():
    split = {"batch_size_per_gpu": 8, "num_nodes": 2, "gpus_per_node": 4}
    table, note = read(HF | split, need=("N", "D", "L"))
    assert np.allclose(table["D"], STEPS * 8 * 2 * 4 * 1024.0) and "one device" not in note


@pytest.mark.parametrize(("size", "tokens"), [(64, 64), (16, 64), (8, 64), (24, None)])
def test_a_batch_beside_that_of_one_device_holds_what_their_ratio_says(size, tokens):
    split = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "world_size": 2}
    runs = HF | split | {"train_batch_size": size}
    if tokens is None:
        text = refusal(runs, need=("N", "D", "L"))
        assert "--map 'train_batch_size*max_position_embeddings=B'" in text
        return
    table, _ = read(runs, need=("N", "D", "L"))
    assert np.allclose(table["D"], STEPS * tokens * 1024.0)


def test_a_batch_that_may_be_split_is_refused_with_both_readings():
    runs = HF | {"batch_size": 32, "num_gpus": 8}
    text = refusal(runs, need=("N", "D", "L"))
    assert "batch_size*max_position_embeddings=B" in text
    assert "batch_size*num_gpus*max_position_embeddings=B" in text
    table, _ = read(HF | {"global_batch_size": 32, "num_gpus": 8}, need=("N", "D", "L"))
    assert np.allclose(table["D"], STEPS * 32 * 1024.0)
    known = runs | {"tokens": STEPS * 32 * 8 * 1024.0}  # tokens and steps decide
    table, _ = read(known, need=("N", "D", "L", "B"))
    assert np.allclose(table["B"], 32 * 8 * 1024)


@pytest.mark.parametrize("name", ["train_samples", "samples_seen", "consumed_samples", "sequences"])
def test_counts_of_sequences_are_refused_with_the_product_that_counts_tokens(name):
    text = refusal({"params": N, name: STEPS * 256, "seq_len": 1024, "loss": LOSS})
    assert "counts sequences" in text and f"--map '{name}*seq_len=D'" in text


@pytest.mark.parametrize("column", [
    {"hidden_act": "silu"}, {"activation": "swiglu"}, {"swiglu": True}, {"use_swiglu": "true"},
    {"mlp_type": "SwiGLU"}, {"model.hidden_act": "silu"},
])  # fmt: skip
def test_gated_layers_have_three_matrices(column):
    d, layers = np.array(HF["hidden_size"]), np.array(HF["num_hidden_layers"])
    sizes = {"intermediate_size": 3 * d, "train_batch_size": 32}
    gated, note = read(HF | sizes | column, need=("N", "D", "L"))
    assert np.allclose(gated["N"], layers * (4 * d**2 + 9.0 * d**2)) and "3 d_model d_ff" in note
    plain, _ = read(HF | sizes | {"hidden_act": "gelu"}, need=("N", "D", "L"))
    assert np.allclose(plain["N"], layers * (4 * d**2 + 6.0 * d**2))
