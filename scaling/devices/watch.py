"""Watch the other ranks of a run: when one dies, end the rest and free rank 0 from waiting.

Without this, rank 0 may wait for ten minutes: kernels of NCCL do not notice that another rank of
the machine has died. They wait on the GPU, its launch queue fills, and the next launch blocks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from types import FrameType
from typing import Any, Protocol

import torch
import torch.distributed as dist

from scaling.devices.ranks import Lost

_LOOK_SECONDS = 0.1
"""Seconds between two looks at the ranks of this machine."""

_LOOK_FURTHER_SECONDS = 2.0
"""Seconds between two looks at the ranks of other nodes."""

_GRACE_SECONDS = 1.0
"""Seconds that rank 0 has to notice by itself that its connections were closed. Then a signal
interrupts it, again and again."""

_STUCK_SECONDS = 20.0
"""Seconds in one call after which this process exits, if nothing could free it from waiting for a
GPU or for another node that may have fallen silent."""

_SIGNAL = signal.SIGURG
"""A signal that does nothing by default and is rarely used."""


class Watched(Protocol):
    """A machine with ranks."""

    def error(self) -> BaseException | None:
        """Return the error that ended one of its ranks, if one did."""

    def end(self) -> None:
        """End all its ranks, whatever they are doing; never raises."""


class Watch:
    """A context in which the death of another rank does not leave this process waiting.

    The first of `nodes` is this machine. Blocking calls raise within about two seconds of a death:
    collectives because the connections are closed, others by a signal, if this is the main thread.
    """

    def __init__(self, nodes: Sequence[Watched], *, cuda: bool) -> None:
        self.cause: BaseException | None = None
        """The error of the rank that died, if one did."""
        self._nodes = nodes
        self._cuda = cuda
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch of ranks", daemon=True)
        self._before: Any = None
        self._ident = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watch:
        if self._is_main:
            self._before = signal.signal(_SIGNAL, self._interrupt)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End the watch; repeat this later, because the signal may have interrupted it."""
        self._left.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._is_main and signal.getsignal(_SIGNAL) == self._interrupt:
            signal.signal(_SIGNAL, self._before)

    def call(self, join: Callable[[], object]) -> None:
        """Join the group of ranks by `join`. Raise Lost if one of them dies meanwhile.

        Torch waits for it in a way that nothing can interrupt, so this happens in a thread.
        """
        joined: Future[object] = Future()

        def run() -> None:
            try:
                joined.set_result(join())
            except BaseException as error:
                joined.set_exception(error)

        _in_background(run)
        while not wait([joined], timeout=_LOOK_SECONDS).done:
            if self.cause is not None:
                raise Lost(str(self.cause))
        joined.result()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.cause is not None and not self._left.is_set():
            raise Lost(str(self.cause))
        if callable(self._before):
            self._before(number, frame)

    def _watch(self) -> None:
        this_machine, *others = self._nodes
        look_further = time.monotonic() + _LOOK_FURTHER_SECONDS
        while self.cause is None:
            if self._left.wait(_LOOK_SECONDS):
                return
            self.cause = this_machine.error()
            if self.cause is None and time.monotonic() > look_further:
                for node in others:
                    self.cause = self.cause or node.error()
                look_further = time.monotonic() + _LOOK_FURTHER_SECONDS
        for node in others:  # one that has fallen silent takes a minute
            _in_background(node.end)
        this_machine.end()
        self._free()

    def _free(self) -> None:
        """Let calls raise that wait for other ranks, until this process has left the context."""
        if self._cuda:
            _in_background(_abort_kernels)
        at, since = self._instruction(), time.monotonic()
        while not self._left.wait(_GRACE_SECONDS):
            if self._is_main:
                signal.pthread_kill(self._ident, _SIGNAL)
            if (now := self._instruction()) != at:  # slow, but not stuck
                at, since = now, time.monotonic()
            may_exit = self._cuda or len(self._nodes) > 1
            if may_exit and time.monotonic() - since > _STUCK_SECONDS:
                print(f"{self.cause} This process still waits for it, and exits.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)

    def _instruction(self) -> tuple[int, int]:
        """Return where the thread of the run is: its frame and the instruction in it."""
        frame = sys._current_frames().get(self._ident)
        return (0, 0) if frame is None else (id(frame), frame.f_lasti)


def _in_background(call: Callable[[], object]) -> None:
    threading.Thread(target=call, daemon=True).start()


def _abort_kernels() -> None:
    """Let the kernels of NCCL that wait for other ranks return, so that the launch queue moves."""
    with contextlib.suppress(RuntimeError, ValueError, AttributeError):
        group = dist.distributed_c10d._get_default_group()
        group._get_backend(torch.device("cuda")).abort()  # pyright: ignore[reportAttributeAccessIssue]
