"""The GPT-3 models and compute law, from the counts and constants of this package."""

import numpy as np
import pytest
from scipy.optimize import brentq

from analysis.planning.model_shape import suggest_model
from analysis.published import brown2020, kaplan2020
from scaling.config import ModelConfig
from scaling.size import flops_per_token, parameters
from scaling.units import PF_DAY


def test_the_eight_models():
    """Brown et al. 2020, Tables 2.1 and D.1: parameters (embeddings counted) and PF-days at 6 FLOPs
    per parameter and token."""
    assert len(brown2020.models) == 8
    for row in brown2020.models.itertuples():
        model = ModelConfig(
            n_layer=row.n_layer, d_model=row.d_model, n_head=row.n_head, n_ctx=2048, tied=True
        )
        count = parameters(model, 50257)
        assert count.N_total == pytest.approx(row.N_total, rel=0.006), row.name
        assert 6 * row.N_total * row.D / PF_DAY == pytest.approx(row.PF_days, rel=0.005)
        assert 6 * count.N_total * row.D / PF_DAY == pytest.approx(row.PF_days, rel=0.008)
        # The exact count of matrix products exceeds 6 N D, by up to half for small models.
        exact = flops_per_token(model, 50257, "matmul") * row.D / PF_DAY
        assert 1.0 < exact / row.PF_days < (1.6 if row.N_total < 1e9 else 1.2)


def test_the_compute_law():
    """Fig. 3.1: L = 2.57 C^-0.048 with C in PF-days, close to Kaplan et al. over GPT-3's range."""
    C = brown2020.models["PF_days"].to_numpy() * PF_DAY
    L = brown2020.L_C.predict(C=C)
    assert pytest.approx(2.57 * (C / PF_DAY) ** -0.048, rel=1e-9) == L
    slope, intercept = np.polyfit(np.log(C / PF_DAY), np.log(L), 1)
    assert (slope, np.exp(intercept)) == pytest.approx((-0.048, 2.57), rel=1e-6)
    assert np.abs(L / kaplan2020.L_C_min.predict(C=C) - 1).max() < 0.04


def test_suggested_shapes_are_close_to_gpt3():
    """Given the non-embedding size alone: depth within a half, width within a third."""
    for row in brown2020.models.itertuples():
        model = suggest_model(12 * row.n_layer * row.d_model**2)
        assert model is not None
        assert model.n_layer == pytest.approx(row.n_layer, rel=0.5)
        assert model.d_model == pytest.approx(row.d_model, rel=0.34)


def test_where_the_laws_of_compute_and_of_data_meet():
    """Kaplan et al. 2020, section 6.3: with D(C_min) = 4e10 (C_min / PF-day)^0.26 tokens (eq. 6.7),
    L(C_min) crosses L(D) near 1e4 PF-days, where L is near 1.7 - "uncertain by an order of
    magnitude in either direction". Its rounded constants give 1e5."""

    def off(log_C):
        C = np.exp(log_C)
        D = 4e10 * (C / PF_DAY) ** 0.26
        return float(kaplan2020.L_C_min.predict(C=C) - kaplan2020.L_D.predict(D=D))

    assert off(np.log(1e2 * PF_DAY)) > 0 > off(np.log(1e8 * PF_DAY))
    C = np.exp(brentq(off, np.log(1e2 * PF_DAY), np.log(1e8 * PF_DAY)))
    assert np.log10(C / PF_DAY) == pytest.approx(4, abs=1.1)
    assert float(kaplan2020.L_C_min.predict(C=C)) == pytest.approx(1.6, abs=0.15)
