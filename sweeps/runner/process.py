"""A command under way, as seen by the worker that waits for it.

The command is the child of a small supervisor (sweeps.runner.supervisor), which ends it if the
worker dies, and finds processes that have left its group. A supervisor serves many commands.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN_ID, FOLDER = "SCALING_RUN_ID", "SCALING_FOLDER"
"""Environment variables that mark the processes of a run."""

_START_SECONDS = 60.0
"""Seconds for a command to start; it takes a moment unless the machine is overloaded."""

_LEFTOVER_SECONDS = 10.0
"""Seconds for the processes of an earlier attempt to disappear once they have been killed."""


_OF_RAY = ("RAY_", "TUNE_", "__RAY")
"""Beginnings of the names of environment variables that Ray's workers have."""


def environment() -> dict[str, str]:
    """Return the environment of this process without what concerns only Ray's workers.

    Last in its PATH is the folder of this Python, so that 'python' is found in any environment.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith(_OF_RAY)}
    folders = [own.get("PATH", os.defpath), os.path.dirname(sys.executable)]
    return own | {"PATH": os.pathsep.join(folders)}


@dataclass(frozen=True, kw_only=True)
class Start:
    """What to start, and what to do with its output. Plain data, which travels between nodes."""

    words: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    log: str
    """File that the output is appended to."""
    limit: int
    """Bytes of output that are kept."""
    keep: Sequence[str] = ()
    """Regular expressions for lines to keep even beyond the limit."""
    watch: Sequence[str] = ()
    """Regular expressions for lines to tell of at once."""
    resumed: bool = False
    """Whether there was an attempt before."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command has ended."""

    code: int
    """Its exit code; -n if signal n ended it."""
    asked: bool = False
    """Whether it was asked to end before it had ended by itself."""
    others: int = 0
    """Number of processes that it had left behind and that were ended."""
    left_out: int = 0
    """Bytes of output that are not in the log."""
    oom: bool = False
    """Whether the kernel ended processes for lack of memory meanwhile."""


class _Supervisor:
    """A supervisor, and what it has answered."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _code()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # neither Ctrl-C nor the end of the worker's group ends it
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        self._buffer = b""
        self._poll = select.poll()  # select.select refuses file descriptors above 1023
        self._poll.register(self._out, select.POLLIN)

    def ask(self, **request: Any) -> None:
        """Send a request. Raises ChildProcessError if the supervisor has died."""
        try:
            self._in.write(json.dumps(request).encode() + b"\n")
            self._in.flush()
        except OSError:
            raise _gone() from None

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer, or None after `seconds`. Raises ChildProcessError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            patience = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(1000 * patience):
                return None
            data = os.read(self._out, 1 << 16)
            if not data:
                raise _gone()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Let it end what it runs, and itself."""
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            self._process.wait(_LEFTOVER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def _code() -> str:
    """Return the code that starts a supervisor, without what the package sweeps imports."""
    folder = Path(__file__).parent
    packages = {"sweeps": str(folder.parent), "sweeps.runner": str(folder)}
    return (
        "import sys, types\n"
        f"for name, path in {packages!r}.items():\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [path]\n"
        "from sweeps.runner.supervisor import main\n"
        "main()"
    )


_idle: list[_Supervisor] = []
"""Supervisors that wait for a command; each ends with this process."""


@atexit.register
def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def _gone() -> ChildProcessError:
    return ChildProcessError("the process that supervises the command has died")


@dataclass
class Process:
    """A command that has started on this machine."""

    pid: int
    seen: str = ""
    """The first line of its output that matched a pattern of `watch`."""
    ended: Ended | None = None
    _supervisor: _Supervisor = field(default_factory=_Supervisor, repr=False)

    def wait(self, seconds: float) -> Ended | None:
        """Wait for its end for at most `seconds`; return earlier if a line was seen.

        Raises ChildProcessError if its supervisor has died.
        """
        if self.ended is None and (answer := self._supervisor.answer(seconds)) is not None:
            if "saw" in answer:
                self.seen = self.seen or answer["saw"]
            else:
                self.ended = Ended(
                    code=answer["ended"],
                    asked=answer["asked"],
                    others=answer["ended_others"],
                    left_out=answer["left_out"],
                    oom=answer["oom"],
                )
        return self.ended

    def end(self, grace: float) -> None:
        """Send SIGTERM, and SIGKILL to what is left after `grace` seconds."""
        self._supervisor.ask(end=grace)


@contextlib.contextmanager
def running(start: Start) -> Iterator[Process]:
    """Run a command within the block; nothing of it is left afterwards.

    Raises OSError (errno, file name) if it cannot be started.
    """
    own = _idle.pop() if _idle else _Supervisor()
    process: Process | None = None
    try:
        own.ask(start={**vars(start), "env": dict(start.env), "words": list(start.words)})
        answer = own.answer(_START_SECONDS)
        if answer is None:
            own.close()
            raise ChildProcessError(f"the command has not started within {_START_SECONDS:g} s")
        if "refused" in answer:
            _idle.append(own)
            raise refusal(answer["refused"], answer["file"])
        process = Process(answer["started"], _supervisor=own)
        yield process
    finally:
        if process is not None:
            _finish(process, own)


def _finish(process: Process, own: _Supervisor) -> None:
    """End what is left of the command, and keep its supervisor for the next one."""
    try:
        if process.ended is None:
            process.end(0.0)
            deadline = time.monotonic() + _LEFTOVER_SECONDS
            while process.wait(1.0) is None and time.monotonic() < deadline:
                pass
    except ChildProcessError:
        own.close()
        return
    if process.ended is None:
        own.close()
    else:
        _idle.append(own)


def refusal(number: int, file: str) -> OSError:
    """Return the error of a command that could not be started."""
    if not number:
        return OSError(0, file)
    return OSError(number, os.strerror(number), file)


# ------------------------------------------------------------------ leftovers


def end_leftovers(run_id: str, folder: Path | str) -> int:
    """End the processes of earlier attempts of a run that still live here; return their number.

    They are recognised by their environment (Linux), in which the run and its folder are named.
    Raises ChildProcessError if they cannot be ended.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while left := processes_of(run_id, folder):
        for pid in left:
            ended.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ChildProcessError(
                f"processes {', '.join(map(str, left))} of an earlier attempt do not end"
            )
        time.sleep(0.01)
    return len(ended)


def processes_of(run_id: str, folder: Path | str) -> list[int]:
    """Return the living processes of a run on this machine, by their environment (Linux)."""
    marks = [f"{RUN_ID}={run_id}".encode(), FOLDER.encode() + b"=" + os.fsencode(folder)]
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                values = file.read()
        except OSError:
            continue
        if marks[0] in values and not set(marks) - set(values.split(b"\0")):
            found.append(int(name))
    return found
