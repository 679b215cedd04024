"""How fast is it? The utilisation of a large model, and packs against a plain loop.

Large models come before small ones, and what needs no compilation before what does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from gpu_checks.bench import LARGE, SHAPES, SMALL, Bench, Figures, SkipError, check, note

WAYS: dict[str, dict[str, bool]] = {
    "eager": {},
    "graphed": {"cuda_graphs": True},
    "compiled": {"compile": True},
    "compiled_graphed": {"compile": True, "cuda_graphs": True},
}
"""How packs are trained."""


def step_seconds(bench: Bench, steps: Callable[[int], Any]) -> float:
    """Return the seconds per step: the least of five tries, each synchronised with the device."""
    steps(5)  # graphs are recorded at the fourth step
    bench.synchronize()
    tries, n = [], 1
    for _ in range(5):
        start = time.perf_counter()
        steps(n)
        bench.synchronize()
        tries.append((time.perf_counter() - start) / n)
        n = max(1, round(bench.turn / 5 / tries[-1]))
    return min(tries)


def utilisation(bench: Bench, compile: bool) -> Figures:
    """Return the model FLOP utilisation of a large model in bfloat16."""
    import torch

    from scaling import size
    from scaling.config import ModelConfig
    from scaling.devices.device import device_of
    from scaling.devices.hardware import peak_flops

    shape = SMALL if bench.tiny else LARGE
    model = ModelConfig(**shape)
    B = (4 if bench.tiny else 32) * model.n_ctx
    changes = {"batch_tokens": B, "tokens": 10**4 * B, "precision": "bfloat16"}
    run = bench.run(model=shape, optim__lr=3e-4, **changes)  # a power draw as of real numbers
    trainer = bench.trainer(run, 1, bench.execution(compile=compile))
    took = step_seconds(bench, trainer.steps)
    flops = size.flops_per_token(model, 256, "matmul") * B / took
    device = device_of(bench.device)
    peak = bench.peak_flops or peak_flops(device, torch.bfloat16, torch.get_num_threads())
    found = {"N": size.parameters(model, 256).N, "tokens_per_second": round(B / took)}
    found |= {"micro_batches": trainer.training_step.micro_batches}
    return found | {"flops": flops, "peak_flops": peak, "mfu": round(flops / peak, 4)}


def plain_steps(device: str, run: Any) -> Callable[[int], None]:
    """Return steps of a plain loop: a module tree, fused AdamW, a loss that is read every ten
    steps."""
    import torch
    from torch import nn
    from train_speed import Reference

    model = Reference(run.model, 256).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rows, ctx = run.batch_tokens // run.model.n_ctx, run.model.n_ctx
    data = torch.randint(0, 256, (100_000,))
    done = 0

    def steps(n: int) -> None:
        nonlocal done
        for _ in range(n):
            at = torch.randint(len(data) - ctx - 1, (rows,)).tolist()
            x, y = (torch.stack([data[i + s : i + s + ctx] for i in at]) for s in (0, 1))
            loss = model(x.to(device), y.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if done % 10 == 0:
                loss.item()

    return steps


def speed_of_packs(
    bench: Bench, name: str, how: Mapping[str, bool], *, in_cpp: bool = False
) -> Figures:
    """Return how many times as fast as a plain loop packs of 1, 16 and 64 models train."""
    if bench.tiny and name != "3e3":
        raise SkipError("takes too long for a quick test")
    if how.get("cuda_graphs"):
        bench.needs_gpus()
    if how.get("compile"):
        bench.needs_compiler()
    run = bench.run(model=SHAPES[name], batch_tokens=1024, tokens=10**9, eval__test_tokens=128)
    plain = step_seconds(bench, plain_steps(bench.device, run))
    found: Figures = {"plain_tokens_per_second": round(1024 / plain)}
    gains = {}
    for K in (2,) if bench.tiny else (64, 16, 1):
        with wrapper_in_cpp() if in_cpp else contextlib.nullcontext():
            each = step_seconds(bench, bench.trainer(run, K, bench.execution(**how)).steps) / K
        gains[f"gain_{K}"] = round(plain / each, 2)
        note(found | gains)
    return found | gains | {"gain": max(gains.values())}


@contextlib.contextmanager
def wrapper_in_cpp() -> Iterator[None]:
    """Let the compiler write the code that launches kernels in C++ instead of Python."""
    import torch
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch(cpp_wrapper=True):
        yield
    torch._dynamo.reset()


def packs(way: str, name: str) -> None:
    """Register the check of packs that train in a way, for models of a size."""
    seconds = 120 if WAYS[way].get("compile") else 60
    check(f"{way}_{name}", seconds=seconds)(partial(speed_of_packs, name=name, how=WAYS[way]))


check("mfu_eager", seconds=60)(partial(utilisation, compile=False))
for name in SHAPES:
    packs("eager", name)
    packs("graphed", name)


@check("mfu_compiled", seconds=180)
def mfu_compiled(bench: Bench) -> Figures:
    bench.needs_compiler()
    return utilisation(bench, compile=True)


for name in SHAPES:
    packs("compiled", name)
    packs("compiled_graphed", name)


@check("cpp_wrapper_3e4", seconds=120)
def cpp_wrapper(bench: Bench) -> Figures:
    """Does a wrapper in C++ speed up compiled steps? Compare with `compiled_3e4`."""
    bench.needs_gpus()  # on a CPU it is always used
    return speed_of_packs(bench, "3e4", WAYS["compiled"], in_cpp=True)
