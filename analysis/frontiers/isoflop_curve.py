"""The minimum of one isoFLOP curve, by parabola or Akima interpolation, and the noise about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy

NEAR = 8.0
"""A parabola uses the sizes within this factor of the best one (and at least five)."""
Kind = Literal["isoflop", "akima"]


@dataclass(frozen=True, kw_only=True)
class CurveMethod:
    """How the minimum of loss against ln N at fixed compute is found."""

    kind: Kind = "isoflop"
    """'isoflop' fits a parabola to the sizes near the best one, 'akima' interpolates all."""
    near: float = NEAR
    """A parabola uses the sizes within this factor of the best one, and at least five."""
    on: Literal["log", "raw"] = "log"
    """Whether the curve is that of ln L or of L."""

    def used(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return a mask of the sizes that the curve passes through, from ln N and ln L."""
        if self.kind == "akima":
            return np.ones(len(u), bool)
        distance = np.abs(u - u[np.argmin(v)])
        reach = max(np.log(self.near), np.sort(distance)[min(4, len(u) - 1)])
        return distance <= reach * (1 + 1e-12)

    def state(self, u: np.ndarray, v: np.ndarray) -> str:
        """Return 'minimum', 'edge' or 'concave': whether a curve has an interior minimum."""
        w = self._losses(v)
        if self.kind == "akima":
            fine = np.linspace(u[0], u[-1], 1025)
            best = int(np.argmin(scipy.interpolate.Akima1DInterpolator(u, w)(fine)))
            return "edge" if best in (0, len(fine) - 1) else "minimum"
        best = int(np.argmin(w))
        if best in (0, len(u) - 1):
            return "edge"
        near = self.used(u, v)
        curvature, slope, _ = np.polyfit(u[near] - u[best], w[near], 2)
        if curvature <= 0:
            return "concave"
        return "minimum" if u[0] < u[best] - slope / (2 * curvature) < u[-1] else "edge"

    def minima(
        self, u: np.ndarray, v: np.ndarray, used: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ln N and ln L of the minimum of each row of ln L, (rows, sizes).

        `used` is the mask of the sizes that a parabola passes through; the default is that of the
        first row. A row whose minimum is at the edge stays there (an interval then ends at the
        data); one whose parabola opens downwards is nan.
        """
        if self.kind == "akima":
            at, least = _akima_minima(u, self._losses(v))
        else:
            near = self.used(u, v[0]) if used is None else used
            at, least = _parabola_minima(u, self._losses(v), near)
        if self.on == "raw":
            least = np.log(np.where(least > 0, least, np.nan))
        return at, least

    def _losses(self, v: np.ndarray) -> np.ndarray:
        return np.exp(v) if self.on == "raw" else v


def _akima_minima(u: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fine = np.linspace(u[0], u[-1], 1025)
    w = scipy.interpolate.Akima1DInterpolator(u, w, axis=1)(fine)
    best = np.clip(np.argmin(w, axis=1), 1, len(fine) - 2)
    left, mid, right = (w[np.arange(len(w)), best + k] for k in (-1, 0, 1))
    bend = left - 2 * mid + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0.0)
    shift = np.clip(shift, -1, 1)
    return fine[best] + shift * (fine[1] - fine[0]), mid - 0.25 * (left - right) * shift


def _parabola_minima(
    u: np.ndarray, w: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    origin = u[near].mean()
    c2, c1, c0 = np.polyfit(u[near] - origin, w[:, near].T, 2)
    c2 = np.where(c2 > 0, c2, np.nan)
    at = np.clip(origin - c1 / (2 * c2), u[0], u[-1])
    return at, c0 + c1 * (at - origin) + c2 * (at - origin) ** 2


def parabola(N: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parabola in log-log that `isoflop` fits to one budget, for figures.

    Returns the mask of the sizes used, and N and L along the parabola.
    """
    u, v = np.log(N), np.log(L)
    near = CurveMethod().used(u, v)
    origin = u[near].mean()
    x = np.linspace(u[near].min(), u[near].max(), 61)
    y = np.polyval(np.polyfit(u[near] - origin, v[near], 2), x - origin)
    return near, np.exp(x), np.exp(y)


def noise_of_losses(budgets: Sequence[pd.DataFrame]) -> float:
    """Estimate the relative noise of a loss from how far five neighbours are from a cubic.

    Pseudo-residuals (Gasser et al. 1986) do not mistake the curve's shape for noise, and their
    median does not mistake one odd run for it.
    """
    residuals = []
    for budget in budgets:
        u, v = np.log(budget["N"].to_numpy(float)), np.log(budget["L"].to_numpy(float))
        k = min(5, len(u))
        for i in range(len(u) - k + 1):
            powers = np.vander(u[i : i + k] - u[i : i + k].mean(), k - 1)
            contrast = np.linalg.svd(powers.T)[2][-1]  # unit vector orthogonal to cubics
            residuals.append(contrast @ v[i : i + k])
    return float(1.4826 * np.median(np.abs(residuals)))
