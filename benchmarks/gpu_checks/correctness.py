"""Is the code right on this device? Losses, resumed runs, packs, kernels, time and memory."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from gpu_checks.bench import SMALL, Bench, Figures, check, close, note


@check("device", seconds=60)
def device(bench: Bench) -> Figures:
    """What is it, and does it compute?"""
    import torch

    found: Figures = {"torch": torch.__version__, "name": "cpu"}
    found |= {"python": platform.python_version(), "cpus": os.cpu_count()}
    found |= {"compiler": shutil.which(os.environ.get("CC", "gcc"))}
    if bench.on_gpu:
        about = torch.cuda.get_device_properties(bench.device)
        found |= {"name": about.name, "memory": about.total_memory}
        found |= {"capability": list(torch.cuda.get_device_capability(bench.device))}
        found |= {"free": torch.cuda.mem_get_info(bench.device)[0]}
        found |= {"cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
    x = torch.ones(64, 64, device=bench.device)
    assert (x @ x).sum().item() == 64**3
    return found


@check("losses", seconds=60)
def losses(bench: Bench) -> Figures:
    """Does a small run have the losses of the same run on the CPU?"""
    run = bench.run()
    ours, cpu = (bench.losses(run, bench.execution(on)) for on in (bench.device, "cpu"))
    return close("losses", ours, cpu, 5e-3)


MODELS: dict[str, Figures] = {
    "llama": {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False},
    "grouped": {"position": "rope", "qk_norm": True, "n_kv_head": 1, "tied": False},
    "mup": {"n_repeat": 2, "mup_base_width": 16},
    "encoder": {"family": "encoder"},
    "lstm": {"family": "lstm"},
}
"""Architectures beside the default one."""


@check("architectures", seconds=90)
def architectures(bench: Bench) -> Figures:
    """Does every architecture have the losses of the CPU, also in bfloat16 with parts of a step
    that keep no activations?"""
    found: Figures = {}
    for name, changes in MODELS.items():
        model = {**SMALL, **changes}
        run = bench.run(model=model, tokens=20 * 512, optim__lr=3e-3)
        ours, cpu = (bench.losses(run, bench.execution(on)) for on in (bench.device, "cpu"))
        found[name] = close(name, ours, cpu, 5e-3)["largest_difference"]
        run = bench.run(
            model=model, tokens=20 * 512, optim__lr=3e-3, precision="bfloat16", eval__noise_parts=2
        )
        less = bench.losses(run, bench.execution(recompute=True, micro_tokens=128))
        found[f"{name} bfloat16"] = close(name, less, cpu, 2e-2)["largest_difference"]
        note(found)
    return found


@check("optimizers", seconds=60)
def optimizers(bench: Bench) -> Figures:
    """Does every optimizer have the losses of the CPU, alone and in a pack?"""
    from scaling.config import override
    from scaling.training.train import train_pack

    found: Figures = {}
    for name in ("muon", "adafactor"):
        run = bench.run(tokens=20 * 512, optim__lr=3e-3, optim__optimizer=name)
        runs = [override(run, {"seed": k}) for k in range(2)]
        ours, cpu = (
            [result.row["L"] for result in train_pack(runs, execution=bench.execution(on))]
            for on in (bench.device, "cpu")
        )
        found[name] = close(name, ours, cpu, 2e-2)["largest_difference"]
        note(found)
    return found


@check("resume", seconds=60)
def resume(bench: Bench) -> Figures:
    """Does an interrupted run end as an undisturbed one?"""
    from scaling.training.train import Interrupted

    run, calls = bench.run(), iter(range(1000))
    whole = bench.losses(run, bench.execution())
    with tempfile.TemporaryDirectory() as folder:
        to = {"folder": Path(folder)}
        with contextlib.suppress(Interrupted):
            bench.losses(run, bench.execution(), should_stop=lambda: next(calls) >= 20, **to)
        assert Path(folder, "checkpoint.pt").exists()
        return close("losses", bench.losses(run, bench.execution(), **to), whole, 2e-3)


@check("packs", seconds=60)
def packs(bench: Bench) -> Figures:
    """Do runs that train together have the losses of each alone?"""
    from scaling.config import override
    from scaling.training.train import train_pack

    runs = [override(bench.run(), {"seed": k, "optim.ema": 0.9 if k else None}) for k in range(3)]
    packed = [r.row["L"] for r in train_pack(runs, execution=bench.execution(), slots=2)]
    return close("losses", packed, [bench.losses(run, bench.execution())[-1] for run in runs], 2e-3)


@check("waits", seconds=90)
def waits(bench: Bench) -> Figures:
    """Does the host wait for something within a step?"""
    bench.needs_gpus()
    often = {"optim__ema": 0.9, "eval__update_ratio": True, "eval__points": 40}
    cases: dict[str, tuple[int, Figures]] = {"alone": (1, {}), "alone, often evaluated": (1, often)}
    cases |= {"pack": (4, often), "large pack": (16, {})}
    cases |= {name: (2, {"model": {**SMALL, **changes}}) for name, changes in MODELS.items()}
    cases |= {"muon": (2, {"optim__optimizer": "muon"})}
    waiting = []
    for name, (K, changes) in cases.items():
        for more in ({}, {"precision": "bfloat16"}, {"eval__noise_parts": 2}):
            trainer = bench.trainer(bench.run(**changes, **more), K, bench.execution())
            trainer.steps(2)
            try:
                with bench.no_waits():
                    trainer.steps(3)
            except RuntimeError as error:
                if "synchronizing" not in str(error):
                    raise
                traceback.print_exc()
                waiting.append(" ".join([name, *map(str, more.values())]))
    assert not waiting, f"the host waits within steps of {', '.join(waiting)}; see the log"
    return {"cases": len(cases)}


@check("attention", seconds=60)
def attention(bench: Bench) -> Figures:
    """Does every kernel compute attention and its gradient, for more sequences than a launch takes
    too?"""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from scaling.models.attention import attend

    found: Figures = {}
    for name in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        for dtype in (torch.float32, torch.bfloat16):
            three = torch.randn(3, 4, 2, 64, 32, device=bench.device, dtype=dtype)
            three.requires_grad_()
            exact = three.detach().double().requires_grad_()
            expected = attend(*exact, 0.2)
            (expected_grad,) = torch.autograd.grad(expected.sin().sum(), exact)
            what = f"{name.lower()}_{str(dtype).removeprefix('torch.')}"
            try:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    y = attend(*three, 0.2)
                    (grad,) = torch.autograd.grad(y.sin().sum(), three)
            except RuntimeError as error:  # the kernel does not take such tensors
                if "CUDA error" in str(error):
                    raise
                found[what] = f"unavailable: {str(error)[:80]}"
                continue
            pairs = ((y, expected), (grad, expected_grad))
            differ = max((a.double() - b).abs().max().item() for a, b in pairs)
            assert differ < (1e-2 if dtype == torch.float32 else 0.1), f"{what}: {differ:.3g}"
            found[what] = differ
    many = torch.randn(70_000, 1, 4, 8, device=bench.device, requires_grad=True)
    attend(many, many, many, 1.0).sum().backward()
    assert many.grad is not None and bool(many.grad.isfinite().all())
    return found


@check("booked_time", seconds=60)
def booked_time(bench: Bench) -> Figures:
    """Are the seconds of a row those on the clock, and its memory that of the run alone?"""
    from scaling.training.train import train

    first = train(bench.run(), execution=bench.execution(peak_flops=None)).row
    start = time.perf_counter()
    row = train(bench.run(tokens=200 * 512), execution=bench.execution()).row
    wall = time.perf_counter() - start
    assert row["seconds"] <= wall, f"{row['seconds']:.3g} s are booked of {wall:.3g} s"
    trainer = bench.trainer(bench.run(), 1, bench.execution())
    trainer.steps(5)
    bench.synchronize()
    start = time.perf_counter()
    trainer.steps(50)
    bench.synchronize()
    step = (time.perf_counter() - start) / 50
    assert row["step_seconds"] > step / 2, f"{row['step_seconds']:.3g} s a step, really {step:.3g}"
    if bench.on_gpu:  # the products that measure the peak FLOP/s take more
        assert first["memory"] < 2e8, f"a small run has a memory of {first['memory']} bytes"
    found = {"booked": row["step_seconds"], "measured": step, "memory": first["memory"]}
    return found | {"peak_flops": first["peak_flops"]}


@check("tf32", seconds=60)
def tf32(bench: Bench) -> Figures:
    """Is TF32 accurate enough, and does float32 not use it?"""
    bench.needs_gpus()
    import torch

    from scaling.devices.device import choose_products

    a = torch.randn(512, 512, device=bench.device)
    exact = a.double() @ a.double()
    errors = {}
    for precision in ("float32", "tf32"):
        choose_products(torch.device(bench.device), precision)
        errors[precision] = ((a @ a).double() - exact).norm().item() / exact.norm().item()
    assert errors["float32"] < 1e-5, f"products in float32 have an error of {errors['float32']:.2g}"
    ours, fast = (
        bench.losses(bench.run(precision=precision), bench.execution()) for precision in errors
    )
    return close("losses", fast, ours, 3e-2) | {f"error_{p}": x for p, x in errors.items()}


@check("out_of_memory", seconds=60)
def out_of_memory(bench: Bench) -> Figures:
    """Is a step that does not fit halved until it does?"""
    bench.needs_gpus()
    import torch

    model = {"n_layer": 4, "d_model": 256, "n_head": 4, "n_ctx": 256}
    B = 256 * 512
    run = bench.run(model=model, batch_tokens=B, tokens=2 * B, eval__test_tokens=256)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(bench.device).total_memory
    most = torch.cuda.memory_reserved(bench.device) + 3e9
    index = torch.device(bench.device).index  # the next function takes no device without an index
    torch.cuda.set_per_process_memory_fraction(most / total, index)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer = bench.trainer(run, 1, bench.execution())
            trainer.steps(1)
            loss = trainer.stack.loss_sum_k.item()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        torch.cuda.empty_cache()
    halved = sum("micro-batches" in str(one.message) for one in seen)
    assert halved and math.isfinite(loss), f"halved {halved} times, loss {loss}"
    return {"halved": halved, "micro_batches": trainer.training_step.micro_batches}
