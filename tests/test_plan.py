import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import fit, frontier, laws, load, plan
from analysis.planning.model_shape import suggest_model
from scaling.config import ModelConfig
from scaling.errors import ConfigError
from scaling.size import parameters


@pytest.fixture
def fitted(sweep):
    return fit(laws.chinchilla, sweep()[0], bootstrap=200)


def test_a_plan_is_the_optimum_of_its_law(fitted):
    got = plan(fitted, C=1e14)
    assert got.C.value == 1e14 == got.C.low == got.C.high
    assert 6 * got.N.value * got.D.value == pytest.approx(1e14)
    assert got.L.value == pytest.approx(float(fitted.predict(N=got.N.value, D=got.D.value)))
    for factor in (0.8, 1.25):
        N = got.N.value * factor
        assert float(fitted.predict(N=N, D=1e14 / (6 * N))) > got.L.value
    for q in (got.N, got.D, got.L, got.tokens_per_parameter):
        assert q.low < q.value < q.high
    assert got.tokens_per_parameter.value == pytest.approx(got.D.value / got.N.value)


@pytest.mark.parametrize("asked", ["N", "D", "L"])
def test_every_kind_of_request_leads_to_the_same_run(fitted, asked):
    first = plan(fitted, C=3e14)
    again = plan(fitted, **{asked: getattr(first, asked).value})
    assert again.C.value == pytest.approx(3e14, rel=1e-5)
    assert again.C.low < again.C.value < again.C.high
    assert again.N.value == pytest.approx(first.N.value, rel=1e-5)
    q = getattr(again, asked)
    assert q.low == q.value == q.high
    assert "asked for" in str(again)


def test_intervals_of_the_inverse_are_those_of_the_forward_frontier(fitted):
    """P(C_opt(N) < c) = P(N_opt(c) > N), because N_opt grows with C."""
    got = plan(fitted, N=1e6, level=0.8)
    at = frontier(fitted, level=0.8).at(C=[got.C.low, got.C.high])
    assert at["N_high"][0] == pytest.approx(1e6, rel=0.01)
    assert at["N_low"][1] == pytest.approx(1e6, rel=0.01)


def test_the_price_of_another_size(fitted):
    """Hoffmann et al.'s form: the compute for the same loss at k N_opt (Kaplan et al., Fig. 12)."""
    got = plan(fitted, C=1e14)
    p = fitted.params
    for d in got.deviations:
        N = d.factor * got.N.value
        room = got.L.value - p["E"] - p["A"] * N ** -p["alpha"]
        D = (p["B"] / room) ** (1 / p["beta"])
        assert pytest.approx(D, rel=1e-6) == d.D
        assert d.compute.value == pytest.approx(6 * N * D / 1e14, rel=1e-6)
        assert d.compute.value > 1
    far = plan(fit(laws.chinchilla, fitted.runs, bootstrap=20), C=1e14)
    assert "price of another size" in str(far)


def test_a_size_too_small_for_the_loss_has_no_price(sweep):
    runs, _ = sweep()
    runs["L"] = 2.0 + 3000 * runs["N"] ** -1.0 + 300 * runs["D"] ** -0.5
    fitted = fit(laws.chinchilla, runs, bootstrap=20)
    quarter = plan(fitted, C=1e17).deviations[0]
    assert math.isinf(quarter.compute.value) and math.isinf(quarter.D)
    text = str(plan(fitted, C=1e17))
    assert "0.25 x N  no amount of data reaches this loss" in text
    json.dumps(plan(fitted, C=1e17).record(), allow_nan=False)


def test_extrapolation_is_reported_by_its_distance(fitted):
    C = fitted.runs["C"].max()
    inside, near, far, out = (plan(fitted, C=C * f) for f in (0.1, 4, 50, 1e6))
    assert inside.beyond["C"] == 1 and not any("xtrapol" in line for line in inside.status)
    assert near.status[0].startswith("extrapolates: C 4x")
    assert far.status[0].startswith("EXTRAPOLATION: C 50x")
    assert "lower bound on the uncertainty" in out.status[0]
    below = plan(fitted, C=fitted.runs["C"].min() / 100)
    assert below.beyond["C"] == pytest.approx(100) and "xtrapol" in below.status[0].lower()
    assert out.L.high - out.L.low > inside.L.high - inside.L.low


