"""Export of trained models, import of checkpoints, likelihoods: what needs no transformers."""

from __future__ import annotations

import functools
import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, GATED, RAW_BYTES, TEXT, random_weights, shape
from safetensors.torch import load_file, save_file
from small import call
from tokenizers import Tokenizer as HFTokenizer

from scaling import weights as weights_files
from scaling.abilities.predictor import predictor
from scaling.abilities.score import score
from scaling.abilities.tasks import tasks_of
from scaling.config import DataConfig
from scaling.data import corpus as corpora
from scaling.data.tokenizer import Tokenizer, train_bpe
from scaling.errors import ConfigError
from scaling.exchange import checkpoint
from scaling.exchange.evaluate import evaluate_checkpoint
from scaling.exchange.from_hf import tokens_seen, weights_of
from scaling.exchange.harness import greedy
from scaling.exchange.hf_tokenizer import hf_tokenizer
from scaling.exchange.layouts import layout_of
from scaling.exchange.text_loss import log_likelihoods, text_loss
from scaling.exchange.to_hf import export_model

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------ export


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_decoder_is_written_as_the_class_that_computes_it(architecture, tmp_path):
    weights = random_weights(**FAMILIES[architecture])
    exported = export_model(weights, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [architecture] == [exported.architecture]
    assert config["eos_token_id"] == weights.tokenizer.end_of_text == 299
    assert {*exported.files} == {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_exported_model_is_read_back_with_the_same_logits(architecture, tied, bias, tmp_path):
    options = {"bias": bias, "tied": tied} | FAMILIES[architecture]
    weights = random_weights(**options)
    export_model(weights, tmp_path / "out")
    again = weights_of(str(tmp_path / "out"))
    assert again.row["exact"] and again.model.model.n_ctx == 24
    tokens = torch.randint(0, 300, (1, 3, 24))
    ours, theirs = (w.model.logits(w.flat_1p, tokens) for w in (weights, again))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    if bias or architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        assert again.row["N"] == weights.row["N"]


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_mup_is_folded_in_and_repeats_are_written_out(tied, qk_norm, tmp_path):
    family = GATED | {"qk_norm": True, "bias": False} if qk_norm else {"position": "rope"}
    weights = random_weights(**family, tied=tied, n_repeat=3, mup_base_width=8)
    exported = export_model(weights, tmp_path / "out")
    assert len(exported.notes) == 2 and "3 times" in exported.notes[0]
    again = weights_of(str(tmp_path / "out"))
    assert again.model.model.n_layer == 6 and again.model.model.mup_base_width is None
    tokens = torch.randint(0, 300, (1, 3, 24))
    ours, theirs = (w.model.logits(w.flat_1p, tokens) for w in (weights, again))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("model.family='lstm'", {"family": "lstm"}),
        ("model.family='my.py:Mean'", {"family": "my.py:Mean"}),
        ("model.activation='swiglu'", {"position": "rope", "activation": "swiglu"}),
        ("model.activation='swiglu'", {"activation": "swiglu"}),
        ("model.activation='gelu'", {"norm": "rmsnorm", "position": "rope"}),
        ("model.norm='rmsnorm'", {"norm": "rmsnorm"}),
        ("model.position='learned'", GATED | {"position": "learned"}),
        ("model.n_kv_head=2", {"n_kv_head": 2}),
        ("model.qk_norm=True", {"qk_norm": True}),
        ("model.qk_norm=True", {"qk_norm": True, "position": "rope"}),
        ("model.qk_norm=True", {"qk_norm": True, "position": "rope", "n_kv_head": 1}),
        ("model.bias=True", GATED | {"qk_norm": True}),
    ],
)
def test_what_has_no_counterpart_is_refused_by_the_name_of_the_option(named, options):
    with pytest.raises(ConfigError) as refused:
        layout_of(shape(**options))
    assert str(refused.value).startswith(named) and "no counterpart" in str(refused.value)
    assert "scaling harness" in str(refused.value)


