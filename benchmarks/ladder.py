"""An L(N, D) ladder of six sizes and six horizons: packs and branches against separate plain runs.

Ours is a sweep as a user would run it with --compile, including Ray, calibration, the store, and
compiling where that is measured to pay. The wsd schedule has a warm-up that does not depend on the
horizon, so the horizons of one size and seed share a trunk. The baseline trains every run from its
start with the plain loop of train_speed.py and the same schedule, without Ray. It starts with the
longest runs and uses as many processes as ours has workers. More seeds give more runs to pack; the
baseline's time for S seeds is S times that of one seed.

    python benchmarks/ladder.py [--check] [--tokens 3145728] [--seeds 4]

The first of the two sweeps includes what a machine measures and compiles once for these shapes
(`once`); the second reuses it.

Goals: at most 0.4 of the baseline's wall clock, and exponents whose 95 % intervals overlap.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis import laws
from scaling.config import RunConfig, flatten, from_dict
from scaling.data import corpus

SPEC = """
name = "ladder"
[base]
data.tokenizer = "bytes"
batch_tokens = 256
optim = {{ lr = "0.06 N^-0.3", schedule = "wsd", warmup_tokens = {warmup} }}
eval = {{ test_tokens = 32768, points = 1 }}
[axes]
model = [
    {{ n_layer = 1, d_model = 16, n_head = 1 }},
    {{ n_layer = 1, d_model = 24, n_head = 1 }},
    {{ n_layer = 2, d_model = 24, n_head = 1 }},
    {{ n_layer = 2, d_model = 32, n_head = 2 }},
    {{ n_layer = 3, d_model = 40, n_head = 2 }},
    {{ n_layer = 3, d_model = 56, n_head = 2 }},
]
tokens = {tokens}
seed = {seeds}
"""


def plain(runs: list[RunConfig]) -> dict[str, float]:
    """{run_id: L} of runs trained one after another in the plain loop."""
    import numpy as np
    import torch
    from torch import nn
    from train_speed import Reference

    from scaling.data.windows import held_out_windows
    from scaling.training.schedule import peaks, schedule

    torch.set_num_threads(1)
    losses = {}
    for run in runs:
        torch.manual_seed(run.seed)
        files = corpus.prepare(run.data)
        model = Reference(run.model, files.vocab_size)
        parts = (
            [p for p in model.parameters() if p.dim() >= 2],
            [p for p in model.parameters() if p.dim() < 2],
        )
        groups = [{"params": p, "weight_decay": w} for p, w in zip(parts, (0.1, 0.0), strict=True)]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        data = np.memmap(files.train, dtype=np.uint16, mode="r")
        ctx, rows = run.model.n_ctx, run.batch_tokens // run.model.n_ctx
        for step in range(run.S):
            for group in optimizer.param_groups:
                group["lr"] = peaks(run)[0] * schedule(run, step)
            ix = torch.randint(len(data) - ctx - 1, (rows,))
            cut = [torch.from_numpy(data[i : i + ctx + 1].astype(np.int64)) for i in ix]
            window = torch.stack(cut)
            loss = model(window[:, :-1], window[:, 1:].contiguous())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        windows = torch.from_numpy(held_out_windows(files.test, run.eval.test_tokens, ctx))
        with torch.no_grad():
            found = [
                model(part[:, :-1], part[:, 1:].contiguous()).item() for part in windows.split(32)
            ]
        losses[run.run_id] = float(np.mean(found))
    return losses


def plain_side_by_side(runs: list[RunConfig], workers: int) -> tuple[dict[str, float], float]:
    """({run_id: L}, seconds) of the baseline, its runs balanced over processes, longest first."""
    from scaling.size import flops_per_token

    cost = {run.run_id: run.D * flops_per_token(run.model, 256, "matmul") for run in runs}
    ordered = sorted(runs, key=lambda run: -cost[run.run_id])
    shares: list[list[RunConfig]] = [[] for _ in range(workers)]
    for run in ordered:
        min(shares, key=lambda share: sum(cost[r.run_id] for r in share)).append(run)
    start = time.perf_counter()
    children = []
    for share in shares:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin
        child.stdin.write(json.dumps([flatten(run) for run in share]))
        child.stdin.close()
        child.stdin = None
        children.append(child)
    losses: dict[str, float] = {}
    for child in children:
        out, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"the baseline failed with exit code {child.returncode}")
        losses |= json.loads(out.splitlines()[-1])
    return losses, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--tokens", type=int, default=3_145_728, help="longest horizon")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of the second sweep")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each side")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(plain([from_dict(values) for values in json.load(sys.stdin)])))
        return 0

    from rich.console import Console

    from analysis import fit
    from sweeps import Sweep
    from sweeps.spec import Spec

    horizons = [arguments.tokens // 2**i // 256 * 256 for i in range(6)]

    def spec(seeds: int) -> Spec:
        values = {"tokens": horizons, "warmup": horizons[-1] // 4, "seeds": list(range(seeds))}
        return Spec.from_text(SPEC.format(**values))

    corpus.prepare(spec(1).runs[0].data)  # used by both sides
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = {}
        for seeds in dict.fromkeys((1, arguments.seeds)):
            it = Sweep(spec(seeds), Path(folder, str(seeds)))
            start = time.perf_counter()
            console = Console(file=io.StringIO())
            ours[seeds] = it.run(workers=arguments.workers, compile=True, console=console)
            took = time.perf_counter() - start
            figures[f"ours_{seeds}_s"] = round(took, 1)
            figures[f"once_{seeds}_s"] = round(
                took - it.store.manifest()["sessions"][0]["wall_seconds"], 1
            )
        losses, seconds = plain_side_by_side(list(spec(1).runs), arguments.workers)
    figures["plain_s"] = round(seconds, 1)
    missed = []
    for seeds, runs in ours.items():
        cost = figures[f"ours_{seeds}_s"] / (seeds * seconds)
        shared = runs.D_shared.sum() / runs.D.sum()
        print(
            f"{len(runs)} runs: {figures[f'ours_{seeds}_s']} s, "
            f"{figures[f'once_{seeds}_s']} s of it before the first run starts, "
            f"{cost:.2f} of separate plain runs; {100 * shared:.0f} % of the tokens shared, "
            f"up to {runs['pack'].max()} rows at once"
        )
        figures[f"cost_{seeds}"] = round(cost, 3)
    if min(figures[f"cost_{seeds}"] for seeds in ours) > 0.4:
        missed.append("cost")
    mine = ours[1]
    theirs = mine.assign(L=mine.run_id.map(losses))
    fits = [fit(laws.chinchilla, table, bootstrap=400) for table in (mine, theirs)]
    for name in ("alpha", "beta"):
        (low, high), (their_low, their_high) = (
            f.interval(0.95).loc[name, ["low", "high"]] for f in fits
        )
        print(f"{name}: {low:.3f} to {high:.3f}, plain {their_low:.3f} to {their_high:.3f}")
        figures[name] = round(fits[0].params[name], 3)
        figures[f"{name}_plain"] = round(fits[1].params[name], 3)
        if max(low, their_low) > min(high, their_high):
            missed.append(name)
    print(" ".join(f"{k}={v}" for k, v in figures.items()), f"missed={','.join(missed) or 'none'}")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
