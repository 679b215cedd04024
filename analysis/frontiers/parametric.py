"""The frontier of a fitted law of N and D."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.result import FitResult
from analysis.fitting.status import Note
from analysis.frontiers.optimum import optima_of
from analysis.frontiers.result import (
    Frontier,
    exponent_notes,
    interval_of,
    lost_resamples,
    straight_line,
)
from analysis.tables.conventions import counted, flops_6N, in_words, per_token
from scaling.errors import TableError


def parametric(
    result: FitResult,
    *,
    flops: str | Callable[[Any], Any] = "C",
    level: float = 0.95,
    served: float = 0.0,
) -> Frontier:
    """Find the least loss of a fitted law of N and D at each C, for every resample of the fit.

    A closed form is used if the law has one (Law.optimum) and C = 6 N D; otherwise the law is
    minimised over ln N at fixed C, to 1e-9 in ln N. A resample without an optimum (with a negative
    exponent, say) is nan and counted in `status`. Raises FitError if the fit itself has none.

    flops   What C counts: a column, or a function of N that returns the FLOPs per token. served
    Tokens to be served at inference: C = C_training + 2 N served is kept fixed, which favours
    smaller models trained longer.

    Source: Hoffmann et al. 2022, section 3.3 and eq. 4; Sardana et al. 2024 (arXiv 2401.00448),
    eq. 2
    """
    law = result.law
    if set(law.inputs) != {"N", "D"}:
        raise TableError(
            f"a frontier needs a law of N and D; {law.name} is a law of {', '.join(law.inputs)}. "
            "Fit chinchilla or kaplan_ND."
        )
    flops_of = _flops_per_token(result.runs, flops)
    ranges = _ranges(result.runs, flops_of, served)
    low, high = ranges["C"]
    C = np.geomspace(low, high, 9) if high > low else low * np.array([0.5, 1.0, 2.0])
    values = optima_of(result, C, flops_of, served)
    x = np.log(C)
    centre = float(x.mean())
    lines = {name: straight_line(x - centre, np.log(values[name])) for name in ("N", "D", "L")}
    if not np.isfinite(lines["N"][0]).all():
        found = ", ".join(f"{p} = {v:.3g}" for p, v in result.params.items())
        where = "any" if not np.isfinite(values["N"][0]).any() else "every"
        raise FitError(
            f"{law.name} as fitted ({found}) has no optimum at {where} compute of the data: no "
            "size is best. Check the table, or fit another law."
        )
    optima = pd.DataFrame({"C": C} | {name: values[name][0] for name in ("N", "D", "L")})
    N_low, N_high = interval_of(values["N"], level)
    optima = optima.assign(kind="law", N_low=np.maximum(N_low, 0.0), N_high=N_high)
    status = (
        *result.warnings,
        *lost_resamples(lines["N"], len(result.samples)),
        *exponent_notes(lines, level, _data(result)),
        *_outside(optima["N"].to_numpy(), ranges["N"]),
    )
    return Frontier(
        method="parametric", params="N", flops=in_words(flops), ranges=ranges, status=status,
        optima=optima, lines=lines, centre=centre, fit=result, level=level, per_token=flops_of,
        served=served,
    )  # fmt: skip


def _flops_per_token(runs: pd.DataFrame, flops: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return FLOPs per token as a function of N."""
    if callable(flops):
        return flops
    return flops_6N if flops == "C" else per_token(counted(runs, "N", flops))


def _ranges(
    runs: pd.DataFrame, flops_of: Callable[[Any], Any], served: float
) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest C, N and D of the runs, with C counted as in the frontier."""
    N, D = runs["N"].to_numpy(float), runs["D"].to_numpy(float)
    columns = {"C": flops_of(N) * D + 2 * N * served, "N": N, "D": D}
    return {name: (float(v.min()), float(v.max())) for name, v in columns.items()}


def _data(result: FitResult) -> str:
    """Return the number of runs and sizes in words."""
    sizes = result.runs["N"].nunique()
    return f"{result.certificate.groups} runs in {sizes} size{'s'[: sizes != 1]}"


def _outside(optimal: np.ndarray, trained: tuple[float, float]) -> Iterator[Note]:
    """Warn about optimal sizes that are far from those trained, or nan."""
    near = (optimal > trained[0] / 2) & (optimal < trained[1] * 2)
    if not near.all():
        yield Note(
            "sizes_outside",
            f"at {np.sum(~near)} of {len(optimal)} budgets within the data the optimal size is "
            "more than a factor of 2 outside the sizes trained",
        )
