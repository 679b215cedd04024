"""Launch the ranks of a run or pack: one process per device, on one machine or several.

All ranks run the same program, :func:`scaling.training.train.train_pack`. Each takes its share of a
step's sequences and of the held-out windows. Gradients, losses and the decisions of rank 0 (stop,
save) are exchanged, so that all ranks act alike. Data parallel: one all-reduce of the
flat gradient, and every rank updates all parameters. Sharded: each rank holds a shard of everything
(scaling/training/fsdp.py).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist

from scaling.config import RunConfig
from scaling.devices.device import check_precision
from scaling.devices.rank_process import (
    DONE,
    LOST,
    LOST_SECONDS,
    READY,
    RankProcess,
    Start,
    pickled,
)
from scaling.devices.ranks import ALONE, Lost, Ranks, exchange
from scaling.devices.watch import Watch
from scaling.errors import ConfigError, Interrupted
from scaling.execution import Execution

_PATIENCE = timedelta(minutes=10)
"""How long a rank waits for another in a collective, or for another to start."""

_END_SECONDS = 0.5
"""Seconds that a rank has to end by itself before it is killed."""

_SIOCGIFADDR = 0x8915
"""The Linux ioctl request for an interface's address."""

_TCPStore = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]


def check(run: RunConfig, execution: Execution) -> None:
    """Raise ConfigError if a run cannot be trained on the devices of `execution`."""
    n, n_ctx = execution.devices, run.model.n_ctx
    if execution.device == "cpu":
        check_precision(torch.device("cpu"), run.precision)
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
            f"{least} sequences, less than one for each of execution.devices={n}; use larger "
            "batches or fewer devices."
        )
    if execution.shard and run.optim.optimizer != "adamw":
        raise ConfigError(
            f"execution.shard divides tensors, but optim.optimizer={run.optim.optimizer!r} updates "
            "them whole; use adamw, or devices without shard."
        )
    if execution.shard and run.optim.batch_warmup_tokens is not None:
        raise ConfigError(
            "execution.shard needs steps that all devices share equally, but "
            f"optim.batch_warmup_tokens={run.optim.batch_warmup_tokens} changes their size; leave "
            "one of them out."
        )


# ------------------------------------------------------------------ processes

_joined: Ranks | None = None
"""Position of this process among the ranks, if it was started as one of them."""

_reached: tuple[str, Sequence[Node]] | None = None
"""Address of this process, and the other nodes, if it is rank 0 of several nodes."""


class Node(Protocol):
    """A machine on which rank 0 starts ranks.

    Methods raise ChildProcessError if the machine cannot be reached.
    """

    def start(self, ranks: Sequence[Start]) -> None: ...

    def wait_until_ready(self) -> None:
        """Raise ChildProcessError if a rank does not start."""

    def error(self) -> BaseException | None:
        """Return the error that ended one of its ranks, unless it only followed from another
        rank's."""

    def end(self) -> None:
        """End all its ranks, whatever they are doing; never raises."""


@contextlib.contextmanager
def reaching(address: str, others: Sequence[Node]) -> Iterator[None]:
    """Allow ranks on the nodes `others` within the block. This process is rank 0, at `address`."""
    global _reached
    before, _reached = _reached, (address, others)
    try:
        yield
    finally:
        _reached = before


@contextlib.contextmanager
def together(execution: Execution, entry: Callable[[], object]) -> Iterator[Ranks]:
    """Be one of `execution.devices` ranks within the block.

    Starts the other ranks; those on other nodes need :func:`reaching`. Each calls `entry`, which is
    pickled and must enter this same block. None of them outlives the block or this process. Under
    torchrun, the processes that it started are the ranks.

    Raises whatever another rank has raised, ChildProcessError (an OSError) if a rank has died or
    has not answered for ten minutes, and ConfigError if torchrun has started a different number of
    processes or if other nodes are requested and cannot be reached.
    """
    global _joined
    devices, shard = execution.devices, execution.shard
    cuda = execution.device != "cpu" and torch.cuda.is_available()
    if devices == 1:
        yield ALONE
    elif "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        rank, local = _torchrun(execution)
        try:
            _joined = _joined or _join(None, rank, local, devices, cuda)
            yield replace(_joined, sharded=shard)
        except Lost as lost:
            raise ChildProcessError(f"the ranks of torchrun lost contact: {lost}") from lost
    elif _joined is not None:
        yield replace(_joined, sharded=shard)
    elif dist.is_initialized():
        raise ConfigError(
            f"execution.devices={devices} starts processes, but this one already belongs to a "
            "group of torch.distributed; leave that first, or start all processes with torchrun."
        )
    else:
        with _as_rank_0(execution, cuda, entry) as ranks:
            yield replace(ranks, sharded=shard)


