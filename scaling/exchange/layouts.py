"""How our decoder lies in the checkpoints of transformers: shapes, names and memory order.

One table serves both directions, export and import. A layout exists only where both programs
compute the same function; whatever has none is refused by the name of the option.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scaling.errors import ConfigError
from scaling.model_config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One family of models of transformers that computes what some of our decoders compute."""

    model_type: str
    """Name of the family in config.json."""
    architecture: str
    """Name of its class."""
    requires: Mapping[str, Any]
    """Values of our options; "grouped" says whether key and value heads are shared."""
    names: Mapping[str, str | tuple[str, ...]]
    """Their name of each of our tensors or linear layers, without the index of the layer. A tuple
    holds the parts into which they split one of ours."""
    base: str
    """Prefix of all tensors but the output layer; some checkpoints leave it out."""
    block: str
    """Prefix of the tensors of a layer, before its index."""
    linear_biases: bool = False
    """Their linear layers always have biases."""
    transposed: bool = True
    """Their matrices are [out, in]; ours are [in, out]."""
    by_head: bool = False
    """Their queries, keys and values are fused head by head; ours are all queries first."""


_SEPARATE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATED = {
    "token_embedding": "embed_tokens.weight",
    "norm": "norm",
    "head": "lm_head.weight",
    "norm1": "input_layernorm",
    "qkv": _SEPARATE,
    "projection": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": "mlp.down_proj",
}

