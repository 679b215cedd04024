"""Evaluate a public checkpoint as a run of ours: the same tasks, and bits per byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from scaling import progress
from scaling.abilities import local, table
from scaling.abilities.evaluate import Evaluated, Sheets
from scaling.abilities.names import check_names
from scaling.config import DataConfig
from scaling.data.corpus import test_text
from scaling.errors import ConfigError
from scaling.exchange.from_hf import weights_of
from scaling.exchange.text_loss import text_loss

MEASURED_BYTES = 1 << 18
"""Bytes of held-out text that the loss is measured on."""


def evaluate_checkpoint(
    source: str,
    tasks: Iterable[str],
    *,
    shots: Iterable[int] = (0,),
    files: Iterable[Path] = (),
    device: str = "cpu",
    corpus: str = DataConfig.corpus,
) -> Evaluated:
    """Evaluate a checkpoint (hf:NAME or a folder) on tasks and on held-out text.

    The text is the held-out text of `corpus`, as for runs trained on it; its bits per byte compare
    models of different tokenizers. The row of the checkpoint has N, D where it is known, L and
    bits_per_byte. Nothing is recorded. Raises ConfigError.
    """
    import pandas as pd

    names = list(dict.fromkeys(tasks))
    check_names(names)
    if "in_context" in names:
        raise ConfigError(
            f"in_context reads token files of a training corpus, which {source} does not have; "
            "leave it out."
        )
    progress.step(f"loading {source}")
    loaded = weights_of(source, device)
    data = replace(loaded.run.data, corpus=corpus)
    loaded = replace(loaded, run=loaded.run.with_own(data=data))
    sheets = Sheets(names, [local.task_of(Path(file)) for file in files], sorted(set(shots)))
    wanted = sheets.keys(loaded)
    sheets.check(loaded, wanted)
    progress.step("measuring the loss on held-out text")
    measured = text_loss(loaded, *_held_out(corpus))
    rows = sheets.rows(loaded, wanted, f"evaluating {source}")
    found = pd.DataFrame([{"run_id": source, **row} for row in rows], columns=list(table.COLUMNS))
    row = loaded.row | {name: measured[name] for name in ("L", "bits_per_byte")}
    return Evaluated(found.astype(table.COLUMNS), len(wanted), [row])


def _held_out(corpus: str) -> Iterator[str]:
    """Yield held-out documents of a corpus, up to MEASURED_BYTES."""
    _, read = test_text(DataConfig(corpus=corpus))
    left = MEASURED_BYTES
    for blocks in read():
        document = "".join(blocks).encode()[:left].decode(errors="ignore")
        yield document
        left -= len(document.encode())
        if left <= 0:
            return
