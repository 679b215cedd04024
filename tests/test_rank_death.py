"""A rank that dies ends its run within seconds, whatever the other processes are waiting for."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from scaling.config import from_dict, override
from scaling.devices import launch
from scaling.devices.rank_process import RankProcess, Start
from scaling.errors import out_of_memory
from scaling.execution import Execution
from scaling.training.train import Interrupted, train, train_pack

pytestmark = pytest.mark.usefixtures("own_cache")

TWO = Execution(threads=1, device="cpu", devices=2)
THREE = dataclasses.replace(TWO, devices=3)
FOUR = dataclasses.replace(TWO, devices=4)
SOON = 10.0
"""Seconds; about two are needed, and more on a busy machine. A collective would wait for 600."""
KILLED = r"rank {} \(process \d+\) ended by SIGKILL; the run resumes from its last checkpoint"


@pytest.fixture
def run(text_file):
    return from_dict(
        {
            "model": {"n_layer": 1, "d_model": 8, "n_head": 1, "n_ctx": 16},
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "eval": {"test_tokens": 16 * 16, "points": 2},
            "tokens": 24 * 192,
            "batch_tokens": 192,
        }
    )


def alive(pids):
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != "zombie"]


class Disturb:
    """A `should_stop` that does something once, at the third step, and notes when."""

    def __init__(self, action):
        self.action, self.calls, self.at = action, 0, 0.0

    def __call__(self):
        self.calls += 1
        if self.calls == 3:
            self.at = time.monotonic()
            self.action()
        return False

    def took(self):
        return time.monotonic() - self.at


# ------------------------------------------------------------------ what the others wait for


def test_a_rank_dies_while_the_others_are_stuck_in_a_collective(run, started):
    def kill():
        for pid in (started[0], started[2]):
            os.kill(pid, signal.SIGSTOP)  # they ignore everything, and their connections stay open
        os.kill(started[1], signal.SIGKILL)

    disturb = Disturb(kill)
    with pytest.raises(ChildProcessError, match=KILLED.format(2)):
        train(override(run, {"batch_tokens": 256}), execution=FOUR, should_stop=disturb)
    assert disturb.took() < SOON
    assert len(started) == 3 and not alive(started)


def test_a_rank_dies_while_rank_0_waits_for_something_else(run, started):
    def kill_and_sleep():
        os.kill(started[0], signal.SIGKILL)
        time.sleep(600)

    before = signal.getsignal(signal.SIGURG)
    disturb = Disturb(kill_and_sleep)
    with pytest.raises(ChildProcessError, match=KILLED.format(1)):
        train(run, execution=TWO, should_stop=disturb)
    assert disturb.took() < SOON
    assert not alive(started) and signal.getsignal(signal.SIGURG) is before
    assert "watch of ranks" not in [thread.name for thread in threading.enumerate()]


def test_a_rank_dies_of_a_run_that_a_thread_trains(run, started):
    def kill():
        os.kill(started[1], signal.SIGSTOP)
        os.kill(started[0], signal.SIGKILL)

    caught, disturb = [], Disturb(kill)

    def train_here():
        try:
            train(run, execution=THREE, should_stop=disturb)
        except ChildProcessError as error:
            caught.append(str(error))

    thread = threading.Thread(target=train_here, daemon=True)
    thread.start()
    thread.join(60)
    assert disturb.took() < SOON + 60 and not alive(started)
    assert caught and "rank 1 (process" in caught[0] and "ended by SIGKILL" in caught[0]


def test_a_rank_dies_before_it_has_joined_the_others(run, started, monkeypatch):
    ready, at = launch.LocalNode.wait_until_ready, []

    def kill(node):
        ready(node)
        at.append(time.monotonic())
        os.kill(started[1], signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(launch.LocalNode, "wait_until_ready", kill)
        with pytest.raises(ChildProcessError, match=KILLED.format(2)):
            train(run, execution=THREE)
    assert time.monotonic() - at[0] < SOON
    assert len(started) == 2 and not alive(started)
    assert train(run, execution=TWO).status == "ok"  # the attempt left nothing behind


# ------------------------------------------------------------------ what it says and ends


def raising(own_family, what):
    """A model family whose loss does something else in rank 1."""
    body = f"""
    def mean_loss(self, *args):
        import os, subprocess, sys
        import torch.distributed as dist
        if dist.is_initialized() and dist.get_rank() == 1:
            {what}
        return super().mean_loss(*args)
    """
    own_family.write_text(own_family.read_text() + textwrap.indent(textwrap.dedent(body), "    "))
    return {"model.family": f"{own_family}:Mean"}


def test_the_exception_of_a_rank_reaches_rank_0_that_waits(run, own_family, started):
    what = "raise MemoryError('CUDA out of memory. ' + 'x' * 10**6)"  # more than a pipe holds
    run = override(run, raising(own_family, what))
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"CUDA out of memory\. xxx") as caught:
        train(run, execution=TWO)
    assert time.monotonic() - start < 60 and not alive(started)
    assert out_of_memory(caught.value) and len(str(caught.value)) < 10_000


def test_the_last_lines_of_a_rank_are_in_the_message_and_its_own_processes_end(
    run, own_family, started, tmp_path
):
    what = f"""
            stays = "trap '' TERM; echo $$ > {tmp_path}/pid; while true; do sleep 1; done"
            subprocess.Popen(["sh", "-c", stays])
            while not os.path.exists("{tmp_path}/pid") or not open("{tmp_path}/pid").read():
                pass
            print("terminate called\\n  what(): no more\\nframe #0: abort", file=sys.stderr)
            os.abort()""".strip()
    run = override(run, raising(own_family, what))
    with pytest.raises(ChildProcessError, match=r"by SIGABRT: .*called / what\(\): no more; the"):
        train(run, execution=TWO)
    assert not alive([*started, int((tmp_path / "pid").read_text())])


def test_rank_0_may_take_its_time_when_the_others_are_done(run, tmp_path, started):
    def slow(progress):
        if progress.stored:  # the checkpoint is written, and the other rank is done
            time.sleep(2.5)

    with pytest.raises(Interrupted):
        train(run, execution=TWO, folder=tmp_path, on_progress=slow, should_stop=lambda: True)
    slept = []

    def slow_result(_):
        deadline = time.monotonic() + 30
        while alive(started[1:]) and time.monotonic() < deadline:
            time.sleep(0.05)
        slept.append(time.sleep(2.5))

    (result,) = train_pack([run], execution=TWO, folders=[tmp_path], on_result=slow_result)
    assert result.status == "ok" and slept == [None]
    assert len(started) == 2 and not alive(started)


def test_a_rank_that_only_lost_contact_is_not_blamed_before_others(monkeypatch):
    code = "import os, sys; sys.stdin.buffer.read(1); os._exit(3)"
    monkeypatch.setattr("scaling.interpreter.command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr("scaling.devices.rank_process.LOST_SECONDS", 0.5)
    child = RankProcess(Start(1, 0, 2, "", 0, False, print))
    child.process.wait()
    assert child.error() is None
    time.sleep(0.6)
    assert "rank 1 " in str(child.error()) and "lost contact with the other" in str(child.error())
    child.ask_to_end()
    child.end(0)


# ------------------------------------------------------------------ as on a GPU


STUCK = """
import ctypes, sys, time
from scaling.devices import watch

libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)

class Node:
    asked, ended = 0, False

    def error(self):
        self.asked += 1
        return ChildProcessError("rank 1 ended by SIGKILL.") if self.asked > 3 else None

    def end(self):
        self.ended = True

node = Node()
watch._STUCK_SECONDS = 0.5
watch._GRACE_SECONDS = 0.2
if sys.argv[1] == "aborts":
    watch._abort_kernels = lambda: libc.pthread_mutex_unlock(lock)
libc.pthread_mutex_lock(lock)
try:
    with watch.Watch([node], cuda=True):
        libc.pthread_mutex_lock(lock)  # as a launch whose queue is full: nothing interrupts it
        time.sleep(100)
except watch.Lost as lost:
    assert node.ended
    print("raised:", lost)
"""


@pytest.mark.parametrize("how", ["aborts", "stays"])
def test_a_blocked_launch_is_freed_or_the_process_exits(how):
    command = [sys.executable, "-c", STUCK, how]
    start = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 30
    if how == "aborts":
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == "raised: rank 1 ended by SIGKILL.\n"
    else:
        assert ended.returncode == 1
        assert (
            "rank 1 ended by SIGKILL. This process still waits for it, and exits." in ended.stderr
        )
