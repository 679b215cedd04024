"""The errors that are shown to users in one line, and how running out of memory reads."""

from __future__ import annotations

import re


class ConfigError(ValueError):
    """A run or a spec that cannot be: names the key, its value and what to do."""


class TableError(ValueError):
    """A results table that cannot be used: names the column, the row and what to do."""


class CorpusError(ConfigError):
    """A corpus that is not there or cannot be used."""


_SAID = re.compile("MemoryError|OutOfMemory|DefaultCPUAllocator|running low on memory")

_CALL_FAILED = re.compile(r"(aoti_torch_\w+)\(.* API call failed")
"""In compiled code, which does not say why; memory is what a call that worked before may lack."""


def out_of_memory(error: BaseException | str) -> bool:
    """Whether an error, or a line that tells of one, is for want of memory."""
    said = error if isinstance(error, str) else f"{type(error).__name__} {error}"
    return bool(_SAID.search(said) or _CALL_FAILED.search(said))


def one_line(error: BaseException) -> str:
    """What such an error says, in a line."""
    if call := _CALL_FAILED.search(str(error)):
        return f"{call[1]} failed in compiled code, probably for want of memory"
    return str(error).partition("\n")[0] or f"{type(error).__name__}."
