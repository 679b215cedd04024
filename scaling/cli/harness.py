"""The command that evaluates a trained model with lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling import progress
from scaling.cli.options import Json
from scaling.cli.output import show, show_json
from scaling.cli.trained import trained_or_public
from scaling.extras import require


def harness(
    run: str,
    *,
    tasks: str | None = None,
    tasks_dir: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    hub: bool = False,
    allow_code: tuple[str, ...] = (),
    json: Json = False,
) -> None:
    """Evaluate a trained model on tasks of lm-evaluation-harness.

    Example: scaling harness results/abilities/3f2a --tasks piqa,arc_easy --hub
    Example: scaling harness results/abilities/3f2a --tasks mine --tasks-dir my-tasks

    Args:
        run: A run with weights: its folder, RESULTS/RUN with a prefix of the run id, or a results
            folder with one such run; or a checkpoint of transformers: its folder, or hf:... on
            the Hugging Face hub.
        tasks: Tasks of lm-evaluation-harness or of --tasks-dir, such as piqa,arc_easy. Required.
        tasks_dir: Folder with task files (YAML) of your own. They can name Python code, which runs:
            use only files that you trust.
        limit: Use at most this many documents per task. Default: all.
        num_fewshot: Number of solved examples in each prompt. Default: that of the task.
        hub: Let tasks download their data. Default: they use only what is on this machine.
        allow_code: Allow a model family to run code from this Python file.
    """
    require("torch", "safetensors")
    require("lm_eval", "transformers", extra="hf")
    from scaling.exchange.harness import harness as evaluate

    names = [name for part in (tasks or "").split(",") if (name := part.strip())]
    progress.step("loading the model")
    weights = trained_or_public(run, allow_code)
    progress.step(f"evaluating {', '.join(names)}")
    found = evaluate(
        weights, names, tasks_dir=tasks_dir, limit=limit, num_fewshot=num_fewshot, hub=hub
    )
    show_json(found) if json else show(*_lines(found))


def _lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, task in found["tasks"].items():
        n = "" if task["n"] is None else f", {task['n']} documents"
        shots = "" if task["shots"] is None else f", {task['shots']} shots"
        lines.append(f"{name} (version {task['version']}{shots}{n})")
        for metric, each in task["metrics"].items():
            error = "" if each["stderr"] is None else f" ± {each['stderr']:.4f}"
            value = each["value"]
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            lines.append(f"  {metric:<20} {shown}{error}")
    return lines
