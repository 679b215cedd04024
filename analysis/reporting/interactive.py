"""The interactive plot of a report: learning curves and final losses, drawn by plotly.

The page is self-contained: it includes plotly's script, the runs and their curves. Hovering over a
run, or its row in the table of runs, shows its config and its curve. A tag and search words filter
the runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from analysis.figures import style
from scaling.columns import COLUMNS
from scaling.extras import installed
from scaling.jsonable import finite

_AXES = {
    "C": "Compute C = 6ND [FLOPs]",
    "D": "Training tokens D",
    "S": "Steps S",
    "N": "Parameters N",
}
"""Choices for the x axis, and their labels."""
_NO_PLOT = '<p class="note">No plot: plotly was not installed when this page was written.</p>'
_GROUPS = 12
"""Maximum number of colours. The curves of one colour are one line with gaps, which is fast."""
_MEASURED = ("N", "D", "C", "B", "S", "L", "lr_peak", "seconds")
"""Columns shown for a run before the config fields in which runs differ."""


def section(runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """Return the section of a page with the interactive plot, as lines of HTML.

    `runs` has the columns of scaling.columns. The page must hold the table of runs under the id
    `runs`, with run_id in its first column, and a search box under the id `search`.
    """
    runs = runs.sort_values(["N", "D"])
    tags = sorted({str(tag) for tag in runs.get("tag", pd.Series(dtype=str)).dropna()} - {""})
    values = embedded({"runs": _records(runs, curves), "axes": _AXES})
    options = "".join(f"<option>{html.escape(tag)}</option>" for tag in tags)
    choice = f'<label>Tag <select id="tag"><option value="">all</option>{options}</select></label>'
    axes = "".join(f"<option>{axis}</option>" for axis in _AXES)
    return [
        "<h2>Explore</h2>",
        "<p>Hover over a run, or its row in the table below, for its config and curve. "
        "Drag to zoom.</p>",
        f'<p>{choice if tags else ""} <label>Against <select id="axis">{axes}</select></label></p>',
        f'<div id="plot">{"" if installed("plotly") else _NO_PLOT}</div>',
        '<pre id="run" aria-live="polite">No run selected.</pre>',
        f'<script id="data" type="application/json">{values}</script>',
    ]


def scripts() -> list[str]:
    """Return the code of plotly and of the plot, each for a <script> at the end of the page.

    If plotly is not installed, only the plot's code is returned: the search and the configs work
    without plotly.
    """
    if not installed("plotly"):
        return [_SCRIPT]
    from plotly.offline import get_plotlyjs

    return [get_plotlyjs(), _SCRIPT]


def content_security_policy(scripts: Iterable[str]) -> str:
    """Return a policy that loads nothing and runs no code but `scripts`, by their hashes.

    Plotly sets styles as it draws, and creates images from data: and blob: URLs.
    """
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()) for code in scripts]
    hashes = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> str:
    """Return `value` as JSON for a <script>.

    No text in it can close or change that element, or act as a line end in JavaScript.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _records(runs: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what the plot needs for each run: id, tag, colour, config, values and curve."""
    config = [c.name for c in COLUMNS if c.is_config and c.name in runs]
    varied = [name for name in config if runs[name].astype(str).nunique() > 1]
    shown = [name for name in (*_MEASURED, *varied) if name in runs]
    sizes = np.unique(runs["N"].to_numpy(float))
    norm, colours = style.size_norm(sizes), style.size_map()
    group = np.searchsorted(sizes, runs["N"]) * min(_GROUPS, len(sizes)) // len(sizes)
    curves = curves.assign(S=curves["S"] if "S" in curves.columns else np.nan)  # unknown without B
    by_run = dict(tuple(curves.sort_values("D").groupby("run_id")))
    records = []
    for number, (_, run) in zip(group, runs.iterrows(), strict=True):
        curve = by_run.get(run["run_id"], pd.DataFrame(columns=["C", "D", "S", "L"]))
        values = {name: _rounded(run[name]) for name in shown}
        records.append(
            {
                "id": _rounded(run["run_id"]) or "",
                "tag": _rounded(run.get("tag")) or "",
                "group": int(number),
                "colour": to_hex(colours(norm(run["N"]))),
                "config": {name: value for name, value in values.items() if value is not None},
                "curve": {x: [_rounded(value) for value in curve[x]] for x in ("C", "D", "S", "L")},
            }
            | {name: _rounded(run.get(name)) for name in ("C", "D", "S", "N", "L")}
        )
    return records


def _rounded(value: Any) -> str | float | None:
    """Return a table cell for JSON: numbers with five digits, None for missing ones."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, str):
        return value
    return finite(float(f"{float(value):.5g}"))


_SCRIPT = r"""
const data = JSON.parse(document.getElementById('data').textContent);
const plot = document.getElementById('plot'), text = document.getElementById('run');
const tag = document.getElementById('tag'), axis = document.getElementById('axis');
const search = document.getElementById('search');
const rows = new Map();
for (const row of document.querySelectorAll('#runs tbody tr'))
  rows.set(row.cells[0].textContent, row);
const byId = new Map(data.runs.map(run => [run.id, run]));
const plotly = typeof Plotly !== 'undefined';  // without it, the search and the configs still work
let marked = null;

// Plotly interprets tags and entities in the text that it draws.
function escaped(text) {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
}
function selected(run) {
  const row = rows.get(run.id), words = search.value.toLowerCase().split(/\s+/);
  return (!tag || !tag.value || run.tag === tag.value)
    && (!row || words.every(word => row.textContent.toLowerCase().includes(word)));
}
function curves(runs, x, colour) {
  const line = {
    x: [], y: [], mode: 'lines', hoverinfo: 'skip', opacity: .45, line: {color: colour, width: 1},
  };
  for (const run of runs) {
    line.x.push(...run.curve[x], null);
    line.y.push(...run.curve.L, null);
  }
  return line;
}
function draw() {
  const x = axis.value, runs = data.runs.filter(selected), groups = new Map();
  const shown = new Set(runs.map(run => run.id));
  for (const [id, row] of rows) row.hidden = !shown.has(id);
  for (const run of runs) groups.set(run.group, [...(groups.get(run.group) || []), run]);
  if (!plotly) return;
  const lines = x === 'N' ? [] : [...groups.values()].map(
    group => curves(group, x, group[0].colour));
  const hovered = {
    x: [], y: [], mode: 'lines', hoverinfo: 'skip', line: {color: '#c1272d', width: 2},
  };
  const traces = [hovered, ...lines, {
    x: runs.map(run => run[x]), y: runs.map(run => run.L), mode: 'markers',
    customdata: runs.map(run => run.id), text: runs.map(run => escaped(run.id)),
    marker: {color: runs.map(run => run.colour), size: 7},
    hovertemplate: '%{text}<br>' + x + ' = %{x:.4s}<br>L = %{y:.4f}<extra></extra>',
  }];
  Plotly.react(plot, traces, {
    showlegend: false, hovermode: 'closest', height: 430, margin: {l: 55, r: 10, t: 10, b: 50},
    xaxis: {type: 'log', title: {text: data.axes[x]}, exponentformat: 'power', dtick: 1},
    yaxis: {type: 'log', title: {text: 'Test loss L [nats/token]'}, nticks: 8},
  }, {responsive: true, displaylogo: false});
}
function show(id) {
  const run = byId.get(id);
  if (!run) return;
  if (marked) marked.classList.remove('marked');
  marked = rows.get(id);
  if (marked) marked.classList.add('marked');
  const config = Object.entries(run.config).map(([key, value]) => key + ' = ' + value).join('   ');
  text.textContent = run.id + (run.tag ? '  ' + run.tag : '') + '\n' + config;
  if (!plotly) return;
  const x = axis.value === 'N' ? [] : run.curve[axis.value];
  Plotly.restyle(plot, {x: [x], y: [x.length ? run.curve.L : []]}, [0]);
}
for (const control of [tag, axis]) if (control) control.addEventListener('change', draw);
search.addEventListener('input', draw);
draw();
if (plotly) plot.on('plotly_hover', event => {
  const id = event.points[0].customdata;
  if (id) show(id);
});
document.getElementById('runs').addEventListener('mouseover', event => {
  const row = event.target.closest('tbody tr');
  if (row) show(row.cells[0].textContent);
});
"""
