"""Write a trained model as a folder that transformers loads; transformers is not needed for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scaling.errors import ConfigError
from scaling.exchange.hf_config import config_json
from scaling.exchange.hf_tokenizer import hf_tokenizer, tokenizer_config
from scaling.exchange.layouts import Layout, layout_of, theirs_of, written_out
from scaling.files import write_atomic
from scaling.model_config import ModelConfig

if TYPE_CHECKING:
    from scaling.weights import Weights


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model written for transformers."""

    folder: Path
    architecture: str
    files: tuple[str, ...]
    run_id: str | None
    parameters: int
    """Numbers in the file; with repeats written out and zero biases, more than N_total."""
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {"folder": str(self.folder)}

    def __str__(self) -> str:
        load = f"AutoModelForCausalLM.from_pretrained({str(self.folder)!r}) loads it"
        lines = [f"{self.folder}: {self.architecture}, {self.parameters:,} parameters; {load}."]
        return "\n".join([*lines, *self.notes])


def export_model(weights: Weights, folder: Path | str) -> Exported:
    """Write safetensors, config and tokenizer of a model into a new folder.

    Raises ConfigError if transformers has no counterpart of the model, or if the folder is not
    empty.
    """
    from safetensors.torch import save

    from scaling.weights import check_no_classifier

    check_no_classifier(weights, "be exported")
    m, tokenizer, folder = weights.run.model, weights.tokenizer, Path(folder)
    layout = layout_of(m)
    _check_empty(folder)
    theirs = tensors(layout, m, weights)
    vocab_size = weights.model.vocab_size
    config = config_json(layout, written_out(m), vocab_size, tokenizer.end_of_text)
    ends = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
    words = hf_tokenizer(tokenizer.tokens, vocab_size).to_str()
    run_id = weights.row.get("run_id")
    metadata = {"format": "pt"} | ({} if run_id is None else {"run_id": str(run_id)})
    files = {
        "model.safetensors": save(theirs, metadata),
        "tokenizer.json": words.encode(),
        "tokenizer_config.json": _json(tokenizer_config(m.n_ctx)),
        "generation_config.json": _json(ends),
        "config.json": _json(config),  # last: a folder without it is no model
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    return Exported(
        folder=folder,
        architecture=layout.architecture,
        files=tuple(files),
        run_id=run_id,
        parameters=sum(tensor.numel() for tensor in theirs.values()),
        notes=tuple(_notes(layout, m)),
    )


def tensors(layout: Layout, m: ModelConfig, weights: Weights) -> dict[str, Tensor]:
    """Return their tensors by name, with muP folded in and repeated layers written out."""
    views = weights.model.named(weights.flat_1p)
    ours = {name: view[0].detach().float().cpu() for name, view in views.items()}
    if m.mup_base_width is not None:
        ours = _without_mup(m, ours)
    repeated = {name: x for name, x in ours.items() if not name[0].isdigit()}
    for name, tensor in ours.items():
        index, dot, rest = name.partition(".")
        if index.isdigit():
            for repeat in range(m.n_repeat):
                repeated[f"{int(index) + repeat * m.n_layer}{dot}{rest}"] = tensor
    return theirs_of(layout, written_out(m), repeated)


def _without_mup(m: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold muP's scales into the weights.

    Attention scales as 1 / c instead of c^-1/2: the queries, or their gain after the norm, take the
    ratio. The logits scale as 1 / width_multiplier: the last norm takes it.
    """
    ratio = m.head_width**-0.5
    found = dict(ours)
    for name, tensor in ours.items():
        if name in ("norm.weight", "norm.bias"):
            found[name] = tensor / m.width_multiplier
        elif m.qk_norm and name.endswith(".query_norm.weight"):
            found[name] = tensor * ratio
        elif not m.qk_norm and name.endswith((".qkv.weight", ".qkv.bias")):
            scale = tensor.new_ones(tensor.shape[-1])
            scale[: m.d_model] = ratio
            found[name] = tensor * scale
    return found


def _notes(layout: Layout, m: ModelConfig) -> list[str]:
    notes = []
    if m.n_repeat > 1:
        notes.append(f"The {m.n_layer} repeated layers are written out {m.n_repeat} times.")
    if m.mup_base_width is not None:
        notes.append("The scales of muP are folded into the queries and the last norm.")
    if not m.bias and layout.requires["norm"] == "layernorm":
        notes.append(f"The biases of {layout.architecture} are zero.")
    return notes


def _check_empty(folder: Path) -> None:
    if folder.is_file():
        raise ConfigError(f"--to {folder} is a file; name a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--to {folder} is not empty; name a new folder.")


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
