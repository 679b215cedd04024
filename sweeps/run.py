"""A sweep: what its spec asks for, less what the store holds, trained, stored and merged."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scaling import count, table
from scaling.config import ConfigError, DataConfig, Execution, RunConfig
from sweeps import estimate
from sweeps.jobs import Job, Queue, execute, headline
from sweeps.progress import Display, clock, flops, si
from sweeps.spec import Spec
from sweeps.store import Row, Store, StoreError, machine

if TYPE_CHECKING:
    import pandas as pd

_GRACE_SECONDS = 6.0
"""After Ctrl-C, workers have this long to write their checkpoints."""


class Stopped(KeyboardInterrupt):
    """The sweep was stopped by Ctrl-C or SIGTERM; what was measured is kept, it can be resumed."""


@dataclass(frozen=True)
class Plan:
    """What a sweep has left to do."""

    runs: dict[str, RunConfig]
    """{run_id: run}: all of the spec."""
    finished: dict[str, str]
    """{run_id: status} of those that need no training."""
    missing: dict[str, RunConfig]
    """{run_id: run}, dearest first."""
    seconds: dict[str, float]
    """{run_id: estimated seconds on one worker} of the missing ones."""
    speed: estimate.Speed
    workers: int

    @property
    def tokens(self) -> int:
        """Training tokens to process."""
        return sum(run.D for run in self.missing.values())

    @property
    def flops(self) -> float:
        """Training FLOPs to spend, 6 N D."""
        return sum(flops(run) for run in self.missing.values())

    @property
    def wall_seconds(self) -> float:
        """Estimated wall clock: longest first, each job to the worker that is free first."""
        ends = [0.0] * self.workers
        for run_id in self.missing:
            first = ends.index(min(ends))
            ends[first] += self.seconds[run_id]
        return max(ends)

    def __str__(self) -> str:
        states = list(self.finished.values())
        counts = [f"{len(states)} finished"] if states else []
        for status in ("diverged", "failed"):
            if status in states:
                counts.append(f"{states.count(status)} of them {status}")
        lines = [
            f"{len(self.runs)} runs: {', '.join([*counts, f'{len(self.missing)} to train'])}",
        ]
        if not self.missing:
            return lines[0]
        sizes: dict[int, dict[str, RunConfig]] = {}
        for run_id, run in self.missing.items():
            N = count.parameters(run.model, run.data.vocab_size).N
            sizes.setdefault(N, {})[run_id] = run
        lines.append(
            f"{'N':>8}  {'shape':<22} {'runs':>5}  {'D [tokens]':<15} {'FLOPs':>8} {'time':>7}"
        )
        for N, by_id in sorted(sizes.items()):
            runs = list(by_id.values())
            shapes = {
                f"{r.model.n_layer} x {r.model.d_model}, {r.model.n_head} heads" for r in runs
            }
            D = sorted({run.D for run in runs})
            span = si(D[0]) if len(D) == 1 else f"{si(D[0])} .. {si(D[-1])}"
            seconds = sum(self.seconds[run_id] for run_id in by_id)
            shape = shapes.pop() if len(shapes) == 1 else f"{len(shapes)} shapes"
            total = si(sum(map(flops, runs)))
            lines.append(
                f"{si(N):>8}  {shape:<22} {len(runs):>5}  {span:<15} {total:>8} {clock(seconds):>7}"
            )
        ground = {0: "a guess: nothing measured on this machine"}.get(
            self.speed.samples, f"from {self.speed.samples} measurements"
        )
        lines.append(
            f"total {si(self.flops, 'FLOPs')}, {si(self.tokens, ' tokens')}; about "
            f"{clock(self.wall_seconds)} with {self.workers} workers ({ground})"
        )
        return "\n".join(lines)


class Sweep:
    """Many runs and the folder that their results go to.

        runs = Sweep.from_toml("quickstart").run(workers=2)

    Call again: only what is missing is trained.
    """

    def __init__(self, spec: Spec, results: str | Path | None = None) -> None:
        """Results go to `results`/<name of the spec>; ./results where not given."""
        self.spec = spec
        self._results = results
        self.store = Store(Path("results" if results is None else results) / spec.name)

    @classmethod
    def from_toml(
        cls,
        path_or_name: str | Path,
        results: str | Path | None = None,
        *,
        changes: dict[str, Any] | None = None,
    ) -> Sweep:
        """A sweep from a TOML file or the name of a bundled spec. Raises ConfigError.

        `changes`, {dotted key: value}, hold for every run; 'name' among them renames the sweep.
        """
        return cls(Spec.from_toml(path_or_name, changes), results)

    @property
    def folder(self) -> Path:
        """Where the results are."""
        return self.store.folder

    # -------------------------------------------------------------- planning

    def plan(self, *, workers: int = 2, measure: bool = False) -> Plan:
        """What is missing, and what it takes.

        Estimates rest on finished runs of this folder; with `measure`, and where there are none,
        on a few seconds of training in child processes. Raises StoreError, ConfigError.
        """
        _positive(workers, "workers")
        return self._plan(self.store.rows(), workers, measure)

    def _plan(self, rows: dict[str, Row], workers: int, measure: bool) -> Plan:
        runs = self.spec.by_id
        missing = {run_id: run for run_id, run in runs.items() if run_id not in rows}
        samples = estimate.samples_of(rows.values())
        if measure and missing and not samples:
            some = list(missing.values())
            try:
                samples = estimate.measure(some, workers=workers, threads=threads_for(workers))
            except RuntimeError as error:
                raise ConfigError(f"measuring this machine's speed failed: {error}") from None
        speed = estimate.speed(samples)
        seconds = {run_id: speed.seconds(run) for run_id, run in missing.items()}
        dearest_first = sorted(missing, key=lambda run_id: -seconds[run_id])
        missing = {run_id: missing[run_id] for run_id in dearest_first}
        finished = {run_id: rows[run_id]["status"] for run_id in runs if run_id in rows}
        return Plan(runs, finished, missing, seconds, speed, workers)

    # -------------------------------------------------------------- running

    def run(
        self,
        workers: int = 2,
        *,
        in_process: bool = False,
        retries: int = 2,
        retry_failed: bool = False,
        device: str = "auto",
        checkpoint_seconds: float = 60.0,
        console: Console | None = None,
        quiet: bool = False,
    ) -> pd.DataFrame:
        """Train what is missing and return the merged table (scaling.table.COLUMNS).

        `workers` processes under Ray Tune, each with its share of the cores; `in_process` trains
        one run after another here, with the same threads and so the same numbers. A run whose
        worker dies more than `retries` times, or that raises, ends as a row with status 'failed'.

        Raises ConfigError and StoreError before anything starts, StoreError when results can no
        longer be written, and Stopped (a KeyboardInterrupt) on Ctrl-C or SIGTERM, after the
        workers have written checkpoints. Nothing that has finished is ever lost or trained again.
        """
        _positive(workers, "workers")
        if retries < 0:
            raise ConfigError(f"retries={retries} must not be negative.")
        console = console or Console(quiet=quiet)
        rows = self.store.rows()
        if retry_failed:
            mine = rows.keys() & self.spec.by_id.keys()
            failed = [run_id for run_id in mine if rows[run_id]["status"] == "failed"]
            if failed:
                with self.store.drive():
                    self.store.forget(failed)
                rows = self.store.rows()
        plan = self._plan(rows, workers, measure=False)
        self._say_messages(console)
        if plan.missing:
            self._train(plan, rows, in_process, retries, device, checkpoint_seconds, console)
        elif not (self.folder / "runs.csv").is_file() or rows.keys() - self.store.merged():
            with self.store.drive():
                self.store.merge()
        else:
            _say(console, f"{len(plan.runs)} runs, all finished: nothing to train.")
        extra = rows.keys() - self.spec.by_id.keys()
        if extra:
            _say(
                console,
                f"{len(extra)} finished runs in {_short(self.folder)} are not in this spec; their "
                "rows stay in its table.",
            )
        return table.read(self.folder)

    def _train(
        self,
        plan: Plan,
        rows: dict[str, Row],
        in_process: bool,
        retries: int,
        device: str,
        checkpoint_seconds: float,
        console: Console,
    ) -> None:
        started = time.time()
        self.store.check_writable()
        threads = threads_for(plan.workers)
        execution = Execution(device=device, threads=threads, checkpoint_seconds=checkpoint_seconds)
        workers = 1 if in_process else min(plan.workers, len(plan.missing))
        with self.store.drive():
            hashes = self._prepare(list(plan.missing.values()), rows)
            self._write_manifest(hashes)
            where = "in this process" if in_process else f"on {workers} workers"
            wall = clock(plan.wall_seconds)
            _say(
                console,
                f"{self.spec.name}: {len(plan.missing)} of {len(plan.runs)} runs to train, "
                f"{si(plan.flops, 'FLOPs')}, {si(plan.tokens, ' tokens')}, {where}, about {wall}",
            )
            queue = Queue(self.store, retries)
            queue.add(Job((run,), plan.seconds[run_id]) for run_id, run in plan.missing.items())

            def stop() -> None:
                queue.stopping = True
                if not in_process:
                    self.store.stop_file.touch()

            display = Display(
                queue, self.store, plan.runs, plan.seconds, workers=workers, console=console
            )
            hard = False
            with _interruptible(stop):
                try:
                    with display:
                        if in_process:
                            _run_here(queue, execution)
                        else:
                            from sweeps.tune import run_on_ray

                            run_on_ray(queue, workers=workers, threads=threads, execution=execution)
                except KeyboardInterrupt:
                    hard = True
            if queue.fatal:  # a full disk, most likely, on which merging fails as well
                with contextlib.suppress(StoreError):
                    self.store.merge()
                raise StoreError(queue.fatal)
            self.store.merge()
            self._say_messages(console)
            busy, idle, jobs = _busy_and_idle(queue)
            session = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
                "wall_seconds": round(time.time() - started, 2),
                "jobs": jobs,
                "busy_seconds": round(busy, 2),
                "idle_seconds_between_jobs": round(idle, 2),
                "executor": "in process" if in_process else "ray tune",
                "workers": workers,
                "threads": threads,
                "device": device,
            }
            self._write_manifest(hashes, session)
            self._say_end(queue, time.time() - started, workers, console)
            if queue.stopping or hard:
                command = self._command(plan.workers, in_process)
                raise Stopped(f"stopped; what has finished is kept. Resume with: {command}")

    def _prepare(self, missing: list[RunConfig], rows: dict[str, Row]) -> dict[str, str]:
        """Make the token files; refuse to mix results on different ones. {corpus: hash}."""
        from scaling import corpus

        # Subsets are drawn from the same token files.
        names = [f.name for f in fields(DataConfig) if f.name not in ("unique_tokens", "data_seed")]
        files = {tuple(getattr(run.data, name) for name in names): run.data for run in missing}
        hashes = {}
        for key, data in files.items():
            full = corpus.prepare(data).hash
            hashes[" ".join(str(value) for value in key if value is not None)] = full
            for row in rows.values():
                was = row["corpus_hash"]  # the table keeps its first digits
                same = tuple(row.get(name) for name in names) == key
                if same and was and not full.startswith(was):
                    raise StoreError(
                        f"{self.folder}: run {row['run_id']} was trained on another text: corpus "
                        f"{data.corpus!r} ({data.tokenizer}) had hash {was} and has "
                        f"{full[: len(was)]} now. Losses would not compare; use another folder with "
                        "--results, or restore the text."
                    )
        return hashes

    # -------------------------------------------------------------- after it

    def _write_manifest(self, hashes: dict[str, str], session: Row | None = None) -> None:
        """Write what the results rest on; `session` is this call's account, once it has ended."""
        before = self.store.manifest()
        sessions = before.get("sessions")
        sessions = sessions if isinstance(sessions, list) else []
        sessions += [session] if session else []
        old = before.get("corpus_hashes")
        self.store.write_manifest(
            {
                "name": self.spec.name,
                "description": self.spec.description,
                "schema": table.SCHEMA,
                "revision": _revision(),
                "versions": _versions(),
                "machine": machine(),
                "corpus_hashes": (old if isinstance(old, dict) else {}) | hashes,
                "wall_seconds": round(sum(s["wall_seconds"] for s in sessions), 2),
                "sessions": sessions,
                "spec": self.spec.text,
                "changes": self.spec.changes,
            }
        )

    def _say_end(self, queue: Queue, wall: float, workers: int, console: Console) -> None:
        states = [outcome.status for outcome in queue.outcomes]
        counts = [f"{states.count(s)} {s}" for s in ("ok", "diverged", "failed") if states.count(s)]
        busy, idle, jobs = _busy_and_idle(queue)
        share = f"; workers idle between jobs {100 * idle / (busy + idle):.1f}%" if jobs > 1 else ""
        _say(console, f"{', '.join(counts) or 'nothing finished'} in {clock(wall)}{share}")
        for outcome in [o for o in queue.outcomes if o.status == "failed"][:3]:
            log = _short(self.store.run_folder(outcome.run_id) / "output.log")
            _say(console, f"  {outcome.run_id} failed: {headline(outcome.error)} ({log})")
        _say(console, f"table: {_short(self.folder / 'runs.csv')}")

    def _say_messages(self, console: Console) -> None:
        for message in self.store.messages:
            _say(console, message)
        self.store.messages.clear()

    def _command(self, workers: int, in_process: bool) -> str:
        """The command line that goes on where this call stopped."""
        name = self.spec.name if self.spec.path is None else str(self.spec.path)
        if self.spec.path and self.spec.path.parent == Path(__file__).parent / "specs":
            name = self.spec.path.stem
        words = ["scaling", "sweep", name, "--workers", str(workers)]
        if self._results is not None:
            words += ["--results", str(self._results)]
        for key, value in self.spec.changes.items():
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return shlex.join([*words, *(["--in-process"] if in_process else [])])


