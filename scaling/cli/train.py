"""Commands that train one run and prepare its data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from scaling.cli.output import note_code, show, show_json
from scaling.config import DataConfig, RunConfig
from scaling.execution import Execution
from scaling.extras import require
from scaling.files import code_file
from scaling.model_config import FAMILIES


def train(config: RunConfig, *, folder: Path | None = None, execution: Execution) -> None:
    """Train one run and print its results as JSON.

    Example: scaling train --tokens 2e6 --model.n-layer 4 --optim.lr 3e-3
    Example: scaling train --tokens 2e6 --folder runs/first

    Args:
        folder: Folder for checkpoints; training resumes from the one it holds. Default: write none.
    """
    require("torch")
    from rich.console import Console

    from scaling.training.train import Interrupted, Progress
    from scaling.training.train import train as train_run

    console = Console(stderr=True)
    if config.model.family not in FAMILIES:
        note_code(code_file(config.model.family))
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        if asked or folder is None:  # a second Ctrl-C stops without a checkpoint
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with console.status(f"run {config.run_id}") as status:

            def show(p: Progress) -> None:
                L = "" if p.L is None else f"  L {p.L:.4f}"
                rate = f"{p.tokens_per_second:,.0f} tokens/s"
                status.update(f"run {config.run_id}  step {p.step} of {p.steps}{L}  {rate}")

            result = train_run(
                config,
                execution=execution,
                folder=folder,
                on_progress=show,
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
    show_json(result.row | {"tests": {test["corpus"]: test["L"] for test in result.tests}})


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
