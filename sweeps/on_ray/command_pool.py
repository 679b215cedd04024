"""Execution of commands on Ray: a pool of actors that take the queue's jobs.

Ray Tune, which executes our own training, starts its actors one after the other and costs some
tenths of a second per job; many commands take less. As there, the store and the queue decide what
has finished, what resumes and how often a run may fail.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps.errors import StoreError
from sweeps.execute import execute
from sweeps.on_ray.nodes import RayNode, beside, other_nodes
from sweeps.on_ray.resources import WorkerResources
from sweeps.queue import Job, Outcome, Queue
from sweeps.store import Store

_LOOK_SECONDS = 0.5
"""Seconds between looks whether Ray itself has died."""

_MESSAGE_LINES = 12
"""Lines of the error of an actor that died; the rest is about the machine."""


class _Worker:
    """The actor that runs the commands of one job after another."""

    def __init__(self, store: Store, execution: Execution, nodes: int) -> None:
        # Ctrl-C reaches the whole process group, but only the driver decides when to stop.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._store, self._execution = store, execution
        self._others: list[RayNode] = other_nodes(nodes, of_commands=True)

    def run(self, job: Job) -> dict[str, Any]:
        """Run the commands of a job; return their outcomes, or what must end the sweep."""
        stopping = self._store.stop_file.exists
        try:
            with told_to_leave() as leaving, beside(self._others):
                outcomes = execute(
                    job, self._store, self._execution, lambda: leaving() or stopping()
                )
        except (ConfigError, StoreError) as error:
            return {"outcomes": [], "fatal": error}
        for node in self._others:
            if node.lost:
                raise ChildProcessError(node.lost)
        return {"outcomes": [vars(outcome) for outcome in outcomes], "fatal": None}


@contextlib.contextmanager
def told_to_leave() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether this process got SIGTERM, which does not end it within
    the block: a machine that is taken away gives some time to end in order."""
    told = False

    def handle(number: int, frame: object) -> None:
        nonlocal told
        told = True

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: told
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class _Actor:
    """An actor of the pool."""

    handle: Any
    group: Any = None
    """Its placement group, if it has several nodes."""

    def end(self) -> None:
        """End it, and with it what it runs."""
        with contextlib.suppress(Exception):
            ray.kill(self.handle)
        if self.group is not None:
            with contextlib.suppress(Exception):
                remove_placement_group(self.group)


class CommandPool:
    """Actors that work on a queue."""

    def __init__(
        self, queue: Queue, resources: WorkerResources, workers: int, execution: Execution
    ) -> None:
        self._queue, self._resources = queue, resources
        self._workers, self._execution = workers, execution
        self._idle: list[_Actor] = []
        self._busy: dict[Any, tuple[_Actor, Job]] = {}
        """{reference of the result: (actor, job)}."""
        self._next_alone: Job | None = None
        """A job that waits until it can have a whole GPU."""

    def run(self, node_died: Callable[[], bool]) -> bool:
        """Work until the queue is exhausted. Returns False if Ray's node has died; the jobs under
        way are then back in the queue."""
        try:
            while not self._queue.exhausted:
                if node_died():
                    return False
                self._assign()
                if self._busy:
                    ready, _ = ray.wait(list(self._busy), timeout=_LOOK_SECONDS)
                    for reference in ready:
                        if not self._collect(reference, node_died):
                            return False
                if self._queue.fatal is not None:  # the other workers end their commands as well
                    with contextlib.suppress(OSError):
                        self._queue.store.stop_file.touch()
            return True
        finally:
            self._close()

    def _assign(self) -> None:
        """Give jobs to free workers."""
        while len(self._busy) < self._workers:
            job = self._next_alone or self._queue.take()
            self._next_alone = None
            if job is None:
                return
            if job.alone and self._busy:
                self._next_alone = job
                return
            if job.alone:
                self._end_idle()
            actor = self._idle.pop() if self._idle else self._started(whole_gpu=job.alone)
            self._busy[actor.handle.run.remote(job)] = actor, job
            if job.alone:
                return

    def _started(self, *, whole_gpu: bool) -> _Actor:
        resources = self._resources
        bundles = resources.with_whole_gpu if whole_gpu else resources.bundles
        own, group = bundles[0], None
        options: dict[str, Any] = {"num_cpus": own.get("CPU", 0), "num_gpus": own.get("GPU", 0)}
        if len(bundles) > 1:
            group = placement_group([dict(b) for b in bundles], strategy=resources.strategy)
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
        new: Any = ray.remote(_Worker).options(**options)
        return _Actor(new.remote(self._queue.store, self._execution, len(bundles)), group)

    def _collect(self, reference: Any, node_died: Callable[[], bool]) -> bool:
        """Record how a job ended. Returns False if Ray's node has died."""
        actor, job = self._busy[reference]
        try:
            result: Mapping[str, Any] = ray.get(reference)
        except RayError as error:
            if node_died():
                return False
            del self._busy[reference]
            actor.end()
            self._queue.crash([job], _message(error))
            return True
        del self._busy[reference]
        if job.alone:
            actor.end()
        else:
            self._idle.append(actor)
        if result["fatal"] is not None:
            self._queue.fatal = result["fatal"]
            self._queue.release(job)
        else:
            self._queue.finish(job, [Outcome(**values) for values in result["outcomes"]])
        return True

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def _close(self) -> None:
        self._end_idle()
        for actor, job in self._busy.values():
            actor.end()
            self._queue.release(job)
        self._busy.clear()


def _message(error: RayError) -> str:
    """Return what Ray says about an actor that died."""
    if isinstance(error, RayTaskError):
        return str(error.cause)
    return "\n".join(str(error).strip().splitlines()[:_MESSAGE_LINES]) or "its worker died"
