"""One command for a GPU that this code has not met: is it right, and how fast is it?

    python benchmarks/gpu.py --seconds 420 --out gpu.json [--device cuda] [--tiny] [--check]

It needs PyTorch and NumPy, but neither Ray nor tyro nor an installed `scaling`. Correctness comes
first: losses against the CPU, resumed runs, packs against single runs, compiled against eager code,
every attention kernel, sharding, and that the host waits for nothing within a step. Then speed,
large models before small: model FLOP utilisation (matmul FLOPs of scaling.count over the peak of a
matrix product on this device, or over --peak-flops), and packs against a plain loop, eager,
compiled and as CUDA graphs. Random letters replace a corpus, because neither depends on the text.

Each check runs guarded and each result is written as it comes, so that whatever ends the run leaves
the rest. `scaling doctor --gpu gpu.json` shows the file. Goals: packs at N <= 1e6 are at least 10
times as fast as the plain loop, and N = 1e8 reaches a utilisation of 40 %.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GOAL_GAIN, GOAL_MFU = 10.0, 0.4
SHAPES = {
    "1e6": {"n_layer": 5, "d_model": 128, "n_head": 4},
    "3e5": {"n_layer": 6, "d_model": 64, "n_head": 2},
    "3e4": {"n_layer": 3, "d_model": 32, "n_head": 2},
    "3e3": {"n_layer": 1, "d_model": 16, "n_head": 1},
}
LARGE = {"n_layer": 14, "d_model": 768, "n_head": 12, "n_ctx": 1024}
SMALL = {"n_layer": 2, "d_model": 32, "n_head": 2, "n_ctx": 64}

Figures = dict[str, Any]
CHECKS: dict[str, Callable[[], Figures]] = {}
"""Checks by name, in the order in which they run."""

options: argparse.Namespace
"""The options of the command, within the child process that runs the checks."""


class SkipError(Exception):
    """This device cannot run the check."""


def check(function: Callable[[], Figures]) -> Callable[[], Figures]:
    CHECKS[function.__name__.removeprefix("check_")] = function
    return function


def close(name: str, ours: list[float], theirs: list[float], most: float) -> Figures:
    """Raise AssertionError unless numbers differ by at most `most`; return how much they do."""
    differ = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert math.isfinite(differ) and differ <= most, f"{name} differ by {differ:.3g} > {most:g}"
    return {"largest_difference": differ}


def on_gpu() -> None:
    if options.device == "cpu":
        raise SkipError("needs a GPU")


# ------------------------------------------------------------------ runs


def run_of(**changes: Any):
    from scaling.config import from_dict

    values = {"model": SMALL, "data": {"corpus": options.text, "tokenizer": "bytes"}}
    values |= {"tokens": 40 * 512, "batch_tokens": 512, "optim.lr": 1e-2}
    values |= {"eval": {"test_tokens": 1024, "points": 4}}
    return from_dict({**values, **{k.replace("__", "."): v for k, v in changes.items()}})


def execution(device: str = "", **changes: Any):
    from scaling.execution import Execution

    peak = {"peak_flops": options.peak_flops or 1e12}
    return Execution(device=device or options.device, **(peak | changes))


def losses(run: Any, how: Any, **more: Any) -> list[float]:
    from scaling.training.train import train

    return [point["L"] for point in train(run, execution=how, **more).curve]


def trainer_of(run: Any, K: int, how: Any, **more: Any):
    from scaling.config import override
    from scaling.training.trainer import Trainer

    runs = [override(run, {"seed": k}) for k in range(K)]
    return Trainer(runs, how, [None] * K, **more)


def synchronize() -> None:
    import torch

    if options.device != "cpu":
        torch.cuda.synchronize()


# ------------------------------------------------------------------ correctness


@check
def check_device() -> Figures:
    import torch

    found: Figures = {"torch": torch.__version__, "name": "cpu"}
    if options.device != "cpu":
        about = torch.cuda.get_device_properties(options.device)
        found |= {"name": about.name, "memory": about.total_memory}
        found |= {"cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
    return found


@check
def check_losses() -> Figures:
    """A small run has the losses of the same run on the CPU."""
    run = run_of()
    return close("losses", losses(run, execution()), losses(run, execution("cpu")), 5e-3)


@check
def check_resume() -> Figures:
    """An interrupted run ends as an undisturbed one."""
    from scaling.training.train import Interrupted

    run, calls = run_of(), iter(range(1000))
    whole = losses(run, execution())
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Interrupted):
            losses(run, execution(), folder=Path(folder), should_stop=lambda: next(calls) >= 20)
        assert Path(folder, "checkpoint.pt").exists()
        return close("losses", losses(run, execution(), folder=Path(folder)), whole, 2e-3)


@check
def check_packs() -> Figures:
    """Runs that train together have the losses of each alone."""
    from scaling.config import override
    from scaling.training.train import train_pack

    runs = [override(run_of(), {"seed": k, "optim.ema": 0.9 if k else None}) for k in range(3)]
    packed = [r.row["L"] for r in train_pack(runs, execution=execution(), slots=2)]
    return close("losses", packed, [losses(run, execution())[-1] for run in runs], 2e-3)


@check
def check_waits() -> Figures:
    """The host waits for nothing within a step."""
    on_gpu()
    import torch

    for K, changes in ((1, {}), (4, {"optim__ema": 0.9, "eval__update_ratio": True}), (16, {})):
        for more in ({}, {"precision": "bfloat16"}, {"eval__noise_parts": 2}):
            trainer = trainer_of(run_of(**changes, **more), K, execution())
            trainer.steps(2)
            torch.cuda.set_sync_debug_mode("error")
            try:
                trainer.steps(3)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return {}


@check
def check_attention() -> Figures:
    """Every kernel of attention computes attention, for more sequences than a launch takes too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from scaling.models.attention import attend

    found: Figures = {}
    for name in ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        for dtype in (torch.float32, torch.bfloat16):
            three = torch.randn(3, 4, 2, 64, 32, device=options.device, dtype=dtype)
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
    many = torch.randn(70_000, 1, 4, 8, device=options.device, requires_grad=True)
    attend(many, many, many, 1.0).sum().backward()
    assert many.grad is not None and bool(many.grad.isfinite().all())
    return found


