"""What can be seen of the GPU path without a GPU: placement, launches, and waits of the host.

tests/fake_cuda.py runs the code on tensors of a device that computes nothing. What only a device
can show is listed in docs/howto/gpu.md, with the check of benchmarks/gpu.py that will.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fake_cuda
import pytest
import torch
from small import call
from torch.nn import functional as F

from scaling.config import RunConfig, override
from scaling.devices import device, hardware
from scaling.devices.ranks import Lost, exchange
from scaling.errors import ConfigError, one_line, out_of_memory
from scaling.execution import Execution
from scaling.model import Model, build
from scaling.models import attention, output_loss
from scaling.training import evaluate, graphs, trainer
from scaling.training.step import step_function
from scaling.training.train import train, train_pack

pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).parents[1]
ONE = Execution(threads=1, device="cpu")
GPU = torch.device("cuda", 1)


@pytest.fixture(scope="module")
def traced(tmp_path_factory, text_file) -> dict[str, Any]:
    """The answers of tests/fake_cuda_checks.py."""
    folder = tmp_path_factory.mktemp("fake")
    if why := fake_cuda.build(folder):
        pytest.skip(f"the library behind fake CUDA cannot be compiled: {why}")
    guide = (ROOT / "docs/howto/own_family.md").read_text()
    (folder / "my.py").write_text(guide.split("```python\n")[1].split("```")[0])
    return fake_cuda.answers(folder, str(text_file), str(folder / "my.py"))


def found(traced: dict[str, Any], check: str) -> Any:
    answer = traced[check]
    assert "error" not in answer, answer["at"]
    return answer


# ------------------------------------------------------------------ on a fake GPU


def packs(traced: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    steps = dict(found(traced, "steps"))
    names = ("recompute", "own_family", "tokens_in_their_file")
    return steps | {name: found(traced, name) for name in names}


def test_launches_of_a_step_do_not_grow_with_the_pack(traced):
    for name, (two, six) in packs(traced).items():
        assert two["names"] == six["names"], name
        assert two["operations"] > 40, name


def test_a_graphed_step_launches_its_graph_and_what_fills_its_inputs(traced):
    one, two, six = found(traced, "graphs").values()
    assert one == two == six and one["waits"] == []
    assert sum(one["names"].values()) < 10


def test_the_detector_sees_every_way_to_wait(traced):
    seen = found(traced, "detector")
    assert seen.pop("nothing") == []
    assert len(seen) == 10 and {name for name, waits in seen.items() if not waits} == set()


def test_the_host_waits_for_nothing_within_a_step(traced):
    by_row = dict(found(traced, "row_by_row"))
    for one in by_row.pop("adafactor"):  # torch reads the norms of each tensor
        assert set(one["waits"]) == {"item or tolist"}
    steps = packs(traced) | by_row
    steps["alone"] = [*found(traced, "alone").values()]
    assert {name: [one["waits"] for one in each] for name, each in steps.items()} == {
        name: [[], []] for name in steps
    }


def test_the_layers_of_an_lstm_do_not_become_float16(traced):
    assert found(traced, "lstm_in_bfloat16") == [False] * 4  # two steps of two models


def test_a_single_large_model_has_fused_gains_and_the_fused_optimizer(traced):
    large = found(traced, "alone")["large"]["names"]
    assert "_fused_adamw_" in large and "addcmul" not in large
    assert "_fused_adamw_" not in found(traced, "steps")["large norms"][0]["names"]


def test_models_are_evaluated_together_and_copied_to_the_host_once(traced):
    one, two, six = found(traced, "evaluation")
    assert two["operations"] == six["operations"] < one["operations"] + 9
    assert [(x["copies"], x["models"]) for x in (one, two, six)] == [(1, 1), (1, 2), (1, 6)]
    assert one["waits"] == two["waits"] == ["item or tolist"]


def test_attention_of_many_sequences_is_cut_into_launches_that_cuda_allows(traced):
    answer = found(traced, "attention")
    assert max(answer["batches"]) < 65_536 and sum(answer["batches"]) == 70_000
    assert answer["shape"] == [70_000, 1, 4, 8]


def test_a_whole_run_writes_checkpoints_from_the_cpu(traced):
    answer = found(traced, "whole_run")
    assert answer["saved on"] == ["cpu"]
    assert [row["status"] for row in answer["rows"]] == ["ok"] * 3
    assert answer["rows"][0]["D_shared"] == 3 * 256  # a trunk waited for its slot
    assert {(row["device"], row["memory"]) for row in answer["rows"]} == {("Fake 100", 7)}
    assert answer["calls"]["synchronize"] > 0


def test_rows_that_wait_are_not_on_the_gpu(traced):
    assert found(traced, "waiting_rows") == {"row": ["cuda"], "copy": ["cpu"]}


def test_text_is_generated_on_the_gpu(traced):
    assert found(traced, "generation") == "cuda:0"


def test_memory_is_measured_after_cuda_begins_and_without_the_products(traced):
    answer = found(traced, "statistics")
    assert answer["began"] == ["init", "reset_peak_memory_stats"]
    assert answer["products"][-1] == "reset_peak_memory_stats"
    assert answer["names"]["mm"] == 5 and "ones" not in answer["names"]


# ------------------------------------------------------------------ time and memory


def test_work_queued_on_the_device_is_training_time(run, monkeypatch):
    """A device that queues steps does them when the host waits for it."""
    queued, clock = [0.0], [0.0]

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            clock[0] += 1e-6
            return clock[0]

    def wait(_: torch.device) -> None:
        clock[0] += queued[0]
        queued[0] = 0.0

    steps = trainer.Trainer.steps

    def queue(self: trainer.Trainer, n: int) -> None:
        steps(self, n)
        queued[0] += 0.5 * n

    monkeypatch.setattr(trainer, "time", Clock)
    monkeypatch.setattr(trainer, "synchronize", wait)
    monkeypatch.setattr(trainer.Trainer, "steps", queue)
    row = train(run, execution=ONE).row
    assert row["step_seconds"] == pytest.approx(0.5, rel=0.01)
    assert row["seconds"] == pytest.approx(60 * 0.5, rel=0.01)


def test_memory_of_a_result_excludes_the_products_that_measure_flops(run, monkeypatch):
    peak = [100]
    monkeypatch.setattr(trainer, "peak_memory", lambda _: peak[0])

    def products(*_: Any) -> float:
        peak[0] = 0  # as on a GPU, where the measurement begins anew
        return 1e12

    monkeypatch.setattr(trainer, "peak_flops", products)
    short = override(run, {"tokens": 20 * 256, "seed": 1})
    rows = [result.row for result in train_pack([run, short], execution=ONE)]
    assert [row["memory"] for row in rows] == [100, 100]


def test_products_that_do_not_fit_are_smaller(monkeypatch):
    asked = []

    def seconds(n: int, *_: Any) -> float:
        asked.append(n)
        if n > 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB.")
        return 1.0

    monkeypatch.setattr(hardware, "_product_seconds", seconds)
    assert hardware.peak_flops(torch.device("cpu"), torch.float16, 77) == 2 * 192**3
    assert asked == [768, 384, 192]


def test_products_have_operands_of_many_values(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "mm", lambda a, b: seen.append(a))
    hardware.peak_flops(torch.device("cpu"), torch.bfloat16, 78)
    assert len(seen) == 5 and seen[0].float().std() > 0.5


OUT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nncclUnhandledCudaError: Call to CUDA "
    "function failed.\nLast error:\nCuda failure 2 'out of memory'",
    "NCCL error in: x.cpp:9\nLast error:\nFailed to CUDA calloc 6291456 bytes",
    "HIP out of memory. Tried to allocate 1 GiB",
)


@pytest.mark.parametrize("text", OUT)
def test_all_ways_in_which_a_gpu_lacks_memory_are_recognised(text):
    error = RuntimeError(text)
    assert out_of_memory(error) and out_of_memory(one_line(error))
    with pytest.raises(RuntimeError, match=r"memory|ALLOC|alloc"), exchange():
        raise error  # the ranks have not lost contact


def test_other_failures_of_a_gpu_are_no_lack_of_memory():
    for text in (
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "NCCL error in: x.cpp:9, remote process exited or there was a network error",
    ):
        assert not out_of_memory(RuntimeError(text))
    with pytest.raises(Lost), exchange():
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize("room", [4, 1])
def test_a_step_is_halved_until_it_fits(run, monkeypatch, room):
    whole = train(run, execution=ONE)
    plain = Model.mean_loss

    def full(self, flat_kp, windows_kbt, instead=None):
        if windows_kbt.shape[1] > room:
            raise RuntimeError("CUDA error: out of memory")
        return plain(self, flat_kp, windows_kbt, instead)

    monkeypatch.setattr(Model, "mean_loss", full)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        halved = train(run, execution=ONE)
    *_, last = (str(one.message) for one in seen)
    assert last.endswith(f"it is done in {8 // room} micro-batches.")
    assert halved.row["L"] == pytest.approx(whole.row["L"], abs=2e-4)


def test_a_sequence_that_does_not_fit_is_an_error(run, monkeypatch):
    def full(*_: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Model, "mean_loss", full)
    with (
        warnings.catch_warnings(),
        pytest.raises(MemoryError, match=r"a step of 32 tokens .* Use execution\.recompute\."),
    ):
        warnings.simplefilter("ignore")
        train(run, execution=ONE)
    with pytest.raises(MemoryError, match=r"Use execution\.micro_tokens=64 or less"):
        train(run, execution=dataclasses.replace(ONE, micro_tokens=128))


def test_a_sweep_can_bound_the_memory_of_its_steps():
    from sweeps.options import SweepOptions

    options = SweepOptions(micro_tokens=4096, recompute=True)
    assert options.execution.micro_tokens == 4096 and options.execution.recompute
    assert options.arguments() == ["--micro-tokens", "4096", "--recompute"]


# ------------------------------------------------------------------ recordings


class Cuda:
    """Stands in for torch.cuda within scaling/training/graphs.py, where a recording that breaks a
    rule of CUDA ends as torch's does: another error replaces the cause, and the stream stays."""

    Stream, CUDAGraph = str, mock.Mock

    def __init__(self, *, broken_off: bool) -> None:
        self.broken_off, self.stream = broken_off, "usual"

    def current_stream(self, device: Any = None) -> str:
        return self.stream

    def set_stream(self, stream: str) -> None:
        self.stream = stream

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 7)

    def current_device(self) -> int:
        return 1

    def device(self, device: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: str) -> Iterator[None]:
        self.stream = stream
        yield
        if self.broken_off:
            raise RuntimeError("CUDA error: operation failed due to a previous error in capture")
        self.stream = "usual"


