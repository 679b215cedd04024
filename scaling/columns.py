"""The schema of the results tables, one row per run in :data:`COLUMNS`.

This is the only place that joins config words (``tokens``) to the symbols of formulas (``D``).
Imports nothing heavy.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.config import fields_of
from scaling.optim_config import RULES

SCHEMA = 1
"""Version of the table's schema; written to the manifest."""

STATUSES = ("ok", "diverged", "stopped", "failed")
"""How a run ended. A law may be fitted to the loss of 'ok' rows only."""

_SYMBOL_OF = {"tokens": "D", "batch_tokens": "B"}
"""Config words whose column holds a measured value (there D and B are exact, in whole steps)."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, type, unit and meaning."""

    name: str
    dtype: str
    """pandas dtype family: str, int, float or bool; or list."""
    unit: str
    meaning: str
    is_config: bool = False
    """Whether it is a field of RunConfig, not something measured."""


_MEASURED = (
    Column("run_id", "str", "", "hash of the canonical config: equal configs are the same run"),
    Column(
        "status",
        "str",
        "",
        "ok, diverged (its loss exploded), stopped (its end did not matter), failed",
    ),
    Column("N", "int", "parameters", "non-embedding parameters, exact (biases and norms counted)"),
    Column("N_total", "int", "parameters", "all parameters, embeddings and output layer included"),
    Column("D", "int", "tokens", "training tokens processed, S B"),
    Column(
        "D_predicted",
        "int",
        "tokens",
        "the training tokens among D that were predicted: all, or the masked ones of an encoder; "
        "none by a classifier without language-model loss",
    ),
    Column("D_unique", "int", "tokens", "distinct training tokens seen"),
    Column(
        "D_shared",
        "int",
        "tokens",
        "the part of D that was trained once for this run and a longer one",
    ),
    Column("init_run", "str", "", "run whose weights it began from; empty if they were random"),
    Column(
        "D_pretrain",
        "int",
        "tokens",
        "training tokens of the run that it began from, and of those before; not part of D",
    ),
    Column("D_transfer", "int", "tokens", "D of a run that began from the weights of another"),
    Column("L_pretrain", "float", "nats/token", "test loss of the run that it began from"),
    Column(
        "L_init",
        "float",
        "nats/token",
        "held-out test loss of the weights that it began from, before its first step",
    ),
    Column("C", "float", "FLOPs", "training compute, 6 N D; parameters count once per use"),
    Column(
        "C_kaplan",
        "float",
        "FLOPs",
        "training compute with attention (Kaplan et al. 2020, Table 1)",
    ),
    Column(
        "C_chinchilla", "float", "FLOPs", "training compute by Hoffmann et al. 2022, appendix F"
    ),
    Column("C_matmul", "float", "FLOPs", "every matrix product as built, output layer included"),
    Column("B", "int", "tokens", "tokens per optimiser step"),
    Column("S", "int", "steps", "optimiser steps"),
    Column(
        "L",
        "float",
        "nats/token",
        "held-out test loss after the last step; with patience, the minimum; of an encoder, per "
        "masked token; of a classifier, per excerpt",
    ),
    Column("L_stderr", "float", "nats/token", "standard error of L over the test contexts"),
    Column(
        "bits_per_byte",
        "float",
        "bits/byte",
        "L per byte of test text: comparable across tokenizers; empty for an encoder, whose loss "
        "is no likelihood of the text",
    ),
    Column("L_next", "float", "nats/pair", "test loss of the next-sentence objective of encoders"),
    Column("next_accuracy", "float", "", "share of test pairs that this objective decides rightly"),
    Column("accuracy", "float", "", "share of the test excerpts that a classifier gets right"),
    Column("classes", "int", "", "number of classes of a classifier, which the test set balances"),
    Column("lr_peak", "float", "", "peak learning rate of the matrices, as given by the rule"),
    Column("vocab_size", "int", "tokens", "vocabulary size, end-of-text included"),
    Column("corpus_hash", "str", "", "content hash of the token files"),
    Column(
        "seconds",
        "float",
        "s",
        "wall-clock time of training and evaluation; in a pack, the run's share",
    ),
    Column("tokens_per_second", "float", "tokens/s", "training throughput, evaluation excluded"),
    Column("step_seconds", "float", "s", "mean time per step; in a pack, the run's share"),
    Column(
        "mfu", "float", "", "model FLOP utilisation: C_matmul per second of training / peak_flops"
    ),
    Column(
        "peak_flops",
        "float",
        "FLOP/s",
        "speed of the hardware: as given, or of a timed matrix product",
    ),
    Column(
        "memory", "int", "bytes", "peak memory: of tensors on a GPU, of the whole process on a CPU"
    ),
    Column(
        "pack",
        "int",
        "runs",
        "largest number of runs in its stacked model at once, itself included",
    ),
    Column("device", "str", "", "device that it ran on"),
    Column("error", "str", "", "what happened, for every run that is not ok"),
    Column("command", "str", "", "command that trained the run; empty for the built-in trainer"),
)


