"""A small process between a worker and the commands that it runs, one after another.

It imports the standard library only, to start fast and stay small. It follows requests on stdin and
answers on stdout, one JSON object per line:

    {"start": {...}}     start a command (:class:`Command`); answers {"started": pid}, or
                         {"refused": errno, "file": name} if that is impossible
    {"signal": number}   send a signal to the command's process group
    {"end": seconds}     send SIGTERM, and SIGKILL to what is left after that time

    {"saw": line}        a line of the output matched one of the patterns to watch for
    {"ended": code, "asked": whether it was asked to end before, "ended_others": number,
     "left_out": bytes, "oom": whether the kernel has ended processes for lack of memory meanwhile}

Every process that a command leaves behind becomes a child of this process (a subreaper, on Linux),
so that none escapes by leaving the process group. When stdin closes because the worker has died,
the command is ended as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from sweeps.runner.bounded_log import Log

_SET_CHILD_SUBREAPER = 36
"""Option of prctl(2)."""

_ORPHAN_SECONDS = 3.0
"""Seconds between SIGTERM and SIGKILL if the worker has died; the next attempt waits for no one."""

_LINGER_SECONDS = 0.5
"""Seconds for the children of a command to end by themselves after it."""

_OTHERS_SECONDS = 2.0
"""Seconds between SIGTERM and SIGKILL for what a command that has ended left behind."""

_CHECK_SECONDS = 1.0
"""Seconds between looks whether the worker is alive, in case another process holds its pipe."""

_READ_BYTES = 1 << 20
_SET_PIPE_SIZE = 1031
"""The Linux fcntl request for the capacity of a pipe."""


class Command:
    """A command under way, and what it has started."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        """Start it. Raises OSError if that is impossible.

        `request` holds words, cwd, env, log, limit, keep and watch.
        """
        self._ooms = _oom_kills()
        output, write_end = os.pipe()
        self.output: int | None = output
        with contextlib.suppress(OSError):
            fcntl.fcntl(output, _SET_PIPE_SIZE, _READ_BYTES)
        os.set_blocking(output, False)
        try:
            self._process = subprocess.Popen(
                request["words"],
                cwd=request["cwd"],
                env=request["env"],
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(write_end)
        limit, keep, watch = request["limit"], request["keep"], request["watch"]
        self.log = Log(request["log"], limit, keep, watch)
        self.pid = self._process.pid
        self.code: int | None = None
        self._others = 0
        self._kill_at: float | None = None
        """When what is left gets SIGKILL."""
        self._linger_until: float | None = None
        self._asked = False
        """Whether it was asked to end."""
        self._asked_in_time = False
        """Whether that was before it ended by itself."""

    # ------------------------------------------------------------ signals

    def send(self, number: int) -> None:
        """Send a signal to the process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def end(self, seconds: float) -> None:
        """Ask it to end, and kill it after `seconds`. If called again, the earlier time counts."""
        end = time.monotonic() + seconds
        self.reap()
        self._asked_in_time |= self.code is None
        if not self._asked:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)
        self._asked = True
        self._kill_at = end if self._kill_at is None else min(end, self._kill_at)

    def _kill(self) -> None:
        """Send SIGKILL to the group and to every descendant until none is left."""
        self.send(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = descendants()
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            if not left:
                return
            time.sleep(0.002)

    def reap(self) -> None:
        """Collect the exit codes of ended children."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.code = self._process.returncode = os.waitstatus_to_exitcode(status)

    # ------------------------------------------------------------ its life

    def read(self) -> None:
        """Read what it has printed, at most one piece."""
        if self.output is None:
            return
        try:
            data = os.read(self.output, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self.log.add(data)
        else:
            self._close()

    def _close(self) -> None:
        if self.output is not None:
            os.close(self.output)
            self.output = None

    @property
    def patience(self) -> float:
        """Seconds until something is due."""
        due = [at for at in (self._kill_at, self._linger_until) if at is not None]
        return min([max(0.0, at - time.monotonic()) for at in due], default=_CHECK_SECONDS)

    def has_ended(self) -> bool:
        """Do what is due, and return whether nothing of the command is left."""
        self.reap()
        now = time.monotonic()
        if self.code is not None and not descendants():
            return True
        if self.code is not None and not self._asked:
            if self._linger_until is None:
                self._linger_until = now + _LINGER_SECONDS
            elif now >= self._linger_until:
                left = descendants()
                self._others = len(left)
                for pid in left:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGTERM)
                self.end(_OTHERS_SECONDS)
                self._linger_until = None
        if self._kill_at is not None and now >= self._kill_at:
            self._kill()
            return True
        return False

    def close(self) -> dict[str, Any]:
        """Read the rest of the output, and return how the command ended."""
        if _libc is None:  # without a subreaper, only the process group is known
            self.send(signal.SIGKILL)
        while self.output is not None:
            try:
                data = os.read(self.output, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            self.log.add(data)
        self._close()
        self.log.close()
        code = -signal.SIGKILL if self.code is None else self.code
        return {
            "ended": code,
            "asked": self._asked_in_time,
            "ended_others": self._others,
            "left_out": self.log.left_out,
            "oom": code != 0 and _oom_kills() > self._ooms,
        }


# ------------------------------------------------------------------ the system


def _load_libc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None


_libc = _load_libc()


def descendants() -> list[int]:
    """Return the living processes below this one (Linux). Zombies do not count."""
    found: list[int] = []
    parents = [os.getpid()]
    while parents:
        for pid in _children(parents.pop()):
            parents.append(pid)
            if _state(pid) not in "ZX":
                found.append(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        return found
    return found


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "X"


def _oom_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory since it started."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


# ------------------------------------------------------------------ requests


class _Supervisor:
    """Follows requests until stdin closes."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._command: Command | None = None
        self._buffer = b""
        self._told = False
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        self._woken = woken
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        # Unlike SIG_IGN, handlers are not inherited by commands.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, self._pass_on)
        if _libc:
            _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def _pass_on(self, number: int, frame: object) -> None:
        if self._command is not None:
            self._command.send(number)

    def run(self) -> None:
        """Follow requests."""
        while True:
            command = self._command
            files = [0, self._woken]
            if command is not None and command.output is not None:
                files.append(command.output)
            patience = _CHECK_SECONDS if command is None else command.patience
            ready, _, _ = select.select(files, [], [], min(patience, _CHECK_SECONDS))
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 1 << 12)
            if 0 in ready:
                data = os.read(0, _READ_BYTES)
                if not data:
                    return
                self._buffer += data
                *lines, self._buffer = self._buffer.split(b"\n")
                for line in lines:
                    self._follow(json.loads(line))
            elif not ready and os.getppid() != self._parent:
                return
            if command is not None and command is self._command:
                self._look(command)

    def _follow(self, request: Mapping[str, Any]) -> None:
        if (start := request.get("start")) is not None:
            try:
                self._command, self._told = Command(start), False
                _answer(started=self._command.pid)
            except OSError as error:
                _answer(refused=error.errno or 0, file=os.fsdecode(error.filename or ""))
            except ValueError as error:  # a NUL byte in a word
                _answer(refused=0, file=str(error))
        elif self._command is None:
            return
        elif "signal" in request:
            self._command.send(request["signal"])
        elif "end" in request:
            self._command.end(request["end"])

    def _look(self, command: Command) -> None:
        command.read()
        if command.log.seen and not self._told:
            self._told = True
            _answer(saw=command.log.seen)
        if command.has_ended():
            self._command = None
            ended = command.close()
            if command.log.seen and not self._told:
                _answer(saw=command.log.seen)
            _answer(**ended)

    def leave(self) -> None:
        """End the command, because nobody waits for it any longer."""
        command = self._command
        if command is None:
            return
        command.end(_ORPHAN_SECONDS)
        while not command.has_ended():
            files = [self._woken] if command.output is None else [self._woken, command.output]
            if self._woken in select.select(files, [], [], min(0.2, command.patience))[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 1 << 12)
            command.read()
        command.close()


def _answer(**values: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(values).encode() + b"\n")


def main(supervise: Callable[[], _Supervisor] = _Supervisor) -> NoReturn:
    """Follow requests until stdin closes, then end the command."""
    supervisor = supervise()
    try:
        supervisor.run()
    finally:
        supervisor.leave()
    sys.exit(0)
