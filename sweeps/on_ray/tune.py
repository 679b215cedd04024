"""Execution on Ray Tune: one Tuner whose searcher hands out the queue's jobs to reused actors.

Tune starts, places and replaces processes. What has finished, what resumes and how often a run may
fail is decided by the store and the queue, so a Tune experiment is never restored. The settings
and the order of things here were found by experiment with Ray 2.60.
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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling import interpreter
from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps.errors import StoreError
from sweeps.execute import execute
from sweeps.on_ray.session import job_config, private_folder
from sweeps.queue import Job, Outcome, Queue
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
    # More pending trials would be started out of order.
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}
# Ray reads these, and how to authenticate, once, when it is imported.
os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})
if "ray" not in sys.modules:
    # A sweep that starts Ray has this machine only: its processes listen on loopback. Ray offers this
    # for other systems, by the only switch that there is.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
    # Other users of this machine can reach Ray's ports; they cannot guess this.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray._private import worker as ray_worker  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from sweeps.on_ray.nodes import RayNode, other_nodes, reached  # noqa: E402

_NAME = "job-"
_LIVES = 4
"""How often Ray is started for one sweep, where its node dies."""


def jobs_of_an_experiment(workers: int) -> int:
    """How many jobs one Tune experiment is given, before another takes over.

    Tune keeps some 40 kB of each trial until its experiment ends. A new one costs a few seconds, and
    workers wait for the last job of the old.
    """
    return max(500, 50 * workers)


class _Worker(tune.Trainable):
    """The actor: one step is one job. Reused, so that torch is imported once a process."""

    def setup(self, config: dict[str, Any]) -> None:
        # Ctrl-C reaches the whole process group; the driver says when to stop.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.reset_config(config)
        self.others: list[RayNode] = other_nodes(self.execution)

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
            if (
                node.lost
            ):  # Ray then gives all bundles back; else this one waited for it, holding its own
                raise ChildProcessError(node.lost)
        return {"done": True, "outcomes": [vars(outcome) for outcome in outcomes], "fatal": None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def cleanup(self) -> None:
        for node in self.others:
            node.leave()


class _Handout(Searcher):
    """Tune's searcher as the mouth of the queue."""

    def __init__(self, queue: Queue, workers: int, execution: Execution) -> None:
        super().__init__()
        self._workers = workers
        self._queue = queue
        self._execution = execution
        self._jobs: dict[str, Job] = {}
        self._left = jobs_of_an_experiment(workers)

    def __reduce__(self) -> Any:
        # Tune pickles its searcher to restore an experiment, which is never done here.
        return (Searcher, ())

    def suggest(self, trial_id: str) -> Any:
        if not self._left:
            return Searcher.FINISHED
        job = self._queue.take() if len(self._jobs) < self._workers else None
        if job is None:
            # Told to wait with nothing under way, Tune would sit for minutes.
            return Searcher.FINISHED if self._queue.exhausted else None
        self._jobs[trial_id] = job
        self._left -= 1
        return {"job": job, "execution": self._execution, "store": self._queue.store}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self._jobs.pop(trial_id, None)
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
        if (
            self._queue.fatal is not None
        ):  # the other workers write their checkpoints and end as well
            with contextlib.suppress(OSError):
                self._queue.store.stop_file.touch()

    def abandon(self, death: str) -> None:
        """Tune itself gave up: the jobs that the message is about died, the others wait again."""
        pids = set(re.findall(r"pid=(\d+)", death))
        jobs = list(self._jobs.values())
        guilty = []
        for job in jobs:
            starts = [e for e in self._queue.store.attempts(job.runs[0].run_id) if "pid" in e]
            if starts and str(starts[-1]["pid"]) in pids:
                guilty.append(job)
        self._queue.crash(guilty or jobs, death)
        for job in jobs if guilty else []:
            if job not in guilty:
                self._queue.release(job)
        self._jobs.clear()

    def release(self) -> None:
        """The cluster is gone: all jobs wait again."""
        for job in self._jobs.values():
            self._queue.release(job)
        self._jobs.clear()

    def _death(self, trial_id: str) -> str:
        """What Tune noted about a trial that died."""
        node = ray_worker._global_node
        if node is None:
            return "its worker died"
        session = Path(node.get_session_dir_path())
        notes = session.glob(f"artifacts/**/{_NAME}{trial_id}/error.txt")
        with contextlib.suppress(OSError):
            for path in notes:
                # A heading, then the reason; the rest is about the machine.
                lines = path.read_text(errors="replace").strip().splitlines()[1:]
                if lines and "ray::" in lines[0]:  # a traceback, which ends with the reason
                    return lines[-1].partition(": ")[2] or lines[-1]
                return "\n".join(lines[:12]) or "its worker died"
        return "its worker died"

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _NodeDied(BaseException):
    """The raylet or the head of the cluster that was started here is gone.

    No Exception: for these Tune waits until its actors have ended, which without the head they never do.
    """


class _Watch(tune.Callback):
    """Ends the experiment when the node has died: Tune would wait for its resources for ever."""

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if _node_died():
            raise _NodeDied


