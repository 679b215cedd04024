"""The best learning-rate schedule for a number of steps, by a fitted law of learning curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from analysis.curves.fit import CurveFit
from analysis.curves.rates import Rates
from analysis.fitting.checks import FitError, check_level
from scaling.jsonable import finite
from scaling.units import si

KNOTS = 16
"""Number of knots of the decay."""

FAR = 4.0
"""A budget of this many times the longest fitted run is refused."""

_COOLDOWN = 0.2
"""Share of the steps in which the wsd schedule that is compared decays."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BestSchedule:
    """A schedule, and what it is expected to gain over the usual ones."""

    law: str
    rates: Rates
    steps: int
    loss: float
    """Expected loss after the last step."""
    low: float
    high: float
    """Interval of that loss for one run."""
    gains: pd.DataFrame
    """Rows cosine and wsd; columns loss, gain, low and high: how much lower the best schedule's
    loss is, with its interval."""
    level: float
    notes: tuple[str, ...] = field(default=())

    @property
    def knots(self) -> pd.DataFrame:
        """Steps and learning rates; linear in between."""
        return pd.DataFrame({"step": self.rates.steps.astype(int), "lr": self.rates.lr})

    @property
    def spelling(self) -> str:
        """The knots as the key `optim.knots` of a spec: fractions of the steps and of the peak."""
        peak = self.rates.peak
        after = self.knots[self.knots["step"] >= self.rates.warmup]
        points = zip(after["step"] / self.steps, after["lr"] / peak, strict=True)
        return " ".join(f"{done:.4g}:{rate:.4g}" for done, rate in points)

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as plain values for JSON."""
        return finite(
            {
                "law": self.law,
                "steps": self.steps,
                "knots": self.knots.to_dict("records"),
                "optim.knots": self.spelling,
                "loss": self.loss,
                "low": self.low,
                "high": self.high,
                "level": self.level,
                "gains": {name: row.to_dict() for name, row in self.gains.iterrows()},
                "notes": list(self.notes),
            }
        )

    def __str__(self) -> str:
        percent = f"{100 * self.level:g} %"
        lines = [
            f"best schedule for {self.steps:,} steps by the law {self.law}:",
            f"  {'step':>10}  learning rate (linear in between)",
        ]
        lines += [f"  {int(s):>10,}  {lr:.4g}" for s, lr in self.knots.itertuples(index=False)]
        lines.append(
            f"expected loss {self.loss:.4f}, {percent} of runs in [{self.low:.4f}, {self.high:.4f}]"
        )
        for name, row in self.gains.iterrows():
            lines.append(
                f"  {row['gain']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] lower than {name} "
                f"({row['loss']:.4f})"
            )
        lines.append(f"  ({percent} intervals of the gains; two runs also differ by their seeds)")
        lines.append(f'optim.schedule = "knots", optim.knots = "{self.spelling}"')
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def best_schedule(
    fit: CurveFit,
    steps: int,
    *,
    warmup: int | None = None,
    peak: float | None = None,
    lowest: float | None = None,
    level: float = 0.9,
) -> BestSchedule:
    """Return the schedule with the lowest expected final loss: it never rises after warm-up.

    fit: A fitted law of learning curves, of :func:`fit_curves`.
    steps: Number of steps of the run.
    warmup: Steps of linear warm-up; by default as in the fitted runs.
    peak: Learning rate after warm-up; by default, and at most, that of the fitted runs: the law
        says what decays bring, not which peak is stable.
    lowest: Lowest learning rate; by default the lowest of the fitted runs, since the law is not
        tested below.
    level: Level of the intervals.

    Raises FitError if the law cannot know: no fitted run decays, or the budget is far longer.
    """
    check_level(level)
    if not fit.law.shape:
        raise FitError(
            f"by the law {fit.law.name} a decay takes effect at once, so a drop at the last step "
            "would be best; plan with multi_power or annealing."
        )
    known = _Known.of(fit)
    warmup = known.warmup if warmup is None else int(warmup)
    peak = known.peak if peak is None else float(peak)
    lowest = known.lowest if lowest is None else float(lowest)
    notes = known.check(int(steps), warmup, peak, lowest)
    plan = _Plan(fit, int(steps), warmup, peak, lowest)
    rates, at_floor = plan.best()
    if at_floor:
        notes.append(
            f"the law would go below a learning rate of {lowest:.3g}"
            + (", the lowest of the fitted runs" if lowest == known.lowest else "")
            + "; the schedule stops there. Runs that decay further would show whether it is right."
        )
    others = {"cosine": plan.cosine(), "wsd": plan.wsd()}
    low, high = fit.predict_interval(level, step=[steps], rates=rates)
    return BestSchedule(
        law=fit.law.name,
        rates=rates,
        steps=int(steps),
        loss=plan.loss(rates),
        low=float(low[0]),
        high=float(high[0]),
        gains=_gains(fit, plan, rates, others, level),
        level=level,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Known:
    """The schedules that a law was fitted to."""

    warmup: int
    peak: float
    lowest: float
    longest: float
    decays: bool

    @classmethod
    def of(cls, fit: CurveFit) -> _Known:
        """Return what the fitted runs cover."""
        after = [c.rates.at(c.step) for c in fit.curves]
        return cls(
            warmup=int(np.median([c.rates.warmup for c in fit.curves])),
            peak=max(float(lr.max()) for lr in after),
            lowest=min(float(lr.min()) for lr in after),
            longest=max(float(c.step[-1]) for c in fit.curves),
            decays=any((np.diff(lr) < 0).any() for lr in after),
        )

    def check(self, steps: int, warmup: int, peak: float, lowest: float) -> list[str]:
        """Raise FitError for what the law cannot know; return notes on what it knows less well."""
        if not self.decays:
            raise FitError(
                "no fitted run decays its learning rate, so the law does not know what a decay "
                "brings: add a run with a cosine, wsd or any other decay."
            )
        if steps <= warmup + 1:
            raise FitError(f"steps={steps} must be more than the warm-up of {warmup} steps.")
        if steps > FAR * self.longest:
            raise FitError(
                f"{si(steps)} steps are {steps / self.longest:.1f} times the longest fitted run "
                f"({si(self.longest)}); the law is not known beyond {FAR:g} times."
            )
        if not 0 < peak <= 1.001 * self.peak:
            raise FitError(
                f"peak={peak:g} is outside the fitted runs, whose largest learning rate is "
                f"{self.peak:g}: the law knows nothing of what a larger one does."
            )
        if not 0 <= lowest < peak:
            raise FitError(f"lowest={lowest:g} must be at least 0 and below the peak {peak:g}.")
        notes = []
        if steps > 1.05 * self.longest:
            notes.append(
                f"{si(steps)} steps are {steps / self.longest:.1f} times the longest fitted run: "
                "an extrapolation."
            )
        if lowest < 0.99 * self.lowest:
            notes.append(
                f"the law is not tested below a learning rate of {self.lowest:.3g}, the lowest of "
                "the fitted runs."
            )
        return notes


class _Plan:
    """The search among schedules of one length."""

    def __init__(self, fit: CurveFit, steps: int, warmup: int, peak: float, lowest: float) -> None:
        self.fit, self.steps, self.warmup = fit, steps, warmup
        self.peak, self.lowest = peak, max(lowest, 1e-6 * peak)
        # Knots lie denser towards the end, where the rate changes fastest.
        left = np.geomspace(steps - warmup, max((steps - warmup) / 200, 1), KNOTS)
        self.at = np.unique(np.append(np.round(steps - left), steps))

    def loss(self, rates: Rates) -> float:
        """Return the loss after the last step."""
        return float(self.fit.predict(step=[self.steps], rates=rates)[0])

    def rates(self, at: Any, lr: Any) -> Rates:
        """Return the rates with the warm-up before knots that begin at its end."""
        start = [0.0] if self.warmup else []
        zero = [0.0] if self.warmup else []
        return Rates.from_knots([*start, *at], [*zero, *lr], self.warmup)

    def best(self) -> tuple[Rates, bool]:
        """Return the best rates, and whether they end at the lowest rate allowed."""
        span = np.log(self.peak / self.lowest)

        def lr_of(falls: np.ndarray) -> np.ndarray:
            down = np.minimum(np.cumsum(np.append(0.0, falls)), span)
            return self.peak * np.exp(-down)

        def value(falls: np.ndarray) -> float:
            return self.loss(self.rates(self.at, lr_of(falls)))

        n = len(self.at) - 1
        ends = [self._falls(r, lr_of) for r in (self.cosine(), self.wsd())]
        found = [
            minimize(
                lambda f: 1e3 * value(f), start, method="L-BFGS-B", bounds=[(0, span)] * n,
                options={"maxiter": 60, "maxfun": 60 * (n + 1)},
            )
            for start in ends
        ]  # fmt: skip
        falls = min(found, key=lambda each: each.fun).x
        lr = lr_of(falls)
        return self.rates(self.at, lr), bool(lr[-1] < 1.02 * self.lowest)

    def _falls(self, rates: Rates, lr_of: Any) -> np.ndarray:
        lr = np.maximum(rates.at(self.at), self.lowest)
        return np.maximum(-np.diff(np.log(lr)), 1e-4)

    def cosine(self) -> Rates:
        """Return a cosine to the lowest rate."""
        at = np.unique(np.round(np.linspace(self.warmup, self.steps, 129)))
        done = (at - self.warmup) / (self.steps - self.warmup)
        fall = (self.peak - self.lowest) * (1 - np.cos(np.pi * done)) / 2
        return self.rates(at, self.peak - fall)

    def wsd(self) -> Rates:
        """Return a constant rate with a linear decay to the lowest rate at the end."""
        start = min(max(round(self.steps * (1 - _COOLDOWN)), self.warmup + 1), self.steps - 1)
        return self.rates([self.warmup, start, self.steps], [self.peak, self.peak, self.lowest])


def _gains(
    fit: CurveFit, plan: _Plan, best: Rates, others: dict[str, Rates], level: float
) -> pd.DataFrame:
    """Return the loss of other schedules and the gain over them, by the law and its draws."""
    points = fit.law.points([(r, [plan.steps]) for r in (best, *others.values())])
    law = fit.law.loss(fit.params, points)
    drop = fit.law.annealed(fit.params, points)
    draws = np.array([fit.law.loss(p, points) for p in fit.draws.to_dict("records")])
    # A decay brings more or less than the law says, under all schedules alike.
    factor = fit.noise.drop * np.random.default_rng(0).standard_normal(len(draws))
    rows = {}
    for i, name in enumerate(others, 1):
        ends = (np.nan, np.nan)
        if len(draws):
            gain = draws[:, i] - draws[:, 0] + factor * (drop[0] - drop[i])
            ends = np.quantile(gain, [(1 - level) / 2, (1 + level) / 2])
        rows[name] = (law[i], law[i] - law[0], *ends)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["loss", "gain", "low", "high"])