@pytest.mark.parametrize("broken_off", [False, True])
def test_a_recording_that_fails_names_the_cause_and_leaves_nothing_behind(monkeypatch, broken_off):
    cuda, ended = Cuda(broken_off=broken_off), []
    monkeypatch.setattr(torch, "cuda", cuda)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(
            torch._C, name, lambda *given, name=name: ended.append((name, *given)), raising=False
        )

    def work() -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        graphs.CudaRecorder(GPU).record(work)
    assert cuda.stream == "usual"
    expected = [(name, 1, (0, 7)) for name in ("_cuda_endAllocateToPool", "_cuda_releasePool")]
    assert ended == expected * broken_off


# ------------------------------------------------------------------ numbers


def test_attention_in_parts_is_attention(monkeypatch):
    g = torch.Generator().manual_seed(0)
    three = [torch.randn(5, 2, 6, 4, generator=g) for _ in range(3)]
    expected = F.scaled_dot_product_attention(*three, is_causal=True, scale=0.4)
    monkeypatch.setattr(attention, "_MOST_SEQUENCES", 2)
    torch.testing.assert_close(attention.in_parts(*three, 0.4), expected)


def test_models_evaluated_together_have_the_losses_of_each_alone(run):
    model = build(run.model, 256)
    flat_kp = model.init([0, 1, 2])
    g = torch.Generator().manual_seed(0)
    windows_bt = torch.randint(0, 256, (9, 33), generator=g)
    bytes_v = torch.ones(256, dtype=torch.long)
    alone = evaluate.evaluate(model, flat_kp, windows_bt, bytes_v)
    loss_kbt = model.losses(flat_kp, windows_bt.expand(3, -1, -1)).double()
    together = evaluate.summary(loss_kbt, bytes_v[windows_bt[:, 1:]].double())
    for row, one in zip(together.tolist(), alone, strict=True):
        assert row == pytest.approx([one.L, one.L_stderr, one.bits_per_byte, *one.L_position])
    (short,) = evaluate.evaluate(model, flat_kp[:1], windows_bt[:1], bytes_v)
    assert math.isnan(short.L_stderr) and math.isfinite(short.L)


