"""Packs of runs against the plain reference loop of train_speed.py, two workers side by side.

Each worker is a process of one thread; it trains the same shape on the same byte tokens with the
reference loop, one run at a time with ours, and with packs, in turns that alternate, so that a noisy
machine disturbs all alike. The chosen pack is that of the least time among those that were measured,
as the planner of a sweep chooses it; it may be no pack.

    python benchmarks/pack_speed.py [--check] [--shapes 3e3 3e4 3e5] [--batch-tokens 256 1024 4096]
        [--compile 3e3:256 3e4:256] [--workers 2] [--seconds 0.4]

Goals: at 256 tokens a step the chosen pack is 4 times as fast as the reference at N = 3e3 and 2.2
times at 3e4; nowhere is it slower than one run at a time by more than 3 %.
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
from train_speed import SHAPES, reference_steps

from scaling import corpus, count
from scaling.config import Execution, from_dict
from scaling.train import Trainer

GOALS = {("3e3", 256): 4.0, ("3e4", 256): 2.2}
SIZES = (1, 4, 8, 16, 32)
MOST_TOKENS = 8192  # in one step of a pack


def trainer_of(name: str, batch_tokens: int, K: int, *, compile: bool = False) -> Trainer:
    values = {"batch_tokens": batch_tokens, "tokens": 10**9, "data.tokenizer": "bytes"}
    run = dataclasses.replace(from_dict(values), model=SHAPES[name])
    runs = [dataclasses.replace(run, seed=k) for k in range(K)]
    return Trainer(runs, Execution(threads=1, device="cpu", compile=compile), [None] * K)


def measure(name: str, batch_tokens: int, seconds: float, turns: int, compiled: bool) -> dict:
    """{what: tokens/s} of the reference and of packs of each size, medians over alternating turns."""
    first = trainer_of(name, batch_tokens, 1)
    theirs = reference_steps(first.rows[0].leader.run, first.files)
    next(theirs)
    ways: dict[str, tuple[Any, int]] = {"reference": (theirs.send, 1)}
    for K in SIZES:
        if K == 1 or K * batch_tokens <= MOST_TOKENS:
            ways[f"{K}"] = (trainer_of(name, batch_tokens, K).steps, K)
    answer: dict[str, float] = {}
    if compiled:
        for K in (1, 8, 16):
            start = time.perf_counter()
            torch._dynamo.reset()
            steps = trainer_of(name, batch_tokens, K, compile=True).steps
            steps(2)
            answer[f"cold_{K}"] = time.perf_counter() - start
            ways[f"compiled_{K}"] = (steps, K)
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
    parser.add_argument("--shapes", nargs="+", default=["3e3", "3e4", "3e5"])
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--compile", nargs="*", default=["3e3:256", "3e4:256"], metavar="N:B")
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
    figures, missed = {}, []
    print(
        f"{arguments.workers} workers of one thread; bytes, context 128; tokens/s of all together"
    )
    print(f"{'N':>9} {'B':>6} {'reference':>11} {'one run':>11} {'pack':>11} {'K':>3} {'ratio':>6}")
    for name in arguments.shapes:
        for B in arguments.batch_tokens:
            compiled = f"{name}:{B}" in arguments.compile
            request = {"name": name, "batch_tokens": B, "seconds": arguments.seconds}
            request |= {"turns": arguments.turns, "compiled": compiled}
            rate = side_by_side(arguments.workers, request)
            K = max((k for k in SIZES if f"{k}" in rate), key=lambda k: rate[f"{k}"])
            if rate[f"{K}"] < 1.03 * rate["1"]:
                K = 1
            ratio, gain = rate[f"{K}"] / rate["reference"], rate[f"{K}"] / rate["1"]
            N = count.parameters(SHAPES[name], 256).N
            line = f"{N:>9,} {B:>6} {rate['reference']:>11,.0f} {rate['1']:>11,.0f} "
            line += f"{rate[f'{K}']:>11,.0f} {K:>3} {ratio:>6.2f}"
            key = f"N{name}_B{B}"
            figures |= {f"ratio_{key}": round(ratio, 2), f"gain_{key}": round(gain, 2)}
            figures[f"K_{key}"] = K
            if compiled:
                best = max((1, 8, 16), key=lambda k: rate[f"compiled_{k}"])
                fast = rate[f"compiled_{best}"] / rate["reference"]
                line += f"   compiled K={best}: {fast:.2f}, cold {rate[f'cold_{best}']:.0f} s"
                figures |= {f"compiled_{key}": round(fast, 2)}
                figures[f"cold_s_{key}"] = round(rate[f"cold_{best}"], 1)
                ratio = max(ratio, fast)
            print(line, flush=True)
            if ratio < GOALS.get((name, B), 0) or gain < 0.97:
                missed.append(key)
    print(" ".join(f"{k}={v}" for k, v in figures.items()), f"missed={','.join(missed) or 'none'}")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
