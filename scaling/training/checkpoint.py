"""Checkpoints on disk: read whole and sane, or not at all. Imports torch."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaling.config import RECIPE
from scaling.errors import ConfigError
from scaling.files import check_regular
from scaling.training.evaluate import HeldOut

FORMAT = 7
"""Version of the checkpoint format."""

CHECKPOINT = "checkpoint.pt"


def read(path: Path, *, device: torch.device | str, mmap: bool, whole: bool) -> dict[str, Any]:
    """The values of a checkpoint: format, recipe, corpus_hash, state and members.

    torch.save writes the CRC-32 of every record, which torch.load does not look at: with `whole` it is
    checked here. Raises errors of many types, torch's own among them, where the file is damaged, is
    another version's, or no checkpoint at all.
    """
    check_regular(path)
    if whole:
        with zipfile.ZipFile(path) as records:
            if (damaged := records.testzip()) is not None:
                raise ValueError(f"the checksum of its record {damaged} is wrong")
    saved = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    made_by = saved["format"], saved["recipe"]
    if made_by != (FORMAT, RECIPE):
        raise ValueError(f"format and recipe {made_by}, not {(FORMAT, RECIPE)}")
    _be(isinstance(saved["corpus_hash"], str), "corpus_hash", saved["corpus_hash"])
    members = saved["members"]
    _be(isinstance(members, dict) and len(members) > 0, "members", members)
    for run_id, member in members.items():
        _be(isinstance(member, dict) and "config" in member, f"member {run_id}", member)
    return saved


def check_state(state: Any, P: int) -> None:
    """Raise ValueError where `state` is not what a checkpoint holds of a row of `P` parameters."""
    _be(isinstance(state, dict), "state", state)
    for name in ("flat_p", "mean_p", "noise_m"):
        value = state[name]
        if value is None and name != "flat_p":
            continue
        if not (isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 1):
            raise ValueError(f"its {name} is no row of numbers")
        if name != "noise_m" and len(value) != P:
            raise ValueError(f"its {name} has {len(value)} numbers, not {P}")
    for name in ("loss_sum", "norm_sum"):
        _be(isinstance(state[name], float), name, state[name])
    _be(isinstance(state["adamw"], dict), "adamw", state["adamw"])
    for name, value in state["adamw"].items():
        good = isinstance(name, str) and re.fullmatch(r"\d+\.\w+", name) is not None
        _be(good and isinstance(value, Tensor | int | float), f"adamw {name}", value)


def check_member(member: Mapping[str, Any], kinds: Mapping[str, type], S: int) -> None:
    """Raise ValueError where what a checkpoint holds of a run of `S` steps is not of these `kinds`, or
    lies beyond its end."""
    for name, kind in kinds.items():
        value = member[name]
        number = isinstance(value, int) and not isinstance(value, bool)
        _be(isinstance(value, kind) if kind is not int else number, name, value)
        _be(kind not in (int, float) or not value < 0 or name.endswith("_before"), name, value)
    for name in ("loss_from", "shared_steps"):
        if member[name] > member["step"]:
            raise ValueError(f"its {name}={member[name]} is after its step {member['step']}")
    if member["step"] > S:
        raise ValueError(f"its step {member['step']} is beyond the run's last, {S}")
    if best := member["best"]:
        _be(isinstance(best["step"], int) and 0 <= best["step"] <= member["step"], "best", best)
        HeldOut(**best["held_out"])
    for name in ("curve", "tests"):
        _be(all(isinstance(point, dict) for point in member[name]), name, member[name])


def _be(good: bool, name: str, value: Any) -> None:
    if not good:
        said = repr(value)
        raise ValueError(f"its {name} cannot be {said if len(said) < 60 else f'{said[:60]}...'}")


def make_folder(folder: Path) -> None:
    """Make a folder for checkpoints now, not when the first one is due. ConfigError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{CHECKPOINT}.probe"
        probe.unlink(missing_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"folder={str(folder)!r} cannot hold checkpoints: {error.strerror}; use another one."
        ) from None