def _config_columns() -> tuple[Column, ...]:
    columns = []
    for key, (hint, _) in fields_of().items():
        name = key.rpartition(".")[2]
        if name in _SYMBOL_OF:
            continue
        options = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
        if name in RULES:
            dtype = "float"
        elif typing.get_origin(hint) is typing.Literal or str in options:
            dtype = "str"
        else:
            dtype = {int: "int", float: "float", bool: "bool"}[options[0]]
        columns.append(Column(name, dtype, "", f"config: {key}", is_config=True))
    return tuple(columns)


COLUMNS: tuple[Column, ...] = _MEASURED + _config_columns()
"""Every column of ``runs.csv``, in order."""

CURVE_COLUMNS: tuple[Column, ...] = (
    Column("run_id", "str", "", "joins to the table of runs"),
    Column("S", "int", "steps", "optimiser steps so far"),
    Column("D", "int", "tokens", "training tokens so far"),
    Column("C", "float", "FLOPs", "6 N D so far"),
    Column("L", "float", "nats/token", "held-out test loss"),
    Column("L_train", "float", "nats/token", "mean training loss since the previous row"),
    Column("lr", "float", "", "learning rate of the last step"),
    Column(
        "grad_norm",
        "float",
        "",
        "mean norm of the gradient since the previous row, before clipping",
    ),
    Column(
        "update_norm",
        "float",
        "",
        "norm of the last update of the matrices over the matrices' norm",
    ),
    Column("B_noise", "float", "tokens", "gradient noise scale B_simple, running mean"),
    Column(
        "B_noise_norm",
        "float",
        "tokens",
        "B_simple from the norms' gradients alone, as a cross-check",
    ),
)
"""Every column of ``curves.parquet``, which has one row per evaluation."""

TEST_COLUMNS: tuple[Column, ...] = (
    Column("run_id", "str", "", "joins to the table of runs"),
    Column("corpus", "str", "", "the run's own corpus, or one of config eval.others"),
    Column("tokens", "int", "tokens", "number of test tokens that the loss is measured on"),
    Column("L", "float", "nats/token", "test loss after the last step, in the run's own tokens"),
    Column("L_stderr", "float", "nats/token", "standard error of L over the test contexts"),
    Column("bits_per_byte", "float", "bits/byte", "L per byte of test text"),
    Column(
        "L_position", "list", "nats/token", "loss at each position in the context, n_ctx values"
    ),
)
"""Every column of ``tests.parquet``, which has one row per finished run and distribution."""


def config_row(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the config columns of a row, from :func:`scaling.config.flatten`."""
    names = {key: key.rpartition(".")[2] for key in flat}
    return {names[key]: value for key, value in flat.items() if names[key] not in _SYMBOL_OF}


CONFIG_DEFAULTS = config_row({key: default for key, (_, default) in fields_of().items()})
"""{column: value} for runs of older versions, whose rows lack the fields added since: the default
of a new field leaves existing runs as they were."""


def is_command(row: Mapping[str, Any]) -> bool:
    """Return whether a command of the user trained the run of a row."""
    command = row.get("command")
    return isinstance(command, str) and bool(command)


IN_WORDS = {
    "N": "parameters", "D": "training tokens", "C": "training FLOPs", "L": "loss",
    "B": "tokens per step", "S": "steps", "lr_peak": "learning rate", "n_layer": "layers",
    "d_model": "width", "d_ff": "width of the feed-forward layers", "n_head": "heads",
    "n_kv_head": "key and value heads", "vocab_size": "vocabulary size", "n_ctx": "context length",
    "seed": "seed", "D_unique": "distinct training tokens", "sequences": "batch size",
    "L_stderr": "standard error of the loss", "D/N": "tokens per parameter",
}  # fmt: skip
"""What a symbol, or what the name of a column says, is in words."""

ALWAYS = frozenset({"run_id", "status", "N", "D", "C", "L", "command"})
"""Columns that a table of runs of a command always has; others only if they hold something."""


def markdown() -> str:
    """Return the schema as Markdown: the content of results/README.md."""
    lines = [
        "# Results",
        "",
        "There is one folder per sweep. It holds `runs.csv` (one row per run), `curves.parquet`",
        "(one row per evaluation), `tests.parquet` (final losses by position in the context and on",
        "other distributions), `manifest.json` (revision, versions, machine, corpus, wall-clock",
        "time) and figures. This page is generated from `scaling/columns.py`.",
        "",
        "If a command of your own trains the runs, `runs.csv` has a column for each of its keys",
        "and for everything that it reports, and leaves out columns that no run fills.",
    ]
    tables = {"runs.csv": COLUMNS, "curves.parquet": CURVE_COLUMNS, "tests.parquet": TEST_COLUMNS}
    for title, columns in tables.items():
        lines += ["", f"## {title}", ""]
        lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(lines) + "\n"
