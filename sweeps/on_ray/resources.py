"""Resources that each worker of a sweep asks of Ray. Imports neither ray nor torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaling.execution import Execution
from sweeps.errors import StoreError
from sweeps.gpus import workers_per_gpu
from sweeps.runner.runner import Runner

_SHARES = 10_000
"""Ray counts a GPU in this many shares and rounds to the nearest."""


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """What each worker occupies: one bundle on each of its nodes."""

    bundles: list[dict[str, float]]
    strategy: str = "PACK"
    """How Ray places the bundles."""
    workers_per_gpu: int = 0
    """Number of workers that share a GPU: 1 if each has GPUs of its own, 0 if they train on
    CPUs."""

    @property
    def with_whole_gpu(self) -> list[dict[str, float]]:
        """The bundles of a worker that shares its GPU with no other."""
        if self.workers_per_gpu < 2:
            return self.bundles
        return [bundle | {"GPU": 1.0} for bundle in self.bundles]


def gpu_share(per_gpu: int) -> float:
    """Return the fraction of a GPU that each of `per_gpu` workers asks for.

    It is rounded down: of shares that Ray rounds up, the last one would not fit.
    """
    return _SHARES // per_gpu / _SHARES if per_gpu else 0.0


def gpus_for(nodes: Sequence[Mapping[str, float]], execution: Execution) -> float:
    """Return the number of GPUs on nodes with the CPUs for a worker."""
    if execution.device == "cpu":
        return 0.0
    cpus = execution.threads * (execution.devices // execution.nodes)
    return sum(node.get("GPU", 0.0) for node in nodes if node.get("CPU", 0.0) >= cpus)


def worker_resources(
    workers: int, execution: Execution, nodes: Sequence[Mapping[str, float]]
) -> WorkerResources:
    """Return the resources of each worker, given those of Ray's living nodes.

    A worker gets all of its bundles, or waits without holding any. Raises StoreError if they do not
    fit, because Ray would wait silently.
    """
    asked = execution.nodes
    devices = execution.devices // asked
    cpus = execution.threads * devices
    node_cpus = [node.get("CPU", 0.0) for node in nodes]
    if asked == 1 and cpus > max(node_cpus, default=0.0):
        fewer = "threads" if devices == 1 else "threads or devices"
        raise StoreError(
            f"each of {workers} workers asks for {cpus} CPUs, but the largest node of this Ray "
            f"cluster has {max(node_cpus, default=0.0):g}; use more workers with fewer "
            f"{fewer} each."
        )
    if execution.devices == 1:
        per_gpu = workers_per_gpu(workers, gpus_for(nodes, execution))
        bundle = {"CPU": float(cpus), "GPU": gpu_share(per_gpu)}
        return WorkerResources(bundles=[_used(bundle)], workers_per_gpu=per_gpu)
    gpus = [0.0 if execution.device == "cpu" else node.get("GPU", 0.0) for node in nodes]
    bundle = {"CPU": float(cpus), "GPU": float(devices) if any(gpus) else 0.0}
    fit = [c >= bundle["CPU"] and g >= bundle["GPU"] for c, g in zip(node_cpus, gpus, strict=True)]
    if sum(fit) < asked:
        kinds = Counter(zip(gpus, node_cpus, strict=True))
        available = ", ".join(
            f"{f'{n} x ' if n > 1 else ''}{_amount(c, g if any(gpus) else None)}"
            for (g, c), n in sorted(kinds.items())
        )
        each = "of one node" if asked == 1 else f"on each of {asked} nodes"
        raise StoreError(
            f"each of {workers} workers asks for {_amount(cpus, bundle['GPU'] or None)} "
            f"{each}, but the nodes of this Ray cluster have {available}; use fewer devices"
            f"{'' if asked == 1 else ', or other nodes'}."
        )
    return WorkerResources(
        bundles=[_used(bundle)] * asked,
        strategy="STRICT_SPREAD",
        workers_per_gpu=1 if any(gpus) else 0,
    )


def cpus_of(workers: int, execution: Execution, runner: Runner | None) -> int:
    """Return the CPUs that Ray must count on this machine for workers to run here."""
    if runner is None or runner.cpus is None:
        return workers * execution.threads * execution.devices
    return math.ceil(workers * runner.cpus)


def command_resources(
    workers: int, execution: Execution, runner: Runner, nodes: Sequence[Mapping[str, float]]
) -> WorkerResources:
    """Return the resources of each worker that runs commands: those of [runner.resources], and what
    that leaves open as in :func:`worker_resources`. Raises StoreError if they do not fit."""
    devices = max(1, execution.devices // execution.nodes)
    cpus = float(execution.threads * devices) if runner.cpus is None else runner.cpus
    gpus, per_gpu = runner.gpus, 0
    if execution.device == "cpu":
        gpus = 0.0
    elif gpus is None:
        here = sum(node.get("GPU", 0.0) for node in nodes if node.get("CPU", 0.0) >= cpus)
        per_gpu = workers_per_gpu(workers, here) if devices == 1 else min(1, int(here))
        gpus = gpu_share(per_gpu) if devices == 1 else float(devices * per_gpu)
    elif gpus:
        per_gpu = max(1, int(1 / gpus))
    bundle = {"CPU": cpus, "GPU": gpus}
    fit = sum(node.get("CPU", 0.0) >= cpus and node.get("GPU", 0.0) >= gpus for node in nodes)
    if fit < runner.nodes:
        each = "one node" if runner.nodes == 1 else f"each of {runner.nodes} nodes"
        there = "; ".join(
            _amount(node.get("CPU", 0.0), node.get("GPU", 0.0) if gpus else None) for node in nodes
        )
        raise StoreError(
            f"a run asks for {_amount(cpus, gpus or None)} on {each} ([runner.resources]), but the "
            f"nodes of this Ray cluster have {there or 'none'}; ask for less, or use other nodes."
        )
    return WorkerResources(
        bundles=[_used(bundle)] * runner.nodes,
        strategy="PACK" if runner.nodes == 1 else "STRICT_SPREAD",
        workers_per_gpu=per_gpu,
    )


def _used(bundle: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in bundle.items() if amount}


def _amount(cpus: float, gpus: float | None) -> str:
    return f"{cpus:g} CPUs" if gpus is None else f"{gpus:g} GPUs and {cpus:g} CPUs"
