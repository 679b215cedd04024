"""Figures for papers: (tables, fits) -> Figure. Nothing is shown and no pyplot state is left.

figures.save(figures.kaplan_triptych(runs, curves), "fig1.pdf")
figures.save(figures.draw("frontier", "results/quickstart"), "frontier.pdf")
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis import laws, style
from analysis.batch import CriticalBatch
from analysis.fit import FitResult
from analysis.fit import fit as fit_law
from analysis.frontier import (
    Comparison,
    Frontier,
    budgets_of,
    envelope,
    parabola,
    parametric,
    quantiles,
    slices,
)
from analysis.frontier import frontier as optimal
from analysis.frontier import isoflop as fit_isoflop
from analysis.load import load as load_table
from analysis.plan import price
from scaling.count import PF_DAY
from scaling.table import TableError, check

LABELS = {
    "N": "Parameters $N$",
    "D": "Training tokens $D$",
    "C": "Compute $C$ [FLOPs]",
    "L": "Test loss $L$ [nats/token]",
    "PF": "Compute $C$ [PF-days]",
}
BEYOND = 3.0
"""How far a fitted line is drawn past the data, dashed."""


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn from a results folder."""

    name: str
    shows: str
    draw: Callable[[pd.DataFrame, pd.DataFrame | None], Figure]


FIGURES: dict[str, Drawing] = {}
"""Every figure by name."""


def _figure(name: str) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """List a function of (runs, curves) under `name`, with the first line of its docstring."""

    def keep(function: Callable[..., Figure]) -> Callable[..., Figure]:
        shows = (function.__doc__ or "").splitlines()[0].rstrip(".")
        FIGURES[name] = Drawing(name, shows, function)
        return function

    return keep


def listing() -> str:
    """Every figure that `draw` knows, one a line."""
    width = max(map(len, FIGURES))
    return "\n".join(f"{d.name:<{width}}  {d.shows}" for d in FIGURES.values())


