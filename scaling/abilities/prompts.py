"""Tasks as token ids: contexts cut to fit, continuations, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.abilities.batches import Batches, Request, arrange
from scaling.abilities.item import Task
from scaling.abilities.predictor import Predictor
from scaling.errors import ConfigError


@dataclass(frozen=True)
class Questions:
    """The items of a task after a number of examples, in the tokens of one tokenizer."""

    task: Task
    shots: int
    requests: tuple[Request, ...]
    """The choices of every item, then the same continuations without a context."""
    choices_i: np.ndarray
    """Number of choices of each item."""


@dataclass(frozen=True)
class Sheet:
    """All questions for models of one tokenizer and context, arranged in batches."""

    questions: tuple[Questions, ...]
    batches: Batches


def sheet(asked: Sequence[tuple[Task, int]], model: Predictor) -> Sheet:
    """Return the questions of (task, shots) pairs for models with a predictor's tokenizer and
    context.

    Raises ConfigError for a continuation that is longer than the context and for examples that do
    not fit into it.
    """
    questions = tuple(_questions(task, shots, model) for task, shots in asked)
    requests = [request for each in questions for request in each.requests]
    return Sheet(questions, arrange(requests, model.vocab_size, share=model.continued is not None))


def _questions(task: Task, shots: int, model: Predictor) -> Questions:
    conditional: list[Request] = []
    for item, context in zip(task.items, task.contexts(shots), strict=True):
        pairs = _encoded(context, item.choices, model)
        longest = max(len(continuation) for _, continuation in pairs)
        where = f"task {task.name!r}, item {item.id!r}"
        if not all(continuation for _, continuation in pairs):
            raise ConfigError(f"{where}: a continuation has no tokens for {model.name}.")
        if longest > model.n_ctx:
            raise ConfigError(
                f"{where}: a continuation has {longest} tokens, more than the context of "
                f"{model.n_ctx} of {model.name}; leave the task out, or use runs with a larger "
                "model.n_ctx."
            )
        needed = max(len(ids) + len(continuation) - 1 for ids, continuation in pairs)
        if shots and needed > model.n_ctx:
            raise ConfigError(
                f"{where}: a prompt of {shots} shots has {needed} tokens, more than the context of "
                f"{model.n_ctx} of {model.name}; use fewer --shots, or runs with a larger "
                "model.n_ctx."
            )
        most = model.n_ctx + 1 - longest  # the same for all choices, so that they share a context
        conditional += [Request(ids[-most:], continuation) for ids, continuation in pairs]
    alone = [Request((model.end_of_text,), r.continuation) for r in conditional]
    counts = np.array([len(item.choices) for item in task.items])
    return Questions(task, shots, (*conditional, *alone), counts)


def _encoded(
    context: str, choices: Sequence[str], model: Predictor
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (context, continuation) of every choice in tokens.

    Context and continuation are encoded together and divided where the tokens of the context end,
    or before them if the continuation changes them. End-of-text stands for an empty context.
    """
    before = model.encode(context) if context else []
    pairs = []
    for choice in choices:
        whole = model.encode(context + choice)
        same = 0
        while same < min(len(before), len(whole) - 1) and before[same] == whole[same]:
            same += 1
        pairs.append((tuple(whole[:same]) or (model.end_of_text,), tuple(whole[same:])))
    return pairs
