"""A rank in a child process: how it is told what to do, how it answers, and how it ends."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from scaling import interpreter

READY = b"ready\n"
"""What a rank writes to its stdout once it runs."""

DONE = b"done\n"
"""What it writes once its part of the run is complete; if it fails, it writes the pickled error."""

_MOST_BYTES = 50_000
"""Most bytes of that error; a pipe holds 64 KiB, and nobody reads before the rank has ended."""

LOST = 3
"""Exit code of a rank that ends because it has lost contact with the others."""

LOST_SECONDS = 5.0
"""Seconds to look for the rank that died, once another has lost contact with it."""


@dataclass(frozen=True)
class Start:
    """Instructions for a process that is to become a rank."""

    rank: int
    local: int
    size: int
    address: str
    """Address of rank 0."""
    port: int
    cuda: bool
    entry: Callable[[], object]


def pickled(error: BaseException) -> bytes:
    """Return an error as bytes that fit into a pipe; call this where it is handled."""
    with contextlib.suppress(Exception):
        if len(whole := pickle.dumps(error)) < _MOST_BYTES:
            return whole
        start = str(error)[: _MOST_BYTES // 8]
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {start} ..."))
    return pickle.dumps(RuntimeError(traceback.format_exc()[-_MOST_BYTES // 8 :]))


class RankProcess:
    """A rank that runs in a child process, with a process group of its own."""

    def __init__(self, start: Start) -> None:
        self.rank = start.rank
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        self.process = subprocess.Popen(
            interpreter.command("scaling.devices.launch", "_follow"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,  # Ctrl-C is for rank 0
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self._ended: float | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        with contextlib.suppress(BrokenPipeError):  # reported by wait_until_ready
            self.stdin.write(pickle.dumps(start))
            self.stdin.flush()

    def wait_until_ready(self, deadline: float, patience: float) -> None:
        ready, _, _ = select.select([self.stdout], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise ChildProcessError(
                f"rank {self.rank} (process {self.process.pid}) has not started within "
                f"{patience:g} s; this machine or its disk may be overloaded."
            )
        if self.stdout.readline() != READY:
            self.process.wait()
            raise self.error() or ChildProcessError(f"rank {self.rank} did not start")

    def error(self) -> BaseException | None:
        """Return the error that ended it, unless it only followed from another rank's."""
        with self._lock:
            if self._ended is None:
                if not self._has_ended():
                    return None
                self._ended = time.monotonic()
                self._error = self._read_error()
            only_follows = self.process.returncode == LOST
            if only_follows and time.monotonic() < self._ended + LOST_SECONDS:
                return None
            return self._error

    def _has_ended(self) -> bool:
        """Return whether it has ended; then end the processes that it started, too."""
        if self.process.returncode is None and hasattr(os, "waitid"):
            # While it is a zombie, no other process group can have its number.
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            with contextlib.suppress(ChildProcessError):  # this program ignores SIGCHLD
                if os.waitid(os.P_PID, self.process.pid, look) is None:
                    return False
                self._signal(signal.SIGKILL)
        return self.process.poll() is not None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _read_error(self) -> BaseException | None:
        code = self.process.returncode
        os.set_blocking(self.stdout.fileno(), False)  # others may still hold the pipe
        answer = self.stdout.read() or b""
        if answer.startswith(DONE):
            return None
        with contextlib.suppress(Exception):  # it may have died while writing
            return pickle.loads(answer)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        if code == LOST:
            how = "because it lost contact with the other ranks"
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").splitlines()
        # Where torch is killed in C++, a trace of calls follows the message.
        lines = [line for line in map(str.strip, lines) if line and not line.startswith("frame #")]
        return ChildProcessError(
            f"rank {self.rank} (process {self.process.pid}) ended {how}"
            + (f": {' / '.join(lines[-3:])}" if lines else "")
            + "; the run resumes from its last checkpoint when it is started again."
        )

    def ask_to_end(self) -> None:
        """Ask it to end, and the processes that it started; it does unless it is stuck."""
        with self._lock:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
            if self.process.returncode is None:
                self._signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Kill it at the `deadline` if it has not ended by itself."""
        with self._lock:
            while not (ended := self._has_ended()) and time.monotonic() < deadline:
                time.sleep(0.005)
            if not ended:
                self._signal(signal.SIGKILL)
                self.process.wait()
            for file in (self.stdout, self.errors):
                file.close()
