"""Tables that cannot be fitted, and tables that only look wrong, give one clear message each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import FitError, LawError, Range, fit, law
from scaling.errors import TableError


def good(n=30, seed=0):
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(14, 20, n)), np.exp(rng.uniform(20, 25, n))
    L = (1.8 + 400 * N**-0.34 + 2000 * D**-0.36) * np.exp(0.003 * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "L": L})


def complaint(error, runs, form="chinchilla", **options):
    with pytest.raises(error) as caught:
        fit(form, runs, bootstrap=0, **options)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError) and "\n" not in message
    return message


def test_empty():
    assert "empty" in complaint(TableError, good().iloc[:0])


def test_too_few_runs_for_the_parameters():
    message = complaint(FitError, good(4))
    assert "chinchilla has 5 parameters to fit" in message and "4 usable rows" in message
    assert fit("chinchilla", good(8), fixed={"E": 1.8}, bootstrap=0).n == 8


def test_a_missing_column():
    message = complaint(TableError, good().rename(columns={"D": "tokens"}))
    assert "no column 'D'" in message and "tokens" in message


def test_a_constant_variable():
    message = complaint(FitError, good().assign(D=1e9))
    assert message == "chinchilla needs runs that differ in D, but all 30 have D=1e+09."


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf])
def test_invalid_losses(value):
    runs = good()
    runs.loc[3, "L"] = value
    message = complaint(TableError, runs)
    assert "column 'L' must be positive and finite" in message
    assert "1 of 30 rows is not, first at row 3" in message


def test_inputs_must_be_positive():
    runs = good().rename(columns={"N": "width"})
    runs.loc[[2, 5], "width"] = 0
    message = complaint(TableError, runs, "floor_width")
    assert "column 'width'" in message and "2 of 30 rows are not, first at row 2" in message


def test_no_run_is_ok():
    assert "no row has status 'ok'" in complaint(TableError, good().assign(status="diverged"))


def test_not_a_table():
    assert "must be a pandas DataFrame, not dict" in complaint(TableError, {"N": [1]})


def test_weights():
    assert "weights have shape (3,)" in complaint(TableError, good(), weights=[1, 2, 3])
    assert "not negative" in complaint(TableError, good(), weights=-np.ones(30))
    assert "no column 'w'" in complaint(TableError, good(), weights="w")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "l3"}, "objective='l3' is not known: use one of auto, huber, ls, lad"),
        ({"on": "linear"}, "on='linear' is not known"),
        ({"reduce": "max"}, "reduce='max' is not known"),
        ({"intervals": "jackknife"}, "intervals='jackknife' is not known"),
        ({"delta": -1.0}, "delta=-1.0 must be positive"),
        ({"objective": "ls", "delta": 1e-3}, "belongs to the objective huber"),
        ({"fixed": dict.fromkeys(("E", "A", "B", "alpha", "beta"), 1.0)}, "nothing to fit"),
    ],
)
def test_options(options, message):
    assert message in complaint(FitError, good(), **options)
    with pytest.raises(FitError, match="whole number of draws"):
        fit("chinchilla", good(), bootstrap=-1)
    with pytest.raises(FitError, match="level=95 must lie between 0 and 1"):
        fit("chinchilla", good(), bootstrap=10).interval(95)


def test_a_law_without_finite_values():
    @law(A=Range(1, 10), alpha=Range(0.1, 1))
    def bad(N, *, A, alpha):
        """L(N) = A log(-N)."""
        return A * np.log(-N) ** alpha

    message = complaint(FitError, good(), bad)
    assert "bad is not finite at any starting point" in message and "units of N" in message


def test_a_law_with_some_infinite_values():
    @law(A=Range(1, 10), alpha=Range(0.1, 1))
    def bad(N, *, A, alpha):
        """L(N) = A log(N / 1e7)^-alpha."""
        return A * np.log(N / 1e7) ** -alpha

    runs = good()
    few = int((runs["N"] < 1e7).sum())
    message = complaint(FitError, runs, bad)
    first = runs.index[runs["N"] < 1e7][0]
    assert 0 < few < 30 and f"in {few} of 30 rows, first at row {first} (N=" in message


def test_a_law_without_its_parameters():
    @law(A=Range(1, 10), alpha=Range(0.1, 1))
    def bad(N, *, A, alpha):
        return 2.0 + 0 * N

    assert "does not depend on its parameters" in complaint(LawError, good(), bad)


def words(runs, form="chinchilla"):
    return "; ".join(fit(form, runs, bootstrap=0).status)


def test_suspicious_columns_warn_and_do_not_stop_a_fit():
    assert "implausible" not in words(good()) and "duplicates" not in words(good())
    swapped = good().rename(columns={"N": "D", "D": "N"})
    assert "N exceeds D in 100 % of the rows (are the columns swapped?)" in words(swapped)
    perplexity = good().assign(L=lambda t: np.exp(t["L"] + 1))
    assert "above ln(vocabulary) = 13" in words(perplexity)
    bits = good().assign(L=lambda t: t["L"] / np.log(2), vocab_size=16)
    assert "above ln(vocabulary) = 2.77 (bits or perplexity" in words(bits)
    near = good().assign(N=lambda t: 1e8 * (t["N"] / 1e8) ** 0.02)
    assert "narrow range: N spans only a factor of 1." in words(near, "kaplan_N")
    assert "narrow" not in words(good()) and "narrow" not in words(good(), "kaplan_N")
    assert "duplicates: 30 rows repeat another exactly" in words(pd.concat([good(), good()]))
