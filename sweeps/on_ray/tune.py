"""Execution on Ray Tune: one Tuner whose searcher assigns the queue's jobs to reused actors.

Tune starts, places and replaces processes. The store and the queue decide what has finished, what
resumes and how often a run may fail, so a Tune experiment is never restored. The settings and the
order of calls were determined by experiment with Ray 2.60.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps.errors import StoreError
from sweeps.execute import execute
from sweeps.on_ray.resources import (
    WorkerResources,
    command_resources,
    cpus_of,
    worker_resources,
)
from sweeps.on_ray.start import private_folder, start_ray
from sweeps.queue import Job, Outcome, Queue
from sweeps.runner.runner import Runner
from sweeps.store import Store

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    # With more pending trials, Tune would start them out of order.
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}
# Ray reads these variables and its authentication settings once, when it is imported.
os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})
if "ray" not in sys.modules:
    # A sweep that starts Ray uses only this machine, so Ray's processes should listen on loopback.
    # Ray offers no other setting for that.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
    # Other users of this machine can reach Ray's ports, but cannot guess this token.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray._private import worker as ray_worker  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from sweeps.on_ray.nodes import RayNode, other_nodes, reached  # noqa: E402

_TRIAL_PREFIX = "job-"
_STARTS = 4
"""Maximum number of times that Ray is started for one sweep, if its node dies."""


def jobs_of_an_experiment(workers: int) -> int:
    """Return the number of jobs in one Tune experiment, after which a new one takes over.

    Tune keeps about 40 kB per trial until the experiment ends. A new experiment costs a few
    seconds, and workers wait for the last job of the old one.
    """
    return max(500, 50 * workers)


class _Worker(tune.Trainable):
    """The actor, each of whose steps is a job. It is reused, so that it imports torch only once."""

    def setup(self, config: dict[str, Any]) -> None:
        # Ctrl-C reaches the whole process group, but only the driver decides when to stop.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.reset_config(config)
        self.others: list[RayNode] = other_nodes(self.execution.nodes)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.job: Job = new_config["job"]
        self.execution: Execution = new_config["execution"]
        self.store: Store = new_config["store"]
        return True

    def step(self) -> dict[str, Any]:
        stopping = self.store.stop_file.exists
        try:
            with reached(self.others):
                outcomes = execute(self.job, self.store, self.execution, stopping)
        except (ConfigError, StoreError) as error:
            return {"done": True, "outcomes": [], "fatal": error}
        for node in self.others:
            if node.lost:
                # On an error, Ray frees all bundles of this worker. Without one, the worker would
                # hold its own bundle while it waits for that of the lost node.
                raise ChildProcessError(node.lost)
        return {"done": True, "outcomes": [vars(outcome) for outcome in outcomes], "fatal": None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def cleanup(self) -> None:
        for node in self.others:
            node.leave()


class _QueueSearcher(Searcher):
    """Tune's searcher, which suggests the jobs of the queue."""

    def __init__(self, queue: Queue, workers: int, execution: Execution) -> None:
        super().__init__()
        self._workers = workers
        self._queue = queue
        self._execution = execution
        self.jobs: dict[str, Job] = {}
        """{trial id: job} of the running jobs."""
        self._left = jobs_of_an_experiment(workers)
        """Number of jobs that this experiment may still take."""

    def __reduce__(self) -> Any:
        # Tune pickles its searcher to restore experiments, which is never done here.
        return (Searcher, ())

    def suggest(self, trial_id: str) -> Any:
        if not self._left:
            return Searcher.FINISHED
        job = self._queue.take() if len(self.jobs) < self._workers else None
        if job is None:
            # Without running jobs, Tune would wait minutes for a suggestion.
            return Searcher.FINISHED if self._queue.exhausted else None
        self.jobs[trial_id] = job
        self._left -= 1
        return {"job": job, "execution": self._execution, "store": self._queue.store}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self.jobs.pop(trial_id, None)
        if job is None:
            return
        if (error or not result or "outcomes" not in result) and _node_died():
            self._queue.release(job)
        elif error or not result or "outcomes" not in result:
            self._queue.crash([job], self._death(trial_id))
        elif result["fatal"] is not None:
            self._queue.fatal = result["fatal"]
            self._queue.release(job)
        else:
            self._queue.finish(job, [Outcome(**values) for values in result["outcomes"]])
        if self._queue.fatal is not None:  # the other workers write checkpoints and end as well
            with contextlib.suppress(OSError):
                self._queue.store.stop_file.touch()

    def abandon(self, death: str) -> None:
        """Record that Tune itself gave up: jobs named in its message died, others wait again."""
        pids = set(re.findall(r"pid=(\d+)", death))
        jobs = list(self.jobs.values())
        died = []
        for job in jobs:
            starts = [e for e in self._queue.store.attempts(job.runs[0].run_id) if "pid" in e]
            if starts and str(starts[-1]["pid"]) in pids:
                died.append(job)
        self._queue.crash(died or jobs, death)
        for job in jobs if died else []:
            if job not in died:
                self._queue.release(job)
        self.jobs.clear()

    def release(self) -> None:
        """Return all jobs to the queue, because the cluster is gone."""
        for job in self.jobs.values():
            self._queue.release(job)
        self.jobs.clear()

    def _death(self, trial_id: str) -> str:
        """Return what Tune recorded about a trial that died."""
        node = ray_worker._global_node
        if node is None:
            return "its worker died"
        session = Path(node.get_session_dir_path())
        notes = session.glob(f"artifacts/**/{_TRIAL_PREFIX}{trial_id}/error.txt")
        with contextlib.suppress(OSError):
            for path in notes:
                # The first line is a heading, followed by the reason; the rest is about the
                # machine.
                lines = path.read_text(errors="replace").strip().splitlines()[1:]
                if lines and "ray::" in lines[0]:  # a traceback, with the reason at its end
                    return lines[-1].partition(": ")[2] or lines[-1]
                return "\n".join(lines[:12]) or "its worker died"
        return "its worker died"

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _NodeDied(BaseException):
    """The raylet or the head of the cluster that was started here has died.

    It is not an Exception: on those, Tune waits until its actors have ended, which never happens
    without the head.
    """


