"""The state of a results folder: its finished and its running runs.

Imports neither ray nor torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scaling import size
from scaling.columns import STATUSES
from scaling.command_run import CommandRun, Run
from scaling.errors import ConfigError
from scaling.run_progress import CHECKPOINT
from scaling.units import clock, si
from sweeps import kept_weights, own_sizes
from sweeps.adaptive.growth import Growth
from sweeps.costs import fit_speed, samples_of
from sweeps.errors import StoreError, headline
from sweeps.estimate import Estimate, recorded, seconds_left
from sweeps.result import Row
from sweeps.runner.identity import as_recorded
from sweeps.runner.speed import speed_of
from sweeps.spec import Spec
from sweeps.store import Store

_MOST_FAILURES = 10
"""Number of failed runs that are listed."""


Sizes = tuple[float | None, float | None, float | None]
"""N, D and B of a run, as far as they are known."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Counts of a sweep's runs, and those that run now."""

    folder: Path | str
    name: str
    runs: int
    """Number of runs in the spec, or of finished runs if no spec is known."""
    finished: dict[str, int]
    """{status: number of runs} for each of scaling.columns.STATUSES."""
    running: dict[str, dict[str, float]]
    """{run_id: its last progress report}."""
    missing: int
    """Number of runs that are neither finished nor running."""
    interrupted: int
    """Number of missing runs that resume from a checkpoint."""
    seconds: float | None
    """Estimated seconds that the unfinished runs take with `workers`; None if there are none, or if
    nothing is known of the time of a command."""
    workers: int
    """Number of workers that train now, or that trained last."""
    active: bool
    """Whether a process works on the sweep now."""
    state: str
    """What that process does other than train, such as 'stopping'; else empty."""
    failures: dict[str, str]
    """{run_id: headline of its error} of the failed runs."""
    C: float
    """FLOPs of the runs, 6 N D, or tokens if their sizes are not known; 0 if no spec is known."""
    C_done: float
    """FLOPs, or tokens, of the finished runs and of what is trained of the others and not lost."""
    unit: str = "FLOPs"
    """Unit of C as it follows a number."""
    sizes: dict[str, Sizes]
    """{run_id: (N, D, B)} of the runs that are running or have failed."""
    searches: tuple[str, ...] = ()
    """State of each search of [until], one line each."""
    weightless: str = ""
    """A line about finished runs without the weights that the spec asks for, if there are any."""
    notes: tuple[str, ...] = ()
    """Faults of the folder's files, one line each."""

    @property
    def line(self) -> str:
        """Name, counts, the fraction done and the time left, in one line."""
        left = f"; {self.time_left}" if self.time_left else ""
        return f"{self.counts}{left}"

    @property
    def time_left(self) -> str:
        """The estimated time of the unfinished runs, in words; empty if there are none."""
        if not (self.running or self.missing):
            return ""
        if self.active and self.state:
            return self.state
        if self.seconds is None:
            unknown = "the time left is unknown until a run has finished"
            return unknown if self.active else f"not running; {unknown}"
        if self.active:
            return f"about {clock(self.seconds)} to go"
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        return f"not running; about {clock(self.seconds)} with {workers} once resumed"

    @property
    def counts(self) -> str:
        """Name, counts and the fraction done, in one line."""
        counts = [f"{number} {status}" for status, number in self.finished.items() if number]
        counts += [f"{len(self.running)} running"] if self.running else []
        resumable = f" ({self.interrupted} with a checkpoint)" if self.interrupted else ""
        counts += [f"{self.missing} missing{resumable}"] if self.missing else []
        line = f"{self.name}: {self.runs} runs: {', '.join(counts) or 'none'}"
        if self.C_done < self.C:
            line += f"; {100 * self.C_done / self.C:.0f}% of {si(self.C, self.unit)}"
        return line

    def __str__(self) -> str:
        lines = [self.counts, *self.searches, *filter(None, [self.weightless])]
        for run_id, progress in self.running.items():
            L = progress.get("L") or progress.get("L_train")
            part = "starting"
            if {"step", "steps"} <= progress.keys():
                part = f"step {progress['step']} of {progress['steps']}"
            loss = f", L={L:.4f}" if L else ""
            rate = progress.get("tokens_per_second")
            rate = f", {si(rate)} tokens/s" if rate else ""
            lines.append(f"  {run_id}  {self._size(run_id)}{part}{loss}{rate}")
        if self.time_left:
            lines.append(self.time_left)
        for run_id, error in list(self.failures.items())[:_MOST_FAILURES]:
            lines.append(f"  {run_id}  {self._size(run_id)}failed: {error}")
        if self.failures:
            some = next(iter(self.failures))
            lines.append(
                f"`scaling logs {self.folder} {some[:6]}` shows more; the command of this sweep "
                "with --retry-failed trains failed runs again"
            )
        return "\n".join(lines)

    def _size(self, run_id: str) -> str:
        """Return N, D and B of a run for people, if they are known."""
        values = zip("NDB", self.sizes.get(run_id, ()), strict=False)
        cells = [f"{name}={si(value)}" for name, value in values if value is not None]
        return f"{' '.join(cells)}  " if cells else ""