@check
def check_booked_time() -> Figures:
    """The seconds of a row are those on the clock."""
    from scaling.training.train import train

    train(run_of(), execution=execution())
    start = time.perf_counter()
    row = train(run_of(tokens=200 * 512), execution=execution()).row
    wall = time.perf_counter() - start
    assert row["seconds"] <= wall, f"{row['seconds']:.3g} s are booked of {wall:.3g} s"
    trainer = trainer_of(run_of(), 1, execution())
    trainer.steps(5)
    synchronize()
    start = time.perf_counter()
    trainer.steps(50)
    synchronize()
    step = (time.perf_counter() - start) / 50
    assert row["step_seconds"] > step / 2, f"{row['step_seconds']:.3g} s a step, really {step:.3g}"
    return {"booked": row["step_seconds"], "measured": step, "memory": row["memory"]}


@check
def check_tf32() -> Figures:
    on_gpu()
    exact, fast = (losses(run_of(precision=p), execution()) for p in ("float32", "tf32"))
    return close("losses", fast, exact, 3e-2)


@check
def check_out_of_memory() -> Figures:
    """A step that does not fit is halved until it does."""
    on_gpu()
    import torch

    model = {"n_layer": 4, "d_model": 256, "n_head": 4, "n_ctx": 256}
    run = run_of(model=model, batch_tokens=256 * 512, tokens=256 * 512 * 2, eval__test_tokens=256)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 3e9) / total)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer = trainer_of(run, 1, execution())
            trainer.steps(1)
            loss = trainer.stack.loss_sum_k.item()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    halved = sum("micro-batches" in str(one.message) for one in seen)
    assert halved and math.isfinite(loss), f"halved {halved} times, loss {loss}"
    return {"halved": halved}