def test_every_combination_is_either_mapped_or_refused():
    for norm in ("layernorm", "rmsnorm"):
        for position in ("learned", "rope"):
            for activation in ("gelu", "swiglu"):
                for qk_norm in (True, False):
                    for bias in (True, False):
                        for heads in (None, 1, 4):
                            m = shape(
                                norm=norm, position=position, activation=activation,
                                qk_norm=qk_norm, bias=bias, n_kv_head=heads,
                            )  # fmt: skip
                            try:
                                layout = layout_of(m)
                            except ConfigError as error:
                                assert str(error).startswith("model.")
                            else:
                                assert layout.requires["norm"] == norm


def test_an_option_that_the_export_does_not_know_is_refused(monkeypatch):
    """A field added to the config later changes the function: it must not pass unnoticed."""
    monkeypatch.setattr("scaling.exchange.layouts._EVERYWHERE", set())
    with pytest.raises(ConfigError, match=r"^model.n_layer=3 has no counterpart"):
        layout_of(shape(n_layer=3))


def test_an_export_does_not_overwrite(tmp_path):
    weights = random_weights()
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match="name a new folder"):
            export_model(weights, place)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_needs_no_transformers(tmp_path):
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "sys.modules['transformers'] = None\n"
        "from models import random_weights\n"
        "from scaling.exchange.from_hf import weights_of\n"
        "from scaling.exchange.to_hf import export_model\n"
        "export_model(random_weights(), 'out')\n"
        "assert weights_of('out').row['exact']\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)


# ------------------------------------------------------------------ tokenizer


def reread(tokenizer: Tokenizer) -> HFTokenizer:
    text = hf_tokenizer(tokenizer.tokens, tokenizer.vocab_size).to_str()
    again = HFTokenizer.from_str(text)
    again.encode_special_tokens = True
    return again


@pytest.fixture(scope="module", params=["bpe", "bytes"])
def tokenizers(request, text_file) -> tuple[Tokenizer, HFTokenizer]:
    text = text_file.read_text()
    ours = Tokenizer.of(train_bpe([[text, TEXT]], 1024), 1024)
    ours = ours if request.param == "bpe" else RAW_BYTES
    return ours, reread(ours)


def test_ids_of_a_hundred_thousand_tokens_are_the_same(tokenizers, text_file):
    ours, theirs = tokenizers
    text = text_file.read_text()
    text *= 1 + 100_000 // len(ours.encode(text))
    ids = ours.encode(text)
    assert len(ids) >= 100_000 and theirs.encode(text, add_special_tokens=False).ids == ids
    assert theirs.decode(ids) == text


def test_ids_of_every_character_are_the_same(tokenizers):
    ours, theirs = tokenizers
    code_points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    some = [*range(0x3000), *random.Random(0).sample(code_points, 20_000)]
    texts = [f"a{chr(c)}b {chr(c)}1{chr(c)} .{chr(c)}{chr(c)} x" for c in some]
    found = theirs.encode_batch(texts, add_special_tokens=False)
    assert [each.ids for each in found] == [ours.encode(text) for text in texts]