def status(
    folder: str | Path,
    spec: Spec | None = None,
    *,
    filters: Sequence[str] = (),
    tag: str | None = None,
) -> Status:
    """Return the state of a results folder, compared with `spec` or the spec in its manifest.

    `filters` and `tag` select runs as in :meth:`sweeps.spec.Spec.select`. Raises StoreError if the
    folder holds no sweep, and ConfigError if no run is selected.
    """
    store = Store(folder)
    store.pull()
    where = _check_sweep(store)
    spec = _selected(spec or _recorded_spec(store), filters, tag, where)
    rows = store.rows()
    growth = _growth(store, spec, rows)
    runs = growth.runs
    rows = {run_id: row for run_id, row in rows.items() if run_id not in growth.unfinished}
    ids = list(runs) if runs else sorted(rows)
    done = [rows[run_id] for run_id in ids if run_id in rows]
    unfinished = [run_id for run_id in ids if run_id not in rows]
    under_way = store.running(unfinished)
    reports = store.progress_of(unfinished)
    running = {run_id: reports.get(run_id, {}) for run_id in under_way}
    missing = [run_id for run_id in unfinished if run_id not in running]
    counts = Counter(row["status"] for row in done)
    C = {run_id: size.work_of(run) for run_id, run in runs.items()}
    left = {run_id: runs[run_id] for run_id in unfinished}
    done_parts = _done_parts(store, left, running, reports)
    estimate = _estimate(store, left, rows)
    failed = [row for row in done if row["status"] == "failed"]
    if (job := store.slurm_job()) and not (store.folder / "manifest.json").exists():
        store.say(f"Slurm job {job} was submitted and has not started the sweep yet")
    ok = [row["run_id"] for row in done if row["status"] == "ok"]
    return Status(
        folder=where,
        name=spec.name if spec else str(store.manifest().get("name", store.folder.name)),
        runs=len(ids),
        finished={state: counts[state] for state in STATUSES},
        running=running,
        missing=len(missing),
        interrupted=sum((store.run_folder(r) / CHECKPOINT).exists() for r in missing),
        seconds=_seconds(estimate, left, done_parts),
        workers=estimate.workers,
        active=bool(running) or store.driver() is not None,
        state=estimate.state,
        failures={row["run_id"]: headline(row.get("error") or "") for row in failed},
        C=sum(C.values()),
        C_done=sum(C.get(row["run_id"], 0.0) for row in done)
        + sum(part * C[run_id] for run_id, part in done_parts.items()),
        unit=size.unit_of(runs.values()),
        sizes={row["run_id"]: _size_of_row(row) for row in failed}
        | {run_id: _size_of_run(left[run_id]) for run_id in running},
        searches=tuple(growth.notes),
        weightless=kept_weights.missing(store, ok) if spec and spec.keep_weights else "",
        notes=tuple(store.messages),
    )


def _selected(
    spec: Spec | None, filters: Sequence[str], tag: str | None, where: Path | str
) -> Spec | None:
    """Return the spec with the selected runs. Raises StoreError if runs of no spec are selected."""
    if not filters and tag is None:
        return spec
    if spec is None:
        raise StoreError(
            f"{where} has no manifest with the sweep's spec, which is needed to select runs. "
            "Leave out --filter and --tag."
        )
    return spec.select(filters, tag)


