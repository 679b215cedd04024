"""The schema of the results tables: one row a run in :data:`COLUMNS`, the only place that joins
config words (``tokens``) to the symbols of formulas (``D``). Imports nothing heavy.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

from scaling.config import fields_of

SCHEMA = 1
"""Version of the table's schema; written to the manifest."""

STATUSES = ("ok", "diverged", "stopped", "failed")
"""How a run ended. Only 'ok' rows carry a loss that a law may be fitted to."""


@dataclass(frozen=True)
class Column:
    name: str
    dtype: str
    """pandas dtype family: str, int, float or bool."""
    unit: str
    meaning: str
    is_config: bool = False
    """A field of RunConfig, not something measured."""


_MEASURED = (
    Column("run_id", "str", "", "hash of the canonical config: the same config is the same run"),
    Column(
        "status", "str", "", "ok, diverged (its loss explodes), stopped (it could not win), failed"
    ),
    Column("N", "int", "parameters", "non-embedding parameters, exact (biases and norms counted)"),
    Column("N_total", "int", "parameters", "all parameters, embeddings and output layer included"),
    Column("D", "int", "tokens", "training tokens processed, S B"),
    Column("D_unique", "int", "tokens", "distinct training tokens seen"),
    Column("D_shared", "int", "tokens", "of D: trained once, for this run and a longer one"),
    Column("C", "float", "FLOPs", "training compute, 6 N D; parameters count once for each use"),
    Column("C_kaplan", "float", "FLOPs", "with attention (Kaplan et al. 2020, Table 1)"),
    Column("C_chinchilla", "float", "FLOPs", "Hoffmann et al. 2022, appendix F"),
    Column("C_matmul", "float", "FLOPs", "every matrix product as built, output layer included"),
    Column("B", "int", "tokens", "tokens per optimiser step"),
    Column("S", "int", "steps", "optimiser steps"),
    Column("L", "float", "nats/token", "held-out test loss after the last step, or the least"),
    Column("L_stderr", "float", "nats/token", "standard error of L over the test contexts"),
    Column("bits_per_byte", "float", "bits/byte", "L per byte of test text: compares tokenizers"),
    Column("lr_peak", "float", "", "peak learning rate that the rule gave, for the matrices"),
    Column("vocab_size", "int", "tokens", "vocabulary, end-of-text included"),
    Column("corpus_hash", "str", "", "content hash of the token files"),
    Column("seconds", "float", "s", "wall clock of training and evaluation; in a pack, its share"),
    Column("tokens_per_second", "float", "tokens/s", "training throughput, evaluation excluded"),
    Column("step_seconds", "float", "s", "mean time of a step; in a pack, its share"),
    Column(
        "mfu", "float", "", "model FLOP utilisation: C_matmul per second of training / peak_flops"
    ),
    Column("peak_flops", "float", "FLOP/s", "of the hardware: a matrix product timed, or as given"),
    Column("memory", "int", "bytes", "most held: tensors on a GPU; on a CPU the whole process"),
    Column(
        "pack", "int", "runs", "most runs trained beside it in one stacked model, itself included"
    ),
    Column("device", "str", "", "what it ran on"),
    Column("error", "str", "", "for all runs that are not ok: what happened"),
)

_SYMBOL_OF = {"tokens": "D", "batch_tokens": "B"}
"""Config words whose column is the symbol above (D and B there are exact, in whole steps)."""


def _config_columns() -> tuple[Column, ...]:
    columns = []
    for key, (hint, _) in fields_of().items():
        name = key.rpartition(".")[2]
        if name in _SYMBOL_OF:
            continue
        options = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
        if typing.get_origin(hint) is typing.Literal or str in options:
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
    Column("grad_norm", "float", "", "mean norm of the gradient since the previous row, unclipped"),
    Column("update_norm", "float", "", "of the last update of the matrices, over their own norm"),
    Column("B_noise", "float", "tokens", "gradient noise scale B_simple, running mean"),
    Column("B_noise_norm", "float", "tokens", "the same of the norms' gradients, a cross-check"),
)
"""Every column of ``curves.parquet``: one row an evaluation."""

TEST_COLUMNS: tuple[Column, ...] = (
    Column("run_id", "str", "", "joins to the table of runs"),
    Column("corpus", "str", "", "the run's own corpus, or one of config eval.others"),
    Column("tokens", "int", "tokens", "test tokens that the loss is measured on"),
    Column("L", "float", "nats/token", "test loss after the last step, in the run's own tokens"),
    Column("L_stderr", "float", "nats/token", "standard error of L over the test contexts"),
    Column("bits_per_byte", "float", "bits/byte", "L per byte of test text"),
    Column(
        "L_position", "list", "nats/token", "loss at each position in the context, n_ctx values"
    ),
)
"""Every column of ``tests.parquet``: one row a finished run and distribution."""

COLUMN_OF_WORD = {
    "loss": "L", "test_loss": "L", "val_loss": "L", "params": "N", "n_params": "N",
    "parameters": "N", "tokens": "D", "n_tokens": "D", "flops": "C", "flop": "C",
    "compute": "C", "batch_tokens": "B", "batch_size": "B", "steps": "S", "step": "S",
}  # fmt: skip
"""Words people use for a column; for suggestions only, nothing is renamed silently."""


def config_row(flat: dict[str, Any]) -> dict[str, Any]:
    """The config columns of a row, from :func:`scaling.config.flatten`."""
    names = {key: key.rpartition(".")[2] for key in flat}
    return {names[key]: value for key, value in flat.items() if names[key] not in _SYMBOL_OF}


def markdown() -> str:
    """The schema as Markdown: what results/README.md holds."""
    lines = [
        "# Results",
        "",
        "One folder a sweep: `runs.csv` (one row a run), `curves.parquet` (one row an evaluation),",
        "`tests.parquet` (final losses by position in the context and on other distributions),",
        "`manifest.json` (revision, versions, machine, corpus, wall time) and figures.",
        "This page is generated from `scaling/schema.py`.",
    ]
    tables = {"runs.csv": COLUMNS, "curves.parquet": CURVE_COLUMNS, "tests.parquet": TEST_COLUMNS}
    for title, columns in tables.items():
        lines += ["", f"## {title}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(lines) + "\n"