odd = st.text(
    st.one_of(
        st.sampled_from(list("ab -'st1 \n\t\r=é\u0301\u200b\u00a0\u3000\0")),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
) | st.sampled_from(["<|endoftext|>", " <|endoftext|>a", "👩‍👩‍👧 Ǆ ﷽", "\ufeffx", "ｆｕｌｌ ㍿"])


@settings(deadline=None, max_examples=300)
@given(text=odd)
def test_ids_of_odd_text_are_the_same(tokenizers, text):
    ours, theirs = tokenizers
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def test_a_vocabulary_that_the_text_does_not_fill_keeps_end_of_text_last():
    ours = Tokenizer.of(train_bpe([["ab ab"]], 5000), 5000)
    theirs = reread(ours)
    assert ours.tokens is not None and len(ours.tokens) < 300
    assert theirs.token_to_id("<|endoftext|>") == 4999 == ours.end_of_text
    assert theirs.encode("ab ab cd", add_special_tokens=False).ids == ours.encode("ab ab cd")


# ------------------------------------------------------------------ import


def test_training_tokens_are_those_that_a_publication_states_and_never_guessed():
    assert tokens_seen("hf:EleutherAI/pythia-70m") == 299_892_736_000
    assert tokens_seen("hf:EleutherAI/pythia-1.4b-deduped@step1000") == 2_097_152_000
    for unknown in (
        "pythia-70m", "hf:EleutherAI/pythia-70m-v0", "hf:me/pythia-70m", "hf:gpt2",
        "hf:EleutherAI/pythia-70m@step200000", "hf:EleutherAI/pythia-70m@other",
    ):  # fmt: skip
        assert tokens_seen(unknown) is None


def exported(tmp_path: Path, **options) -> Path:
    export_model(random_weights(**options), tmp_path / "model")
    return tmp_path / "model"


def test_weights_that_are_pickled_are_refused(tmp_path):
    folder = exported(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no \*.safetensors. pytorch_model.bin is not read"):
        weights_of(str(folder))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "is not JSON"),
        ("config.json", "[]", "is not a JSON object"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("model.safetensors", "nonsense", "model.safetensors cannot be read"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x"}}', "does not name files"),
    ],
)
def test_a_checkpoint_that_is_incomplete_or_damaged_is_refused(tmp_path, file, text, message):
    folder = exported(tmp_path)
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        weights_of(str(folder))


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path):
    folder = exported(tmp_path)
    before = weights_of(str(folder))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    index = {name: file for file, some in parts.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(weights_of(str(folder)).flat_1p, before.flat_1p)


def test_names_without_the_prefix_and_old_buffers_are_read(tmp_path):
    """The first checkpoints of GPT-2 leave out `transformer.` and hold the causal mask."""
    folder = exported(tmp_path)
    before = weights_of(str(folder))
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    save_file(tensors, folder / "model.safetensors")
    assert torch.equal(weights_of(str(folder)).flat_1p, before.flat_1p)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"use_parallel_residual": True}, {"position": "rope"}),
        ({"rotary_pct": 0.25}, {"position": "rope"}),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, {"position": "rope"}),
        ({"hidden_act": "gelu"}, {"position": "rope"}),
        ({"layer_norm_eps": 1e-6}, {"position": "rope"}),
        ({"rms_norm_eps": 1e-6}, GATED),
        ({"rope_theta": 5e5}, GATED),
        ({"rope_scaling": {"rope_type": "llama3"}}, GATED),
        ({"attention_bias": False}, GATED),
        ({"head_dim": 16}, GATED),
        ({"activation_function": "relu"}, {}),
        ({"scale_attn_by_inverse_layer_idx": True}, {}),
        ({"sliding_window": 16}, {"position": "rope", "n_kv_head": 2}),
        ({"model_type": "mistral"}, GATED),
    ],
)  # fmt: skip
def test_what_a_decoder_of_ours_does_not_compute_is_left_to_transformers(
    tmp_path, monkeypatch, change, options
):
    folder = exported(tmp_path, **options)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))

    class Asked(Exception):
        pass

    def transformers(*_):
        raise Asked

    monkeypatch.setattr("scaling.exchange.from_hf.TransformersModel", transformers)
    with pytest.raises(Asked):
        weights_of(str(folder))


def test_a_tensor_without_a_place_is_not_left_out(tmp_path, monkeypatch):
    folder = exported(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        tensors | {"transformer.h.0.extra.weight": torch.ones(3)}, folder / "model.safetensors"
    )
    monkeypatch.setattr("scaling.extras.installed", lambda module: module != "transformers")
    with pytest.raises(ConfigError, match=r"transformers is not installed: pip install .*\[hf\]"):
        weights_of(str(folder))


def test_a_local_folder_never_touches_the_network(tmp_path, monkeypatch):
    def download(source: str) -> Path:
        raise AssertionError(source)

    monkeypatch.setattr(checkpoint, "_downloaded", download)
    weights_of(str(exported(tmp_path)))
    with pytest.raises(ConfigError, match="is not there"):
        weights_of("EleutherAI/pythia-70m")
    with pytest.raises(AssertionError, match="hf:EleutherAI/pythia-70m"):
        weights_of("hf:EleutherAI/pythia-70m")


