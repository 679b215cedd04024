"""lm-evaluation-harness on our models, through a class of ours, so that every model family works.

A task is scored as `lm_eval --model hf` scores the exported model. Of a long text each token is
predicted once, in disjoint windows. Text is generated greedily.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scaling.errors import ConfigError, did_you_mean, one_line
from scaling.exchange.text_loss import log_likelihoods
from scaling.extras import require
from scaling.weights import Weights, check_predicts_next

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
_MOST_GENERATED = 256
"""Tokens that a task generates if it states no number; the harness's own default."""
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Options of a task that state this number."""


def harness(
    weights: Weights,
    tasks: Sequence[str],
    *,
    tasks_dir: Path | str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    hub: bool = False,
) -> dict[str, Any]:
    """Evaluate a model on tasks of lm-evaluation-harness; return plain values for JSON.

    `tasks_dir` holds task files (YAML) of your own. They can name Python code, which runs. `limit`
    is the number of documents per task. Without `hub`, nothing is downloaded. Raises ConfigError
    for unknown tasks and for data that is not there.
    """
    check_predicts_next(weights, "do the tasks of lm-evaluation-harness")
    require("lm_eval", extra="hf")
    if not tasks:
        raise ConfigError(
            "--tasks names no task; give some, such as piqa,arc_easy. `lm_eval ls tasks` lists "
            "them."
        )
    for name, value, least in (("limit", limit, 1), ("num-fewshot", num_fewshot, 0)):
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value} must be at least {least}.")
    if not hub:  # read when these packages are first imported
        os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    with _quiet():
        manager = _manager(tasks, tasks_dir)
        found = _evaluated(weights, tasks, manager, limit, num_fewshot, hub)
    return {
        "run_id": weights.row.get("run_id"),
        "N": weights.row.get("N"),
        "D": weights.row.get("D"),
        "tasks": {name: _task(found, name) for name in found["results"]},
    }


def _evaluated(
    weights: Weights,
    tasks: Sequence[str],
    manager: Any,
    limit: int | None,
    num_fewshot: int | None,
    hub: bool,
) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]

    try:
        found = simple_evaluate(
            model=harness_model(weights),
            tasks=list(tasks),
            limit=limit,
            num_fewshot=num_fewshot,
            task_manager=manager,
            log_samples=False,
        )
    except ConfigError:
        raise
    except Exception as error:  # of a task's code or data, in any package
        hint = "" if hub else " Nothing is downloaded without --hub."
        raise ConfigError(
            f"--tasks {','.join(tasks)}: lm-evaluation-harness failed: {type(error).__name__}: "
            f"{one_line(error).rstrip('.')}.{hint}"
        ) from error
    assert found is not None  # only other ranks return None
    return dict(found)


def _task(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the metrics of a task, each with its standard error, and what was evaluated."""
    values = found["results"][name]
    metrics = {}
    for key, value in values.items():
        metric, comma, used = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{used}")
        label = metric if used == "none" else key
        metrics[label] = {"value": value, "stderr": error if isinstance(error, float) else None}
    samples = found.get("n-samples", {}).get(name, {})
    return {
        "version": found.get("versions", {}).get(name),
        "shots": found.get("n-shot", {}).get(name),
        "n": samples.get("effective"),
        "metrics": metrics,
    }


def _manager(tasks: Sequence[str], tasks_dir: Path | str | None) -> Any:
    """Return the harness's index of tasks; of `tasks_dir` alone if all tasks are in there."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    if tasks_dir is not None and not Path(tasks_dir).is_dir():
        raise ConfigError(f"--tasks-dir {tasks_dir} is not a folder.")
    known: list[str] = []
    for defaults in (False, True) if tasks_dir is not None else (True,):
        try:
            path = None if tasks_dir is None else str(tasks_dir)
            manager = TaskManager(include_path=path, include_defaults=defaults)
        except Exception as error:  # of YAML, in any form
            raise ConfigError(
                f"--tasks-dir {tasks_dir} cannot be read: {type(error).__name__}: {one_line(error)}"
            ) from None
        known = list(manager.all_tasks)
        if set(tasks) <= set(known):
            return manager
    wrong = next(name for name in tasks if name not in known)
    raise ConfigError(
        f"--tasks: lm-evaluation-harness has no task {wrong!r}.{did_you_mean(wrong, known)} "
        "`lm_eval ls tasks` lists them; --tasks-dir adds your own."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness's log below errors, and its progress bars."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def harness_model(weights: Weights) -> Any:
    """Return a model as lm-evaluation-harness takes it (a `TemplateLM`)."""
    from lm_eval import utils  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]

    tokenizer, n_ctx = weights.tokenizer, weights.model.model.n_ctx

    class OurModel(TemplateLM):
        """A trained model of ours."""

        @property
        def eot_token_id(self) -> int:
            return tokenizer.end_of_text

        def tok_encode(self, string: str, add_special_tokens: Any = None, **_: Any) -> list[int]:
            return tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return log_likelihoods(weights, ((a, b) for _, a, b in requests))

        def loglikelihood(
            self, requests: Any, disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            totals = []
            for (text,) in (request.args for request in requests):
                pieces = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=n_ctx,
                    context_len=1,
                )
                pairs = map(utils.make_disjoint_window, pieces)
                totals.append(sum(total for total, _ in log_likelihoods(weights, pairs)))
            return totals

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [continued(weights, *request.args) for request in requests]

    return OurModel()


def continued(weights: Weights, context: str, options: Mapping[str, Any]) -> str:
    """Return the text that follows a context, up to the first stop of a task's options."""
    lengths = (options.get(name) for name in _LENGTHS)
    most = next((int(n) for n in lengths if n is not None), _MOST_GENERATED)
    until = options.get("until") or []
    stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
    ids = weights.tokenizer.encode(context)[-max(weights.model.model.n_ctx - most, 1) :]
    new = greedy(weights, ids or [weights.tokenizer.end_of_text], most, stops)
    text = weights.tokenizer.decode(new)
    for stop in stops:
        text = text.partition(stop)[0]
    return text


@torch.no_grad()
def greedy(weights: Weights, ids: Sequence[int], most: int, stops: Sequence[str]) -> list[int]:
    """Return up to `most` likeliest next tokens, one after the other, until end-of-text or until
    their text contains one of `stops`.

    Beyond n_ctx, the model sees the last n_ctx tokens.
    """
    n_ctx, end = weights.model.model.n_ctx, weights.tokenizer.end_of_text
    seen, new = list(ids), []
    for _ in range(most):
        tokens_11t = torch.tensor(seen[-n_ctx:], device=weights.flat_1p.device)[None, None]
        token = int(weights.model.logits(weights.flat_1p, tokens_11t)[0, -1].argmax())
        if token == end:
            break
        seen.append(token)
        new.append(token)
        text = weights.tokenizer.decode(new)
        if any(stop in text for stop in stops):
            break
    return new
