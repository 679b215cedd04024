"""Checkpoints. They are written atomically, checked when read, and set aside if damaged."""

from __future__ import annotations

import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaling.config import RECIPE, canonical
from scaling.devices.ranks import Ranks
from scaling.errors import ConfigError, out_of_memory
from scaling.files import check_regular
from scaling.run_progress import CHECKPOINT
from scaling.training.evaluate import HeldOut
from scaling.training.fsdp import Sharding
from scaling.training.member import Member, Trajectory
from scaling.training.pack_key import trunk
from scaling.training.state import State

FORMAT = 7
"""Version of the checkpoint format."""


class Checkpoints:
    """The checkpoints of a pack's members, each in the folder of its run.

    A checkpoint holds whole rows whatever the number of ranks, so that a run can resume with a
    different number.
    """

    def __init__(
        self,
        corpus_hash: str,
        P: int,
        *,
        ranks: Ranks,
        sharding: Sharding | None,
    ) -> None:
        self.corpus_hash, self.P = corpus_hash, P
        self.ranks, self.sharding = ranks, sharding

    def save(self, members: Sequence[Member], state: State) -> None:
        """Write the members of a trajectory and their state to one file, linked into each
        folder."""
        folders = [member.folder for member in members if member.folder is not None]
        if not folders:
            return
        if self.sharding is not None:
            state = self.sharding.whole_state(state, members[0].run.optim)
        if self.ranks.rank > 0:
            return
        state = state.on_cpu()  # of a view, torch would save the whole storage
        saved_members = {
            member.run.run_id: {"config": canonical(member.run), "origin": member.origin}
            | {name: getattr(member, name) for name in Member.SAVED}
            for member in members
        }
        values = {
            "format": FORMAT,
            "recipe": RECIPE,
            "corpus_hash": self.corpus_hash,
            "state": vars(state),
            "members": saved_members,
        }
        write(folders, values)
        for member in members:
            if member.folder is not None:
                member.stored_step = member.step

    def resume(self, members: Sequence[Member]) -> list[Trajectory]:
        """Restore members that have a checkpoint, and group all of them into trajectories."""
        trajectories: dict[Hashable, Trajectory] = {}
        for member in sorted(members, key=lambda m: (-m.branch_step, -m.run.S)):
            saved = self._load(member)
            state = None
            if saved is not None:
                own = saved["members"][member.run.run_id]
                for name in Member.SAVED:
                    setattr(member, name, own[name])
                member.origin = own.get("origin", {})
                member.stored_step = member.step
                state = State(**saved["state"])
                if self.sharding is not None:
                    state = self.sharding.own_state(state, member.run.optim)
            on_trunk = member.step < member.branch_step
            key = (trunk(member.run), member.step) if on_trunk else member.run.run_id
            if key in trajectories:
                trajectories[key].members.append(member)
            else:
                trajectories[key] = Trajectory([member], state, on_disk=state is not None)
        place = {member.run.run_id: i for i, member in enumerate(members)}
        return sorted(
            trajectories.values(),
            key=lambda trajectory: min(place[m.run.run_id] for m in trajectory.members),
        )

    def _load(self, member: Member) -> dict[str, Any] | None:
        """Return a member's checkpoint; None if none can be used. All ranks agree on the choice."""
        saved = self._load_own(member) if self.ranks.rank == 0 else None
        (usable,) = self.ranks.agreed(saved is not None)
        return self._load_own(member) if usable and saved is None else saved

    def _load_own(self, member: Member) -> dict[str, Any] | None:
        path = member.folder / CHECKPOINT if member.folder else None
        if path is None or not path.exists():
            return None
        try:
            # A sharded model may not fit on one device: map the file, and read only the shard.
            # A row that waits for a slot takes no memory of a GPU.
            sharded = self.ranks.sharded
            saved = read(path, device="cpu", mmap=sharded, checksums=self.ranks.rank == 0)
            members, corpus_hash = saved["members"], saved["corpus_hash"]
            if (own := members.get(member.run.run_id)) is not None:
                check_member(own, Member.SAVED, member.run.S)
                _check(isinstance(own.get("origin", {}), dict), "origin", own.get("origin"))
                check_state(saved["state"], self.P)
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # torch raises many types for a damaged file
            if out_of_memory(error):
                raise
            damaged = path.with_suffix(".damaged")
            os.replace(path, damaged)
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}: {error}); set aside as "
                f"{damaged.name}; the run starts anew.",
                stacklevel=2,
            )
            return None
        if member.run.run_id not in members:
            other = next(iter(members.values()))["config"]
            raise ConfigError(
                f"{path} belongs to another config ({other}, not {canonical(member.run)}); use "
                "another folder."
            )
        if corpus_hash != self.corpus_hash:
            raise ConfigError(
                f"{path} was trained on other token files (hash {corpus_hash[:12]}, now "
                f"{self.corpus_hash[:12]}): the text or the tokenizer has changed. Delete it to "
                "start anew."
            )
        return saved


