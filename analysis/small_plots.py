"""Small plots as SVG for the HTML of results in notebooks, drawn by hand without matplotlib.

They take the colour of the text around them, so that they can be read on light and dark pages.
Positions have one decimal.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

WIDTH, HEIGHT = 260, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 18, 32
"""Margins, which hold the labels."""

_MOST_POINTS = 300
"""More points are drawn as that many, evenly spaced in their order."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass
class Plot:
    """A plot of dots, lines and bands with one label per axis."""

    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    _parts: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)

    def dots(self, x: ArrayLike, y: ArrayLike) -> Plot:
        return self._add("dots", x, y)

    def line(self, x: ArrayLike, y: ArrayLike) -> Plot:
        return self._add("line", x, y)

    def dashes(self, x: ArrayLike, y: ArrayLike) -> Plot:
        return self._add("dashes", x, y)

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike) -> Plot:
        """Add a band; it is left out if an end is not known."""
        across, bottom, top = (np.asarray(v, float) for v in (x, low, high))
        if np.isfinite(self._scaled(np.r_[bottom, top], self.log_y)).all():
            self._add("band", np.r_[across, across[::-1]], np.r_[bottom, top[::-1]])
        return self

    def svg(self) -> str:
        """Return the plot; nothing without two points that can be drawn."""
        parts = [(kind, *self._known(x, y)) for kind, x, y in self._parts]
        parts = [part for part in parts if len(part[1])]
        framing = [part for part in parts if part[0] != "band"]
        every_x = np.concatenate([x for _, x, _ in framing]) if framing else np.empty(0)
        if len(every_x) < 2:
            return ""
        every_y = np.concatenate([y for _, _, y in framing])
        left, right = _ends(every_x)
        low, high = _ends(every_y)

        def at(x: np.ndarray, y: np.ndarray) -> list[str]:
            across = _LEFT + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)
            up = HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
            up = np.clip(up, _TOP, HEIGHT - _BOTTOM)  # a band may be far wider than the data
            return [f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True)]

        shapes = [_shape(kind, at(x, y)) for kind, x, y in sorted(parts, key=_order)]
        ends_x = _written(every_x.min(), every_x.max(), self.log_x)
        ends_y = _written(every_y.min(), every_y.max(), self.log_y)
        return _frame(f"{self.y} against {self.x}", [*shapes, *_labels(self, ends_x, ends_y)])

    def _add(self, kind: str, x: ArrayLike, y: ArrayLike) -> Plot:
        both = np.array([x, y], float)
        if both.shape[1] > _MOST_POINTS:
            kept = np.linspace(0, both.shape[1] - 1, _MOST_POINTS).round().astype(int)
            both = both[:, kept]
        self._parts.append((kind, *both))
        return self

    def _known(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = self._scaled(x, self.log_x), self._scaled(y, self.log_y)
        known = np.isfinite(x) & np.isfinite(y)
        return x[known], y[known]

    @staticmethod
    def _scaled(values: np.ndarray, log: bool) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.log10(values) if log else values


def intervals(names: Sequence[str], rows: Sequence[tuple[float, float, float]], x: str) -> str:
    """Return a plot of a value and its interval (value, low, high) for each name.

    Ends that are not known are not drawn; nothing without a value.
    """
    values = np.array([row[0] for row in rows if math.isfinite(row[0])], float)
    ends = np.array([v for row in rows for v in row[1:] if v is not None and math.isfinite(v)])
    if not len(values):
        return ""
    spread = np.ptp(values) or 0.1 * abs(values[0]) or 1.0
    near = ends[np.abs(ends - values.mean()) < 20 * spread] if len(ends) else ends
    both = np.r_[values, near]
    left, right = _ends(both)
    wide = max(60, min(6 * max(map(len, names)) + 12, 150))
    height = _TOP + 18 * len(rows) + _BOTTOM

    def at(value: float) -> float:
        return wide + (min(max(value, left), right) - left) / (right - left) * (WIDTH - wide - 10)

    shapes = []
    for k, (name, (value, low, high)) in enumerate(zip(names, rows, strict=True)):
        up = _TOP + 18 * k + 6
        label = html.escape(name if len(name) < 25 else f"{name[:23]}…")
        shapes.append(_text(wide - 8, up + 4, label, "end"))
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            shapes.append(
                f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{up:.1f}" y2="{up:.1f}" '
                'stroke="currentColor" stroke-width="1.5"/>'
            )
        if math.isfinite(value):
            shapes.append(f'<circle cx="{at(value):.1f}" cy="{up:.1f}" r="3.0"/>')
    bottom = height - _BOTTOM + 2
    shapes.append(
        f'<line x1="{wide:.1f}" x2="{WIDTH - 10:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}" '
        'stroke="currentColor" stroke-width="0.5"/>'
    )
    low, high = _written(float(both.min()), float(both.max()), False)
    shapes += [
        _text(at(float(both.min())), bottom + 12, low, "middle"),
        _text(at(float(both.max())), bottom + 12, high, "middle"),
        _text((wide + WIDTH) / 2, bottom + 26, html.escape(x), "middle"),
    ]
    return _frame(x, shapes, height)


def beside(*plots: str) -> str:
    """Return plots side by side, or below one another on narrow pages."""
    shown = [plot for plot in plots if plot]
    return f"<div>{' '.join(shown)}</div>" if shown else ""


def _shape(kind: str, points: list[str]) -> str:
    if kind == "dots":
        circles = (point.split(",") for point in points)
        return "".join(f'<circle cx="{x}" cy="{y}" r="2.0" opacity="0.6"/>' for x, y in circles)
    path = " ".join(points)
    if kind == "band":
        return f'<polygon points="{path}" opacity="0.15"/>'
    dashed = ' stroke-dasharray="3.0 2.0"' if kind == "dashes" else ""
    return f'<polyline points="{path}" fill="none" stroke="currentColor"{dashed}/>'


def _order(part: tuple[str, np.ndarray, np.ndarray]) -> int:
    return ("band", "dashes", "line", "dots").index(part[0])


def _labels(plot: Plot, x: tuple[str, str], y: tuple[str, str]) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    frame = (
        f'<path d="M{_LEFT:.1f} {_TOP:.1f}V{bottom:.1f}H{right:.1f}" fill="none" '
        'stroke="currentColor" stroke-width="0.5"/>'
    )
    return [
        frame,
        _text(_LEFT, bottom + 12, x[0], "start"),
        _text(right, bottom + 12, x[1], "end"),
        _text((_LEFT + right) / 2, bottom + 26, html.escape(plot.x), "middle"),
        _text(_LEFT - 4, bottom, y[0], "end"),
        _text(_LEFT - 4, _TOP + 8, y[1], "end"),
        _text(2, _TOP - 7, html.escape(plot.y), "start"),
    ]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _frame(title: str, shapes: Sequence[str], height: float = HEIGHT) -> str:
    name = html.escape(title, quote=True)
    return (
        f'<svg role="img" aria-label="{name}" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}" fill="currentColor" font-size="10" font-family="sans-serif">'
        f"{''.join(shapes)}</svg>"
    )


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis, with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or max(0.05 * abs(low), 1e-3)
    return low - margin, high + margin


def _written(low: float, high: float, log: bool) -> tuple[str, str]:
    return (_number(10**low), _number(10**high)) if log else (_number(low), _number(high))


def _number(value: float) -> str:
    """Return a number with three digits, as 1.5×10⁶ if it is large or small."""
    text = f"{value:.3g}"
    mantissa, e, power = text.partition("e")
    if not e:
        return text.replace("-", "−")
    shown = f"{mantissa}×10{str(int(power)).translate(_SUPERSCRIPTS)}"
    return shown.replace("-", "−")
