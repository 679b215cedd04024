"""fit() and its result: recovery of every law, options, intervals of derived quantities."""

from __future__ import annotations

import json
import pickle
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analysis import FitError, LawError, Range, fit, law, laws
from analysis.fitting.status import Status
from scaling.errors import TableError

EXAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "fit_speed.py"))[
    "example_parameters"
]()
SPANS = {
    "N": (1e6, 1e10), "D": (1e8, 1e12), "D_unique": (1e8, 1e12), "C": (1e15, 1e22),
    "S": (1e3, 1e6), "B": (1e4, 1e7), "L": (1.5, 6), "E": (2, 512),
    "L_0": (2.5, 5), "N_nv": (1e7, 1e10), "N_v": (1e6, 1e9),
}  # fmt: skip
TRUTH = EXAMPLES["chinchilla"]


def runs_of(name, params, n=60, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    form = laws.LAWS[name]
    x = {c: np.exp(rng.uniform(*np.log(SPANS[c]), n)) for c in form.inputs}
    if "D_unique" in x:
        x["D_unique"] = x["D"] / np.exp(rng.uniform(0, 4, n))
    y = form.predict(params, **x) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({**x, form.target: y})


@pytest.mark.parametrize("name", laws.LAWS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20), jitter=st.lists(st.floats(-0.1, 0.1), min_size=11, max_size=11))
def test_every_law_recovers_its_parameters_from_every_seed(name, seed, jitter):
    truth = {
        p: value * np.exp(j) for (p, value), j in zip(EXAMPLES[name].items(), jitter, strict=False)
    }
    runs = runs_of(name, truth, seed=seed)
    assume((runs.iloc[:, -1] > 0).all())  # an error rate below zero is none
    assume(abs(truth.get("kappa", 0) - 1) > 0.03)  # a straight line determines no E_0
    result = fit(name, runs, bootstrap=0, seed=seed)
    assert result.residuals.abs().max() < 1e-6
    for p, value in truth.items():
        assert result.params[p] == pytest.approx(value, rel=1e-3), (p, result.status)


@pytest.mark.parametrize("name", laws.LAWS)
def test_noisy_parameters_lie_in_their_intervals(name):
    # 99.9 % intervals of up to 11 parameters of 32 laws: a miss is a fault, not chance.
    runs = runs_of(name, EXAMPLES[name], n=120, noise=0.003, seed=11)
    result = fit(name, runs, bootstrap=1000)
    interval = result.interval(0.999)
    for p, value in EXAMPLES[name].items():
        assert interval.loc[p, "low"] <= value <= interval.loc[p, "high"], interval


@pytest.fixture(scope="module")
def noisy():
    return fit("chinchilla", runs_of("chinchilla", TRUTH, n=150, noise=0.004, seed=2))


def test_results_pickle(noisy):
    again = pickle.loads(pickle.dumps(noisy))
    assert again.law == noisy.law and again.params == noisy.params and str(again) == str(noisy)
    assert again.predict(N=7e10, D=1.4e12) == noisy.predict(N=7e10, D=1.4e12)
    assert again.derived("a") == noisy.derived("a")
    assert again.profile("alpha").low == noisy.profile("alpha").low


def test_two_breaks_are_found_and_listed_in_order():
    # The later break is sharper than the first: neither order nor sharpness may mislead.
    form = laws.broken("D", 2)
    truth = {"E": 1.2, "A": 40.0, "c_0": 0.2, "c_1": 0.25, "d_1": 3e5, "f_1": 0.3,
             "c_2": 0.4, "d_2": 1e8, "f_2": 0.12}  # fmt: skip
    D = np.geomspace(1e4, 1e10, 80)
    y = form.predict(truth, D=D)
    exact = fit(form, pd.DataFrame({"D": D, "L": y}), bootstrap=0)
    assert exact.params == pytest.approx(truth, rel=1e-3)
    noise = np.exp(0.002 * np.random.default_rng(5).standard_normal(80))
    drawn = fit(form, pd.DataFrame({"D": D, "L": y * noise}), bootstrap=100)
    assert (drawn.samples["d_1"] < drawn.samples["d_2"]).all()
    interval = drawn.interval(0.999)
    for p, value in truth.items():
        assert interval.loc[p, "low"] <= value <= interval.loc[p, "high"], (p, interval)


