"""RunConfig: identity, overrides, invalid values."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import laws
from scaling.config import (
    RECIPE,
    OptimConfig,
    RunConfig,
    canonical,
    fields_of,
    flatten,
    from_dict,
    override,
)
from scaling.errors import ConfigError
from scaling.lr_rule import lr_rule, peak_lr

# Results folders hold run ids: a change here orphans everybody's runs.
GOLDEN = {
    "{}": "ede0de807492",
    '{"model.n_layer": 4, "model.d_model": 128, "model.n_head": 4}': "e3cd98931a05",
    '{"tokens": 2e8, "optim.lr": "kaplan", "seed": 3}': "a48e231964a0",
}


@pytest.mark.parametrize(("changes", "run_id"), GOLDEN.items())
def test_run_id_is_golden(changes, run_id):
    assert from_dict(json.loads(changes)).run_id == run_id


CHANGES = {
    "seed": st.integers(0, 2**40),
    "tokens": st.integers(1, 10**12),
    "batch_tokens": st.integers(1, 64).map(lambda rows: 128 * rows),
    "precision": st.sampled_from(["float32", "bfloat16"]),
    "tag": st.text(max_size=4),
    "model.n_layer": st.integers(1, 9),
    "model.tied": st.booleans(),
    "data.corpus": st.text(min_size=1, max_size=6),
    "optim.lr": st.one_of(st.floats(1e-6, 1), st.just("0.05 N^-0.25")),
    "optim.clip": st.one_of(st.just("none"), st.floats(0.1, 9)),
    "eval.points": st.integers(1, 99),
}


@given(st.fixed_dictionaries({}, optional=CHANGES))
def test_run_id_is_the_hash_of_the_canonical_config(changes):
    run = from_dict(changes)
    text = json.dumps([RECIPE, canonical(run)], sort_keys=True, separators=(",", ":"))
    assert run.run_id == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert from_dict(canonical(run)).run_id == run.run_id


def test_run_id_is_the_same_in_another_process():
    code = "from scaling.config import from_dict; print(from_dict({'seed': 7}).run_id)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == from_dict({"seed": 7}).run_id


def test_run_id_ignores_spelling_order_and_tag():
    a = from_dict({"tokens": 1_000_000, "model.n_layer": 3, "optim.lr": 1e-3})
    b = from_dict({"optim": {"lr": 0.001}, "model": {"n_layer": 3.0}, "tokens": 1e6, "tag": "x"})
    assert a.run_id == b.run_id
    full_width = from_dict({"model.d_model": 32, "model.d_ff": 128})
    assert full_width.run_id == from_dict({"model.d_model": 32}).run_id


@given(st.integers(1, 10**12), st.integers(1, 64), st.integers(0, 2**31))
def test_whole_steps(tokens, rows, seed):
    run = from_dict({"tokens": tokens, "batch_tokens": rows * 128, "seed": seed})
    assert run.S * run.batch_tokens == run.D
    assert abs(run.D - tokens) <= max(run.batch_tokens / 2, run.batch_tokens - tokens)


@given(st.integers(1, 10**6), st.integers(1, 40), st.integers(1, 10**6))
def test_a_growing_batch_ends_as_near_to_the_tokens_as_possible(tokens, rows, warmup):
    B = rows * 128
    run = from_dict({"tokens": tokens, "batch_tokens": B, "optim.batch_warmup_tokens": warmup})
    sizes = [run.tokens_at(s + 1) - run.tokens_at(s) for s in range(run.S + 3)]
    assert sizes == sorted(sizes) and sizes[0] == max(1, round(rows / 8)) * 128
    assert all(size % 128 == 0 and size <= B for size in sizes)
    assert all(sizes[s] == B for s in range(len(sizes)) if run.tokens_at(s) >= warmup)
    off = abs(run.D - tokens)
    assert off <= abs(run.tokens_at(run.S + 1) - tokens)
    assert run.S == 1 or off <= abs(run.tokens_at(run.S - 1) - tokens)


@given(st.sampled_from(sorted(fields_of())), st.integers(1, 4))
def test_override_reads_back(key, value):
    hint, _ = fields_of()[key]
    if hint is not int or key == "batch_tokens":
        return
    if key in ("eval.test_tokens", "data.unique_tokens"):
        value *= 128
    elif key == "model.d_model":
        value *= 64
    elif key in ("model.n_ctx", "model.n_head"):
        value = 2 ** (value - 1)
    changes = {key: value}
    assert flatten(override(RunConfig(), changes))[key] == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tokens": 1_000_000}, {"tokens": 1_000_100}),  # the same steps of 4096 tokens
        ({"optim.lr": "0.05"}, {"optim.lr": 0.05}),
        ({"optim.lr": "0.05 N^-0.2 B^1"}, {"optim.lr": "0.05*B^(1) * N^-0.20"}),
        ({"optim.lr": 0.1}, {"optim.lr": 0.1, "optim.lr_embedding": 0.1}),
        ({"data.corpus": "my.txt"}, {"data.corpus": "./my.txt"}),
        ({}, {"data.data_seed": 3}),  # no subset is drawn
        ({}, {"optim.cooldown_fraction": 0.5}),  # the schedule has no cooldown
        ({"eval.others": "kjv,stdlib"}, {"eval.others": "stdlib, kjv"}),
        ({"model.n_head": 4}, {"model.n_head": 4, "model.n_kv_head": 4}),
        ({"model.activation": "swiglu"}, {"model.activation": "swiglu", "model.d_ff": 176}),
        (
            {"model.family": "lstm"},
            {"model.family": "lstm", "model.n_head": 7, "model.bias": False},
        ),
        ({"model.family": "my.py:A"}, {"model.family": "./my.py:A"}),
        ({"optim.warmup_tokens": 9}, {"optim.warmup_tokens": 9, "optim.warmup_fraction": 0.3}),
    ],
)
def test_configs_that_train_identically_are_one_run(one, other):
    assert from_dict(one).run_id == from_dict(other).run_id


def test_values_are_coerced_however_a_config_is_made():
    assert RunConfig(tokens=2e5) == RunConfig(tokens=200_000)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"tokens: 1\.5 is not int"):
        RunConfig(tokens=1.5)  # type: ignore[arg-type]
    assert from_dict({"optim.clip": "none"}).optim.clip is None  # TOML has no null


def test_leaf_names_are_unique():
    # They are the config columns of the table.
    names = [key.rpartition(".")[2] for key in fields_of()]
    assert len(names) == len(set(names))


def test_canonical_holds_only_what_differs():
    assert canonical(RunConfig()) == {}
    assert canonical(from_dict({"seed": 2, "tag": "a"})) == {"seed": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.nlayer": 8}, "ModelConfig has no field 'nlayer'.*Did you mean 'n_layer'"),
        ({"lr": 1e-3}, "Did you mean 'optim.lr'"),
        ({"zzz": 1}, "has no field 'zzz'.*The fields are"),
        ({"model.n_head": 3}, "n_head=3 does not divide model.d_model=64; use 2, for example"),
        (
            {"eval.noise_parts": 2, "optim.batch_warmup_tokens": 9},
            "noise_parts=2 needs steps of equal size",
        ),
        ({"optim.ema": 1.0}, "optim.ema=1.0 must lie between 0 and 1"),
        ({"optim.z_loss": -1.0}, "optim.z_loss=-1.0 must not be negative"),
        ({"eval.patience": 0}, "eval.patience=0 must be positive"),
        ({"model.n_kv_head": 3}, "n_kv_head=3 does not divide model.n_head=2; use 2, for example"),
        ({"model.family": "lstn"}, "model.family='lstn' is unknown. Did you mean 'lstm'"),
        ({"model.family": "my_py"}, "write your own as my.py:Name"),
        ({"model.position": "rope", "model.n_head": 64}, "heads are 1 wide .* make .* even"),
        ({"model.n_layer": 0}, "model.n_layer=0 must be positive"),
        ({"model.n_layer": -2}, "model.n_layer=-2 must be positive"),
        ({"model.n_layer": "3"}, "model.n_layer: '3' is not int"),
        ({"model.n_layer": True}, "True is not int"),
        ({"model.n_layer": 2.5}, "2.5 is not int"),
        ({"tokens": math.inf}, "inf is not int"),
        ({"tokens": 0}, "tokens=0 must be positive"),
        ({"batch_tokens": 1000}, "not a multiple of model.n_ctx=128; the nearest are 896 and 1024"),
        ({"eval.test_tokens": 1000}, "eval.test_tokens=1000 is not a multiple of model.n_ctx=128"),
        ({"data.unique_tokens": 100}, "the nearest are 128 and 256"),
        ({"optim.lr": math.nan}, "optim.lr: nan is not"),
        ({"optim.lr": 0.0}, "must be positive and finite"),
        ({"optim.lr": "N^2"}, "neither a number, nor 'kaplan', nor a power law"),
        ({"optim.lr_embedding": "1 X^2"}, "optim.lr_embedding='1 X"),
        ({"optim.schedule": "cos"}, "'cos' is not one of 'cosine', 'linear'"),
        ({"optim.beta2": 1.0}, r"optim.beta2=1.0 must lie in \[0, 1\)"),
        ({"optim.warmup_fraction": 2.0}, "must lie between 0 and 1"),
        ({"data.tokenizer": "bpe-9"}, "'bytes' or 'bpe-<size>'"),
        ({"seed": -1}, "seed=-1 must lie between 0"),
        ({"precision": "float16"}, "'float16' is not one of"),
        ({"seed": 1e20}, "seed=1000.* must lie between 0"),
        ({"data.data_seed": -1}, "data.data_seed=-1 must lie between 0"),
        (
            {"optim.schedule": "wsd", "optim.warmup_fraction": 0.9},
            "warmup_fraction=0.9 and optim.cooldown_fraction=0.2 overlap",
        ),
    ],
)
def test_invalid_values_raise_errors_that_name_fault_and_remedy(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        override(RunConfig(), changes, where="sweeps/specs/tiny.toml [axes]")
    assert str(error.value).startswith("sweeps/specs/tiny.toml [axes]: ")


def test_kaplan_learning_rate():
    # Kaplan et al. 2020, eq. D.1
    assert peak_lr("kaplan", N=1e6, D=1, B=1) == pytest.approx(0.003239 - 0.0001395 * math.log(1e6))
    with pytest.raises(ConfigError, match="holds below"):
        peak_lr("kaplan", N=2e10, D=1, B=1)


@given(st.floats(1e-4, 1.0), st.floats(-1, 1), st.floats(-1, 1))
def test_power_law_learning_rate(c, p, q):
    rule = f"{c} N^{p} D^({q})"
    assert lr_rule(rule) == (c, {"N": p, "D": q})
    assert peak_lr(rule, N=3e4, D=2e6, B=7) == pytest.approx(c * 3e4**p * 2e6**q)


def test_a_fitted_law_is_a_rule():
    import pandas as pd

    from analysis import fit

    best = pd.DataFrame(
        [(N, D, 0.7 * N**-0.4 * D**0.1) for N in (1e3, 1e4, 1e5) for D in (1e5, 1e6, 1e7)],
        columns=["N", "D", "lr_peak"],
    )
    result = fit(laws.learning_rate, best, bootstrap=0, intervals="delta")
    rule = "{c} N^{p} D^{q}".format(**result.params)
    run = from_dict({"optim.lr": rule})
    assert peak_lr(run.optim.lr, N=2e6, D=3e8, B=1) == pytest.approx(
        0.7 * 2e6**-0.4 * 3e8**0.1, rel=1e-3
    )


def test_a_number_is_a_rule():
    assert OptimConfig(lr=0.25).lr == peak_lr(0.25, N=1, D=1, B=1)
