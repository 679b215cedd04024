"""Speed measurements in child processes, and a cache of their results."""

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
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scaling import interpreter, progress, size
from scaling.config import EvalConfig, RunConfig, flatten, from_dict
from scaling.errors import out_of_memory
from scaling.execution import Execution
from scaling.files import write_atomic
from scaling.training.pack_key import pack_key
from sweeps import gpus
from sweeps.errors import headline
from sweeps.gpus import workers_per_gpu
from sweeps.provenance import machine

if TYPE_CHECKING:
    import torch

    from scaling.devices.ranks import Ranks
    from scaling.training.trainer import Trainer

V = TypeVar("V")

_MEASURE_SECONDS = 0.15
"""Seconds for the measurement of one pack size."""

_PACK_SIZES = (1, 2, 4, 8, 16, 32)

OTHER_PRECISION = {"float32": "bfloat16", "tf32": "bfloat16", "bfloat16": "float32"}

_LOOP = 3
"""Version of the training loop's speed. Raise it when the loop becomes faster or slower, so that
earlier measurements no longer count."""

_STEP_FLOPS = 2e10
"""A step with more FLOPs than this fills a machine by itself and is measured on a part of its
batch."""

_LEAST_STEP_SECONDS = 0.1
"""That part grows until its step takes this long."""

_MEMORY_SHARE = 0.7
"""Packs that need more than this fraction of the memory are not measured."""

_MIN_GAIN = 0.01
"""Unless a larger pack saves this fraction of the time per run, still larger ones are not tried."""

Packs = dict[Hashable, dict[int, float]]
"""{pack key: {K: seconds per step of K runs}}"""