def test_the_hub_is_asked_for_safetensors_and_json_only(tmp_path, monkeypatch):
    folder, asked = exported(tmp_path), {}

    def snapshot(name: str, **options) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    weights = weights_of("hf:EleutherAI/pythia-70m@step1000")
    assert asked["name"] == "EleutherAI/pythia-70m" and asked["revision"] == "step1000"
    assert asked["allow_patterns"] == ["*.json", "*.safetensors"]
    assert weights.row["run_id"] == "hf:EleutherAI/pythia-70m@step1000"
    assert weights.row["D"] == 2_097_152_000
    assert weights.row["C"] == 6 * weights.row["N"] * weights.row["D"]


def test_a_download_that_fails_is_one_line(monkeypatch):
    def snapshot(*_, **__) -> str:
        raise OSError("no route to host\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ConfigError, match="cannot be downloaded: OSError: no route to host") as e:
        weights_of("hf:EleutherAI/pythia-70m")
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match="is not hf:OWNER/NAME"):
        weights_of("hf:../..")


# ------------------------------------------------------------------ likelihoods


@pytest.mark.parametrize("options", [{}, {"family": "lstm"}, {"position": "rope"}])
def test_likelihoods_in_batches_are_those_of_each_alone(options):
    weights = random_weights(**options)
    rng = random.Random(0)
    pairs = [
        ([rng.randrange(300) for _ in range(rng.randint(1, 30))],
         [rng.randrange(300) for _ in range(rng.randint(1, 24))])
        for _ in range(40)
    ]  # fmt: skip
    found = log_likelihoods(weights, iter(pairs))
    for (context, continuation), (total, is_greedy) in zip(pairs, found, strict=True):
        row = (context + continuation)[-25:]
        window = torch.tensor(row)[None, None]
        losses = weights.model.losses(weights.flat_1p, window)[0, 0, -len(continuation) :]
        assert total == pytest.approx(-losses.sum().item(), abs=1e-4)
        logits = weights.model.logits(weights.flat_1p, window[:, :, :-1])[0]
        best = logits.argmax(1)[-len(continuation) :].tolist()
        assert is_greedy == (best == continuation)


