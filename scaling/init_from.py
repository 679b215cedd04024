"""Runs that begin from the weights of another run (`init`), such as fine-tuning.

A user names the parent by a path, but the content of the parent's weights identifies the run. So a
config holds both, `<path>@<sha256>`, once :func:`resolved` has looked at the parent. That reads
only weights.json and needs no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import weights
from scaling.config import DataConfig, RunConfig, from_dict
from scaling.errors import ConfigError, WeightsError
from scaling.model_config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from scaling.data.corpus import TokenFiles
    from scaling.model import Model


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A run whose weights another run begins from."""

    folder: Path
    run: RunConfig
    sha256: str
    """SHA-256 of its weights."""
    D: int
    """Tokens that it was trained on, those of its own parents included."""
    L: float | None
    """Its test loss."""


def resolved(run: RunConfig, *, named: Collection[str] = ()) -> RunConfig:
    """Return `run` with the content hash of the weights that it begins from.

    Fields of the model that have their defaults become the parent's, and so does the tokenizer,
    except those in `named`: dotted keys that somebody asked for.
    Does nothing for a run with random initial weights, or whose hash is known already. Raises
    ConfigError if there are no such weights, if another hash was given, and if the model or the
    tokenizer is not the parent's.
    """
    if not run.init:
        return run
    path, _, digest = run.init.partition("@")
    if digest and not weights_are_here(path):
        return run  # a finished run, whose parent may be gone
    parent = parent_of(path)
    if digest and digest != parent.sha256:
        raise ConfigError(
            f"init={run.init!r}: the weights in {parent.folder} are others now (sha256 "
            f"{parent.sha256[:12]}...). Leave out '@' and what follows to begin from these, as "
            "another run."
        )
    if parent.run.classify.labels:
        raise ConfigError(
            f"init={path!r} is a classifier; begin from the language model that it began from."
        )
    model = _model(path, run.model, parent.run.model, named)
    data = _data(run.data, parent.run.data, named)
    if _tokenizer_of(data) != _tokenizer_of(parent.run.data):
        tokenizer, corpus = _tokenizer_of(parent.run.data)
        raise ConfigError(
            f"init={path!r} reads the tokens of data.tokenizer={tokenizer!r}, trained on "
            f"{corpus!r}. Leave out data.tokenizer and data.tokenizer_of, or give these."
        )
    return dataclasses.replace(run, model=model, data=data, init=f"{path}@{parent.sha256}")


def parent_of(path: str) -> Parent:
    """Return the run that `path` names: the folder of a run, or `<results folder>:<run>`, where the
    run is a prefix of its id or its tag. Raises ConfigError."""
    folder, run = _split(path)
    try:
        found = weights.find(folder, run)
        if len(found) > 1:
            names = ", ".join(each.name for each in found[:8])
            raise ConfigError(
                f"init={path!r} holds the weights of {len(found)} runs: {names}"
                f"{', ...' if len(found) > 8 else ''}. Name one of them: {path}:{found[0].name}."
            )
        return _parent(found[0])
    except WeightsError as error:
        raise ConfigError(f"init={path!r}: {error}") from None


def check_other_folder(run: RunConfig, folder: Path | None) -> None:
    """Raise ConfigError if a run would write to the folder of the run that it begins from."""
    path = run.init.partition("@")[0]
    if not run.init or folder is None or not weights_are_here(path):
        return
    if parent_of(path).folder.resolve() == folder.resolve():
        raise ConfigError(
            f"init={path!r} is also the folder of the new run, which would replace the weights "
            "that it begins from. Give another --folder."
        )


def weights_are_here(path: str) -> bool:
    """Return whether `path` names the folder of a run or a results folder that exists."""
    return Path(_split(path)[0]).is_dir()


def _split(path: str) -> tuple[str, str | None]:
    """Return the folder and the run in `<folder>:<run>`."""
    if Path(path).is_dir():
        return path, None
    folder, colon, run = path.rpartition(":")
    return (folder, run) if colon else (path, None)


