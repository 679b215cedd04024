"""The command that writes a trained model for transformers."""

from __future__ import annotations

from pathlib import Path

from scaling.cli.options import Json
from scaling.cli.output import show, show_json
from scaling.cli.trained import trained
from scaling.extras import require


def export_model(
    run: str, *, to: Path, allow_code: tuple[str, ...] = (), json: Json = False
) -> None:
    """Write a trained model as a folder that Hugging Face's transformers loads.

    Example: scaling export-model results/abilities/3f2a --to my-model

    Args:
        run: A run with weights: its folder, RESULTS/RUN with a prefix of the run id, or a results
            folder with one such run.
        to: New folder for weights, config and tokenizer.
        allow_code: Allow a model family to run code from this Python file.
    """
    require("torch", "safetensors", "tokenizers")
    from scaling.exchange.to_hf import export_model as export

    exported = export(trained(run, allow_code), to)
    show_json(exported.record()) if json else show(exported)
