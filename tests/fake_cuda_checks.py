"""What runs in the child process of tests/fake_cuda.py, on fake CUDA tensors.

The functions below that begin with `check_` return what tests/test_gpu.py asserts.
"""

from __future__ import annotations

import os
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import fake_cuda
import torch
from fake_cuda import Operations

from scaling import size
from scaling.config import RunConfig, from_dict, override
from scaling.execution import Execution
from scaling.model import build
from scaling.models import attention, lstm
from scaling.training import blocks, checkpoint, trainer
from scaling.training.train import train_pack
from scaling.training.trainer import Trainer

SMALL = {"model": {"n_layer": 1, "d_model": 16, "n_head": 2, "n_ctx": 32}}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False},
    "grouped": {"position": "rope", "qk_norm": True, "n_kv_head": 1, "tied": False},
    "repeated": {"n_repeat": 2, "mup_base_width": 8},
}
GPU = Execution(device="cuda")

calls: dict[str, int] = {}
"""Calls of what would need a real device, by name."""
base: RunConfig
own_family: str


def run(arguments: list[str]) -> dict[str, Any]:
    """{name of a check: its answer}; the arguments are a corpus and the file of a family."""
    global base, calls, own_family
    corpus, own_family, *only = arguments
    data = {"data": {"corpus": corpus, "tokenizer": "bytes"}}
    more = {"tokens": 8 * 256, "batch_tokens": 256, "eval": {"test_tokens": 1024, "points": 2}}
    base = from_dict(SMALL | data | more)
    found: dict[str, Any] = {}
    warnings.simplefilter("ignore")
    with fake_cuda.device() as calls:
        for name, check in globals().items():
            if name.startswith("check_") and (not only or name.removeprefix("check_") in only):
                try:
                    found[name.removeprefix("check_")] = check()
                except Exception as error:
                    found[name.removeprefix("check_")] = {
                        "error": f"{type(error).__name__}: {error}",
                        "at": traceback.format_exc()[-60000:],
                    }
    return found


def pack(K: int, changes: dict[str, Any], execution: Execution = GPU) -> Trainer:
    runs = [override(base, changes | {"seed": k}) for k in range(K)]
    size.allow(runs[0].model.family)
    trainer = Trainer(runs, execution, [None] * K)
    trainer.steps(1)  # what is cached at the first step
    return trainer


def step(K: int, changes: dict[str, Any], execution: Execution = GPU) -> dict[str, Any]:
    trainer = pack(K, changes, execution)
    with Operations() as seen:
        trainer.steps(1)
    return {"operations": seen.number, "waits": seen.waits, "names": dict(seen.names)}


def both(changes: dict[str, Any], execution: Execution = GPU) -> list[dict[str, Any]]:
    """A step of a pack of 2 and of one of 6."""
    return [step(K, changes, execution) for K in (2, 6)]


def check_steps() -> dict[str, Any]:
    cases = {name: {f"model.{k}": v for k, v in m.items()} for name, m in DECODERS.items()}
    cases |= {"ema": {"optim.ema": 0.9}, "noise": {"eval.noise_parts": 2}}
    cases |= {"update ratio": {"eval.update_ratio": True, "eval.points": 8}}
    cases |= {"bfloat16": {"precision": "bfloat16"}, "tf32": {"precision": "tf32"}}
    cases |= {"z loss": {"optim.z_loss": 1e-4}, "no clipping": {"optim.clip": None}}
    # norms of 131072 elements per model
    cases |= {"large norms": {"model.d_model": 64, "batch_tokens": 2048, "tokens": 8 * 2048}}
    return {name: both(changes) for name, changes in cases.items()}


def check_recompute() -> list[dict[str, Any]]:
    return both({}, Execution(device="cuda", recompute=True, micro_tokens=128))


def check_row_by_row() -> dict[str, Any]:
    """Packs that take a call per row: torch's own optimizers and LSTM."""
    cases = {"muon": {"optim.optimizer": "muon"}, "adafactor": {"optim.optimizer": "adafactor"}}
    cases |= {"lstm": {"model.family": "lstm"}}
    return {name: both(changes) for name, changes in cases.items()}


