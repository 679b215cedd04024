"""Compiled training: the numbers of the config that was asked for, and clear words where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from scaling.compile import compiled
from scaling.config import ConfigError, Execution, flatten, from_dict, override
from scaling.train import Trainer

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
COMPILED = dataclasses.replace(ONE, compile=True)


@pytest.fixture
def run(text_file):
    return from_dict(
        {
            "model": {"n_layer": 1, "d_model": 16, "n_head": 2, "n_ctx": 32},
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "optim.lr": 1e-2,
            "eval": {"test_tokens": 2048, "points": 1},
            "tokens": 10**4 * 256,
            "batch_tokens": 256,
        }
    )


def sums(run, execution, steps=20):
    """Of losses and gradient norms."""
    trainer = Trainer([run], execution, [None])
    trainer.steps(steps)
    assert (trainer.whole_step is not None) == execution.compile
    return torch.cat([trainer.loss_sum_k, trainer.norm_sum_k])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # within torch
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # likewise
def test_what_another_config_compiled_is_not_taken_for_ones_own(run, tmp_path, monkeypatch):
    # All these are graphs of the same shapes, and differ in numbers that they hold.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    changes: list[dict] = [{}, {"optim.z_loss": 0.1}, {"model.mup_base_width": 8}]
    changes += [{"precision": "bfloat16"}, {"model.bias": False}, {"model.n_head": 1}]
    for change in changes:
        mine = override(run, change)
        close = 1e-2 if mine.precision == "bfloat16" else 1e-4
        expected = sums(mine, ONE)
        for _ in range(2):  # as compiled, and as found
            torch.testing.assert_close(sums(mine, COMPILED), expected, rtol=close, atol=0.0)
            torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_step_on_a_gpu_is_one_cuda_graph(run):
    from torch._dynamo.utils import counters

    runs = [override(run, {"seed": k}) for k in range(3)]
    for members in (runs[:1], runs):
        each = []
        for compile in (False, True):
            execution = Execution(device="cuda", compile=compile)
            trainer = Trainer(members, execution, [None] * len(members))
            trainer.steps(20)
            each.append(torch.cat([trainer.loss_sum_k, trainer.norm_sum_k]))
        torch.testing.assert_close(*each, rtol=1e-3, atol=0.0)
    assert counters["inductor"]["cudagraph_skips"] == 0


OUT_OF_MEMORY = """
import json, resource, sys
from scaling.config import Execution, from_dict
from scaling.train import Trainer

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
@pytest.mark.skipif(sys.platform != "linux", reason="limits and says its memory as Linux does")
def test_compiled_code_that_lacks_memory(run):
    large = {"model.d_model": 512, "model.n_layer": 4, "batch_tokens": 16_384}
    values = json.dumps(flatten(override(run, large)))
    answer = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, values], capture_output=True, text=True
    )
    assert (
        "a step of 16384 tokens does not fit into memory (no memory for a tensor): it goes in 2 parts"
        in answer.stderr
    )
    assert "a step of 8192 tokens of each of 1 runs does not fit: no memory" in answer.stdout
    assert "Give execution.micro_tokens=4096 or less" in answer.stdout


def test_no_compiler(monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        compiled(torch.neg, torch.device("cpu"))