@check
def check_one_rank() -> Figures:
    """A sharded run on one rank has the losses of a plain one, through the collectives."""
    import torch.distributed as dist

    from scaling.devices.ranks import Ranks

    plain = trainer_of(run_of(), 1, execution())
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)
        backend = "gloo" if options.device == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            sharded = trainer_of(run_of(), 1, execution(), ranks=Ranks(sharded=True))
            for trainer in (plain, sharded):
                trainer.steps(20)
            sums = [t.stack.loss_sum_k.item() / 20 for t in (sharded, plain)]
        finally:
            dist.destroy_process_group()
    return close("mean losses", sums[:1], sums[1:], 2e-3)


@check
def check_two_ranks() -> Figures:
    on_gpu()
    import torch

    if torch.cuda.device_count() < 2:
        raise SkipError("needs two GPUs")
    run = run_of()
    return close("losses", losses(run, execution(devices=2)), losses(run, execution()), 2e-3)


@check
def check_lost_rank() -> Figures:
    """When a rank dies, the run ends within seconds, although the launch queue is full."""
    import torch

    from scaling.devices import launch
    from scaling.devices.rank_process import RankProcess
    from scaling.devices.ranks import Ranks

    if options.device != "cpu" and torch.cuda.device_count() < 2:
        raise SkipError("needs two GPUs")
    pids: list[int] = []
    steps, killed = 0, 0.0

    class Noted(RankProcess):
        def __init__(self, start: Any) -> None:
            super().__init__(start)
            pids.append(self.process.pid)

    def kill() -> bool:
        nonlocal steps, killed
        steps += 1
        if steps == 3:
            x = torch.ones(1 << 20, device=options.device)
            killed = time.perf_counter()
            os.kill(pids[0], signal.SIGKILL)
            Ranks(size=2).add(x)  # NCCL does not notice
            for _ in range(5000):
                x.mul_(0.5)
            synchronize()
        return False

    launch.RankProcess = Noted
    try:
        losses(run_of(), execution(devices=2), should_stop=kill)
    except ChildProcessError as error:
        took = time.perf_counter() - killed
        assert "SIGKILL" in str(error) and took < 15, f"{took:.0f} s: {error}"
    else:
        raise AssertionError("the run ended although a rank had died")
    finally:
        launch.RankProcess = RankProcess
    return {"seconds_until_raised": took}


@check
def check_compiled() -> Figures:
    """Compiled code has the losses of eager code."""
    return close(
        "losses", losses(run_of(), execution(compile=True)), losses(run_of(), execution()), 2e-3
    )


