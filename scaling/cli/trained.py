"""Trained models as commands name them: a run with weights, or a checkpoint of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import local_folder
from scaling.cli.output import note_code
from scaling.files import code_file

if TYPE_CHECKING:
    from scaling.weights import Weights

_MOST_NAMED = 8


def trained(run: str, allow_code: tuple[str, ...] = ()) -> Weights:
    """Return the weights of a run: its folder, RESULTS/RUN, or results with one run.

    `allow_code` lists files whose model families may run. Raises WeightsError.
    """
    from scaling import size, weights

    for file in allow_code:
        note_code(code_file(file))
        size.allow(file)
    return weights.load(folder_of(run))


def trained_or_public(run: str, allow_code: tuple[str, ...] = ()) -> Weights:
    """Return the weights of a run, or those of a checkpoint: hf:NAME or its folder."""
    from scaling.exchange.checkpoint import is_checkpoint

    if is_checkpoint(run):
        from scaling.exchange.from_hf import weights_of

        return weights_of(run)
    return trained(run, allow_code)


def folder_of(run: str) -> Path:
    """Return the folder of the one run with weights that is named. Raises WeightsError."""
    from scaling import weights

    folder = local_folder(run)
    if not folder.exists() and folder.parent.is_dir() and folder.name:
        results = folder.parent.parent if folder.parent.name == "runs" else folder.parent
        return weights.find(results, folder.name)[0]
    found = weights.find(folder)
    if len(found) == 1:
        return found[0]
    some = ", ".join(path.name for path in found[:_MOST_NAMED])
    more = ", ..." if len(found) > _MOST_NAMED else ""
    raise weights.WeightsError(
        f"{run} holds {len(found)} runs with weights: {some}{more}. Choose one, such as "
        f"{run.rstrip('/')}/{found[0].name[:6]}."
    )
