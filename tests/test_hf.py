"""The exchange against the real transformers and lm-evaluation-harness (`make test-hf`)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

absent = [
    name
    for name in ("transformers", "lm_eval", "accelerate")
    if importlib.util.find_spec(name) is None
]
if absent:
    pytest.skip(f"needs `make test-hf`: no {', '.join(absent)}", allow_module_level=True)

import torch  # noqa: E402
from models import FAMILIES, GATED, RAW_BYTES, TEXT, bpe, random_weights  # noqa: E402
from small import call  # noqa: E402

from scaling import weights as weights_files  # noqa: E402
from scaling.errors import ConfigError  # noqa: E402
from scaling.exchange.from_hf import weights_of  # noqa: E402
from scaling.exchange.harness import harness  # noqa: E402
from scaling.exchange.text_loss import text_loss  # noqa: E402
from scaling.exchange.to_hf import export_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
"""Warnings of other packages are not ours to mend."""


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info  # nothing missing, unexpected or of another shape
    return model.eval()


@torch.no_grad()
def difference(weights: Any, model: Any, tokens_bt: torch.Tensor) -> float:
    theirs = model(tokens_bt).logits.flatten(0, 1)
    ours = weights.model.logits(weights.flat_1p, tokens_bt[None])[0]
    return float((ours - theirs).abs().max())


# ------------------------------------------------------------------ export


@pytest.mark.parametrize("mup", [None, 8])
@pytest.mark.parametrize("repeat", [1, 2])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_transformers_computes_the_logits_of_the_exported_model(
    architecture, repeat, mup, tmp_path
):
    tokens = torch.randint(0, 300, (3, 24), generator=torch.Generator().manual_seed(0))
    for tied, bias in itertools.product((True, False), repeat=2):
        options = {"tied": tied, "bias": bias} | FAMILIES[architecture]
        weights = random_weights(**options, n_repeat=repeat, mup_base_width=mup)
        folder = tmp_path / f"{tied}-{bias}"
        export_model(weights, folder)
        model = loaded(folder)
        assert type(model).__name__ == architecture
        assert model.config.tie_word_embeddings == tied
        assert difference(weights, model, tokens) <= 1e-5
        assert difference(weights_of(str(folder)), model, tokens) <= 1e-5


def test_heads_and_widths_of_other_sizes_keep_the_logits(tmp_path):
    tokens = torch.randint(0, 300, (2, 17))
    for i, options in enumerate((
        {"d_model": 24, "n_head": 1, "d_ff": 10},
        {"d_model": 40, "n_head": 2, "d_ff": 200, "position": "rope"},
        {"d_model": 48, "n_head": 4, "n_kv_head": 1, "position": "rope"},
        GATED | {"d_model": 36, "n_head": 6, "n_kv_head": 3, "d_ff": 20},
    )):  # fmt: skip
        weights = random_weights(**options)
        export_model(weights, tmp_path / str(i))
        assert difference(weights, loaded(tmp_path / str(i)), tokens) <= 1e-5


@pytest.mark.parametrize("tokenizer", [bpe(), bpe(5000), RAW_BYTES], ids=["bpe", "holes", "bytes"])
def test_the_tokenizer_that_transformers_loads_gives_the_same_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    export_model(random_weights(tokenizer), tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text
    assert theirs.model_max_length == 24
    odd = "é e\u0301 \u00a0\u3000 👩‍👩‍👧 ﷽ a<|endoftext|>b   \n\n\t x \0 日本語 don't ’s 12345"
    for text in (TEXT * 50, odd, "", " ", "  a", "a  "):
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)


def test_transformers_generates_from_the_exported_model(tmp_path):
    weights = random_weights(position="rope")
    export_model(weights, tmp_path / "out")
    ids = torch.tensor([weights.tokenizer.encode("The cat")])
    found = loaded(tmp_path / "out").generate(ids, max_new_tokens=8, do_sample=False)
    from scaling.exchange.harness import greedy

    new = found[0, ids.shape[1] :].tolist()
    assert [i for i in new if i != 299] == greedy(weights, ids[0].tolist(), 8, ())


# ------------------------------------------------------------------ import


def public(folder: Path, kind: str, **options: Any) -> Any:
    """Save a small random model of transformers with a tokenizer; return the model."""
    import transformers

    config = getattr(transformers, f"{kind.removesuffix('LMHead')}Config")(
        vocab_size=300, **options
    )
    torch.manual_seed(0)
    model = getattr(transformers, config_class(kind))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder, safe_serialization=True)
    export_model(random_weights(), folder / "ours")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "ours" / name).rename(folder / name)
    return model


def config_class(kind: str) -> str:
    known = {"GPT2": "GPT2LMHeadModel", "BertLMHead": "BertLMHeadModel"}
    return known.get(kind, f"{kind}ForCausalLM")


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "bos_token_id": 299, "eos_token_id": 299,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "eos_token_id": 299}
TANH = {"hidden_act": "gelu_pytorch_tanh", "use_parallel_residual": False}
EXACT = [
    ("GPT2", GPT2),
    ("GPT2", GPT2 | {"tie_word_embeddings": False}),
    ("GPTNeoX", SMALL | TANH | {"rotary_pct": 1.0}),
    ("GPTNeoX", SMALL | TANH | {"rotary_pct": 1.0, "tie_word_embeddings": True}),
    ("Starcoder2", SMALL | {"num_key_value_heads": 2}),
    ("Llama", SMALL | {"rms_norm_eps": 1e-5}),
    ("Llama", SMALL | {"rms_norm_eps": 1e-5, "num_key_value_heads": 1, "attention_bias": True,
                       "mlp_bias": True, "tie_word_embeddings": True}),
    ("Qwen3", SMALL | {"rms_norm_eps": 1e-5, "head_dim": 8, "num_key_value_heads": 2}),
]  # fmt: skip
OTHER = [
    ("GPT2", GPT2 | {"activation_function": "relu"}),
    ("GPTNeoX", SMALL),  # as Pythia: parallel residual, a quarter rotated, exact GELU
    ("Starcoder2", SMALL | {"num_key_value_heads": 2, "use_bias": False}),  # its norms have biases
    ("Llama", SMALL),  # an epsilon of 1e-6
    ("Llama", SMALL | {"rms_norm_eps": 1e-5, "rope_parameters":
                       {"rope_type": "default", "rope_theta": 5e5}}),
    ("Qwen3", SMALL | {"head_dim": 16, "num_key_value_heads": 2}),
    ("Mistral", SMALL | {"num_key_value_heads": 2, "sliding_window": 8}),
    ("Gemma2", SMALL | {"head_dim": 8, "num_key_value_heads": 2, "pad_token_id": 0}),
    ("OPT", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
             "max_position_embeddings": 40, "eos_token_id": 299, "word_embed_proj_dim": 32}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), EXACT + OTHER)
def test_a_checkpoint_gives_the_logits_that_transformers_computes(kind, options, tmp_path):
    model = public(tmp_path, kind, **options)
    weights = weights_of(str(tmp_path))
    assert weights.row["exact"] == ((kind, options) in EXACT)
    assert weights.model.model.n_ctx == 40 and weights.model.vocab_size == 300
    tokens = torch.randint(0, 300, (3, 33), generator=torch.Generator().manual_seed(1))
    assert difference(weights, model, tokens[:, :-1]) <= 1e-5
    losses = weights.model.losses(weights.flat_1p, tokens[None])
    theirs = model(tokens[:, :-1]).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(theirs, tokens[:, 1:].flatten())
    assert losses.shape == (1, 3, 32) and losses.mean().item() == pytest.approx(
        expected.item(), abs=1e-5
    )


@pytest.mark.parametrize(("kind", "options"), [*EXACT, *OTHER[:-1]])
def test_parameters_are_counted_without_embeddings(kind, options, tmp_path):
    model = public(tmp_path, kind, **options)
    tables = {
        name: x for name, x in model.named_parameters()
        if any(part in name for part in ("wte", "wpe", "embed", "lm_head"))
    }  # fmt: skip
    row = weights_of(str(tmp_path)).row
    total = sum(x.numel() for x in model.parameters())
    assert row["N_total"] == total
    assert row["N"] == total - sum(x.numel() for x in tables.values())
    assert row["D"] is None and row["C"] is None  # of a local folder nothing is known


def test_parameters_of_pythia_are_the_published_ones(monkeypatch):
    """18,915,328 without embeddings (the model card of EleutherAI/pythia-70m)."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from scaling.exchange import from_hf
    from scaling.exchange.checkpoint import Checkpoint

    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=512, num_hidden_layers=6, num_attention_heads=8,
        intermediate_size=2048, max_position_embeddings=2048,
    )  # fmt: skip
    with torch.device("meta"):
        inner = GPTNeoXForCausalLM(config)
    monkeypatch.setattr(type(inner), "to", lambda self, _: self)
    monkeypatch.setattr(from_hf.TransformersModel, "_check_causal", lambda *_: None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: inner)
    found = from_hf.TransformersModel(Checkpoint(name="", folder=Path(), config={}), "cpu")
    assert (found.N, found.N_total) == (18_915_328, 70_426_624)