def threads_for(workers: int) -> int:
    """CPU threads of each worker: an even share of the cores."""
    # Not every system can say which of its cores this process may use.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // workers)


def _run_here(queue: Queue, execution: Execution) -> None:
    """The executor without Ray: one job after another in this process."""
    while job := queue.take():
        try:
            queue.finish(job, execute(job, queue.store, execution, lambda: queue.stopping))
        except StoreError as error:
            queue.fatal = str(error)
            queue.release(job)


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) once: `stop()`, and the block ends by itself. Twice, or after the grace
    period: KeyboardInterrupt in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(_GRACE_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        timer.start()
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _busy_and_idle(queue: Queue) -> tuple[float, float, int]:
    """Seconds that workers trained, seconds that they waited between two jobs, and the jobs."""
    by_worker: dict[int, list[tuple[float, float]]] = {}
    for outcome in queue.outcomes:
        if outcome.pid:
            by_worker.setdefault(outcome.pid, []).append((outcome.started, outcome.ended))
    busy = idle = 0.0
    for spans in by_worker.values():
        spans.sort()
        busy += sum(end - start for start, end in spans)
        idle += sum(b[0] - a[1] for a, b in itertools.pairwise(spans))
    return busy, idle, sum(map(len, by_worker.values()))


def _revision() -> str | None:
    """Git revision of this package's source, with '+' where it has changes; None outside git."""
    import subprocess

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *words],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if not revision:
        return None
    return revision + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from sweeps import __distribution__

    found = {}
    for name in (__distribution__, "torch", "ray", "numpy", "pandas", "tokenizers", "tiktoken"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _positive(value: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")


def _short(path: Path) -> str:
    """A path as seen from here, where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
