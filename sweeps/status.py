"""What a results folder holds and what is under way in it. Imports neither ray nor torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling import schema
from scaling.config import RunConfig
from scaling.errors import ConfigError
from scaling.units import clock, si
from sweeps import own_sizes
from sweeps.adaptive.growth import Growth
from sweeps.budget import flops
from sweeps.costs import fit_speed, samples_of
from sweeps.display import eta
from sweeps.errors import StoreError, headline
from sweeps.result import Row
from sweeps.spec import Spec
from sweeps.store import Store


@dataclass(frozen=True)
class Status:
    """Counts of a sweep's runs, and what is under way."""

    folder: Path | str
    name: str
    runs: int
    """Of the spec; finished ones where no spec is known."""
    finished: dict[str, int]
    """{status: number} of each of scaling.table.STATUSES."""
    running: dict[str, Row]
    """{run_id: what it last said of itself}."""
    missing: int
    """Neither finished nor running."""
    interrupted: int
    """Those of the missing ones that resume from a checkpoint."""
    seconds: float | None
    """Estimated seconds to go, with the workers that run now; None where nothing runs."""
    failures: dict[str, str]
    """{run_id: last line of its error} of failed runs."""
    C: float
    """FLOPs of the runs, 6 N D; 0 where no spec is known."""
    C_done: float
    """Those spent already, running runs included."""
    said: tuple[str, ...] = ()
    """Where the searches of [until] stand, a line each."""
    notes: tuple[str, ...] = ()
    """What was wrong with files of the folder, a line each."""

    @property
    def line(self) -> str:
        """Name, counts and the part done, in one line."""
        counts = [f"{number} {status}" for status, number in self.finished.items() if number]
        counts += [f"{len(self.running)} running"] if self.running else []
        resumable = f" ({self.interrupted} with a checkpoint)" if self.interrupted else ""
        counts += [f"{self.missing} missing{resumable}"] if self.missing else []
        line = f"{self.name}: {self.runs} runs: {', '.join(counts) or 'none'}"
        if self.C_done < self.C:
            line += f"; {100 * self.C_done / self.C:.0f}% of {si(self.C, 'FLOPs')}"
        return line

    def __str__(self) -> str:
        lines = [self.line, *self.said]
        for run_id, said in self.running.items():
            L = said.get("L") or said.get("L_train")
            part = "starting"
            if {"step", "steps"} <= said.keys():
                part = f"step {said['step']} of {said['steps']}"
            loss = f", L={L:.4f}" if L else ""
            rate = said.get("tokens_per_second")
            lines.append(f"  {run_id}  {part}{loss}{f', {si(rate)} tokens/s' if rate else ''}")
        if self.seconds is not None:
            lines.append(f"about {clock(self.seconds)} to go")
        for run_id, error in list(self.failures.items())[:10]:
            lines.append(f"  {run_id}  failed: {error}")
        if self.failures:
            some = next(iter(self.failures))
            lines.append(
                f"`scaling logs {self.folder} {some[:6]}` shows more; `scaling sweep ... "
                "--retry-failed` trains failed runs again"
            )
        return "\n".join(lines)


def status(
    folder: str | Path,
    spec: Spec | None = None,
    *,
    filters: Sequence[str] = (),
    tag: str | None = None,
) -> Status:
    """The state of a results folder, against `spec` or the one that its manifest holds.

    `filters` and `tag` choose among its runs, as for :meth:`sweeps.spec.Spec.select`. Raises
    StoreError where the folder holds no sweep, ConfigError where no run is chosen.
    """
    store = Store(folder)
    store.pull()
    where = store.said(store.folder)
    known = any((store.folder / name).exists() for name in ("runs", "runs.csv", "manifest.json"))
    if not known:
        what = "holds no results" if store.folder.is_dir() else "is not there"
        raise StoreError(
            f"{where} {what}. Give the folder of a sweep, such as results/quickstart "
            "(`scaling sweep SPEC` makes one)."
        )
    spec = spec or _recorded(store)
    if filters or tag is not None:
        if spec is None:
            raise StoreError(
                f"{where} holds no manifest with the sweep's spec, by which runs could be chosen. "
                "Leave out --filter and --tag."
            )
        spec = spec.select(filters, tag)
    rows = store.rows()
    rounds = store.rounds() if spec and spec.by_design else ()
    growth = Growth()
    try:
        growth = spec.designed(rows, None, rounds) if spec else growth
    except ConfigError as error:  # sizes that only somebody's code knows
        store.messages.append(f"the runs that [until] asks for are not known: {error}")
    runs = growth.runs
    rows = {run_id: row for run_id, row in rows.items() if run_id not in growth.unfinished}
    ids = list(runs) if runs else sorted(rows)
    done = [rows[run_id] for run_id in ids if run_id in rows]
    unfinished = [run_id for run_id in ids if run_id not in rows]
    running: dict[str, Row] = {r: store.progress(r) or {} for r in store.running(unfinished)}
    missing = [run_id for run_id in unfinished if run_id not in running]
    counts = Counter(row["status"] for row in done)
    finished = {state: counts[state] for state in schema.STATUSES}
    C = {run_id: flops(run) for run_id, run in runs.items()}
    parts = {r: min(1.0, said.get("D", 0) / runs[r].D) for r, said in running.items() if r in runs}
    C_done = sum(C.get(row["run_id"], 0.0) for row in done)
    C_done += sum(part * C[run_id] for run_id, part in parts.items())
    return Status(
        folder=where,
        name=spec.name if spec else str(store.manifest().get("name", store.folder.name)),
        runs=len(ids),
        finished=finished,
        running=running,
        missing=len(missing),
        interrupted=sum((store.run_folder(r) / "checkpoint.pt").exists() for r in missing),
        seconds=_to_go(runs, rows, running),
        failures={
            row["run_id"]: headline(row.get("error") or "")
            for row in done
            if row["status"] == "failed"
        },
        C=sum(C.values()),
        C_done=C_done,
        said=tuple(growth.said),
        notes=tuple(store.messages),
    )


def _recorded(store: Store) -> Spec | None:
    """The spec in the manifest; None where there is no usable one. It runs no code that it names."""
    manifest = store.manifest()
    text, changes = manifest.get("spec"), manifest.get("changes")
    own_sizes.recall(manifest.get("own_sizes"))
    if not isinstance(text, str) or not text:
        return None
    changes = changes if isinstance(changes, dict) else {}
    try:
        return Spec.from_text(text, path=store.folder / "manifest.json", changes=changes)
    except ConfigError as error:
        store.messages.append(f"the spec in {store.said(store.folder / 'manifest.json')}: {error}")
        return None


def _to_go(
    runs: dict[str, RunConfig], rows: dict[str, Row], running: dict[str, Row]
) -> float | None:
    if not running:
        return None
    speed = fit_speed(samples_of(rows.values()))
    total = 0.0
    for run_id, run in runs.items():
        if run_id not in rows:
            part = running.get(run_id, {}).get("D", 0) / run.D
            total += speed.seconds(run) * (1 - min(1.0, part))
    return eta(0.0, 0.0, total, len(running))
