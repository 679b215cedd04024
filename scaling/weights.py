"""The weights of finished runs: `weights.safetensors` and `weights.json` in a run's folder.

    weights.safetensors     one float32 tensor for each tensor of the model, by its name
    weights.json            config, tokenizer, the run's row so far, SHA-256 of the tensors' file

They are the parameters that the run's loss L was measured with: the running mean (`optim.ema`) if
there is one, and with `eval.patience` those of the best evaluation. A run that diverged or was
stopped early has none. Nothing is pickled, so files from an untrusted source run no code.

torch is imported only for reading and writing tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import jsonable, size
from scaling.config import RECIPE, RunConfig, flatten, from_dict
from scaling.errors import ConfigError, WeightsError
from scaling.extras import require
from scaling.files import (
    check_regular,
    code_file,
    open_regular,
    read_bytes,
    write_atomic,
)
from scaling.run_progress import CHECKPOINT

if TYPE_CHECKING:
    from torch import Tensor

    from scaling.data.tokenizer import Tokenizer
    from scaling.model import Model

__all__ = [
    "Weights",
    "WeightsError",
    "check_no_classifier",
    "check_predicts_next",
    "discard_unless",
    "find",
    "has_weights",
    "load",
    "save",
]

FORMAT = 1
"""Version of weights.json."""

TENSORS = "weights.safetensors"
"""Name of the file of the tensors in its run's folder."""

RECORD = "weights.json"
"""Name of the file with config, tokenizer and row. It is written last."""

HOW_TO_KEEP = (
    "Runs keep their weights with --execution.keep-weights (scaling train) or "
    "--set execution.keep_weights=true (scaling sweep), or if their spec says so; to train them "
    "again, use another results folder."
)
"""What to do about a run without weights."""

_CHUNK_BYTES = 1 << 22

_MOST_NAMED = 8
"""Number of runs listed in an error about an ambiguous name."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A trained model, ready to use."""

    run: RunConfig
    model: Model
    flat_1p: Tensor
    """The parameters [1, P], float32."""
    tokenizer: Tokenizer
    row: dict[str, Any]
    """The run's row of the results table, without what was known only later."""
    mean: bool
    """Whether the parameters are the running mean over training steps (`optim.ema`)."""
    sha256: str = ""
    """Hash of the file of the tensors; empty if there is none."""


# ------------------------------------------------------------------ writing