def _parent(folder: Path) -> Parent:
    record = weights.record(folder)
    try:
        run, digest, row = from_dict(record["config"]), record["sha256"], record["row"]
        D, before, L = row["D"], row.get("D_pretrain") or 0, row.get("L")
        if not (re.fullmatch(r"[0-9a-f]{64}", digest) and type(D) is int and type(before) is int):
            raise ValueError("its sha256 or D is of the wrong form")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise WeightsError(f"{folder / weights.RECORD} is damaged ({what}).") from None
    return Parent(
        folder=folder, run=run, sha256=digest, D=D + before, L=L if isinstance(L, float) else None
    )


def _tokenizer_of(data: DataConfig) -> tuple[str, str]:
    """Return the tokenizer and the corpus that it is trained on."""
    return data.tokenizer, "" if data.tokenizer == "bytes" else data.tokenizer_of or data.corpus


def _data(data: DataConfig, parent: DataConfig, named: Collection[str]) -> DataConfig:
    """Return `data` with the tokenizer of the parent, if it does not name one."""
    asked = "data.tokenizer" in named or data.tokenizer != DataConfig().tokenizer
    if data.tokenizer_of or (asked and data.tokenizer != parent.tokenizer):
        return data
    tokenizer, corpus = _tokenizer_of(parent)
    of = "" if corpus in ("", data.corpus) else corpus
    return dataclasses.replace(data, tokenizer=tokenizer, tokenizer_of=of)


def _model(
    path: str, model: ModelConfig, parent: ModelConfig, named: Collection[str]
) -> ModelConfig:
    """Return the parent's model. Raises ConfigError if `model` asks for another one."""
    for each in dataclasses.fields(ModelConfig):
        own, theirs = getattr(model, each.name), getattr(parent, each.name)
        asked = f"model.{each.name}" in named or own != each.default
        if asked and own != theirs:
            raise ConfigError(
                f"init={path!r} has model.{each.name}={theirs!r}, and this run {own!r}. A run has "
                "the shape of the model that it begins from; leave out the fields of model."
            )
    return parent


# ------------------------------------------------------------------ training


def initial_weights(
    run: RunConfig, files: TokenFiles, model: Model
) -> tuple[Tensor, dict[str, Any]]:
    """Return the parameters [P] that a run begins from, on the CPU, and the columns of its row that
    describe their origin. Tensors that the parent lacks, such as the head of a classifier, are
    random.

    Raises ConfigError if they are not those that the config names, or if the parent read other
    tokens than those of `files`.
    """
    path, _, digest = run.init.partition("@")
    parent = parent_of(path)
    try:
        found = weights.load(parent.folder)
    except WeightsError as error:
        raise ConfigError(f"init={path!r}: {error}") from None
    if found.sha256 != digest:
        raise ConfigError(
            f"init={path!r}: the weights have changed since the run was planned (sha256 "
            f"{found.sha256[:12]}..., not {digest[:12]}...). Restore them, or plan the run again."
        )
    if found.tokenizer.hash != files.tokenizer.hash:
        raise ConfigError(
            f"init={path!r} read the tokens of another tokenizer. data.tokenizer_of names the "
            "corpus whose tokenizer it used; one that was trained on a part of a corpus "
            "(data.max_bytes) cannot be used for another corpus."
        )
    flat_p = found.flat_1p[0]
    if model.shapes != found.model.shapes:
        import torch

        theirs = dict(zip(found.model.shapes, flat_p.split(found.model.sizes), strict=True))
        own = zip(model.shapes, model.initial(run.seed), strict=True)
        flat_p = torch.cat([theirs.get(name, random_p) for name, random_p in own])
    origin = {"init_run": parent.run.run_id, "D_pretrain": parent.D, "L_pretrain": parent.L}
    return flat_p, origin