def test_code_of_a_checkpoint_never_runs(tmp_path):
    public(tmp_path, "Mistral", **SMALL, num_key_value_heads=2)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    config |= {"model_type": "mine", "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("open('ran', 'w')\n")
    with pytest.raises(ConfigError, match="transformers cannot load it"):
        weights_of(str(tmp_path))
    assert not Path("ran").exists()


def test_an_encoder_is_refused(tmp_path):
    """AutoModelForCausalLM loads a BERT without complaint; its loss would be that of copying."""
    public(tmp_path, "BertLMHead", **SMALL)
    with pytest.raises(ConfigError, match=r"BertLMHeadModel.* is no causal language model"):
        weights_of(str(tmp_path))


def test_bits_per_byte_do_not_depend_on_who_computes(tmp_path):
    weights = random_weights(position="rope")
    export_model(weights, tmp_path / "out")
    ours, exported = (text_loss(w, TEXT) for w in (weights, weights_of(str(tmp_path / "out"))))
    assert exported["bits_per_byte"] == pytest.approx(ours["bits_per_byte"], abs=1e-6)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["hidden_act"] = "gelu_new"  # the same function, in other hands
    config["layer_norm_eps"] = 1.0000001e-5
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    other = weights_of(str(tmp_path / "out"))
    assert not other.row["exact"]
    assert text_loss(other, TEXT)["bits_per_byte"] == pytest.approx(ours["bits_per_byte"], abs=1e-5)


# ------------------------------------------------------------------ lm-evaluation-harness

CHOICE = """
task: mine_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1.0}}
"""
ROLLING = """
task: mine_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}{{{{question}}}}{{{{question}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
metadata: {{version: 1.0}}
"""
GENERATE = """
task: mine_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["\\n", "zz"], max_gen_toks: 6}}
metric_list: [{{metric: exact_match}}]
metadata: {{version: 1.0}}
"""
NAMES = ("mine_choice", "mine_text", "mine_words")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with tasks of each kind, whose answers some models get right by chance."""
    folder = tmp_path_factory.mktemp("tasks")
    words = [word for word in dict.fromkeys(TEXT.split()) if word.isalpha() and word.isascii()]
    rows = []
    for i in range(40):
        some = [words[(i + k) % len(words)] for k in (0, 2, 5)]
        question = "" if i == 0 else " ".join(TEXT.split()[i : i + 3 + i % 25])
        rows.append({
            "question": question, "gold": i % 3, "choices": [f" {word}" for word in some],
        })  # fmt: skip
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    for name, text in zip(NAMES, (CHOICE, ROLLING, GENERATE), strict=True):
        (folder / f"{name}.yaml").write_text(text.format(file=file))
    return folder


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def by_lm_eval(folder: Path, tasks: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the results of the harness with its own class for models of transformers."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "device": "cpu", "dtype": "float32"},
            tasks=list(names),
            task_manager=manager,
            batch_size=4,
            log_samples=False,
        )
    assert found is not None
    return found["results"]


@pytest.mark.parametrize("options", [{}, GATED], ids=["GPT2", "Llama"])
def test_the_harness_gives_the_numbers_of_lm_eval_on_the_exported_model(options, tasks, tmp_path):
    weights = random_weights(**options)
    export_model(weights, tmp_path / "out")
    ours = harness(weights, NAMES, tasks_dir=tasks)["tasks"]
    theirs = by_lm_eval(tmp_path / "out", tasks, NAMES)
    for name in NAMES:
        for metric, each in ours[name]["metrics"].items():
            assert each["value"] == pytest.approx(theirs[name][f"{metric},none"], rel=1e-5), metric
            error = theirs[name][f"{metric}_stderr,none"]
            assert each["stderr"] == (error if isinstance(error, float) else None)
        assert ours[name]["n"] == 40 and ours[name]["version"] == 1.0
    assert set(ours["mine_choice"]["metrics"]) == {"acc", "acc_norm"}
    assert 0 < ours["mine_choice"]["metrics"]["acc"]["value"] < 1


def kept(weights: Any, folder: Path) -> Path:
    """Write the weights of a run into its folder, and return it."""
    place = folder / weights.run.run_id
    place.mkdir()
    weights_files.save(
        place,
        run=weights.run,
        model=weights.model,
        flat_p=weights.flat_1p[0],
        tokenizer=weights.tokenizer,
        row=weights.row,
    )
    return place


def test_scaling_eval_gives_the_accuracy_of_lm_eval_on_the_exported_model(tasks, tmp_path, capsys):
    weights = random_weights(position="rope", n_ctx=64)
    export_model(weights, tmp_path / "out")
    rows = [json.loads(line) for line in (tasks / "rows.jsonl").read_text().splitlines()]
    items = [
        {"id": i, "context": row["question"], "choices": row["choices"], "gold": row["gold"]}
        for i, row in enumerate(rows)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, items)))
    run = kept(weights, tmp_path)
    assert call("eval", run, "--file", tmp_path / "mine.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    ours = {row["metric"]: row for row in found if row["task"] == "mine"}
    theirs = by_lm_eval(tmp_path / "out", tasks, NAMES[:1])["mine_choice"]
    assert ours["accuracy_sum"]["value"] == pytest.approx(theirs["acc,none"])
    assert ours["accuracy_sum"]["stderr"] == pytest.approx(theirs["acc_stderr,none"], rel=1e-6)
    # acc_norm divides by characters, which are bytes in this text
    assert all(choice.isascii() for row in rows for choice in row["choices"])
    assert ours["accuracy_per_byte"]["value"] == pytest.approx(theirs["acc_norm,none"])


def test_generated_text_is_that_of_lm_eval(tasks, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from scaling.exchange.harness import harness_model

    weights = random_weights(position="rope")
    export_model(weights, tmp_path / "out")
    options = {"until": ["e", "\n"], "max_gen_toks": 9}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(text, dict(options)), idx=0)
        for text in ("The cat", "a b c", TEXT[:200])
    ]
    theirs = HFLM(pretrained=str(tmp_path / "out"), device="cpu", batch_size=1)
    ours = harness_model(weights)
    assert ours.generate_until(requests) == theirs.generate_until(requests)


@pytest.mark.parametrize("options", [{"family": "lstm"}, {"norm": "rmsnorm"}])
def test_the_harness_evaluates_models_that_have_no_counterpart(options, tasks):
    weights = random_weights(**options)
    found = harness(weights, NAMES, tasks_dir=tasks, limit=7)
    text = found["tasks"]["mine_text"]
    assert text["n"] == 7 and 1 < text["metrics"]["bits_per_byte"]["value"] < 10


def test_the_harness_evaluates_checkpoints_of_transformers(tasks, tmp_path):
    public(tmp_path, "GPTNeoX", **SMALL)
    ours = harness(weights_of(str(tmp_path)), NAMES[:2], tasks_dir=tasks)["tasks"]
    theirs = by_lm_eval(tmp_path, tasks, NAMES[:2])
    for name in NAMES[:2]:
        for metric, each in ours[name]["metrics"].items():
            assert each["value"] == pytest.approx(theirs[name][f"{metric},none"], rel=1e-5)


def test_the_command_prints_text_and_json(tasks, tmp_path, capsys):
    w = random_weights()
    folder = kept(w, tmp_path)
    words = ("harness", folder, "--tasks", "mine_choice,mine_text", "--tasks-dir", tasks)
    assert call(*words, "--limit", 5, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run_id"] == w.run.run_id and found["N"] == w.row["N"]
    assert found["tasks"]["mine_choice"]["n"] == 5
    assert call(*words, "--limit", 5) == 0
    shown = capsys.readouterr().out
    assert "mine_text (version 1.0" in shown and "bits_per_byte" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "mine_choise"], "Did you mean 'mine_choice'?"),
        (["--tasks", ","], "names no task"),
        (["--tasks", "mine_choice", "--tasks-dir", "nowhere"], "is not a folder"),
        (["--tasks", "mine_choice", "--limit", "0"], "--limit"),
        (["--tasks", "broken"], "lm-evaluation-harness failed"),
    ],
)
def test_mistakes_of_the_harness_are_one_line(tasks, tmp_path, capsys, words, message):
    w = random_weights()
    folder = kept(w, tmp_path)
    (tmp_path / "own").mkdir()
    for path in tasks.glob("*.yaml"):
        (tmp_path / "own" / path.name).write_text(path.read_text())
    broken = CHOICE.replace("mine_choice", "broken").format(file=tmp_path / "missing.jsonl")
    (tmp_path / "own" / "broken.yaml").write_text(broken)
    given = [] if "--tasks-dir" in words else ["--tasks-dir", tmp_path / "own"]
    assert call("harness", folder, *words, *given) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