def make_folder(folder: Path) -> None:
    """Create a folder for checkpoints and check that it is writable.

    Raises ConfigError if it is not, before training rather than when the first checkpoint is due.
    """
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


def write(folders: Sequence[Path], values: Mapping[str, Any]) -> None:
    """Write one checkpoint into several folders, as links to one file where possible."""
    first = folders[0] / f"{CHECKPOINT}.new"
    first.unlink(missing_ok=True)  # whatever bears that name, such as the file of a killed process
    with first.open("xb") as file:
        torch.save(values, file)
        file.flush()
        os.fsync(file.fileno())
    for folder in folders[1:]:
        new = folder / f"{CHECKPOINT}.new"
        new.unlink(missing_ok=True)
        try:
            os.link(first, new)
        except OSError:  # the file system has no links
            shutil.copyfile(first, new)
    for folder in folders:
        os.replace(folder / f"{CHECKPOINT}.new", folder / CHECKPOINT)


def read(path: Path, *, device: torch.device | str, mmap: bool, checksums: bool) -> dict[str, Any]:
    """Read the values of a checkpoint: format, recipe, corpus_hash, state and members.

    torch.save writes a CRC-32 of every record, which torch.load ignores; `checksums` verifies them.
    A file that is damaged, not a checkpoint, or from another version raises errors of many types,
    torch's own included.
    """
    check_regular(path)
    if checksums:
        with zipfile.ZipFile(path) as records:
            if (damaged := records.testzip()) is not None:
                raise ValueError(f"the checksum of its record {damaged} is wrong")
    saved = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    made_by = saved["format"], saved["recipe"]
    if made_by != (FORMAT, RECIPE):
        raise ValueError(f"format and recipe are {made_by}, not {(FORMAT, RECIPE)}")
    _check(isinstance(saved["corpus_hash"], str), "corpus_hash", saved["corpus_hash"])
    members = saved["members"]
    _check(isinstance(members, dict) and len(members) > 0, "members", members)
    for run_id, member in members.items():
        _check(isinstance(member, dict) and "config" in member, f"member {run_id}", member)
    return saved


def check_state(state: Any, P: int) -> None:
    """Raise ValueError unless `state` is plausible for a row of `P` parameters."""
    _check(isinstance(state, dict), "state", state)
    for name in ("flat_p", "mean_p", "noise_m"):
        value = state[name]
        if value is None and name != "flat_p":
            continue
        if not (isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 1):
            raise ValueError(f"its {name} is not a vector of floats")
        if name != "noise_m" and len(value) != P:
            raise ValueError(f"its {name} has {len(value)} numbers, not {P}")
    for name in ("loss_sum", "norm_sum"):
        _check(isinstance(state[name], float), name, state[name])
    _check(isinstance(state["adamw"], dict), "adamw", state["adamw"])
    for name, value in state["adamw"].items():
        is_key = isinstance(name, str) and re.fullmatch(r"\d+\.\w+", name) is not None
        _check(is_key and isinstance(value, Tensor | int | float), f"adamw {name}", value)


def check_member(member: Mapping[str, Any], kinds: Mapping[str, type], S: int) -> None:
    """Raise ValueError unless the saved attributes are plausible for a run of `S` steps."""
    for name, kind in kinds.items():
        value = member[name]
        is_int = isinstance(value, int) and not isinstance(value, bool)
        _check(is_int if kind is int else isinstance(value, kind), name, value)
        if kind in (int, float) and not name.endswith("_before"):
            _check(not value < 0, name, value)
    for name in ("loss_from", "shared_steps"):
        if member[name] > member["step"]:
            raise ValueError(f"its {name}={member[name]} is after its step {member['step']}")
    if member["step"] > S:
        raise ValueError(f"its step {member['step']} is beyond the run's last, {S}")
    if best := member["best"]:
        is_step = isinstance(best["step"], int) and 0 <= best["step"] <= member["step"]
        _check(is_step, "best", best)
        HeldOut(**best["held_out"])
    for name in ("curve", "tests"):
        _check(all(isinstance(point, dict) for point in member[name]), name, member[name])


def _check(plausible: bool, name: str, value: Any) -> None:
    if not plausible:
        text = repr(value)
        shown = text if len(text) < 60 else f"{text[:60]}..."
        raise ValueError(f"its {name} cannot be {shown}")
