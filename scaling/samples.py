"""The file of a results folder that keeps what its runs wrote: samples.json.

    {"schema": 1, "settings": {...}, "samples": [{"run_id": ..., "prompt": ..., "text": ...}, ...]}

`scaling generate` writes it, and the report reads it. Imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import TableError
from scaling.files import check_inside, decode, read_bytes, write_atomic
from scaling.jsonable import finite

FILE = "samples.json"
SCHEMA = 1

_TEXTS = ("run_id", "prompt", "text")
_NUMBERS = ("N", "D", "L", "score", "bits_per_byte", "repeated")
_CURE = "Remove it, or write it again: scaling generate RESULTS --prompt TEXT."


def write(folder: Path, settings: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Path:
    """Write the samples of the runs of a results folder; return the path. Raises OSError."""
    path = folder / FILE
    check_inside(path, folder)
    content = {"schema": SCHEMA, "settings": dict(settings), "samples": list(samples)}
    write_atomic(path, json.dumps(finite(content), indent=1, allow_nan=False).encode())
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the samples kept in a results folder; none without the file.

    Each has the texts run_id, prompt and text, and N, D, L, score, bits_per_byte and repeated,
    which are numbers or None. Raises TableError for a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(decode(read_bytes(path)))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"it is not an object with schema {SCHEMA}")
        samples = content.get("samples")
        if not isinstance(samples, list):
            raise ValueError("'samples' is not a list")
        return [_checked(i, sample) for i, sample in enumerate(samples)]
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} cannot be read: {error}. {_CURE}") from None


def _checked(i: int, sample: Any) -> dict[str, Any]:
    if not isinstance(sample, dict):
        raise ValueError(f"samples[{i}] is not an object")
    for name in _TEXTS:
        if not isinstance(sample.get(name), str):
            raise ValueError(f"samples[{i}]: {name!r} is not a string")
    for name in _NUMBERS:
        value = sample.setdefault(name, None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"samples[{i}]: {name!r} is not a number")
    return sample
