"""The other nodes of a run that several share: on each an actor of Ray, which starts ranks there.

A worker's resources are one placement group with a bundle a node. The worker itself has the first, and
pins an actor to each of the others. These live as long as the worker, or its node or placement group;
the ranks that they start end with each job, and with them.
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

from scaling.devices import launch
from scaling.execution import Execution

if TYPE_CHECKING:
    from scaling.devices.launch import Start

_ANSWER_SECONDS = 60.0
"""For a node to do what it is told, which takes moments; the first time it imports torch."""

_START_SECONDS = 660.0
"""For its ranks to come up: more than they are given there."""

_LOOK_SECONDS = 2.0

_GRACE_SECONDS = 20.0
"""After Ray has missed a node, for this worker to notice by itself: it does where connections were
closed, but where the node only fell silent torch would wait for ten minutes."""


class _Actor:
    """On another node: what starts ranks there, scaling.parallel.LocalNode."""

    def __init__(self) -> None:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as workers do
        from scaling.devices.launch import LocalNode

        self._node = LocalNode()

    def do(self, name: str, *values: Any) -> Any:
        return getattr(self._node, name)(*values)

    def stay(self) -> None:
        """Answers when this has died."""
        threading.Event().wait()


class RayNode:
    """Another node of a worker: scaling.parallel.Node, through an actor in one of its bundles."""

    def __init__(self, group: PlacementGroup, bundle: int) -> None:
        has = group.bundle_specs[bundle]
        self.lost = ""
        """Why it can start ranks no more."""
        self._name = f"node {bundle + 1} of {len(group.bundle_specs)}"
        self._actor: Any = (
            ray.remote(_Actor)
            .options(
                num_cpus=has.get("CPU", 0),
                num_gpus=has.get("GPU", 0),
                max_concurrency=2,  # one to stay
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
        if not self._left:  # the step that waits for it cannot be interrupted
            os._exit(1)

    def start(self, ranks: Sequence[Start]) -> None:
        self._do("start", list(ranks))

    def wait_until_ready(self) -> None:
        self._do("wait_until_ready", patience=_START_SECONDS)

    def error(self) -> BaseException | None:
        try:
            return self._do("error", patience=_LOOK_SECONDS, needed=False)
        except ChildProcessError as gone:
            return gone

    def end(self) -> None:
        with contextlib.suppress(ChildProcessError):
            self._do("end")

    def leave(self) -> None:
        """End its actor, and the ranks with it."""
        self._left = True
        ray.kill(self._actor)

    def _do(
        self, name: str, *values: Any, patience: float = _ANSWER_SECONDS, needed: bool = True
    ) -> Any:
        if self.lost:
            raise ChildProcessError(self.lost)
        try:
            return ray.get(self._actor.do.remote(name, *values), timeout=patience)
        except RayTaskError as error:  # what was done there raised
            raise error.cause from None
        except GetTimeoutError:
            if not needed:
                return None
            why = f"it has not answered within {patience:g} s"
        except RayError as error:
            why = str(error).strip().splitlines()[0]
        self.leave()
        self.lost = (
            f"{self._name} is lost ({why}); the run goes on from its last checkpoint when there are "
            "nodes for it."
        )
        raise ChildProcessError(self.lost)


def other_nodes(execution: Execution) -> list[RayNode]:
    """Those of the worker in which this is called."""
    if execution.nodes == 1:
        return []
    group = ray.util.get_current_placement_group()
    assert group is not None
    return [RayNode(group, bundle) for bundle in range(1, execution.nodes)]


@contextlib.contextmanager
def reached(others: Sequence[RayNode]) -> Iterator[None]:
    """Let runs that train in the block start ranks on the other nodes."""
    if not others:
        yield
        return

    with launch.reaching(ray.util.get_node_ip_address(), others):
        yield