def of_results(name: str, results: str | Path) -> Figure:
    """The figure `name` (of FIGURES) of a results folder. TableError where it cannot be drawn."""
    if name not in FIGURES:
        close = difflib.get_close_matches(name, FIGURES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TableError(f"no figure is called {name!r}.{hint} There are {', '.join(FIGURES)}.")
    runs = load_table(results)
    folder = Path(results)
    curves = None
    if (folder / "curves.parquet").is_file():
        curves = load_table(folder, curves=True)
    return FIGURES[name].draw(runs, curves)


def draw(name: str, results: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw the figure `name` of a results folder and save it; the files written.

    out  see `save`; <results>/figures/<name> where not given.
    """
    return save(of_results(name, results), out or Path(results) / "figures" / name)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write `path`, a .pdf or .png, or both where it has neither suffix; the files written.

    The same figure gives the same bytes every time: no dates are written. Fonts are Type 42.
    """
    path = Path(path)
    known = path.suffix.lower() in (".pdf", ".png")
    files = [path] if known else [path.with_name(path.name + end) for end in (".pdf", ".png")]
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        pdf = file.suffix.lower() == ".pdf"
        nothing = ("CreationDate", "Producer", "Creator") if pdf else ("Software",)
        with rc_context(style.paper()):
            figure.savefig(file, metadata=dict.fromkeys(nothing))
    return files


# ------------------------------------------------------------------ Kaplan et al. 2020


@_figure("kaplan1")
def kaplan_triptych(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    by_C: Frontier | None = None,
    by_D: FitResult | None = None,
    by_N: FitResult | None = None,
    unit: str = "FLOPs",
) -> Figure:
    """Loss against compute, data and parameters (Kaplan et al. 2020, Fig. 1).

    Every learning curve, coloured by N, with the compute-optimal frontier; every run's final loss
    against D and N, with the law fitted to the lower edge: the runs that no run with as little D
    (or N) beats. Bands are 95 % intervals; lines are dashed beyond the data.

    by_C  a frontier; where not given, the envelope of the curves (parametric without curves).
    by_D  a law of D, by_N a law of N; where not given, kaplan_D and kaplan_N on the lower edge.
    unit  of compute on the axis: 'FLOPs' or 'PF-days', the paper's.
    """
    runs = _usable(runs)
    curves = None if curves is None else _usable(curves)
    by_C = by_C or _default_frontier(runs, curves)
    by_D = by_D or fit_law(laws.kaplan_D, lower_edge(runs, "D"))
    by_N = by_N or fit_law(laws.kaplan_N, lower_edge(runs, "N"))
    with rc_context(style.paper()):
        figure = Figure(figsize=(style.FULL, 2.25))
        axes = figure.subplots(1, 3)
        colour = _Colours(runs["N"])
        scale = PF_DAY if unit == "PF-days" else 1.0
        left = axes[0]
        shown = runs if curves is None else curves
        shown = shown.assign(C=shown["C"] / scale)
        (_dots if curves is None else _lines)(left, shown, "C", colour)
        _limits(left, shown["C"].to_numpy(float), shown["L"].to_numpy(float), above=0.25)
        _frontier_line(left, by_C, scale)
        left.set_xlabel(LABELS["C" if scale == 1 else "PF"])
        for ax, result, x in ((axes[1], by_D, "D"), (axes[2], by_N, "N")):
            _dots(ax, runs, x, colour, faint=True)
            _dots(ax, result.runs, x, colour, edge=True)
            _limits(ax, runs[x].to_numpy(float), runs["L"].to_numpy(float), above=0.3)
            _law_line(ax, result, x)
            ax.set_xlabel(LABELS[x])
        for ax in axes:
            style.count_axis(ax)
            style.loss_axis(ax)
            ax.legend(loc="upper right", handlelength=1.4)
        axes[0].set_ylabel(LABELS["L"])
        colour.bar(figure, axes)
    return figure


@_figure("kaplan2")
def learning_curves(runs: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Loss against tokens and against compute, coloured by size (Kaplan et al. 2020, Fig. 2).

    Dots end the runs. Takes a table of curves alone as well.
    """
    points = _needed(runs if curves is None else curves)
    with rc_context(style.paper()):
        figure = Figure(figsize=(style.FULL, 2.5))
        axes = figure.subplots(1, 2, sharey=True)
        colour = _Colours(points["N"])
        for ax, x in zip(axes, ("D", "C"), strict=True):
            _lines(ax, points, x, colour, ends=True)
            ax.set_xlabel("Tokens processed" if x == "D" else LABELS[x])
            style.count_axis(ax)
            style.loss_axis(ax)
        axes[1].tick_params(labelleft=False)
        axes[0].set_ylabel(LABELS["L"])
        colour.bar(figure, axes)
    return figure


# ------------------------------------------------------------------ the frontier


@_figure("frontier")
def _frontier_of(runs: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Compute-optimal N and D against compute, with intervals, by every method the data allow."""
    every = optimal(_usable(runs), method="all", curves=curves)
    return frontier(every)


def frontier(front: Frontier | Comparison) -> Figure:
    """N_opt(C) and D_opt(C): lines with bands, the optima they go through, dashed beyond the data.

    A Comparison draws each method in its colour; of the exponents in the legend the brackets are
    the interval.
    """
    fronts = list(front.fronts.values()) if isinstance(front, Comparison) else [front]
    with rc_context(style.paper()):
        figure = Figure(figsize=(style.FULL, 2.6))
        axes = figure.subplots(1, 2)
        for ax, name in zip(axes, ("N", "D"), strict=True):
            for one in fronts:
                _optima(ax, one, name)
            of = "parameters" if name == "N" else "tokens"
            ax.set_xlabel(LABELS["C"])
            ax.set_ylabel(f"Optimal {of} ${name}_\\mathrm{{opt}}$")
            style.count_axis(ax)
            style.count_axis(ax, which="y")
            ax.legend(loc="upper left")
    return figure


def _optima(ax: Axes, front: Frontier, name: str) -> None:
    colour = style.METHODS[front.method]
    row = front.exponents.set_index("exponent").loc[f"{name}_opt"]
    label = (
        f"{front.method}: ${name}_\\mathrm{{opt}} \\propto C^{{{row.value:.2f}}}$ "
        f"[{row.low:.2f}, {row.high:.2f}]"
    )
    low, high = front.ranges["C"]

    def curve(C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = front.at(C=C)
        return tuple(table[k].to_numpy() for k in (name, f"{name}_low", f"{name}_high"))

    _line(ax, curve, low, high, label, colour, start=low / BEYOND)
    if front.method != "parametric":
        used = front.optima[front.optima["kind"].isin(("crossing", "minimum"))]
        ax.plot(used["C"], used[name], "o", color=colour, ms=4, mec="white", mew=0.5, zorder=5)


@_figure("isoflop")
def _isoflop_of(runs: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Loss against size at fixed compute, with the minima (Hoffmann et al. 2022, Fig. 3)."""
    return isoflop(_usable(runs), curves)


def isoflop(runs: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Loss against N at each compute budget with its parabola and minimum, and the minima's N
    against compute (Hoffmann et al. 2022, Fig. 3).

    Runs of no common budget are taken from `curves`, cut at fixed compute. Parabolas are drawn
    over the sizes they were fitted to. A minimum at the edge is not drawn: it was not used.
    """
    table = runs if budgets_of(runs) or curves is None else slices(_usable(curves))
    front = fit_isoflop(table)
    with rc_context(style.paper()):
        figure = Figure(figsize=(style.FULL, 2.6))
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        budgets = _Colours(front.optima["C"])
        for budget, optimum in zip(budgets_of(table), front.optima.itertuples(), strict=True):
            colour = budgets(optimum.C)
            x, y = budget["N"].to_numpy(float), budget["L"].to_numpy(float)
            left.plot(x, y, "o", color=colour, ms=2.5, mew=0)
            used, N, L = parabola(x, y)
            left.plot(N, L, color=colour, lw=0.8)
            left.plot(x[~used], y[~used], "o", color="white", ms=1.2, mew=0)
            if optimum.kind == "minimum":
                left.plot(optimum.N, optimum.L, "D", color=style.FIT, ms=3.5, mec="white", mew=0.4)
        left.set(xscale="log", yscale="log", xlabel=LABELS["N"], ylabel=LABELS["L"])
        style.count_axis(left)
        style.loss_axis(left)
        budgets.bar(figure, [left], label=LABELS["C"], own=len(budgets.sizes) <= 12)
        _optima(right, front, "N")
        right.set(xlabel=LABELS["C"], ylabel=r"Optimal parameters $N_\mathrm{opt}$")
        style.count_axis(right)
        style.count_axis(right, which="y")
        right.legend(loc="upper left")
    return figure


@_figure("deviation")
def _deviation_of(runs: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Compute for the same loss at sizes other than the best (Kaplan et al. 2020, Fig. 12)."""
    return deviation(fit_law(laws.chinchilla, _usable(runs)))


def deviation(result: FitResult, C: Iterable[float] | None = None) -> Figure:
    """How many times the optimal compute a model k times the optimal size needs for the same loss
    (Kaplan et al. 2020, Fig. 12), with the band of the last budget.

    C  budgets [FLOPs] whose optimum is deviated from; the data's largest where not given. For the
       Chinchilla form all budgets share one curve.
    """
    front = parametric(result)
    budgets = list(C) if C is not None else [front.ranges["C"][1]]
    factors = np.geomspace(0.2, 8, 49)
    with rc_context(style.paper()):
        figure = Figure(figsize=(style.COLUMN, 2.5))
        ax = figure.subplots()
        colours = style.size_map()(np.linspace(0, 0.8, len(budgets)))
        for one, colour in zip(budgets, colours, strict=True):
            best = front.at(C=one).iloc[0]
            prices = [price(front, N=best["N"], D=best["D"], factor=f) for f in factors]
            band = np.array([(p.value, p.low, p.high) for p in prices])
            band = np.where(np.isfinite(band), band, 1e6)
            ax.fill_between(factors, band[:, 1], band[:, 2], color=colour, alpha=0.18, lw=0)
            label = f"$C = {_latex(one)}$ FLOPs, $N_\\mathrm{{opt}} = {_latex(best['N'])}$"
            ax.plot(factors, band[:, 0], color=colour, label=label)
        ax.axhline(1, color=style.GREY, lw=0.6, ls=":")
        ax.axvline(1, color=style.GREY, lw=0.6, ls=":")
        ax.set(xscale="log", xlim=(factors[0], factors[-1]), ylim=(0.8, 3.0))
        ax.set_xticks([0.2, 0.5, 1, 2, 4, 8], ["0.2", "0.5", "1", "2", "4", "8"])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(r"Size $N / N_\mathrm{opt}$")
        ax.set_ylabel("Compute for the same loss, over the least")
        ax.legend(loc="upper center")
    return figure


def critical_batch(critical: CriticalBatch) -> Figure:
    """B_crit against loss with its law (Kaplan et al. 2020, Fig. 10)."""
    with rc_context(style.paper()):
        figure = Figure(figsize=(style.COLUMN, 2.5))
        ax = figure.subplots()
        t = critical.table
        error = np.maximum([t["B_crit"] - t["low"], t["high"] - t["B_crit"]], 0)
        ax.errorbar(t["L"], t["B_crit"], error, fmt="o", color=style.INK, ms=3, lw=0.6)
        if critical.law is not None:
            law = critical.law
            L = np.geomspace(t["L"].min(), t["L"].max(), 61)
            low, high = law.predict_interval(critical.level, L=L)
            exponent = law.interval(critical.level).loc["alpha_B"]
            ax.fill_between(L, low, high, color=style.FIT, alpha=0.15, lw=0)
            ax.plot(
                L, law.predict(L=L), color=style.FIT,
                label=f"$B_\\mathrm{{crit}} = {_latex(law.params['B_star'])}\\,L^{{-1/"
                f"{law.params['alpha_B']:.3f}}}$\n"
                + _between("alpha_B", exponent["low"], exponent["high"]),
            )  # fmt: skip
            ax.legend(loc="upper left")
        ax.set(yscale="log", xlabel=LABELS["L"], ylabel="Critical batch size [tokens]")
        style.count_axis(ax, which="y")
        style.loss_axis(ax, which="x")
        ax.invert_xaxis()
    return figure


# ------------------------------------------------------------------ parts of figures


class _Colours:
    """One colour a size, and the bar that explains it."""

    def __init__(self, N: Iterable[float]):
        self.sizes = np.unique(np.asarray(list(N), float))
        self.norm, self.map = style.size_norm(self.sizes), style.size_map()

    def __call__(self, N: Any) -> Any:
        return self.map(self.norm(N))

    def bar(
        self, figure: Figure, axes: Any, *, label: str = LABELS["N"], own: bool = False
    ) -> None:
        """A colour bar right of `axes`, marked at each value; ticks at the decades, or with `own`
        at the values."""
        bar = figure.colorbar(
            ScalarMappable(self.norm, self.map), ax=list(axes), pad=0.01, aspect=30, fraction=0.04
        )
        bar.set_label(label)
        bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.yaxis.set_major_locator(LogLocator(10, numticks=6))
        if own:
            bar.ax.yaxis.set_major_locator(FixedLocator(self.sizes.tolist()))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"${_latex(v)}$"))
        if len(self.sizes) <= 24:
            bar.ax.hlines(self.sizes, 0, 1, color="white", lw=0.5)


def _lines(ax: Axes, curves: pd.DataFrame, x: str, colour: _Colours, *, ends: bool = False) -> None:
    """One line a run; the largest sizes last, so that none hides the small ones' ends."""
    paths, colours, last = [], [], []
    for _, run in curves.sort_values(["N", "D"], kind="stable").groupby("run_id", sort=False):
        path = run[[x, "L"]].to_numpy(float)
        paths.append(path)
        colours.append(colour(run["N"].iloc[0]))
        last.append(path[-1])
    ax.add_collection(LineCollection(paths, colors=colours, linewidths=0.7, alpha=0.85))
    if ends:
        ax.scatter(*np.array(last).T, c=colours, s=6, lw=0, zorder=3)
    both = np.concatenate(paths)
    ax.set(xscale="log", yscale="log")
    _limits(ax, both[:, 0], both[:, 1])


def _dots(
    ax: Axes,
    runs: pd.DataFrame,
    x: str,
    colour: _Colours,
    *,
    faint: bool = False,
    edge: bool = False,
) -> None:
    ax.scatter(
        runs[x], runs["L"], c=colour(runs["N"].to_numpy(float)), s=7 if faint else 12,
        alpha=0.45 if faint else 1.0, lw=0.5 if edge else 0.0,
        edgecolors=style.INK if edge else "none", zorder=3 if edge else 2,
    )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    _limits(ax, runs[x].to_numpy(float), runs["L"].to_numpy(float))


def _limits(ax: Axes, x: np.ndarray, y: np.ndarray, *, above: float = 0.05) -> None:
    """Room for the line beyond the data, to the right and below, and for the legend above."""
    width, height = np.log(x.max() / x.min()), np.log(y.max() / y.min())
    ax.set_xlim(x.min() * np.exp(-0.04 * width), x.max() * np.exp(0.04 * width) * BEYOND)
    ax.set_ylim(y.min() * np.exp(-0.12 * height), y.max() * np.exp(above * height))


def _law_line(ax: Axes, result: FitResult, x: str) -> None:
    """A law of one column with its band, over the rows it was fitted to and beyond."""

    def curve(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        columns: dict[str, Any] = {x: grid}
        return (result.predict(**columns), *result.predict_interval(**columns))

    low, high = float(result.runs[x].min()), float(result.runs[x].max())
    _line(ax, curve, low, high, _with_interval(result), style.FIT)


def _frontier_line(ax: Axes, front: Frontier, scale: float) -> None:
    """L_opt(C) with its band; C on the axis in units of `scale` FLOPs."""
    if front.fit is None:
        exponent = -front.lines["L"][0, 1]
        C_c = front.coefficient("L") ** (1 / exponent) / scale
        low, high = quantiles(-front.lines["L"][1:, 1], front.level)
        label = f"$L = (C/{_latex(C_c)})^{{-{exponent:.3f}}}$\n" + _between("alpha_C", low, high)
    else:
        label = "compute-optimal"

    def curve(C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = front.at(C=C * scale)
        return tuple(table[k].to_numpy() for k in ("L", "L_low", "L_high"))

    low, high = (end / scale for end in front.ranges["C"])
    _line(ax, curve, low, high, label, style.FIT)


def _line(
    ax: Axes,
    curve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    low: float,
    high: float,
    label: str,
    colour: str,
    *,
    start: float | None = None,
) -> None:
    """`curve` (value, low, high) with its band: solid over the data, dashed from there on (and,
    with `start`, from there up to the data)."""
    start, end = start or low, high * BEYOND
    grid = np.geomspace(start, end, 121)
    ax.fill_between(grid, *curve(grid)[1:], color=colour, alpha=0.15, lw=0, zorder=1)
    for a, b in ((start, low), (high, end)):
        if b > a:
            x = np.geomspace(a, b, 41)
            ax.plot(x, curve(x)[0], color=colour, ls=(0, (3, 2)), lw=0.8, zorder=4)
    x = np.geomspace(low, high, 121)
    ax.plot(x, curve(x)[0], color=colour, zorder=4, label=label)


def _with_interval(result: FitResult) -> str:
    """The formula, and under it the interval of the exponent where there is but one."""
    exponents = [name for name in result.law.params if name.startswith("alpha")]
    if len(exponents) != 1:
        return formula(result)
    row = result.interval().loc[exponents[0]]
    return f"{formula(result)}\n{_between(exponents[0], row['low'], row['high'])}"


def _between(name: str, low: float, high: float) -> str:
    symbol = name.replace("alpha", r"\alpha")
    return rf"${symbol} \in [{low:.3f}, {high:.3f}]$"


_FORMULAE = {
    "kaplan_N": "L = (N/{N_c})^{{-{alpha_N}}}",
    "kaplan_D": "L = (D/{D_c})^{{-{alpha_D}}}",
    "kaplan_C": "L = (C/{C_c})^{{-{alpha_C}}}",
    "floor_N": "L = {E} + {A}\\,N^{{-{alpha}}}",
    "floor_D": "L = {E} + {A}\\,D^{{-{alpha}}}",
    "floor_C": "L = {E} + {A}\\,C^{{-{alpha}}}",
    "chinchilla": "L = {E} + {A}\\,N^{{-{alpha}}} + {B}\\,D^{{-{beta}}}",
    "kaplan_ND": "L = [(N/{N_c})^{{-{alpha_N}/{alpha_D}}} + {D_c}/D]^{{{alpha_D}}}",
}


def formula(result: FitResult) -> str:
    """The law with its fitted numbers, for a legend; its name where it has no short form."""
    pattern = _FORMULAE.get(result.law.name)
    if pattern is None:
        return result.law.name
    return f"${pattern.format(**{k: _latex(v) for k, v in result.params.items()})}$"


def _latex(value: float) -> str:
    """Three digits below 1, two above 100 with a power of ten."""
    if 0.01 <= abs(value) < 1:
        return f"{value:.3f}"
    if 1 <= abs(value) < 100:
        return f"{value:.3g}"
    mantissa, _, power = f"{value:.1e}".partition("e")
    return rf"{mantissa}\cdot 10^{{{int(power)}}}"


def lower_edge(runs: pd.DataFrame, x: str) -> pd.DataFrame:
    """The runs that no run with as little of `x` beats, one at each x.

    On a grid of N x D that is the best loss at each N (the runs of most data) or at each D (those
    of most parameters): the loss as N or D alone limits it (Kaplan et al. 2020, section 3).
    """
    order = runs.sort_values([x, "L"], kind="stable").drop_duplicates(x)
    best = order["L"].cummin()
    return order[order["L"] <= best]


def _default_frontier(runs: pd.DataFrame, curves: pd.DataFrame | None) -> Frontier:
    if curves is None:
        return parametric(fit_law(laws.chinchilla, runs))
    return envelope(curves)


def _usable(table: pd.DataFrame) -> pd.DataFrame:
    check(table, need=("N", "D", "C", "L"))
    if "status" in table.columns:
        table = table[table["status"] == "ok"]
    if table.empty:
        raise TableError("no run has status 'ok': there is nothing to draw.")
    return table


def _needed(curves: pd.DataFrame) -> pd.DataFrame:
    if "run_id" not in curves.columns or not curves["run_id"].duplicated().any():
        raise TableError("this figure needs learning curves: load(folder, curves=True).")
    return _usable(curves)
