"""A fit's text begins with the law inside its data; constants that are open alarm nobody unless a
prediction depends on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import fit, laws
from analysis.fitting.reference import matters, open_constants, reference, uncertainty
from analysis.validation.verdict import objections_to


def kaplan_runs(noise: float, n: int = 60, span: float = 3.0) -> pd.DataFrame:
    """Runs of a law whose scales N_c and D_c are far outside: its exponents are small."""
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(6, 6 + span, n), 10 ** rng.uniform(8, 8 + span, n)
    params = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    L = laws.kaplan_ND.predict(params, N=N, D=D) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "L": L})


def test_the_first_line_is_the_law_inside_the_data():
    result = fit("kaplan_ND", kaplan_runs(0.01), bootstrap=0)
    first, second = str(result).splitlines()[:2]
    assert first.startswith("kaplan_ND at N = ") and "-dlnL/dlnN = " in first
    assert second.startswith("kaplan_ND: L(N, D) = ")


def test_a_scale_far_outside_the_data_is_no_alarm():
    result = fit("kaplan_ND", kaplan_runs(0.02, span=2.0), bootstrap=0)
    assert set(open_constants(result)) & {"N_c", "D_c"} and not matters(result)
    status = next(line for line in str(result).splitlines() if "status: " in line)
    assert "not identified" not in status
    assert "need not be: L at 10 times the compute is known within" in str(result)
    assert any(line.code == "not_identified" for line in result.status)  # programs still see it
    objections = objections_to(result, pd.DataFrame(), 0.9)
    assert not any("do not determine" in line for line in objections)


def test_constants_that_leave_a_prediction_open_are_an_alarm():
    rng = np.random.default_rng(1)
    N = 10 ** rng.uniform(6, 7, 12)
    L = (8.8e13 / N) ** 0.076 * np.exp(0.1 * rng.standard_normal(12))
    result = fit("kaplan_N", pd.DataFrame({"N": N, "L": L}), bootstrap=0)
    assert open_constants(result) and matters(result)
    assert "predictions depend on" in str(result) and "status: converged" in str(result)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_local_exponents_of_an_exact_power_law_are_its_exponents(p, q):
    rng = np.random.default_rng(2)
    N, D = 10 ** rng.uniform(6, 9, 12), 10 ** rng.uniform(8, 11, 12)
    runs = pd.DataFrame({"N": N, "D": D, "lr_peak": 3.0 * N**-p * D**-q, "L": 2.0})
    point = reference(fit("learning_rate", runs, bootstrap=0))
    assert point.exponents["N"].value == pytest.approx(p, abs=1e-5)
    assert point.exponents["D"].value == pytest.approx(q, abs=1e-5)
    assert point.at["N"] == pytest.approx(float(np.exp(np.mean(np.log(N)))))


def test_the_value_has_an_interval_that_covers_the_truth():
    runs = kaplan_runs(0.01)
    result = fit("kaplan_ND", runs, bootstrap=200)
    point = result.record()["reference"]
    params = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    truth = float(laws.kaplan_ND.predict(params, **point["at"]))
    assert point["value"]["low"] < truth < point["value"]["high"]
    assert 0 < uncertainty(result) < 0.05