def requested_runs(folder: str | Path) -> tuple[dict[str, Run], tuple[str, ...]]:
    """Return {run_id: config} of the runs that the recorded spec of a results folder calls for,
    given the results so far, and notes; no runs if there is no usable spec."""
    store = Store(folder)
    store.pull()
    spec = _recorded_spec(store)
    runs = {} if spec is None else dict(_growth(store, spec, store.rows()).runs)
    return runs, tuple(store.messages)


def _done_parts(
    store: Store,
    left: Mapping[str, Run],
    running: Collection[str],
    reports: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """Return the fraction of each unfinished run that is trained and not lost."""
    return {
        run_id: store.fraction_done(
            run_id, run.D, running=run_id in running, report=reports.get(run_id, {})
        )
        for run_id, run in left.items()
    }


def _check_sweep(store: Store) -> Path | str:
    """Return the name of a store's folder. Raises StoreError if the folder holds no sweep."""
    where = store.shown(store.folder)
    known = ("runs", "runs.csv", "manifest.json", "slurm")
    if not any((store.folder / name).exists() for name in known):
        what = "holds no results" if store.folder.is_dir() else "is not there"
        raise StoreError(
            f"{where} {what}. Give the folder of a sweep, such as results/quickstart "
            "(`scaling sweep SPEC` makes one)."
        )
    return where


def _growth(store: Store, spec: Spec | None, rows: dict[str, Row]) -> Growth:
    """Return the runs that the spec calls for, given the results so far."""
    if spec is None:
        return Growth()
    rounds = store.rounds() if spec.by_design else ()
    try:
        return spec.designed(rows, None, rounds)
    except ConfigError as error:  # sizes of a custom family, whose code does not run here
        store.messages.append(f"the runs that [until] asks for are not known: {error}")
        return Growth()


def _recorded_spec(store: Store) -> Spec | None:
    """Return the spec in the manifest without running code that it names; None if it is
    unusable."""
    manifest = store.manifest()
    text, changes = manifest.get("spec"), manifest.get("changes")
    own_sizes.recall(manifest.get("own_sizes"))
    if not isinstance(text, str) or not text:
        return None
    changes = changes if isinstance(changes, dict) else {}
    path = store.folder / "manifest.json"
    try:
        return Spec.from_text(text, path=path, changes=changes, identity=as_recorded(manifest))
    except ConfigError as error:
        store.messages.append(f"the spec in {store.shown(store.folder / 'manifest.json')}: {error}")
        return None


def _estimate(store: Store, left: Mapping[str, Run], rows: Mapping[str, Row]) -> Estimate:
    """Return the estimate for the unfinished runs `left`.

    It is the one that the sweep recorded. Runs that it does not know, or all of them without it,
    are estimated from the finished runs.
    """
    found = recorded(store) or Estimate(workers=_workers(store), jobs=[])
    jobs = [{r: seconds for r, seconds in job.items() if r in left} for job in found.jobs]
    unknown = left.keys() - {run_id for job in jobs for run_id in job}
    if unknown:
        speed, by_size = fit_speed(samples_of(rows.values())), speed_of(rows.values())
        for run_id in unknown:
            run = left[run_id]
            if not isinstance(run, CommandRun):
                jobs.append({run_id: speed.seconds(run)})
            elif by_size.samples:
                jobs.append({run_id: by_size.seconds(run)})
    return replace(found, jobs=jobs, workers=max(found.workers, len(store.drivers())))


def _seconds(
    estimate: Estimate, left: Mapping[str, Run], done_parts: Mapping[str, float]
) -> float | None:
    """Return the seconds that the runs `left` take; None if there are none or one is unknown."""
    known = {run_id for job in estimate.jobs for run_id in job}
    if not left or left.keys() - known:
        return None
    return seconds_left(estimate.jobs, done_parts, estimate.workers)


def _workers(store: Store) -> int:
    """Return the number of workers of the last session in the manifest; 1 if it is unknown."""
    sessions = store.manifest().get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else None
    workers = last.get("workers") if isinstance(last, dict) else None
    return workers if type(workers) is int and workers > 0 else 1


def _size_of_run(run: Run) -> Sizes:
    return size.N_of(run), run.D, run.batch_tokens


def _size_of_row(row: Row) -> Sizes:
    N, D, B = (float(row.get(name) or 0) or None for name in ("N", "D", "B"))
    return N, D, B