def _node_died() -> bool:
    node = ray_worker._global_node  # knows the processes that ray.init() started
    dead = node.dead_processes() if node is not None else []
    return any(kind in ("raylet", "gcs_server") for kind, _ in dead)


def run_on_ray(queue: Queue, *, workers: int, execution: Execution) -> None:
    """Work the queue off with `workers` actors, each of `execution.devices` processes of
    `execution.threads` CPU threads on `execution.nodes` nodes.

    Returns when nothing is left, or when the queue is told to stop. Ray is started for it and
    stopped again; where the caller has called ray.init(), that cluster is used and left running.
    Raises StoreError where Ray cannot start or has no such workers to give.
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
            for lives_left in reversed(range(_LIVES)):
                if not joined:
                    _init(workers * execution.threads * execution.devices, session)
                try:
                    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                    resources = _resources(workers, execution, alive)
                    while not queue.exhausted:
                        _fit(queue, resources, workers, execution, session)
                    break
                except _NodeDied:
                    if joined or not lives_left:
                        raise StoreError(
                            "Ray's node died (ray.log in the results folder says more); what was "
                            "measured is kept. The same command goes on, `--in-process` without Ray."
                        ) from None
                finally:
                    if not joined:
                        ray.shutdown()
    finally:
        stop.unlink(missing_ok=True)


def _init(cpus: int, session: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            job_config=job_config(interpreter.search_path()),
            object_store_memory=100 << 20,
            _temp_dir=str(session),
        )
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise StoreError(
            f"Ray did not start: {str(error).strip().splitlines()[0]} (its log is ray.log in the "
            "results folder). `--in-process` runs the sweep without Ray."
        ) from error
    finally:
        with contextlib.suppress(ValueError):  # Ray takes it in the main thread only
            signal.signal(signal.SIGTERM, before)


def _resources(
    workers: int, execution: Execution, nodes: Sequence[Mapping[str, float]]
) -> tune.PlacementGroupFactory:
    """What each worker asks of Ray, whose living nodes have so much: a bundle on each of its nodes. It
    gets all of them or waits, holding nothing. Refused where there are none: Ray would wait in silence.
    """
    asked = execution.nodes
    devices = execution.devices // asked
    cpus = execution.threads * devices
    has = [node.get("CPU", 0.0) for node in nodes]
    gpus = [0.0 if execution.device == "cpu" else node.get("GPU", 0.0) for node in nodes]
    if asked == 1 and cpus > max(has, default=0.0):
        fewer = "threads" if devices == 1 else "threads or devices"
        raise StoreError(
            f"each of {workers} workers asks for {cpus} CPUs, but the largest node of this Ray "
            f"cluster has {max(has, default=0.0):g}; use more workers, of fewer {fewer} each."
        )
    if execution.devices == 1:
        return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": min(1.0, sum(gpus) / workers)}])
    bundle = {"CPU": float(cpus), "GPU": float(devices) if any(gpus) else 0.0}
    fit = [c >= bundle["CPU"] and g >= bundle["GPU"] for c, g in zip(has, gpus, strict=True)]
    if sum(fit) < asked:
        kinds = Counter(zip(gpus, has, strict=True))
        there = ", ".join(
            f"{f'{n} x ' if n > 1 else ''}{_said(c, g if any(gpus) else None)}"
            for (g, c), n in sorted(kinds.items())
        )
        each = "of one node" if asked == 1 else f"on each of {asked} nodes"
        raise StoreError(
            f"each of {workers} workers asks for {_said(cpus, bundle['GPU'] or None)} "
            f"{each}, but the nodes of this Ray cluster have {there}; use fewer devices"
            f"{'' if asked == 1 else ', or other nodes'}."
        )
    return tune.PlacementGroupFactory([bundle] * asked, strategy="STRICT_SPREAD")


def _said(cpus: float, gpus: float | None) -> str:
    return f"{cpus:g} CPUs" if gpus is None else f"{gpus:g} GPUs and {cpus:g} CPUs"


def _fit(
    queue: Queue,
    resources: tune.PlacementGroupFactory,
    workers: int,
    execution: Execution,
    session: Path,
) -> None:
    searcher = _Handout(queue, workers, execution)
    tuner = tune.Tuner(
        tune.with_resources(_Worker, resources),
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
        # Ray's memory monitor ends the experiment together with the worker that it kills.
        if not searcher._jobs:
            raise
        searcher.abandon(str(error))


def _trial_name(trial: Any) -> str:
    return f"{_NAME}{trial.trial_id}"


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Tune takes SIGUSR1 and keeps it; put it back."""
    try:
        before = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
    except ValueError:  # not the main thread, where Tune takes nothing
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Send what Ray logs, and its warnings, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    told = ray_worker.print_to_stdstream
    for logger in loggers:
        logger.handlers, logger.propagate = [], False
    loggers[0].handlers = [handler]
    for logger in loggers[1:]:
        logger.propagate = True
    try:
        # What Ray tells of nodes that die would go to stdout.
        ray_worker.print_to_stdstream = lambda data, **_: [
            loggers[0].critical("%s: %s", data["pid"], line) for line in data["lines"]
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ray_worker.print_to_stdstream = told
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