def test_same_seed_same_result(noisy):
    again = fit("chinchilla", noisy.runs)
    assert again.params == noisy.params
    pd.testing.assert_frame_equal(again.samples, noisy.samples)


def test_predict_and_its_intervals(noisy):
    N, D = np.array([1e9, 7e10]), np.array([[1e11], [1.4e12]])
    y = noisy.predict(N=N, D=D)
    low, high = noisy.predict_interval(0.9, N=N, D=D)
    assert y.shape == low.shape == high.shape == (2, 2)
    assert (low < y).all() and (y < high).all()
    wide_low, wide_high = noisy.predict_interval(0.9, noise=True, N=N, D=D)
    assert (wide_low < low).all() and (high < wide_high).all()
    assert np.ndim(noisy.predict(N=1e9, D=1e10)) == 0


def test_derived_by_name_expression_and_function(noisy):
    by_name = noisy.derived("a", 0.9)
    by_text = noisy.derived("beta / (alpha + beta)", 0.9)
    by_function = noisy.derived(lambda p: p["beta"] / (p["alpha"] + p["beta"]), 0.9)
    assert by_name == by_text == pytest.approx(by_function)
    assert by_name.low < by_name.value < by_name.high
    truth = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    low, high = noisy.derived("a", 0.999)[2:]
    assert low < truth < high
    with pytest.raises(FitError, match=r"derived\('gamma'\).*alpha"):
        noisy.derived("gamma")


def test_summary_text_html_and_record_agree(noisy):
    table = noisy.summary()
    assert list(table.index) == ["E", "A", "B", "alpha", "beta", "a", "b"]
    text = str(noisy)
    for word in ("E + A / N^alpha + B / D^beta", "150 rows", "Huber(delta=", "status: converged"):
        assert word in text
    assert (
        f"{noisy.params['alpha']:.5g}" in text
        and f"<td>{noisy.params['alpha']:.3g}</td>" in noisy._repr_html_()
    )
    record = json.loads(json.dumps(noisy.record(), allow_nan=False))
    assert record["law"] == "chinchilla" and record["n"] == 150
    assert set(record["params"]["E"]) == {"value", "stderr", "low", "high"}
    assert record["derived"]["a"]["value"] == pytest.approx(table.loc["a", "value"])
    assert record["status"][0] == "converged" and record["certificate"]["share"] > 0.2
    assert record["timings"]["total"] > 0


def test_certificate_of_a_good_fit(noisy):
    c = noisy.certificate
    assert c.gradient < 1e-5 and c.not_identified == () and c.at_bound == ()
    assert c.gap is None or c.gap > 0.1
    assert c.resamples == 1.0


def test_plot_shows_every_run(noisy):
    left, right = noisy.plot().axes
    assert len(left.lines[0].get_xdata()) == len(right.lines[0].get_xdata()) == 150


def test_fixed_parameters_stay(noisy):
    result = fit("chinchilla", noisy.runs, fixed={"E": 1.8, "beta": 0.36})
    assert result.params["E"] == 1.8 and result.stderr["E"] == 0
    assert (result.samples["beta"] == 0.36).all() and result.stderr["alpha"] > 0
    assert result.objective > noisy.objective
    with pytest.raises(FitError, match="no parameter 'gamma'; it has E, A"):
        fit("chinchilla", noisy.runs, fixed={"gamma": 1})


def test_objective_is_stated_as_asked(noisy):
    runs, n = noisy.runs, noisy.n
    total = fit("chinchilla", runs, objective="ls", bootstrap=0)
    mean = fit("chinchilla", runs, objective="ls", reduce="mean", bootstrap=0)
    r = np.log1p(total.residuals)
    assert total.objective == pytest.approx(np.sum(r**2) / 2, rel=1e-9)
    assert mean.objective == pytest.approx(total.objective / n)
    lad = fit("chinchilla", runs, objective="lad", bootstrap=0)
    assert lad.objective == pytest.approx(np.log1p(lad.residuals).abs().sum(), rel=1e-5)
    raw = fit("chinchilla", runs, objective="ls", on="raw", bootstrap=0)
    off = raw.runs["L"] - raw.fitted
    assert raw.objective == pytest.approx(np.sum(off**2) / 2, rel=1e-9)


