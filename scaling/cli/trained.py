"""Trained models as commands name them: a run with weights, or a checkpoint of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import local_folder, store_of
from scaling.cli.output import note_code
from scaling.files import code_file

if TYPE_CHECKING:
    from scaling.weights import Weights

_MOST_NAMED = 8


def allow(files: tuple[str, ...]) -> None:
    """Allow the model families in these files to run, and say so."""
    from scaling import size

    for file in files:
        note_code(code_file(file))
        size.allow(file)


def trained(run: str, allow_code: tuple[str, ...] = ()) -> Weights:
    """Return the weights of a run: its folder, RESULTS/RUN, or results with one run.

    `allow_code` lists files whose model families may run. Raises WeightsError.
    """
    from scaling import weights

    allow(allow_code)
    return weights.load(folder_of(run))


def trained_or_public(run: str, allow_code: tuple[str, ...] = ()) -> Weights:
    """Return the weights of a run, or those of a checkpoint: hf:NAME or its folder."""
    from scaling.exchange.checkpoint import is_checkpoint

    if is_checkpoint(run):
        from scaling.exchange.from_hf import weights_of

        return weights_of(run)
    return trained(run, allow_code)


def folders_of(run: str) -> tuple[list[Path], Path | None]:
    """Return the folders of the runs with weights that are named, and their results folder if it is
    that which is named. Raises WeightsError."""
    from scaling import weights

    folder = local_folder(run)
    if (store := store_of(folder)) is not None:
        from sweeps.kept_weights import fetch_all

        fetch_all(store)
    results = folder.parent.parent if folder.parent.name == "runs" else folder.parent
    if not folder.exists() and (results / "runs").is_dir():  # RESULTS/ID
        return weights.find(results, folder.name), None
    return weights.find(folder), None if weights.has_weights(folder) else folder


def folder_of(run: str) -> Path:
    """Return the folder of the one run with weights that is named. Raises WeightsError."""
    from scaling.weights import WeightsError

    found, _ = folders_of(run)
    if len(found) == 1:
        return found[0]
    some = ", ".join(path.name for path in found[:_MOST_NAMED])
    more = ", ..." if len(found) > _MOST_NAMED else ""
    raise WeightsError(
        f"{run} holds {len(found)} runs with weights: {some}{more}. Choose one, such as "
        f"{run.rstrip('/')}/{found[0].name[:6]}."
    )
