"""Runs one at a time and in packs against the plain reference loop of train_speed.py, two workers
side by side.

Each worker is a process of one thread; it trains the same shape on the same byte tokens with the
reference loop, one run at a time with ours, and with packs, as they are and compiled, in turns that
alternate, so that a noisy machine disturbs all alike. What is chosen is what took least, as the planner
of a sweep chooses; it may be no pack. Compiling is not in the ratios: `cold` are its seconds, once a
shape for one run and once for packs of every size. In bfloat16 where --bfloat16 says so.

    python benchmarks/pack_speed.py [--check] [--cells 3e3:256 3e3:1024 ...] [--compile 3e3:256 ...]
        [--bfloat16 3e6:4096] [--workers 2] [--seconds 0.4]

Goals: the best one run at a time, and the best pack, in times of the reference; nowhere is what is
chosen without compiling slower than one run at a time by more than 3 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from train_speed import SHAPES, reference_apart

from scaling import size
from scaling.config import RunConfig, from_dict
from scaling.data import corpus
from scaling.devices.hardware import peak_flops
from scaling.execution import Execution
from scaling.training.trainer import Trainer

GOALS = {"3e3:256": 4.0, "3e4:256": 2.2}
"""Of packs."""
ONE = {"3e3:256": 1.9, "3e4:256": 1.9, "3e5:256": 1.9, "3e3:4096": 1.4, "3e4:4096": 1.15}
ONE |= {"3e5:4096": 1.15, "3e6:4096": 1.6}
"""Of one run at a time."""
SIZES = (1, 4, 8, 16, 32)
MOST_TOKENS = 8192  # in one step of a pack
PACKED = ("3e3", "3e4", "3e5")


def run_of(name: str, batch_tokens: int, precision: str = "float32") -> RunConfig:
    values = {"batch_tokens": batch_tokens, "tokens": 10**9, "data.tokenizer": "bytes"}
    values |= {"precision": precision}
    return dataclasses.replace(from_dict(values), model=SHAPES[name])


def trainer_of(
    name: str, batch_tokens: int, K: int, *, compile: bool = False, precision: str = "float32"
) -> Trainer:
    run = run_of(name, batch_tokens, precision)
    runs = [dataclasses.replace(run, seed=k) for k in range(K)]
    return Trainer(runs, Execution(threads=1, device="cpu", compile=compile), [None] * K)


def measure(
    name: str, batch_tokens: int, seconds: float, turns: int, compiled: bool, bfloat16: bool
) -> dict:
    """{what: tokens/s} of the reference and of packs of each size, medians over alternating turns."""
    theirs = reference_apart(run_of(name, batch_tokens))
    next(theirs)
    ways: dict[str, tuple[Any, int]] = {"reference": (theirs.send, 1)}
    sizes = [K for K in SIZES if K == 1 or K * batch_tokens <= MOST_TOKENS]
    for K in sizes if name in PACKED else (1,):
        ways[f"{K}"] = (trainer_of(name, batch_tokens, K).steps, K)
    if bfloat16:
        ways["bfloat16"] = (trainer_of(name, batch_tokens, 1, precision="bfloat16").steps, 1)
    answer: dict[str, float] = {}
    if compiled:
        packed = (1, 8, 16, 32) if batch_tokens < 1024 and name in PACKED else (1,)
        kinds = [(f"{K}", K, "float32") for K in packed]
        for what, K, precision in [*kinds, *([("bfloat16", 1, "bfloat16")] if bfloat16 else [])]:
            start = time.perf_counter()
            steps = trainer_of(name, batch_tokens, K, compile=True, precision=precision).steps
            steps(2)
            answer[f"cold_{what}"] = time.perf_counter() - start
            ways[f"compiled_{what}"] = (steps, K)
    counts = {}
    for what, (go, _) in ways.items():
        go(2)
        start = time.perf_counter()
        go(2)
        counts[what] = max(2, round(2 * seconds / (time.perf_counter() - start)))
    rates: dict[str, list[float]] = {what: [] for what in ways}
    for turn in range(turns):
        for what in list(ways) if turn % 2 else reversed(list(ways)):
            go, K = ways[what]
            start = time.perf_counter()
            go(counts[what])
            took = time.perf_counter() - start
            rates[what].append(counts[what] * K * batch_tokens / took)
    return answer | {what: statistics.median(found) for what, found in rates.items()}


def side_by_side(workers: int, request: dict[str, Any]) -> dict[str, float]:
    """The sum over workers of what each measures at the same time as the others."""
    command = [sys.executable, __file__, "--child", json.dumps(request)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    answers = []
    for child in children:
        out, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"a worker ended with exit code {child.returncode}")
        answers.append(json.loads(out.splitlines()[-1]))
    return {
        what: (statistics.mean if what.startswith("cold") else sum)(a[what] for a in answers)
        for what in answers[0]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    cells = [f"{name}:{B}" for name in PACKED for B in (256, 1024, 4096)]
    parser.add_argument("--cells", nargs="*", default=[*cells, "3e6:4096"], metavar="N:B")
    compiled = [cell for cell in cells if not cell.endswith("1024")]
    parser.add_argument("--compile", nargs="*", default=[*compiled, "3e6:4096"], metavar="N:B")
    parser.add_argument("--bfloat16", nargs="*", default=["3e6:4096"], metavar="N:B")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(1)
        print(json.dumps(measure(**json.loads(arguments.child))))
        return 0
    corpus.prepare(from_dict({"data.tokenizer": "bytes"}).data)
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    products, in_bfloat16 = (peak_flops(cpu, t, 1) for t in (torch.float32, torch.bfloat16))
    figures: dict[str, float] = {"bfloat16_products": round(in_bfloat16 / products, 2)}
    missed = []
    print(
        f"matrix products in bfloat16 {figures['bfloat16_products']:.2f} times as fast as in float32\n"
        f"{arguments.workers} workers of one thread; bytes, context 128; tokens/s of all together"
    )
    print(
        f"{'N':>9} {'B':>6} {'reference':>11} {'one run':>11} {'pack':>11} {'K':>3}"
        "  times the reference"
    )
    for cell in arguments.cells:
        name, B = cell.split(":")[0], int(cell.split(":")[1])
        request = {"name": name, "batch_tokens": B, "seconds": arguments.seconds}
        request |= {"turns": arguments.turns, "compiled": cell in arguments.compile}
        rate = side_by_side(arguments.workers, request | {"bfloat16": cell in arguments.bfloat16})
        K = max((k for k in SIZES if f"{k}" in rate), key=lambda k: rate[f"{k}"])
        if rate[f"{K}"] < 1.03 * rate["1"]:
            K = 1
        times = {what: r / rate["reference"] for what, r in rate.items() if "cold" not in what}
        key, gain = f"N{name}_B{B}", rate[f"{K}"] / rate["1"]
        N = size.parameters(SHAPES[name], 256).N
        line = f"{N:>9,} {B:>6} {rate['reference']:>11,.0f} {rate['1']:>11,.0f} "
        line += f"{rate[f'{K}']:>11,.0f} {K:>3}  one run {times['1']:.2f}, pack {times[f'{K}']:.2f}"
        alone = ("1", "compiled_1", "bfloat16", "compiled_bfloat16")
        one = max(times.get(way, 0) for way in alone)
        best = max(r for what, r in times.items() if what != "reference" and "bfloat16" not in what)
        if "bfloat16" in times:
            line += f", bfloat16 {times['bfloat16']:.2f}"
        for way, r in times.items():
            if way.startswith("compiled"):
                cold = rate[way.replace("compiled", "cold")]
                line += f", compiled {way[9:]} {r:.2f} (cold {cold:.0f} s)"
        figures |= {f"one_{key}": round(one, 2), f"best_{key}": round(best, 2)}
        figures |= {f"pack_{key}": round(times[f"{K}"], 2), f"K_{key}": K}
        figures[f"gain_{key}"] = round(gain, 2)
        print(line, flush=True)
        for goal, reached in ((ONE, one), (GOALS, best)):
            if reached < goal.get(cell, 0):
                missed.append(f"{cell}>={goal[cell]}")
        if gain < 0.97:
            missed.append(f"{cell}:crossover")
    print(" ".join(f"{k}={v}" for k, v in figures.items()), f"missed={','.join(missed) or 'none'}")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
