"""The table of all runs: searched, filtered and sorted by the page's script.

The page holds the first rows for readers without scripts; the script shows the others, a page of
rows at a time, so that ten thousand runs open as fast as ten.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.reporting.elements import cell, count, escape, loss, numeric, scrolled
from analysis.reporting.run_data import columns

ROWS = 50
"""Rows shown at a time."""
_COUNTED = ("N", "D", "B", "S")


def section(runs: pd.DataFrame) -> list[str]:
    """Return the section; `runs` are in the order of `run_data.ordered`."""
    names = ["run_id", *columns(runs)]
    ended = runs["status"].astype(str) != "ok"
    if ended.any():
        names += ["status", *(["error"] if _has_reasons(runs) else [])]
    rows = (_row(run, names) for _, run in runs.head(ROWS).iterrows())
    titles = {"run_id": "run", "error": "reason"}
    head = "".join(
        f'<th scope="col" data-name="{escape(name)}"{_kind(runs[name])}>'
        f"{escape(titles.get(name, name))}</th>"
        for name in names
    )
    body = (
        f'<table id="runs" data-rows="{ROWS}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    tags = _values(runs["tag"]) if "tag" in names else []
    states = _values(runs["status"]) if ended.any() else []
    return [
        "<h2>Runs</h2>",
        '<div class="controls">',
        '<label>Search <input id="search" type="search" placeholder="a tag, an id"></label>',
        _choice("tag", "Tag", tags),
        _choice("status", "Status", states),
        '<span id="runs-count" role="status" class="muted"></span>',
        '<button type="button" id="runs-clear" hidden>Clear the selection</button>',
        "</div>",
        scrolled(body, "Runs"),
        '<div class="controls" id="runs-pages" hidden>'
        '<button type="button" id="runs-back">Previous rows</button>'
        '<button type="button" id="runs-next">Next rows</button></div>',
    ]


def panel() -> list[str]:
    """Return the panel that shows the run which is hovered or pinned."""
    return [
        '<aside id="chosen" aria-label="The chosen run" hidden>',
        '<canvas id="chosen-curve" aria-hidden="true"></canvas>',
        '<pre id="run" aria-live="polite"></pre>',
        '<button type="button" id="chosen-close">Close</button></aside>',
    ]


def _kind(column: pd.Series) -> str:
    return ' class="number"' if pd.api.types.is_numeric_dtype(column) else ""


def _row(run: pd.Series, names: Iterable[str]) -> str:
    cells = "".join(_cell(name, run[name]) for name in names)
    return f"<tr>{cells}</tr>"


def _cell(name: str, value: object) -> str:
    if name in ("run_id", "status") or isinstance(value, str):
        return cell(str(value))
    if isinstance(value, int | float) and value == value:
        if name in _COUNTED:
            return numeric(count(float(value)))
        if name == "L":
            return numeric(loss(float(value)))
    return cell(value)


def _choice(name: str, label: str, values: list[str]) -> str:
    if len(values) < 2:
        return ""
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    return (
        f'<label>{label} <select id="{name}"><option value="">all</option>{options}</select>'
        "</label>"
    )


def _values(column: pd.Series) -> list[str]:
    return sorted({str(value) for value in column.dropna()} - {""})


def _has_reasons(runs: pd.DataFrame) -> bool:
    return "error" in runs.columns and bool(runs["error"].notna().any())
