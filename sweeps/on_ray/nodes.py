"""The other nodes of a run on several nodes: a Ray actor on each of them starts ranks there.

A worker's resources are one placement group with a bundle per node. The worker itself has the first
bundle and pins an actor to each of the others. The actors live as long as the worker, its node and
its placement group. The ranks that an actor starts end with each job, and with the actor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeps.runner import several_nodes

if TYPE_CHECKING:
    from scaling.devices.launch import Start

_ANSWER_SECONDS = 60.0
"""Seconds for a node to answer. This takes a moment, except that the first call imports torch."""

_START_SECONDS = 660.0
"""Seconds for the ranks of a node to start; more than the node itself allows them."""

_LOOK_SECONDS = 2.0
"""Seconds for a node to answer whether its ranks have failed."""

_GRACE_SECONDS = 20.0
"""Seconds for this worker to notice by itself that Ray has lost a node. It does so if connections
were closed; if the node only fell silent, torch would wait for ten minutes."""


class _Actor:
    """The actor on another node, which wraps a :class:`scaling.devices.launch.LocalNode`."""

    def __init__(self) -> None:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in workers
        from scaling.devices.launch import LocalNode

        self._node = LocalNode()

    def do(self, name: str, *values: Any) -> Any:
        """Call a method of the node."""
        return getattr(self._node, name)(*values)

    def stay(self) -> None:
        """Never return, so that the caller learns when this actor dies."""
        threading.Event().wait()


class _CommandActor(_Actor):
    """The actor on another node, which wraps a :class:`several_nodes.LocalNode`."""

    def __init__(self) -> None:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._node = several_nodes.LocalNode()


class RayNode:
    """Another node of a worker, a :class:`scaling.devices.launch.Node` through an actor, or a
    :class:`several_nodes.Node` for commands."""

    def __init__(self, group: PlacementGroup, bundle: int, actor: type[_Actor] = _Actor) -> None:
        resources = group.bundle_specs[bundle]
        self.lost = ""
        """Why the node can no longer start ranks; '' while it can."""
        self._name = f"node {bundle + 1} of {len(group.bundle_specs)}"
        self._actor: Any = (
            ray.remote(actor)
            .options(
                num_cpus=resources.get("CPU", 0),
                num_gpus=resources.get("GPU", 0),
                max_concurrency=2,  # one thread is occupied by `stay`
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle),
            )
            .remote()
        )
        self._left = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with contextlib.suppress(RayError):
            ray.get(self._actor.stay.remote())
        time.sleep(_GRACE_SECONDS)
        if not self._left:  # the step that waits for the node cannot be interrupted
            os._exit(1)

    def start(self, ranks: Sequence[Start]) -> None:
        """Start ranks on the node."""
        self._do("start", list(ranks))

    def wait_until_ready(self) -> None:
        """Wait until the ranks have started."""
        self._do("wait_until_ready", patience=_START_SECONDS)

    def error(self) -> BaseException | None:
        """Return the error of a rank that failed, if one did."""
        try:
            return self._do("error", patience=_LOOK_SECONDS, needed=False)
        except ChildProcessError as gone:
            return gone

    def end(self) -> None:
        """End the ranks."""
        with contextlib.suppress(ChildProcessError):
            self._do("end")

    # ------------------------------------------------------------ for commands

    def begin(self, start: several_nodes.Start) -> None:
        """Start a command on the node."""
        self._do("begin", start)

    def state(self) -> several_nodes.State:
        """Return how the command on the node fares."""
        return self._do("state")

    def finish(self, grace: float) -> several_nodes.State:
        """End the command on the node."""
        return self._do("finish", grace, patience=_ANSWER_SECONDS + grace)

    def leave(self) -> None:
        """End the actor, and the ranks with it."""
        self._left = True
        ray.kill(self._actor)

    def _do(
        self, name: str, *values: Any, patience: float = _ANSWER_SECONDS, needed: bool = True
    ) -> Any:
        if self.lost:
            raise ChildProcessError(self.lost)
        try:
            return ray.get(self._actor.do.remote(name, *values), timeout=patience)
        except RayTaskError as error:  # the node's method raised
            raise error.cause from None
        except GetTimeoutError:
            if not needed:
                return None
            why = f"it has not answered within {patience:g} s"
        except RayError as error:
            why = str(error).strip().splitlines()[0]
        self.leave()
        self.lost = (
            f"{self._name} is lost ({why}); the run resumes from its last checkpoint when nodes "
            "are available."
        )
        raise ChildProcessError(self.lost)


def other_nodes(nodes: int, *, of_commands: bool = False) -> list[RayNode]:
    """Return the other nodes of the calling worker, which has `nodes` of them in all. With
    `of_commands`, they run a command instead of ranks."""
    if nodes == 1:
        return []
    group = ray.util.get_current_placement_group()
    assert group is not None
    actor = _CommandActor if of_commands else _Actor
    return [RayNode(group, bundle, actor) for bundle in range(1, nodes)]


@contextlib.contextmanager
def reached(others: Sequence[RayNode]) -> Iterator[None]:
    """Let runs that train within the block start ranks on the other nodes."""
    if not others:
        yield
        return
    from scaling.devices import launch  # imports torch, which commands do not need

    with launch.reaching(ray.util.get_node_ip_address(), others):
        yield


@contextlib.contextmanager
def beside(others: Sequence[RayNode]) -> Iterator[None]:
    """Let commands that run within the block run on the other nodes too."""
    if not others:
        yield
        return
    with several_nodes.reaching(ray.util.get_node_ip_address(), others):
        yield