def test_weights_are_repeated_rows(noisy):
    runs = noisy.runs.iloc[:40]
    twice = pd.concat([runs, runs.iloc[:10]])
    weights = np.r_[np.full(10, 2.0), np.ones(30)]
    a = fit("chinchilla", runs, objective="ls", weights=weights, bootstrap=0)
    b = fit("chinchilla", twice, objective="ls", bootstrap=0)
    c = fit("chinchilla", runs.assign(w=weights), objective="ls", weights="w", bootstrap=0)
    assert a.params == pytest.approx(b.params, rel=1e-6)
    tied = [fit("chinchilla", runs, objective="huber", weights=weights, bootstrap=0),
            fit("chinchilla", twice, objective="huber", bootstrap=0)]  # fmt: skip
    assert tied[0].certificate.delta == pytest.approx(tied[1].certificate.delta, rel=1e-6)
    assert c.params == a.params


def test_default_threshold_follows_the_residuals(noisy):
    r = np.log1p(noisy.residuals).abs()
    assert noisy.certificate.delta == pytest.approx(1.345 * 1.4826 * r.median(), rel=1e-6)


def test_few_runs_use_huber_and_t_intervals():
    few = runs_of("floor_N", EXAMPLES["floor_N"], n=8, noise=0.002, seed=5)
    result = fit("floor_N", few)
    assert result.intervals == "delta" and result.loss.startswith("Huber")
    assert fit("floor_N", few, objective="huber").loss.startswith("Huber")
    many = fit("floor_N", runs_of("floor_N", EXAMPLES["floor_N"], n=40, noise=0.002))
    assert many.intervals == "bootstrap" and many.loss.startswith("Huber")


def test_runs_that_are_not_ok_are_left_out(noisy):
    broken = noisy.runs.iloc[:3].assign(L=np.nan, status="diverged")
    both = pd.concat([noisy.runs.assign(status="ok"), broken])
    result = fit("chinchilla", both, bootstrap=0)
    assert result.n == 150 and result.params == pytest.approx(noisy.params, rel=1e-9)


def test_an_absent_floor_is_reported_at_its_bound():
    runs = runs_of("power_N" if "power_N" in laws.LAWS else "kaplan_N", EXAMPLES["kaplan_N"])
    result = fit("floor_N", runs, bootstrap=0)
    assert "at bound: E" in result.status
    assert result.residuals.abs().max() < 1e-4


def test_an_exponent_that_the_data_leave_open_is_reported():
    # D matters a thousand times less than the noise: nothing is known of B and beta.
    runs = runs_of("chinchilla", {**TRUTH, "B": 1e-3}, n=80, noise=0.01, seed=4)
    result = fit("chinchilla", runs, bootstrap=0)
    words = " ".join(result.status)
    assert "not identified" in words and "B" in result.certificate.not_identified


def test_a_users_law_is_fully_supported():
    @law(E=Range(0.3, 3), A=Range(1, 1e4), alpha=Range(0.1, 1), kappa=Range(1e-3, 1e3))
    def mine(N, D, *, E, A, alpha, kappa):
        """L(N, D) = E + A (1/N + kappa/D)^alpha."""
        return E + A * (1 / N + kappa / D) ** alpha

    truth = {"E": 1.6, "A": 200.0, "alpha": 0.27, "kappa": 20.0}
    runs = runs_of("chinchilla", TRUTH, n=50)
    runs["L"] = mine.predict(truth, N=runs["N"], D=runs["D"])
    result = fit(mine, runs)
    assert result.params == pytest.approx(truth, rel=1e-4)
    assert result.derived("kappa").value == pytest.approx(20)


def test_warm_start_gives_the_same_fit(noisy):
    part = noisy.runs.iloc[:100]
    cold = fit("chinchilla", part, bootstrap=0)
    warm = fit("chinchilla", part, bootstrap=0, warm=noisy)
    assert warm.params == pytest.approx(cold.params, rel=1e-6)
    with pytest.raises(FitError, match="warm: that result is of chinchilla"):
        fit("gadre", part, warm=noisy)


