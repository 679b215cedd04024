"""Speed of single runs and packs, compared with the plain reference loop of train_speed.py.

Two workers run side by side, each a process with one thread. Each trains the same shape on the same
byte tokens with the reference loop, with ours one run at a time, and with packs, eager and
compiled. Turns alternate, so that noise on the machine affects all of them alike. Like the planner
of a sweep, the benchmark chooses the fastest, which may be no pack at all. The ratios exclude
compiling, whose seconds are printed as `cold`: once per shape for single runs and once for packs of
every size. --bfloat16 adds measurements in bfloat16.

    python benchmarks/pack_speed.py [--check] [--cells 3e3:256 3e3:1024 ...] [--compile 3e3:256 ...]
        [--bfloat16 3e6:4096] [--workers 2] [--seconds 0.4]

Goals: speedups over the reference for the best single run and the best pack. Without compiling, the
choice is nowhere more than 3 % slower than one run at a time.
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
"""Speedups of packs."""
ONE = {"3e3:256": 1.9, "3e4:256": 1.9, "3e5:256": 1.9, "3e3:4096": 1.4, "3e4:4096": 1.15}
ONE |= {"3e5:4096": 1.15, "3e6:4096": 1.6}
"""Speedups of single runs."""
SIZES = (1, 4, 8, 16, 32)
MOST_TOKENS = 8192  # per step of a pack
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
    """{kind: tokens/s} for the reference and each pack size, medians over alternating turns."""
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
    """Measurements of simultaneous workers, summed; for `cold`, averaged."""
    command = [sys.executable, __file__, "--child", json.dumps(request)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    answers = []
    for child in children:
        out, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"a worker failed with exit code {child.returncode}")
        answers.append(json.loads(out.splitlines()[-1]))
    return {
        what: (statistics.mean if what.startswith("cold") else sum)(a[what] for a in answers)
        for what in answers[0]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    cells = [f"{name}:{B}" for name in PACKED for B in (256, 1024, 4096)]
    parser.add_argument(
        "--cells",
        nargs="*",
        default=[*cells, "3e6:4096"],
        metavar="N:B",
        help="sizes N and tokens per step B to measure",
    )
    compiled = [cell for cell in cells if not cell.endswith("1024")]
    parser.add_argument(
        "--compile",
        nargs="*",
        default=[*compiled, "3e6:4096"],
        metavar="N:B",
        help="cells that are also compiled",
    )
    parser.add_argument(
        "--bfloat16",
        nargs="*",
        default=["3e6:4096"],
        metavar="N:B",
        help="cells that are also run in bfloat16",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--turns", type=int, default=5, help="alternating turns per cell")
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds per turn")
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
        f"bfloat16 matrix products: {figures['bfloat16_products']:.2f} times as fast as float32\n"
        f"{arguments.workers} workers with one thread each; bytes, context 128; total tokens/s"
    )
    print(
        f"{'N':>9} {'B':>6} {'reference':>11} {'one run':>11} {'pack':>11} {'K':>3}"
        "  speedup over the reference"
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
