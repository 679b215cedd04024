"""Peak FLOP/s and peak memory of the machine that trains a run."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import time
from pathlib import Path

import torch

from scaling.devices.device import synchronize
from scaling.errors import out_of_memory


def peak_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Measure the FLOP/s of large matrix products, the reference for model FLOP utilisation.

    This is the best of five products, measured once per process in 0.1 s. `threads` is torch's
    number of threads and serves only as part of the cache key. On a shared or throttled machine the
    value holds for that moment. On a GPU the measurement of the peak memory starts anew, so that it
    does not include these matrices: read :func:`peak_memory` before.
    """
    return _peak_flops(device, dtype, threads, torch.get_float32_matmul_precision())


@functools.cache
def _peak_flops(device: torch.device, dtype: torch.dtype, threads: int, products: str) -> float:
    n = 8192 if device.type == "cuda" else 768
    while True:
        try:
            best = _product_seconds(n, device, dtype)
            break
        except RuntimeError as error:  # a model may leave little memory on a GPU
            if n == 1024 or not out_of_memory(error):
                raise
        n //= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * n**3 / best


def _product_seconds(n: int, device: torch.device, dtype: torch.dtype) -> float:
    # A GPU multiplies ones faster than numbers whose bits differ, since it needs less power.
    a = torch.arange(n * n, device=device, dtype=torch.float32).sin_().view(n, n).to(dtype)
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, a)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


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
        torch.cuda.init()  # the statistics of a device do not exist before
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