def test_an_exact_fit_is_reached_by_many_starts_and_its_resamples_converge():
    result = fit("chinchilla", runs_of("chinchilla", TRUTH), bootstrap=200)
    assert result.certificate.share > 0.2 and result.certificate.resamples > 0.95
    assert not any("starts" in w or "resamples" in w for w in result.status)


def test_poor_convergence_is_reported(noisy):
    from analysis.fitting.status import status_of

    c = replace(noisy.certificate, resamples=0.01, reached=1, overflowed=0.03)
    words = status_of(noisy.problem, noisy.minimum, c)
    assert "resamples not converged: 99 %" in words
    assert f"reached by few starts: 1 of {c.starts}" in words and "draws unbounded: 3 %" in words


def test_clusters_are_columns_that_exist_and_have_no_gaps(noisy):
    runs = noisy.runs
    with pytest.raises(TableError, match="cluster: the table has no column 'runid'"):
        fit("chinchilla", runs, cluster="runid")
    gaps = runs.assign(run_id=np.arange(len(runs)) // 2 * 1.0)
    gaps.loc[gaps.index[[4, 7]], "run_id"] = np.nan
    with pytest.raises(TableError, match=r"2 of 150 rows have none \(row 4, 7\)"):
        fit("chinchilla", gaps)


def test_rows_of_weight_zero_are_left_out(noisy):
    weights = np.r_[np.zeros(100), np.ones(50)]
    part = fit("chinchilla", noisy.runs.iloc[100:], bootstrap=0)
    whole = fit("chinchilla", noisy.runs, weights=weights, bootstrap=0)
    assert whole.n == 50 and whole.params == part.params and whole.stderr == part.stderr
    assert "50 of 150 rows (left out: 100 with weight 0)" in str(whole)
    with pytest.raises(FitError, match="4 usable rows"):
        fit("chinchilla", noisy.runs, weights=np.r_[np.zeros(146), np.ones(4)])


def test_rows_left_out_are_reported(noisy):
    runs = noisy.runs.assign(status=np.repeat(["ok", "diverged", "failed"], [140, 7, 3]))
    text = str(fit("chinchilla", runs, bootstrap=0))
    assert "140 of 150 rows (left out: 7 with status diverged, 3 with status failed)" in text
    assert "[nats/token]" in text
    with pytest.raises(TableError, match=r"holds 'done' \(150\)"):
        fit("chinchilla", noisy.runs.assign(status="done"))


@pytest.mark.parametrize("kind", ["str", "category", "object", "Int64", "Float64"])
def test_columns_of_any_kind_become_floats(noisy, kind):
    runs = noisy.runs.assign(N=noisy.runs["N"].round())
    plain = fit("chinchilla", runs, bootstrap=0)
    odd = fit("chinchilla", runs.assign(N=runs["N"].astype(kind)), bootstrap=0)
    assert odd.params == pytest.approx(plain.params) and odd.runs["N"].dtype == float
    assert odd.residuals.abs().max() < 0.1


def test_columns_that_are_not_numbers_are_named(noisy):
    runs = noisy.runs.assign(N=noisy.runs["N"].astype(object))
    runs.loc[3, "N"] = "7B"
    with pytest.raises(TableError, match=r"'N' must be numbers, but 1 of 150 .* '7B' at row 3"):
        fit("chinchilla", runs)
    twice = pd.concat([noisy.runs, noisy.runs[["N"]]], axis=1)
    with pytest.raises(TableError, match="several columns called 'N'"):
        fit("chinchilla", twice)
    gap = noisy.runs.assign(C=np.nan, B=0)  # no column of this law
    assert fit("chinchilla", gap, bootstrap=0).params == noisy.params


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_seeds_are_whole_numbers(noisy, seed):
    with pytest.raises(FitError, match=r"seed=.* must be a whole number"):
        fit("chinchilla", noisy.runs, seed=seed)


@pytest.mark.parametrize("fixed", [{"E": np.nan}, {"A": -3.0}, {"E": np.inf}])
def test_fixed_values_make_sense(noisy, fixed):
    with pytest.raises(FitError, match=r"fixed: [EA]=.* must be a positive number"):
        fit("chinchilla", noisy.runs, fixed=fixed)


def test_a_column_that_hardly_varies(noisy):
    runs = noisy.runs.assign(N=1e9 * (1 + 1e-13 * np.arange(150)))
    with pytest.raises(FitError, match="differ in N, but all 150 have N within 1e-11 of 1e"):
        fit("chinchilla", runs)


def test_the_error_for_branching_laws_names_the_cure_and_clip_works():
    @law(A=Range(1, 100), alpha=Range(0.1, 1))
    def branches(N, *, A, alpha):
        return A / N**alpha if alpha > 0.2 else A / N

    @law(A=Range(1, 100), alpha=Range(0.1, 1))
    def clipped(N, *, A, alpha):
        """L(N) = clip(A / N^alpha, 0.7, inf)."""
        return np.clip(A / N**alpha, 0.7, None)

    runs = runs_of("kaplan_N", EXAMPLES["kaplan_N"])
    with pytest.raises(LawError, match=r"np\.where rather than if, np\.maximum"):
        fit(branches, runs)
    runs["L"] = np.maximum(30 / runs["N"] ** 0.2, 0.7)
    assert fit(clipped, runs, bootstrap=0).params == pytest.approx(
        {"A": 30, "alpha": 0.2}, rel=1e-4
    )


def test_an_input_may_be_zero_where_the_law_takes_no_logarithm_of_it():
    @law(E=Range(0.3, 3), A=Range(0.1, 10), p=Range(0.2, 3))
    def mixture(h, *, E, A, p):
        """L(h) = E + A h^p."""
        return E + A * h**p

    truth = {"E": 1.5, "A": 2.0, "p": 0.7}
    h = np.r_[0, 0, np.linspace(0, 1, 38)]
    runs = pd.DataFrame({"h": h, "L": mixture.predict(truth, h=h)})
    assert fit(mixture, runs, bootstrap=0).params == pytest.approx(truth, rel=1e-4)


def test_repeated_rows_are_named(noisy):
    again = pd.concat([noisy.runs, noisy.runs.iloc[[5]].set_axis([999])]).assign(note=range(151))
    words = "; ".join(fit("chinchilla", again, bootstrap=0).status)
    assert "duplicates: 1 rows repeat another exactly, first row 999" in words
    seeds = again.assign(seed=np.arange(151))
    assert "duplicates" not in "; ".join(fit("chinchilla", seeds, bootstrap=0).status)


def test_results_compare_by_identity_and_warm_takes_the_same_law_made_again(noisy):
    assert noisy == noisy and noisy != fit("chinchilla", noisy.runs, bootstrap=0)
    runs = runs_of("kaplan_N", EXAMPLES["kaplan_N"], noise=0.01)
    first = fit(laws.power("N"), runs, bootstrap=0)
    assert fit(laws.power("N"), runs, bootstrap=0, warm=first).params == pytest.approx(first.params)


def test_checkpoints_without_a_run_column_are_noticed():
    rng = np.random.default_rng(0)
    N, D = np.repeat(np.geomspace(1e6, 1e10, 20), 8), np.tile(np.geomspace(1e9, 1e12, 8), 20)
    for shared, own, noticed in ((0.01, 0.001, True), (0.0, 0.01, False)):
        noise = np.repeat(shared * rng.standard_normal(20), 8) + own * rng.standard_normal(160)
        L = laws.chinchilla.predict(TRUTH, N=N, D=D) * np.exp(noise)
        runs = pd.DataFrame({"N": N, "D": D, "L": L})
        status = fit("chinchilla", runs, bootstrap=0).status
        assert (
            any(w.startswith("rows alike: 160 rows share 20 values of N") for w in status)
            == noticed
        )
        named = fit(
            "chinchilla", runs.assign(run=np.repeat(range(20), 8)), bootstrap=0, cluster="run"
        )
        assert not any(w.startswith("rows alike") for w in named.status)


def test_status_lines_carry_a_code_and_survive_pickling(noisy):
    line = Status("at_bound", "E, A")
    assert line == "at bound: E, A" and line.code == "at_bound" and line.detail == "E, A"
    again = pickle.loads(pickle.dumps(line))
    assert again == line and again.code == "at_bound"
    assert all(line.code for line in noisy.status) and "converged" not in noisy.warnings