def _torchrun(execution: Execution) -> tuple[int, int]:
    """Return this process's rank and its local rank on its node.

    Raises ConfigError if the processes started by torchrun do not match `execution`.
    """
    devices, nodes = execution.devices, execution.nodes
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size != devices:
        raise ConfigError(
            f"execution.devices={devices}, but torchrun has started {size} processes; give both "
            "the same number."
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices // nodes))
    if here * nodes != devices:
        raise ConfigError(
            f"torchrun has started {here} of {devices} processes on this node; give the number of "
            f"nodes as execution.nodes (now {nodes}), and start equally many processes on each."
        )
    if nodes > 1:
        _choose_interface(os.environ["MASTER_ADDR"])
    return rank, int(os.environ.get("LOCAL_RANK", rank % here))


@contextlib.contextmanager
def _as_rank_0(execution: Execution, cuda: bool, entry: Callable[[], object]) -> Iterator[Ranks]:
    """Start the other ranks, act as rank 0 within the block, then end them."""
    devices, each = execution.devices, execution.devices // execution.nodes
    address, others = _reached or ("", ())
    if execution.nodes == 1:
        address, others = "127.0.0.1", ()
    elif execution.nodes != len(others) + 1:
        raise ConfigError(
            f"execution.nodes={execution.nodes}, but this process starts ranks on its own machine "
            f"only. Run `torchrun --nnodes {execution.nodes} --nproc-per-node {each}` on every "
            "node, or use `scaling sweep --nodes` on a Ray cluster."
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
        # By default, the store would listen on every interface, without authentication.
        master_listen_fd=listener.detach() if listener else None,
    )
    nodes: list[Node] = [LocalNode(), *others]
    watch = Watch(nodes, cuda=cuda)
    succeeded = False
    try:
        for number, node in enumerate(nodes):
            node.start(
                [
                    Start(rank, rank % each, devices, address, store.port, cuda, entry)
                    for rank in range(max(1, number * each), (number + 1) * each)
                ]
            )
        for node in nodes:
            node.wait_until_ready()
        with watch:
            yield _join(store, 0, 0, devices, cuda, watch)
        succeeded = True
    except Exception as error:
        if watch.cause is not None:
            raise watch.cause from error
        if isinstance(error, Lost):
            raise _cause(nodes, devices, str(error)) from error
        raise
    finally:
        watch.leave()
        _leave(succeeded, cuda)
        for node in nodes:
            node.end()


def _join(
    store: Any, rank: int, local: int, size: int, cuda: bool, watch: Watch | None = None
) -> Ranks:
    """Join the group of ranks; without a `store`, through torchrun's environment."""
    if cuda:
        torch.cuda.set_device(local)
        # When NCCL fails or its time is up: end its kernels, not the process of the caller.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    join = partial(
        dist.init_process_group,
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store,
        rank=rank if store is not None else -1,
        world_size=size if store is not None else -1,
        timeout=_PATIENCE,
    )
    with exchange():
        watch.call(join) if watch else join()
    return Ranks(rank, size, local=local)


def _leave(succeeded: bool, cuda: bool) -> None:
    """Leave the group of ranks."""
    if not dist.is_initialized():
        dist.distributed_c10d._world.group_count = 0  # part of the next group's name
        return
    if cuda and not succeeded:  # a clean shutdown would wait for ranks that have died
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()


def _choose_interface(address: str) -> None:
    """Let gloo use the interface that leads to rank 0.

    By default it uses the interface of this machine's host name, which often resolves to 127.0.1.1.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or not sys.platform.startswith("linux"):
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((address, 1))  # sends nothing
        own = socket.inet_aton(probe.getsockname()[0])
        if own[0] == 127:  # all nodes are on this machine
            return
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                if answer[20:24] == own:
                    os.environ["GLOO_SOCKET_IFNAME"] = name
                    return


class LocalNode:
    """This machine as a Node."""

    def __init__(self) -> None:
        self._children: list[RankProcess] = []

    def start(self, ranks: Sequence[Start]) -> None:
        for start in ranks:
            self._children.append(RankProcess(start))

    def wait_until_ready(self) -> None:
        patience = _PATIENCE.total_seconds()
        deadline = time.monotonic() + patience
        for child in self._children:
            child.wait_until_ready(deadline, patience)

    def error(self) -> BaseException | None:
        return next((error for child in self._children if (error := child.error())), None)

    def end(self) -> None:
        for child in self._children:
            child.ask_to_end()
        deadline = time.monotonic() + _END_SECONDS
        for child in self._children:
            child.end(deadline)
        self._children = []


def _cause(nodes: Sequence[Node], size: int, lost: str) -> BaseException:
    """Return the error to raise when a collective has failed."""
    deadline = time.monotonic() + LOST_SECONDS
    while time.monotonic() < deadline:  # a collective may fail before the process has ended
        if errors := [error for node in nodes if (error := node.error())]:
            return errors[0]
        time.sleep(0.02)
    return ChildProcessError(
        f"the {size} ranks of the run have lost contact ({lost}); the run resumes from its "
        "last checkpoint when it is started again."
    )


def _follow() -> NoReturn:
    """Follow the Start on stdin, as main function of a child, and exit when stdin closes."""
    global _joined
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 decides when to stop
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for what the run prints
    start: Start = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    answers.write(READY)
    answers.flush()
    try:
        _choose_interface(start.address)
        try:
            store = _TCPStore(start.address, start.port, start.size, False, _PATIENCE)
        except RuntimeError as error:
            at = f"{start.address}:{start.port}"
            raise ConnectionError(
                f"rank {start.rank} cannot reach rank 0 at {at}: {error}"
            ) from None
        _joined = _join(store, start.rank, start.local, start.size, start.cuda)
        with contextlib.suppress(Interrupted):  # all ranks stop; rank 0 may still write
            start.entry()
        answers.write(DONE)
        answers.flush()
        _leave(True, start.cuda)
    except Lost:
        os._exit(LOST)
    except BaseException as error:
        answers.write(pickled(error))
        answers.flush()
        os._exit(1)
    os._exit(0)


def _exit_with_stdin() -> NoReturn:
    sys.stdin.buffer.read()
    os._exit(LOST)
