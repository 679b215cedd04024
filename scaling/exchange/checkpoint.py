"""Checkpoints of transformers on disk or on the hub: their files, read without running any code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import ConfigError, one_line
from scaling.extras import require
from scaling.files import EncodingError, check_regular, read_text

if TYPE_CHECKING:
    from torch import Tensor

HUB = "hf:"
"""Prefix of a repository of the Hugging Face hub, such as hf:EleutherAI/pythia-70m@step1000."""

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@\w[\w./-]*)?")
_NEEDED = ("*.json", "*.safetensors")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with config.json, tokenizer.json and safetensors."""

    name: str
    """The source as the user named it."""
    folder: Path
    config: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, in float32. Raises ConfigError."""
        from safetensors import SafetensorError, safe_open

        found: dict[str, Tensor] = {}
        for path in self.files:
            try:
                check_regular(path)
                with safe_open(path, framework="pt") as file:
                    found |= {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"{path} cannot be read: {one_line(error)}") from None
        return found

    @property
    def files(self) -> list[Path]:
        """The files of tensors; those that the index names, if there is one."""
        index = self.folder / "model.safetensors.index.json"
        if not index.exists():
            whole = self.folder / "model.safetensors"
            return [whole] if whole.exists() else sorted(self.folder.glob("*.safetensors"))
        named = read_json(index).get("weight_map")
        names = set(named.values()) if isinstance(named, dict) else set()
        if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
            raise ConfigError(f"{index} does not name files of its folder.")
        return [self.folder / name for name in sorted(names)]


def is_checkpoint(source: str) -> bool:
    """Return whether a source names a checkpoint of transformers: hf:... or a folder with
    config.json."""
    return source.startswith(HUB) or (Path(source) / "config.json").is_file()


def open_checkpoint(source: str) -> Checkpoint:
    """Return the checkpoint in a local folder or, for hf:..., on the hub.

    Only hf:... uses the network, and only for files that are not in its cache. Raises ConfigError
    if something is missing, and for weights that are pickled, because loading those runs code.
    """
    folder = _downloaded(source) if source.startswith(HUB) else Path(source)
    if not folder.is_dir():
        raise ConfigError(f"{source} is not there. Give a folder, or hf:NAME for the hub.")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{source} has no config.json; it is no checkpoint of transformers.")
    config = read_json(folder / "config.json")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
        there = f" {pickled[0]} is not read, because loading it could run code." if pickled else ""
        raise ConfigError(
            f"{source} has no *.safetensors.{there} Save the model with safe_serialization=True, "
            "or choose a revision with safetensors (hf:NAME@REVISION)."
        )
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{source} has no tokenizer.json. In transformers, save_pretrained of a fast tokenizer "
            "writes it."
        )
    return Checkpoint(name=source, folder=folder, config=config)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ConfigError that names the file."""
    try:
        value = json.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except EncodingError as error:
        raise ConfigError(f"{path} is {error}.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {one_line(error)}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object.")
    return value


def _downloaded(source: str) -> Path:
    """Return the cached folder of a repository, downloading what is missing. Raises ConfigError."""
    named = source.removeprefix(HUB)
    if not _NAME.fullmatch(named):
        raise ConfigError(
            f"{source} is not hf:OWNER/NAME or hf:OWNER/NAME@REVISION, such as "
            "hf:EleutherAI/pythia-70m."
        )
    require("huggingface_hub", extra="hf")
    from huggingface_hub import snapshot_download

    name, _, revision = named.partition("@")
    try:
        found = snapshot_download(
            name, revision=revision or None, allow_patterns=[*_NEEDED], ignore_patterns=["*/*"]
        )
    except Exception as error:  # its errors have no common class, and it passes on those of others
        raise ConfigError(
            f"{source} cannot be downloaded: {type(error).__name__}: {one_line(error).rstrip('.')}."
            " Check the name and the connection, or give a local folder."
        ) from None
    return Path(found)
