"""Public checkpoints as trained models of ours, to compare with and to evaluate in the same way.

    from scaling.exchange.from_hf import weights_of
    weights = weights_of("hf:EleutherAI/pythia-70m")    # or a local folder
    weights.row["N"], weights.row["D"]                  # D is None where no source states it

A checkpoint that computes exactly what one of our decoders computes becomes that decoder. Any other
is run by transformers, behind the same methods. Weights are read from safetensors only, code of a
checkpoint never runs, and only hf:... uses the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.config import DataConfig, EvalConfig, RunConfig
from scaling.data.tokenizer import Tokenizer
from scaling.errors import ConfigError, one_line
from scaling.exchange.checkpoint import Checkpoint, open_checkpoint, read_json
from scaling.exchange.hf_config import decoder_of
from scaling.exchange.layouts import Layout, ours_of
from scaling.extras import require
from scaling.files import read_bytes
from scaling.model import Model, build
from scaling.model_config import ModelConfig
from scaling.weights import Weights

_PYTHIA = re.compile(
    r"hf:EleutherAI/pythia-(70m|160m|410m|1b|1\.4b|2\.8b|6\.9b|12b)(-deduped)?(@step(\d+)|@main)?"
)
_PYTHIA_STEPS, _PYTHIA_BATCH = 143_000, 2_097_152
"""Biderman et al. 2023 (arXiv 2304.01373), section 2: 143000 steps of 2097152 tokens, with a
checkpoint `step...` at every 1000 and at powers of two. The older `-v0` models have other
batches."""

_UNUSED = re.compile(r"attn\.(masked_)?bias$|attention\.(masked_)?bias$|rotary_emb\.inv_freq$")
"""Buffers in older checkpoints that are no parameters."""

_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings)\.")
"""Names of tables of learned positions."""

_IDS_MOST = 65_536
"""Largest vocabulary that a run's config can name."""


def weights_of(source: str, device: str = "cpu") -> Weights:
    """Return the model of a checkpoint: a local folder, hf:NAME or hf:NAME@REVISION.

    Its row holds N (ours: without embeddings) and, where a source states it, D. Raises ConfigError.
    """
    require("torch", "safetensors", "tokenizers")
    checkpoint = open_checkpoint(source)
    tokenizer = _tokenizer(checkpoint)
    exact = _exact(checkpoint)
    if exact is None:
        model: Model = TransformersModel(checkpoint, device)
        flat_1p, N, N_total = torch.zeros(1, 0, device=device), model.N, model.N_total
    else:
        model, flat_1p = exact
        flat_1p = flat_1p.to(device)
        N, N_total = model.count().N, model.count().N_total
    if len(tokenizer) > model.vocab_size:
        raise ConfigError(
            f"{source}: tokenizer.json has {len(tokenizer)} ids, but the model {model.vocab_size}."
        )
    n_ctx = model.model.n_ctx
    run = RunConfig(
        model=model.model,
        data=DataConfig(tokenizer=f"bpe-{min(max(model.vocab_size, 257), _IDS_MOST)}"),
        eval=EvalConfig(test_tokens=n_ctx),
        tokens=n_ctx,
        batch_tokens=n_ctx,
    )
    D = tokens_seen(source)
    row = {
        **dataclasses.asdict(model.model),
        "run_id": source,
        "status": "ok",
        "N": N,
        "N_total": N_total,
        "D": D,
        "C": None if D is None else 6.0 * N * D,
        "vocab_size": model.vocab_size,
        "family": str(checkpoint.config.get("model_type")),
        "exact": exact is not None,
    }
    return Weights(run=run, model=model, flat_1p=flat_1p, tokenizer=tokenizer, row=row, mean=False)


def tokens_seen(source: str) -> int | None:
    """Return the number of training tokens D that a publication states; None if none is known."""
    if not (match := _PYTHIA.fullmatch(source)):
        return None
    step = _PYTHIA_STEPS if match[4] is None else int(match[4])
    return step * _PYTHIA_BATCH if step <= _PYTHIA_STEPS else None


# ------------------------------------------------------------------ exact decoders


def _exact(checkpoint: Checkpoint) -> tuple[Model, Tensor] | None:
    """Return the checkpoint as a decoder of ours and its parameters [1, P]; None if it is not one.

    Every tensor must have its place: what is left over would be left out of the computation.
    """
    try:
        found = decoder_of(checkpoint.config)
        if found is None:
            return None
        layout, shape = found
        vocab_size = int(checkpoint.config["vocab_size"])
        theirs = _with_prefix(layout, checkpoint.tensors())
        read = _Reads(theirs)
        ours = ours_of(layout, shape, read)
    except KeyError:
        return None
    left = {name: x for name, x in theirs.items() if name not in read.names}
    if shape.tied:  # some files hold the output layer although it is tied
        head = left.pop(str(layout.names["head"]), None)
        if head is not None and not torch.equal(head, ours["token_embedding"]):
            return None
    if any(_matters(name, tensor) for name, tensor in left.items()):
        return None
    model = build(shape, vocab_size)
    if {name: tuple(x.shape) for name, x in ours.items()} != model.shapes:
        raise ConfigError(f"{checkpoint.name}: its tensors do not have the shapes of config.json.")
    return model, torch.cat([ours[name].reshape(-1) for name in model.shapes])[None]


def _matters(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor without a place changes the result: all but zero biases and old
    buffers."""
    zero = name.endswith(".bias") and not tensor.any()
    return not zero and not _UNUSED.search(name)


class _Reads(dict[str, Tensor]):
    """Tensors by name that remember which of them were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)


