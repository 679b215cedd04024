"""Connection to a Ray cluster that is already running."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scaling.execution import Execution
from sweeps import gpus
from sweeps.errors import StoreError
from sweeps.on_ray.resources import gpus_for
from sweeps.on_ray.start import job_config, own_sigterm, script_folder

_CONNECT_SECONDS = 3.0
"""Seconds for a cluster's port to answer; Ray itself would wait for minutes."""


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` ('host:port' or 'auto') within the block; do nothing for None.

    This machine must be a node of the cluster. The package is sent to the cluster's workers.
    Raises StoreError if no cluster answers.
    """
    if address is None:
        yield
        return
    # Import ray before sweeps.on_ray.tune, which sets a token that the cluster does not know.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import logging

    import ray

    packages = [Path(__file__).parents[2] / name for name in ("scaling", "sweeps")]
    try:
        with own_sigterm():
            ray.init(
                address=address,
                runtime_env={"py_modules": [str(path) for path in packages]},
                job_config=job_config(script_folder()),
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except (ConnectionError, RuntimeError, OSError) as error:
        raise _none(address, str(error).strip().splitlines()[0]) from None
    try:
        yield
    finally:
        ray.shutdown()


def probe(address: str) -> None:
    """Raise StoreError, without a long wait, if no cluster answers."""
    if address.startswith("ray://"):
        raise StoreError(
            f"address={address!r} is an address of Ray Client, which a sweep cannot use: its queue "
            "lives in the driver. Run the sweep on a machine of the cluster, with --address "
            "host:port."
        )
    place = address
    if address == "auto":
        place = os.environ.get("RAY_ADDRESS", "")
        current = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray")
        with contextlib.suppress(OSError):
            place = place or (current / "ray_current_cluster").read_text().strip()
        if not place:
            raise _none(address, "none was started on this machine")
    host, _, port = place.rpartition(":")
    if not (host and port.isdigit()):
        raise StoreError(f"address={address!r} is neither 'auto' nor host:port.")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _none(address, f"{place}: {error}") from None


def gpus_of_workers(execution: Execution, address: str | None, *, in_process: bool) -> int:
    """Return the number of GPUs that the workers of a sweep share; 0 if they train on CPUs.

    If the cluster at `address` does not answer, those of this machine count.
    """
    if execution.device == "cpu":
        return 0
    here = len(gpus.visible())
    if in_process or execution.nodes > 1:
        return min(here, execution.devices)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return _gpus_of_cluster(execution)
    if address is not None:
        with contextlib.suppress(StoreError, ImportError):
            probe(address)
            with joined(address):
                return _gpus_of_cluster(execution)
    return here


def _gpus_of_cluster(execution: Execution) -> int:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return int(gpus_for(alive, execution))


def _none(address: str, why: str) -> StoreError:
    return StoreError(
        f"no Ray cluster at address={address!r} ({why}). Start one with `ray start --head`, or "
        "leave the address out: Ray is then started here for the sweep."
    )
