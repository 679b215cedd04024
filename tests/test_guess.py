"""What columns mean, guessed from their names and values: for any tool, in any order."""

from __future__ import annotations

import re
import shlex
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import call

from analysis import load
from analysis.planning.accelerators import GPUS, gpu_name
from scaling.cli.arguments import column_map
from scaling.errors import ConfigError, TableError
from scaling.units import number

N = np.array([2.1e7, 5.3e7, 1.2e8, 3.1e8, 7.4e8])
D = np.array([1.05e8, 8.4e8, 1.2e9, 1.55e10, 3.7e10])
L = 1.8 + 400 * N**-0.34 + 1500 * D**-0.36
SHAPE = {"n_layer": [6, 8, 12, 24, 30], "width": [384, 512, 768, 1024, 1536]}


def read(table, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load(pd.DataFrame(table), **options)
    return found, " | ".join(str(each.message) for each in caught)


def refusal(table, **options):
    with pytest.raises(TableError) as caught:
        read(table, **options)
    return str(caught.value)


@pytest.mark.parametrize("header", [
    ("params", "tokens", "loss"),
    ("n_params", "n_tokens", "val_loss"),
    ("num_params", "train_tokens", "val/loss"),
    ("nparams", "tokens_seen", "test_loss"),
    ("numParams", "trainTokens", "testLoss"),
    ("Params", "Tokens", "Loss"),
    ("# Params", "Training Tokens", "Validation Loss"),
    ("#params", "tokens processed", "final_loss"),
    ("model.params", "data.tokens", "metrics.val.loss"),
    ("config.model.params", "config.tokens", "summary.val.loss"),
    ("model/n_params", "train/tokens", "eval/loss"),
    ("non_embedding_params", "total_tokens", "eval_loss"),
    ("n_params_non_embedding", "tokens_consumed", "cross_entropy"),
    ("trainable_params", "training_tokens", "nll"),
    ("param_count", "token_count", "heldout_loss"),
    ("Number of parameters", "Number of training tokens", "Test loss (nats/token)"),
    ("model_size", "tokens", "loss_value"),
    ("total_parameters", "num_tokens", "ce_loss"),
    ("active_params", "TrainTokens", "final_val_loss"),
    ("N_params", "D_tokens", "L_test"),
    ("paramcount", "cum_tokens", "loss_per_token"),
    ("Parameter", "Token", "Verlust"),
    ("Parameteranzahl", "Trainings-Token", "Testverlust"),
    ("paramètres", "jetons", "perte"),
    ("nombre de paramètres", "tokens", "perte de validation"),
    ("parámetros", "tokens", "pérdida"),
    ("parametros", "tokens", "perdida"),
    ("parametri", "token", "perdita"),
    ("参数量", "令牌数", "损失"),
    ("参数量", "词元数", "验证损失"),
    ("パラメータ数", "トークン数", "検証損失"),
    ("parameters/n_params", "parameters/tokens", "metrics/val/loss"),
    ("data.params.n_params", "data.params.tokens", "data.metrics.val_loss"),
    ("n_params", "tokens", "neg_log_likelihood"),
    ("параметры", "токены", "потери"),
])  # fmt: skip
def test_names_of_parameters_tokens_and_losses(header):
    found, note = read(dict(zip(header, (N, D, L), strict=True)))
    assert np.allclose(found[["N", "D", "L"]].to_numpy(), np.column_stack([N, D, L]))
    assert "N 21M to 740M parameters, D 105M to 37B tokens, L 2.42" in note
    option = re.search(r"--map (?:'[^']*'|\S+)(?=:)", note)[0]
    again = load(pd.DataFrame(dict(zip(header, (N, D, L), strict=True))),
                 map=column_map(shlex.split(option)[1:]))  # fmt: skip
    assert np.allclose(again[["N", "D", "L"]], found[["N", "D", "L"]])


@pytest.mark.parametrize(("name", "values", "symbol"), [
    ("params_M", N / 1e6, "N"), ("params (M)", N / 1e6, "N"), ("paramsM", N / 1e6, "N"),
    ("Params [millions]", N / 1e6, "N"), ("params_B", N / 1e9, "N"), ("N (M)", N / 1e6, "N"),
    ("params (1e6)", N / 1e6, "N"), ("# params (B)", N / 1e9, "N"),
    ("log10_params", np.log10(N), "N"),
    ("log_params", np.log10(N), "N"), ("ln_params", np.log(N), "N"), ("log_params", np.log(N), "N"),
    ("params_M", N, "N"), ("log10(N)", np.log10(N), "N"), ("params x1e6", N / 1e6, "N"),
    ("log(N)", np.log10(N), "N"), ("exp(loss)", np.exp(L), "L"), ("tokens×10⁹", D / 1e9, "D"),
    ("params", [f"{n / 1e6:.0f}M" for n in N], "N"),
    ("tokens_B", D / 1e9, "D"), ("tokens (B)", D / 1e9, "D"), ("Tokens [billions]", D / 1e9, "D"),
    ("tokens_M", D / 1e6, "D"), ("D (B)", D / 1e9, "D"), ("D_B", D / 1e9, "D"),
    ("train tokens (10^9)", D / 1e9, "D"), ("log10(tokens)", np.log10(D), "D"),
    ("log2_tokens", np.log2(D), "D"), ("Mparams", N / 1e6, "N"), ("Btokens", D / 1e9, "D"),
    ("参数量(亿)", N / 1e8, "N"),
    ("flops", 6 * N * D, "C"), ("compute (PF-days)", 6 * N * D / 8.64e19, "C"),
    ("pf_days", 6 * N * D / 8.64e19, "C"), ("exaFLOPs", 6 * N * D / 1e18, "C"),
    ("log10_flops", np.log10(6 * N * D), "C"), ("FLOPs (1e18)", 6 * N * D / 1e18, "C"),
    ("total_flos", 6 * N * D, "C"),
    ("perplexity", np.exp(L), "L"), ("ppl", np.exp(L), "L"), ("val_ppl", np.exp(L), "L"),
    ("log_ppl", L, "L"), ("Perplexité", np.exp(L), "L"), ("bits_per_token", L / np.log(2), "L"),
    ("loss (bits)", L / np.log(2), "L"), ("log10_loss", np.log10(L), "L"),
    ("log10_ppl", L / np.log(10), "L"),
])  # fmt: skip
def test_units_that_a_name_tells(name, values, symbol):
    whole = {"N": N, "D": D, "C": 6 * N * D, "L": L}
    table = {name: values, **{key: whole[key] for key in "NDL" if key != symbol}}
    if symbol == "C":
        del table["D"]
    found, note = read(table)
    assert np.allclose(found[symbol].astype(float), whole[symbol], rtol=0.02), note
    assert np.allclose(found["D"], D, rtol=0.02)


@pytest.mark.parametrize(("table", "alternatives"), [
    ({"N": N, "D": D, "val/loss": L, "test_loss": L + 0.1}, ["val/loss=L", "test_loss=L"]),
    ({"N": N, "D": D, "val loss": L, "test loss": L + 0.1}, ["'val loss=L'", "'test loss=L'"]),
    ({"non_embedding_params": N, "total_params": 1.3 * N, "D": D, "L": L},
     ["non_embedding_params=N", "total_params=N"]),
    ({"active_params": N, "total_params": 8 * N, "D": D, "L": L},
     ["active_params=N", "total_params=N"]),
    ({"params": N / 1e6, "D": D, "L": L}, ["'1e6*params=N'", "'1e9*params=N'"]),
    ({"N": N, "D": D, "log_loss": np.full(5, 1.9) + N / 1e10}, ["log_loss=L", "'exp(log_loss)=L'"]),
    ({"N": N, "L": L, "steps": D / 2**20, "batch_size": 2.0**15 + N * 0, "seq_len": 1024.0 + N * 0},
     ["'batch_size*seq_len=B'", "batch_size=B"]),
])  # fmt: skip
def test_two_equal_candidates_are_refused_with_options_to_paste(table, alternatives):
    message = refusal(table)
    options = [f"--map {each}" for each in alternatives]
    assert all(option in message for option in options) and " or --map" in message
    for option in options:
        names = column_map(shlex.split(option)[1:])
        found, _ = read(table, map=names)
        assert len(found) == 5


@pytest.mark.parametrize(("losses", "chosen"), [
    (["train_loss", "val_loss"], "val_loss"),
    (["train/loss", "eval/loss"], "eval/loss"),
    (["loss", "test_loss"], "test_loss"),
    (["final_val_loss", "min_val_loss"], "final_val_loss"),
    (["val_loss", "best_val_loss"], "val_loss"),
    (["val_loss", "val_loss_ema"], "val_loss"),
    (["val_loss", "val_loss_stderr"], "val_loss"),
    (["val_loss", "val_accuracy"], "val_loss"),
    (["loss", "loss_scale"], "loss"),
    (["loss", "aux_loss"], "loss"),
    (["val_loss", "val_bpb"], "val_loss"),
    (["train_loss", "grad_norm"], "train_loss"),
])  # fmt: skip
def test_held_out_and_final_losses_come_first(losses, chosen):
    table = {"N": N, "D": D} | {name: L + 0.1 * (name != chosen) for name in losses}
    found, note = read(table)
    assert np.allclose(found["L"], L) and f"{chosen}=L" in note
    assert ("training loss" in note) == (chosen == "train_loss")


@pytest.mark.parametrize("name", [
    "accuracy", "val/accuracy", "runtime", "grad_norm", "learning_rate", "loss_scale", "aux_loss",
    "tokens_per_second", "vocab_size", "loss_weight", "predicted_loss", "eval_time",
    "train_loss_std", "relative_loss", "normalized_loss", "loss_sum", "excess loss", "loss %",
])  # fmt: skip
def test_what_is_no_loss(name):
    assert "no column 'L'" in refusal({"N": N, "D": D, name: L})


@pytest.mark.parametrize("name", [
    "tokens_per_second", "val_tokens", "vocab_size", "tokens_per_step", "unique_tokens",
    "warmup_tokens",
])  # fmt: skip
def test_what_are_no_training_tokens(name):
    assert "no column 'D'" in refusal({"N": N, "L": L, name: D})


def test_own_symbols_are_used_without_a_word():
    found, note = read({"N": N, "D": D, "L": L, "params": 3 * N, "val_loss": L + 1, "flops": N})
    assert note == "" and "guessed" not in found.attrs and np.allclose(found["N"], N)


def test_a_map_is_completed_and_never_changed():
    table = {"width_params": N, "params": 2 * N, "tokens": D, "loss": L}
    found, note = read(table, map={"width_params": "N"})
    assert np.allclose(found["N"], N) and found.attrs["guessed"] == {"tokens": "D", "loss": "L"}
    assert "the other columns are taken as by --map width_params=N,tokens=D,loss=L" in note
    assert "params" in found.columns  # columns that were guessed stay under their names too


def test_equal_columns_are_no_question():
    found, _ = read({"params": N, "params_M": np.round(N / 1e6, 1), "tokens": D, "loss": L})
    assert np.allclose(found["N"], N)


def test_other_columns_are_added_if_they_are_clear():
    table = {
        "params": N,
        "tokens": D,
        "loss": L,
        "lr": 1e-3,
        "seed": 1,
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "flops": 6.5 * N * D,
        "steps": D / 5e5,
        "batch_tokens": 5e5,
    }
    found, note = read(table)
    assert {"lr_peak", "seed", "n_layer", "d_model", "C", "S", "B"} <= set(found.columns)
    assert np.allclose(found["C"], 6.5 * N * D) and note.count("--map") == 1
    strange, _ = read(table | {"flops": 1e3, "steps": 7.0})  # FLOPs per token, say
    assert np.allclose(strange["C"], 6 * N * D) and not (strange["S"] == 7).any()


def test_runs_are_told_apart_by_their_names():
    points = {
        "params": np.repeat(N, 2),
        "tokens": np.repeat(D, 2) * np.tile([0.5, 1], 5),
        "loss": np.repeat(L, 2) + np.tile([0.2, 0], 5),
    }
    found, _ = read(points | {"run": np.repeat(list("abcde"), 2)}, need=("N", "D", "L"))
    assert found["run_id"].tolist() == list("aabbccddee")
    models, _ = read(points | {"model": np.repeat(list("abcde"), 2)}, need=("N", "D", "L"))
    assert "run_id" not in models  # one model may be trained many times
    groups, _ = read(points | {"run": list("ab") * 5}, need=("N", "D", "L"))
    assert "run_id" not in groups  # runs of several sizes are no runs


def test_the_rows_of_a_history_are_those_of_their_run():
    points = {
        "params": np.repeat(N, 4),
        "_step": np.tile([1, 2, 2, 3], 5),
        "tokens": np.tile([1e9, 2e9, 2e9, 3e9], 5),
        "loss": np.tile([4.0, 3.9, 3.5, 3.4], 5) - np.repeat(np.arange(5) / 10, 4),
    }
    for more in ({}, {"State": "finished"}):
        table = points | {"Name": np.repeat(list("abcde"), 4)} | more
        found, note = read(table, need=("N", "D", "L"), rows="auto")
        assert len(found) == 15 and "written again by a resumed run" in note
    steps = {"steps" if name == "_step" else name: v for name, v in points.items()}
    models, _ = read(steps | {"name": np.repeat(list("abcde"), 4)}, need=("N", "D", "L"))
    assert "run_id" not in models  # steps may be a setting of many runs of one model


def test_a_name_that_few_rows_share_is_of_resumed_runs():
    rows = {"params": [*N, N[0]], "tokens": [*D, 2 * D[0]], "loss": [*L, 4.5]}
    found, _ = read(rows | {"name": list("abcdea")}, need=("N", "D", "L"))
    assert found["run_id"].tolist() == list("abcdea")


def test_a_few_rows_in_another_unit_and_losses_of_diverged_runs_are_warned_of():
    mixed = {"params": [*N[:-1], 740.0], "tokens": D, "loss": L}
    _, note = read(mixed, need=("N", "D", "L"))
    assert "1 of 5 rows has N below 1000, first at row 4 (N=740)" in note
    _, note = read({"params": N, "tokens": D, "loss": [*L[:-1], 9999]}, need=("N", "D", "L"))
    assert "1 of 5 losses is above 20" in note and '--where "L < 20"' in note


# ------------------------------------------------------------------ perplexity and bits


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_a_perplexity_is_converted_whatever_its_size(level):
    small = {"params": N, "tokens": D, "ppl": np.exp(level * L / L.max())}
    for options in ({}, {"map": {"ppl": "L"}}):
        found, note = read(small, **options)
        assert np.allclose(found["L"], level * L / L.max()) and "log(ppl)=L" in note
    bits, note = read(small | {"bits": L}, map={"bits": "L"})
    assert np.allclose(bits["L"], L * np.log(2)) and "bits per token" in note
    expression, note = read(small, map={"log(ppl)": "L"})
    assert np.allclose(expression["L"], level * L / L.max()) and "perplexity" not in note


def test_a_perplexity_of_words_or_bytes_is_never_taken_for_nats():
    for name in ("word_ppl", "byte_perplexity", "ppl per character"):
        for options in ({}, {"map": {name: "L"}}):
            found, note = read({"params": N, "tokens": D, name: np.exp(L)}, **options)
            assert np.allclose(found["L"], L) and "not in nats per token" in note


@pytest.mark.parametrize(("name", "factor"), [
    ("loss (log2)", np.log(2)), ("cross_entropy_base2", np.log(2)), ("loss base 2", np.log(2)),
    ("loss (log10)", np.log(10)),
])  # fmt: skip
def test_a_loss_in_another_base_is_converted(name, factor):
    found, note = read({"params": N, "tokens": D, name: L / factor}, need=("N", "D", "L"))
    assert np.allclose(found["L"], L) and ("bits" in note or "base 10" in note)


def test_a_base_that_may_be_of_the_unit_or_of_a_logarithm_is_asked_for():
    text = refusal({"params": N, "tokens": D, "loss log2": np.log2(L)}, need=("N", "D", "L"))
    assert "2**`loss log2`=L" in text and "log(2)*`loss log2`=L" in text


def test_bits_per_byte_are_not_converted_but_warned_of():
    for name in ("bpb", "val_bpb", "bits per byte", "bits_per_character"):
        found, note = read({"params": N, "tokens": D, name: L / 4})
        assert np.allclose(found["L"], L / 4) and "looks like bits" in note


# ------------------------------------------------------------------ shapes and batches


def test_N_is_counted_from_the_shape_and_D_from_steps():
    table = {
        "n_layers": SHAPE["n_layer"],
        "hidden_size": SHAPE["width"],
        "loss": L,
        "max_steps": D / 2**18,
        "global_batch_size": 256,
        "seq_len": 1024,
    }
    found, note = read(table)
    layers, width = np.array(SHAPE["n_layer"]), np.array(SHAPE["width"])
    assert np.allclose(found["N"], 12.0 * layers * width**2) and np.allclose(found["D"], D)
    assert "N = 12 n_layer d_model^2" in note and "d_ff taken as 4 d_model" in note
    assert "Kaplan et al. 2020, eq. 2.1" in found.attrs["derived"]["N"]
    assert "'global_batch_size' is taken in sequences of 'seq_len' tokens" in note
    given, note = read(table | {"intermediate_size": 1000})
    assert np.allclose(given["N"], layers * (4.0 * width**2 + 2 * width * 1000))
    assert "2 d_model d_ff" in note and "taken as 4" not in note
    gated, _ = read(table | {"intermediate_size": 1000, "activation": "swiglu"})
    assert np.allclose(gated["N"], layers * (4.0 * width**2 + 3 * width * 1000))
    grouped, _ = read(table | {"n_heads": 8, "n_kv_heads": 2})
    assert np.allclose(grouped["N"], layers * (2.5 + 8.0) * width**2)
    counted, note = read(table | {"params": N})
    assert np.allclose(counted["N"], N) and "eq. 2.1" not in note


def test_the_shape_agrees_with_the_exact_count():
    from scaling.model_config import ModelConfig
    from scaling.size import parameters

    exact = [
        parameters(ModelConfig(n_layer=n, d_model=d, n_head=2), 1000).N_kaplan
        for n, d in zip(SHAPE["n_layer"], SHAPE["width"], strict=True)
    ]
    found, _ = read({"layers": SHAPE["n_layer"], "d_model": SHAPE["width"], "D": D, "L": L})
    assert np.allclose(found["N"], exact)


@pytest.mark.parametrize(("batch", "tokens"), [
    ({"batch_tokens": 2.0**18}, 2**18), ({"tokens_per_step": 2.0**18}, 2**18),
    ({"batch_size": 2.0**18}, 2**18), ({"batch_size": 256, "context_length": 1024}, 2**18),
    ({"bs": 256, "block_size": 1024}, 2**18), ({"batch_size": 2.0**22, "seq_len": 1024}, 2**22),
    ({"global_batch_size_tokens": 2.0**18, "seq_len": 1024}, 2**18),
])  # fmt: skip
def test_a_batch_in_tokens_or_in_sequences(batch, tokens):
    table = {"params": N, "loss": L, "steps": D / tokens}
    table |= {name: np.full(5, float(value)) for name, value in batch.items()}
    found, _ = read(table)
    assert np.allclose(found["D"], D)


def test_tokens_from_tokens_per_parameter():
    found, _ = read({"params": N, "tokens_per_param": D / N, "loss": L})
    assert np.allclose(found["D"], D)


# ------------------------------------------------------------------ order and company

BASE = {"n_params": N, "train/tokens": D, "val/loss": L, "train/loss": L + 0.1, "lr": 1e-3 + 0 * N}
STRANGE = st.sampled_from([
    "comment", "gpu", "wall_clock", "accuracy", "loss_scale", "tokens_per_second", "x", "Unnamed",
    "grad_norm", "warmup_steps", "val_tokens", "embedding_params", "aux_loss", "cost (USD)",
    "mmlu", "eval/accuracy", "loss_std", "run_time", "notes", "git hash", "dropout",
])  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(order=st.permutations(list(BASE)), strange=st.lists(STRANGE, unique=True, max_size=4))
def test_order_and_unrelated_columns_never_change_the_guess(order, strange):
    table = dict.fromkeys(strange, 1.0 + 0 * N) | {name: BASE[name] for name in order}
    found, _ = read(table)
    assert found.attrs["guessed"] == {
        "n_params": "N", "train/tokens": "D", "val/loss": "L", "lr": "lr_peak"
    }  # fmt: skip


# ------------------------------------------------------------------ the command line


@pytest.mark.filterwarnings("default")
def test_fit_without_a_map_prints_one_note(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(16, 20, 30)), np.exp(rng.uniform(19, 24, 30))
    loss = 1.8 + 400 * n**-0.34 + 1500 * d**-0.36
    pd.DataFrame({"params": n, "tokens": d, "val/loss": loss}).to_csv(path, index=False)
    assert call("fit", str(path), "--bootstrap", "0") == 0
    out, err = capsys.readouterr()
    assert "chinchilla" in out and err.count("note:") == 1
    option = re.search(r"--map \S+(?=:)", err)[0]
    assert call("fit", str(path), *shlex.split(option), "--bootstrap", "0") == 0
    again, err = capsys.readouterr()
    assert again == out and err == ""
    pd.DataFrame({"params": n, "tokens": d, "val loss": loss, "test loss": loss + 1}).to_csv(
        path, index=False
    )
    assert call("fit", str(path)) == 2
    err = capsys.readouterr().err
    assert "--map 'val loss=L' or --map 'test loss=L'" in err and "map={" not in err


@pytest.mark.parametrize(("text", "value"), [
    ("7B", 7e9), ("7b", 7e9), ("2T", 2e12), ("1e21", 1e21), ("1,000,000", 1e6), ("1.5 T", 1.5e12),
    ("2e12", 2e12), ("10 PF-days", 8.64e20), ("1 000 000", 1e6), ("70M", 7e7), ("7B params", 7e9),
    (".5M", 5e5), ("1_000", 1e3),
])  # fmt: skip
def test_numbers_of_options(text, value):
    assert number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "B", "12,34", "7 bananas", "1.2.3", "--"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="is not a number, such as 7e9, 7B"):
        number(text)


