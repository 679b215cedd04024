"""A sweep as an HTML page: the answer first, then what it rests on.

The page is one file that loads nothing. Its scripts draw the linked figures and the table of runs;
everything else can be read without them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis.figures.registry import Results, drawings
from analysis.reporting import (
    cards,
    deviating,
    experiments,
    plan_cards,
    planner,
    provenance,
    run_table,
    samples,
)
from analysis.reporting.beside import Beside
from analysis.reporting.elements import details, escape, package_file
from analysis.reporting.linked import Linked
from analysis.reporting.run_data import ordered
from analysis.reporting.summary import Summary, source_path, summarise
from analysis.tables.rows import Evaluations
from analysis.tables.tracked import sources_of
from scaling.errors import TableError
from scaling.files import check_inside

_SCRIPTS = ("plot.js", "runs_table.js", "page.js", "start.js")
"""The parts of the page's script, in order."""


def report(
    results: Results,
    out: str | Path | None = None,
    *,
    beside: Results | None = None,
    map: Mapping[str, str] | None = None,
    where: str | None = None,
    strict: bool = False,
    rows: Evaluations = "auto",
    decimal: str | None = None,
) -> Path:
    """Write the page of a results folder or of a table; return its path.

    out     The file; the default is <results>/report.html, <table>.html or wandb-lab-sizes.html.
    beside  A second results folder or table to compare with; the options below hold for both.
    map     {column of the table: symbol}, as for `load`.
    where   A condition that selects runs, such as "D > 1e9".
    strict  Refuse rows that would be left out, as for `load`.
    rows    Which evaluations of a run count, as for `load`.
    decimal The decimal mark of numbers in text, as for `load`.

    The page lists what the data do not allow. Raises TableError as `summarise` does, and for a
    damaged manifest.
    """
    folder = source_path(results)
    if out is None and sources_of(results):
        out = f"{folder}.html"
    elif out is None and folder.is_file():
        out = folder.with_suffix(".html")
    elif out is None:
        check_inside(folder / "report.html", folder)
    out = Path(out) if out else folder / "report.html"
    manifest = provenance.manifest_of(folder)
    selection: dict[str, Any] = {
        "map": map, "where": where, "strict": strict, "rows": rows, "decimal": decimal
    }  # fmt: skip
    selection = {name: value for name, value in selection.items() if value}
    summary = summarise(results, draw=False, **selection)
    other = None if beside is None else _beside(summary, manifest, beside, selection)
    made, missing = drawings(results, shared=summary.shared(), **selection)
    out.parent.mkdir(parents=True, exist_ok=True)
    # JSON and file names may hold lone surrogates, which UTF-8 cannot encode.
    text = page(summary, manifest, made, missing, beside=other)
    out.write_text(text, encoding="utf-8", errors="replace")
    return out


def page(
    summary: Summary,
    manifest: dict[str, Any],
    made: Mapping[str, Figure],
    missing: Mapping[str, str],
    *,
    beside: Beside | None = None,
) -> str:
    """Return the HTML of a summary, of its folder's manifest, of the figures made, and of the
    reasons why others are missing."""
    name = _name(summary, manifest)
    runs = ordered(summary.table)
    linked = Linked(summary, runs, beside)
    description = str(manifest.get("description") or "")
    body = [
        f"<header><h1>{escape(name)}</h1></header>",
        "<main>",
        *planner.section(summary),
        *linked.hero(),
        cards.spans(summary),
        *([f'<p class="muted">{escape(description)}</p>'] if description else []),
        *([] if beside is None else beside.section()),
        *linked.why(),
        *deviating.section(summary),
        *plan_cards.plan_section(summary),
        *cards.law_section(summary),
        *cards.frontier_section(summary),
        *cards.ability_section(summary),
        *cards.record_section(summary),
        *experiments.section(made, summary.runs),
        *samples.section(summary.folder),
        *run_table.section(runs),
        *_missing(summary, missing),
        *provenance.section(manifest),
        *run_table.panel(),
        "</main>",
        linked.data(),
    ]
    code = [script for script in (_script(), planner.script()) if script]
    style = package_file("page.css") + planner.STYLE
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{security_policy(code)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(name)}</title><style>{style}</style></head><body>",
            *body,
            *(f"<script>{script}</script>" for script in code),
            "</body></html>",
            "",
        ]
    )


def security_policy(scripts: Iterable[str]) -> str:
    """Return a policy that loads nothing and runs no code but `scripts`, by their hashes.

    Dense parts of figures are images from data: URLs, and scripts set styles as they draw.
    """
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()) for code in scripts]
    hashes = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _script() -> str:
    """Return the page's script: one function, so that its names meet no others."""
    code = "\n".join(package_file(name) for name in _SCRIPTS)
    return f"(() => {{\n{code}}})();\n"


def _name(summary: Summary, manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("name") or summary.folder.name)


def _beside(
    summary: Summary, manifest: Mapping[str, Any], other: Results, selection: dict[str, Any]
) -> Beside:
    """Summarise the second sweep. Raises TableError that names it if that is impossible."""
    folder = source_path(other)
    if folder.resolve() == summary.folder.resolve():
        raise TableError(f"{folder} is the report's own table; --beside takes another one.")
    second = summarise(other, draw=False, **selection)
    names = _name(summary, manifest), _name(second, provenance.manifest_of(folder))
    if names[0] == names[1]:
        names = str(summary.folder), str(folder)
    return Beside(first=summary, second=second, names=names)


def _missing(summary: Summary, missing: Mapping[str, str]) -> list[str]:
    """List why laws, plans and figures are missing."""
    reasons = [f"{name}: {why}" for name, why in summary.skipped.items()] + list(missing.values())
    if not reasons:
        return []
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return [details(f"What these runs do not allow ({len(reasons)})", f"<ul>{items}</ul>")]
