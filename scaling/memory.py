"""How running out of memory is said: by Python, CUDA, torch on a CPU, code compiled for one, and Ray."""

from __future__ import annotations

import re

_SAID = re.compile(
    "MemoryError|OutOfMemory|DefaultCPUAllocator|running low on memory"
    r"|aoti_torch_empty_strided\(.* API call failed"
)


def out_of_memory(error: BaseException | str) -> bool:
    """Whether an error, or a line that tells of one, is for want of memory."""
    said = error if isinstance(error, str) else f"{type(error).__name__} {error}"
    return bool(_SAID.search(said))
