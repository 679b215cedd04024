"""What the machine under a run can do and has used: peak FLOP/s, peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import time
from pathlib import Path

import torch


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of large matrix products here, the best of a few: what utilisation is measured against.

    Measured once a process, in 0.1 s; `threads` is that of torch, and only keys the cache. On a
    shared or throttled machine it is what was to be had at that moment.
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
    """Have this process keep what it frees for what it allocates next, where its allocator is glibc's.

    By default tensors of megabytes go back to the system in every step, and come anew page by page:
    a quarter of the time of a small model's compiled step.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no such call
        mallopt = ctypes.CDLL(None).mallopt
        # Older ones refuse more than 32 MiB, and one alone of the two would do harm.
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
            mallopt(trim_threshold, 2**31 - 1)


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the peak anew, as far as the system allows; what was kept of memory is given
    back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(AttributeError, OSError, TypeError):  # as in keep_memory
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # Linux: the high-water mark of this process
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes held since :func:`reset_peak_memory`: tensors on a GPU; on a CPU the resident memory
    of the process, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource
    import sys

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
