"""The command `transfer`: what pre-training is worth in data."""

from __future__ import annotations

from pathlib import Path

from scaling.cli.options import Json, Level, Seed, Where
from scaling.cli.output import show, show_json


def transfer(
    results: Path, *, where: Where = None, level: Level = 0.9, seed: Seed = 0, json: Json = False
) -> None:
    """Say how much data pre-training is worth.

    The loss of each fine-tuned run is looked up among the losses of runs from random weights. The
    data with which these reach it, less what the fine-tuned run used, is the effective data
    transferred D_T (Hernandez et al. 2021), whose law in D_F and N is fitted.

    Example: scaling transfer results/transfer
    Example: scaling transfer results/transfer --json

    Args:
        results: A results folder with both arms: runs that began from other runs (init), and runs
            of the same sizes that did not.
    """
    from analysis import load
    from analysis.transfer.effective_data import effective_data
    from analysis.transfer.presentation import text

    found = effective_data(load(results, where=where), level=level, seed=seed)
    if json:
        show_json(found.record())
        return
    show(text(found))
