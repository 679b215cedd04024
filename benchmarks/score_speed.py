"""Speed of scoring tasks, compared with one choice at a time in the same process.

The baseline reads context and choice of every item in a forward pass of their own, as the simplest
harness does, with the same model, tokenizer and threads. Some items of each task are timed; both
ways must give the same log-probabilities.

    python benchmarks/score_speed.py            # print the table
    python benchmarks/score_speed.py --check    # exit with 1 if a goal is missed
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time

import numpy as np
import torch
from goals import finish

from scaling.abilities.item import Task
from scaling.abilities.names import FEW_SHOT_TASKS, TEXT_TASKS
from scaling.abilities.predictor import Predictor, predictor
from scaling.abilities.prompts import sheet
from scaling.abilities.score import score
from scaling.abilities.tasks import tasks_of
from scaling.config import DataConfig, RunConfig
from scaling.data.corpus import prepare
from scaling.model import build
from scaling.model_config import ModelConfig
from scaling.weights import Weights

GOALS = {"speedup": ("at least", 3.0), "difference": ("at most", 1e-4)}
"""Goal for each figure on the last line."""

SIZES = ((16, 1), (48, 2), (144, 4))
"""(d_model, n_head) of the models: those of the spec `headline`, between its ends."""

ITEMS = 200
"""Items of each task."""


def model_of(d_model: int, n_head: int) -> Predictor:
    """Return a decoder with random weights and the tokenizer of the default corpus."""
    files = prepare(DataConfig())
    shape = ModelConfig(
        n_layer=2, d_model=d_model, n_head=n_head, position="rope", tied=False, n_ctx=128
    )
    model = build(shape, files.vocab_size)
    run = RunConfig(model=shape)
    flat_1p = model.init([0])
    return predictor(
        Weights(
            run=run, model=model, flat_1p=flat_1p, tokenizer=files.tokenizer, row={}, mean=False
        )
    )


def tasks(items: int) -> list[tuple[Task, int]]:
    """Return some items of every task that is not made of windows."""
    found = tasks_of(DataConfig(), [*TEXT_TASKS, *FEW_SHOT_TASKS])
    return [(dataclasses.replace(task, items=task.items[:items]), 0) for task in found]


@torch.inference_mode()
def one_at_a_time(model: Predictor, asked: list[tuple[Task, int]]) -> list[np.ndarray]:
    """Return the log-probability of every request of every task, one forward pass each."""
    found = []
    for task, shots in asked:
        (questions,) = sheet([(task, shots)], model).questions
        sums = []
        for request in questions.requests:
            tokens = torch.tensor([[*request.context, *request.continuation]])
            logits = model.logits(tokens[:, :-1], torch.arange(tokens.shape[1] - 1))
            log_p = logits.log_softmax(1).gather(1, tokens[0, 1:, None])
            sums.append(float(log_p[len(request.context) - 1 :].sum()))
        found.append(np.array(sums))
    return found


def measure(d_model: int, n_head: int, items: int) -> dict[str, float]:
    """Return the seconds of both ways and their largest difference."""
    model, asked = model_of(d_model, n_head), tasks(items)
    score(model, asked[:1])  # warm up
    start = time.perf_counter()
    scores = score(model, asked)
    batched = time.perf_counter() - start
    start = time.perf_counter()
    sums = one_at_a_time(model, asked)
    alone = time.perf_counter() - start
    worst = 0.0
    for each, total in zip(scores, sums, strict=True):
        first = np.cumsum([0, *(len(item.choices) for item in each.task.items)])[:-1]
        gold = first + np.array([item.gold for item in each.task.items])
        worst = max(worst, float(np.abs(each.nll + total[gold]).max()))
    return {"batched": batched, "alone": alone, "difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--items", type=int, default=ITEMS, help="items of each task")
    parser.add_argument("--threads", type=int, default=1, help="threads of both ways")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {"speedup": math.inf, "difference": 0.0}
    for d_model, n_head in SIZES:
        times = measure(d_model, n_head, options.items)
        speedup = times["alone"] / times["batched"]
        print(
            f"d_model = {d_model}: {times['alone']:.1f} s one at a time, {times['batched']:.1f} s "
            f"together: {speedup:.1f} times faster"
        )
        found["speedup"] = min(found["speedup"], speedup)
        found["difference"] = max(found["difference"], times["difference"])
    finish(found, GOALS, check=options.check)


if __name__ == "__main__":
    main()