@check
def check_graphs() -> Figures:
    """Steps replayed as CUDA graphs have the losses of eager steps: a run, a growing batch, a pack
    whose members end one by one, and compiled steps; the host waits for nothing."""
    on_gpu()
    import torch

    from scaling.config import override
    from scaling.training.train import train_pack

    found: Figures = {}
    for name, changes in (("one", {}), ("growing", {"optim__batch_warmup_tokens": 4096})):
        run = run_of(**changes)
        ours = losses(run, execution(cuda_graphs=True))
        found[name] = close(name, ours, losses(run, execution()), 2e-3)["largest_difference"]
        note(found)
    changes = [{"seed": k, "tokens": (40 - 10 * k) * 512, "optim.ema": 0.9} for k in range(3)]
    runs = [override(run_of(), change) for change in changes]
    plain = [result.row["L"] for result in train_pack(runs, execution=execution())]
    for name, how in (("packs", {}), ("compiled", {"compile": True})):
        answer = train_pack(runs, execution=execution(cuda_graphs=True, **how))
        ours = [result.row["L"] for result in answer]
        found[name] = close(name, ours, plain, 2e-3)["largest_difference"]
        note(found)
    # 8192 tokens per step, since torch sorts the tokens of more than 3072 embeddings
    trainer = trainer_of(run_of(tokens=200 * 512, eval__points=1), 16, execution(cuda_graphs=True))
    trainer.steps(5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.steps(20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found


# ------------------------------------------------------------------ speed


def step_seconds(steps: Callable[[int], Any], seconds: float) -> float:
    """Seconds per step: the least of five tries, each synchronised with the device."""
    steps(5)  # graphs are recorded at the fourth step
    synchronize()
    tries, n = [], 1
    for _ in range(5):
        start = time.perf_counter()
        steps(n)
        synchronize()
        tries.append((time.perf_counter() - start) / n)
        n = max(1, round(seconds / 5 / tries[-1]))
    return min(tries)


def utilisation(compile: bool) -> Figures:
    import torch

    from scaling import size
    from scaling.config import ModelConfig
    from scaling.devices.device import device_of
    from scaling.devices.hardware import peak_flops

    shape = SMALL if options.tiny else LARGE
    model = ModelConfig(**shape)
    B = (4 if options.tiny else 32) * model.n_ctx
    run = run_of(model=shape, batch_tokens=B, tokens=10**4 * B, precision="bfloat16")
    took = step_seconds(trainer_of(run, 1, execution(compile=compile)).steps, options.turn)
    flops = size.flops_per_token(model, 256, "matmul") * B / took
    device = device_of(options.device)
    peak = options.peak_flops or peak_flops(device, torch.bfloat16, torch.get_num_threads())
    found = {"N": size.parameters(model, 256).N, "tokens_per_second": round(B / took)}
    return found | {"peak_flops": peak, "mfu": round(flops / peak, 4)}


@check
def check_mfu_eager() -> Figures:
    return utilisation(compile=False)


@check
def check_mfu_compiled() -> Figures:
    return utilisation(compile=True)


def plain_steps(run: Any) -> Callable[[int], None]:
    """Steps of a plain loop: a module tree, fused AdamW, a loss that is read every ten steps."""
    import torch
    from torch import nn
    from train_speed import Reference

    device = options.device
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


def speed_of_packs(name: str) -> Figures:
    if options.tiny and name != "3e3":
        raise SkipError("takes too long for a quick test")
    run = run_of(model=SHAPES[name], batch_tokens=1024, tokens=10**9, eval__test_tokens=128)
    plain = step_seconds(plain_steps(run), options.turn)
    found: Figures = {"plain_tokens_per_second": round(1024 / plain)}
    ways = {"eager": {}, "compiled": {"compile": True}}
    if options.device != "cpu":
        ways |= {"graphed": {"cuda_graphs": True}}
        ways |= {"compiled_graphed": {"compile": True, "cuda_graphs": True}}
        if name == "3e4":  # another compilation, for a question that one size answers
            ways |= {"cpp_wrapper": {"compile": True}}
    for way, how in ways.items():
        for K in (1, 2) if options.tiny else (1, 16, 64):
            try:
                with wrapper_in_cpp() if way == "cpp_wrapper" else contextlib.nullcontext():
                    steps = trainer_of(run, K, execution(**how)).steps
                    each = step_seconds(steps, options.turn) / K
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
def check_packs_1e6() -> Figures:
    return speed_of_packs("1e6")


@check
def check_packs_3e5() -> Figures:
    return speed_of_packs("3e5")


@check
def check_packs_3e4() -> Figures:
    return speed_of_packs("3e4")


@check
def check_packs_3e3() -> Figures:
    return speed_of_packs("3e3")


# ------------------------------------------------------------------ the child that runs them


def note(found: Figures) -> None:
    """Send the figures so far to the parent."""
    print(json.dumps({"so far": found}), flush=True)


def child(names: list[str]) -> None:
    """Run checks, and print a line of JSON when each begins and ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = answers
    warnings.filterwarnings("error", "steps are not CUDA graphs")
    for name in names:
        print(json.dumps({"begins": name}), flush=True)
        start = time.perf_counter()
        found: Figures = {"status": "ok"}
        try:
            found |= CHECKS[name]()
        except SkipError as why:
            found = {"status": "skipped", "why": str(why)}
        except Exception as error:
            found = {"status": "failed", "error": f"{type(error).__name__}: {str(error)[:400]}"}
        found["seconds"] = round(time.perf_counter() - start, 2)
        print(json.dumps({"ends": name, "found": found}), flush=True)
        if "CUDA error" in found.get("error", ""):  # nothing after it would work
            os._exit(3)


class Report:
    """The file of results, written after every one."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.left = path, names
        self.checks: dict[str, Figures] = {}
        self.finished = False

    def add(self, name: str, found: Figures) -> None:
        self.checks[name] = found
        self.write()

    def write(self) -> None:
        device = self.checks.get("device", {})
        values = {"device": device.get("name"), "torch": device.get("torch")}
        values |= {"goals": {"gain": GOAL_GAIN, "mfu": GOAL_MFU}}
        values |= {"checks": self.checks, "finished": self.finished}
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(values, indent=2) + "\n")
        os.replace(new, self.path)

    def missed(self) -> list[str]:
        """Goals that were measured and not reached, and checks that failed."""
        failed = [name for name, found in self.checks.items() if found["status"] == "failed"]
        for name, found in self.checks.items():
            if found.get("gain", GOAL_GAIN) < GOAL_GAIN:
                failed.append(f"{name}: {found['gain']} times the plain loop")
        best = max((found.get("mfu", 0.0) for found in self.checks.values()), default=0.0)
        return failed + [f"mfu {best}"] * (0 < best < GOAL_MFU)


def supervise(arguments: argparse.Namespace, text: str) -> Report:
    """Run the checks in a child process; start another one where it dies or hangs."""
    report = Report(arguments.out, list(CHECKS))
    deadline = time.monotonic() + arguments.seconds
    while report.left and time.monotonic() < deadline:
        command = [sys.executable, __file__, "--child", ",".join(report.left), "--text", text]
        command += ["--device", arguments.device, "--seconds", str(arguments.seconds)]
        command += ["--tiny"] * arguments.tiny
        if arguments.peak_flops:
            command += ["--peak-flops", str(arguments.peak_flops)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            follow(process, report, deadline)
        finally:
            process.kill()
            process.wait()
    for name in report.left:
        report.checks.setdefault(name, {"status": "skipped", "why": "no time left"})
    report.finished = True
    report.write()
    return report


def follow(process: subprocess.Popen, report: Report, deadline: float) -> None:
    """Write down what the child prints, until it ends or the time is over."""
    running, so_far = "", {}
    assert process.stdout is not None
    for line in lines(process.stdout.fileno(), deadline):
        answer = json.loads(line)
        if "begins" in answer:
            running, so_far = answer["begins"], {}
        elif "so far" in answer:
            so_far = answer["so far"]
            report.add(running, {"status": "running", **so_far})
        else:
            report.left.remove(answer["ends"])
            report.add(answer["ends"], answer["found"])
            print(f"{answer['ends']:<16} {json.dumps(answer['found'])}", flush=True)
            running = ""
    ended = process.poll() is not None or time.monotonic() < deadline
    if running:
        how = {"status": "failed", "error": "its process ended"}
        if not ended:
            how = {"status": "skipped", "why": "it did not end in time"}
        report.left.remove(running)
        report.add(running, so_far | how)
    elif ended and process.wait() not in (0, 3):
        report.left.clear()  # it did not even begin


def lines(file: int, deadline: float) -> Iterator[bytes]:
    """Lines of a pipe until it closes or the time is over."""
    rest = b""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([file], [], [], max(0.0, deadline - time.monotonic()))
        read = os.read(file, 1 << 16) if ready else b""
        if not read:
            return
        *whole, rest = (rest + read).split(b"\n")
        yield from whole


def main() -> int:
    global options
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="output file")
    parser.add_argument("--seconds", type=float, default=420.0, help="seconds for everything")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a quick test")
    parser.add_argument("--peak-flops", type=float, help="peak FLOP/s of the device in bfloat16")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--text", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.turn = 0.05 if options.tiny else 1.0
    if options.child:
        child(options.child.split(","))
        return 0
    import random

    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCALING_CACHE"] = folder
        text = Path(folder, "random.txt")
        words = 100 if options.tiny else 5000
        letters = ("".join(draw.choices("abcdefghij klmnop", k=400)) for _ in range(words))
        text.write_text("\n\n".join(letters))
        report = supervise(options, str(text))
    missed = report.missed()
    print(f"{options.out}: missed={', '.join(missed) or 'none'}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
