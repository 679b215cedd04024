"""Is the code right on this device? Losses, resumed runs, packs, kernels, compilation, graphs."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import warnings
from pathlib import Path

from gpu_checks.bench import Bench, Figures, check, close, note


@check
def check_device(bench: Bench) -> Figures:
    import torch

    found: Figures = {"torch": torch.__version__, "name": "cpu"}
    if bench.device != "cpu":
        about = torch.cuda.get_device_properties(bench.device)
        found |= {"name": about.name, "memory": about.total_memory}
        found |= {"cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
    return found


@check
def check_losses(bench: Bench) -> Figures:
    """A small run has the losses of the same run on the CPU."""
    run = bench.run()
    return close(
        "losses",
        bench.losses(run, bench.execution()),
        bench.losses(run, bench.execution("cpu")),
        5e-3,
    )


@check
def check_resume(bench: Bench) -> Figures:
    """An interrupted run ends as an undisturbed one."""
    from scaling.training.train import Interrupted

    run, calls = bench.run(), iter(range(1000))
    whole = bench.losses(run, bench.execution())
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Interrupted):
            bench.losses(
                run, bench.execution(), folder=Path(folder), should_stop=lambda: next(calls) >= 20
            )
        assert Path(folder, "checkpoint.pt").exists()
        return close(
            "losses", bench.losses(run, bench.execution(), folder=Path(folder)), whole, 2e-3
        )


@check
def check_packs(bench: Bench) -> Figures:
    """Runs that train together have the losses of each alone."""
    from scaling.config import override
    from scaling.training.train import train_pack

    runs = [override(bench.run(), {"seed": k, "optim.ema": 0.9 if k else None}) for k in range(3)]
    packed = [r.row["L"] for r in train_pack(runs, execution=bench.execution(), slots=2)]
    return close("losses", packed, [bench.losses(run, bench.execution())[-1] for run in runs], 2e-3)


@check
def check_waits(bench: Bench) -> Figures:
    """The host waits for nothing within a step."""
    bench.needs_gpus()
    import torch

    for K, changes in ((1, {}), (4, {"optim__ema": 0.9, "eval__update_ratio": True}), (16, {})):
        for more in ({}, {"precision": "bfloat16"}, {"eval__noise_parts": 2}):
            trainer = bench.trainer(bench.run(**changes, **more), K, bench.execution())
            trainer.steps(2)
            torch.cuda.set_sync_debug_mode("error")
            try:
                trainer.steps(3)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return {}


@check
def check_attention(bench: Bench) -> Figures:
    """Every kernel of attention computes attention, for more sequences than a launch takes too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from scaling.models.attention import attend

    found: Figures = {}
    for name in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        for dtype in (torch.float32, torch.bfloat16):
            three = torch.randn(3, 4, 2, 64, 32, device=bench.device, dtype=dtype)
            expected = attend(*three.double(), 0.2)
            what = f"{name.lower()}_{str(dtype).removeprefix('torch.')}"
            try:
                with sdpa_kernel(getattr(SDPBackend, name)):
                    y = attend(*three, 0.2)
            except RuntimeError as error:  # the kernel does not take such tensors
                found[what] = f"unavailable: {str(error)[:80]}"
                continue
            differ = (y.double() - expected).abs().max().item()
            assert differ < (1e-2 if dtype == torch.float32 else 5e-2), f"{what}: {differ:.3g}"
            found[what] = differ
    many = torch.randn(70_000, 1, 4, 8, device=bench.device, requires_grad=True)
    attend(many, many, many, 1.0).sum().backward()
    assert many.grad is not None and bool(many.grad.isfinite().all())
    return found


@check
def check_booked_time(bench: Bench) -> Figures:
    """The seconds of a row are those on the clock."""
    from scaling.training.train import train

    train(bench.run(), execution=bench.execution())
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
    return {"booked": row["step_seconds"], "measured": step, "memory": row["memory"]}


@check
def check_tf32(bench: Bench) -> Figures:
    bench.needs_gpus()
    exact, fast = (
        bench.losses(bench.run(precision=p), bench.execution()) for p in ("float32", "tf32")
    )
    return close("losses", fast, exact, 3e-2)


@check
def check_out_of_memory(bench: Bench) -> Figures:
    """A step that does not fit is halved until it does."""
    bench.needs_gpus()
    import torch

    model = {"n_layer": 4, "d_model": 256, "n_head": 4, "n_ctx": 256}
    run = bench.run(
        model=model, batch_tokens=256 * 512, tokens=256 * 512 * 2, eval__test_tokens=256
    )
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 3e9) / total)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer = bench.trainer(run, 1, bench.execution())
            trainer.steps(1)
            loss = trainer.stack.loss_sum_k.item()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    halved = sum("micro-batches" in str(one.message) for one in seen)
    assert halved and math.isfinite(loss), f"halved {halved} times, loss {loss}"
    return {"halved": halved}


@check
def check_compiled(bench: Bench) -> Figures:
    """Compiled code has the losses of eager code."""
    return close(
        "losses",
        bench.losses(bench.run(), bench.execution(compile=True)),
        bench.losses(bench.run(), bench.execution()),
        2e-3,
    )


@check
def check_graphs(bench: Bench) -> Figures:
    """Steps replayed as CUDA graphs have the losses of eager steps: a run, a growing batch, a pack
    whose members end one by one, and compiled steps; the host waits for nothing."""
    bench.needs_gpus()
    import torch

    from scaling.config import override
    from scaling.training.train import train_pack

    found: Figures = {}
    for name, changes in (("one", {}), ("growing", {"optim__batch_warmup_tokens": 4096})):
        run = bench.run(**changes)
        ours = bench.losses(run, bench.execution(cuda_graphs=True))
        found[name] = close(name, ours, bench.losses(run, bench.execution()), 2e-3)[
            "largest_difference"
        ]
        note(found)
    changes = [{"seed": k, "tokens": (40 - 10 * k) * 512, "optim.ema": 0.9} for k in range(3)]
    runs = [override(bench.run(), change) for change in changes]
    plain = [result.row["L"] for result in train_pack(runs, execution=bench.execution())]
    for name, how in (("packs", {}), ("compiled", {"compile": True})):
        answer = train_pack(runs, execution=bench.execution(cuda_graphs=True, **how))
        ours = [result.row["L"] for result in answer]
        found[name] = close(name, ours, plain, 2e-3)["largest_difference"]
        note(found)
    # 8192 tokens per step, since torch sorts the tokens of more than 3072 embeddings
    trainer = bench.trainer(
        bench.run(tokens=200 * 512, eval__points=1), 16, bench.execution(cuda_graphs=True)
    )
    trainer.steps(5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.steps(20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found
