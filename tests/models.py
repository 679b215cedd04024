"""Models with random weights, as those of a finished run, and shapes that transformers knows."""

from __future__ import annotations

import functools
from typing import Any

import torch

from scaling.config import DataConfig, EvalConfig, RunConfig
from scaling.data.tokenizer import Tokenizer, train_bpe
from scaling.model import build
from scaling.model_config import ModelConfig
from scaling.weights import Weights

GATED = {"norm": "rmsnorm", "position": "rope", "activation": "swiglu"}
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {},
    "GPTNeoXForCausalLM": {"position": "rope"},
    "Starcoder2ForCausalLM": {"position": "rope", "n_kv_head": 2},
    "LlamaForCausalLM": GATED,
    "Qwen3ForCausalLM": GATED | {"qk_norm": True, "bias": False, "n_kv_head": 2},
}
"""Options of a decoder that each class of transformers computes."""

TEXT = "The cat sat on the mat, and the dog didn't; 1234 naïve cafés.\n\nWhat was it? " * 30


@functools.cache
def bpe(vocab_size: int = 300) -> Tokenizer:
    return Tokenizer.of(train_bpe([[TEXT]], vocab_size), vocab_size)


RAW_BYTES = Tokenizer.of(None, 256)


def shape(**options: Any) -> ModelConfig:
    return ModelConfig(**{"n_layer": 2, "d_model": 32, "n_head": 4, "n_ctx": 24} | options)


def random_weights(tokenizer: Tokenizer | None = None, **options: Any) -> Weights:
    """Return a model whose weights, biases and gains are all random."""
    tokenizer = tokenizer or bpe()
    m = shape(**options)
    model = build(m, tokenizer.vocab_size)
    noise = torch.randn(1, model.P, generator=torch.Generator().manual_seed(1))
    name = "bytes" if tokenizer.tokens is None else f"bpe-{tokenizer.vocab_size}"
    tokens = 8 * m.n_ctx
    run = RunConfig(
        model=m,
        data=DataConfig(tokenizer=name),
        eval=EvalConfig(test_tokens=tokens),
        batch_tokens=tokens,
    )
    return Weights(
        run=run,
        model=model,
        flat_1p=model.init([0]) + 0.1 * noise,
        tokenizer=tokenizer,
        row={"run_id": run.run_id, "N": model.count().N},
        mean=False,
    )
