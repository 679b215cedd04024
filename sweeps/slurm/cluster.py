"""Wait for the Ray cluster of an allocation: `python -m sweeps.slurm.cluster head`, `nodes 4`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

_SECONDS = 120.0
"""Seconds that nodes have to start Ray."""


def head() -> str:
    """Return the address of the head that starts on this machine, once it is known."""
    path = Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if address := path.read_text().strip():
                return address
        time.sleep(0.2)
    raise SystemExit(f"Ray's head did not start within {_SECONDS:.0f} s.")


def wait_for_nodes(number: int) -> None:
    """Wait until the cluster has this many nodes. Continue with fewer after a message."""
    import ray

    deadline = time.monotonic() + _SECONDS
    while not ray.is_initialized():
        try:
            ray.init(address="auto", logging_level=logging.CRITICAL, log_to_driver=False)
        except (ConnectionError, RuntimeError, OSError) as error:
            if time.monotonic() > deadline:
                why = str(error).strip().splitlines()[0]
                raise SystemExit(f"Ray's head does not answer: {why}") from None
            time.sleep(1.0)
    while (alive := sum(node["Alive"] for node in ray.nodes())) < number:
        if time.monotonic() > deadline:
            print(
                f"{alive} of {number} nodes have joined within {_SECONDS:.0f} s; the sweep starts "
                "on these.",
                file=sys.stderr,
            )
            break
        time.sleep(0.5)
    ray.shutdown()


if __name__ == "__main__":
    if sys.argv[1:] == ["head"]:
        print(head())
    else:
        wait_for_nodes(int(sys.argv[2]))
