"""Effective speed-up at equal loss, from two losses and a pinned floor."""

from __future__ import annotations

import math

import numpy as np
import scipy

from analysis.fitting.checks import FitError, check_level
from analysis.planning.quantity import Quantity


def effective_speedup(
    L_A: float,
    L_B: float,
    *,
    floor: float,
    alpha: float,
    stderr_A: float = 0.0,
    stderr_B: float = 0.0,
    alpha_stderr: float = 0.0,
    level: float = 0.9,
) -> Quantity:
    """Return how many times the compute of A recipe B needs to reach the loss of A.

    Both losses were reached with the same compute. If the loss of B is E + k C^-alpha, this is
    ((L_B - E) / (L_A - E))^(1 / alpha): above 1, A is the better recipe.

    floor: the irreducible loss E, in the unit of the losses.
    alpha: the exponent of compute, as in `floor_C`.
    stderr_A, stderr_B, alpha_stderr: standard errors; those that are 0 are taken as known. The
        interval is Fieller's for the ratio of the two reducible losses, widened by the error of
        alpha. It has no upper end if L_A may be at the floor. Without any error, it has no ends
        (nan).

    Raises FitError for a loss that is not above the floor, or an alpha that is not positive.
    """
    check_level(level)
    for name, loss in (("A", L_A), ("B", L_B)):
        if not (math.isfinite(loss) and loss > floor):
            raise FitError(
                f"the loss of {name}, {loss:.6g}, is not above the floor of {floor:.6g}: no "
                "compute reaches it. Use a lower floor."
            )
    if not (alpha > 0 and math.isfinite(alpha)):
        raise FitError(f"alpha={alpha} must be positive: loss falls as C^-alpha.")
    a, b = L_A - floor, L_B - floor
    value = (b / a) ** (1 / alpha)
    if not (stderr_A or stderr_B or alpha_stderr):
        return Quantity(value, math.nan, math.nan)
    z = float(scipy.special.ndtri((1 + level) / 2))
    low, high = _log_ratio_interval(a, b, z * stderr_A, z * stderr_B)
    centre = math.log(b / a)
    of_alpha = z * abs(centre) * alpha_stderr / alpha
    with np.errstate(over="ignore"):
        below = math.hypot(centre - low, of_alpha) / alpha
        above = math.hypot(high - centre, of_alpha) / alpha
        ends = np.exp(np.array([centre / alpha - below, centre / alpha + above]))
    return Quantity(value, float(ends[0]), float(ends[1]))


def _log_ratio_interval(a: float, b: float, half_a: float, half_b: float) -> tuple[float, float]:
    """Return Fieller's interval of ln(b / a): the ratios r with |b - r a| <= |(half_b, r half_a)|.

    Source: Fieller 1954, Some problems in interval estimation
    """
    curvature, constant = a**2 - half_a**2, b**2 - half_b**2
    if curvature == 0:
        low, high = constant / (2 * a * b), math.inf
    else:
        root = math.sqrt(max((a * b) ** 2 - curvature * constant, 0.0))
        low, high = (a * b - root) / curvature, (a * b + root) / curvature
    high = high if curvature > 0 else math.inf
    return (math.log(low) if low > 0 else -math.inf), math.log(high)
