"""The entry of one call in a sweep's manifest.json."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from scaling import schema
from scaling.config import RunConfig
from sweeps import own_sizes
from sweeps.options import Call
from sweeps.provenance import machine, revision, versions
from sweeps.queue import Queue, busy_and_idle
from sweeps.spec import Spec
from sweeps.store import Store
from sweeps.sweep_plan import Plan


class Session:
    """This call's entry in the manifest: what its results rest on, taken once, as it starts."""

    def __init__(
        self,
        spec: Spec,
        store: Store,
        hashes: dict[str, str],
        plan: Plan,
        call: Call,
    ) -> None:
        """Writes the manifest; entries of earlier sessions stay as they are. Raises StoreError."""
        self._store = store
        self._started = time.monotonic()
        rests_on = {
            "revision": revision(),
            "versions": versions(),
            "machine": machine(),
            "spec": spec.text,
            "changes": spec.changes,
        }
        self._entry: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "executor": "in process" if call.in_process else "ray tune",
            "workers": plan.workers,
            "threads": call.execution.threads,
            "device": call.execution.device,
            "devices": call.execution.devices,
            "nodes": call.execution.nodes,
            "shard": call.execution.shard,
            "compile": call.execution.compile,
            **rests_on,
        }
        before = store.manifest()
        sessions, old = before.get("sessions"), before.get("corpus_hashes")
        earlier = [s for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []
        self._sessions: list[dict[str, Any]] = [*earlier, self._entry]
        self._top: dict[str, Any] = {
            "name": spec.name,
            "description": spec.description,
            "schema": schema.SCHEMA,
            **rests_on,
            "corpus_hashes": (old if isinstance(old, dict) else {}) | hashes,
        }
        self._sizes = own_sizes.together(before.get("own_sizes"), [])
        self.note_sizes([*spec.runs, *plan.runs.values()])
        self._write()

    def note_sizes(self, runs: Iterable[RunConfig]) -> None:
        """Record the sizes of models of one's own families, when the manifest is written next."""
        self._sizes = own_sizes.together(self._sizes, own_sizes.record(runs))
        if self._sizes:
            self._top["own_sizes"] = self._sizes

    @property
    def seconds(self) -> float:
        """Wall clock so far."""
        return time.monotonic() - self._started

    def end(self, queue: Queue) -> None:
        """Add the account of what was done to the entry. Raises StoreError."""
        busy, idle, jobs = busy_and_idle(queue)
        self._entry |= {
            "wall_seconds": round(self.seconds, 2),
            "jobs": jobs,
            "busy_seconds": round(busy, 2),
            "idle_seconds_between_jobs": round(idle, 2),
        }
        self._write()

    def _write(self) -> None:
        spent = (session.get("wall_seconds") for session in self._sessions)
        wall = sum(s for s in spent if isinstance(s, int | float) and 0 <= s < 1e12)
        whole = {"wall_seconds": round(wall, 2), "sessions": self._sessions}
        self._store.write_manifest(self._top | whole)
