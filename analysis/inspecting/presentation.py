"""An inspection as text for a terminal and as HTML for notebooks."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from analysis import notebook
from analysis.inspecting.allowed import LOAD_FIRST
from analysis.inspecting.columns import OUR_SYMBOL, ColumnUse

if TYPE_CHECKING:
    from analysis.inspecting.inspect import Inspection
    from analysis.inspecting.suspicious import Suspicion

_NEXT = "Next"
"""Title of the command that follows."""
_SHOWN = 3
"""Rows of one kind that the text lists; the JSON has all."""
_MOST_ROWS = 25
"""Number of columns above which those with one value are listed together."""
_MOST_COLUMNS = 40
"""Columns without a use that are not listed one by one beyond this number of columns."""


def text(found: Inspection, width: int) -> str:
    """Return an inspection as lines of at most `width` characters."""
    lines = [_heading(found), "", *_columns(found, width)]
    for title, items in _sections(found):
        if items:
            lines += ["", title]
            commands = title == _NEXT  # stay on one line, to copy
            lines += (
                [f"  {item}" for item in items]
                if commands
                else [line for item in items for line in _wrapped(item, width)]
            )
    return "\n".join(lines)


def _heading(found: Inspection) -> str:
    used = f"; {found.used}" if found.used else ""
    columns = len(found.columns)
    return f"{found.source}: {_number(found.rows, 'row')}, {_number(columns, 'column')}{used}"


def _columns(found: Inspection, width: int) -> list[str]:
    """Return the table of the columns: those with a meaning first."""
    used = [c for c in found.columns if c.means]
    rest = [c for c in found.columns if not c.means]
    same: list[str] = []
    if len(used) > _MOST_ROWS:
        single = [c for c in used if c.low == c.high and c.why == OUR_SYMBOL]
        same = [f"{c.name} {c.shown}" for c in single if c.shown != "empty" and "," not in c.shown]
        used = [c for c in used if c not in single]
    rows = [(c.name, c.means or "", _range(c), c.why) for c in used]
    header = ("column", "means", "range", "why")
    lines = _aligned([header, *rows], width) if rows else []
    if same:
        lines += _wrapped(f"the same in all rows: {'; '.join(same)}", width)
    if rest:
        named = [c for c in rest if c.why != "not used"]
        lines += [
            line
            for c in named[:_MOST_COLUMNS]
            for line in _wrapped(f"{c.name} ({c.shown}): {c.why}", width)
        ]
        plain = [c.name for c in rest if c.why == "not used"]
        if plain:
            shown = ", ".join(plain[:_MOST_COLUMNS])
            more = f" and {len(plain) - _MOST_COLUMNS} more" if len(plain) > _MOST_COLUMNS else ""
            lines += _wrapped(f"not used: {shown}{more}", width)
    lines += [line for s, f in found.derived.items() for line in _wrapped(f"{s} = {f}", width)]
    if found.map:
        lines.append(f"  as an option: {found.map}")
    return lines


def _range(column: ColumnUse) -> str:
    """Return the range of a column with its unit."""
    unit = column.unit if column.unit and column.low is not None else ""
    return f"{column.shown} {unit}".rstrip()


def _sections(found: Inspection) -> list[tuple[str, list[str]]]:
    """Return the titles and items of what follows the columns."""
    allows = [
        f"{kind}: {', '.join(names) or 'none'}"
        for kind, names in (
            ("laws", found.laws), ("frontiers by", found.methods), ("figures", found.figures)
        )
    ]  # fmt: skip
    with_remedy = f", with {found.remedy}" if found.remedy else ""
    missing = [f"{symbol}: {reason}" for symbol, reason in found.no_symbol.items()]
    if found.refused and not found.no_symbol:
        missing.insert(0, f"the commands refuse the table as it is: {found.refused}")
    missing += _grouped(found)
    return [
        (f"Allows{with_remedy}", allows),
        ("Missing for the rest", missing),
        ("Suspicious", _listed(found.suspicious)),
        (_NEXT, _next(found)),
    ]


def _grouped(found: Inspection) -> list[str]:
    """Return each reason once, with the laws, methods and figures that it holds for."""
    groups: dict[str, dict[str, list[str]]] = {}
    for kind, reasons in (
        ("laws", found.no_law), ("frontiers by", found.no_method), ("figures", found.no_figure)
    ):  # fmt: skip
        for name, reason in reasons.items():
            if found.refused and reason in (found.refused, LOAD_FIRST):
                continue  # stated once
            groups.setdefault(reason, {}).setdefault(kind, []).append(name)
    return [
        f"{reason.rstrip('.')} -> " + "; ".join(f"{k} {', '.join(n)}" for k, n in kinds.items())
        for reason, kinds in groups.items()
    ]


def _listed(found: Iterable[Suspicion]) -> list[str]:
    """Return suspicions as items, a few of each kind."""
    kinds: dict[str, list[Suspicion]] = {}
    for each in found:
        kinds.setdefault(each.kind, []).append(each)
    items = []
    for several in kinds.values():
        whole = [each for each in several if each.row is None]
        single = [each for each in several if each.row is not None]
        items += [each.reason for each in whole]
        items += [_row(each) for each in single[:_SHOWN]]
        if len(single) > _SHOWN:
            rows = ", ".join(str(each.row) for each in single[_SHOWN : _SHOWN + 10])
            more = ", ..." if len(single) > _SHOWN + 10 else ""
            items.append(f"{_number(len(single) - _SHOWN, 'more row')} like these: {rows}{more}")
    return items


def _row(each: Suspicion) -> str:
    run = "" if each.run_id is None else f" ({each.run_id})"
    value = ""
    if each.column not in (None, "row"):
        shown = f"{each.value:.4g}" if isinstance(each.value, float) else each.value
        value = f" {each.column} " + ("is empty:" if each.value is None else f"= {shown}:")
    return f"row {each.row}{run}:{value} {each.reason}"


def _next(found: Inspection) -> list[str]:
    """Return the command that follows."""
    if not found.laws:
        return []
    law = "auto" if "bottleneck" in found.laws else found.laws[0]
    options = "".join(f" {option}" for option in (found.options, found.remedy) if option)
    return [f"scaling fit {found.command} --law {law}{options}"] if found.command else []


# ------------------------------------------------------------------ layout


def _aligned(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Return rows of cells in columns; the last cell is wrapped."""
    limits = (28, 12, 44)
    widths = [min(limit, max(len(row[i]) for row in rows)) + 2 for i, limit in enumerate(limits)]
    indent = sum(widths)
    lines = []
    for row in rows:
        start = "".join(
            cell + "  " if len(cell) > w - 2 else cell.ljust(w)
            for cell, w in zip(row, widths, strict=False)
        )
        room = max(24, width - indent)
        parts = textwrap.wrap(row[-1], room) or [""]
        if len(start) > indent or indent + 24 > width:
            lines += [
                start.rstrip(),
                *(" " * 4 + part for part in textwrap.wrap(row[-1], width - 4)),
            ]
        else:
            lines += [start + parts[0], *(" " * indent + part for part in parts[1:])]
    return lines


def _wrapped(item: str, width: int) -> list[str]:
    return textwrap.wrap(
        item, width, initial_indent="  ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'s'[: n != 1]}"


# ------------------------------------------------------------------ HTML


def page(found: Inspection) -> str:
    """Return an inspection as HTML for notebooks."""
    rows = [
        [html.escape(str(cell)) for cell in (c.name, c.means or "–", c.shown, c.unit or "", c.why)]
        for c in found.columns
    ]
    parts = [notebook.table(["column", "means", "range", "unit", "why"], rows)]
    for title, items in _sections(found):
        if items:
            listed = "".join(f"<li>{html.escape(item)}</li>" for item in items)
            parts.append(f"<p><b>{html.escape(title)}</b></p><ul>{listed}</ul>")
    if found.map:
        parts.insert(1, f"<p><code>{html.escape(found.map)}</code></p>")
    return notebook.card(html.escape(_heading(found)), *parts)
