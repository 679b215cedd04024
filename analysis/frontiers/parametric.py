"""The frontier of a fitted law of N and D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at, parameter_draws
from analysis.frontiers.result import Frontier, lost_resamples, quantiles, straight_line
from analysis.tables.conventions import counted, flops_6N, in_words, per_token
from scaling.errors import TableError


def parametric(
    result: FitResult,
    *,
    flops: str | Callable[[Any], Any] = "C",
    level: float = 0.95,
    served: float = 0.0,
) -> Frontier:
    """The least of a fitted law of N and D at each C, for every resample of the fit.

    By the law's own closed form (Law.optimum), if it has one and C = 6 N D; otherwise the law is
    minimised over ln N at fixed C, to 1e-9 in ln N. A resample without an optimum (an exponent below 0, say)
    is nan and counted in `status`; FitError where the fit itself has none.

    served  tokens of inference to come: C = C_training + 2 N served is what is kept fixed, which
            favours smaller models trained longer.

    Source: Hoffmann et al. 2022, section 3.3 and eq. 4; Sardana et al. 2024 (arXiv 2401.00448), eq. 2
    """
    law = result.law
    if set(law.inputs) != {"N", "D"}:
        raise TableError(
            f"a frontier needs a law of N and D; {law.name} is a law of {', '.join(law.inputs)}. "
            "Fit chinchilla or kaplan_ND."
        )
    if isinstance(flops, str):
        per = per_token(counted(result.runs, "N", flops)) if flops != "C" else flops_6N
    else:
        per = flops
    runs = result.runs
    N = runs["N"].to_numpy(float)
    compute = per(N) * runs["D"].to_numpy(float) + 2 * N * served
    span = {"C": (float(compute.min()), float(compute.max()))}
    for name in ("N", "D"):
        span[name] = (float(runs[name].min()), float(runs[name].max()))
    C = np.geomspace(*span["C"], 9) if span["C"][1] > span["C"][0] else span["C"][0] * np.array(
        [0.5, 1.0, 2.0]
    )  # fmt: skip
    values = optimum_at(law, parameter_draws(result), C, per, served)
    if not np.isfinite(values["N"][0]).any():
        found = ", ".join(f"{p} = {v:.3g}" for p, v in result.params.items())
        raise FitError(
            f"{law.name} as fitted ({found}) has no optimum at any compute of the data: no size is "
            "best. Check the table, or fit another law."
        )
    x = np.log(C)
    centre = float(x.mean())
    lines = {name: straight_line(x - centre, np.log(values[name])) for name in ("N", "D", "L")}
    status: list[str] = [*result.warnings]
    status += lost_resamples(lines["N"], len(result.samples))
    inner = (values["N"][0] > span["N"][0] / 2) & (values["N"][0] < span["N"][1] * 2)  # not nan
    if not inner.all():
        status.append(
            f"at {np.sum(~inner)} of {len(C)} budgets within the data the optimum is a model more "
            "than twice outside the sizes trained"
        )
    optima = pd.DataFrame({"C": C} | {name: values[name][0] for name in ("N", "D", "L")})
    low, high = quantiles(values["N"][1:], level)
    optima = optima.assign(kind="law", N_low=low, N_high=high)
    return Frontier(
        "parametric",
        "N",
        in_words(flops),
        optima,
        span,
        tuple(status),
        lines,
        centre,
        result,
        level,
        per,
        served=served,
    )
