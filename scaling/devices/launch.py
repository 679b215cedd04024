"""One run, or one pack, on several devices of one machine, or of several: a process (rank) each.

All ranks run one and the same program: :func:`scaling.training.train.train_pack`. Each takes its share of a
step's sequences and of the held-out windows; what leads on from there, gradients, losses and the
decisions of rank 0 (stop, save), is exchanged, so that all of them do the same thing next. Data
parallel: one all-reduce of the flat gradient, and everybody updates everything. Sharded: each rank
keeps a part of everything, see scaling/training/fsdp.py.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist

from scaling import interpreter
from scaling.config import RunConfig
from scaling.devices.ranks import ALONE, Lost, Ranks, exchange
from scaling.errors import ConfigError
from scaling.execution import Execution

_PATIENCE = timedelta(minutes=10)
"""For another rank to come to where this one is."""

_LOST = 3
"""Exit code of a rank that ends because it has lost the others."""

_TCPStore = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]


def check(run: RunConfig, execution: Execution) -> None:
    """Raise ConfigError where a run cannot be trained by so many devices."""
    n, n_ctx = execution.devices, run.model.n_ctx
    if n == 1:
        return
    if (sequences := run.batch_tokens // n_ctx) % n:
        raise ConfigError(
            f"execution.devices={n} cannot share the {sequences} sequences of a step equally "
            f"(batch_tokens={run.batch_tokens}, model.n_ctx={n_ctx}); use batch_tokens="
            f"{-(-sequences // n) * n * n_ctx}, or another number of devices."
        )
    if (least := run.tokens_at(1) // n_ctx) < n:
        raise ConfigError(
            f"the first step of optim.batch_warmup_tokens={run.optim.batch_warmup_tokens} has "
            f"{least} sequences, less than one for each of execution.devices={n}; use larger batches "
            "or fewer devices."
        )
    if execution.shard and run.optim.optimizer != "adamw":
        raise ConfigError(
            f"execution.shard cuts tensors anywhere, and optim.optimizer={run.optim.optimizer!r} "
            "updates them whole; use adamw, or devices without shard."
        )
    if execution.shard and run.optim.batch_warmup_tokens is not None:
        raise ConfigError(
            "execution.shard needs steps of which every device has as much; without "
            f"optim.batch_warmup_tokens={run.optim.batch_warmup_tokens}, or devices without shard."
        )


# ------------------------------------------------------------------ processes

_joined: Ranks | None = None
"""In a process that was started as a rank."""

_reached: tuple[str, Sequence[Node]] | None = None
"""Of the first rank of several nodes: its address, and the other nodes."""


class Node(Protocol):
    """A machine on which rank 0 starts ranks. Where it cannot be reached: ChildProcessError."""

    def start(self, ranks: Sequence[Start]) -> None: ...

    def wait_until_ready(self) -> None:
        """Raises ChildProcessError where a rank does not come up."""

    def error(self) -> BaseException | None:
        """Why a rank of it has ended, if one did for a reason of its own."""

    def end(self) -> None:
        """End all its ranks, whatever they do; raises nothing."""


@contextlib.contextmanager
def reaching(address: str, others: Sequence[Node]) -> Iterator[None]:
    """For the block, ranks may be started on `others` as well. They find this process, which will be
    rank 0, at `address`."""
    global _reached
    before, _reached = _reached, (address, others)
    try:
        yield
    finally:
        _reached = before


@contextlib.contextmanager
def together(execution: Execution, again: Callable[[], object]) -> Iterator[Ranks]:
    """Be one of `execution.devices` ranks for the block; alone where that is one.

    Starts the others, in which `again`, pickled, is called and has to come to this same place; those of
    several nodes through :func:`reaching`. None of them outlives the block, nor this process. Under
    torchrun its processes are the ranks.

    Raises what another rank has raised; ChildProcessError (an OSError) where one has died, or nothing
    was heard of it for ten minutes; ConfigError under a torchrun of another size, or where other nodes
    are asked for that cannot be reached.
    """
    global _joined
    devices, shard = execution.devices, execution.shard
    cuda = execution.device != "cpu" and torch.cuda.is_available()
    if devices == 1:
        yield ALONE
    elif "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":  # alone: no torchrun
        rank, local = _torchrun(execution)
        try:
            _joined = _joined or _join(None, rank, local, devices, cuda)
            yield replace(_joined, sharded=shard)
        except Lost as lost:
            raise ChildProcessError(f"the ranks of torchrun lost each other: {lost}") from lost
    elif _joined is not None:
        yield replace(_joined, sharded=shard)
    elif dist.is_initialized():
        raise ConfigError(
            f"execution.devices={devices} starts processes of its own, but this one is part of a group "
            "of torch.distributed already; leave that first, or start them all with torchrun."
        )
    else:
        with _led(execution, cuda, again) as ranks:
            yield replace(ranks, sharded=shard)


def _torchrun(execution: Execution) -> tuple[int, int]:
    """This process' rank, and its number on its node. ConfigError where torchrun has started others
    than `execution` asks for."""
    devices, nodes = execution.devices, execution.nodes
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size != devices:
        raise ConfigError(
            f"execution.devices={devices}, but torchrun has started {size} processes; let both be "
            "the same."
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices // nodes))
    if here * nodes != devices:
        raise ConfigError(
            f"torchrun has started {here} of {devices} processes on this node; give as execution.nodes "
            f"(now {nodes}) the number of nodes, each of which starts as many."
        )
    if nodes > 1:
        _choose_interface(os.environ["MASTER_ADDR"])
    return rank, int(os.environ.get("LOCAL_RANK", rank % here))


@contextlib.contextmanager
def _led(execution: Execution, cuda: bool, again: Callable[[], object]) -> Iterator[Ranks]:
    """Start the other ranks, be the first of them, end them."""
    devices, each = execution.devices, execution.devices // execution.nodes
    address, others = _reached or ("", ())
    if execution.nodes == 1:
        address, others = "127.0.0.1", ()
    elif execution.nodes != len(others) + 1:
        raise ConfigError(
            f"execution.nodes={execution.nodes}, but this process starts ranks on its own machine only. "
            f"Start them with `torchrun --nnodes {execution.nodes} --nproc-per-node {each}` on every "
            "node, or let `scaling sweep --nodes` do so on a Ray cluster."
        )
    else:
        _choose_interface(address)
    listener = socket.create_server((address, 0)) if execution.nodes == 1 else None
    store = _TCPStore(
        address,
        listener.getsockname()[1] if listener else 0,
        devices,
        True,
        _PATIENCE,
        wait_for_workers=False,
        # By itself the store listens on every interface, and asks nobody who he is.
        master_listen_fd=listener.detach() if listener else None,
    )
    nodes: list[Node] = [LocalNode(), *others]
    well = False
    try:
        for number, node in enumerate(nodes):
            node.start(
                [
                    Start(rank, rank % each, devices, address, store.port, cuda, again)
                    for rank in range(max(1, number * each), (number + 1) * each)
                ]
            )
        for node in nodes:
            node.wait_until_ready()
        yield _join(store, 0, 0, devices, cuda)
        well = True
    except Lost as lost:
        raise _what_happened(nodes, devices, str(lost)) from lost
    finally:
        _part(well, cuda)
        for node in nodes:
            node.end()


def _join(store: Any, rank: int, local: int, size: int, cuda: bool) -> Ranks:
    """Become a rank; without a `store`, as torchrun's environment says."""
    if cuda:
        torch.cuda.set_device(local)
    with exchange():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank if store is not None else -1,
            world_size=size if store is not None else -1,
            timeout=_PATIENCE,
        )
    return Ranks(rank, size, local=local)