@dataclass(frozen=True)
class Machine:
    """The machine and the execution options for which measurements hold."""

    workers: int
    threads: int
    device: str = "auto"
    _: KW_ONLY
    compile: bool = False
    """Whether runs may be compiled, if that is faster."""
    devices: int = 1
    nodes: int = 1
    """Number of nodes; with more than one, nothing is measured beforehand."""
    gpus: int | None = None
    """Number of GPUs that the workers share; 0 if they train on CPUs, None if unknown."""
    gpu: str = ""
    """Model of these GPUs; '' if unknown."""
    micro_tokens: int | None = None
    recompute: bool = False
    cuda_graphs: bool = False

    @property
    def workers_per_gpu(self) -> int:
        """Number of workers that share a GPU; 1 if each has GPUs of its own, 0 without GPUs."""
        if not self.gpus:
            return 0
        return workers_per_gpu(self.workers, self.gpus) if self.devices == 1 else 1

    @property
    def measurable(self) -> bool:
        """Whether runs can be trained on this machine as the workers will train them."""
        if self.nodes > 1:  # this machine is only one of several
            return False
        return not self.gpus or len(gpus.visible()) >= self.devices

    def like(self, device: str) -> bool:
        """Return whether a table's `device`, such as '2 x cpu x4', is like this machine's devices.

        An unknown device, given as an empty text, counts as alike.
        """
        if not device:
            return True
        several, _, one = device.rpartition(" x ")
        if int(several or 1) != self.devices:
            return False
        if one.startswith("cpu"):
            return (
                one == f"cpu x{self.threads}" and self.device in ("auto", "cpu") and not self.gpus
            )
        known = one in self.gpu.split(" + ") if self.gpu else self.gpus != 0
        return known and self.device != "cpu"

    def path(self, run: RunConfig, *, compiled: bool = False, folder: str = "speed") -> Path:
        """Return the file that keeps the measurements of a run's pack key."""
        from importlib.metadata import version

        from scaling.files import cache

        here = {k: v for k, v in machine().items() if k not in ("release", "python")}
        how = vars(self) | {"compile": compiled}
        # Options that came later count where they are used, so that earlier measurements hold.
        later = ("gpus", "gpu", "micro_tokens", "recompute", "cuda_graphs")
        unused = {name for name in later if not how[name]}
        how = {name: value for name, value in how.items() if name not in unused}
        what = [_LOOP, here, version("torch"), how, dataclasses.asdict(run.model)]
        what += [run.data.vocab_size]
        what += [run.optim.optimizer] if compiled else []
        text = json.dumps([*what, run.batch_tokens, run.precision], default=str)
        return cache() / folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def known(self, runs: Iterable[RunConfig], *, compiled: bool = False) -> Packs:
        """Return earlier measurements of the pack keys of `runs`."""

        def packs(values: Any) -> dict[int, float]:
            return {int(K): float(seconds) for K, seconds in values.items()}

        return _remembered(runs, partial(self.path, compiled=compiled), packs)

    def measure(self, runs: Iterable[tuple[RunConfig, int]], *, compiled: bool = False) -> Packs:
        """Train packs briefly; cache and return their seconds per step.

        `runs` are (run, largest pack size). Each pack key takes seconds, or up to a minute if
        `compiled`. The number of child processes that measure at once is the number of workers, so
        that they share the machine as the workers will. Raises RuntimeError with a child's last
        line if it fails.
        """
        asked = {pack_key(run): (run, largest) for run, largest in runs}
        found: Packs = {}
        each = self._timed([*asked.values()], compiled)
        for (key, (run, _)), seconds in zip(asked.items(), each, strict=True):
            found[key] = seconds
            _remember(self.path(run, compiled=compiled), seconds)
        return found

    def compare(self, runs: Iterable[RunConfig]) -> None:
        """Train one run of each pack key briefly in both precisions, and cache the ratio.

        The ratio is the time per step in the other precision over that in the run's own; nan if the
        other precision cannot be used.
        """
        runs = [*{pack_key(run): run for run in runs}.values()]
        both = [
            (dataclasses.replace(run, precision=precision), 1)
            for run in runs
            for precision in (run.precision, OTHER_PRECISION[run.precision])
        ]
        try:
            seconds = [found[1] for found in self._timed(both, compiled=False)]
            ratios = [b / a for a, b in zip(seconds[::2], seconds[1::2], strict=True)]
        except RuntimeError:  # a family or a device may support only one of the two
            ratios = [math.nan] * len(runs)
        for run, ratio in zip(runs, ratios, strict=True):
            _remember(self.path(run, folder="precision"), ratio)

    def compared(self, runs: Iterable[RunConfig]) -> dict[Hashable, float]:
        """Return the ratios that :meth:`compare` found for the pack keys of `runs`."""
        return _remembered(runs, partial(self.path, folder="precision"), float)

    def _timed(
        self, asked: Sequence[tuple[RunConfig, int]], compiled: bool
    ) -> list[dict[int, float]]:
        """Return {K: seconds per step} for each requested (run, largest pack size)."""
        if not asked:
            return []
        shapes = "1 model shape" if len(asked) == 1 else f"{len(asked)} model shapes"
        action = "compiling and timing" if compiled else "timing"
        progress.step(f"{action} the training steps of {shapes}")
        items = [{"run": flatten(run), "largest": largest} for run, largest in asked]
        how = {**vars(self), "compile": compiled, "items": items}
        how["workers_per_gpu"] = self.workers_per_gpu
        pins = self._pins()
        if pins[0] and self.device.startswith("cuda"):
            how["device"] = "cuda"
        number = len(pins)
        requests = [json.dumps(how | {"first": i * len(items) // number}) for i in range(number)]
        children = [
            subprocess.Popen(
                interpreter.command("sweeps.measure", "_child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | pin,
            )
            for pin in pins
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

    def _pins(self) -> list[dict[str, str]]:
        """Return environment variables that give each measuring process its GPUs.

        There is one process for each worker that will train on this machine, and as many share a
        GPU as workers will.
        """
        most = min(self.workers, os.cpu_count() or 1)
        here = gpus.visible() if self.gpus else ()
        index = self.device.partition("cuda:")[2]
        if index.isdecimal():
            here = here[int(index) : int(index) + 1]
        n = self.devices
        groups = [here[i : i + n] for i in range(0, len(here) - n + 1, n)]
        if not groups:
            return [{}] * most
        names = [",".join(gpu.id for gpu in group) for group in groups]
        each = self.workers_per_gpu
        return [{gpus.VISIBLE: name} for name in names for _ in range(each)][:most]


def _remembered(
    runs: Iterable[RunConfig], path: Callable[[RunConfig], Path], read: Callable[[Any], V]
) -> dict[Hashable, V]:
    """Return the contents of the cache files for the pack keys of `runs`.

    Pack keys whose file is missing or damaged are left out and may be measured again.
    """
    found: dict[Hashable, V] = {}
    for key, run in {pack_key(run): run for run in runs}.items():
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            found[key] = read(json.loads(path(run).read_bytes()))
    return found


def _remember(path: Path, what: Any) -> None:
    with contextlib.suppress(OSError):  # without the cache, sweeps are only slower
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(what).encode())


def _child() -> None:
    """Measure the items on stdin, and print {K: seconds per step} for each."""
    print(json.dumps(_answers(json.load(sys.stdin))))


def _answers(request: dict[str, Any]) -> list[dict[int, float]]:
    """Return the measurements that :meth:`Machine.measure` requests. Runs on each device if
    several."""
    import torch

    from scaling.devices import launch  # imports torch

    names = ("threads", "device", "compile", "devices", "micro_tokens", "recompute", "cuda_graphs")
    execution = Execution(**{name: request[name] for name in names if name in request})
    torch.set_num_threads(execution.threads)

    with launch.together(execution, partial(_answers, request)) as ranks:
        return _measured(request, execution, ranks)


def _measured(
    request: dict[str, Any], execution: Execution, ranks: Ranks
) -> list[dict[int, float]]:
    from scaling.training.trainer import Trainer

    plain = dataclasses.replace(execution, compile=False)

    def trainer_of(run: RunConfig, B: int, K: int, execution: Execution = execution) -> Trainer:
        test = EvalConfig(test_tokens=run.model.n_ctx, points=1)
        runs = [
            dataclasses.replace(run, seed=k, batch_tokens=B, tokens=10**7 * B, eval=test)
            for k in range(K)
        ]
        return Trainer(runs, execution, [None] * K, ranks=ranks)

    items = []
    for item in request["items"]:
        run = from_dict(item["run"])
        size.allow(run.model.family)
        F = size.flops_per_token_of(run, "matmul")
        # A step of a large model with its full batch may take minutes.
        unit = run.model.n_ctx * ranks.size
        B = max(1, min(run.batch_tokens, int(_STEP_FLOPS / F)) // unit) * unit
        B = _long_enough(run, B, partial(trainer_of, execution=plain))
        items.append((run, B, item["largest"] if run.batch_tokens == B else 1))
    if execution.compile:
        # Compile everything first, each child in its own order: what one child has compiled is in
        # torch's cache when the others need it, and no child compiles while others measure.
        i = request["first"]
        for run, B, largest in items[i:] + items[:i]:
            for K in range(1, 1 + min(2, largest)):  # code for two serves all larger packs
                trainer_of(run, B, K).steps(2)
    answers = []
    for run, B, largest in items:
        seconds: dict[int, float] = {}
        for K in _PACK_SIZES:
            if largest < K:
                break
            try:
                trainer = trainer_of(run, B, K)
                took = _step_seconds(trainer) * run.batch_tokens / B
                sharing = _sharing(request, trainer.device)
            except (MemoryError, RuntimeError) as error:
                if K == 1 or ranks.size > 1 or not out_of_memory(error):
                    raise
                trainer = None  # frees its memory
                break
            (crowded,) = ranks.agreed(K > 1 and _crowded(trainer.device, sharing))
            del trainer  # before the next one takes its memory
            if crowded:
                break
            seconds[K] = took
            best = min((s / k for k, s in seconds.items() if k < K), default=math.inf)
            if seconds[K] / K > (1 - _MIN_GAIN) * best:
                break
        answers.append(seconds)
    return answers


def _long_enough(
    run: RunConfig, B: int, trainer_of: Callable[[RunConfig, int, int], Trainer]
) -> int:
    """Return a batch size from `B` up to the run's whose step is long enough to be measured.

    The steps of a fast device are mostly overhead until its batches are large: time would not be
    proportional to tokens.
    """
    whole, larger = run.batch_tokens, B
    while whole > B:
        try:
            trainer = trainer_of(run, larger, 1)
            trainer.steps(2)
            took = _timed_steps(trainer, 1)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            break
        del trainer
        B = larger
        if took > _LEAST_STEP_SECONDS:
            break
        larger = min(whole, 4 * B)
    return B


def _sharing(request: dict[str, Any], device: torch.device) -> int:
    """Return how many processes will share the memory of a device such as this one."""
    if device.type == "cuda":
        return max(1, request.get("workers_per_gpu", 1))
    processes = request["threads"] * request["devices"]
    here = max(1, (os.cpu_count() or 1) // processes)  # others train on other machines
    return min(request["workers"], here) * request["devices"]


def _crowded(device: torch.device, workers: int) -> bool:
    """Return whether `workers` processes like this one would take most of the memory."""
    import torch

    from scaling.devices.hardware import peak_memory

    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
    else:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return workers * peak_memory(device) > _MEMORY_SHARE * total


def _step_seconds(trainer: Trainer) -> float:
    """Return the time of one step, the least of three or more tries."""
    trainer.steps(2)
    tries, steps, spent = [], 1, 0.0
    while len(tries) < 3 or spent < _MEASURE_SECONDS:
        took = _timed_steps(trainer, steps)
        tries.append(took / steps)
        spent += took
        steps = max(1, round(_MEASURE_SECONDS / 4 / tries[-1]))
    return min(tries)


def _timed_steps(trainer: Trainer, steps: int) -> float:
    """Return the seconds that steps take, with nothing left to do on a GPU before or after."""
    trainer.stack.loss_sum_k.tolist()
    start = time.perf_counter()
    trainer.steps(steps)
    trainer.stack.loss_sum_k.tolist()
    (took,) = trainer.ranks.agreed(time.perf_counter() - start)
    return took
