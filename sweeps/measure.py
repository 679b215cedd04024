"""Speed measurements in child processes, and the cache of what was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scaling import interpreter, size
from scaling.config import EvalConfig, RunConfig, flatten, from_dict
from scaling.execution import Execution
from scaling.files import write_atomic
from scaling.training.pack_key import shape
from sweeps.errors import headline
from sweeps.provenance import machine

if TYPE_CHECKING:
    from scaling.devices.ranks import Ranks


V = TypeVar("V")

_MEASURE_SECONDS = 0.15
"""Of each size of pack."""

_SIZES = (1, 2, 4, 8, 16, 32)

OTHER_PRECISION = {"float32": "bfloat16", "bfloat16": "float32"}

_LOOP = 3
"""Raised when the training loop becomes faster or slower: what was measured before no longer holds."""

_STEP_FLOPS = 2e10
"""A step beyond this fills a machine by itself, and is measured on a part of its batch."""

Packs = dict[Hashable, dict[int, float]]


@dataclass(frozen=True)
class Machine:
    """How runs are to be executed: what measurements hold for."""

    workers: int
    threads: int
    device: str = "auto"
    compile: bool = False
    """Compile the shapes that gain by it."""
    devices: int = 1
    nodes: int = 1
    """With more than one nothing is measured beforehand."""

    def like(self, device: str) -> bool:
        """Whether a table's `device`, such as '2 x cpu x4', is as this has; unknown where empty."""
        several, _, one = device.rpartition(" x ")
        cpu = one == f"cpu x{self.threads}" and self.device in ("auto", "cpu")
        gpu = not one.startswith("cpu") and self.device != "cpu"
        return not device or (int(several or 1) == self.devices and (cpu or gpu))

    def path(self, run: RunConfig, *, compiled: bool = False, folder: str = "speed") -> Path:
        """Where the measurements of a run's shape are kept."""
        from importlib.metadata import version

        from scaling.files import cache

        here = {k: v for k, v in machine().items() if k not in ("release", "python")}
        how = vars(self) | {"compile": compiled}
        what = [_LOOP, here, version("torch"), how, dataclasses.asdict(run.model)]
        what += [run.data.vocab_size]
        what += [run.optim.optimizer] if compiled else []
        text = json.dumps([*what, run.batch_tokens, run.precision], default=str)
        return cache() / folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def known(self, runs: Iterable[RunConfig], *, compiled: bool = False) -> Packs:
        """What was measured before of the shapes of `runs`."""

        def packs(values: Any) -> dict[int, float]:
            return {int(K): float(seconds) for K, seconds in values.items()}

        return _remembered(runs, partial(self.path, compiled=compiled), packs)

    def measure(self, runs: Iterable[tuple[RunConfig, int]], *, compiled: bool = False) -> Packs:
        """Train packs of up to so many runs of each shape for a moment, and remember what it took.

        In child processes, as many side by side as there will be workers, that find the machine as
        these will. Seconds a shape, `compiled` up to a minute. Raises RuntimeError with a child's last
        line where it fails.
        """
        asked = {shape(run): (run, most) for run, most in runs}
        found: Packs = {}
        each = self._timed([*asked.values()], compiled)
        for (key, (run, _)), seconds in zip(asked.items(), each, strict=True):
            found[key] = seconds
            _remember(self.path(run, compiled=compiled), seconds)
        return found

    def compare(self, runs: Iterable[RunConfig]) -> None:
        """Train one run of each shape for a moment in its own and in the other precision, and remember
        how long a step of the other is in times of its own; or that this cannot be."""
        shapes = [*{shape(run): run for run in runs}.values()]
        both = [
            (dataclasses.replace(run, precision=precision), 1)
            for run in shapes
            for precision in (run.precision, OTHER_PRECISION[run.precision])
        ]
        try:
            seconds = [found[1] for found in self._timed(both, compiled=False)]
            ratios = [b / a for a, b in zip(seconds[::2], seconds[1::2], strict=True)]
        except RuntimeError:  # a family, or a device, that one of the two is not for
            ratios = [math.nan] * len(shapes)
        for run, ratio in zip(shapes, ratios, strict=True):
            _remember(self.path(run, folder="precision"), ratio)

    def compared(self, runs: Iterable[RunConfig]) -> dict[Hashable, float]:
        """What :meth:`compare` found before of the shapes of `runs`; nan where it could not."""
        return _remembered(runs, partial(self.path, folder="precision"), float)

    def _timed(
        self, asked: Sequence[tuple[RunConfig, int]], compiled: bool
    ) -> list[dict[int, float]]:
        """{K: seconds a step} of each run's packs of up to so many."""
        if not asked:
            return []
        items = [{"run": flatten(run), "most": most} for run, most in asked]
        how = {**vars(self), "compile": compiled, "items": items}
        number = min(self.workers, os.cpu_count() or 1)
        requests = [json.dumps(how | {"first": i * len(items) // number}) for i in range(number)]
        children = [
            subprocess.Popen(
                interpreter.command("sweeps.measure", "_child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in requests
        ]
        answers: list[list[dict[str, float]]] = []
        try:
            for child, request in zip(children, requests, strict=True):
                assert child.stdin
                child.stdin.write(request)
                child.stdin.close()
                child.stdin = None
            for child in children:
                out, err = child.communicate()
                if child.returncode:
                    raise RuntimeError(headline(err))
                answers.append(json.loads(out.splitlines()[-1]))
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        return [
            {
                int(K): statistics.mean(one[K] for one in each)
                for K in sorted(set.intersection(*map(set, each)))
            }
            for each in zip(*answers, strict=True)
        ]


def _remembered(
    runs: Iterable[RunConfig], path: Callable[[RunConfig], Path], read: Callable[[Any], V]
) -> dict[Hashable, V]:
    """What lies at the paths of the shapes of `runs`; nothing of those where it is not there, or
    torn: measured anew where it pays."""
    found: dict[Hashable, V] = {}
    for key, run in {shape(run): run for run in runs}.items():
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            found[key] = read(json.loads(path(run).read_bytes()))
    return found


def _remember(path: Path, what: Any) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written is only slower
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(what).encode())


def _child() -> None:
    """Measure the items on stdin; print {K: seconds a step} of each."""
    print(json.dumps(_answers(json.load(sys.stdin))))


def _answers(request: dict[str, Any]) -> list[dict[int, float]]:
    """What :meth:`Machine.measure` asks for; each of several devices goes through it."""
    import torch

    how = {name: request[name] for name in ("threads", "device", "compile", "devices")}
    execution = Execution(**how)
    torch.set_num_threads(execution.threads)
    from scaling.devices import launch  # imports torch

    with launch.together(execution, partial(_answers, request)) as ranks:
        return _measured(request, execution, ranks)


def _measured(
    request: dict[str, Any], execution: Execution, ranks: Ranks
) -> list[dict[int, float]]:
    from scaling.training.trainer import Trainer

    def trainer_of(run: RunConfig, B: int, K: int) -> Trainer:
        test = EvalConfig(test_tokens=run.model.n_ctx, points=1)
        runs = [
            dataclasses.replace(run, seed=k, batch_tokens=B, tokens=10**7 * B, eval=test)
            for k in range(K)
        ]
        return Trainer(runs, execution, [None] * K, None, ranks)

    items = []
    for item in request["items"]:
        run = from_dict(item["run"])
        size.allow(run.model.family)
        F = size.flops_per_token(run.model, run.data.vocab_size, "matmul")
        # A step of the largest model with its full batch may take minutes.
        unit = run.model.n_ctx * ranks.size
        B = max(1, min(run.batch_tokens, int(_STEP_FLOPS / F)) // unit) * unit
        items.append((run, B, item["most"] if run.batch_tokens == B else 1))
    if execution.compile:
        # First all, each child in an order of its own: what one has compiled is in torch's cache when
        # the others come to it, and nobody compiles any more while others measure.
        i = request["first"]
        for run, B, most in items[i:] + items[:i]:
            for K in range(1, 1 + min(2, most)):  # the code for two serves all packs
                trainer_of(run, B, K).steps(2)
    answers = []
    for run, B, most in items:
        seconds: dict[int, float] = {}
        for K in _SIZES:
            if most < K:
                break
            trainer = trainer_of(run, B, K)
            took = _step_seconds(trainer) * run.batch_tokens / B
            # Ray gives every rank a GPU of its own, and on a CPU all of them share the memory.
            own_gpu = trainer.device.type == "cuda" and ranks.size > 1
            here = 1 if own_gpu else request["workers"] * ranks.size
            (crowded,) = ranks.agreed(K > 1 and _crowded(trainer.device, here))
            if crowded:
                break
            seconds[K] = took
            if seconds[K] / K > 0.99 * min(s / k for k, s in [*seconds.items()][:-1] or [(1, 1e9)]):
                break  # it gains no more
        answers.append(seconds)
    return answers


def _crowded(device: Any, workers: int) -> bool:
    """Whether so many processes such as this one would take most of the memory."""
    import torch

    from scaling.devices.hardware import peak_memory

    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
    else:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return workers * peak_memory(device) > 0.7 * total


def _step_seconds(trainer: Any) -> float:
    """Of one step, the least of three tries."""
    trainer.steps(2)
    tries, steps, spent = [], 1, 0.0
    while len(tries) < 3 or spent < _MEASURE_SECONDS:
        start = time.perf_counter()
        trainer.steps(steps)
        trainer.loss_sum_k.tolist()  # waits for a GPU
        (took,) = trainer.ranks.agreed(time.perf_counter() - start)
        tries.append(took / steps)
        spent += took
        steps = max(1, round(_MEASURE_SECONDS / 4 / tries[-1]))
    return min(tries)
