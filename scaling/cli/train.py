"""Commands that train one run and prepare its data."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling import progress
from scaling.cli.arguments import named_options
from scaling.cli.options import Json
from scaling.cli.output import note_code, show, show_json
from scaling.columns import COLUMNS
from scaling.config import DataConfig, RunConfig
from scaling.execution import Execution
from scaling.extras import require
from scaling.files import code_file
from scaling.init_from import resolved
from scaling.model_config import FAMILIES
from scaling.units import clock, si


def train(
    config: RunConfig,
    *,
    folder: Path | None = None,
    verbose: bool = False,
    json: Json = False,
    execution: Execution,
) -> None:
    """Train one run and print its test loss; as JSON if the output is not a terminal.

    Example: scaling train --tokens 2e6 --model.n-layer 4 --optim.lr 3e-3
    Example: scaling train --tokens 2e6 --folder runs/first

    Args:
        folder: Folder for checkpoints and weights; training resumes from the checkpoint that it
            contains. Default: none.
        verbose: Also print every other measurement and the config.
    """
    require("torch")
    progress.step("loading PyTorch")
    from scaling.training.train import Interrupted, Progress
    from scaling.training.train import train as train_run
    from scaling.weights import TENSORS

    config = resolved(config, named=named_options())
    if config.model.family not in FAMILIES:
        note_code(code_file(config.model.family))
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        if asked or folder is None:  # a second Ctrl-C stops without a checkpoint
            raise KeyboardInterrupt
        asked.append(number)

    def report(p: Progress) -> None:
        L = "" if p.L is None else f", L = {p.L:.4f}"
        detail = f"step {p.step} of {p.steps}{L}, {si(p.tokens_per_second)} tokens/s"
        progress.step(f"training run {config.run_id}", detail)

    before = signal.signal(signal.SIGINT, stop)
    try:
        result = train_run(
            config,
            execution=execution,
            folder=folder,
            on_progress=report,
            should_stop=lambda: bool(asked),
        )
    except Interrupted:
        raise KeyboardInterrupt(
            f"stopped; the checkpoint is in {folder}. The same command resumes from it."
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    if execution.devices > 1 and os.environ.get("RANK", "0") != "0":
        return  # under torchrun only the first process prints
    row = result.row | {"tests": {test["corpus"]: test["L"] for test in result.tests}}
    if json or not sys.stdout.isatty():  # scripts read the JSON
        show_json(row if json or verbose else _measured(row))
        return
    show(*_result_lines(config, row))
    if folder is not None and execution.keep_weights and row["status"] == "ok":
        show(f"weights: {folder / TENSORS}")
    if verbose:
        show("", *(f"{name} = {value}" for name, value in row.items() if value not in (None, "")))


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a run without its config, with the loss and what it took first."""
    config = {column.name for column in COLUMNS if column.is_config}
    first = {name: row[name] for name in ("run_id", "status", "L", "N", "D", "C", "B", "S")}
    return first | {name: value for name, value in row.items() if name not in config}


def _result_lines(run: RunConfig, row: Mapping[str, Any]) -> list[str]:
    """Return the loss of a run and what it took, in plain lines."""
    loss = f"test loss L = {row['L']:.4f} nats per {_unit(run, row)}"
    ended = "" if row["status"] == "ok" else f"; the run {row['status']}: {row['error']}"
    lines = [
        f"run {row['run_id']}: {loss}{ended}",
        f"N = {si(row['N'])} parameters, D = {si(row['D'])} tokens, B = {si(row['B'])} tokens, "
        f"C = {row['C']:.3g} FLOPs; {clock(row['seconds'])} on {row['device']} "
        f"({si(row['tokens_per_second'])} tokens/s)",
    ]
    if run.init:
        lines.append(f"begun from run {row['init_run']}, with L = {row['L_init']:.4f}")
    others = {name: L for name, L in row["tests"].items() if name != row["corpus"]}
    return [*lines, *(f"on {name}: L = {L:.4f}" for name, L in others.items())]


def _unit(run: RunConfig, row: Mapping[str, Any]) -> str:
    """Return what the loss of a run is per, and the measure that goes with it."""
    if run.classify.labels:
        return f"excerpt (accuracy {row['accuracy']:.3f}, {row['classes']} classes)"
    if run.model.masked:
        return "masked token"
    return f"token ({row['bits_per_byte']:.4f} bits per byte)"


def data_prepare(
    corpus: str = "prose", *, tokenizer: str = "bpe-1024", max_bytes: int | None = None
) -> None:
    """Read and split a corpus, train its tokenizer and cache the token files.

    Example: scaling data prepare my_text.txt --tokenizer bpe-1024

    Args:
        corpus: A bundled corpus, a text file or folder, or hub:<name>.
        tokenizer: 'bytes' or 'bpe-<vocabulary size>'.
        max_bytes: Read at most this many bytes of text. Default: all.
    """
    require("tokenizers", "tiktoken", "filelock")
    from scaling.data.corpus import prepare

    files = prepare(DataConfig(corpus=corpus, tokenizer=tokenizer, max_bytes=max_bytes))
    per_token = files.train_bytes / files.train_tokens
    show(
        f"{corpus} ({tokenizer}): {files.train_tokens:,} training and {files.test_tokens:,} test "
        f"tokens, {per_token:.2f} bytes per token; {files.folder}"
    )


def data_list() -> None:
    """List the bundled corpora and which of them are prepared.

    Example: scaling data list
    """
    from scaling.data.sources import CORPORA
    from scaling.files import cache

    for name, bundled in CORPORA.items():
        prepared = sorted(p.parent.name for p in (cache() / "tokens").glob(f"{name}-*/*/train.bin"))
        state = f"  [prepared: {', '.join(prepared)}]" if prepared else ""
        show(f"{name:<10} {bundled.about}{state}")
    show("You can also use any UTF-8 text file, a folder of .txt files, or hub:<dataset>.")
