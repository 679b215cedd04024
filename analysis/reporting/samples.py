"""What models of different sizes write after the same prompt, for the report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling import samples
from scaling.text import printable
from scaling.units import count

_MOST = 8
"""Most sizes shown for a prompt."""
_LONGEST = 600
"""Most characters shown of a text."""


def section(folder: Path) -> list[str]:
    """Return the samples kept in a results folder as HTML; nothing if there are none.

    The text of models is as untrusted as any other: it is escaped. Raises TableError for a damaged
    file.
    """
    found = samples.read(folder) if folder.is_dir() else []
    if not found:
        return []
    out = [
        "<h2>Samples beside scale</h2>",
        "<p>The same prompt, continued by models of different sizes; of each size the run with "
        "the lowest loss.</p>",
    ]
    for prompt in dict.fromkeys(sample["prompt"] for sample in found):
        rows = by_size([sample for sample in found if sample["prompt"] == prompt])
        shown = _escaped(prompt) if prompt else "(none: a new text)"
        out += [f'<p class="lead">Prompt: <b>{shown}</b></p>', _table(rows)]
    return out


def by_size(found: Sequence[dict[str, Any]], most: int = _MOST) -> list[dict[str, Any]]:
    """Return a prompt's first sample of the best run of each N, by N, at most `most`."""
    best: dict[float, dict[str, Any]] = {}
    for sample in found:
        kept = best.get(sample["N"] or 0)
        if kept is None or _loss(sample) < _loss(kept):
            best[sample["N"] or 0] = sample
    rows = [best[N] for N in sorted(best)]
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _loss(sample: dict[str, Any]) -> float:
    return float("inf") if sample["L"] is None else sample["L"]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    judged = any(row["bits_per_byte"] is not None for row in rows)
    names = ["N", "D", "L", "continuation", "repeated 4-grams", *(["judged bits/byte"] * judged)]
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<div class="wide"><table class="samples"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_row(row, judged) for row in rows)}</tbody></table></div>"
    )


def _row(row: dict[str, Any], judged: bool) -> str:
    text = row["text"]
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    numbers = [None if row[name] is None else count(row[name]) for name in ("N", "D")]
    cells = [*numbers, _decimal(row["L"], ".3f")]
    after = [_decimal(row["repeated"], ".0%"), _decimal(row["bits_per_byte"], ".3f")]
    return (
        f'<tr title="run {_escaped(row["run_id"])}">'
        + "".join(f'<td class="number">{cell or ""}</td>' for cell in cells)
        + f'<td class="text">{_escaped(text)}</td>'
        + "".join(f'<td class="number">{cell or ""}</td>' for cell in after[: 1 + judged])
        + "</tr>"
    )


def _decimal(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def _escaped(text: str) -> str:
    return html.escape(printable(text))
