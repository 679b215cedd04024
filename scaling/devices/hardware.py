"""Peak FLOP/s and peak memory of the machine that trains a run."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import time
from pathlib import Path

import torch


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Measure the FLOP/s of large matrix products, the reference for model FLOP utilisation.

    This is the best of five products, measured once per process in 0.1 s. `threads` is torch's
    number of threads and serves only as part of the cache key. On a shared or throttled machine the
    value holds for that moment.
    """
    n = 8192 if device.type == "cuda" else 768
    a = torch.ones(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def keep_memory() -> None:
    """Let this process reuse freed memory instead of returning it to the system (glibc only).

    By default, large tensors are returned to the system after every step and mapped again page by
    page, which takes a quarter of the time of a small model's compiled step.
    """
    trim_threshold, mmap_threshold = -1, -3  # constants of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        # Older versions refuse more than 32 MiB. Setting only one of the two would make it slower.
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
            mallopt(trim_threshold, 2**31 - 1)


def reset_peak_memory(device: torch.device) -> None:
    """Return kept memory to the system and restart the measurement of the peak, where possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # Linux: resets the high-water mark of this process
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Return the largest number of bytes in use since :func:`reset_peak_memory`.

    On a GPU this counts tensors; on a CPU, the resident memory of the process, libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
