"""Scores of a model on tasks: accuracies, loss of the answers, standard errors.

A choice's score is its summed log-probability, that per byte or per token, or that minus the
log-probability of the choice without its context (PMI). For an encoder, pseudo-log-likelihoods
(scaling/abilities/pseudo.py) of context and choice take their place. The choice of the highest
score counts as the model's answer, and k choices that tie count 1/k if the right one is among them.
Contexts that are too long are cut from the left, equally for all choices of an item.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.abilities.batches import log_probabilities
from scaling.abilities.item import Task
from scaling.abilities.names import EXACT, PER_BYTE, PER_TOKEN, PMI, SUM
from scaling.abilities.predictor import Predictor
from scaling.abilities.prompts import Questions, Sheet, sheet
from scaling.errors import ConfigError

ACCURACIES = (SUM, PER_BYTE, PER_TOKEN, PMI)


@dataclass(frozen=True)
class Estimate:
    """A mean over items."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one model on the items of one task."""

    task: Task
    shots: int
    correct: dict[str, np.ndarray]
    """1 for a right answer, 0 for a wrong one, 1/k for a tie of k, by metric and item."""
    p_gold: dict[str, np.ndarray]
    """Probability of the right answer, by the same metric: among the choices, in proportion to the
    exponential of their scores; or of all texts, for an exact match."""
    nll: np.ndarray
    """Negative log-probability of the right answer [nats]."""
    answer_bytes: np.ndarray
    """Length of the right answer in bytes."""

    def estimates(self) -> dict[str, Estimate]:
        """Return every metric with its standard error over items."""
        found = {metric: _mean(values) for metric, values in self.correct.items()}
        found["nll"] = _mean(self.nll)
        total = float(self.nll.sum() / self.answer_bytes.sum())
        residual = _mean((self.nll - total * self.answer_bytes) / self.answer_bytes.mean())
        bits = 1 / math.log(2)
        found["bits_per_byte"] = Estimate(total * bits, residual.stderr * bits, len(self.nll))
        found["p_gold"] = _mean(self.p_gold[self._main])
        return found

    @property
    def main(self) -> Estimate:
        """The main metric of the task, fixed in advance."""
        return self.estimates()[self.task.metric]

    @property
    def _main(self) -> str:
        return self.task.metric if self.task.metric in self.p_gold else next(iter(self.p_gold))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row of tasks.parquet for each metric, without the run's id."""
        estimates = self.estimates()
        for metric, estimate in estimates.items():
            accuracy = metric in self.correct
            yield {
                "task": self.task.name,
                "version": self.task.version,
                "shots": self.shots,
                "metric": metric,
                "n": estimate.n,
                "value": estimate.value,
                "stderr": estimate.stderr,
                "nll": estimates["nll"].value,
                "bits_per_byte": estimates["bits_per_byte"].value,
                "p_gold": float(self.p_gold[metric if accuracy else self._main].mean()),
                "chance": self.task.chance if accuracy else math.nan,
                "main": metric == self.task.metric,
            }


def paired(a: Scores, b: Scores, metric: str | None = None) -> Estimate:
    """Return the mean difference a - b of two models over the same items.

    The standard error is that of the differences, which is smaller than that of two separate means
    where the models find the same items hard. `metric` is an accuracy, 'nll' or 'p_gold'; by
    default the main one. Raises ConfigError if the items differ.
    """
    if (a.task.name, a.task.version, a.shots) != (b.task.name, b.task.version, b.shots):
        raise ConfigError(
            f"cannot pair {a.task.name} {a.task.version} at {a.shots} shots with {b.task.name} "
            f"{b.task.version} at {b.shots} shots: the items differ."
        )
    metric = metric or a.task.metric
    if metric == "bits_per_byte":
        metric = "nll"
    return _mean(_per_item(a, metric) - _per_item(b, metric))


def score(
    model: Predictor,
    asked: Sequence[tuple[Task, int]],
    *,
    questions: Sheet | None = None,
    doing: str = "",
) -> list[Scores]:
    """Return the scores of a model on (task, shots) pairs, all scored at once.

    `questions` may be the :func:`scaling.abilities.prompts.sheet` of the same pairs, made once for
    all models of a tokenizer and context. Raises ConfigError for what does not fit the context.
    """
    questions = questions or sheet(asked, model)
    ends = questions.batches.ends
    starts = np.concatenate([[0], ends[:-1]])
    if model.pseudo is None:
        token_log_p, token_best = log_probabilities(model, questions.batches, doing)
        total = np.add.reduceat(token_log_p, starts)
        exact = np.logical_and.reduceat(token_best, starts)
    else:
        total = model.pseudo([r for each in questions.questions for r in each.requests])
        exact = np.zeros(len(total), bool)
    scores, begin = [], 0
    for each in questions.questions:
        end = begin + len(each.requests)
        part = slice(begin, end)
        found = _scores(each, total[part], exact[part], (ends - starts)[part])
        scores.append(found if model.pseudo is None else _of_pseudo(found))
        begin = end
    return scores


def _scores(asked: Questions, total: np.ndarray, exact: np.ndarray, lengths: np.ndarray) -> Scores:
    """Return scores from the log-probability, exactness and number of tokens of each request."""
    task, half = asked.task, len(asked.requests) // 2
    conditional, alone = total[:half], total[half:]
    texts = [choice for item in task.items for choice in item.choices]
    size = np.array([len(text.encode()) for text in texts], dtype=float)
    first = np.concatenate([[0], asked.choices_i.cumsum()[:-1]])
    gold = first + np.array([item.gold for item in task.items])
    if asked.choices_i.max() == 1:
        correct = {EXACT: exact[:half].astype(float)}
        p_gold = {EXACT: np.exp(conditional)}
    else:
        by_metric = {
            SUM: conditional,
            PER_BYTE: conditional / size,
            PER_TOKEN: conditional / lengths[:half],
            PMI: conditional - alone,
        }
        correct, p_gold = {}, {}
        for metric, value in by_metric.items():
            best = np.maximum.reduceat(value, first)
            tied = value == np.repeat(best, asked.choices_i)
            correct[metric] = tied[gold] / np.add.reduceat(tied.astype(int), first)
            weight = np.exp(value - np.repeat(best, asked.choices_i))
            p_gold[metric] = weight[gold] / np.add.reduceat(weight, first)
    return Scores(
        task=task,
        shots=asked.shots,
        correct=correct,
        p_gold=p_gold,
        nll=-conditional[gold],
        answer_bytes=size[gold],
    )


def _of_pseudo(scores: Scores) -> Scores:
    """Return the scores that pseudo-log-likelihoods of whole texts have: there is none per byte or
    token of a choice, and no loss of an answer."""
    correct, p_gold = ({m: x[m] for m in (SUM, PMI)} for x in (scores.correct, scores.p_gold))
    nll = np.full_like(scores.nll, math.nan)
    return dataclasses.replace(scores, correct=correct, p_gold=p_gold, nll=nll)


def _per_item(scores: Scores, metric: str) -> np.ndarray:
    if metric == "nll":
        return scores.nll
    if metric == "p_gold":
        return next(iter(scores.p_gold.values()))
    if metric not in scores.correct:
        known = ", ".join([*scores.correct, "nll", "p_gold"])
        raise ConfigError(f"there is no metric {metric!r}; there are {known}.")
    return scores.correct[metric]


def _mean(values: np.ndarray) -> Estimate:
    n = len(values)
    stderr = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Estimate(float(values.mean()), stderr, n)