def _with_prefix(layout: Layout, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their full names; some checkpoints leave out the base's prefix."""
    head = layout.names["head"]
    return {
        name if name == head or name.startswith(layout.base) else layout.base + name: tensor
        for name, tensor in tensors.items()
    }


# ------------------------------------------------------------------ other models


class TransformersModel(Model):
    """A model that transformers runs, behind the methods `logits` and `losses` of ours.

    It has no flat parameters: pass any tensor for them.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        require("transformers", extra="hf")
        from transformers import AutoModelForCausalLM  # pyright: ignore[reportMissingImports]

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
        except Exception as error:  # a config can be wrong in any way
            raise ConfigError(
                f"{checkpoint.name}: transformers cannot load it: {type(error).__name__}: "
                f"{one_line(error).rstrip('.')}."
            ) from None
        self.inner = loaded.to(device).eval()
        config = self.inner.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.model = ModelConfig(
            family=f"transformers.py:{type(self.inner).__name__}",  # never built from this name
            n_layer=config.num_hidden_layers,
            d_model=config.hidden_size,
            n_head=_divisor(config.num_attention_heads, config.hidden_size),
            n_ctx=_context(checkpoint, config),
            tied=bool(getattr(config, "tie_word_embeddings", True)),
        )
        self.shapes, self.sizes, self.offsets, self.ends, self.P = {}, [], {}, {}, 0
        self._check_causal(checkpoint.name)
        tables = {id(x) for x in self._tables()}
        sizes = [(x.numel(), id(x) in tables) for x in self.inner.parameters()]
        self.N_total = sum(size for size, _ in sizes)
        self.N = sum(size for size, is_table in sizes if not is_table)

    def _check_causal(self, name: str) -> None:
        """Raise ConfigError if a later token changes the prediction before it, as in an encoder."""
        length = min(4, self.model.n_ctx)
        tokens = torch.arange(2 * length).remainder(self.vocab_size).view(2, 1, length)
        tokens[1, 0, :-1] = tokens[0, 0, :-1]
        a, b = (self.logits(torch.zeros(0), x.to(self.inner.device)[None]) for x in tokens)
        if not torch.allclose(a[:, :-1], b[:, :-1], rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"{name} ({type(self.inner).__name__}) sees the tokens that it should predict; "
                "it is no causal language model."
            )

    def _tables(self) -> Iterable[Tensor]:
        """Yield embeddings, tables of positions and output layer."""
        for layer in (self.inner.get_input_embeddings(), self.inner.get_output_embeddings()):
            if layer is not None:
                yield from layer.parameters()
        for name, parameter in self.inner.named_parameters():
            if _POSITIONS.search(name):
                yield parameter

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return {}

    def named(
        self, flat_kp: Tensor, instead: dict[str, Tensor] | None = None
    ) -> Mapping[str, Tensor]:
        return {}

    def hidden(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        raise NotImplementedError("models of transformers offer logits and losses only")

    @torch.no_grad()
    def logits(self, flat_kp: Tensor, tokens_kbt: Tensor, at_n: Tensor | None = None) -> Tensor:
        logits_btv = self.inner(input_ids=tokens_kbt[0], use_cache=False).logits
        logits_1nv = logits_btv.float().flatten(0, 1)[None, :, : self.vocab_size]
        return logits_1nv if at_n is None else logits_1nv[:, at_n]

    @torch.no_grad()
    def losses(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        logits_nv = self.logits(flat_kp, windows_kbt[:, :, :-1])[0]
        targets_kbt = windows_kbt[:, :, 1:]
        loss_n = F.cross_entropy(logits_nv, targets_kbt.flatten(), reduction="none")
        return loss_n.view(targets_kbt.shape)


def _divisor(heads: int, width: int) -> int:
    """Return the number of heads, or 1 if heads have a width of their own."""
    return heads if width % heads == 0 else 1


def _context(checkpoint: Checkpoint, config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
        if isinstance(value := getattr(config, name, None), int) and value > 0:
            return value
    raise ConfigError(f"{checkpoint.name}: config.json states no context length.")


# ------------------------------------------------------------------ tokenizer


@dataclass(frozen=True)
class PublicTokenizer(Tokenizer):
    """The tokenizer of a tokenizer.json, behind the methods of ours.

    As in ours, text never becomes a special token, and none is added.
    """

    inner: Any = None

    def __len__(self) -> int:
        return max(self.inner.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        kept = [int(i) for i in ids if i != self.end_of_text]
        return self.inner.decode(kept, skip_special_tokens=False)


def _tokenizer(checkpoint: Checkpoint) -> PublicTokenizer:
    from tokenizers import Tokenizer as Inner

    path = checkpoint.folder / "tokenizer.json"
    try:
        text = read_bytes(path)
        inner = Inner.from_str(text.decode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # tokenizers raises plain Exception
        raise ConfigError(f"{path} cannot be read: {one_line(error)}.") from None
    inner.no_padding()
    inner.no_truncation()
    inner.encode_special_tokens = True
    return PublicTokenizer(
        tokens=None,
        vocab_size=inner.get_vocab_size(),
        end_of_text=_end_of_text(checkpoint, inner),
        hash=hashlib.sha256(text).hexdigest(),
        inner=inner,
    )


def _end_of_text(checkpoint: Checkpoint, inner: Any) -> int:
    """Return the id of end-of-text, as tokenizer_config.json or config.json name it."""
    path = checkpoint.folder / "tokenizer_config.json"
    named = read_json(path).get("eos_token") if path.is_file() else None
    content = named.get("content") if isinstance(named, dict) else named
    found = inner.token_to_id(content) if isinstance(content, str) else None
    if found is None:
        ids = checkpoint.config.get("eos_token_id")
        found = ids[0] if isinstance(ids, list) and ids else ids
    if not isinstance(found, int):
        raise ConfigError(f"{checkpoint.name}: neither its tokenizer nor config.json names eos.")
    return found
