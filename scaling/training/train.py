"""Train runs: RunConfig -> row of the results table and learning curve.

Runs of the same model and batch size are trained as one stacked model, a pack; a single run is a
pack of one, and goes through the same code. Runs that differ only late, such as a ladder of
horizons under one wsd schedule, share a row of the stack until then: a trunk and its branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from scaling import size
from scaling.config import RunConfig, flatten
from scaling.devices import launch
from scaling.devices.device import device_of
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.extras import require
from scaling.init_from import check_other_folder, resolved
from scaling.training.pack_key import SHARED
from scaling.training.result import Callbacks, GiveUp, Interrupted, Progress, Result
from scaling.training.trainer import Trainer

__all__ = ["GiveUp", "Interrupted", "Progress", "Result", "train", "train_pack"]


def train(
    run: RunConfig,
    *,
    execution: Execution | None = None,
    folder: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    give_up: GiveUp | None = None,
    texts: Mapping[str, str] | None = None,
) -> Result:
    """Train `run` and measure it.

    Arguments:
        folder: Holds the checkpoint and, with `execution.keep_weights`, the weights. An existing
            checkpoint is resumed exactly: an interrupted run ends with the numbers of an
            undisturbed one, bit for bit on the CPU.
        on_progress: Called about twice a second, and after every evaluation and checkpoint.
        should_stop: Called after every step; True writes the checkpoint and raises Interrupted.
        give_up: Called after every evaluation but the last; a run that it names ends there, with
            status 'stopped'.
        texts: {name: hash} that the run's texts must have (scaling.data.corpus.hashes).

    A loss that explodes or is no longer finite ends the run with status 'diverged'. Raises
    ConfigError (or its subclass CorpusError) for a run that cannot be trained as asked.
    """
    (result,) = train_pack(
        [run],
        execution=execution,
        folders=[folder],
        on_progress=on_progress and (lambda _, progress: on_progress(progress)),
        should_stop=should_stop,
        give_up=give_up,
        texts=texts,
    )
    return result


def train_pack(
    runs: Sequence[RunConfig],
    *,
    slots: int | None = None,
    execution: Execution | None = None,
    folders: Sequence[Path | None] | None = None,
    on_progress: Callable[[RunConfig, Progress], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    give_up: GiveUp | None = None,
    texts: Mapping[str, str] | None = None,
) -> list[Result]:
    """Train several runs as one stacked model; the results are in the order of `runs`.

    Each member has its own seed, data, learning rates, horizon and checkpoint, and its own
    evaluation steps. When it ends or diverges it leaves the pack, without any effect on the others.
    At most `slots` rows train at a time (by default all); other runs wait in order for a free slot.
    Steps that runs have in common (scaling.training.pack_key.trunk) are trained once.

    None of this changes a number: on the CPU with one thread, uncompiled, each result is that of
    the run trained alone, bit for bit; otherwise up to the order of floating-point sums. The
    `seconds` of a row are the member's share of the wall clock. `on_result` is called as each
    member ends; other arguments are those of :func:`train`.

    Raises ConfigError if the runs differ in one of :data:`SHARED`, and otherwise as :func:`train`
    does.
    """
    if not runs:
        return []
    runs = [resolved(run) for run in runs]
    _check_same_pack(runs)
    execution = execution or Execution()
    folders = folders or [None] * len(runs)
    if execution.keep_weights:
        require("safetensors")
        if None in folders:
            raise ConfigError(
                "execution.keep_weights=true needs a folder to write the weights to; give one with "
                "--folder."
            )
    for run, folder in zip(runs, folders, strict=True):
        check_other_folder(run, folder)
        size.allow(run.model.family)
    device_of(execution.device, execution.devices // execution.nodes)
    for run in runs:
        launch.check(run, execution)
    torch.set_num_threads(execution.threads)
    entry = partial(
        train_pack, runs, slots=slots, execution=execution, folders=folders, texts=texts
    )
    callbacks = Callbacks(
        on_progress=on_progress, on_result=on_result, should_stop=should_stop, give_up=give_up
    )
    with launch.together(execution, entry) as ranks:
        trainer = Trainer(runs, execution, folders, slots=slots, ranks=ranks, texts=texts)
        return trainer.run_to_end(callbacks)


def _check_same_pack(runs: Sequence[RunConfig]) -> None:
    first = flatten(runs[0])
    for run in runs[1:]:
        other = flatten(run)
        for key in SHARED:
            if other[key] != first[key]:
                raise ConfigError(
                    f"runs of one pack differ in {key} ({first[key]!r} in {runs[0].run_id}, "
                    f"{other[key]!r} in {run.run_id}); train them separately."
                )
