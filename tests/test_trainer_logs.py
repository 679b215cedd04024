"""Logs of trainers: transformers, Lightning, torchtitan, nanochat, OLMo-core and lm_eval."""

from __future__ import annotations

import json
import math
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shape_count import N_GPT2, olmo_model
from test_trackers import event

from analysis.importing.choose import losses
from analysis.importing.frames import Tracked
from analysis.importing.shapes import count_from_shapes
from scaling.column_words import meaning
from scaling.trackers import TRACKERS, TrackedRun, TrackerError, read

STEPS = range(5, 21, 5)
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": None,
        "vocab_size": 64, "n_positions": 16, "tie_word_embeddings": True}  # fmt: skip


def loss(step: int) -> float:
    return 4.5 - step / 64


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def column(run: TrackedRun, name: str) -> dict[int, Any]:
    return {row["step"]: row[name] for row in run.history if name in row}


# ------------------------------------------------------------------ the formats of these trainers


def hf_state(last: int = 20, *, ended: bool = True, **more: Any) -> str:
    """Return trainer_state.json as transformers 5.24 writes it."""
    rows: list[dict[str, Any]] = []
    for step in range(5, last + 1, 5):
        rows.append({"epoch": step / 8, "grad_norm": 0.9, "learning_rate": 1e-4,
                     "loss": loss(step) + 0.1, "step": step})  # fmt: skip
        if step % 10 == 0:
            rows.append({"epoch": step / 8, "eval_loss": loss(step), "eval_runtime": 0.02,
                         "step": step})  # fmt: skip
    if ended:
        rows.append({"epoch": last / 8, "step": last, "total_flos": 6.0 * N_GPT2 * 128 * last,
                     "train_loss": 4.2, "train_runtime": 1.4})  # fmt: skip
    state = {
        "epoch": last / 8, "eval_steps": 10, "global_step": last, "log_history": rows,
        "logging_steps": 5, "max_steps": 20, "num_input_tokens_seen": 0, "num_train_epochs": 3,
        "stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": False}}},
        "total_flos": 6.0 * N_GPT2 * 128 * last, "train_batch_size": 4, "trial_params": None,
    }  # fmt: skip
    return json.dumps(state | more, indent=2)


def lightning_csv(steps: range = STEPS) -> str:
    """Return metrics.csv as Lightning 2.6 writes it, whose steps count from 0."""
    rows = [f"0,{s - 1},{loss(s) + 0.1},\r\n0,{s - 1},,{loss(s)}\r\n" for s in steps]
    return "epoch,step,train_loss_step,val_loss\r\n" + "".join(rows)


def titan_log(steps: range = STEPS, *, ended: bool = True, colours: bool = True) -> str:
    """Return a console log as torchtitan 0.2 and 0.3 write it."""
    red, reset = ("\x1b[31m", "\x1b[39m") if colours else ("", "")
    head = "[titan] 2026-08-01 10:00:00,123 - root - INFO - "
    args = {"dim": 256, "n_layers": 6, "n_heads": 16, "n_kv_heads": None, "vocab_size": 2048,
            "multiple_of": 256, "ffn_dim_multiplier": None}  # fmt: skip
    lines = [
        f"{head}Building llama3 debugmodelwith {json.dumps(args, indent=2)}",
        f"{head}{red}Model llama3 debugmodel {red}size: 6,163,712 total parameters{reset}",
        f"{head}Trainer is initialized with local batch size 8, global batch size 64, gradient "
        "accumulation steps 1, sequence length 2048, total steps 20 (warmup 2)",
    ]
    for s in steps:
        lines.append(
            f"{head}{red}step: {s:2}  {red}loss: {loss(s) + 0.1:8.5f}  {red}grad_norm:  1.2500  "
            f"{red}memory:  5.25GiB(6.60%)  {red}tps: 12,345  {red}tflops: 1,234.50  "
            f"{red}mfu: 33.21%{reset}"
        )
        lines.append(f"{head}validate step: {s:2}  loss: {loss(s):7.4f}  memory:  5.25GiB(6.60%)  "
                     "tps: 9,000")  # fmt: skip
    lines += [f"{head}Training completed"] if ended else []
    return "\n".join(lines) + "\n"


