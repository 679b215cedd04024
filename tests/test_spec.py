"""The runs that a spec stands for, and the messages about an invalid one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import size as model_size
from scaling.errors import ConfigError
from sweeps.costs import _TYPICAL, Speed
from sweeps.spec import Spec, bundled, find

PATH = Path("specs/it.toml")
SHAPES = "[{ n_layer = 1, d_model = 16, n_head = 1 }, { n_layer = 2, d_model = 32, n_head = 2 }]"


def read(text: str, name: str = 'name = "it"\n') -> Spec:
    return Spec.from_text(name + text, path=PATH)


def refused(text: str, name: str = 'name = "it"\n') -> str:
    with pytest.raises(ConfigError) as error:
        read(text, name)
    message = str(error.value)
    assert message.startswith(str(PATH)), message
    assert "\n" not in message
    return message


def N_of(run) -> int:
    return model_size.parameters(run.model, run.data.vocab_size).N


def test_a_grid_is_every_combination_over_the_base():
    spec = read(
        f"""
        [base]
        data.tokenizer = "bytes"
        optim = {{ lr = "0.05 N^-0.25", schedule = "linear" }}
        [axes]
        model = {SHAPES}
        tokens = [1e5, 200_000]
        seed = [0, 1, 2]
        """
    )
    assert len(spec.runs) == len({run.run_id for run in spec.runs}) == 2 * 2 * 3
    assert {run.optim.lr for run in spec.runs} == {"0.05 N^-0.25"}
    assert {run.data.tokenizer for run in spec.runs} == {"bytes"}
    shapes = {(run.model.n_layer, run.model.d_model, run.model.n_head) for run in spec.runs}
    assert shapes == {(1, 16, 1), (2, 32, 2)}
    assert {run.tokens for run in spec.runs} == {100_000, 200_000}


def test_ranges_are_log_spaced_and_fit_their_fields():
    spec = read(
        """
        [base]
        model.n_head = 3
        model.d_model = 48
        [axes]
        batch_tokens = { from = 1000, to = 16000, num = 5 }
        optim.lr = { from = 1e-4, to = 1e-2, num = 3 }
        """
    )
    batches = sorted({run.batch_tokens for run in spec.runs})
    assert batches == [1024, 2048, 3968, 7936, 16000]
    assert all(batch % 128 == 0 for batch in batches)
    assert sorted({run.optim.lr for run in spec.runs}) == [1e-4, 1e-3, 1e-2]
    widths = read(
        "[base]\nmodel.n_head = 3\n[axes]\nmodel.d_model = {from = 16, to = 250, num = 3}"
    )
    assert [run.model.d_model for run in widths.runs] == [15, 63, 249]


@given(
    low=st.integers(100_000, 10**7),
    ratio=st.floats(1.5, 100),
    num=st.integers(2, 6),
    batch=st.sampled_from([128, 1024, 4096]),
)
def test_token_ranges_are_whole_steps_within_half_a_step(low, ratio, num, batch):
    high = int(low * ratio)
    spec = read(
        f"[base]\nbatch_tokens={batch}\n[axes]\ntokens = {{from={low}, to={high}, num={num}}}"
    )
    tokens = [run.tokens for run in spec.runs]
    assert all(D % batch == 0 and run.D == D for D, run in zip(tokens, spec.runs, strict=True))
    assert abs(tokens[0] - low) <= batch / 2 + 1e-5 * low
    assert abs(tokens[-1] - high) <= batch / 2 + 1e-5 * high
    assert len(tokens) == num


def test_tokens_per_parameter_sets_D_by_N():
    spec = read(f"[axes]\nmodel = {SHAPES}\ntokens_per_parameter = [20, 80]")
    assert len(spec.runs) == 4
    for run, ratio in zip(spec.runs, [20, 80, 20, 80], strict=True):
        assert abs(run.D - ratio * N_of(run)) <= run.batch_tokens / 2


def test_isoflop_sets_spend_the_same_budget_on_every_model():
    text = f"[isoflop]\nC = [1e11, 1e12]\nmodels = {SHAPES}\n"
    for run, C in zip(read(text).runs, [1e11, 1e11, 1e12, 1e12], strict=True):
        step = 6 * N_of(run) * run.batch_tokens
        assert abs(6 * N_of(run) * run.D - C) <= step / 2
    kept = read(text + "tokens_per_parameter = [1, 1000]").runs
    assert 0 < len(kept) < 4
    assert all(1 <= run.D / N_of(run) <= 1000 for run in kept)


def test_sets_have_their_own_base_axes_and_tag():
    spec = read(
        """
        [base]
        seed = 5
        tokens_per_parameter = 20
        [axes]
        model.n_layer = [1, 2]
        [[sets]]
        name = "batch"
        base.tokens = 1e6
        base.optim.lr = 1e-3
        axes.batch_tokens = [1024, 2048]
        [[sets]]
        tag = "t"
        axes.zip = [{ model.n_layer = 3, tokens = 2e6 }, { model.n_layer = 4, tokens = 4e6 }]
        """
    )
    assert [run.tag for run in spec.runs] == ["", "", "batch", "batch", "t", "t"]
    assert {run.seed for run in spec.runs} == {5}
    assert [run.tokens for run in spec.runs[2:]] == [1e6, 1e6, 2e6, 4e6]
    assert [run.optim.lr for run in spec.runs[1:3]] == [3e-3, 1e-3]
    assert [run.model.n_layer for run in spec.runs[4:]] == [3, 4]


def test_run_ids_do_not_depend_on_spelling_or_process():
    one = read("[base]\nseed = 1\noptim.beta1 = 0.9\n[axes]\ntokens = [1e6, 2000000]")
    two = read('[base]\n[axes]\ntokens = [1000000, 2e6]\nseed = [1]\ntag = ["x"]')
    assert [run.run_id for run in one.runs] == [run.run_id for run in two.runs]
    code = (
        "import sys, json; from sweeps.spec import Spec; "
        "print(json.dumps([run.run_id for run in Spec.from_text(sys.argv[1]).runs]))"
    )
    text = 'name="a"\n[axes]\nseed=[1]\ntokens=[1e6,2e6]'
    out = subprocess.run(
        [sys.executable, "-c", code, text],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert json.loads(out.stdout) == [run.run_id for run in one.runs]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[axes]\nmodel.nlayer = [1]",
            "[axes]: ModelConfig has no field 'nlayer' (in 'model.nlayer'). "
            "Did you mean 'n_layer'?",
        ),
        ("[axes]\nmodel = [{ nlayer = 1 }]", "'nlayer'"),
        ("[axes]\nlr = [1e-3]", "optim.lr"),
        (
            "[base]\ntokens_per_param = 3\n[axes]\nseed = [1]",
            "Did you mean 'tokens_per_parameter'?",
        ),
        ("[axis]\nseed = [1]", "unknown key 'axis'. Did you mean 'axes'?"),
        ("seed = 3", "Fields of runs belong in [base] or [axes]"),
        ("[base]\nseed = 1", "no runs"),
        ("[axes]\nseed = 1", "one value"),
        ("[axes]\nseed = []", "empty"),
        ("[axes]\nseed = ['1']", "seed: '1' is not int"),
        ("[axes]\ntokens = [true]", "tokens: True is not int"),
        ("[axes]\ntokens = [0]", "tokens=0 must be positive"),
        ("[axes]\ntokens = [-5.0]", "tokens=-5 must be positive"),
        (
            "[axes]\nmodel = [{ d_model = 30, n_head = 4 }]",
            "n_head=4 does not divide model.d_model=30",
        ),
        ("[axes]\nbatch_tokens = [1000]", "not a multiple of model.n_ctx"),
        ("[axes]\noptim.lr = ['N^']", "neither a number"),
        ("[axes]\nmodel = 3", "list of tables"),
        ("[axes]\ntokens = {from = 1, to = 2}", "lacks 'num'"),
        ("[axes]\ntokens = {from = 0, to = 2, num = 3}", "tokens.from=0 must be a positive number"),
        ("[axes]\ntokens = {from = 1, to = 2, num = 1}", "at least 2"),
        ("[axes]\ntokens = {from = 1, to = 2, nmu = 4}", "Did you mean 'num'?"),
        ("[base]\ntokens = {from = 1, to = 2, num = 4}", "belong in [axes]"),
        ("[axes]\ntokens = [1e6]\nflops = [1e10]", "'tokens' and 'flops' both set D"),
        ("[axes]\nseed = [1]\nzip = [{ seed = 3 }]", "'seed' is on two axes"),
        (
            "[axes]\ntokens_per_parameter = [-1]",
            "[axes]: tokens_per_parameter=-1 must be a positive number",
        ),
        (
            "[axes]\ntokens_per_parameter = [inf]",
            "[axes]: tokens_per_parameter=inf must be a positive number",
        ),
        (
            "[axes]\ntokens_per_parameter = [nan]",
            "[axes]: tokens_per_parameter=nan must be a positive number",
        ),
        ("[base]\nflops = inf\n[axes]\nseed = [0]", "[base]: flops=inf must be a positive number"),
        ("[axes]\nflops = ['1e9']", "[axes]: flops='1e9' must be a positive number"),
        ("[axes]\nflops = [1e299]", "[axes]: flops=1e+299 gives more than 2^63 training tokens"),
        (
            "[base]\ntokens_per_parameter = 1e200\n[axes]\nseed = [0]",
            "[base]: tokens_per_parameter=1e+200 gives",
        ),
        ("[axes]\ntokens = [1e30]", "[axes]: tokens=1e+30 gives more than 2^63 training tokens"),
        ("[axes]\ntokens = [inf]", "[axes]: tokens=inf is too large"),
        ("[axes]\ntokens = [1" + "0" * 400 + "]", "[axes]: tokens=1000"),
        (
            "[axes]\nmodel.n_layer = [1e30]",
            "[axes]: model.n_layer=1e+30: a model with more than 2^63 parameters",
        ),
        ("[axes]\nmodel.d_model = [1e299]\nmodel.n_head = [1]", "[axes]: model.d_model=1e+299"),
        (
            "[axes]\ntokens = {from = 1e3, to = inf, num = 3}",
            "[axes]: tokens.to=inf must be a positive number",
        ),
        (
            "[axes]\ntokens = {from = nan, to = 2, num = 3}",
            "[axes]: tokens.from=nan must be a positive number",
        ),
        (
            "[axes]\ntokens = {from = 1, to = 2, num = 1000000000}",
            "[axes]: tokens.num=1000000000 must be",
        ),
        (f"[isoflop]\nC = [inf]\nmodels = {SHAPES}", "[isoflop]: C=inf must be a positive number"),
        (
            f"[isoflop]\nC = [1e250]\nmodels = {SHAPES}",
            "[isoflop]: C=1e+250 gives more than 2^63 training tokens",
        ),
        (
            f"[isoflop]\nC = {{from = 1e9, to = inf, num = 3}}\nmodels = {SHAPES}",
            "[isoflop]: C.to=inf",
        ),
        (
            f"[isoflop]\nC = [1e11]\nmodels = {SHAPES}\ntokens_per_parameter = [1e6, 1e7]",
            "[isoflop]: tokens_per_parameter=[1000000.0, 10000000.0] leaves out every run: "
            "D / N goes from",
        ),
        (
            "[base]\nmodel = 3\n[axes]\nseed = [0]",
            "[base]: model is a table of fields: n_layer, d_model",
        ),
        ("[base]\noptim = 'adam'\n[axes]\nseed = [0]", "[base]: optim is a table of fields: lr"),
        ("[isoflop]\nC = [1e10]", "'models' is missing"),
        ("[isoflop]\nC = 1e10\nmodels = [{n_layer=1}]", "must be a list"),
        (
            "[isoflop]\nC = [1e10]\nmodels = [{n_layer=1}]\ntokens_per_parameter = [5, 1]",
            "[least, most]",
        ),
        (
            "[[sets]]\nname = 'a'\nbse.seed = 1",
            "[[sets]] 'a': unknown key 'bse'. Did you mean 'base'?",
        ),
        ("sets = 3", "[[sets]]"),
        ("base = 3\n[axes]\nseed=[1]", "must be a table"),
    ],
)
def test_an_invalid_spec_is_refused_in_one_line(text, said):
    assert said in refused(text)


def test_colliding_runs_are_both_named():
    message = refused(
        "[base]\ntokens = 1e6\n[axes]\nseed = [1, 2]\n"
        "[[sets]]\nname = 'more'\nbase.seed = 2\naxes.tokens = [1e6]"
    )
    assert "seed=2" in message and "'more'" in message and "tokens=1e+06" in message
    message = refused("[axes]\ntokens = {from = 4000, to = 4200, num = 3}")
    assert "whole steps" in message


def test_malformed_toml_names_the_line():
    assert refused("\n\n[axes\n").startswith(f"{PATH}:4: not valid TOML")


@pytest.mark.parametrize("name", ['name = ""\n', 'name = "a/b"\n', "name = 3\n", 'name = ".."\n'])
def test_a_name_must_be_valid_for_a_folder(name):
    assert "names the results folder" in refused("[axes]\nseed = [1]", name)


def test_specs_are_found_by_path_or_bare_name(tmp_path):
    with pytest.raises(ConfigError, match="neither a file nor a bundled spec"):
        find("no-such-spec")
    with pytest.raises(ConfigError, match="is a folder"):
        find(tmp_path)
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        Spec.from_toml(binary)
    unnamed = tmp_path / "by-file.toml"
    unnamed.write_text("[axes]\nseed = [1, 2]")
    assert Spec.from_toml(unnamed).name == "by-file"


@pytest.mark.parametrize("name", bundled())
def test_bundled_specs_are_sweeps(name):
    assert Spec.from_toml(name).name == name


LADDERS = ("headline", "abilities", "prediction")  # these take longer
REPEATED = ("headline_stopped",)  # the runs of another spec, on two cores only
FROM_WEIGHTS = ("transfer", "classify")  # of committed runs, which are small
EXPERIMENTS = [name for name in bundled() if name not in ("cpu", "quickstart", *REPEATED, *LADDERS)]


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_spec_stands_for_runs_at_every_scale(name):
    text = find(name).read_text()
    scales = list(tomllib.loads(text).get("scale", {}))
    plain = Spec.from_toml(name)
    assert plain.name == name and plain.description
    for scale in scales:
        scaled = Spec.from_toml(name, {"scale": scale})
        assert scaled.name == f"{name}-{scale}"
        assert not set(scaled.by_id) & set(plain.by_id)
        size = [
            max(model_size.parameters(r.model, r.data.vocab_size).N for r in s.runs)
            for s in (plain, scaled)
        ]
        assert size[1] > 10 * size[0]
    if name in EXPERIMENTS:
        limit = (4 if name in FROM_WEIGHTS else 1) * 45 * 60  # rates are searched in both arms
        assert ("gpu" in scales) != (name in FROM_WEIGHTS)
        assert re.search(r"^# .* et al\. 20\d\d", text) and "one core" in text
        # twenty minutes on two cores
        assert sum(map(Speed(*_TYPICAL).seconds, plain.runs)) < limit


def test_every_figure_has_a_spec_that_measures_it():
    from analysis.figures import FIGURES

    assert {one.spec for one in FIGURES.values()} <= set(bundled())


SCALED = """
name = "e"
[base]
tokens = 1e5
[axes]
model.n_layer = [1, 2]
[[sets]]
name = "more"
axes.batch_tokens = [1024, 2048]
[scale.gpu]
base.tokens_per_parameter = 20
base.precision = "bfloat16"
axes.model.n_layer = [3]
sets = [{ name = "more", base.seed = 3, axes.batch_tokens = [8192] }]
"""


def test_a_scale_replaces_the_values_that_it_names():
    plain, gpu = Spec.from_text(SCALED), Spec.from_text(SCALED, changes={"scale": "gpu"})
    assert [r.model.n_layer for r in plain.runs] == [1, 2, 2, 2] and plain.runs[0].D == 24 * 4096
    assert [(r.model.n_layer, r.batch_tokens, r.seed) for r in gpu.runs] == [
        (3, 4096, 0),
        (2, 8192, 3),
    ]
    assert all(r.precision == "bfloat16" for r in gpu.runs) and gpu.name == "e-gpu"
    N = model_size.parameters(gpu.runs[0].model, gpu.runs[0].data.vocab_size).N
    assert pytest.approx(20 * N, rel=0.05) == gpu.runs[0].D
    assert Spec.from_text(SCALED, changes={"scale": "gpu", "name": "mine"}).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[scale.gpu]", "[scale.tpu]", r"no scale 'gpu'; it has tpu"),
        ("base.seed = 3, ", "bse = 3, ", r"unknown key 'bse'. Did you mean 'base'"),
        ('"more", base', '"less", base', r"has no name of a set: more"),
        ('base.precision = "bfloat16"', "basis.seed = 1", r"\[scale.gpu\]: unknown key 'basis'"),
    ],
)
def test_an_invalid_scale_is_refused(old, new, message):
    with pytest.raises(ConfigError, match=message):
        Spec.from_text(SCALED.replace(old, new), changes={"scale": "gpu"})


def test_fields_that_must_agree_are_checked_together():
    axes = "model = [{ n_head = 8, n_kv_head = 4 }]\neval.noise_parts = [3]\nbatch_tokens = [384]"
    (run,) = Spec.from_text(f"name = 'x'\n[axes]\n{axes}").runs
    assert (run.model.n_kv_head, run.eval.noise_parts) == (4, 3)
    with pytest.raises(ConfigError, match="n_kv_head=3 does not divide"):
        Spec.from_text(f"name = 'x'\n[axes]\n{axes.replace('4 }', '3 }')}")
