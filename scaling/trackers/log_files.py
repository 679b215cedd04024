"""Text and JSON that trainers write, read as far as they are complete.

A file may be cut short at any byte, hold colours of a terminal, or still be written to.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling import files

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEAD = 1 << 20
"""Bytes at the start of a file that tell whose log it is."""
_MOST_SETTINGS = 20_000
_DEEPEST = 50
_OTHER_FILES = (
    ".pt", ".pth", ".bin", ".safetensors", ".npy", ".npz", ".ckpt", ".distcp", ".json", ".jsonl",
    ".csv", ".tsv", ".parquet", ".arrow", ".toml", ".yaml", ".yml", ".md", ".py", ".sh", ".png",
    ".jpg", ".pdf", ".html", ".gz", ".zip", ".tar", ".xz", ".zst", ".pkl", ".db", ".wandb",
)  # fmt: skip
"""Suffixes of files that are no console log."""

NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
"""Pattern of a number in a console log, in any case."""


def read_text(path: Path) -> str:
    """Return the text of a log, without colours, with '\\n' as line ends. Raises OSError."""
    return _decoded(files.read_bytes(path))


def complete_lines(text: str) -> list[str]:
    """Return the lines of a text without the last one if it is not ended: it may be cut short."""
    return text.split("\n")[:-1]


def is_console_log(path: Path, pattern: re.Pattern[str]) -> bool:
    """Return whether a file may be a console log and the pattern is found near its start."""
    if path.suffix.lower() in _OTHER_FILES or ".tfevents" in path.name:
        return False
    return pattern.search(_head(path)) is not None


def is_json_with(path: Path, key: str) -> bool:
    """Return whether a file is named .json and has this key near its start."""
    return path.suffix.lower() == ".json" and f'"{key}"' in _head(path)


def read_json(path: Path) -> tuple[dict[str, Any], bool]:
    """Return the object in a JSON file as far as it is complete, and whether all of it is.

    NaN and Infinity are numbers. Raises ValueError if the file holds no object or nothing in it is
    complete, and OSError.
    """
    text = _decoded(files.read_bytes(path))
    try:
        values, whole = json.loads(text), True
    except json.JSONDecodeError as error:
        values, whole = _salvaged(text[: error.pos] if error.pos else text), False
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no JSON object that is complete")
    return values, whole


def object_after(text: str, marker: str) -> dict[str, Any]:
    """Return the JSON object that follows the last occurrence of a marker; {} if there is none."""
    at = text.rfind(marker)
    start = text.find("{", at + len(marker)) if at >= 0 else -1
    if start < 0:
        return {}
    try:
        values, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings with those of inner objects under outer.inner; lists stay as they are.

    Raises ValueError for an absurd number or depth of settings.
    """
    found: dict[str, Any] = {}
    _flatten(values, prefix, found, 0)
    return found


def number(text: str) -> int | float | None:
    """Return the number that a text writes, such as 1,234 or nan; None if it writes none."""
    plain = text.strip().replace(",", "")
    for parse in (int, float):
        try:
            return parse(plain)
        except ValueError:
            continue
    return None


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers, also those written as "NaN" or "Infinity"."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, str) and value.strip("+-") in ("NaN", "Infinity", "nan", "inf"):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def step_of(value: Any) -> int | None:
    """Return a number of steps; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value and 0 <= value < 2**53 else None


def name_below(folder: Path, own: Path) -> str:
    """Return the path of a run's folder or log below the folder that was read; "" for itself."""
    return "" if own == folder else own.relative_to(folder).as_posix()


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts run-9 before run-10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _decoded(data: bytes) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # PowerShell's > and tee
    text = data.decode("utf-16" if wide else "utf-8-sig", "replace")
    return _COLOURS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _head(path: Path) -> str:
    try:
        with files.open_regular(path) as file:
            return _decoded(file.read(_HEAD))
    except OSError:
        return ""


def _flatten(values: Mapping[Any, Any], prefix: str, found: dict[str, Any], depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("its settings are nested too deeply")
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            _flatten(value, f"{name}.", found, depth + 1)
        else:
            found[name] = value
        if len(found) > _MOST_SETTINGS:
            raise ValueError(f"it has more than {_MOST_SETTINGS:,} settings")


def _salvaged(text: str) -> Any:
    """Return the JSON value of a text that was cut short, without what is not complete.

    Items of lists and of the outermost object are kept if they are complete.
    """
    closing: list[str] = []
    cut, ends = 0, ""
    in_string = escaped = False
    for at, sign in enumerate(text):
        if in_string:
            in_string = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            in_string = True
        elif sign in "{[":
            closing.append("}" if sign == "{" else "]")
        elif sign in "}]":
            if not closing or closing.pop() != sign:
                break
            if _is_kept(closing):
                cut, ends = at + 1, "".join(reversed(closing))
        elif sign == "," and _is_kept(closing):
            cut, ends = at, "".join(reversed(closing))
    try:
        return json.loads(text[:cut] + ends) if cut else None
    except (ValueError, RecursionError):
        return None


def _is_kept(closing: list[str]) -> bool:
    """Return whether an item that ends inside these brackets is kept without those that follow."""
    return bool(closing) and (closing[-1] == "]" or len(closing) == 1)