def nanochat_log(steps: range = STEPS, last: int = 20) -> str:
    """Return a log of base_train as nanochat writes it (commit 92d63d4)."""
    model = {"sequence_len": 512, "vocab_size": 32768, "n_layer": 4, "n_head": 2, "n_kv_head": 2,
             "n_embd": 256, "window_pattern": "SSSL"}  # fmt: skip
    lines = [
        "Vocab size: 32,768",
        f"Model config:\n{json.dumps(model, indent=2)}",
        "Parameter counts:",
        f"{'wte':24s}: 8,388,608",
        f"{'lm_head':24s}: 8,388,608",
        f"{'transformer_matrices':24s}: 3,145,776",
        f"{'total':24s}: 28,311,609",
        "Total batch size 524,288 => gradient accumulation steps: 1",
    ]
    for s in steps:
        lines.append(
            f"step {s:05d}/{last:05d} ({5 * s:.2f}%) | loss: {loss(s):.6f} | lrm: 1.00 | dt: "
            "46.74ms | tok/sec: 11,217 | bf16_mfu: 12.30 | epoch: 1 pq: 0 rg: 3 | total time: 0.00m"
        )
        lines.append(f"Step {s:05d} | Validation bpb: {loss(s) / 4:.6f}")
        lines.append(f"Step {s:05d} | CORE metric: 0.1234")
    return "\n".join(lines) + "\n"


def olmo_log(steps: range = STEPS, last: int = 20) -> str:
    """Return a console log as OLMo-core 3.0 writes it without a terminal."""
    head = "2026-06-01 10:00:00.123\tnode:0\tolmo_core.train.callbacks.console_logger:71\tINFO\t"
    lines = []
    for s in steps:
        lines += [f"{head}[step={i}/{last},epoch=1]" for i in range(s - 4, s)]
        lines.append(f"{head}[eval=lm,step=5/10]")
        lines.append(f"{head}Finished lm evals in 1.2 seconds. Metrics:")
        lines.append(f"    c4-validation/CE loss={loss(s):.4f}")
        lines.append(f"    c4-validation/PPL={math.exp(loss(s)):.2f}")
        lines.append(f"{head}[step={s}/{last},epoch=1,eta=1h 3m]")
        lines.append(f"    train/CE loss={loss(s) + 0.1:.4f}")
        lines.append(f"    throughput/total tokens={s * 262144:,d}")
        lines.append("    throughput/device/flopsPS=1.234T")
        lines.append("    optim/LR (group 0)=1.00E-05")
    return "\n".join(lines) + "\n"


def harness(model: str = "pretrained=EleutherAI/pythia-70m,revision=step1000", **more: Any) -> str:
    """Return results as lm_eval 0.4.13 writes them."""
    results = {
        "results": {
            "piqa": {"alias": "piqa", "sample_len": 9, "acc,none": 0.6, "acc_stderr,none": "N/A"},
            "gsm8k": {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.2},
            "wikitext": {"word_perplexity,none": math.inf, "bits_per_byte,none": 0.9},
        },
        "versions": {"piqa": 1.0},
        "n-shot": {"piqa": 5},
        "config": {"model": "hf", "model_args": model, "model_num_parameters": 70426624},
        "date": 1.75e9,
        "lm_eval_version": "0.4.13",
    }
    return json.dumps(results | more, indent=2)


WRITERS: dict[str, tuple[str, Callable[[], str]]] = {
    "hf": ("trainer_state.json", hf_state),
    "lightning": ("metrics.csv", lightning_csv),
    "torchtitan": ("train.log", titan_log),
    "nanochat": ("train.log", nanochat_log),
    "olmo": ("train.log", olmo_log),
    "lm_eval": ("results_1.json", harness),
}


# ------------------------------------------------------------------ transformers


def test_a_trainer_state_is_a_curve_with_the_config_beside_it(tmp_path: Path):
    put(tmp_path / "out" / "trainer_state.json", hf_state())
    put(tmp_path / "out" / "config.json", json.dumps(GPT2))
    (run,) = read("hf", tmp_path)
    assert run.id == "out"
    assert column(run, "eval_loss") == {10: loss(10), 20: loss(20)}
    assert column(run, "loss")[15] == loss(15) + 0.1
    assert "train_loss" not in run.history[-1], "the mean over all of training is no point"
    assert run.config["n_embd"] == 32 and run.state == "finished"
    assert "train_batch_size" not in run.config, "it is the batch of one device"


