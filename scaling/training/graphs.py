"""Training steps as CUDA graphs: recorded once, then replayed with a single launch.

A recording holds for one arrangement: a stack, and the shape of its batches. The first steps of an
arrangement train without a graph, on the stream that will record, so that kernels are chosen and
memory is reserved before. Recording trains nothing. Each later step copies its inputs into buffers
at fixed addresses and replays the recording, which updates the stack in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from scaling.errors import ConfigError, one_line
from scaling.training.optim import StackedAdamW
from scaling.training.stack import Inputs, Stack
from scaling.training.step import TrainingStep

WARM_UP_STEPS = 3
"""Steps of each arrangement before it is recorded, as PyTorch recommends."""


class Recorder(Protocol):
    """Records work on a device."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do work on the stream that will record."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], object]:
        """Record work without doing it; return the function that does it."""
        ...


class CudaRecorder:
    """Records work on a CUDA GPU."""

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ConfigError(
                f"execution.cuda_graphs=true needs a CUDA GPU, and this run would train on "
                f"{device}; leave it out, or use a GPU."
            )
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], None]) -> None:
        usual = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            work()
        usual.wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        failure: Exception | None = None
        with torch.cuda.device(self.device):
            usual, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
            try:
                with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                    try:
                        work()
                    except (MemoryError, RuntimeError) as error:  # torch would hide it
                        failure = error
            except RuntimeError as error:  # CUDA has broken off the recording
                failure = failure or error
                torch.cuda.set_stream(usual)
                _break_off(graph, pool)
        if failure is not None:
            raise failure
        return graph.replay


_broken_off: list[object] = []
"""Graphs whose recording CUDA has broken off. Torch's allocators may still refer to them."""


def _break_off(graph: object, pool: tuple[int, int]) -> None:
    """Tell torch's allocator that a recording has ended, which torch does only if it succeeds.

    Otherwise the allocator could not free cached memory any more: torch.cuda.empty_cache fails, and
    so does an allocation that needs it.
    """
    _broken_off.append(graph)
    device = torch.cuda.current_device()
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):  # older torch has other names
        with contextlib.suppress(AttributeError, RuntimeError):
            getattr(torch._C, name)(device, pool)


class GraphedStep:
    """Trains as a :class:`TrainingStep` does, with a graph for each arrangement that allows one."""

    def __init__(self, step: TrainingStep, recorder: Recorder) -> None:
        self.step, self.recorder = step, recorder
        self._stack: Stack | None = None
        self._shape = torch.Size()
        """Shape of this arrangement's batches."""
        self._warm = 0
        """Steps of this arrangement before its recording."""
        self._buffers: Inputs | None = None
        self._replay: Callable[[], object] | None = None
        self._obstacles: set[str] = set()
        """Reasons for steps without a graph that the user has been told."""
        self._failed = False
        """Whether a step could not be recorded. No other is tried."""

    def train(self, stack: Stack, inputs: Inputs) -> None:
        """Train each row for one step, in place."""
        if stack is not self._stack or inputs.windows_kbt.shape != self._shape:
            self._stack, self._shape, self._warm = stack, inputs.windows_kbt.shape, 0
            self._buffers = self._replay = None  # frees the memory of the last recording
        if self._warm < WARM_UP_STEPS:
            self._warm += 1
            self.recorder.warm_up(lambda: self.step.train(stack, inputs))
            return
        if self._replay is None and self._may_record(stack):
            self._record(stack, inputs)
        if self._replay is None or self._buffers is None:
            self.step.train(stack, inputs)
            return
        for buffer, tensor in zip(_tensors(self._buffers), _tensors(inputs), strict=True):
            buffer.copy_(tensor, non_blocking=True)
        assert isinstance(stack.optimizer, StackedAdamW)
        steps = stack.optimizer.steps
        self._replay()
        stack.optimizer.steps = steps + 1  # a replay runs no Python

    def _may_record(self, stack: Stack) -> bool:
        obstacle = self._obstacle(stack)
        if obstacle and obstacle not in self._obstacles:
            self._obstacles.add(obstacle)
            warnings.warn(f"steps are not CUDA graphs: {obstacle}.", stacklevel=2)
        return not obstacle and not self._failed

    def _obstacle(self, stack: Stack) -> str:
        """Return why steps of a stack cannot be graphs, or ''."""
        if stack.noise is not None:
            return "eval.noise_parts splits each step"
        if not isinstance(stack.optimizer, StackedAdamW):
            return "graphs need optim.optimizer='adamw'"
        if self.step.micro_batches > 1:
            return f"each step takes {self.step.micro_batches} micro-batches"
        return ""

    def _record(self, stack: Stack, inputs: Inputs) -> None:
        """Record the step of this arrangement, or warn that this is impossible."""
        assert isinstance(stack.optimizer, StackedAdamW)
        buffers, steps, may_split = _copy(inputs), stack.optimizer.steps, self.step.may_split
        self.step.may_split = False  # not within a recording
        try:
            self._replay = self.recorder.record(lambda: self.step.train(stack, buffers))
            self._buffers = buffers
        except (MemoryError, RuntimeError) as error:
            self._failed = True
            warnings.warn(
                f"steps are not CUDA graphs: recording one failed ({one_line(error)}).",
                stacklevel=2,
            )
        finally:
            self.step.may_split = may_split
            stack.optimizer.steps = steps  # recording trains nothing


def _tensors(inputs: Inputs) -> list[Tensor]:
    values = (inputs.windows_kbt, inputs.rates, inputs.mean_weight_k1)
    return [value for value in values if isinstance(value, Tensor)]


def _copy(inputs: Inputs) -> Inputs:
    """Return inputs with tensors of their own."""
    return dataclasses.replace(
        inputs,
        **{name: x.clone() for name, x in vars(inputs).items() if isinstance(x, Tensor)},
    )
