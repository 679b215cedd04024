"""A command on several nodes: it starts on each, with its {node_rank}, and all end together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from scaling.errors import ConfigError
from sweeps.runner.process import (
    FOLDER,
    RUN_ID,
    Ended,
    Process,
    Start,
    end_leftovers,
    environment,
    running,
)


@dataclass(frozen=True)
class State:
    """How a command on another node fares."""

    seen: str
    """A line that matched a pattern of `watch`."""
    ended: Ended | None


class Node(Protocol):
    """A machine on which a worker runs a command beside its own.

    Methods raise ChildProcessError if the machine cannot be reached, and OSError if the command
    cannot be started.
    """

    def begin(self, start: Start) -> None:
        """Start the command. `start.env` is on top of the environment of the machine."""

    def state(self) -> State:
        """Return how it fares."""
        ...

    def finish(self, grace: float) -> State:
        """End it, with SIGKILL after `grace` seconds, and return how it ended."""
        ...


class LocalNode:
    """This machine as a Node."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()
        self._process: Process | None = None

    def begin(self, start: Start) -> None:
        if start.resumed:
            end_leftovers(start.env[RUN_ID], start.env[FOLDER])
        whole = replace(start, env=environment() | dict(start.env))
        self._process = self._held.enter_context(running(whole))

    def state(self) -> State:
        if self._process is None:
            return State("", None)
        self._process.wait(0.0)
        return State(self._process.seen, self._process.ended)

    def finish(self, grace: float) -> State:
        if (process := self._process) is None:
            return State("", None)
        if process.ended is None:
            process.end(grace)
        while process.wait(1.0) is None:
            pass
        self._held.close()
        self._process = None
        return State(process.seen, process.ended)


_reached: tuple[str, Sequence[Node]] | None = None
"""Address of this machine, and the other nodes of this worker, if it has any."""


@contextlib.contextmanager
def reaching(address: str, others: Sequence[Node]) -> Iterator[None]:
    """Let commands run on the nodes `others` too within the block."""
    global _reached
    before, _reached = _reached, (address, others)
    try:
        yield
    finally:
        _reached = before


def reached(nodes: int) -> tuple[str, Sequence[Node]]:
    """Return the address of this node, and the other ones of a run on `nodes` nodes. Raises
    ConfigError."""
    if nodes == 1:
        return "127.0.0.1", ()
    address, others = _reached or ("", ())
    if len(others) + 1 != nodes:
        raise ConfigError(
            f"[runner.resources] nodes = {nodes}: a run on several nodes needs a Ray cluster; "
            "leave out --in-process, and join the cluster with --address."
        )
    return address, others


class Others:
    """The command on the other nodes of a run."""

    def __init__(self, nodes: Sequence[Node], grace: float) -> None:
        self._nodes, self._grace = nodes, grace

    def begin(self, starts: Sequence[Start]) -> None:
        """Start it on each."""
        for node, start in zip(self._nodes, starts, strict=True):
            node.begin(start)

    def failed(self) -> tuple[int, Ended] | None:
        """Return (rank, end) of a node on which the command has failed; None if it has nowhere."""
        for rank, node in enumerate(self._nodes, 1):
            ended = node.state().ended
            if ended is not None and ended.code != 0:
                return rank, ended
        return None

    @property
    def running(self) -> bool:
        """Whether the command still runs on one of them."""
        return any(node.state().ended is None for node in self._nodes)

    def finish(self, grace: float | None = None) -> dict[int, Ended]:
        """End it everywhere; return {rank: how it ended}."""
        grace = self._grace if grace is None else grace
        states = {rank: node.finish(grace) for rank, node in enumerate(self._nodes, 1)}
        return {rank: state.ended for rank, state in states.items() if state.ended is not None}
