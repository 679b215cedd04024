"""A sweep of 48 runs compared with plain Ray Tune, and the cost of planning and driving.

The baseline is what one would write in an afternoon: one Tune function trial per run, each training
the plain module tree of train_speed.py with the same batch size, schedule and test windows. Both
sides start Ray themselves. There are two sweeps, and each starts on a machine where nothing has
been measured:

- ladder: six sizes x eight horizons over 1.5 decades, whose runs share a trunk, as in `quickstart`;
- rates: six sizes x eight learning rates at the longest horizon, which share nothing and take three
  times the training.

Two more measurements follow:

- plan: planning 1e5 runs;
- jobs: real Tune jobs with nothing to train, for the overhead per job and the growth of the
  driver's memory. Growth is measured between the second and the last Tune experiment of the sweep,
  because an experiment releases its memory when it ends.

    python benchmarks/sweep_throughput.py [--check] [--tokens 131072]
        [--only ladder rates plan jobs]

Goals: the ladder is at least 4 times as fast as the baseline, and mean losses agree within 2 %; 1e5
runs are planned in under 5 s; a job takes at most 0.2 s; the driver grows by less than 100 MB over
1e4 jobs (extrapolated).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

SPEC = """
name = "throughput"
[base]
model.tied = true
data.tokenizer = "bytes"
batch_tokens = 256
eval = { test_tokens = 16384, points = 1 }
BASE
[axes]
model = [
    { n_layer = 1, d_model = 16, n_head = 1 },
    { n_layer = 2, d_model = 20, n_head = 1 },
    { n_layer = 2, d_model = 32, n_head = 2 },
    { n_layer = 3, d_model = 40, n_head = 2 },
    { n_layer = 4, d_model = 48, n_head = 2 },
    { n_layer = 4, d_model = 64, n_head = 2 },
]
AXIS
"""


def ladder(tokens: int) -> Any:
    wsd = f'optim = {{ lr = 4e-3, schedule = "wsd", warmup_tokens = {tokens // 128} }}'
    return _spec(wsd, f"tokens = {{ from = {tokens / 32}, to = {tokens}, num = 8 }}")


def rates(tokens: int) -> Any:
    return _spec(f"tokens = {tokens}", "optim.lr = { from = 5e-4, to = 1.6e-2, num = 8 }")


def seeds(number: int) -> Any:
    return _spec("tokens = 65536", f"seed = {list(range(number // 6))}")


def _spec(base: str, axis: str) -> Any:
    from sweeps.spec import Spec

    return Spec.from_text(SPEC.replace("BASE", base).replace("AXIS", axis))


def trial(config: dict) -> None:
    """One run of the baseline, in its own process."""
    sys.path.insert(0, str(HERE))
    import numpy as np
    import torch
    from ray import tune
    from train_speed import Reference

    from scaling.config import from_dict
    from scaling.data import corpus
    from scaling.data.windows import held_out_windows
    from scaling.training.schedule import schedule

    torch.set_num_threads(1)
    run = from_dict(config["run"])
    torch.manual_seed(run.seed)
    files = corpus.prepare(run.data)
    model = Reference(run.model, files.vocab_size)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    data = np.memmap(files.train, dtype=np.uint16, mode="r")
    ctx, rows = run.model.n_ctx, run.batch_tokens // run.model.n_ctx
    for step in range(run.S):
        for group in optimizer.param_groups:
            group["lr"] = float(run.optim.lr) * schedule(run, step)
        ix = torch.randint(len(data) - ctx, (rows,))
        x = torch.stack([torch.from_numpy(data[i : i + ctx].astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + ctx].astype(np.int64)) for i in ix])
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    windows = torch.from_numpy(held_out_windows(files.test, run.eval.test_tokens, ctx))
    with torch.no_grad():
        parts = [model(part[:, :-1], part[:, 1:].contiguous()).item() for part in windows.split(32)]
    tune.report({"L": float(np.mean(parts))})


def plain_tune(runs, workers: int, folder: Path) -> dict[str, float]:
    """{run_id: L} of the baseline."""
    import ray
    from ray import tune

    from scaling.config import flatten

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"run": tune.grid_search([flatten(run) for run in runs])},
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    ray.shutdown()
    if results.errors:
        raise SystemExit(f"the baseline failed: {results.errors[0]}")
    from scaling.config import from_dict

    return {from_dict(r.config["run"]).run_id: r.metrics["L"] for r in results}


def sweep(name: str, spec: Any, workers: int, folder: Path) -> dict[str, float]:
    from rich.console import Console

    from scaling.data import corpus
    from sweeps import Sweep

    os.environ["SCALING_CACHE"] = str(folder / name / "cache")  # nothing has been measured yet
    corpus.prepare(spec.runs[0].data)  # used by both sides
    out = io.StringIO()
    start = time.perf_counter()
    it = Sweep(spec, folder / name / "ours")
    ours = it.run(workers=workers, console=Console(file=out)).set_index("run_id")
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    theirs = plain_tune(spec.runs, workers, folder / name / "tune")
    theirs_s = time.perf_counter() - start
    L = ours.L[list(theirs)].to_numpy()
    difference = float((L / list(theirs.values()) - 1).mean())
    shared = float(ours.D_shared.sum() / ours.D.sum())
    print(
        f"{name}: ours {ours_s:.1f} s, packs of up to {ours['pack'].max()}, "
        f"{shared:.0%} of the tokens shared; plain Tune {theirs_s:.1f} s; mean loss "
        f"{100 * difference:+.2f} % from the baseline's"
    )
    return {
        f"{name}_s": round(ours_s, 1),
        f"{name}_tune_s": round(theirs_s, 1),
        f"{name}_ratio": round(theirs_s / ours_s, 2),
        f"{name}_loss": round(difference, 4),
    }


def planner() -> dict[str, float]:
    from scaling.training.pack_key import pack_key
    from sweeps import packing
    from sweeps.costs import Costs, fit_speed

    runs = seeds(100_000).runs

    costs = Costs(fit_speed([]), {pack_key(run): {1: 3e-3, 4: 6e-3, 16: 2e-2} for run in runs})
    start = time.perf_counter()
    jobs = packing.form(runs, costs, 64)
    took = time.perf_counter() - start
    print(f"{len(runs)} runs planned in {took:.2f} s: {len(jobs)} jobs")
    return {"plan_runs": len(runs), "plan_s": round(took, 2)}


def drive(number: int, workers: int, folder: Path) -> dict[str, float]:
    """Send jobs whose runs have already finished through Tune."""
    import psutil

    from scaling.execution import Execution
    from sweeps.on_ray.tune import jobs_of_an_experiment, run_on_ray
    from sweeps.queue import Job, Queue
    from sweeps.result import failed_row
    from sweeps.store import Store

    few = jobs_of_an_experiment(workers)
    if number < 3 * few:
        raise SystemExit(f"--jobs {number} must be at least {3 * few}, which is three experiments.")
    runs = seeds(number).runs
    store = Store(folder / "drive")
    for run in runs:
        store.finish(failed_row(run, "placeholder for a result"), [])
    store.merge()  # so that its imports do not count as memory of the jobs
    queue = Queue(store, retries=0)
    queue.add(Job((run,), 1.0) for run in runs)
    process = psutil.Process(os.getpid())
    seen: list[tuple[float, int]] = []
    queue.on_finish = lambda _: seen.append((time.perf_counter(), process.memory_info().rss))
    run_on_ray(queue, workers=workers, execution=Execution(device="cpu"))
    jobs = len(seen) - 1 - few
    a_job = (seen[-1][0] - seen[few][0]) / jobs * workers
    second = max(rss for _, rss in seen[few : 2 * few])
    last = max(rss for _, rss in seen[-few:])
    growth = (last - second) / (len(seen) - 2 * few) * 1e4 / 2**20
    print(
        f"{len(seen)} jobs: {a_job:.3f} worker seconds per job; "
        f"the driver grows by {growth:.0f} MB over 1e4 jobs"
    )
    return {"job_s": round(a_job, 3), "driver_MB_1e4": round(growth, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--tokens", type=int, default=131_072, help="tokens of the longest runs")
    parser.add_argument("--workers", type=int, default=2, help="workers of each side")
    parser.add_argument("--jobs", type=int, default=10_000, help="number of jobs without training")
    parser.add_argument(
        "--only", nargs="+", default=["ladder", "rates", "plan", "jobs"], help="what to measure"
    )
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(KeyboardInterrupt):
        folder = Path(temporary)
        if "plan" in arguments.only:
            figures |= planner()
        if "jobs" in arguments.only:
            figures |= drive(arguments.jobs, arguments.workers, folder)
        for name, spec in (("ladder", ladder), ("rates", rates)):
            if name in arguments.only:
                figures |= sweep(name, spec(arguments.tokens), arguments.workers, folder)
    goals = {
        "ladder_ratio": lambda x: x >= 4,
        "ladder_loss": lambda x: abs(x) <= 0.02,
        "rates_loss": lambda x: abs(x) <= 0.02,
        "plan_s": lambda x: x < 5,
        "job_s": lambda x: x <= 0.2,
        "driver_MB_1e4": lambda x: x < 100,
    }
    missed = [name for name, met in goals.items() if name in figures and not met(figures[name])]
    print(" ".join(f"{k}={v}" for k, v in figures.items()), f"missed={','.join(missed) or 'none'}")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