def test_the_tokens_of_a_trainer_follow_from_its_flops_if_it_did_not_count_them(tmp_path: Path):
    put(tmp_path / "trainer_state.json", hf_state())
    put(tmp_path / "config.json", json.dumps(GPT2))
    (run,) = read("hf", tmp_path)
    assert run.summary["tokens_seen"] == 128 * 20 and run.config["tokens_per_step"] == 128
    put(tmp_path / "config.json", json.dumps(GPT2 | {"n_inner": 100}))
    (run,) = read("hf", tmp_path)
    assert "tokens_seen" not in run.summary, "another model's FLOPs tell nothing"
    put(tmp_path / "trainer_state.json", hf_state(num_input_tokens_seen=640))
    (run,) = read("hf", tmp_path)
    assert run.summary["tokens_seen"] == 640


def test_checkpoints_are_one_run_whose_longest_state_counts(tmp_path: Path):
    for out in ("a", "b"):
        put(tmp_path / out / "checkpoint-10" / "trainer_state.json", hf_state(10, ended=False))
        put(tmp_path / out / "checkpoint-15" / "trainer_state.json", hf_state(15, ended=False))
        put(tmp_path / out / "checkpoint-15" / "config.json", json.dumps(GPT2))
    put(tmp_path / "b" / "trainer_state.json", hf_state(20))
    a, b = read("hf", tmp_path)
    assert (a.id, a.history[-1]["step"], a.state) == ("a", 15, "unfinished")
    assert (b.id, b.history[-1]["step"], b.state) == ("b", 20, "finished")
    assert a.config["n_layer"] == 2
    (alone,) = read("hf", tmp_path / "a" / "checkpoint-15")
    assert alone.id == "checkpoint-15"


def test_trials_of_a_search_are_runs_with_their_parameters(tmp_path: Path):
    for trial in (2, 10):
        state = hf_state(trial_params={"learning_rate": trial / 1e4})
        put(tmp_path / f"run-{trial}" / "checkpoint-20" / "trainer_state.json", state)
    runs = read("hf", tmp_path)
    assert [run.id for run in runs] == ["run-2", "run-10"]
    assert [run.config["learning_rate"] for run in runs] == [2e-4, 1e-3]


def test_arguments_of_training_are_read_from_json_and_never_from_a_pickle(tmp_path: Path):
    put(tmp_path / "trainer_state.json", hf_state())
    put(tmp_path / "training_args.json", json.dumps({"gradient_accumulation_steps": 2}))
    flag = tmp_path / "opened"

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(flag),)

    put(tmp_path / "training_args.bin", pickle.dumps(Harmful()))
    (run,) = read("hf", tmp_path)
    assert run.config["gradient_accumulation_steps"] == 2 and not flag.exists()


def test_a_state_that_is_cut_short_is_read_as_far_as_its_rows_are_complete(tmp_path: Path):
    text = hf_state()
    half = text[: text.index('"step": 20') + 3]
    put(tmp_path / "trainer_state.json", half)
    (run,) = read("hf", tmp_path)
    assert sorted(column(run, "loss")) == [5, 10, 15] and column(run, "eval_loss") == {10: loss(10)}
    assert run.state == "unfinished"
    put(tmp_path / "trainer_state.json", text[:30])
    with pytest.raises(TrackerError, match=r"trainer_state\.json.*complete"):
        read("hf", tmp_path)
    put(tmp_path / "trainer_state.json", "[1]")
    with pytest.raises(TrackerError, match="no JSON object"):
        read("hf", tmp_path)


