"""Laws of repeated data, vocabularies, experts, fine-tuning and tasks, against their sources."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from analysis import fit, laws, published
from analysis.laws.registry import LAWS
from scaling.errors import TableError

FINEWEB = published.brandfonbrener2024.fineweb
MOE = published.ludziejewski2025
REPEATED = {**published.besiroglu2024.params, "P": 0.05, "delta": 1.2, "kappa": 0.5}


def test_kaplan_with_a_floor_of_zero_is_kaplan_and_has_the_limits_of_power_laws():
    p = published.kaplan2020.L_ND.params
    N, D = np.geomspace(1e6, 1e12, 7), np.geomspace(1e12, 1e7, 7)
    same = laws.kaplan_floor(
        N, D, E=0.0, A=p["N_c"], B=p["D_c"], alpha=p["alpha_N"], beta=p["alpha_D"]
    )
    assert same == pytest.approx(laws.kaplan_ND(N, D, **p), rel=1e-12)
    q = FINEWEB.params
    ample_data, ample_size = FINEWEB.predict(N=1e9, D=1e40), FINEWEB.predict(N=1e40, D=1e10)
    assert ample_data == pytest.approx(q["E"] + (q["A"] / 1e9) ** q["alpha"])
    assert ample_size == pytest.approx(q["E"] + (q["B"] / 1e10) ** q["beta"])


@given(st.floats(15, 26), st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_the_optimal_size_of_kaplan_with_a_floor_is_the_minimum(log_C, alpha, beta):
    p, C = {**FINEWEB.params, "alpha": alpha, "beta": beta}, 10**log_C
    assert laws.kaplan_floor.optimum is not None
    N = float(laws.kaplan_floor.optimum(C, **p))

    def loss(log_N):
        return float(laws.kaplan_floor.predict(p, N=np.exp(log_N), D=C / 6 / np.exp(log_N)))

    found = minimize_scalar(loss, bounds=(np.log(N) - 8, np.log(N) + 8), method="bounded")
    assert loss(np.log(N)) <= found.fun + 1e-12  # pyright: ignore


def test_without_repetition_nothing_is_lost_and_with_it_another_epoch_can_raise_the_loss():
    base = published.besiroglu2024
    N, D = np.array([1e8, 1e9]), np.array([2e9, 3e10])
    fresh = laws.lovelace.predict(REPEATED, N=N, D=D, D_unique=D)
    assert fresh == pytest.approx(base.predict(N=N, D=D))
    less_than_an_epoch = laws.lovelace.predict(REPEATED, N=N, D=D, D_unique=100 * D)
    assert less_than_an_epoch == pytest.approx(fresh)
    epochs = np.arange(1, 200)
    loss = laws.lovelace.predict(REPEATED, N=1e9, D=1e9 * epochs, D_unique=1e9)
    best = int(loss.argmin())
    assert 0 < best < len(epochs) - 1
    assert (np.diff(loss[: best + 1]) < 0).all() and (np.diff(loss[best:]) > 0).all()
    decayed = published.muennighoff2023.predict(N=1e9, D=1e9 * epochs, D_unique=1e9)
    assert (np.diff(decayed) <= 0).all()  # the law whose repeated tokens only lose their worth


def test_the_penalty_of_overfitting_saturates_and_can_outweigh_the_worth_of_an_epoch():
    p = {**published.besiroglu2024.params, "R_D": 15.0, "P": 0.2, "kappa": 0.5}
    fresh = laws.overfitting.predict(p, N=1e9, D=3e10, D_unique=3e10)
    assert fresh == pytest.approx(published.besiroglu2024.predict(N=1e9, D=3e10))
    decayed = {**{k: p[k] for k in published.besiroglu2024.params}, "R_D": 15.0, "R_N": 1e12}
    at = {"N": 1e8, "D": np.array([2e9, 4e10, 1e12]), "D_unique": 1e9}
    without = laws.overfitting.predict({**p, "P": 0.0}, **at)
    assert without == pytest.approx(laws.muennighoff.predict(decayed, **at), rel=1e-6)
    epochs = np.geomspace(1, 1e4, 200)
    loss = laws.overfitting.predict(p, N=1e9, D=1e9 * epochs, D_unique=1e9)
    assert 0 < loss.argmin() < 199 and loss[-1] > loss.min() + 0.01
    limit = p["E"] + p["A"] * 1e9 ** -p["alpha"] + p["B"] * 16e9 ** -p["beta"] + 0.2
    assert loss[-1] == pytest.approx(limit, rel=1e-6)


def test_the_penalty_of_repetition_is_the_published_term():
    p = REPEATED
    at = {"N": 3e8, "D": 8e9, "D_unique": 1e9}
    penalty = laws.lovelace.predict(p, **at) - published.besiroglu2024.predict(N=3e8, D=8e9)
    assert penalty == pytest.approx(0.05 * 7**1.2 * 0.3**0.5, rel=1e-9)


def test_bryant_lies_between_its_floor_and_the_loss_of_ignorance():
    p = {"E": 1.7, "L_max": 10.8, "a": 60.0, "b": 250.0, "c": 0.05, "alpha": 0.35, "beta": 0.36,
         "gamma": 0.3, "delta": 0.35}  # fmt: skip
    N, D = np.geomspace(1, 1e14, 29)[:, None], np.geomspace(1, 1e16, 33)
    L = laws.bryant.predict(p, N=N, D=D, D_unique=D / 4)
    assert p["E"] <= L.min() and L.max() <= p["L_max"]
    assert laws.bryant.predict(p, N=1.0, D=1.0, D_unique=1.0) == pytest.approx(10.8, abs=0.1)
    rich, without = {"N": 1e12, "D": 1e14, "D_unique": 1e14}, {**p, "c": 0.0}
    A, B = 9.1 * p["a"], 9.1 * p["b"]
    chinchilla = laws.chinchilla(1e12, 1e14, E=1.7, A=A, B=B, alpha=0.35, beta=0.36)
    assert laws.bryant.predict(without, **rich) == pytest.approx(chinchilla, abs=1e-3)
    sizes = laws.bryant.predict(p, N=np.geomspace(1e6, 1e12, 13), D=1e12, D_unique=1e8)
    assert 0 < sizes.argmin() < 12  # too large a model for the data overfits


def test_rectified_is_a_floor_law_without_the_data_that_pre_training_is_worth():
    D = np.geomspace(1e2, 1e7, 6)
    without = laws.rectified(D, E=0.8, B=30.0, D_l=0.0, beta=0.3)
    assert without == pytest.approx(laws.floor_D(D, E=0.8, A=30.0, alpha=0.3))
    # The pre-power phase: flat where D^beta is far below D_l.
    early = laws.rectified(np.array([1.0, 10.0]), E=0.8, B=300.0, D_l=100.0, beta=0.3)
    assert early == pytest.approx(0.8 + 300 / 100, abs=0.1)


def test_the_vocabulary_law_is_the_published_one_in_its_units():
    # optimal_Nv_predict.py, approach 3: millions of parameters, billions of tokens.
    N_nv, N_v, D = 2.87e9, 35e3 * 3200, 70e9
    stated = (
        -5.5327846803337435
        + 1.8313851559554126 / (N_nv / 1e6) ** 0.44660634152009615
        + 0.19584238398665638 / (N_v / 1e6) ** 0.6707374679896795
        + 2.1241123120064955 / (D / 1e9) ** 0.44660634152009615
    )
    assert published.tao2024.predict(N_nv=N_nv, N_v=N_v, D=D) == pytest.approx(stated, rel=1e-12)


def test_a_loss_below_zero_is_fitted_on_its_own_scale():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {
            "N_nv": np.exp(rng.uniform(17, 21, 80)),
            "N_v": np.exp(rng.uniform(15, 19, 80)),
            "D": np.exp(rng.uniform(20, 25, 80)),
        }
    )
    runs["L_u"] = published.tao2024.predict(**{c: runs[c] for c in runs})
    assert (runs["L_u"] < 0).any()
    found = fit("vocabulary", runs, on="raw", bootstrap=0)
    assert found.params == pytest.approx(dict(published.tao2024.params), rel=1e-3)
    with pytest.raises(TableError, match="L_u"):
        fit("vocabulary", runs, bootstrap=0)


def test_one_expert_is_a_dense_model_and_more_experts_lower_the_loss():
    p = MOE.params
    dense = {"E": p["c"], "A": p["a"], "B": p["b"], "alpha": -p["alpha"], "beta": -p["beta"]}
    N, D = np.array([1e8, 1e9]), np.array([1e10, 2e10])
    expected = laws.chinchilla.predict(dense, N=N, D=D)
    assert MOE.predict(N=N, D=D, E=1.0) == pytest.approx(expected, rel=1e-6)
    by_experts = MOE.predict(N=1e9, D=2e10, E=np.array([1.0, 2, 4, 8, 16, 32]))
    assert (np.diff(by_experts) < 0).all()
    ln = np.log(8)
    stated = (
        35.91 / 8**0.2285 / 1e9 ** (0.1889 - 0.0098 * ln)
        + 35.98 * 8**0.5529 / 2e10 ** (0.1775 + 0.0259 * ln)
        + 1.3637
    )
    assert MOE.predict(N=1e9, D=2e10, E=8.0) == pytest.approx(stated, rel=1e-4)


def test_the_number_of_experts_saturates_as_in_the_law_of_routed_models():
    p = {**MOE.params, "E_start": 2.0, "E_max": 300.0}
    free = MOE.params
    one = laws.joint_experts.predict(p, N=1e9, D=2e10, E=1.0)
    assert one == pytest.approx(MOE.law.predict(free, N=1e9, D=2e10, E=2.0), rel=1e-5)
    many = laws.joint_experts.predict(p, N=1e9, D=2e10, E=1e12)
    assert many == pytest.approx(MOE.law.predict(free, N=1e9, D=2e10, E=300.0), rel=1e-3)


def test_loss_to_loss_joins_two_laws_of_the_same_shape():
    # Losses E_i + A_i x^-a_i of the same x: kappa = a_1 / a_0 and K = A_1 / A_0^kappa.
    x = np.geomspace(1e3, 1e9, 20)
    L_0, L_1 = 2.1 + 40 * x**-0.2, 0.9 + 70 * x**-0.24
    p = {"K": 70 / 40**1.2, "kappa": 1.2, "E_0": 2.1, "E_1": 0.9}
    assert laws.loss_to_loss.predict(p, L_0=L_0) == pytest.approx(L_1, rel=1e-9)


def test_accuracy_runs_from_the_ceiling_to_guessing_and_is_halfway_at_l_half():
    p = {"floor": 0.25, "ceiling": 0.95, "k": 3.0, "L_half": 2.5}
    L = np.array([-20.0, 2.5, 40.0])
    assert laws.accuracy_of_loss.predict(p, L=L) == pytest.approx([0.95, 0.6, 0.25])
    slope = np.diff(laws.accuracy_of_loss.predict(p, L=np.array([2.5, 2.5001]))) / 1e-4
    assert slope == pytest.approx(-3.0 * 0.7 / 4, rel=1e-3)


def test_the_logarithm_of_accuracy_is_a_power_law_of_compute():
    C = np.geomspace(1e18, 1e24, 7)
    Q = laws.accuracy_C(C, A=900.0, alpha=0.16)
    assert np.diff(np.log(-np.log(Q))) == pytest.approx(np.full(6, -0.16 * np.log(10)))
    N, D = np.geomspace(1e8, 1e11, 4), np.geomspace(1e10, 1e13, 4)
    both = laws.accuracy_ND(N, D, A=25.0, B=250.0, alpha=0.22, beta=0.28)
    assert -np.log(both) == pytest.approx(25 * N**-0.22 + 250 * D**-0.28)


def test_every_law_of_every_module_is_in_the_registry_once():
    assert len({id(each) for each in LAWS.values()}) == len(LAWS) == len(laws.LAWS)
    new = {"kaplan_floor", "lovelace", "overfitting", "bryant", "rectified", "vocabulary",
           "loss_to_loss", "joint_experts", "accuracy_of_loss", "accuracy_C",
           "accuracy_ND"}  # fmt: skip
    assert new <= set(LAWS)