class _Watch(tune.Callback):
    """A callback that ends the experiment when the node has died; Tune would wait forever for its
    resources."""

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if _node_died():
            raise _NodeDied


def _node_died() -> bool:
    node = ray_worker._global_node  # holds the processes that ray.init() started
    dead = node.dead_processes() if node is not None else []
    return any(kind in ("raylet", "gcs_server") for kind, _ in dead)


def run_on_ray(
    queue: Queue, *, workers: int, execution: Execution, runner: Runner | None = None
) -> None:
    """Execute the jobs of the queue with `workers` actors.

    Each actor has `execution.devices` processes of `execution.threads` CPU threads, on
    `execution.nodes` nodes; for commands, what their `runner` asks for. Returns when nothing is
    left, or when the queue is stopping. Ray is started and stopped for the call, unless the caller
    has called ray.init(): then that cluster is used and left running. Raises StoreError if Ray
    cannot start or has no room for such workers.
    """
    stop = queue.store.stop_file
    stop.unlink(missing_ok=True)
    try:
        with (
            private_folder() as session,
            _quiet(queue.store.folder / "ray.log"),
            _signals_kept(),
        ):
            joined = ray.is_initialized()
            for starts_left in reversed(range(_STARTS)):
                if not joined:
                    start_ray(cpus_of(workers, execution, runner), session)
                try:
                    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                    if runner is None:
                        resources = worker_resources(workers, execution, alive)
                    else:
                        resources = command_resources(workers, execution, runner, alive)
                    queue.workers, queue.workers_per_gpu = workers, resources.workers_per_gpu
                    if runner is not None:
                        _run_commands(queue, resources, workers, execution)
                    while not queue.exhausted:
                        _run_experiment(queue, resources, workers, execution, session)
                    break
                except _NodeDied:
                    if joined or not starts_left:
                        raise StoreError(
                            "Ray's node died (see ray.log in the results folder); what was "
                            "measured is kept. The same command resumes, with `--in-process` "
                            "without Ray."
                        ) from None
                finally:
                    if not joined:
                        ray.shutdown()
    finally:
        stop.unlink(missing_ok=True)


def _run_commands(
    queue: Queue, resources: WorkerResources, workers: int, execution: Execution
) -> None:
    from sweeps.on_ray.command_pool import CommandPool

    if not CommandPool(queue, resources, workers, execution).run(_node_died):
        raise _NodeDied


def _run_experiment(
    queue: Queue,
    resources: WorkerResources,
    workers: int,
    execution: Execution,
    session: Path,
) -> None:
    """Run one Tune experiment, which takes jobs from the queue up to its maximum number."""
    searcher = _QueueSearcher(queue, workers, execution)
    shared, alone = (
        tune.PlacementGroupFactory(bundles, strategy=resources.strategy)
        for bundles in (resources.bundles, resources.with_whole_gpu)
    )
    tuner = tune.Tuner(
        tune.with_resources(_Worker, lambda config: alone if config["job"].alone else shared),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(session / "tune"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Watch()],
        ),
    )
    try:
        tuner.fit()
    except _NodeDied:
        searcher.release()
        raise
    except RuntimeError as error:
        if _node_died():
            searcher.release()
            raise _NodeDied from None
        # When Ray's memory monitor kills a worker, it ends the experiment too.
        if not searcher.jobs:
            raise
        searcher.abandon(str(error))


def _trial_name(trial: Any) -> str:
    return f"{_TRIAL_PREFIX}{trial.trial_id}"


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handler of SIGUSR1, which Tune replaces without restoring it."""
    try:
        before = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
    except ValueError:  # not the main thread, where Tune sets no handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Send Ray's log messages to a file, and drop its warnings."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    print_to_stdstream = ray_worker.print_to_stdstream
    for logger in loggers:
        logger.handlers, logger.propagate = [], False
    loggers[0].handlers = [handler]
    for logger in loggers[1:]:
        logger.propagate = True
    try:
        # Otherwise Ray's messages about nodes that die go to stdout.
        ray_worker.print_to_stdstream = lambda data, **_: [
            loggers[0].critical("%s: %s", data["pid"], line) for line in data["lines"]
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ray_worker.print_to_stdstream = print_to_stdstream
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