LAYOUTS = (
    Layout(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        requires={
            "norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False,
            "grouped": False,
        },
        names={
            "token_embedding": "wte.weight",
            "position_embedding": "wpe.weight",
            "norm": "ln_f",
            "head": "lm_head.weight",
            "norm1": "ln_1",
            "qkv": "attn.c_attn",
            "projection": "attn.c_proj",
            "norm2": "ln_2",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        base="transformer.",
        block="h.",
        linear_biases=True,
        transposed=False,
    ),
    Layout(
        model_type="gpt_neox",
        architecture="GPTNeoXForCausalLM",
        requires={
            "norm": "layernorm", "position": "rope", "activation": "gelu", "qk_norm": False,
            "grouped": False,
        },
        names={
            "token_embedding": "embed_in.weight",
            "norm": "final_layer_norm",
            "head": "embed_out.weight",
            "norm1": "input_layernorm",
            "qkv": "attention.query_key_value",
            "projection": "attention.dense",
            "norm2": "post_attention_layernorm",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        },
        base="gpt_neox.",
        block="layers.",
        linear_biases=True,
        by_head=True,
    ),
    Layout(
        model_type="starcoder2",
        architecture="Starcoder2ForCausalLM",
        requires={
            "norm": "layernorm", "position": "rope", "activation": "gelu", "qk_norm": False,
            "grouped": True,
        },
        names=_GATED | {"up": "mlp.c_fc", "down": "mlp.c_proj"},
        base="model.",
        block="layers.",
    ),
    Layout(
        model_type="llama",
        architecture="LlamaForCausalLM",
        requires={
            "norm": "rmsnorm", "position": "rope", "activation": "swiglu", "qk_norm": False,
        },
        names=_GATED,
        base="model.",
        block="layers.",
    ),
    Layout(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        requires={
            "norm": "rmsnorm", "position": "rope", "activation": "swiglu", "qk_norm": True,
            "bias": False,
        },
        names=_GATED | {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"},
        base="model.",
        block="layers.",
    ),
)  # fmt: skip
"""The families that a decoder can be written as."""

_OPTIONS = ("activation", "norm", "grouped", "position", "bias", "qk_norm")
"""Options that decide on the family, in the order in which a refusal names them."""

_EVERYWHERE = {
    "n_layer", "d_model", "n_head", "d_ff", "n_ctx", "tied", "n_repeat", "mup_base_width",
    "n_kv_head", "family", "norm", "position", "activation", "qk_norm", "bias",
}  # fmt: skip
"""Options of a model that an export takes into account."""


def layout_of(m: ModelConfig) -> Layout:
    """Return the family of transformers that computes what this model computes.

    Raises ConfigError, which names the option that has no counterpart.
    """
    if m.masked:
        raise ConfigError(
            f"model.family={m.family!r} has no counterpart in transformers, whose encoders "
            "normalise after each layer, so it cannot be exported; only decoders can."
        )
    if m.family != "decoder":
        raise ConfigError(
            f"model.family={m.family!r} has no counterpart in transformers, so it cannot be "
            "exported; only decoders can. `scaling harness` evaluates it as it is."
        )
    for field in dataclasses.fields(m):
        value = getattr(m, field.name)
        if field.name not in _EVERYWHERE and value != field.default:
            raise ConfigError(_refusal(f"model.{field.name}={value!r}"))
    values = _values(m)
    wrong = [[o for o in _OPTIONS if x.requires.get(o, values[o]) != values[o]] for x in LAYOUTS]
    if [] in wrong:
        return LAYOUTS[wrong.index([])]
    option = min(wrong, key=lambda names: (len(names), _OPTIONS.index(names[0])))[0]
    name = "n_kv_head" if option == "grouped" else option
    raise ConfigError(_refusal(f"model.{name}={getattr(m, name)!r}", m))


def _values(m: ModelConfig) -> dict[str, Any]:
    values = {name: getattr(m, name) for name in _OPTIONS if name != "grouped"}
    return values | {"grouped": m.kv_heads < m.n_head}


def _refusal(what: str, m: ModelConfig | None = None) -> str:
    here = "" if m is None else f" with {m.norm}, {m.position} and {m.activation}"
    kinds = (
        "layernorm, learned, gelu (GPT2); layernorm, rope, gelu (GPTNeoX; Starcoder2 with "
        "n_kv_head); rmsnorm, rope, swiglu (Llama; Qwen3 with qk_norm and without bias)"
    )
    return (
        f"{what}{here} has no counterpart in transformers, so this model cannot be exported. "
        f"These can: {kinds}. `scaling harness` evaluates every model as it is."
    )


def written_out(m: ModelConfig) -> ModelConfig:
    """Return the shape of the exported model: repeated layers written out, without muP."""
    return dataclasses.replace(m, n_layer=m.n_layer * m.n_repeat, n_repeat=1, mup_base_width=None)


# ------------------------------------------------------------------ tensors


def _entries(layout: Layout, m: ModelConfig) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield (our name, kind, their names) of every norm, linear layer and table.

    The kind is "table", "norm" or "linear"; names of norms and linear layers lack ".weight".
    """
    for name, theirs in layout.names.items():
        parts = (theirs,) if isinstance(theirs, str) else theirs
        if name in ("token_embedding", "position_embedding", "head"):
            if name == "head" and m.tied:
                continue
            base = "" if name == "head" else layout.base
            yield name, "table", (f"{base}{parts[0]}",)
        elif name == "norm":
            yield name, "norm", (f"{layout.base}{parts[0]}",)
        else:
            kind = "norm" if "norm" in name else "linear"
            for i in range(m.n_layer):
                prefix = f"{layout.base}{layout.block}{i}."
                yield f"{i}.{name}", kind, tuple(prefix + part for part in parts)


def _widths(m: ModelConfig, name: str, parts: int) -> list[int]:
    """Return the output widths of the parts of one of our linear layers."""
    if parts == 3:
        return [m.d_model, m.kv_width, m.kv_width]
    return [m.ff_width] * parts if parts > 1 else [-1]


def theirs_of(layout: Layout, m: ModelConfig, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of transformers from ours, by name.

    Biases that their model has and ours lacks are zero.
    """
    found: dict[str, Tensor] = {}
    for name, kind, parts in _entries(layout, m):
        if kind == "table":
            found[parts[0]] = ours[name]
            continue
        weight, bias = ours[f"{name}.weight"], ours.get(f"{name}.bias")
        if kind == "norm":
            found[f"{parts[0]}.weight"] = weight
            if bias is None and layout.requires["norm"] == "layernorm":
                bias = torch.zeros_like(weight)
            if bias is not None:
                found[f"{parts[0]}.bias"] = bias
            continue
        if bias is None and layout.linear_biases:
            bias = weight.new_zeros(weight.shape[1])
        if layout.by_head and name.endswith("qkv"):
            weight = _by_head(weight, m)
            bias = None if bias is None else _by_head(bias, m)
        widths = _widths(m, name, len(parts))
        for j, part in enumerate(parts):
            matrix = _part(weight, widths, j)
            found[f"{part}.weight"] = matrix.T if layout.transposed else matrix
            if bias is not None:
                found[f"{part}.bias"] = _part(bias, widths, j)
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def ours_of(layout: Layout, m: ModelConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors by name from those of a checkpoint. Raises KeyError if one is missing."""
    found: dict[str, Tensor] = {}
    for name, kind, parts in _entries(layout, m):
        if kind == "table":
            found[name] = theirs[parts[0]]
            continue
        for suffix in ("weight", "bias"):
            if suffix == "bias" and not (
                m.bias and (kind == "linear" or layout.requires["norm"] == "layernorm")
            ):
                continue
            tensors = [theirs[f"{part}.{suffix}"] for part in parts]
            if kind == "linear" and suffix == "weight" and layout.transposed:
                tensors = [tensor.T for tensor in tensors]
            whole = torch.cat(tensors, dim=-1)
            if layout.by_head and name.endswith("qkv"):
                whole = _from_head(whole, m)
            found[f"{name}.{suffix}"] = whole
    return found


def _part(tensor: Tensor, widths: list[int], j: int) -> Tensor:
    return tensor if widths == [-1] else tensor.split(widths, dim=-1)[j]


def _by_head(tensor: Tensor, m: ModelConfig) -> Tensor:
    """Reorder the last axis from (query, key, value; head) to (head; query, key, value)."""
    return tensor.unflatten(-1, (3, m.n_head, m.head_width)).transpose(-3, -2).flatten(-3)


def _from_head(tensor: Tensor, m: ModelConfig) -> Tensor:
    return tensor.unflatten(-1, (m.n_head, 3, m.head_width)).transpose(-3, -2).flatten(-3)
