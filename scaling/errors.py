"""Errors that users see as one line, suggestions for misspelt names, and out-of-memory
conditions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class ConfigError(ValueError):
    """A run or a spec is invalid; the message names the key, its value and what to do."""


class Interrupted(Exception):
    """Training stopped because `should_stop` asked for it; the checkpoint is written."""


class TableError(ValueError):
    """A results table cannot be used; the message names the column, the row and what to do."""


class CorpusError(ConfigError):
    """A corpus is missing or cannot be used."""


class WeightsError(ConfigError):
    """The weights of a run are missing or cannot be used; the message says how to keep them."""


_OUT_OF_MEMORY = re.compile(
    "MemoryError|OutOfMemory|DefaultCPUAllocator|running low on memory"
    # CUDA and HIP: their allocators, a kernel's launch, their libraries, and NCCL's own buffers
    "|(CUDA|HIP) (error: )?out of memory|[A-Z]_STATUS_ALLOC_FAILED|ErrorMemoryAllocation"
    "|Cuda failure.*out of memory|Failed to (CUDA|Cuda) [a-z]*alloc"
)

_CALL_FAILED = re.compile(r"(aoti_torch_\w+)\(.* API call failed")
"""Compiled code does not say why a call failed; a call that worked before probably lacks memory."""


def out_of_memory(error: BaseException | str) -> bool:
    """Return whether an error, or a line that reports one, means that memory ran out."""
    text = error if isinstance(error, str) else f"{type(error).__name__} {error}"
    return bool(_OUT_OF_MEMORY.search(text) or _CALL_FAILED.search(text))


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line."""
    if call := _CALL_FAILED.search(str(error)):
        return f"{call[1]} failed in compiled code, probably for lack of memory"
    lines = str(error).strip().splitlines()
    # NCCL names the cause in its last line
    lines = [line for line in lines if _OUT_OF_MEMORY.search(line)] or lines
    return lines[0] if lines else f"{type(error).__name__}."


def nearest(name: str, options: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the option spelt most like `name`; None if none is similar enough."""
    return next(iter(difflib.get_close_matches(name, list(options), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'option'?" with the :func:`nearest` option, or an empty string."""
    near = nearest(name, options)
    return f" Did you mean {near!r}?" if near else ""
