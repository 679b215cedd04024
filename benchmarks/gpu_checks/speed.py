"""How fast is it? The utilisation of a large model, and packs against a plain loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from gpu_checks.bench import LARGE, SHAPES, SMALL, Bench, Figures, SkipError, check, note


def step_seconds(bench: Bench, steps: Callable[[int], Any]) -> float:
    """Seconds per step: the least of five tries, each synchronised with the device."""
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
    import torch

    from scaling import size
    from scaling.config import ModelConfig
    from scaling.devices.device import device_of
    from scaling.devices.hardware import peak_flops

    shape = SMALL if bench.tiny else LARGE
    model = ModelConfig(**shape)
    B = (4 if bench.tiny else 32) * model.n_ctx
    run = bench.run(model=shape, batch_tokens=B, tokens=10**4 * B, precision="bfloat16")
    took = step_seconds(bench, bench.trainer(run, 1, bench.execution(compile=compile)).steps)
    flops = size.flops_per_token(model, 256, "matmul") * B / took
    device = device_of(bench.device)
    peak = bench.peak_flops or peak_flops(device, torch.bfloat16, torch.get_num_threads())
    found = {"N": size.parameters(model, 256).N, "tokens_per_second": round(B / took)}
    return found | {"peak_flops": peak, "mfu": round(flops / peak, 4)}


@check
def check_mfu_eager(bench: Bench) -> Figures:
    return utilisation(bench, compile=False)


@check
def check_mfu_compiled(bench: Bench) -> Figures:
    return utilisation(bench, compile=True)


def plain_steps(device: str, run: Any) -> Callable[[int], None]:
    """Steps of a plain loop: a module tree, fused AdamW, a loss that is read every ten steps."""
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


def speed_of_packs(bench: Bench, name: str) -> Figures:
    if bench.tiny and name != "3e3":
        raise SkipError("takes too long for a quick test")
    run = bench.run(model=SHAPES[name], batch_tokens=1024, tokens=10**9, eval__test_tokens=128)
    plain = step_seconds(bench, plain_steps(bench.device, run))
    found: Figures = {"plain_tokens_per_second": round(1024 / plain)}
    ways = {"eager": {}, "compiled": {"compile": True}}
    if bench.on_gpu:
        ways |= {"graphed": {"cuda_graphs": True}}
        ways |= {"compiled_graphed": {"compile": True, "cuda_graphs": True}}
        if name == "3e4":  # another compilation, for a question that one size answers
            ways |= {"cpp_wrapper": {"compile": True}}
    for way, how in ways.items():
        for K in (1, 2) if bench.tiny else (1, 16, 64):
            try:
                with wrapper_in_cpp() if way == "cpp_wrapper" else contextlib.nullcontext():
                    steps = bench.trainer(run, K, bench.execution(**how)).steps
                    each = step_seconds(bench, steps) / K
                found[f"{way}_{K}"] = round(plain / each, 2)
            except Exception as error:  # the other figures are still worth having
                found[f"{way}_{K}"] = f"{type(error).__name__}: {str(error)[:160]}"
            note(found)
    gains = [v for k, v in found.items() if isinstance(v, float)]
    return found | {"gain": max(gains)}


@contextlib.contextmanager
def wrapper_in_cpp() -> Iterator[None]:
    """Let the compiler write the code that launches kernels in C++ instead of Python."""
    import torch
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch(cpp_wrapper=True):
        yield
    torch._dynamo.reset()


@check
def check_packs_1e6(bench: Bench) -> Figures:
    return speed_of_packs(bench, "1e6")


@check
def check_packs_3e5(bench: Bench) -> Figures:
    return speed_of_packs(bench, "3e5")


@check
def check_packs_3e4(bench: Bench) -> Figures:
    return speed_of_packs(bench, "3e4")


@check
def check_packs_3e3(bench: Bench) -> Figures:
    return speed_of_packs(bench, "3e3")