def test_plans_follow_from_any_law_and_any_frontier(sweep):
    runs, curves = sweep()
    curves = load(curves.merge(runs[["run_id", "N"]], on="run_id"), curves=True)
    by_law = plan(fit(laws.kaplan_ND, runs, bootstrap=50), C=1e13)
    by_envelope = plan(frontier(curves, bootstrap=50), C=1e13)
    by_table = plan(runs, C=1e13)
    assert by_envelope.deviations == () and len(by_law.deviations) == 4
    assert by_envelope.N.value == pytest.approx(by_table.N.value, rel=0.3)
    assert "envelope frontier, power laws" in by_envelope.source
    assert "kaplan_ND" in by_law.source
    backwards = plan(frontier(curves, bootstrap=50), L=by_envelope.L.value)
    assert backwards.C.value == pytest.approx(1e13, rel=1e-6)


def test_text_and_record_hold_the_plan(fitted):
    text = str(plan(fitted, C=1e14))
    first, *rest = text.splitlines()
    assert first.startswith("train ") and "tokens (1e+14 FLOPs): loss " in first
    assert "PF-days" in text and "n_layer=" in text and "95% intervals" in text
    assert all(len(line) <= 200 for line in rest)
    record = plan(fitted, C=1e14).record()
    assert set(record) >= {"C", "N", "D", "L", "shape", "deviations", "beyond", "status", "source"}
    json.dumps(record, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.floats(np.log(1e4), np.log(5e11)))
def test_shapes_are_close_and_of_usual_proportions(log_N):
    N = math.exp(log_N)
    model = suggest_model(N)
    assert model is not None and model.d_model % model.n_head == 0
    assert abs(parameters(model, 0).N / N - 1) < (0.2 if N < 1e7 else 0.06)
    assert 3 <= model.d_model / model.n_layer <= 300


def test_shapes_follow_the_count_and_the_model_given():
    model = suggest_model(1e6, count="N_total", vocab_size=1024, model=ModelConfig(n_ctx=256))
    assert model is not None and model.n_ctx == 256
    assert parameters(model, 1024).N_total == pytest.approx(1e6, rel=0.1)
    assert suggest_model(1e6, count="N_total") is None
    assert suggest_model(1e6, count="N_active") is None
    huge = suggest_model(1e14)
    assert huge is not None and pytest.approx(1e14, rel=0.01) == parameters(huge, 0).N
    wide = suggest_model(1e6, model=ModelConfig(d_model=64, d_ff=512))
    assert wide is not None and wide.ff_width == 8 * wide.d_model


def test_the_shape_spends_the_budget(fitted):
    got = plan(fitted, C=1e14)
    assert got.shape is not None
    assert abs(6 * got.shape.N * got.shape.D / 1e14 - 1) < 1e-12
    assert got.shape.N == parameters(got.shape.model, 0).N


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "exactly one of C, N, D and L; got none"),
        ({"C": 1e12, "N": 1e6}, "got C, N"),
        ({"C": -1.0}, "C=-1.0 must be positive"),
        ({"N": math.nan}, "N=nan must be positive"),
        ({"L": 1.0}, "L=1 nats/token is out of reach.*tends to 1.9"),
    ],
)
def test_impossible_requests_are_rejected(fitted, asked, message):
    with pytest.raises(ConfigError, match=message):
        plan(fitted, **asked)


def test_a_comparison_of_frontiers_is_rejected(sweep):
    with pytest.raises(ConfigError, match="one frontier"):
        plan(frontier(sweep()[0], method="all", bootstrap=10), C=1e12)


def test_a_fit_without_resamples_gives_a_plan_without_intervals(sweep):
    got = plan(fit(laws.chinchilla, sweep()[0], bootstrap=0), C=1e13)
    assert got.N.value > 0 and math.isnan(got.N.low)
    assert pd.isna(got.L.low)
    json.dumps(got.record(), allow_nan=False)


def test_a_price_that_is_infinite_in_some_draws_has_no_upper_end(fitted):
    """If alpha is large, half the size never reaches the loss."""
    fitted.samples.loc[fitted.samples.index[:20], ["A", "alpha"]] = 2e10, 2.0
    got = plan(fitted, C=1e14)
    assert math.isinf(got.deviations[0].compute.high)
    assert "unreachable]" in str(got)
    assert got.record()["deviations"][0]["compute"]["high"] is None


def test_a_plan_from_unidentified_parameters_begins_with_a_warning(sweep):
    runs, _ = sweep()
    fine = plan(fit(laws.chinchilla, runs, bootstrap=50), C=1e14)
    assert fine.doubts == () and "NOT RELIABLE" not in fine.headline
    assert fine.record()["reliable"]
    one = runs[runs["N"] == runs["N"].max()]
    few = pd.concat([one, runs[runs["N"] == runs["N"].min()]])  # two sizes: no exponent of N
    doubtful = plan(fit(laws.chinchilla, few, bootstrap=50), C=1e14)
    assert doubtful.headline.startswith("NOT RELIABLE: ")
    assert "not identified: " in doubtful.headline.split(" - ")[0]
    assert not doubtful.record()["reliable"]
