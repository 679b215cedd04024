"""Generation speed: a cache of keys and values compared with recomputing every token.

100 tokens are generated after a prompt of 64, greedily, by random weights of several shapes, with
the cache and without it. Short turns of both alternate, so that noise on the machine affects both
alike. Both take logits of the last position only, so that the cache gains nothing from those.

    python benchmarks/generate_speed.py [--check] [--turns 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from scaling.config import from_dict
from scaling.data.tokenizer import Tokenizer
from scaling.generate import generate
from scaling.model import build
from scaling.weights import Weights

SHAPES = {
    "1e4": {"n_layer": 2, "d_model": 20, "n_head": 1},
    "1e4_llama": {"n_layer": 2, "d_model": 20, "n_head": 1, "norm": "rmsnorm", "position": "rope",
                  "activation": "swiglu", "tied": False},
    "4e4": {"n_layer": 3, "d_model": 32, "n_head": 2},
    "3e5": {"n_layer": 6, "d_model": 64, "n_head": 2},
    "3e6": {"n_layer": 7, "d_model": 192, "n_head": 6},
}  # fmt: skip
GOAL = 2.0
PROMPT, TOKENS = 64, 100


def random_weights(shape: dict) -> Weights:
    """Return a model with random weights and a vocabulary of 1024."""
    run = from_dict({"model": shape | {"n_ctx": 256}})
    tokens = [bytes([i]) for i in range(256)]
    tokens += [bytes([97 + i // 28, 97 + i % 28]) for i in range(767)]
    tokenizer = Tokenizer.of(tokens, 1024)
    model = build(run.model, tokenizer.vocab_size)
    return Weights(
        run=run, model=model, flat_1p=model.init([0]), tokenizer=tokenizer, row={}, mean=False
    )


def seconds(weights: Weights, use_cache: bool, sequences: int) -> float:
    """Return the time of generating TOKENS tokens after each of a number of prompts."""
    prompts = [" " * PROMPT] * sequences
    start = time.perf_counter()
    for (sample,) in generate(
        weights, prompts, max_tokens=TOKENS, min_tokens=TOKENS, temperature=0, use_cache=use_cache
    ):
        assert len(sample.tokens) == TOKENS
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 if the cache is not {GOAL:g} x faster"
    )
    parser.add_argument("--turns", type=int, default=5, help="alternating turns")
    parser.add_argument("--sequences", type=int, default=1, help="prompts in a batch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    print(f"{TOKENS} tokens after {PROMPT}, one thread; median ratio over alternating turns")
    print(f"{'N':>10} {'cached tok/s':>13} {'recomputed':>11} {'ratio':>7}")
    for name, shape in SHAPES.items():
        weights = random_weights(shape)
        seconds(weights, True, arguments.sequences)
        pairs = [
            [seconds(weights, use, arguments.sequences) for use in (True, False)]
            for _ in range(arguments.turns)
        ]
        ratio = statistics.median(without / cached for cached, without in pairs)
        speeds = [TOKENS * arguments.sequences / min(times) for times in zip(*pairs, strict=True)]
        N = weights.model.count().N
        print(f"{N:>10,} {speeds[0]:>13,.0f} {speeds[1]:>11,.0f} {ratio:>7.2f}")
        figures[f"ratio_N{name}"] = round(ratio, 2)
    slowest = min(figures.values())
    print(" ".join(f"{k}={v}" for k, v in figures.items()), f"slowest_ratio={slowest}")
    return int(arguments.check and slowest < GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
