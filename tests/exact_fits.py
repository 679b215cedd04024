"""Fits that leave no doubt: a law with every parameter held at a given value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import FitResult, Law
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.status import CONVERGED, Certificate


def exact_fit(law: Law, params: Mapping[str, float], columns: pd.DataFrame) -> FitResult:
    """A result with these parameters and no uncertainty; its runs lie on the law at `columns`."""
    inputs = {name: columns[name].to_numpy(float) for name in law.inputs}
    runs = columns.assign(**{law.target: law.predict(params, **inputs)})
    n = len(runs)
    target = runs[law.target].to_numpy(float)
    problem = Problem(
        law=law, columns=inputs, target=target, weights=np.ones(n), groups=np.arange(n),
        fixed=dict(params), on="log",
    )  # fmt: skip
    nothing = np.zeros((0, 1))
    minimum = Minimum(
        theta=nothing, objective=0.0, delta=np.inf, basins=nothing, objectives=np.zeros(1),
        pool=nothing, starts=1, share=1.0, converged=True,
    )  # fmt: skip
    certificate = Certificate(
        rows=n, groups=n, delta=None, starts=1, share=1.0, reached=1, gap=None, gradient=0.0,
        condition=1.0, at_bound=(), wrong_sign=(), not_identified=(), undetermined=(),
        correlated=(), intervals="bootstrap", freedom=1,
    )  # fmt: skip
    return FitResult(
        law=law, params=dict(params), stderr=dict.fromkeys(params, 0.0),
        samples=pd.DataFrame([dict(params)] * 3), runs=runs, objective=0.0, loss="none",
        status=(CONVERGED,), certificate=certificate, problem=problem, minimum=minimum,
    )  # fmt: skip