def _part(well: bool, cuda: bool) -> None:
    """The reverse of :func:`_join`."""
    if not dist.is_initialized():
        return
    if cuda and not well:  # to take leave in order would be to wait for the dead
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()


def _choose_interface(address: str) -> None:
    """Let gloo talk to other nodes through the interface that leads to rank 0. By itself it takes the
    one of this machine's name, which often stands for 127.0.1.1."""
    if "GLOO_SOCKET_IFNAME" in os.environ or not sys.platform.startswith("linux"):
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((address, 1))  # sends nothing
        own = socket.inet_aton(probe.getsockname()[0])
        if own[0] == 127:  # all nodes are one machine
            return
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                if answer[20:24] == own:
                    os.environ["GLOO_SOCKET_IFNAME"] = name
                    return


@dataclass(frozen=True)
class Start:
    """What a process is told that is to be a rank."""

    rank: int
    local: int
    size: int
    address: str
    """Of rank 0."""
    port: int
    cuda: bool
    again: Callable[[], object]


class LocalNode:
    """This machine, as a Node."""

    def __init__(self) -> None:
        self._children: list[_Child] = []

    def start(self, ranks: Sequence[Start]) -> None:
        for start in ranks:
            self._children.append(_Child(start))

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        for child in self._children:
            child.wait_until_ready(deadline)

    def error(self) -> BaseException | None:
        return next((error for child in self._children if (error := child.error())), None)

    def end(self) -> None:
        for child in self._children:
            child.end()
        self._children.clear()


