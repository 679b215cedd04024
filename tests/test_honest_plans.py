"""Plans say when they are not to be relied on, and print no number without sense."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_sweep
from test_thin_frontiers import NONSENSE, nine_runs

from analysis import fit, laws, plan
from analysis.fitting.status import Status
from analysis.planning.plans import Plans
from analysis.planning.price import Deviation, deviation_line, deviation_record
from analysis.planning.quantity import Quantity, quantity_of
from analysis.planning.shape_family import family_of
from scaling.config import ModelConfig


@pytest.fixture(scope="module")
def runs():
    return make_sweep()[0]


@pytest.fixture(scope="module")
def fitted(runs):
    return fit(laws.chinchilla, runs, bootstrap=100)


def codes(lines):
    return [line.code for line in lines]


# ------------------------------------------------------------------ distance


def test_a_plan_far_beyond_the_data_is_headed_not_reliable(fitted):
    largest = fitted.runs["C"].max()
    far = plan(fitted, C=6.8e6 * largest)
    assert far.headline.startswith("NOT RELIABLE: 6.8 million times the compute of the largest run")
    assert str(far).splitlines()[0] == far.headline
    record = far.record()
    assert record["reliable"] is False
    assert record["doubts"][0]["code"] == "unreliable_extrapolation"
    assert record["extrapolation"]["band"] == "unreliable"
    assert "ten times the compute (not reliable)" in str(far)
    assert "at the same loss (not reliable)" in str(far)


def test_the_band_of_a_plan_depends_on_what_the_data_span_and_what_was_tested(fitted):
    largest, smallest = fitted.runs["C"].max(), fitted.runs["C"].min()
    at = {f: plan(fitted, C=f * largest).extrapolation for f in (0.5, 3.0, 400.0, 3000.0)}
    assert at[0.5].band == "inside" and at[3.0].band == "tested"
    assert at[3.0].tested is not None and 3 < at[3.0].tested < largest / smallest
    assert at[400.0].band == "untested" and at[3000.0].band == "unreliable"
    assert at[3000.0].limits["C"] == 1000.0  # the data span more
    assert "doubts" in plan(fitted, C=3 * largest).record()
    below = plan(fitted, C=smallest / 5e3)
    assert "the compute is 5,000 times less than that of the smallest run" in below.headline


def test_data_of_one_decade_allow_one_decade():
    runs, _ = make_sweep(sizes=(1e5, 2e5, 4e5), tokens=(1e7, 2e7, 4e7), noise=1e-4)
    fitted = fit(laws.chinchilla, runs, bootstrap=50)
    largest = runs["C"].max()
    limits = plan(fitted, C=largest).extrapolation.limits
    assert limits["C"] == pytest.approx(runs["C"].max() / runs["C"].min(), rel=0.01)
    assert limits["N"] == limits["D"] == 10.0
    assert "unreliable_extrapolation" in codes(plan(fitted, C=30 * largest).doubts)
    assert "unreliable_extrapolation" not in codes(plan(fitted, C=3 * largest).doubts)


def test_all_warnings_of_a_plan_have_codes(fitted):
    lines = plan(fitted, C=50 * fitted.runs["C"].max(), unique=1e6).status
    assert all(isinstance(line, Status) for line in lines)
    assert {"repeated_data", "far_extrapolation"} <= set(codes(lines))


# ------------------------------------------------------------------ intervals


@pytest.mark.parametrize(
    ("name", "quantity", "code"),
    [
        ("N", Quantity(1e5, math.inf, math.inf), "wide_interval"),
        ("N", Quantity(1e5, 1e3, math.inf), "wide_interval"),
        ("N", Quantity(1e5, 1e3, 1e6), "wide_interval"),
        ("D", Quantity(1e7, 0.0, 1e8), "wide_interval"),
        ("L", Quantity(2.0, 1e-5, 3e5), "wide_interval"),
        ("L", Quantity(2.0, math.nan, math.nan), "no_interval"),
    ],
)
def test_an_interval_that_is_missing_or_absurd_is_a_doubt(fitted, name, quantity, code):
    sound = plan(fitted, C=1e14)
    assert sound.doubts == ()
    doubtful = replace(sound, **{name: quantity})
    assert codes(doubtful.doubts) == [code]
    assert "NOT RELIABLE" in doubtful.headline and not doubtful.record()["reliable"]
    assert not NONSENSE.search(str(doubtful)), str(doubtful)
    json.dumps(doubtful.record(), allow_nan=False)


def test_a_quantity_counts_unknown_draws_on_both_sides_and_holds_its_estimate():
    values = np.array([1.0, *np.linspace(0.5, 2, 96), *[math.nan] * 4])
    assert quantity_of(values, 0.95) == Quantity(1.0, 0.0, math.inf)
    low = quantity_of(np.array([1.0, *np.linspace(2, 4, 99)]), 0.9)
    assert low.low <= 1.0 <= low.high
    record = Quantity(1.0, 0.0, math.inf).record()
    assert record == {"value": 1.0, "low": None, "high": None, "reason": "not identified"}
    assert Quantity(1.0, 0.5, math.inf).record()["reason"] == "not bounded above"
    assert "reason" not in Quantity(1.0, 0.5, 2.0).record()


# ------------------------------------------------------------------ prices


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (Quantity(1.2, 1.1, 1.4), "+20.0% compute [+10.0%, +40.0%]"),
        (Quantity(6.2e11, 0.3, 1e13), "more than 100x compute [-70.0%, more than 100x]"),
        (Quantity(33.5, 0.5, math.inf), "33.5x compute [-50.0%, unreachable]"),
        (Quantity(1.2, 1e-6, 1e6), "+20.0% compute [not identified]"),
        (Quantity(1.2, math.nan, math.nan), "+20.0% compute [no interval]"),
        (Quantity(math.nan, 1.0, 1.0), "not known"),
        (Quantity(math.inf, 1.0, math.inf), "no amount of data reaches this loss"),
    ],
)
def test_a_price_is_a_percentage_a_factor_or_words(compute, words):
    d = Deviation(0.25, compute, 1e12)
    assert words in deviation_line(d)
    record = deviation_record(d)["compute"]
    known = all(1e-2 <= x <= 100 for x in compute)
    assert ("reason" in record) is not known
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("seed", range(3))
def test_no_number_without_sense_is_printed_from_nine_noisy_runs(seed):
    for noise, C in ((0.02, 1e16), (0.05, 1e21)):
        fitted = fit(laws.chinchilla, nine_runs(noise, seed), bootstrap=100)
        try:
            made = plan(fitted, C=C)
        except ValueError as error:  # no optimum, or nothing to train
            assert len(str(error)) > 10
            continue
        assert not NONSENSE.search(str(made)), str(made)
        json.dumps(made.record(), allow_nan=False)


# ------------------------------------------------------------------ shapes and recipes


def with_shapes(runs, n_layer):
    """Add the shape of a decoder of about N parameters."""
    layers = np.broadcast_to(n_layer, len(runs)).astype(int)
    width = 2 * np.maximum(1, np.sqrt(runs["N"] / (12 * layers)) / 2).round().astype(int)
    heads = np.maximum(1, width // 16)
    return runs.assign(n_layer=layers, d_model=width, n_head=heads, lr_peak=1e-3)


def test_a_depth_that_no_run_had_is_marked_and_an_alternative_given(runs):
    fitted = fit(laws.chinchilla, with_shapes(runs, 2), bootstrap=50)
    made = plan(fitted, C=1e14)
    assert made.shape is not None and made.family_shape is not None
    assert made.shape.model.n_layer > 2 and made.family_shape.model.n_layer == 2
    assert "all runs have 2 layers; deeper is untested" in made.shape.outside
    assert abs(made.family_shape.N / made.N.value - 1) < 0.05
    assert "all runs have 2 layers; deeper is untested" in str(made)
    assert "in the proportions of the runs" in str(made)
    record = made.record()
    assert record["shape"]["in_family"] is False
    assert record["family_shape"]["n_layer"] == 2
    assert "shape_untested" in codes(made.status)
    far = plan(fitted, C=1e17).family_shape
    assert far is not None and any("d_model / n_layer" in line for line in far.outside)


def test_a_shape_among_those_of_the_runs_is_not_marked(runs):
    depths = np.where(runs["N"] > 1e5, 6, np.where(runs["N"] > 1e4, 4, 2))
    made = plan(fit(laws.chinchilla, with_shapes(runs, depths), bootstrap=50), C=1e13)
    assert made.shape is not None and made.shape.outside == () and made.family_shape is None
    bare = plan(fit(laws.chinchilla, runs[["N", "D", "C", "L"]], bootstrap=50), C=1e13)
    assert bare.shape is not None and bare.shape.outside == ()


def test_every_proportion_has_its_range():
    table = pd.DataFrame(
        {"n_layer": [2, 4], "d_model": [64, 128], "n_head": [4, 8], "d_ff": [256, 512]}
    )
    family = family_of(table)
    assert family is not None
    assert family.outside(ModelConfig(n_layer=3, d_model=96, n_head=6)) == {}
    wide = ModelConfig(n_layer=4, d_model=1024, n_head=8, d_ff=8192)
    assert set(family.outside(wide)) == {"d_model", "aspect", "head", "ff_ratio"}
    assert "d_ff / d_model = 8 (runs: 4)" in list(family.sentences(wide))
    assert family_of(table[["n_head"]]) is None
    assert family_of(table.assign(n_layer=np.nan)) is None


def test_a_batch_size_and_a_rate_beyond_those_of_the_runs_are_marked(runs):
    fitted = fit(laws.chinchilla, with_shapes(runs, 2).assign(B=512), bootstrap=50)
    made = plan(fitted, C=1e14)
    assert made.recipe.beyond["B"] == pytest.approx(made.recipe.B / 512)
    assert "x beyond the runs)" in str(made)
    assert set(made.record()["recipe"]["beyond"]) == {"B", "lr"}


# ------------------------------------------------------------------ several laws


def test_laws_that_the_data_cannot_tell_apart_and_disagree_are_a_doubt(fitted):
    one = plan(fitted, C=1e14)
    other = replace(one, N=Quantity(*(7 * x for x in one.N)))

    def both(error):
        held = {"chinchilla": 0.01, "bottleneck": error}
        made = {"chinchilla": one, "bottleneck": other}
        return Plans(plans=made, skipped={}, held_out=held)

    assert codes(both(0.012).doubts) == ["laws_disagree"]
    assert "differ by a factor of 7 in N" in both(0.012).headline
    assert str(both(0.012)).startswith("NOT RELIABLE: ")
    assert both(0.012).record()["reliable"] is False
    assert both(0.05).doubts == () and both(math.nan).doubts == ()
    assert both(0.05).record()["reliable"] is True
