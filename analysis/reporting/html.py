"""A sweep as an HTML page: laws with intervals, verdicts, figures, plan, runs and provenance.

The page is one file that loads nothing. Only the interactive plot and the search box of the table
need JavaScript.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.registry import FIGURES, Results, drawings
from analysis.fitting.held_out import rms
from analysis.fitting.reference import NEXT
from analysis.fitting.status import worth_telling
from analysis.frontiers.choice import percent
from analysis.laws.symbols import name as name_of
from analysis.planning.prediction import EXTRAPOLATION, STATISTICAL
from analysis.reporting.interactive import content_security_policy, scripts
from analysis.reporting.interactive import section as interactive_section
from analysis.reporting.samples import section as samples_section
from analysis.reporting.summary import Summary, key_of, source_path, summarise
from analysis.tables.rows import Evaluations
from scaling import progress
from scaling.errors import TableError
from scaling.files import check_inside, decode, read_bytes

_COLUMNS = (
    "run_id", "tag", "N", "D", "C", "B", "S", "L", "L_stderr", "bits_per_byte", "lr_peak",
    "n_layer", "d_model", "n_head", "family", "schedule", "seed", "seconds",
)  # fmt: skip
"""Columns of the table of runs, if present; config columns are shown only if runs differ in
them."""
_ENDED = ("run_id", "status", "N", "D", "B", "lr_peak", "error")
"""Columns of the table of failed, diverged and stopped runs, if present."""
_MANIFEST: dict[str, type] = {
    "name": str, "description": str, "revision": str, "versions": dict, "machine": dict,
    "spec": str, "changes": dict, "corpus_hashes": dict, "sessions": list,
}  # fmt: skip
"""Types of the values of a manifest, by key; null stands for unknown."""
_TYPE_NAMES = {str: "a string", dict: "an object", list: "a list", bool: "true or false"}

_STYLE = """
:root { --ink: #1a1a1a; --grey: #6b6b6b; --rule: #dddddd; --fit: #c1272d; }
* { box-sizing: border-box; }
body { color: var(--ink); font: 16px/1.5 Georgia, "Times New Roman", serif; margin: 0 auto;
  max-width: 62rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { border-top: 1px solid var(--rule); font-size: 1.2rem; margin: 2.2rem 0 .6rem;
  padding-top: .9rem; }
p { margin: .4rem 0; } .lead, .note, figcaption { color: var(--grey); } .note { color: var(--fit); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; }
th, td { padding: .18rem .7rem .18rem 0; text-align: left; vertical-align: top;
  white-space: nowrap; }
th { border-bottom: 1px solid var(--ink); font-weight: normal; color: var(--grey); }
tbody tr:hover, tr.marked { background: #f5f2ea; }
td.number { font-variant-numeric: tabular-nums; text-align: right; }
td.text { min-width: 22rem; overflow-wrap: anywhere; white-space: pre-wrap; }
figure { margin: 1.2rem 0 2rem; } figure svg { height: auto; max-width: 100%; }
figcaption { font-size: .86rem; }
code, pre { font: .82rem/1.45 ui-monospace, Menlo, Consolas, monospace; } pre { overflow-x: auto; }
input, select { border: 1px solid var(--rule); font: inherit; margin: .3rem 0 .6rem;
  padding: .25rem .5rem; }
input { max-width: 100%; width: 16rem; } label { margin-right: 1rem; }
#run { min-height: 4.5rem; overflow-wrap: anywhere; white-space: pre-wrap; }
"""


def report(
    results: Results,
    out: str | Path | None = None,
    *,
    map: Mapping[str, str] | None = None,
    where: str | None = None,
    strict: bool = False,
    rows: Evaluations = "auto",
    decimal: str | None = None,
) -> Path:
    """Write the page of a results folder or of a table; return its path.

    out     The file to write; the default is <results>/report.html, for a table <table>.html.
    map     {column of the table: symbol}, as for `load`.
    where   A condition that selects runs, such as "D > 1e9".
    strict  Refuse rows that would be left out, as for `load`.
    rows    Which evaluations of a run count, as for `load`.
    decimal The decimal mark of numbers in text, as for `load`.

    The page lists what the data do not allow. Raises TableError as `summarise` does, and for a
    damaged manifest.
    """
    folder = source_path(results)
    if out is None and folder.is_file():
        out = folder.with_suffix(".html")
    elif out is None:
        check_inside(folder / "report.html", folder)
    out = Path(out) if out else folder / "report.html"
    manifest = _manifest(folder)
    selection: dict[str, Any] = {
        "map": map, "where": where, "strict": strict, "rows": rows, "decimal": decimal
    }  # fmt: skip
    selection = {name: value for name, value in selection.items() if value}
    summary = summarise(results, draw=False, **selection)
    made, missing = drawings(results, choice=summary.choice, **selection)
    out.parent.mkdir(parents=True, exist_ok=True)
    # JSON and file names may hold lone surrogates, which UTF-8 cannot encode.
    out.write_text(page(summary, manifest, made, missing), encoding="utf-8", errors="replace")
    return out


def _manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a results folder, empty if missing. Raises TableError if it is
    damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    cure = (
        "Remove it: the next `scaling sweep` writes it again, and without it a report has no "
        "provenance."
    )
    try:
        manifest = json.loads(decode(read_bytes(path)))
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} cannot be read as JSON ({error}). {cure}") from None
    if not isinstance(manifest, dict):
        raise TableError(f"{path} must be a JSON object, not {_type_name(manifest)}. {cure}")
    for key, kind in _MANIFEST.items():
        if not isinstance(value := manifest.get(key), kind | None):
            raise TableError(
                f"{path}: {key!r} must be {_TYPE_NAMES[kind]}, not {_type_name(value)}. {cure}"
            )
    return manifest


def _type_name(value: Any) -> str:
    return "null" if value is None else _TYPE_NAMES.get(type(value), "a number")


def page(
    summary: Summary,
    manifest: dict[str, Any],
    made: Mapping[str, Figure],
    missing: Mapping[str, str],
) -> str:
    """Return the HTML of a summary, of its folder's manifest, of the figures made, and of the
    reasons why others are missing."""
    folder = summary.folder
    name = str(manifest.get("name", folder.name))
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f'<p class="lead">{html.escape(str(manifest.get("description", "")))}</p>',
        *_lead(summary),
        *_laws(summary),
        *_frontier(summary),
        *_abilities(summary),
        *_track_record(summary),
        *_explore(summary),
        "<h2>Figures</h2>",
        *(_figure(key, figure) for key, figure in made.items()),
        *samples_section(folder),
        *_runs(summary),
        *_missing(summary, missing),
        *_provenance(manifest),
    ]
    code = scripts()
    policy = content_security_policy(code)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(name)}</title><style>{_STYLE}</style></head><body>",
            *body,
            *(f"<script>{script}</script>" for script in code),
            "</body></html>",
            "",
        ]
    )


def svg(figure: Figure) -> str:
    """Return a figure as an inline <svg> with text as paths, since the page has no fonts."""
    progress.step("writing the figures of the page")
    text = io.StringIO()
    with rc_context({**style.paper(), "svg.fonttype": "path", "svg.hashsalt": "figure"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    return body[body.index("<svg") :]


def _lead(summary: Summary) -> list[str]:
    """The answer in three sentences, and the runs by status with their ranges."""
    runs = summary.runs
    spans = ", ".join(
        f"{name} from {runs[name].min():.3g} to {runs[name].max():.3g}"
        for name in ("N", "D", "C", "L")
    )
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items())
    return [
        *(f'<p class="verdict">{html.escape(sentence)}</p>' for sentence in summary.verdict),
        f"<p>{html.escape(counts)}: {html.escape(spans)} [nats/token].</p>",
    ]


def _explore(summary: Summary) -> list[str]:
    """Return the interactive plot; nothing for a table without learning curves."""
    if summary.curves is None:
        return []
    return interactive_section(summary.runs, summary.curves)


def _laws(summary: Summary) -> list[str]:
    rows = []
    for key, result in summary.laws.items():
        law = key if key.startswith("L(") else result.law.name
        notes = "; ".join(worth_telling(result.warnings))
        for parameter, row in result.interval().iterrows():
            symbol = name_of(result.law, str(parameter))
            rows.append((law, symbol, row["value"], row["low"], row["high"], notes))
            law = notes = ""
    out = ["<h2>Laws</h2>", "<p>95 % intervals, clustered by run.</p>"]
    for result in summary.laws.values():
        out.append(f"<p><code>{html.escape(result.law.formula)}</code></p>")
    out.append(_table(("law", "", "value", "low", "high", "remarks"), rows))
    choice = summary.choice
    if choice is not None and choice.test.cuts:
        cuts = choice.test.cuts
        held = [
            (name, percent(test.error), *(percent(rms(test.errors[cut])) for cut in cuts))
            for name, test in choice.tests.items()
        ]
        header = ("law", "held-out error", *(f"fitted up to {6 * cut:.2g} FLOPs" for cut in cuts))
        out += [
            "<h2>Held out</h2>",
            "<p>Laws fitted to the runs up to a compute predict the larger ones: rms error, and "
            "its average, the held-out error.</p>",
            _table(header, held),
        ]
        validation = summary.validation(key_of(choice.first.law))
        if not isinstance(validation, str):
            verdict = "; ".join(validation.verdict)
            kind = "" if validation.supported else ' class="note"'
            out.append(f"<p{kind}>{html.escape(f'{choice.name}: {verdict}.')}</p>")
    return out


def _frontier(summary: Summary) -> list[str]:
    rows = [
        (front.title, row.exponent, row.value, row.low, row.high, front.use)
        for front in summary.frontiers.values()
        for row in front.exponents.itertuples()
    ]
    out = []
    if rows:
        out += [
            "<h2>Compute-optimal frontier</h2>",
            _table(("method", "power of C", "exponent", "low", "high", ""), rows),
        ]
    if summary.rule:
        out.append(f"<p>{html.escape(str(summary.rule))}</p>")
    if summary.plan:
        out.append("<h2>Plan</h2>")
    for times, following in ((NEXT, summary.plan), (NEXT**2, summary.further)):
        if following:
            out.append(f"<p>With {times:g} times the compute of the largest run:</p>")
            out.append(f"<pre>{html.escape(str(following))}</pre>")
    return out


def _abilities(summary: Summary) -> list[str]:
    """Return the accuracies predicted for the next run; nothing without scores of tasks."""
    found = summary.abilities
    if found is None:
        return []
    rows = [(name, q.value, q.low, q.high) for name, q in found.accuracy.items()]
    out = ["<h2>Accuracy on tasks</h2>"]
    if rows:
        table = _table(("task", "predicted", "low", "high"), rows)
        out += [f"<p>{html.escape(found.heading[:1].upper() + found.heading[1:])}:</p>", table]
    return [*out, *([f"<p>{html.escape(found.others)}</p>"] if found.others else [])]


def _track_record(summary: Summary) -> list[str]:
    """Return the predictions on record beside what was measured; nothing without records."""
    track = summary.track
    if track is None:
        return []
    rows = []
    for score in track.scores:
        values = score.on_record.values
        L = score.predicted if score.scored else values["L"]
        size = (score.N, score.D) if score.scored else (values["N"], values["D"])
        result: tuple[Any, ...] = (None, None, None, score.waiting)
        if score.scored:
            wide, narrow = score.inside(EXTRAPOLATION), score.inside(STATISTICAL)
            where = narrow if wide is None else wide
            inside = "" if where is None else "inside" if where else "outside"
            result = (score.measured, f"{score.relative:+.2%}", inside, f"table {score.table}")
        rows.append((score.on_record.name, score.on_record.time[:10], *size, L, *result))
    header = ("name", "date", "N", "D", "predicted", "measured", "error", "interval", "remarks")
    return [
        "<h2>Predictions on record</h2>",
        f"<p>{html.escape(track.summary)}.</p>",
        _table(header, rows),
    ]


def _figure(name: str, figure: Figure) -> str:
    drawing = FIGURES[name]
    source = f" After {drawing.source}." if drawing.source else ""
    caption = html.escape(f"{drawing.shows}.{source}")
    return f'<figure id="{name}">{svg(figure)}<figcaption>{caption}</figcaption></figure>'


def _runs(summary: Summary) -> list[str]:
    table = summary.table
    if "status" not in table.columns:
        table = table.assign(status="ok")
    varied = [
        c for c in _COLUMNS
        if c in table.columns and (c[0].isupper() or table[c].nunique(dropna=False) > 1)
    ]  # fmt: skip
    rows = table.loc[table["status"] == "ok", varied].itertuples(index=False, name=None)
    out = [
        "<h2>Runs</h2>",
        '<input id="search" type="search" placeholder="search, such as a tag or an id" '
        'aria-label="search">',
        _table(varied, rows, name="runs"),
    ]
    ended = table[table["status"] != "ok"]
    if len(ended):
        columns = [c for c in _ENDED if c in ended]
        out += [
            "<h2>Failed, diverged and stopped</h2>",
            _table(columns, ended[columns].itertuples(index=False, name=None)),
        ]
    return out


def _missing(summary: Summary, missing: Mapping[str, str]) -> list[str]:
    """List why laws, plans and figures are missing."""
    reasons = [f"{name}: {why}" for name, why in summary.skipped.items()] + list(missing.values())
    if not reasons:
        return []
    items = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
    return [
        f"<details><summary>What these runs do not allow ({len(reasons)})</summary>"
        f"<ul>{items}</ul></details>"
    ]


def _provenance(manifest: dict[str, Any]) -> list[str]:
    if not manifest:
        return []
    rows = [
        (
            key,
            json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value),
        )
        for key, value in manifest.items()
        if key not in ("spec", "sessions", "description")
    ]
    out = ["<h2>Provenance</h2>", _table(("", ""), rows)]
    if "spec" in manifest:
        spec = html.escape(str(manifest["spec"]))
        out.append(f"<details><summary>The spec</summary><pre>{spec}</pre></details>")
    return out


def _table(header: Iterable[str], rows: Iterable[tuple], *, name: str = "") -> str:
    head = "".join(f"<th>{html.escape(str(h))}</th>" for h in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    id_ = f' id="{name}"' if name else ""
    return (
        f'<div class="wide"><table{id_}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool | str) or value is None or value is pd.NA:
        text = "" if value is None or value is pd.NA else str(value)
        return f"<td>{html.escape(text)}</td>"
    if value != value:  # nan
        return "<td></td>"
    number = float(value)
    text = f"{number:.0f}" if number % 1 == 0 and abs(number) < 1e5 else f"{number:.4g}"
    text = re.sub(r"e\+?(-?)0*", r"e\1", text)
    return f'<td class="number">{text}</td>'