class _Child:
    """A rank that was started here."""

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
        with contextlib.suppress(BrokenPipeError):  # said by wait_until_ready
            self.stdin.write(pickle.dumps(start))
            self.stdin.flush()

    def wait_until_ready(self, deadline: float) -> None:
        ready, _, _ = select.select([self.stdout], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise ChildProcessError(
                f"rank {self.rank} (process {self.process.pid}) has not started within "
                f"{_PATIENCE.total_seconds():g} s; is this machine, or its disk, overloaded?"
            )
        if self.stdout.readline() != _READY:
            self.process.wait()
            raise self.error() or ChildProcessError(f"rank {self.rank} did not start")

    def error(self) -> BaseException | None:
        """Why it has ended, if it did for a reason of its own."""
        code = self.process.poll()
        if code in (None, _LOST):
            return None
        with contextlib.suppress(Exception):  # it may have died amid its last words
            return pickle.loads(self.stdout.read())
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return ChildProcessError(
            f"rank {self.rank} (process {self.process.pid}) ended {how}"
            + (f": {said[0]}" if said else "")
            + "; the run goes on from its last checkpoint when it is started again."
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.stdin, self.stdout, self.errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()


_READY = b"ready\n"


def _what_happened(nodes: Sequence[Node], size: int, lost: str) -> BaseException:
    """What to raise when an exchange has failed."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # one that dies is heard of before it is gone
        if errors := [error for node in nodes if (error := node.error())]:
            return errors[0]
        time.sleep(0.02)
    return ChildProcessError(
        f"the {size} ranks of the run have lost each other ({lost}); it goes on from its "
        "last checkpoint when it is started again."
    )


def _follow() -> NoReturn:
    """What a process does that was started as a rank: as told on stdin, whose end is its own."""
    global _joined
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 says when to stop
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    told: Start = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    answers.write(_READY)
    answers.flush()
    try:
        _choose_interface(told.address)
        try:
            store = _TCPStore(told.address, told.port, told.size, False, _PATIENCE)
        except RuntimeError as error:
            at = f"{told.address}:{told.port}"
            raise ConnectionError(
                f"rank {told.rank} cannot reach rank 0 at {at}: {error}"
            ) from None
        _joined = _join(store, told.rank, told.local, told.size, told.cuda)
        told.again()
        _part(True, told.cuda)
    except Lost:
        os._exit(_LOST)
    except BaseException as error:
        try:
            said = pickle.dumps(error)
        except Exception:
            said = pickle.dumps(RuntimeError(traceback.format_exc()))
        answers.write(said)
        answers.flush()
        os._exit(1)
    os._exit(0)


def _end_with_stdin() -> NoReturn:
    sys.stdin.buffer.read()
    os._exit(_LOST)
