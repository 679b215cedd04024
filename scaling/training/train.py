"""Train runs: RunConfig -> row of the results table and learning curve.

K runs of one shape are trained as one stacked model (a pack); a single run is K = 1 through the same
code. Runs that only part later, as a ladder of horizons under one wsd schedule does, share a row of
the stack until then: a trunk and its branches.
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
from scaling.training.pack_key import SHARED
from scaling.training.result import GiveUp, Interrupted, Progress, Result
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

    With a `folder`, a checkpoint is kept there and an existing one is resumed exactly: an interrupted
    run ends with the numbers of an undisturbed one, bit for bit on the CPU. A loss that is no longer
    finite, or explodes, ends the run with status 'diverged'. `should_stop` is asked after every
    step; True writes the checkpoint and raises Interrupted. `give_up` is asked after every evaluation
    but the last; a run that it names ends there with status 'stopped'. `texts` are the hashes that its
    texts must have, by name (scaling.data.corpus.hashes). Raises ConfigError (CorpusError) for a run
    that cannot be trained as asked.
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
    """Train runs of one shape as one stacked model; the results, in the order of `runs`.

    Each member has its own seed, data, learning rates, horizon and checkpoint, is measured at its own
    steps, and leaves when it ends or diverges, without a trace on the others. At most `slots` (where
    given) train at once; the others wait, in the order of `runs`, and take the places of those that
    leave. Runs whose learning rates part late (scaling.training.pack_key.trunk) are trained once until
    then.

    All this changes no number: on the CPU with one thread, uncompiled, a member ends as the run
    trained alone does, bit for bit; elsewhere but for the order of floating-point sums. `on_result`
    is called as each member ends. The `seconds` of a row are the member's share of the wall clock.
    Raises ConfigError where the runs differ in one of :data:`SHARED`, else as :func:`train`.
    """
    if not runs:
        return []
    first = flatten(runs[0])
    for run in runs[1:]:
        other = flatten(run)
        for key in SHARED:
            if other[key] != first[key]:
                raise ConfigError(
                    f"runs of one pack differ in {key} ({first[key]!r} in {runs[0].run_id}, "
                    f"{other[key]!r} in {run.run_id}); train them apart."
                )
    for run in runs:
        size.allow(run.model.family)
    execution = execution or Execution()
    folders = folders or [None] * len(runs)
    device_of(execution.device, execution.devices // execution.nodes)
    for run in runs:
        launch.check(run, execution)
    torch.set_num_threads(execution.threads)
    again = partial(
        train_pack, runs, slots=slots, execution=execution, folders=folders, texts=texts
    )
    with launch.together(execution, again) as ranks:
        trainer = Trainer(runs, execution, folders, slots, ranks, texts)
        return trainer.run_to_end(on_progress, on_result, should_stop, give_up)
