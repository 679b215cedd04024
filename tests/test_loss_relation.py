"""The loss on one data set from that on another: exact laws, the published pair, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import published as papers
from analysis import relate_losses
from scaling.errors import TableError

FIRST = {"E": 2.1, "A": 6e7, "B": 9e8, "alpha": 0.4, "beta": 0.45}
SECOND = {"E": 0.85, "A": 6e7, "B": 9e8, "alpha": 0.44, "beta": 0.495}
"""The same shape with exponents 1.1 times as large: K = 1 and kappa = 1.1."""


def runs_of(params, n=40, noise=0.0, seed=0):
    rng = np.random.default_rng(1)
    N, D = np.exp(rng.uniform(16, 21, n)), np.exp(rng.uniform(19, 24, n))
    L = papers.brandfonbrener2024.fineweb.law.predict(params, N=N, D=D)
    L = L * np.exp(noise * np.random.default_rng(seed).standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "L": L})


def test_exact_laws_of_one_shape_give_their_exponents_ratio():
    found = relate_losses(runs_of(FIRST), runs_of(SECOND))
    assert found.params == pytest.approx({"K": 1, "kappa": 1.1, "E_0": 2.1, "E_1": 0.85}, rel=1e-4)
    assert found.error < 1e-5 and found.n == 40
    unseen = runs_of(FIRST, n=60).tail(20), runs_of(SECOND, n=60).tail(20)
    assert found.predict(unseen[0]["L"]) == pytest.approx(unseen[1]["L"], rel=1e-4)
    assert np.isnan(found.predict(1.0)) and "40 pairs of runs" in str(found)


def test_intervals_of_the_exponent_cover_it():
    noisy = relate_losses(
        runs_of(FIRST, noise=0.001), runs_of(SECOND, noise=0.001, seed=1), floors=(2.1, 0.85)
    )
    interval = noisy.excess.interval(0.999)
    assert interval.loc["kappa", "low"] <= 1.1 <= interval.loc["kappa", "high"]
    assert interval.loc["K", "low"] <= 1.0 <= interval.loc["K", "high"]


def test_runs_pair_by_size_and_data_and_those_below_a_floor_are_counted():
    first, second = runs_of(FIRST), runs_of(SECOND)
    repeated = pd.concat([first, first.head(5)])
    found = relate_losses(repeated.sample(frac=1, random_state=0), second.tail(30))
    assert found.n == 30
    held = relate_losses(first, second, floors=(2.5, 0.85))
    assert held.left_out == int((first["L"] <= 2.5).sum()) > 0
    assert held.first is None and held.n + held.left_out == 40


def test_bad_input_is_named():
    first, second = runs_of(FIRST), runs_of(SECOND)
    with pytest.raises(TableError, match="0 pairs of runs"):
        relate_losses(first, second.assign(N=second["N"] * 2))
    with pytest.raises(TableError, match=r"the second table: .*'L'"):
        relate_losses(first, second.rename(columns={"L": "loss_on_code"}))
    with pytest.raises(TableError, match="kaplan_ND has no parameter E"):
        relate_losses(first, second, law="kaplan_ND")


@pytest.fixture
def three_sets(published) -> pd.DataFrame:
    table = pd.read_csv(published / "loss_to_loss2024" / "sweep_3sets.csv")
    return table.assign(N=table["params"].astype(float), D=table["tokens"], L=table["val_loss"])


def test_the_published_relation_of_fineweb_and_starcoder(three_sets):
    by_data = dict(list(three_sets.groupby("data")))
    found = relate_losses(by_data["fineweb-100b"], by_data["starcoder"], bootstrap=100)
    assert found.kappa == pytest.approx(1.09041, abs=0.005)
    assert pytest.approx(0.62303, abs=0.005) == found.K
    for name, each in (("fineweb", found.first), ("starcoder", found.second)):
        stated = getattr(papers.brandfonbrener2024, name).params
        assert each.params == pytest.approx(stated, rel=1e-4)