def test_the_loss_of_a_text_counts_every_token_once():
    weights = random_weights()
    text = TEXT[:400]
    ids = weights.tokenizer.encode(text)
    found = text_loss(weights, text)
    total, before = 0.0, weights.tokenizer.end_of_text
    for a in range(0, len(ids), 24):
        window = torch.tensor([before, *ids[a : a + 24]])[None, None]
        total += weights.model.losses(weights.flat_1p, window).sum().item()
        before = ids[min(a + 24, len(ids)) - 1]
    assert found["tokens"] == len(ids) and found["bytes"] == len(text.encode())
    assert found["L"] == pytest.approx(total / len(ids), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(total / found["bytes"] / math.log(2), rel=1e-5)
    with pytest.raises(ConfigError, match="empty"):
        text_loss(weights, "")


def test_greedy_text_is_the_likeliest_token_after_token():
    weights = random_weights()
    ids = weights.tokenizer.encode("The cat")
    new = greedy(weights, ids, 30, ())  # beyond the context of 24
    seen = list(ids)
    for token in new:
        logits = weights.model.logits(weights.flat_1p, torch.tensor(seen[-24:])[None, None])
        assert int(logits[0, -1].argmax()) == token
        seen.append(token)
    text = weights.tokenizer.decode(new)
    short = greedy(weights, ids, 30, [text[2:4]])
    assert len(short) < len(new) and text[2:4] in weights.tokenizer.decode(short)


# ------------------------------------------------------------------ tasks


def test_a_checkpoint_gets_the_scores_of_the_run_that_it_was_exported_from(
    tmp_path, text_file, monkeypatch
):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    weights = random_weights(n_ctx=128)
    export_model(weights, tmp_path / "model")
    found = evaluate_checkpoint(
        str(tmp_path / "model"), ["copy", "addition"], shots=[0, 1], corpus=str(text_file)
    )
    asked = [
        (t, n)
        for t in tasks_of(DataConfig(corpus=str(text_file)), ["copy", "addition"])
        for n in (0, 1)
    ]
    expected = [row for scores in score(predictor(weights), asked) for row in scores.rows()]
    assert set(found.table.run_id) == {str(tmp_path / "model")} and found.new == 4
    assert len(found.table) == len(expected)
    known = {(r["task"], r["shots"], r["metric"]): r for r in expected}
    for row in found.table.to_dict("records"):
        other = known[row["task"], row["shots"], row["metric"]]
        assert row["value"] == pytest.approx(other["value"], abs=1e-5)
    (row,) = found.runs
    assert row["N"] == weights.row["N"] and row["D"] is None
    text = text_loss(weights, *_documents(text_file))
    assert row["bits_per_byte"] == pytest.approx(text["bits_per_byte"], abs=1e-6)


def _documents(file: Path) -> list[str]:
    _, read = corpora.test_text(DataConfig(corpus=str(file)))
    return ["".join(blocks) for blocks in read()]


def test_the_command_evaluates_a_checkpoint(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "scaling.exchange.evaluate.evaluate_checkpoint",
        functools.partial(evaluate_checkpoint, corpus=str(text_file)),
    )
    folder = exported(tmp_path, n_ctx=128)
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": 1, "context": "The cat", "choices": [" sat", " not"], "gold": 0}\n')
    assert call("eval", folder, "--file", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["run_id"] == str(folder) and found["runs"][0]["bits_per_byte"] > 0
    assert {row["task"] for row in found["rows"]} == {"mine"} and found["table"] is None
    assert call("eval", folder, "--tasks", "copy") == 0
    shown = capsys.readouterr().out
    assert "D unknown" in shown and "bits per byte" in shown and "copy: accuracy_" in shown
    assert call("eval", folder, "--tasks", "in_context") == 2
    assert "leave it out" in capsys.readouterr().err
    assert not (folder / "tasks.parquet").exists()


# ------------------------------------------------------------------ commands


@pytest.fixture
def results(tmp_path) -> Path:
    """A results folder with two runs whose weights are kept."""
    for tied in (True, False):
        w = random_weights(tied=tied)
        folder = tmp_path / "results" / "runs" / w.run.run_id
        folder.mkdir(parents=True)
        weights_files.save(
            folder, run=w.run, model=w.model, flat_p=w.flat_1p[0], tokenizer=w.tokenizer, row=w.row
        )
    return tmp_path / "results"


def test_a_run_is_exported_by_its_folder_or_a_prefix_of_its_id(results, tmp_path, capsys):
    (first, *_) = sorted((results / "runs").iterdir())
    for i, run in enumerate((first, results / first.name[:8], results / "runs" / first.name[:8])):
        assert call("export-model", run, "--to", tmp_path / f"out{i}", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["run_id"] == first.name and found["architecture"] == "GPT2LMHeadModel"
    assert call("export-model", first, "--to", tmp_path / "text") == 0
    assert "GPT2LMHeadModel" in capsys.readouterr().out


def test_mistakes_of_the_export_are_one_line(results, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert call(*words) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and "Traceback" not in shown
        return shown

    to = ("--to", tmp_path / "out")
    assert "holds 2 runs with weights" in refused("export-model", results, *to)
    assert "is not there" in refused("export-model", tmp_path / "nowhere" / "x", *to)
    (first, *_) = sorted((results / "runs").iterdir())
    assert "is not empty" in refused("export-model", first, "--to", tmp_path)
    (first / "weights.safetensors").unlink()
    assert "keep-weights" in refused("export-model", first, *to)
    assert not (tmp_path / "out").exists()


def test_a_run_without_counterpart_is_refused_and_nothing_is_written(tmp_path, capsys):
    w = random_weights(family="lstm")
    folder = tmp_path / w.run.run_id
    folder.mkdir()
    weights_files.save(
        folder, run=w.run, model=w.model, flat_p=w.flat_1p[0], tokenizer=w.tokenizer, row=w.row
    )
    assert call("export-model", folder, "--to", tmp_path / "out") == 2
    assert "model.family='lstm' has no counterpart" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_harness_names_its_extra(results, monkeypatch, capsys):
    monkeypatch.setattr("scaling.extras.installed", lambda module: module != "lm_eval")
    (first, *_) = sorted((results / "runs").iterdir())
    assert call("harness", first, "--tasks", "piqa") == 2
    assert "pip install 'scaling-laws-lab[hf]'" in capsys.readouterr().err
    shutil.rmtree(results)
