"""The manifest of a results folder, and the entry that each call of a sweep adds to it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from scaling.columns import SCHEMA
from scaling.command_run import Run
from scaling.config import RunConfig
from sweeps import own_sizes
from sweeps.options import SweepOptions
from sweeps.provenance import machine, revision, versions
from sweeps.queue import Queue, busy_and_idle
from sweeps.result import from_json, to_json
from sweeps.spec import Spec
from sweeps.store import Store
from sweeps.sweep_plan import SweepPlan

_LONGEST_SECONDS = 1e12
"""Longer wall-clock times in a manifest are taken for damage."""


class Session:
    """The entry of one call in manifest.json: the code, packages, machine and options it used."""

    def __init__(
        self,
        *,
        spec: Spec,
        store: Store,
        hashes: dict[str, str],
        plan: SweepPlan,
        options: SweepOptions,
    ) -> None:
        """Write the manifest with a new entry; entries of earlier sessions stay as they are.

        `hashes` are the hashes of the texts by name. Raises StoreError.
        """
        self._store = store
        self._started = time.monotonic()
        provenance = {
            "revision": revision(),
            "versions": versions(),
            "machine": machine(),
            "spec": spec.text,
            "changes": spec.changes,
        }
        self._entry: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "executor": "in process" if options.in_process else "ray tune",
            "workers": plan.workers,
            "threads": options.threads,
            "device": options.device,
            "devices": options.devices,
            "nodes": options.nodes,
            "shard": options.shard,
            "compile": options.compile,
            **provenance,
        }
        before = store.manifest()
        old = before.get("corpus_hashes")
        self._written: Any = None
        """The entry as last written."""
        self._top: dict[str, Any] = {
            "name": spec.name,
            "description": spec.description,
            "schema": SCHEMA,
            **provenance,
            "corpus_hashes": (old if isinstance(old, dict) else {}) | hashes,
        }
        if spec.runner is not None:
            self._top["runner"] = spec.recorded.record()
        self._sizes = own_sizes.together(before.get("own_sizes"), [])
        self.note_sizes([*spec.runs, *plan.runs.values()])
        self._write()

    def note_sizes(self, runs: Iterable[Run]) -> None:
        """Record the sizes of models of custom families, to be written with the manifest's next
        update."""
        self._sizes = own_sizes.together(
            self._sizes, own_sizes.record(run for run in runs if isinstance(run, RunConfig))
        )
        if self._sizes:
            self._top["own_sizes"] = self._sizes

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the session began."""
        return time.monotonic() - self._started

    def end(self, queue: Queue) -> None:
        """Add to the entry what was done and how long it took. Raises StoreError."""
        busy, idle, jobs = busy_and_idle(queue)
        self._entry |= {
            "wall_seconds": round(self.seconds, 2),
            "jobs": jobs,
            "busy_seconds": round(busy, 2),
            "idle_seconds_between_jobs": round(idle, 2),
        }
        self._write()

    def _write(self) -> None:
        before = self._store.manifest().get("sessions")  # other drivers may share the folder
        sessions = [s for s in before if isinstance(s, dict)] if isinstance(before, list) else []
        entry = from_json(to_json(self._entry))
        if self._written in sessions:
            sessions[sessions.index(self._written)] = entry
        else:
            sessions.append(entry)
        self._written = entry
        spent = (session.get("wall_seconds") for session in sessions)
        wall = sum(s for s in spent if isinstance(s, int | float) and 0 <= s < _LONGEST_SECONDS)
        whole = {"wall_seconds": round(wall, 2), "sessions": sessions}
        self._store.write_manifest(self._top | whole)
