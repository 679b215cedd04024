"""Train one language model and measure it.

    from scaling import RunConfig, train
    result = train(RunConfig(tokens=200_000))
    print(result.row["L"])

Symbols, as in Kaplan et al. 2020 (arXiv 2001.08361) and Hoffmann et al. 2022 (arXiv 2203.15556):

    N         non-embedding parameters, exact          D         training tokens processed
    N_total   all parameters                           D_unique  distinct training tokens seen
    C         training FLOPs, 6 N D                    B         tokens per optimiser step
    S         optimiser steps                          L         held-out test loss [nats/token]
    E         irreducible loss [nats/token]

Configs and the command line use words (``tokens``, ``batch_tokens``); tables and formulas use these
symbols. ``scaling.columns.COLUMNS`` is the one place that joins them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.config import RunConfig
    from scaling.errors import ConfigError
    from scaling.execution import Execution
    from scaling.training.train import train, train_pack

__distribution__ = "scaling-laws-lab"
__all__ = ["ConfigError", "Execution", "RunConfig", "train", "train_pack"]

_HOMES = {
    "ConfigError": "scaling.errors",
    "Execution": "scaling.execution",
    "RunConfig": "scaling.config",
    "train": "scaling.training.train",
    "train_pack": "scaling.training.train",
}
"""Modules of the public names. They are imported on first use, because torch takes seconds."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
