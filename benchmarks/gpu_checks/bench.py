"""What the checks share: the device under test, runs on it, and the list of checks.

Nothing is imported from torch or scaling before a check runs, so that the process that only
watches needs neither.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Figures = dict[str, Any]

SHAPES = {
    "1e6": {"n_layer": 5, "d_model": 128, "n_head": 4},
    "3e5": {"n_layer": 6, "d_model": 64, "n_head": 2},
    "3e4": {"n_layer": 3, "d_model": 32, "n_head": 2},
    "3e3": {"n_layer": 1, "d_model": 16, "n_head": 1},
}
LARGE = {"n_layer": 14, "d_model": 768, "n_head": 12, "n_ctx": 1024}
SMALL = {"n_layer": 2, "d_model": 32, "n_head": 2, "n_ctx": 64}


class SkipError(Exception):
    """This device cannot run the check."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The device under test, and runs on it."""

    device: str
    text: str
    """A file of random letters: neither correctness nor speed depends on the text."""
    tiny: bool = False
    """Whether sizes are small, for a quick test."""
    peak_flops: float | None = None
    """Peak FLOP/s of the device in bfloat16; None measures a matrix product."""

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def turn(self) -> float:
        """Seconds that one speed is measured for."""
        return 0.05 if self.tiny else 1.0

    def needs_gpus(self, number: int = 1) -> None:
        """Skip a check that needs more GPUs than there are."""
        if not self.on_gpu:
            raise SkipError("needs a GPU")
        import torch

        if torch.cuda.device_count() < number:
            raise SkipError(f"needs {number} GPUs")

    def needs_compiler(self) -> None:
        """Skip a check that compiles where that is impossible."""
        import torch

        from scaling.devices.compilation import check_compiler
        from scaling.errors import ConfigError

        try:
            check_compiler(torch.device(self.device))
        except ConfigError as why:
            raise SkipError(str(why)) from None

    def run(self, **changes: Any):
        from scaling.config import from_dict

        values = {"model": SMALL, "data": {"corpus": self.text, "tokenizer": "bytes"}}
        values |= {"tokens": 40 * 512, "batch_tokens": 512, "optim.lr": 1e-2}
        values |= {"eval": {"test_tokens": 1024, "points": 4}}
        return from_dict({**values, **{k.replace("__", "."): v for k, v in changes.items()}})

    def execution(self, device: str = "", **changes: Any):
        from scaling.execution import Execution

        peak = {"peak_flops": self.peak_flops or 1e12}
        return Execution(device=device or self.device, **(peak | changes))

    def losses(self, run: Any, how: Any, **more: Any) -> list[float]:
        """Train a run to its end; return the losses of its evaluations."""
        from scaling.training.train import train

        return [point["L"] for point in train(run, execution=how, **more).curve]

    def trainer(self, run: Any, K: int, how: Any, **more: Any):
        """Return a Trainer of K runs that differ in their seed."""
        from scaling.config import override
        from scaling.training.trainer import Trainer

        return Trainer([override(run, {"seed": k}) for k in range(K)], how, [None] * K, **more)

    def synchronize(self) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def no_waits(self) -> Iterator[None]:
        """Raise RuntimeError where the host waits for a GPU within the block."""
        import torch

        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@dataclass(frozen=True, kw_only=True)
class Check:
    """A question about the device."""

    function: Callable[[Bench], Figures]
    """Returns figures. Raises SkipError if the device cannot answer, and otherwise an exception if
    the answer is no."""
    seconds: float
    """The most that it may take on a GPU."""
    last: bool = False
    """Whether its process ends after it, because it leaves the device in an unusual state."""


CHECKS: dict[str, Check] = {}
"""Checks by name."""


F = TypeVar("F", bound=Callable[[Bench], Figures])


def check(name: str, *, seconds: float, last: bool = False) -> Callable[[F], F]:
    """Register a function as the next :class:`Check`."""

    def register(function: F) -> F:
        CHECKS[name] = Check(function=function, seconds=seconds, last=last)
        return function

    return register


def close(name: str, ours: Sequence[float], theirs: Sequence[float], most: float) -> Figures:
    """Raise AssertionError unless numbers differ by at most `most`; return how much they do."""
    differ = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert math.isfinite(differ) and differ <= most, f"{name} differ by {differ:.3g} > {most:g}"
    return {"largest_difference": differ}


def note(found: Figures) -> None:
    """Send the figures so far to the process that writes them down."""
    print(json.dumps({"so far": found}), flush=True)
