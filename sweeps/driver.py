"""One call of a sweep under way in the driver: execution in this process, and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps.errors import StoreError
from sweeps.execute import execute
from sweeps.queue import Queue

_GRACE_SECONDS = 6.0
"""After Ctrl-C, workers have this long to write their checkpoints."""


def run_here(queue: Queue, execution: Execution) -> None:
    """The executor without Ray: one job after another in this process."""
    while job := queue.take():
        try:
            queue.finish(job, execute(job, queue.store, execution, lambda: queue.stopping))
        except (ConfigError, StoreError) as error:
            queue.fatal = error
            queue.release(job)


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) once: `stop()`, and the block ends by itself. Twice, or after the grace
    period: KeyboardInterrupt in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(_GRACE_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        timer.start()
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
