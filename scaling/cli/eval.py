"""The command that evaluates trained models on tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.abilities.names import TEXT_TASKS
from scaling.cli.arguments import store_of
from scaling.cli.options import Json
from scaling.cli.output import show, show_json
from scaling.cli.trained import allow
from scaling.errors import ConfigError
from scaling.exchange.checkpoint import is_checkpoint
from scaling.extras import require
from scaling.units import si

if TYPE_CHECKING:
    import pandas as pd

    from scaling.abilities.evaluate import Evaluated

_MOST_SHOTS = 1024


def evaluate(
    results: Path,
    *,
    tasks: str | None = None,
    shots: str = "0",
    file: tuple[str, ...] = (),
    run: str = "",
    again: bool = False,
    device: str = "cpu",
    allow_code: tuple[str, ...] = (),
    json: Json = False,
) -> None:
    """Evaluate runs that kept their weights on tasks; scores go to tasks.parquet.

    Example: scaling eval results/abilities --tasks agree,swap,last_word
    Example: scaling eval results/abilities --tasks copy,reverse --shots 0,4,16 --json

    Args:
        results: A sweep's results folder, or the folder of one run; or a checkpoint of
            transformers: its folder, or hf:... on the Hugging Face hub.
        tasks: Tasks to evaluate, such as agree,swap; 'all' for all of them. Default: those that the
            spec names, or else those made of text.
        shots: Numbers of solved examples before each question, such as 0,4,16. Tasks that have no
            examples are evaluated without.
        file: Also evaluate a task of your own: a file with one JSON object per line, with id,
            context, choices and gold, or id, context and answer.
        run: Evaluate one run: a prefix of its id, or its tag. Default: all.
        again: Evaluate anew what tasks.parquet already has.
        device: Device to evaluate on, such as cuda.
        allow_code: Allow a model family to run code from this Python file.
    """
    require("torch", "filelock")
    names = _names(tasks, results, bool(file))
    numbers = _shots(shots)
    allow(allow_code)
    if is_checkpoint(str(results)):
        _evaluate_checkpoint(results, names, numbers, file, device, json)
        return
    from scaling.abilities.evaluate import evaluate as evaluate_runs
    from scaling.abilities.table import FILE

    store = store_of(results)
    if store is not None:
        from sweeps.kept_weights import fetch_all

        fetch_all(store)
    found = evaluate_runs(
        results, names, shots=numbers, files=map(Path, file), run=run or None, again=again,
        device=device,
    )  # fmt: skip
    path = results / FILE
    table = str(path) if store is None else store.shown(path)
    if found.new and store is not None:
        store.remote.write(FILE, path.read_bytes())
    if json:
        show_json(_record(table, found))
    else:
        show(*_lines(found), f"{found.new} evaluated now; {table}")


def _evaluate_checkpoint(
    source: Path,
    names: list[str],
    shots: list[int],
    files: tuple[str, ...],
    device: str,
    json: bool,
) -> None:
    """Evaluate a checkpoint of transformers, and print what a run of ours would show."""
    from scaling.exchange.evaluate import evaluate_checkpoint

    found = evaluate_checkpoint(
        str(source), names, shots=shots, files=map(Path, files), device=device
    )
    if json:
        show_json(_record(None, found))
        return
    (row,) = found.runs
    D = "unknown" if row["D"] is None else f"{si(row['D'])} tokens"
    bits = f"{row['bits_per_byte']:.4f} bits per byte"
    show(f"{source}: N = {si(row['N'])} parameters, D {D}, {bits}", *_lines(found))


def _names(tasks: str | None, results: Path, has_file: bool) -> list[str]:
    """Return the names of the tasks to evaluate."""
    from scaling.abilities.names import TASKS

    if tasks is not None:
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        if not names:
            raise ConfigError(f"--tasks {tasks!r} names no task; there are {', '.join(TASKS)}.")
        return list(TASKS) if names == ["all"] else names
    if has_file:
        return []
    return _tasks_of_spec(results) or list(TEXT_TASKS)


def _tasks_of_spec(results: Path) -> list[str]:
    """Return the tasks that the spec of a results folder names, without running code of it."""
    from sweeps.runner.identity import as_recorded
    from sweeps.spec import Spec
    from sweeps.store import Store

    if not (results / "manifest.json").is_file():
        return []
    manifest = Store(results).manifest()
    text, changes = manifest.get("spec"), manifest.get("changes")
    if not isinstance(text, str) or not isinstance(changes, dict | None):
        return []
    path, identity = results / "manifest.json", as_recorded(manifest)
    return list(Spec.from_text(text, path=path, changes=changes, identity=identity).tasks)


def _shots(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) <= _MOST_SHOTS for word in words):
        raise ConfigError(
            f"--shots {text!r} must be whole numbers from 0 to {_MOST_SHOTS}, such as 0,4,16."
        )
    return [int(word) for word in words]


def _record(table: str | None, found: Evaluated) -> dict[str, Any]:
    sizes = ("run_id", "N", "D", "C", "L", "bits_per_byte")
    return {
        "table": table,
        "evaluated": found.new,
        "runs": [{name: run.get(name) for name in sizes} for run in found.runs],
        "rows": found.table.to_dict("records"),
    }


def _lines(found: Evaluated) -> list[str]:
    """Return the main metric of every task: one line per task, or per run if there are several."""
    main = found.table[found.table.main]
    if len(found.runs) == 1:
        return [_task_line(row) for row in main.to_dict("records")]
    return _run_lines(main, found.runs)


def _task_line(row: Mapping[Any, Any]) -> str:
    chance = "" if row["chance"] != row["chance"] else f", chance {row['chance']:.3g}"
    text = f"{_title(row)}: {row['metric']} {row['value']:.4f} +- {row['stderr']:.4f}"
    return f"{text} (n = {row['n']}{chance}){_against_chance(row)}"


def _run_lines(main: pd.DataFrame, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    cells: dict[str, dict[str, str]] = {}
    starred = False
    for row in main.to_dict("records"):
        mark = "*" if _against_chance(row) else ""
        starred |= bool(mark)
        cells.setdefault(_title(row), {})[row["run_id"]] = f"{row['value']:.3f}{mark}"
    head = ["run", "N", "L", *cells]
    lines = [head]
    for run in sorted(runs, key=lambda run: (run.get("N") or 0, run.get("D") or 0)):
        N, L = run.get("N"), run.get("L")
        known = ["" if N is None else si(N), "" if L is None else f"{L:.3f}"]
        lines.append([run["run_id"], *known, *(c.get(run["run_id"], "") for c in cells.values())])
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    shown = [
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    ]
    return [*shown, *(["* not above chance by two standard errors"] if starred else [])]


def _title(row: Mapping[Any, Any]) -> str:
    return f"{row['task']}, {row['shots']} shots" if row["shots"] else str(row["task"])


def _against_chance(row: Mapping[Any, Any]) -> str:
    """Return words for a score that is not above chance by two standard errors."""
    difference, margin = row["value"] - row["chance"], 2 * row["stderr"]
    if difference < -margin:
        return ", below chance"
    return ", at chance" if difference <= margin else ""