def save(
    folder: Path,
    *,
    run: RunConfig,
    model: Model,
    flat_p: Tensor,
    tokenizer: Tokenizer,
    row: Mapping[str, Any],
    mean: bool = False,
) -> None:
    """Write the weights of a run into its folder, each file in full or not at all.

    `flat_p` is the row [P] of parameters that the loss in `row` was measured with. Raises OSError.
    """
    import torch
    from safetensors.numpy import save as serialized

    parts = flat_p.detach().to("cpu", torch.float32).split(model.sizes)
    tensors = {
        name: part_p.reshape(shape).contiguous().numpy()
        for (name, shape), part_p in zip(model.shapes.items(), parts, strict=True)
    }
    data = serialized(tensors, {"format": "pt", "run_id": run.run_id})
    write_atomic(folder / TENSORS, data)
    record = {
        "format": FORMAT,
        "recipe": RECIPE,
        "run_id": run.run_id,
        "mean": mean,
        "row": dict(row),
        "config": flatten(run),
        "tokenizer": tokenizer.record(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(jsonable.finite(record), allow_nan=False, default=str)
    write_atomic(folder / RECORD, text.encode())


def discard_unless(folder: Path, step: int | None) -> None:
    """Delete the weights in a run's folder unless they are those after `step` steps.

    None deletes any weights. Links are deleted, never their targets.
    """
    if not os.path.lexists(folder / RECORD) and not os.path.lexists(folder / TENSORS):
        return
    with contextlib.suppress(WeightsError, KeyError, TypeError):
        if step is not None and record(folder)["row"]["S"] == step:
            return
    for name in (RECORD, TENSORS):
        (folder / name).unlink(missing_ok=True)


# ------------------------------------------------------------------ reading


def load(folder: Path | str, device: str = "cpu") -> Weights:
    """Return the weights in the folder of a run, on a device.

    Raises WeightsError if there are none, and for files that are damaged, belong together with
    others, or were written by another version; and for a model family that is code which is not
    allowed to run (:func:`scaling.size.allow`).
    """
    require("torch", "safetensors")
    from scaling.data.tokenizer import Tokenizer
    from scaling.devices.device import device_of
    from scaling.model import build
    from scaling.models.classifier import classifier

    folder = Path(folder)
    values = record(folder)
    where = folder / RECORD
    try:
        run = from_dict(values["config"])
        tokenizer = Tokenizer.from_record(values["tokenizer"])
        row, mean, digest = values["row"], values["mean"], values["sha256"]
        if not (isinstance(row, dict) and isinstance(mean, bool) and isinstance(digest, str)):
            raise ValueError("row, mean or sha256 is of the wrong type")
        classes = row["classes"] if run.classify.labels else 0
        if type(classes) is not int or classes < 0:
            raise ValueError("its number of classes is of the wrong type")
        if tokenizer.vocab_size != run.data.vocab_size:
            raise ValueError(
                f"its tokenizer has {tokenizer.vocab_size} ids and its config {run.data.vocab_size}"
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"{where} is damaged, or from another version ({what.rstrip('.')}). {HOW_TO_KEEP}"
        ) from None
    if not size.is_allowed(run.model.family):
        file = code_file(run.model.family)
        raise WeightsError(
            f"{where}: its model family is code in {file}, which runs only if you allow it. Read "
            f"that file; to allow it, add --allow-code {shlex.quote(str(file))}."
        )
    if run.classify.labels:
        model: Model = classifier(run.model, tokenizer.vocab_size, classes, run.classify.lm_weight)
    else:
        model = build(run.model, tokenizer.vocab_size)
    flat_1p = _tensors(folder, model, digest)
    return Weights(
        run=run,
        model=model,
        flat_1p=flat_1p.to(device_of(device)),
        tokenizer=tokenizer,
        row=row,
        mean=mean,
        sha256=digest,
    )


def check_no_classifier(weights: Weights, doing: str) -> None:
    """Raise ConfigError if the model is a classifier."""
    if weights.run.classify.labels:
        raise ConfigError(
            f"run {weights.run.run_id} is a classifier (classify.labels="
            f"{weights.run.classify.labels!r}): it cannot {doing}. Choose a run of a language "
            "model."
        )


def check_predicts_next(weights: Weights, doing: str) -> None:
    """Raise ConfigError if the model is an encoder, which predicts masked tokens, or a
    classifier."""
    check_no_classifier(weights, doing)
    if weights.run.model.masked:
        raise ConfigError(
            f"run {weights.run.run_id} is an encoder (model.family={weights.run.model.family!r}): "
            f"it predicts masked tokens, not the next one, and cannot {doing}. Choose a run of a "
            "decoder."
        )


def find(results: Path | str, run: str | None = None) -> list[Path]:
    """Return the folders of the runs with weights in a results folder, sorted by run id.

    `results` may also be the folder of one run. `run` selects one run by a prefix of its id, or by
    its tag. Links among the run folders are left out. Raises WeightsError if no run has weights or
    `run` does not select exactly one.
    """
    results = Path(results)
    if has_weights(results):
        folders = [results]
    else:
        try:
            with os.scandir(results / "runs") as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            names = []
        folders = [results / "runs" / name for name in sorted(names)]
        folders = [folder for folder in folders if has_weights(folder)]
    if not folders:
        raise _none_in(results)
    if run is None:
        return folders
    found = [folder for folder in folders if folder.name == run]
    found = found or [folder for folder in folders if folder.name.startswith(run)]
    found = found or [folder for folder in folders if _tag(folder) == run]
    if len(found) != 1:
        some = ", ".join(folder.name for folder in (found or folders)[:_MOST_NAMED])
        some += ", ..." if len(found or folders) > _MOST_NAMED else ""
        what = f"matches {len(found)} runs: {some}" if found else "matches no run with weights"
        known = "" if found else f"; there are {some}"
        raise WeightsError(f"{run!r} {what} in {results}{known}. Give a prefix of one run's id.")
    return found


def has_weights(folder: Path) -> bool:
    """Return whether the folder of a run holds weights, without reading them."""
    return all((folder / name).is_file() for name in (RECORD, TENSORS))


def _tag(folder: Path) -> str | None:
    try:
        return record(folder)["config"]["tag"]
    except (WeightsError, KeyError, TypeError):
        return None


def _none_in(folder: Path) -> WeightsError:
    """Return the error for a folder without weights."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else f"is not there{_from(folder)}"
        return WeightsError(f"{folder} {what}. Give the folder of a run or of a sweep.")
    for name in (RECORD, TENSORS):
        try:
            check_regular(folder / name)
        except FileNotFoundError:
            continue
        except OSError as error:  # a pipe or a folder of that name
            return WeightsError(f"{folder / name} cannot be read: {error.strerror}.")
    lack = [name for name in (RECORD, TENSORS) if not (folder / name).exists()]
    if len(lack) == 1:
        return WeightsError(f"{folder} has no {lack[0]}, which its weights need. {HOW_TO_KEEP}")
    return WeightsError(_why_none(folder) or f"{folder} holds no weights. {HOW_TO_KEEP}")


def _from(folder: Path) -> str:
    """Return where a relative path was looked up."""
    return "" if folder.is_absolute() else f" (in {Path.cwd()})"


def _why_none(folder: Path) -> str:
    """Return why the folder of a run has no weights, if that is known, and what to do."""
    if (folder / CHECKPOINT).exists():
        return (
            f"the run in {folder} has not ended, and only its end has weights. Its own command "
            "resumes it; add --execution.keep-weights."
        )
    runs = folder / "runs"
    try:
        some = [next(runs.iterdir())] if runs.is_dir() else [folder]
        values = json.loads(read_bytes(some[0] / "config.json"))
    except (OSError, ValueError, StopIteration, RecursionError):
        return ""
    if not isinstance(values, dict) or "command" not in values:
        return ""
    return (
        f"{folder} was trained by a command of its own, whose weights have a form of their own. "
        "Choose a run of the built-in trainer."
    )


def record(folder: Path) -> dict[str, Any]:
    """Return the values of weights.json, which may come from an untrusted source. Raises
    WeightsError."""
    path = folder / RECORD
    if not has_weights(folder):
        raise _none_in(folder)
    try:
        values = json.loads(read_bytes(path))
        format = values["format"]
        if type(format) is not int:
            raise ValueError(f"its format {format!r} is not a whole number")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise WeightsError(f"{path} is damaged ({reason}). {HOW_TO_KEEP}") from None
    if format != FORMAT:
        raise WeightsError(
            f"{path} was written by another version (format {format}; this one reads {FORMAT}). "
            "Update the package."
        )
    return values


def _tensors(folder: Path, model: Model, digest: str) -> Tensor:
    """Return the parameters [1, P] in weights.safetensors, after checks. Raises WeightsError."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / TENSORS
    flat_p = torch.empty(model.P)
    try:
        if _digest(path) != digest:
            raise ValueError(f"its SHA-256 is not the one in {RECORD}")
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(model.shapes):
                odd = sorted(names ^ set(model.shapes))
                raise ValueError(f"its tensors are not those of the model: {odd[0]!r}")
            parts = zip(model.shapes.items(), flat_p.split(model.sizes), strict=True)
            for (name, shape), part_p in parts:
                tensor = file.get_tensor(name)
                if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
                    raise ValueError(
                        f"{name!r} is {tensor.dtype} {tuple(tensor.shape)}, not float32 {shape}"
                    )
                part_p.copy_(tensor.reshape(-1))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, SafetensorError) as error:
        raise WeightsError(f"{path} is damaged ({error}). {HOW_TO_KEEP}") from None
    return flat_p[None]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
