"""How long runs take on this machine: learned from finished runs, or from a few measured seconds.

Training one token costs  t = a / B + b n_layer / B + c F  seconds: a step and each of its layers have
a fixed price, and every FLOP has one (F: matrix-product FLOPs a token, scaling.count 'matmul').
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scaling import count
from scaling.config import EvalConfig, RunConfig, flatten, from_dict
from sweeps.jobs import headline

Sample = tuple[float, float, float, float]
"""(B, n_layer, F, seconds a token) of something that was measured."""

_TYPICAL = (8e-4, 8e-4, 4e-11)
"""a, b, c of one laptop core, where nothing was measured."""

_MEASURE_SECONDS = 1.2


@dataclass(frozen=True)
class Speed:
    """Seconds from sizes, for one worker."""

    step: float
    """a [s]."""
    layer: float
    """b [s]."""
    flop: float
    """c [s]."""
    samples: int = 0
    """How many measurements it rests on; 0 is a guess."""

    def seconds(self, run: RunConfig) -> float:
        """Expected seconds of a run, evaluations included."""
        F = count.flops_per_token(run.model, run.data.vocab_size, "matmul")
        per_step = self.step + self.layer * run.model.n_layer
        training = run.S * per_step + run.D * self.flop * F
        tests = min(run.eval.points, run.S)
        batches = max(1.0, run.eval.test_tokens / run.batch_tokens)
        return training + tests * (batches * per_step + run.eval.test_tokens * self.flop * F) / 3


def speed(samples: Iterable[Sample]) -> Speed:
    """The prices that explain the samples best, in relative terms; none of them negative."""
    samples = [s for s in samples if all(x > 0 for x in s)]
    if not samples:
        return Speed(*_TYPICAL)
    import numpy as np
    from scipy.optimize import nnls

    B, layers, F, seconds = np.array(samples, float).T
    features = np.stack([1 / B, layers / B, F], axis=1)
    scale = float(np.median(seconds / (features @ _TYPICAL)))
    # A weak pull to the typical ratio of the three keeps few samples from giving nonsense.
    prior = 0.1 * np.eye(3)
    design = np.concatenate([features * _TYPICAL * scale / seconds[:, None], prior])
    target = np.concatenate([np.ones(len(seconds)), 0.1 * np.ones(3)])
    price = nnls(design, target)[0] * _TYPICAL * scale
    return Speed(*map(float, price), samples=len(samples))


def samples_of(rows: Iterable[dict[str, Any]]) -> list[Sample]:
    """Measurements from rows of a results table."""
    samples = []
    for row in rows:
        values = [row.get(key) for key in ("B", "n_layer", "C_matmul", "D", "tokens_per_second")]
        if row.get("status") == "ok" and all(values):
            B, layers, C, D, rate = (float(v) for v in values if v)
            samples.append((B, layers, C / D, 1 / rate))
    return samples


def measure(runs: list[RunConfig], *, workers: int, threads: int) -> list[Sample]:
    """Train a few shapes of `runs` for a moment in `workers` processes at once.

    Takes a few seconds, in child processes that find the machine as the workers will. Raises
    RuntimeError with the child's last line where it fails.
    """
    request = json.dumps({"threads": threads, "runs": [flatten(run) for run in _typical(runs)]})
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "from sweeps.estimate import _child; _child()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _ in range(workers)
    ]
    samples: list[Sample] = []
    try:
        for child in children:
            assert child.stdin
            child.stdin.write(request)
            child.stdin.close()
            child.stdin = None
        for child in children:
            out, err = child.communicate()
            if child.returncode:
                raise RuntimeError(headline(err))
            samples += [tuple(sample) for sample in json.loads(out.splitlines()[-1])]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    return samples


def _typical(runs: list[RunConfig]) -> list[RunConfig]:
    """The cheapest, the middle and the dearest shape, by FLOPs a token."""
    shapes = {(run.model, run.data): run for run in runs}
    ordered = sorted(
        shapes.values(),
        key=lambda run: count.flops_per_token(run.model, run.data.vocab_size, "matmul"),
    )
    picks = {0, len(ordered) // 2, len(ordered) - 1}
    return [ordered[i] for i in sorted(picks)]


def _child() -> None:
    """Measure the runs on stdin; print the samples."""
    request = json.load(sys.stdin)
    from scaling.config import Execution
    from scaling.train import train

    samples = []
    for values in request["runs"]:
        run = from_dict(values)
        F = count.flops_per_token(run.model, run.data.vocab_size, "matmul")
        # A step of the largest model with its full batch may take minutes.
        sequences = max(1, min(run.batch_tokens, int(2e10 / F)) // run.model.n_ctx)
        B = sequences * run.model.n_ctx
        test = EvalConfig(test_tokens=run.model.n_ctx, points=1)
        execution = Execution(threads=request["threads"])
        rate, steps = 0.0, 3
        for _ in range(2):
            short = dataclasses.replace(run, batch_tokens=B, tokens=steps * B, eval=test)
            rate = float(train(short, execution=execution).row["tokens_per_second"])
            steps = max(3, min(2000, round(rate * _MEASURE_SECONDS / B)))
        samples.append((B, run.model.n_layer, F, 1 / rate))
    print(json.dumps(samples))