def check_lstm_in_bfloat16() -> list[bool]:
    """Whether autocast is on where an LSTM's layers are called."""
    seen: list[bool] = []
    plain = lstm.functional_call

    def noted(*given: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cuda"))
        return plain(*given)

    with mock.patch.object(lstm, "functional_call", noted):
        step(2, {"model.family": "lstm", "precision": "bfloat16"})
    return seen


def check_tokens_in_their_file() -> list[dict[str, Any]]:
    """Steps where the training tokens do not fit on the GPU."""
    with mock.patch.object(blocks, "MOST_TOKENS", 0):
        return both({"optim.ema": 0.9})


def check_graphs() -> dict[str, Any]:
    """What a graphed step launches besides its graph."""

    class Recorder:
        def __init__(self, device: torch.device) -> None: ...

        def warm_up(self, work: Any) -> None:
            work()

        def record(self, work: Any) -> Any:
            return lambda: None

    execution = Execution(device="cuda", cuda_graphs=True)
    found = {}
    with mock.patch.object(trainer, "CudaRecorder", Recorder):
        for K in (1, 2, 6):
            whole = pack(K, {"optim.ema": 0.9, "eval.points": 1}, execution)
            whole.steps(3)
            with Operations() as seen:
                whole.steps(1)
            found[str(K)] = {"waits": seen.waits, "names": dict(seen.names)}
    return found


def check_detector() -> dict[str, Any]:
    """What is seen of each way to wait for the device."""
    ways = {
        "item": lambda x: x.sum().item(),
        "tolist": lambda x: x.tolist(),
        "cpu": lambda x: x.cpu(),
        "to": lambda x: x.to("cpu"),
        "copy_": lambda x: torch.zeros(3).copy_(x),
        "from the host": lambda x: torch.zeros(3).to(x.device),
        "nonzero": lambda x: x.nonzero(),
        "mask": lambda x: x[x > 0],
        "float": lambda x: float(x.sum()),
        "bool": lambda x: bool(x.sum() > 0),
        "nothing": lambda x: torch.zeros(3).to(x.device, non_blocking=True) + x,
    }
    found = {}
    for name, way in ways.items():
        with Operations() as seen:
            try:
                way(torch.ones(3, device="cuda"))
            except Exception as error:  # fake tensors have no numbers
                seen.waits.append(type(error).__name__)
        found[name] = seen.waits
    return found


def check_alone() -> dict[str, Any]:
    return {
        "small": step(1, {}),
        "large": step(1, {"model.d_model": 64, "batch_tokens": 2048, "tokens": 8 * 2048}),
    }


def check_own_family() -> list[dict[str, Any]]:
    return both({"model.family": f"{own_family}:Mean"})


def check_evaluation() -> list[dict[str, Any]]:
    found = []
    for K in (1, 2, 6):
        trainer = pack(K, {})
        before = calls["copies"]
        with Operations() as seen:
            held_out = trainer.evaluator.held_out(trainer.stack.evaluated_kp)
        answer = {"operations": seen.number, "waits": seen.waits, "models": len(held_out)}
        found.append(answer | {"copies": calls["copies"] - before})
    return found


def check_generation() -> str:
    model = build(base.model, 64)
    flat_1p = torch.zeros(1, model.P, device="cuda")
    cache = model.cache(flat_1p, 2, 8)
    assert cache is not None
    tokens_bt = torch.zeros(2, 3, dtype=torch.long, device="cuda")
    state_bd = cache.extend(tokens_bt)
    logits = model.next_logits(model.named(flat_1p), state_bd)
    return str(logits.device)


def check_attention() -> dict[str, Any]:
    batches: list[int] = []
    plain = attention.F.scaled_dot_product_attention

    def noted(query: torch.Tensor, *others: torch.Tensor, **options: Any) -> torch.Tensor:
        batches.append(len(query))
        return plain(query, *others, **options)

    query = torch.zeros(70_000, 1, 4, 8, device="cuda")
    with mock.patch.object(attention.F, "scaled_dot_product_attention", noted):
        y = attention.attend(query, query, query, 1.0)
    return {"batches": batches, "shape": list(y.shape)}


def check_whole_run() -> dict[str, Any]:
    """A pack from start to end, with checkpoints, a trunk and rows that wait for a slot."""
    saved: list[str] = []

    def write(folders: Any, values: Any) -> None:
        tensors = [x for x in vars_of(values["state"]) if isinstance(x, torch.Tensor)]
        saved.extend(x.device.type for x in tensors)

    checkpoint.write = write
    before = dict(calls)
    wsd = {"optim.schedule": "wsd", "optim.warmup_tokens": 256, "optim.ema": 0.9}
    runs = [override(base, wsd | {"tokens": n * 256, "eval.points": 1}) for n in (4, 8)]
    runs += [override(base, wsd | {"seed": 5, "eval.points": 1})]
    with tempfile.TemporaryDirectory() as folder:
        results = train_pack(
            runs,
            slots=1,
            execution=Execution(device="cuda", checkpoint_seconds=0.0),
            folders=[Path(folder, run.run_id) for run in runs],
        )
    count = {name: calls[name] - before.get(name, 0) for name in calls}
    rows = [{k: r.row[k] for k in ("device", "memory", "status", "D_shared")} for r in results]
    return {"rows": rows, "saved on": sorted(set(saved)), "calls": count}


def vars_of(state: dict[str, Any]) -> list[Any]:
    return [*state.values(), *state["adamw"].values()]


def check_waiting_rows() -> dict[str, Any]:
    """Devices of the tensors of rows that wait for a slot after a resume, and of those that
    train."""
    trainer = pack(2, {"optim.ema": 0.9})
    devices = {}
    for name, state in (("row", trainer.stack.state(0)), ("copy", trainer.stack.state(0).on_cpu())):
        tensors = [x for x in vars_of(vars(state)) if isinstance(x, torch.Tensor)]
        devices[name] = sorted({x.device.type for x in tensors if x.dim()})
    return devices


def check_statistics() -> dict[str, Any]:
    """The order of calls that begin the measurement of memory."""
    from scaling.devices import hardware

    order: list[str] = []
    for name in ("init", "reset_peak_memory_stats", "max_memory_allocated", "synchronize"):
        setattr(torch.cuda, name, lambda *_, name=name: order.append(name))
    hardware.reset_peak_memory(torch.device("cuda", 1))
    began = list(order)
    order.clear()
    with Operations() as seen:
        hardware.peak_flops(torch.device("cuda"), torch.float32, 99)
    return {"began": began, "products": order, "names": dict(seen.names)}


if os.environ.get("SCALING_CACHE") is None:
    os.environ["SCALING_CACHE"] = tempfile.mkdtemp()