def test_losses_that_are_not_finite_are_read_as_such(tmp_path: Path):
    rows = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf, "eval_loss": "NaN"}]
    text = hf_state(log_history=rows)
    assert "NaN" in text and "Infinity" in text
    put(tmp_path / "trainer_state.json", text)
    (run,) = read("hf", tmp_path)
    assert math.isnan(column(run, "loss")[1]) and column(run, "loss")[2] == math.inf
    assert math.isnan(run.summary["eval_loss"])


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_the_trainer_wrote_is_read(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    import torch

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    data = [{"input_ids": torch.arange(16), "labels": torch.arange(16)} for _ in range(32)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=4,
        logging_steps=2, eval_strategy="steps", eval_steps=2, save_steps=2, report_to=[],
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data[:8]
    )
    trainer.train()
    (run,) = read("hf", tmp_path)
    assert sorted(column(run, "eval_loss")) == [2, 4] and run.state == "finished"
    assert run.config["tokens_per_step"] == 4 * 16
    counted = count_from_shapes(run.config)
    assert counted is not None and counted[0] == model.num_parameters(exclude_embeddings=True)


# ------------------------------------------------------------------ Lightning


def test_metrics_of_lightning_are_a_curve_in_optimiser_steps(tmp_path: Path):
    put(tmp_path / "version_0" / "metrics.csv", lightning_csv())
    put(tmp_path / "version_10" / "metrics.csv", lightning_csv())
    put(tmp_path / "version_2" / "metrics.csv", lightning_csv())
    runs = read("lightning", tmp_path)
    assert [run.id for run in runs] == ["version_0", "version_2", "version_10"]
    assert column(runs[0], "val_loss") == {s: loss(s) for s in STEPS}
    assert runs[0].summary["train_loss_step"] == pytest.approx(loss(20) + 0.1)


def test_a_table_of_lightning_is_read_up_to_its_last_complete_line(tmp_path: Path):
    text = lightning_csv()
    put(tmp_path / "metrics.csv", text[:-6])
    (run,) = read("lightning", tmp_path)
    assert sorted(column(run, "val_loss")) == [5, 10, 15]
    put(tmp_path / "metrics.csv", "epoch,step,loss\n0,3,nan\n0,7,inf\n0,x,1\n0,9\n")
    (run,) = read("lightning", tmp_path)
    assert math.isnan(column(run, "loss")[4]) and column(run, "loss")[8] == math.inf
    put(tmp_path / "metrics.csv", "a,b\n1,2\n")
    with pytest.raises(TrackerError, match="no column 'step'"):
        read("lightning", tmp_path)


def test_hyperparameters_of_lightning_are_read_without_building_objects(tmp_path: Path):
    flag = tmp_path / "made"
    text = (
        "lr: 0.001\nn_embd: 32\nopt:\n  betas: !!python/tuple\n  - 0.9\n  - 0.95\n"
        f"bad: !!python/object/apply:os.mkdir ['{flag}']\nact: !!python/name:torch.relu ''\n"
        "cfg: !!python/object:my.Config\n  width: 7\n"
    )
    put(tmp_path / "hparams.yaml", text)
    put(tmp_path / "metrics.csv", lightning_csv())
    (run,) = read("lightning", tmp_path)
    assert run.config["opt.betas"] == [0.9, 0.95] and run.config["cfg.width"] == 7
    assert not flag.exists()
    put(tmp_path / "hparams.yaml", "a: [1\nb: {")
    (run,) = read("lightning", tmp_path)
    assert run.config == {} and run.history
    lines = ["a0: &a0 {x: 1}"] + [
        f"a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}" for i in range(1, 40)
    ]
    put(tmp_path / "hparams.yaml", "\n".join(lines))
    with pytest.raises(TrackerError, match="settings"):
        read("lightning", tmp_path)


def test_event_files_of_lightning_have_their_hyperparameters(tmp_path: Path):
    events = b"".join(event(s - 1, "val_loss", loss(s), tensor=False) for s in STEPS)
    put(tmp_path / "version_0" / "events.out.tfevents.1", events)
    put(tmp_path / "version_0" / "hparams.yaml", "n_layer: 2\n")
    (run,) = read("lightning", tmp_path)
    assert column(run, "val_loss") == pytest.approx({s: loss(s) for s in STEPS})
    assert run.config == {"n_layer": 2}


def test_hyperparameters_without_pyyaml_name_the_extra(tmp_path: Path, monkeypatch: Any):
    put(tmp_path / "hparams.yaml", "lr: 1\n")
    put(tmp_path / "metrics.csv", lightning_csv())
    monkeypatch.setattr("scaling.extras.installed", lambda module: False)
    with pytest.raises(TrackerError, match=r"PyYAML.*scaling-laws-lab\[lightning\]"):
        read("lightning", tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_lightning_wrote_is_read(tmp_path: Path):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    import torch
    from lightning.pytorch.loggers import CSVLogger  # pyright: ignore[reportMissingImports]

    class Model(lightning.LightningModule):
        def __init__(self, n_layer: int = 2, betas: tuple[float, float] = (0.9, 0.95)) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Linear(4, 4)

        def training_step(self, batch: Any, index: int) -> Any:
            value = self.net(batch[0]).square().mean()
            self.log("train_loss", value)
            return value

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", self.net(batch[0]).square().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(16, 4)))
    trainer = lightning.Trainer(
        max_epochs=2, logger=CSVLogger(str(tmp_path)), log_every_n_steps=8, accelerator="cpu",
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Model(), data, data)
    (run,) = read("lightning", tmp_path)
    assert sorted(column(run, "val_loss")) == [16, 32]
    assert sorted(column(run, "train_loss")) == [8, 16, 24, 32]
    assert run.config == {"n_layer": 2, "betas": [0.9, 0.95]}


# ------------------------------------------------------------------ torchtitan


@pytest.mark.parametrize("colours", [True, False])
def test_a_console_log_of_torchtitan_is_a_curve(tmp_path: Path, colours: bool):
    put(tmp_path / "llama_6m.log", titan_log(colours=colours))
    put(tmp_path / "notes.txt", "nothing")
    (run,) = read("torchtitan", tmp_path)
    assert run.id == "llama_6m" and run.state == "finished"
    held_out = column(run, "validation_metrics/loss")
    assert held_out == pytest.approx({s: loss(s) for s in STEPS}, abs=1e-4)
    last = run.history[-1]
    assert last["loss_metrics/global_avg_loss"] == pytest.approx(loss(20) + 0.1, abs=1e-5)
    assert (last["throughput(tps)"], last["mfu(%)"], last["tflops"]) == (12345, 33.21, 1234.5)
    assert run.config["tokens_per_step"] == 64 * 2048
    assert run.config["total_parameters"] == 6_163_712
    counted = count_from_shapes(run.config)
    assert counted is not None and counted[0] == 5_115_136 and "torchtitan" in counted[1]


def test_lines_of_a_resumed_run_replace_earlier_ones(tmp_path: Path):
    again = titan_log(range(10, 26, 5)).replace("loss:  4.", "loss:  3.")
    put(tmp_path / "train.log", titan_log(range(5, 16, 5), ended=False) + again)
    (run,) = read("torchtitan", tmp_path)
    found = column(run, "loss_metrics/global_avg_loss")
    assert list(found) == [5, 10, 15, 20, 25]
    assert found[5] > 4 > found[10], "the later lines of step 10 count"


def test_a_last_line_that_is_cut_short_is_left_out(tmp_path: Path):
    text = titan_log(ended=False)
    cut = text[: text.rindex("loss:") + len("loss:  4.1")]
    put(tmp_path / "train.log", cut)
    (run,) = read("torchtitan", tmp_path)
    assert sorted(column(run, "validation_metrics/loss")) == [5, 10, 15]


def test_event_files_log_and_config_of_torchtitan_are_one_run(tmp_path: Path):
    for stamp, steps in (("20260801-1000", range(5, 16, 5)), ("20260801-1200", range(10, 21, 5))):
        shift = 0.0 if stamp.endswith("1000") else -1.0
        events = b"".join(
            event(s, "validation_metrics/loss", loss(s) + shift, tensor=False)
            + event(s, "n_tokens_seen", 1024.0 * s, tensor=False)
            for s in steps
        )
        put(tmp_path / "out" / "tb" / stamp / "events.out.tfevents.1", events)
    put(tmp_path / "out" / "train.log", titan_log(range(5, 11, 5), ended=False))
    training = {"steps": 20, "num_tokens_per_train_step": 1024, "max_context_length": 256}
    put(tmp_path / "out" / "config.json", json.dumps({"training": training}))
    (run,) = read("torchtitan", tmp_path)
    assert run.id == "out"
    held_out = column(run, "validation_metrics/loss")
    assert held_out[5] == pytest.approx(loss(5)) and held_out[10] == pytest.approx(loss(10) - 1)
    assert column(run, "loss_metrics/global_avg_loss").keys() == {5, 10}
    assert run.summary["n_tokens_seen"] == 20 * 1024
    (alone,) = read("torchtitan", tmp_path / "out" / "tb")
    assert len(alone.history) == 4


def test_a_toml_config_of_torchtitan_gives_the_batch(tmp_path: Path):
    log = "".join(line + "\n" for line in titan_log().splitlines() if "initialized" not in line)
    put(tmp_path / "train.log", log)
    put(tmp_path / "debug.toml", "[training]\nglobal_batch_size = 32\nseq_len = 512\nsteps = 20\n")
    (run,) = read("torchtitan", tmp_path)
    assert run.config["tokens_per_step"] == 32 * 512


# ------------------------------------------------------------------ nanochat


def test_a_log_of_nanochat_keeps_bits_per_byte_apart_from_nats(tmp_path: Path):
    put(tmp_path / "d4_train.log", nanochat_log())
    (run,) = read("nanochat", tmp_path)
    assert column(run, "val/bpb") == pytest.approx({s: loss(s) / 4 for s in STEPS}, abs=1e-6)
    assert column(run, "train/loss") == pytest.approx({s: loss(s) for s in STEPS}, abs=1e-6)
    assert run.config["tokens_per_step"] == 524288 and run.state == "finished"
    assert run.summary["core_metric"] == 0.1234 and run.summary["train/tok_per_sec"] == 11217
    assert count_from_shapes(run.config) == (3145776, "transformer_matrices as nanochat logs them")
    held_out, training = meaning("val/bpb"), meaning("train/loss")
    assert held_out is not None and held_out.function == "bits_per_byte"
    assert training is not None and held_out.rank > training.rank, "held-out loss comes first"


def test_checkpoints_of_nanochat_are_a_curve(tmp_path: Path):
    for step in (10, 20):
        meta = {
            "step": step, "val_bpb": loss(step) / 4, "total_batch_size": 524288,
            "model_config": {"sequence_len": 512, "n_layer": 4, "n_head": 2, "n_kv_head": 2,
                             "n_embd": 256, "vocab_size": 32768},
            "user_config": {"depth": 4, "total_batch_size": -1, "target_flops": -1.0},
        }  # fmt: skip
        put(tmp_path / "d4" / f"meta_{step:06d}.json", json.dumps(meta))
    put(tmp_path / "d4" / "meta_000030.json", '{"step": 30, "val_b')
    (run,) = read("nanochat", tmp_path)
    assert (run.id, column(run, "val/bpb")) == ("d4", {10: loss(10) / 4, 20: loss(20) / 4})
    assert run.config["tokens_per_step"] == 524288 and "target_flops" not in run.config
    counted = count_from_shapes(run.config)
    assert counted is not None and counted[0] == 12 * 4 * 256**2


def test_a_page_of_the_report_of_nanochat_is_a_run(tmp_path: Path):
    page = (
        "## Base model training\ntimestamp: 2026-01-01 10:00:00\n\n- run: dummy\n- depth: 20\n"
        "- aspect_ratio: 64\n- num_iterations: -1\n- total_batch_size: 524,288\n"
        "- Number of parameters: 560,988,160\n- Calculated number of iterations: 21,400\n"
        "- Minimum validation bpb: 0.8100\n- Final validation bpb: 0.8120\n"
        "- CORE metric estimate: None\n\n"
    )
    put(tmp_path / "report" / "base-model-training.md", page)
    put(tmp_path / "report" / "report.md", f"# nanochat training report\n\n{page}## Midtraining\n")
    (run,) = read("nanochat", tmp_path)
    assert run.history == [{"step": 21400, "val/bpb": 0.812, "val/min_bpb": 0.81}]
    assert run.config["tokens_per_step"] == 524288 and run.config["depth"] == 20
    counted = count_from_shapes(run.config)
    assert counted is not None and counted[0] == 12 * 20 * 1280**2 and "nanochat" in counted[1]


# ------------------------------------------------------------------ OLMo-core


def test_a_console_log_of_olmo_core_has_evaluations_at_their_steps(tmp_path: Path):
    put(tmp_path / "train.log", olmo_log())
    (run,) = read("olmo", tmp_path)
    name = "eval/lm/c4-validation/CE loss"
    assert column(run, name) == pytest.approx({s: loss(s) for s in STEPS}, abs=1e-4)
    assert [row["step"] for row in run.history] == list(STEPS)
    assert run.summary["throughput/device/flopsPS"] == 1.234e12
    assert run.summary["optim/LR (group 0)"] == 1e-5
    assert run.config["tokens_per_step"] == 262144 and run.state == "finished"


def test_a_narrow_terminal_breaks_the_lines_of_olmo_core(tmp_path: Path):
    head = "2026-06-01 10:00:00.123\tnode:0\tolmo_core.train.callbacks.console_logger:71\tINFO\t"
    text = olmo_log().replace(
        head, "[2026-06-01 10:00:00] INFO     [olmo_core.train, node,\nrank=0] "
    )
    text = text.replace("seconds. Metrics:", "seconds.\nMetrics:")
    put(tmp_path / "train.log", text)
    (run,) = read("olmo", tmp_path)
    assert len(column(run, "eval/lm/c4-validation/CE loss")) == 4


def test_metrics_and_config_that_olmo_core_saved_are_a_run(tmp_path: Path):
    own = tmp_path / "olmo2-30M"
    for step in (10, 20):
        metrics = {"train/CE loss": math.nan if step == 10 else loss(step),
                   "eval/lm/c4-validation/CE loss": loss(step),
                   "throughput/total tokens": step * 262144.0}  # fmt: skip
        put(own / f"metrics_step{step}.json", json.dumps(metrics))
    put(
        own / "metrics.json",
        json.dumps({"train/CE loss": 1.5, "throughput/total tokens": 20 * 262144}),
    )
    config = {"model": olmo_model(), "data_loader": {"global_batch_size": 262144}}
    put(own / "step20" / "config.json", json.dumps(config))
    (run,) = read("olmo", tmp_path)
    assert run.id == "olmo2-30M" and run.config["tokens_per_step"] == 262144
    assert math.isnan(column(run, "train/CE loss")[10]) and run.summary["train/CE loss"] == 1.5
    assert column(run, "tokens") == {10: 2621440, 20: 5242880}
    counted = count_from_shapes(run.config)
    assert counted is not None and counted[0] == 3_412_224 and "OLMo-core" in counted[1]


# ------------------------------------------------------------------ lm-evaluation-harness


def test_results_of_the_harness_are_metrics_of_a_model(tmp_path: Path):
    put(tmp_path / "a" / "results_2026.json", harness("pretrained=gpt2,dtype=float32"))
    (run,) = read("lm_eval", tmp_path)
    assert run.id == "gpt2" and run.history == [] and run.start == 1.75e9
    assert run.summary == {
        "piqa/acc": 0.6, "gsm8k/exact_match,strict-match": 0.1,
        "gsm8k/exact_match,flexible-extract": 0.2, "wikitext/word_perplexity": math.inf,
        "wikitext/bits_per_byte": 0.9,
    }  # fmt: skip
    assert run.config["lm_eval_version"] == "0.4.13" and run.config["piqa/version"] == 1.0
    assert run.config["piqa/n_shot"] == 5 and run.config["total_parameters"] == 70426624


def test_checkpoints_of_a_model_are_steps_and_later_evaluations_count(tmp_path: Path):
    name = "pretrained=EleutherAI/pythia-70m"
    put(tmp_path / "1" / "results_a.json", harness())
    put(tmp_path / "2" / "results_b.json", harness(f"{name},revision=step3000,device=cuda"))
    later = {"piqa": {"acc,none": 0.7}}
    put(tmp_path / "3" / "results_a.json", harness(date=1.8e9, results=later))
    other = {"pretrained": "out/checkpoint-500", "dtype": "float32"}
    put(tmp_path / "4" / "results_a.json", json.dumps(json.loads(harness()) | {
        "config": {"model": "hf", "model_args": other}}))  # fmt: skip
    pythia, own = read("lm_eval", tmp_path)
    assert (pythia.id, own.id) == ("EleutherAI/pythia-70m", "out")
    assert column(pythia, "piqa/acc") == {1000: 0.7, 3000: 0.6}
    assert column(pythia, "wikitext/bits_per_byte") == {1000: 0.9, 3000: 0.9}
    assert column(own, "piqa/acc") == {500: 0.6}


def test_results_that_are_damaged_are_named(tmp_path: Path):
    put(tmp_path / "results_1.json", harness()[:40])
    with pytest.raises(TrackerError, match=r"results_1\.json holds no"):
        read("lm_eval", tmp_path)
    put(tmp_path / "results_2.json", harness())
    runs = {run.id: run for run in read("lm_eval", tmp_path)}
    assert len(runs) == 2 and runs["results_1.json"].state == "unreadable"
    assert "holds no" in runs["results_1.json"].labels["problem"]


# ------------------------------------------------------------------ all of them


UNFINISHED = {
    "hf": lambda: hf_state(15, ended=False),
    "torchtitan": lambda: titan_log(range(5, 16, 5), ended=False),
    "nanochat": lambda: nanochat_log(range(5, 16, 5)),
    "olmo": lambda: olmo_log(range(5, 16, 5)),
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_run_that_was_cut_off_does_not_count(tmp_path: Path, kind: str):
    name, text = WRITERS[kind]
    put(tmp_path / "whole" / name, text())
    put(tmp_path / "part" / name, UNFINISHED[kind]())
    assert {run.state for run in read(kind, tmp_path)} == {"finished", "unfinished"}
    tracked = Tracked.read(f"{kind}:{tmp_path}")
    final = tracked.final(losses(tracked, {}, None))
    assert sorted(final["status"]) == ["ok", "unfinished"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_without_logs_says_what_was_looked_for(tmp_path: Path, kind: str):
    put(tmp_path / "other.txt", "x")
    with pytest.raises(TrackerError, match=r"holds no .*(json|log|metrics)"):
        read(kind, tmp_path)
    with pytest.raises(TrackerError, match="does not exist"):
        read(kind, tmp_path / "nowhere")
    assert kind in TRACKERS


@pytest.mark.parametrize("kind", WRITERS)
def test_one_file_is_read_as_its_folder_is(tmp_path: Path, kind: str):
    name, text = WRITERS[kind]
    path = put(tmp_path / name, text())
    one, folder = read(kind, path), read(kind, tmp_path)
    assert one == folder and len(one) == 1 and one[0].summary


def test_a_log_from_powershell_is_read(tmp_path: Path):
    put(tmp_path / "train.log", titan_log().replace("\n", "\r\n").encode("utf-16"))
    (run,) = read("torchtitan", tmp_path)
    assert len(run.history) == 4


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, 5000), at=st.integers(0, 5000), byte=st.binary(max_size=3),
    kind=st.sampled_from(sorted(WRITERS)),
)  # fmt: skip
def test_damage_never_raises_anything_but_a_tracker_error(
    cut: int, at: int, byte: bytes, kind: str
):
    name, text = WRITERS[kind]
    data = text().encode()
    data = data[: len(data) - cut % len(data)]
    at %= len(data) + 1
    data = data[:at] + byte + data[at + len(byte) :]
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder) / name, data)
        try:
            runs = read(kind, Path(folder))
        except TrackerError:
            return
        for run in runs:
            steps = [row["step"] for row in run.history]
            assert steps == sorted(set(steps)) and (run.history or run.summary)


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
), st.floats(0, 1))  # fmt: skip
def test_items_of_a_list_that_is_cut_short_are_those_of_the_whole(value: Any, where: float):
    from scaling.trackers.log_files import read_json

    rows = [value, {"a": value}, [value]]
    text = json.dumps({"rows": rows})
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "a.json", text[: 1 + int(where * (len(text) - 1))])
        try:
            found, whole = read_json(path)
        except ValueError:
            return
    kept = found.get("rows", [])
    same = [json.dumps(a) == json.dumps(b) for a, b in zip(kept, rows, strict=False)]
    assert all(same[:-1]), "only the last item may lack what was cut"
    assert whole is (where == 1)