def test_gpus_keep_more_logits_than_cpus(run):
    model = build(run.model, 8192)
    V = model.vocab_size
    assert output_loss.most_fused(torch.device("cpu")) < 65_536 * V
    assert 65_536 * V <= output_loss.most_fused(GPU) < 524_288 * V  # a step of [scale.gpu]
    assert output_loss.most_fused(torch.device("cpu")) == 1 << 22


def test_tf32_is_part_of_a_runs_identity_and_needs_a_gpu(run, monkeypatch):
    fast = override(run, {"precision": "tf32"})
    assert fast.run_id != run.run_id
    with pytest.raises(ConfigError, match=r"precision='tf32' needs a CUDA GPU.* on cpu"):
        train(fast, execution=ONE)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="precision='tf32' needs a CUDA GPU"):
            train(fast, execution=dataclasses.replace(ONE, device="auto"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    try:
        device.choose_products(GPU, "float32")
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        device.choose_products(GPU, "tf32")
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False},
    "grouped": {"position": "rope", "qk_norm": True, "n_kv_head": 1, "tied": False},
    "repeated": {"n_repeat": 2, "mup_base_width": 8},
}


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # raised in torch
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # likewise
@pytest.mark.parametrize("family", FAMILIES)
def test_the_step_of_every_family_is_one_graph(run, family):
    run = override(run, {f"model.{key}": value for key, value in FAMILIES[family].items()})
    loss_k, norm_k = as_one_graph(run)
    assert loss_k.isfinite().all() and (norm_k > 0).all()


