"""Relate the losses of two sets of runs of the same sizes: :func:`relate_losses`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.arguments import expect
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.laws import Law, kaplan_floor, loss_to_loss, resolve
from scaling.errors import TableError
from scaling.jsonable import finite
from scaling.table import missing_column

_HUBER = 1e-3
"""Threshold of the fits that give the floors, on logarithms, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class LossRelation:
    """The result of :func:`relate_losses`: L = K (L_0 - E_0)^kappa + E_1."""

    K: float
    kappa: float
    E_0: float
    """Irreducible loss of the first set of runs."""
    E_1: float
    """Irreducible loss of the second."""
    n: int
    """Number of pairs of runs."""
    left_out: int
    """Number of pairs at or below one of the floors, which have no logarithm of their excess."""
    error: float
    """Root mean square relative error of L over the pairs."""
    excess: FitResult = field(repr=False)
    """The fit of log(L - E_1) to log(L_0 - E_0) by least squares; its intervals hold the floors."""
    first: FitResult | None = field(repr=False)
    """The fit that gave E_0; None if the floors were given."""
    second: FitResult | None = field(repr=False)
    """The fit that gave E_1; None if the floors were given."""

    @property
    def params(self) -> dict[str, float]:
        """The parameters of :data:`analysis.laws.loss_to_loss`."""
        return {"K": self.K, "kappa": self.kappa, "E_0": self.E_0, "E_1": self.E_1}

    def predict(self, L_0: Any) -> np.ndarray:
        """Return the loss in the second set for losses `L_0` in the first; nan below E_0."""
        L_0 = np.asarray(L_0, float)
        return np.where(L_0 >= self.E_0, loss_to_loss.predict(self.params, L_0=L_0), np.nan)

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return finite({**self.params, "n": self.n, "left_out": self.left_out, "error": self.error})

    def __str__(self) -> str:
        rest = f", {self.left_out} more at or below a floor left out" if self.left_out else ""
        return (
            f"L = {self.K:.4g} (L_0 - {self.E_0:.4g})^{self.kappa:.4g} + {self.E_1:.4g}\n"
            f"{self.n} pairs of runs{rest}; error {self.error:.2%}"
        )


def relate_losses(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    on: Sequence[str] = ("N", "D"),
    floors: tuple[float, float] | None = None,
    law: Law | str = kaplan_floor,
    bootstrap: int = 1000,
    seed: int = 0,
) -> LossRelation:
    """Fit the loss of the `second` runs to the loss of the `first` runs of the same size and data.

    first, second: tables of runs with the columns N, D and L. The two sets may be models trained on
        two data sets, or the same models evaluated on two texts.
    on: the columns that pair the runs. Runs of one table that share them count with their mean.
    floors: the irreducible losses (E_0, E_1). None takes them from fits of `law` to each table, by
        Huber's function with threshold 1e-3 of the logarithms.
    law: a law of N and D with a parameter E.
    bootstrap: number of draws for the intervals of K and kappa; they hold the floors.
    seed: seeds starts and draws.

    K and kappa are the least-squares line of log(L - E_1) over log(L_0 - E_0), as in Brandfonbrener
    et al. 2024 (arXiv 2411.12925).

    Raises TableError if a column is missing or too few runs pair up.
    """
    law = resolve(law)
    for name, table in (("first", first), ("second", second)):
        expect("relate_losses(first, second)", name, table, pd.DataFrame)
        needed = {*on, "L", *(law.inputs if floors is None else ())}
        for column in sorted(needed - set(table.columns)):
            raise TableError(f"the {name} table: {missing_column(column, table)}")
    if floors is None and "E" not in law.params:
        raise TableError(f"the law {law.name} has no parameter E, the floor of a loss: give floors")
    fits = [
        None
        if floors is not None
        else fit(law, table, objective="huber", delta=_HUBER, bootstrap=0, cluster=None, seed=seed)
        for table in (first, second)
    ]
    E_0, E_1 = floors if floors is not None else (each.params["E"] for each in fits if each)
    pairs = _pairs(first, second, list(on))
    above = (pairs["L_0"] > E_0) & (pairs["L"] > E_1)
    kept = pairs[above]
    if len(kept) < 3:
        raise TableError(
            f"{len(kept)} pairs of runs lie above both floors (E_0 = {E_0:.4g}, E_1 = {E_1:.4g}), "
            f"of {len(pairs)} that share {' and '.join(on)}; K and kappa need 3."
        )
    excess = fit(
        loss_to_loss,
        pd.DataFrame({"L_0": kept["L_0"] - E_0, "L": kept["L"] - E_1}),
        objective="ls",
        fixed={"E_0": 0.0, "E_1": 0.0},
        bootstrap=bootstrap,
        cluster=None,
        seed=seed,
    )
    params = {**excess.params, "E_0": E_0, "E_1": E_1}
    off = loss_to_loss.predict(params, L_0=kept["L_0"]) / kept["L"] - 1
    return LossRelation(
        K=params["K"],
        kappa=params["kappa"],
        E_0=E_0,
        E_1=E_1,
        n=len(kept),
        left_out=int((~above).sum()),
        error=float(np.sqrt(np.mean(off**2))),
        excess=excess,
        first=fits[0],
        second=fits[1],
    )


def _pairs(first: pd.DataFrame, second: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Return L_0 and L of the runs that agree in the columns `on`."""
    means = [
        table[[*on, "L"]].dropna().groupby(on, as_index=False)["L"].mean()
        for table in (first, second)
    ]
    return means[0].rename(columns={"L": "L_0"}).merge(means[1], on=on)
