"""The process that watches the checks: time limits, crashes, and the file of results."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu_checks.bench import Figures

START_SECONDS = 120.0
"""Seconds that a process has to begin its first check."""

ANEW = 3
"""Exit code of a process whose last check leaves the device in an unknown state."""


class Report:
    """The file of results, written after every one."""

    def __init__(self, path: Path, names: Sequence[str], goals: Mapping[str, float]) -> None:
        self.path, self.left, self.goals = path, list(names), goals
        self.checks: dict[str, Figures] = {}
        self.finished = False

    def add(self, name: str, found: Figures) -> None:
        """Write what is known so far of a check that runs."""
        self.checks[name] = found
        self.write()

    def end(self, name: str, found: Figures) -> None:
        """Write the result of a check."""
        self.left.remove(name)
        self.add(name, found)
        shown = {key: value for key, value in found.items() if key != "traceback"}
        print(f"{name:<16} {json.dumps(shown)}", flush=True)

    def skip_the_rest(self, why: str) -> None:
        for name in self.left:
            self.checks.setdefault(name, {"status": "skipped", "why": why})
        self.left = []

    def write(self) -> None:
        device = self.checks.get("device", {})
        values = {"device": device.get("name"), "torch": device.get("torch")}
        values |= {"goals": dict(self.goals)}
        values |= {"checks": self.checks, "finished": self.finished}
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(values, indent=2) + "\n")
        os.replace(new, self.path)

    def missed(self) -> list[str]:
        """Return the checks that failed, and the goals that were measured and not reached.

        The gain of packs of one size is the best of all ways to train them."""
        failed = [name for name, found in self.checks.items() if found["status"] == "failed"]
        gains: dict[str, float] = {}
        for name, found in self.checks.items():
            if "gain" in found:
                N = name.rpartition("_")[2]
                gains[N] = max(gains.get(N, 0.0), found["gain"])
        failed += [
            f"packs of {N}: {gain} times the plain loop"
            for N, gain in gains.items()
            if gain < self.goals["gain"]
        ]
        best = max((found.get("mfu", 0.0) for found in self.checks.values()), default=0.0)
        return failed + [f"mfu {best}"] * (0 < best < self.goals["mfu"])


class Pipe:
    """Lines that another process writes."""

    def __init__(self, file: int) -> None:
        self.file, self.rest = file, b""

    def line(self, until: float) -> bytes | None:
        """Return the next line; None once the other end is closed.

        Raises TimeoutError if there is none `until` that time of the monotonic clock.
        """
        while b"\n" not in self.rest:
            wait = min(until - time.monotonic(), 86_400.0)
            if wait <= 0 or not select.select([self.file], [], [], wait)[0]:
                if until > time.monotonic():
                    continue
                raise TimeoutError
            if not (read := os.read(self.file, 1 << 16)):
                return None
            self.rest += read
        line, _, self.rest = self.rest.partition(b"\n")
        return line


def supervise(
    command: Sequence[str],
    report: Report,
    limits: Mapping[str, float],
    deadline: float,
    *,
    log: Path,
) -> None:
    """Run the checks in a process; start another one for the rest where a check fails, crashes or
    hangs.

    Arguments:
        command: Starts a process that runs the checks named after `--child`.
        limits: The most seconds of each check.
        deadline: When everything ends, on the monotonic clock.
        log: Receives what the processes print.
    """
    with log.open("w") as errors:
        while report.left and time.monotonic() < deadline:
            process = subprocess.Popen(
                [*command, "--child", ",".join(report.left)],
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            try:
                follow(process, report, limits, deadline)
            finally:
                end(process)
    report.skip_the_rest("no time left")
    report.finished = True
    report.write()


def follow(
    process: subprocess.Popen, report: Report, limits: Mapping[str, float], deadline: float
) -> None:
    """Write down what the process prints, until it ends or must be ended."""
    assert process.stdout is not None
    pipe = Pipe(process.stdout.fileno())
    running, so_far, until = "", {}, time.monotonic() + START_SECONDS
    while True:
        try:
            line = pipe.line(min(until, deadline))
        except TimeoutError:
            print_stacks(process)
            how = {"status": "failed", "error": "it did not end in time; the log has its stacks"}
            if time.monotonic() >= deadline:
                how = {"status": "skipped", "why": "no time left"}
            break
        if line is None:
            how = {"status": "failed", "error": f"its process ended {ending(process.wait())}"}
            break
        answer = json.loads(line)
        if "begins" in answer:
            running, so_far = answer["begins"], {}
            until = time.monotonic() + limits[running]
        elif "so far" in answer:
            so_far = answer["so far"]
            report.add(running, {"status": "running", **so_far})
        else:
            name, found = answer["ends"], so_far | answer["found"]
            report.end(name, found)
            if name == "device" and found["status"] == "failed":
                report.skip_the_rest("there is no such device")
            running, until = "", time.monotonic() + START_SECONDS
    if running:
        report.end(running, so_far | how)
    elif process.poll() not in (0, ANEW) and time.monotonic() < deadline:
        report.skip_the_rest(f"the process of the checks ended {ending(process.poll())}")


def ending(code: int | None) -> str:
    """Return in words how a process ended."""
    if code is None:
        return "too late"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def print_stacks(process: subprocess.Popen) -> None:
    """Let a process that hangs print where its threads are."""
    process.send_signal(signal.SIGUSR1)
    time.sleep(1.0)


def end(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