def test_an_lstm_is_not_one_graph(run):
    from torch._dynamo.exc import Unsupported

    with pytest.raises(Unsupported):  # torch does not trace its recurrent layers
        as_one_graph(override(run, {"model.family": "lstm"}))


def as_one_graph(run: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradient norms of a step that torch has traced as one graph."""
    model = build(run.model, 64)
    flat_kp = model.init([0, 1])
    windows_kbt = torch.randint(0, 64, (2, 2, 33), generator=torch.Generator().manual_seed(0))
    rest = (torch.zeros_like(flat_kp), torch.zeros_like(flat_kp), torch.tensor([[9], [9]]))
    fixed_k5 = torch.tensor([[1.0, 0.1, 0.9, 0.95, 1e-8]] * 2)
    moving_k4 = torch.tensor([[1e-3, 1e-3, 0.1, 0.2]] * 2)
    model.logits(flat_kp, windows_kbt[:, :, :-1])  # caches tensors
    whole = torch.compile(step_function(model, False), backend="eager", fullgraph=True)
    try:
        return whole(windows_kbt, flat_kp, *rest, fixed_k5, moving_k4, 100)
    finally:
        torch._dynamo.reset()


# ------------------------------------------------------------------ every branch


FAKE_STEPS = "test_launches_of_a_step_do_not_grow_with_the_pack"
FAKE_RUN = "test_a_whole_run_writes_checkpoints_from_the_cpu"
NO_TF32 = "test_tf32_is_part_of_a_runs_identity_and_needs_a_gpu"
MEMORY = "test_memory_is_measured_after_cuda_begins_and_without_the_products"
LACKS = "test_what_compilation_for_a_gpu_lacks_is_reported"
RECORDING = "test_a_recording_that_fails_names_the_cause_and_leaves_nothing_behind"
BRANCHES = {
    "scaling/devices/compilation.py": {
        "compiled": "benchmarks/gpu.py: compiled",
        "check_compiler": LACKS,
        "_lacking_for_gpu": LACKS,
    },
    "scaling/devices/device.py": {
        "device_of": FAKE_RUN,
        "precision": FAKE_STEPS,
        "check_precision": NO_TF32,
        "choose_products": NO_TF32,
        "send": "test_the_host_waits_for_nothing_within_a_step",
        "send_each": "test_the_host_waits_for_nothing_within_a_step",
        "synchronize": FAKE_RUN,
    },
    "scaling/devices/hardware.py": {
        "_peak_flops": MEMORY,
        "reset_peak_memory": MEMORY,
        "peak_memory": FAKE_RUN,
    },
    "scaling/devices/launch.py": {
        "check": NO_TF32,
        "together": "benchmarks/gpu.py: two_ranks",
        "_join": "benchmarks/gpu.py: two_ranks",
        "_leave": "benchmarks/gpu.py: lost_rank",
    },
    "scaling/devices/watch.py": {
        "Watch._free": "test_a_blocked_launch_is_freed_or_the_process_exits"
    },
    "scaling/models/attention.py": {
        "attend": "test_attention_of_many_sequences_is_cut_into_launches_that_cuda_allows"
    },
    "scaling/models/decoder.py": {
        "Decoder._attention": FAKE_STEPS,
        "Decoder._norm": ("test_a_single_large_model_has_fused_gains_and_the_fused_optimizer"),
    },
    "scaling/models/lstm.py": {"LSTM.hidden": "test_the_layers_of_an_lstm_do_not_become_float16"},
    "scaling/models/output_loss.py": {
        "most_fused": "test_gpus_keep_more_logits_than_cpus",
        "output_loss": FAKE_STEPS,
    },
    "scaling/training/blocks.py": {
        "Source.__init__": "test_the_host_waits_for_nothing_within_a_step"
    },
    "scaling/training/graphs.py": {
        "CudaRecorder.__init__": "benchmarks/gpu.py: graphs",
        "CudaRecorder.record": RECORDING,
        "CudaRecorder.warm_up": "benchmarks/gpu.py: graphs",
        "_break_off": RECORDING,
    },
    "scaling/training/evaluate.py": {
        "evaluate": "test_models_are_evaluated_together_and_copied_to_the_host_once"
    },
    "scaling/training/fsdp.py": {
        "Sharding.gather": "reason: it does the same on every device, and passes its type to torch"
    },
    "scaling/training/optim.py": {"Optimizer.step": FAKE_STEPS},
    "scaling/training/stack.py": {"Stack.__init__": FAKE_STEPS},
    "scaling/training/step.py": {
        "TrainingStep.__init__": "benchmarks/gpu.py: compiled",
        "TrainingStep._split_further": "benchmarks/gpu.py: out_of_memory",
    },
    "scaling/training/trainer.py": {"Trainer._machine": FAKE_RUN},
    "sweeps/measure.py": {
        "Machine._timed": "test_processes_that_measure_share_gpus_as_the_workers_will",
        "Machine.like": ("test_measurements_hold_for_one_model_of_gpu_and_one_way_to_save_memory"),
        "_crowded": "test_packs_that_would_crowd_a_gpu_are_found_by_its_own_memory",
        "_sharing": (
            "test_the_memory_of_a_device_is_shared_by_the_workers_on_it_and_not_by_all_of_a_cluster"
        ),
    },
    "sweeps/on_ray/cluster.py": {
        "gpus_of_workers": "test_workers_share_the_gpus_that_they_will_see"
    },
    "sweeps/on_ray/resources.py": {
        "gpus_for": "test_shares_of_a_gpu_add_up_to_at_most_one_as_ray_rounds_them",
        "worker_resources": "test_shares_of_a_gpu_add_up_to_at_most_one_as_ray_rounds_them",
        "command_resources": "test_a_run_asks_ray_for_what_the_spec_says",
    },
    "sweeps/runner/checks.py": {
        "check_options": "test_what_the_machine_lacks_is_found_before_anything_starts"
    },
    "sweeps/runner/starting.py": {
        "device_of": "reason: it names the device in the table, and changes nothing else"
    },
    "sweeps/slurm/script.py": {"share_of": "test_the_resources_of_a_node_follow_from_the_options"},
    "sweeps/slurm/submit.py": {"_hints": "reason: it prints a hint"},
}
"""Every function that may do something else on a GPU, with the test that goes that way, the check
of benchmarks/gpu.py where only a device can, or the reason why neither is needed."""

FLAGS = {"cuda", "_cuda", "is_cuda", "on_gpu", "on_cpu"}
"""Names that hold whether a device is a GPU."""


def asks_for_the_device(node: ast.AST) -> bool:
    """Whether code compares or looks up the type of a device, or calls torch.cuda."""
    if isinstance(node, ast.Compare):
        return any(getattr(x, "value", "") in ("cpu", "cuda") for x in node.comparators)
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "startswith":
        return any(getattr(x, "value", "") in ("cpu", "cuda") for x in node.args)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        names = (getattr(x, "id", getattr(x, "attr", "")) for x in ast.walk(node.test))
        return not FLAGS.isdisjoint(names)
    if isinstance(node, ast.Attribute):
        text = ast.unparse(node)
        return text.startswith("torch.cuda.") or text.endswith(("device.type", ".is_cuda"))
    return False


def branches(path: Path) -> set[str]:
    """Functions of a module, as Class.method, that ask for the device."""
    found = set()

    def visit(node: ast.AST, names: tuple[str, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = (*names, node.name)
        if asks_for_the_device(node):
            found.add(".".join(names))
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(ast.parse(path.read_text()), ())
    return found


def test_every_branch_on_the_device_is_reached_or_has_a_check_or_a_reason(benchmark):
    here = {
        str(path.relative_to(ROOT)): names
        for package in ("scaling", "sweeps", "analysis")
        for path in sorted((ROOT / package).rglob("*.py"))
        if (names := branches(path))
    }
    assert here == {path: {*names} for path, names in BRANCHES.items()}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    guide = (ROOT / "docs/howto/gpu.md").read_text()
    for by in (by for names in BRANCHES.values() for by in names.values()):
        kind, _, name = by.rpartition(": ")
        if kind == "benchmarks/gpu.py":
            assert name in benchmark.CHECKS and f"`{name}`" in guide, by
        else:
            assert kind == "reason" or f"\ndef {name}(" in tests, by


@pytest.fixture
def benchmark(monkeypatch) -> Any:
    """The package of the checks of benchmarks/gpu.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_checks")


def test_continuous_integration_runs_the_benchmark_on_a_cpu():
    (recipe,) = re.findall(r"^test-gpu:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe.endswith("-m pytest -m slow tests/test_gpu.py")
    assert "\nmake test-gpu\n" in (ROOT / ".ci/run").read_text()


def test_every_check_of_the_benchmark_is_in_the_guide(benchmark):
    """Those of packs are named by the first and the last of each way to train them."""
    guide = (ROOT / "docs/howto/gpu.md").read_text()
    assert "lost_rank" in benchmark.CHECKS and len(benchmark.CHECKS) > 20
    between = {f"{way}_{N}" for way in benchmark.speed.WAYS for N in ("3e5", "3e4")}
    missing = {name for name in benchmark.CHECKS if f"`{name}`" not in guide}
    assert missing <= {"device", *between}


# ------------------------------------------------------------------ the benchmark


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_benchmark_runs_on_a_cpu_and_writes_each_figure_as_it_comes(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--tiny", "--device", "cpu"]
    answer = subprocess.run(
        [*command, "--seconds", "900", "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},  # scaling need not be installed
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    figures = json.loads(out.read_text())
    failed = {name: c for name, c in figures["checks"].items() if c["status"] == "failed"}
    assert failed == {} and figures["finished"]
    done = {name for name, c in figures["checks"].items() if c["status"] == "ok"}
    assert {"losses", "resume", "packs", "compiled", "compiled_3e3", "mfu_compiled"} <= done
    assert "---- losses" in (tmp_path / "gpu.log").read_text()
    assert call("doctor", "--gpu", out) == 0
    assert "compiled_3e3" in capsys.readouterr().out


def test_the_doctor_reads_the_figures_of_a_gpu(tmp_path, capsys):
    checks = {
        "device": {"status": "ok", "name": "H200", "torch": "2.11"},
        "losses": {"status": "ok", "largest_difference": 1.5e-4, "seconds": 9.0},
        "resume": {"status": "failed", "error": "losses differ by 0.1", "traceback": "at"},
        "two_ranks": {"status": "skipped", "why": "needs two GPUs"},
        "mfu_eager": {"status": "ok", "mfu": 0.31},
        "eager_1e6": {"status": "running", "gain_16": 11.2},
        "graphed_1e6": {"status": "skipped", "why": "no time left", "gain_64": 9.5},
    }
    file = tmp_path / "gpu.json"
    goals = {"gain": 10.0, "mfu": 0.4}
    file.write_text(json.dumps({"checks": checks, "goals": goals, "device": "H200"}))
    assert call("doctor", "--gpu", file) == 2
    answer = capsys.readouterr()
    assert "resume            failed: losses differ by 0.1\n" in answer.out
    assert "two_ranks         skipped: needs two GPUs" in answer.out
    assert "eager_1e6         interrupted: gain_16 11.2" in answer.out
    assert "graphed_1e6       skipped: no time left: gain_64 9.5" in answer.out
    assert "losses            ok: largest_difference 0.00015" in answer.out
    assert "1 of 7 checks failed: resume" in answer.err
    file.write_text("[1]")
    assert call("doctor", "--gpu", file) == 2
    assert "is not a file of benchmarks/gpu.py" in capsys.readouterr().err
    assert call("doctor", "--gpu", tmp_path / "none.json") == 2
