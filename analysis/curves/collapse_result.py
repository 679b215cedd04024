"""The result of normalising the learning curves of a ladder of sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

LADDER, BESIDE = "ladder", "beside"
"""Roles of runs: those of the ladder, and others of the same size and horizon."""

_APART = 2.0
"""Curves do not collapse if the lower end of their spread is this many times the seeds'."""


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Normalised learning curves of a ladder of sizes, their spread, and that of seeds."""

    points: pd.DataFrame = field(repr=False)
    """One row per evaluation: run_id, N, D, seed, role, the fraction `x` of the run's compute, and
    `value`, the reducible loss relative to that of the last step."""
    runs: pd.DataFrame
    """One row per run: run_id, N, D, seed, role, `deviation` (rms of the difference in log from the
    median curve of the other sizes) and `stands_out`."""
    sizes: int
    """Number of sizes in the ladder, without runs that stand out."""
    spread: pd.Series
    """Standard deviation between these sizes over the mean, by x."""
    noise: pd.Series | None
    """Standard deviation between seeds of the reducible loss over its mean, by x; None without
    seeds."""
    noise_dof: int
    """Degrees of freedom of the noise."""
    floor: float
    """The loss that is subtracted."""
    floor_is: str
    """Where the floor is from: 'fitted', 'given', or 'none' for a ladder at one horizon."""
    gamma: float
    """Exponent of the ladder's horizons, D ~ N^gamma; nan if they are all alike."""

    @property
    def total_spread(self) -> float:
        """The spread over all x, as root mean square."""
        return rms(self.spread)

    @property
    def total_noise(self) -> float:
        """The noise over all x, as root mean square; nan without seeds."""
        return float("nan") if self.noise is None else rms(self.noise)

    @property
    def ratio(self) -> float:
        """The spread in units of the noise; nan without seeds. Below 1 the curves supercollapse."""
        return self.total_spread / self.total_noise

    def ratio_interval(self, level: float = 0.9) -> tuple[float, float]:
        """Return the interval of `ratio`, from the numbers of sizes and seeds (F distribution)."""
        if self.noise is None:
            return float("nan"), float("nan")
        tail = (1 - level) / 2
        low, high = (
            self.ratio / float(np.sqrt(stats.f.ppf(p, self.sizes - 1, self.noise_dof)))
            for p in (1 - tail, tail)
        )
        return low, high

    @property
    def outliers(self) -> pd.DataFrame:
        """The runs that stand out."""
        return self.runs[self.runs["stands_out"]]

    @property
    def brief(self) -> str:
        """The finding in one sentence."""
        percent = f"{100 * self.total_spread:.2g}"
        if self.noise is None:
            return f"{self.sizes} sizes fall on one curve to {percent} %{self._others()}"
        low, high = self.ratio_interval()
        times = (
            f"{self.ratio:.2g} [{low:.2g}, {high:.2g}] times seed noise ({percent} against "
            f"{100 * self.total_noise:.2g} %)"
        )
        if low > _APART:
            others = self._others(apart=True)
            return f"these {self.sizes} sizes do not collapse: their spread is {times}{others}"
        return f"these {self.sizes} sizes collapse to {times}{self._others()}"

    def _others(self, *, apart: bool = False) -> str:
        worst = self.outliers.sort_values("deviation", ascending=False)
        if worst.empty:
            return ""
        named = ", ".join(
            f"{row.run_id} ({100 * row.deviation:.2g} %)" for row in worst.head(3).itertuples()
        )
        more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
        one = len(worst) == 1
        verb = ("stands out" if one else "stand out") if apart else "does not" if one else "do not"
        return f"; run{'' if one else 's'} {named}{more} {verb}"

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        return {
            "sizes": self.sizes,
            "spread": self.total_spread,
            "noise": None if self.noise is None else self.total_noise,
            "ratio": None if self.noise is None else self.ratio,
            "ratio_interval": None if self.noise is None else list(self.ratio_interval()),
            "floor": self.floor,
            "gamma": None if np.isnan(self.gamma) else self.gamma,
            "runs": self.runs.to_dict("records"),
        }

    def __str__(self) -> str:
        how = {
            "fitted": "fitted to the final losses",
            "given": "given",
            "none": "one horizon identifies none",
        }[self.floor_is]
        horizons = (
            "all at one horizon, where curves of different sizes are not expected to collapse"
            if np.isnan(self.gamma)
            else f"D ~ N^{self.gamma:.2f}"
        )
        seeds = "" if self.noise is not None else "; no seeds to compare with"
        lines = [self.brief + seeds, f"floor {self.floor:.3f} ({how}); ladder: {horizons}"]
        for row in self.runs.sort_values(["role", "N"], ascending=[False, True]).itertuples():
            mark = "  stands out" if row.stands_out else ""
            lines.append(
                f"  {row.run_id}  N = {row.N:.3g}, D = {row.D:.3g}, {row.role}: "
                f"{100 * row.deviation:.2g} %{mark}"
            )
        return "\n".join(lines)


def rms(values: Any) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))