@pytest.mark.parametrize(("text", "name"), [
    ("H100", "h100"), ("h100-sxm", "h100"), ("H100 SXM5 80GB", "h100"), ("A100 80GB", "a100"),
    ("RTX 4090", "rtx4090"), ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ("NVIDIA H100 PCIe", "h100-pcie"),
    ("nvidia a100-sxm4-40gb", "a100"), ("TPU v4", "tpu-v4"), ("tpu_v5p", "tpu-v5p"),
    ("MI300X", "mi300x"), ("AMD Instinct MI300X", "mi300x"), ("H200 141GB", "h200"),
    *((name, name) for name in GPUS),
])  # fmt: skip
def test_names_of_accelerators(text, name):
    assert gpu_name(text) == name


def test_an_unknown_accelerator_names_its_neighbours():
    with pytest.raises(ConfigError, match=r"gpu='L40' is not known\. Did you mean 'l4' or"):
        gpu_name("L40")


def test_searches_of_a_learning_rate_are_warned_of():
    runs = {
        name: np.tile(values, 3) for name, values in (("params", N), ("tokens", D), ("loss", L))
    }
    _, note = read(runs | {"lr": np.repeat([1e-4, 1e-3, 1e-2], 5)}, need=("N", "D", "L"))
    assert "up to 3 learning rates at one N and D" in note
    _, note = read({"params": N, "tokens": D, "loss": L, "lr": 0.01}, need=("N", "D", "L"))
    assert "learning rates" not in note
