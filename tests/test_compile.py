"""Compiled training: the numbers of the given config, and clear errors if it is impossible."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from scaling.config import flatten, override
from scaling.devices import compilation
from scaling.devices.compilation import compiled
from scaling.errors import ConfigError, one_line, out_of_memory
from scaling.execution import Execution
from scaling.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
COMPILED = dataclasses.replace(ONE, compile=True)


def sums(run, execution, steps=20):
    """Sums of the losses and of the gradient norms."""
    trainer = Trainer([run], execution, [None])
    trainer.steps(steps)
    assert (trainer.training_step.one_graph is not None) == execution.compile
    return torch.cat([trainer.stack.loss_sum_k, trainer.stack.norm_sum_k])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # raised in torch
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # raised in torch
def test_cached_graphs_of_other_configs_are_not_reused(run, tmp_path, monkeypatch):
    # Most of these graphs have the same shapes and differ only in constants.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._dynamo.utils import counters

    changes: list[dict] = [{}, {"optim.z_loss": 0.1}, {"model.mup_base_width": 8}]
    changes += [{"precision": "bfloat16"}, {"model.bias": False}, {"model.n_head": 1}]
    for change in changes:
        mine = override(run, change)
        close = 1e-2 if mine.precision == "bfloat16" else 1e-4
        expected = sums(mine, ONE)
        for again in (False, True):  # compiled, then from the cache
            counters.clear()
            torch.testing.assert_close(sums(mine, COMPILED), expected, rtol=close, atol=0.0)
            found = counters["aot_autograd"]["autograd_cache_hit"] == 1
            assert found == (again and mine.precision == "float32")  # torch caches no autocast
            torch._dynamo.reset()


OUT_OF_MEMORY = """
import json, resource, sys
from scaling.config import from_dict
from scaling.execution import Execution
from scaling.training.trainer import Trainer

run = from_dict(json.loads(sys.argv[1]))
trainer = Trainer([run], Execution(device="cpu", compile=True), [None])
(size,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")]
resource.setrlimit(resource.RLIMIT_AS, (int(size) * 1024 + (700 << 20), resource.RLIM_INFINITY))
try:
    trainer.steps(1)
except MemoryError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_compiled_code_that_runs_out_of_memory(run):
    large = {"model.d_model": 512, "model.n_layer": 4, "batch_tokens": 16_384, "tokens": 10**6}
    values = json.dumps(flatten(override(run, large)))
    answer = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, values], capture_output=True, text=True
    )
    assert (
        "a step of 16384 tokens does not fit into memory (aoti_torch_empty_strided failed in "
        "compiled code, probably for lack of memory): it is done in 2 micro-batches"
        in answer.stderr
    )
    assert "a step of 8192 tokens does not fit into memory (aoti_torch" in answer.stderr
    assert "it is done in 4 micro-batches" in answer.stderr


def test_errors_recognised_as_out_of_memory():
    error = RuntimeError(
        "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu(q, &y) API call failed at a.cpp"
    )
    assert out_of_memory(error)
    assert one_line(error).startswith(
        "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu failed"
    )
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_missing_compiler_is_reported(monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        compiled(torch.neg, torch.device("cpu"))


GPU_LACKS = {
    "no Triton": "needs Triton on a GPU, and it is not installed",
    "an old GPU": r"needs a GPU of compute capability 7\.0 or more, and this one has 6\.1",
    "no compiler": "needs a C compiler on a GPU, and none was found",
    "no such compiler": "needs a C compiler on a GPU, and none was found",
    "no headers": r"needs Python's headers on a GPU, and there is no Python\.h in ",
    "nothing": "",
}


@pytest.mark.parametrize("case", GPU_LACKS)
def test_what_compilation_for_a_gpu_lacks_is_reported(monkeypatch, tmp_path, case):
    binaries, headers = tmp_path / "bin", tmp_path / "include"
    for file in (binaries / "gcc", headers / "Python.h"):
        file.parent.mkdir()
        file.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path if case == "no compiler" else binaries))
    monkeypatch.delenv("CC", raising=False)
    if case == "no such compiler":
        monkeypatch.setenv("CC", "icc")
    found = {"Triton": None if case == "no Triton" else object()}
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: found["Triton"])
    has = (6, 1) if case == "an old GPU" else (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    include = str(tmp_path if case == "no headers" else headers)
    monkeypatch.setattr(compilation.sysconfig, "get_path", lambda *_: include)
    gpu = torch.device("cuda")
    if case == "nothing":
        compilation.check_compiler(gpu)
        return
    with pytest.raises(ConfigError, match=f"execution.compile {GPU_LACKS[case]}.*or train without"):
        compiled(torch.neg, gpu)
