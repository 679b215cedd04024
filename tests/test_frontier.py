import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from exact_fits import exact_fit
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import Law, LawError, Range, fit, frontier, law, laws, load
from analysis.data_limits import data_rule
from analysis.fitting.checks import FitError
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import slices
from analysis.frontiers.optimum import minimise_over_size
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison
from analysis.tables.conventions import flops_6N
from scaling.errors import ConfigError, TableError

C_MIDDLE = 1e12


def known(law: Law, columns: pd.DataFrame | None = None, **params: float) -> FitResult:
    """A law with given parameters, as an exact fit."""
    if columns is None:
        columns = pd.DataFrame({"N": [1e3, 1e6], "D": [1e5, 1e8]})
    return exact_fit(law, params, columns.assign(C=6 * columns["N"] * columns["D"]))


def with_size(sweep, **changes):
    runs, curves = sweep(**changes)
    return runs, load(curves.merge(runs[["run_id", "N", "N_total"]], on="run_id"), curves=True)


def exponent(front, name="N_opt"):
    return front.exponents.set_index("exponent").loc[name]


# ------------------------------------------------------------------ against a known law


def test_envelope_without_noise_finds_the_optimum(sweep, optimum):
    _, curves = with_size(sweep, noise=0.0, anneal=0.0, points=40)
    front = frontier(curves)
    assert front.method == "envelope"
    assert len(front.status) == 1 and "L_opt(C) flattens" in front.status[0]  # it has a floor
    assert exponent(front)["value"] == pytest.approx(0.3 / 0.55, abs=0.01)
    N, D = optimum(C_MIDDLE)
    at = front.at(C=C_MIDDLE).iloc[0]
    assert at["N"] == pytest.approx(N, rel=0.05) and at["D"] == pytest.approx(D, rel=0.05)
    assert at["N"] * at["D"] * 6 == pytest.approx(C_MIDDLE, rel=1e-9)


def test_envelope_is_robust_to_noise_and_to_undecayed_curves(sweep):
    slopes = [
        exponent(frontier(with_size(sweep, seed=seed)[1], bootstrap=20))["value"]
        for seed in range(8)
    ]
    assert np.mean(slopes) == pytest.approx(0.3 / 0.55, abs=0.025)
    assert np.std(slopes) < 0.04


def test_isoflop_minima_of_a_known_law(optimum):
    sets = pd.DataFrame(
        {"N": optimum(C)[0] * f, "C": C} for C in (1e10, 1e11, 1e12, 1e13)
        for f in np.geomspace(0.25, 4, 9)
    )  # fmt: skip
    sets["D"] = sets["C"] / (6 * sets["N"])
    sets["L"] = 1.9 + 9 * sets["N"] ** -0.25 + 38 * sets["D"] ** -0.30
    for method, off in (("isoflop", 0.03), ("akima", 0.01)):
        front = frontier(sets, method=method, law="chinchilla", bootstrap=50)
        assert (front.optima["kind"] == "minimum").all()
        assert exponent(front)["value"] == pytest.approx(0.3 / 0.55, abs=0.003)
        shift = np.log(front.optima["N"] / optimum(front.optima["C"])[0])
        assert np.abs(shift).max() < off
    # arXiv 2603.22339: a parabola over a symmetric grid is off by
    # -(beta - alpha) <x^4> / (6 <x^2>) in ln N, to first order.
    x = np.log(np.geomspace(0.25, 4, 9))
    bias = -(0.30 - 0.25) * np.mean(x**4) / (6 * np.mean(x**2))
    shift = np.log(front_isoflop(sets).optima["N"] / optimum([1e10, 1e11, 1e12, 1e13])[0])
    assert shift.to_numpy() == pytest.approx(np.full(4, bias), abs=0.012)


def front_isoflop(sets):
    return frontier(sets, method="isoflop", bootstrap=10)


def test_minima_at_the_edge_and_concave_sets_are_reported_and_not_used(optimum):
    def budget(C, factors):
        N = optimum(C)[0] * np.asarray(factors)
        return pd.DataFrame({"N": N, "D": C / (6 * N), "C": C})

    wide = np.geomspace(0.2, 5, 7)
    sets = pd.concat(
        [budget(1e10, wide), budget(1e11, wide), budget(1e12, wide * 8), budget(1e13, wide)]
    )
    sets["L"] = 1.9 + 9 * sets["N"] ** -0.25 + 38 * sets["D"] ** -0.30
    sets = sets.reset_index(drop=True)
    last = sets["C"] == 1e13  # best in the middle, but by a spike in a curve that opens downwards
    sets.loc[last, "L"] = [2.40, 2.55, 2.60, 2.39, 2.60, 2.55, 2.40]
    front = frontier(sets, method="isoflop", bootstrap=20)
    assert front.optima["kind"].tolist() == ["minimum", "minimum", "edge", "concave"]
    assert front.optima["N"].isna().tolist() == [False, False, True, True]
    assert any("no interior minimum at C = 1e+12: the least loss" in line for line in front.status)
    assert any("opens downwards" in line for line in front.status)
    assert front.ranges["C"] == pytest.approx((1e10, 1e11))


@settings(max_examples=25, deadline=None)
@given(
    E=st.floats(0.5, 3), A=st.floats(10, 1e3), B=st.floats(10, 1e4),
    alpha=st.floats(0.15, 0.8), beta=st.floats(0.15, 0.8),
)  # fmt: skip
def test_closed_form_numeric_and_definition_agree(E, A, B, alpha, beta):
    result = known(laws.chinchilla, E=E, A=A, B=B, alpha=alpha, beta=beta)
    front = frontier(result)
    C = np.array([1e12, 1e18, 1e23])
    at = front.at(C=C)
    params = {name: np.array([[value]]) for name, value in result.params.items()}
    numeric = minimise_over_size(laws.chinchilla, params, C, lambda N: 6.0 * N)[0]
    bounded = (at["N"] > 1) & (at["D"] > 1)  # the search is for whole parameters and tokens
    assert at["N"][bounded].to_numpy() == pytest.approx(numeric[bounded], rel=1e-5)
    for factor in (0.9, 1.1):
        worse = result.predict(N=at["N"] * factor, D=at["D"] / factor)
        assert (worse >= at["L"]).all()
    assert exponent(front)["value"] == pytest.approx(beta / (alpha + beta), rel=1e-9)
    assert exponent(front, "L_opt - E")["value"] == pytest.approx(
        -alpha * beta / (alpha + beta), rel=1e-6
    )


def test_draws_without_an_optimum_are_counted():
    result = known(laws.chinchilla, E=2.0, A=400.0, B=400.0, alpha=0.3, beta=0.3)
    result.samples.loc[0, "alpha"] = -0.1
    front = frontier(result)
    assert "1 of 3 resamples have no frontier" in front.status
    assert np.isnan(front.draws(1e18)["N"][1, 0])
    # A third of the draws may lie anywhere, so a 95 % interval has no ends.
    assert exponent(front)["low"] == -np.inf and exponent(front)["high"] == np.inf
    draws = [result.samples.iloc[[0]], *[result.samples.iloc[[1]]] * 199]
    few = frontier(replace(result, samples=pd.concat(draws, ignore_index=True)))
    assert exponent(few)["low"] == exponent(few)["high"] == pytest.approx(0.5)


def test_kaplan_law_has_the_exponent_of_its_form():
    """Setting dL/dN = 0 at fixed N D in eq. 1.5 gives N ~ C^(1 / (1 + alpha_N / alpha_D)); with
    the constants of Kaplan et al. 2020, Table 2, 0.575."""
    result = known(laws.kaplan_ND, N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
    assert exponent(frontier(result))["value"] == pytest.approx(1 / (1 + 0.076 / 0.103), abs=1e-6)


def test_data_rule_gives_the_papers_numbers():
    """Kaplan et al. 2020, eq. 4.4: D >= 5e3 N^0.74 for 2 % of overfitting, from Table 2."""
    rule = data_rule(known(laws.kaplan_ND, N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103))
    assert rule.exponent == pytest.approx(0.74, abs=0.005)
    assert rule.coefficient == pytest.approx(5e3, rel=0.25)
    loss = laws.kaplan_ND.predict(
        {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        N=1e9, D=[rule.tokens(N=1e9), 1e30],
    )  # fmt: skip
    assert loss[0] / loss[1] - 1 == pytest.approx(0.02, rel=1e-6)
    with pytest.raises(ValueError, match="needs a fit of kaplan_ND"):
        data_rule(known(laws.chinchilla, E=2.0, A=400.0, B=400.0, alpha=0.3, beta=0.3))


def test_intervals_cover_the_truth_of_a_small_sweep(sweep):
    """Percentile intervals of the parametric and the envelope exponents, ten sweeps each."""
    hits = {"parametric": 0, "envelope": 0}
    for seed in range(10):
        runs, curves = with_size(sweep, seed=seed)
        for method, data in (("parametric", runs), ("envelope", curves)):
            law = None if method == "envelope" else "chinchilla"
            row = exponent(frontier(data, method=method, law=law, bootstrap=100, level=0.9))
            hits[method] += row["low"] <= 0.3 / 0.55 <= row["high"]
    assert min(hits.values()) >= 6  # 9 expected; 5 or fewer has a chance of 0.2 %


# ------------------------------------------------------------------ conventions


def test_embeddings_left_out_of_the_count():
    """Pearce and Song 2024 (arXiv 2406.12907): counted without embeddings, the optimum of a law in
    total parameters N + 47491 N^(1/3) seems to grow as C^0.78 (Besiroglu et al.'s constants) or
    C^0.74 (Hoffmann et al.'s) over the sizes that Kaplan et al. trained."""

    def total(N):
        return N + 47491 * N ** (1 / 3)

    def without(N, D, *, E, A, B, alpha, beta):
        return E + A * total(N) ** -alpha + B * D**-beta

    ranges = dict.fromkeys(("E", "A", "B", "alpha", "beta"), Range(0.1, 10))
    law = Law("without_embeddings", without, ("N", "D"), ranges)
    epoch = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
    hoffmann = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849}
    for params, published in ((epoch, 0.7805), (hoffmann, 0.7388)):
        N = np.logspace(2.9, 9.2, 20)
        C = np.logspace(5, 24, 2001)
        p = {name: np.array([[value]]) for name, value in params.items()}
        best = minimise_over_size(law, p, C, flops_6N)[0]
        C_of = np.exp(np.interp(np.log(N), np.log(best), np.log(C)))
        slope = np.polyfit(np.log(C_of), np.log(N), 1)[0]
        assert slope == pytest.approx(published, abs=0.01)


def test_another_convention_is_one_argument(sweep):
    runs, _ = sweep()
    plain = frontier(runs, law="chinchilla", bootstrap=20)
    total = frontier(runs, params="N_total", law="chinchilla", bootstrap=20)
    assert plain.convention == "N against C = 6 N D"
    assert total.convention == "N_total against C = 6 N D"
    assert set(total.exponents["convention"]) == {total.convention}
    assert exponent(total)["value"] != pytest.approx(exponent(plain)["value"], abs=0.01)
    runs["C_double"] = 2 * runs["C"]
    double = frontier(runs, flops="C_double", law="chinchilla", bootstrap=20)
    assert double.at(C=2e12)["N"][0] == pytest.approx(plain.at(C=1e12)["N"][0], rel=1e-4)


# ------------------------------------------------------------------ published results


def test_porian_exponents(published):
    """Porian et al. 2024 (arXiv 2406.19146), Fig. 1 and Table 2: fifteen exponents."""
    points = pd.read_csv(published / "porian2024" / "isoflop_points.csv")
    fits = pd.read_csv(published / "porian2024" / "published_fits.csv")
    keys = ["file", "dataset", "hparams", "warmup", "decay", "param_count", "val"]
    names = {"flops": "C", "n": "N", "t": "D", "loss": "L"}
    seen = 0
    for key, rows in points.groupby(keys):
        (row,) = fits[(fits[keys] == list(key)).all(axis=1)].itertuples()
        runs = load(rows, map=names).assign(run_id=rows["n"])
        for method, tolerance in (("akima", 0.01), ("isoflop", 0.035)):
            got = exponent(frontier(runs, method=method, law="chinchilla", bootstrap=50))
            assert got["value"] == pytest.approx(row.a_bs_median_weighted, abs=tolerance), key
        seen += 1
    assert seen == 15


def test_nanochat_exponents(published):
    """nanochat's isoFLOP optima under three counts of parameters: .54/.49, .37/.50, .70/.41."""
    folder = published / "nanochat_pearce_kaplan_tables"
    table = pd.read_csv(folder / "nanochat_isoflop_optima.csv")
    expected = {"kaplan_no_emb_with_lm_head": (0.54, 0.49), "all": (0.37, 0.50)}
    expected["transformer"] = (0.70, 0.41)
    for convention, rows in table.groupby("convention"):
        a, b = next(v for k, v in expected.items() if str(convention).startswith(k))
        x = np.log(rows["flops_exact"])
        assert np.polyfit(x, np.log(rows["eff_params"]), 1)[0] == pytest.approx(a, abs=0.015)
        assert np.polyfit(x, np.log(rows["tokens"]), 1)[0] == pytest.approx(b, abs=0.015)


def test_besiroglu_optimum(published):
    """Besiroglu et al. 2024 (arXiv 2404.10102): about 18 tokens per parameter at Chinchilla's
    5.76e23 FLOPs; from the Huber fit of their 240 points 17.92, and N_opt(1e21) = 2.7917e9."""
    table = pd.read_csv(published / "besiroglu2024_epoch" / "svg_extracted_data.csv")
    runs = load(table, map={"Model Size": "N", "Training FLOP": "C", "loss": "L"})
    assert runs.attrs["derived"] == {"D": "C / (6 N)"}
    runs = runs.sort_values("L").iloc[:-5]
    front = frontier(fit(laws.chinchilla, runs, objective="huber", delta=1e-3, bootstrap=200))
    at = front.at(C=[1e21, 5.76e23])
    assert at["N"][0] == pytest.approx(2.7917e9, rel=1e-4)
    assert (at["D"] / at["N"])[1] == pytest.approx(17.92, abs=0.01)
    assert exponent(front)["value"] == pytest.approx(0.5139, abs=1e-3)
    assert exponent(front)["high"] - exponent(front)["low"] == pytest.approx(0.08, abs=0.03)


# ------------------------------------------------------------------ what can go wrong, records


def test_all_methods_side_by_side(sweep):
    runs, curves = with_size(sweep)
    every = frontier(runs, method="all", curves=curves, bootstrap=30)
    assert isinstance(every, Comparison) and not every.skipped
    assert list(every.fronts) == ["envelope", "isoflop", "akima", "parametric"]
    assert set(every.exponents["exponent"]) == {"N_opt", "D_opt", "L_opt", "L_opt - E"}
    json.dumps(every.record(), allow_nan=False)
    alone = frontier(runs, method="all", bootstrap=30)
    assert "needs learning curves" in alone.skipped["envelope"]
    assert "no envelope: the envelope needs learning curves" in str(alone)


def test_slices_of_curves_are_isoflop_sets(sweep):
    _, curves = with_size(sweep, noise=0.0, anneal=0.0)
    table = slices(curves.astype({"N": float}), budgets=5)
    assert table.groupby("C")["N"].count().min() >= 4
    law = 1.9 + 9 * table["N"] ** -0.25 + 38 * table["D"] ** -0.30
    late = table["L"] < 4  # the generator bends the start of a curve towards ln(vocabulary)
    assert np.allclose(table["L"][late], law[late], rtol=0.01)


def test_the_distribution_leads_to_the_intervals(sweep):
    runs, _ = sweep()
    front = frontier(runs, bootstrap=200, level=0.8)
    draws = front.draws([1e12, 1e16])["N"]
    assert draws.shape == (201, 2)
    at = front.at(C=[1e12, 1e16])
    assert np.allclose(at["N_low"], np.quantile(draws[1:], 0.1, axis=0))
    assert at["beyond"].tolist() == pytest.approx([1, 1e16 / runs["C"].max()])
    assert (at["N_high"] / at["N_low"])[1] > (at["N_high"] / at["N_low"])[0]


def test_the_same_seed_gives_the_same_numbers(sweep):
    _, curves = with_size(sweep)
    first, second = (frontier(curves, bootstrap=30, seed=5).exponents for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda runs, curves: frontier(runs, method="magic"),
            "method='magic' is not known",
        ),
        (lambda runs, curves: frontier(runs, method="envelope"), "needs learning curves"),
        (lambda runs, curves: frontier(runs, params="N_totl"), "no column 'N_totl'"),
        (
            lambda runs, curves: frontier(runs.iloc[[0, 1, 7, 8]], method="isoflop"),
            "at least 4 sizes at one C",
        ),
        (
            lambda runs, curves: frontier(curves[curves["N"] == curves["N"].min()]),
            "three sizes that take turns",
        ),
        (
            lambda runs, curves: frontier(curves, method="envelope", flops=lambda N: 6 * N),
            "needs a column",
        ),
        (lambda runs, curves: frontier(runs.assign(status="failed")), "no run"),
    ],
)
def test_clear_messages(sweep, call, expected):
    with pytest.raises(TableError, match=expected):
        call(*with_size(sweep))


def test_a_law_of_one_input_has_no_frontier(sweep):
    runs, _ = sweep()
    with pytest.raises(TableError, match="needs a law of N and D; kaplan_N"):
        frontier(fit(laws.kaplan_N, runs, bootstrap=10))
    both = fit(laws.chinchilla, runs, bootstrap=10)
    with pytest.raises(TableError, match="has the parametric"):
        frontier(both, method="envelope")
    for C in (-1, [1e12, float("nan")], float("inf")):
        with pytest.raises(ConfigError, match="must be positive and finite"):
            frontier(both).at(C=C)


def test_allowed_overfitting_must_be_positive():
    kaplan = known(laws.kaplan_ND, N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
    with pytest.raises(ConfigError, match="overfit=0 must be positive"):
        data_rule(kaplan, overfit=0)


def test_draws_that_overflow_are_lost_without_a_warning():
    """Warnings are errors here: a draw may have any sign and size."""
    for form in (laws.chinchilla, laws.bottleneck):
        params = {"E": 2.0, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3}
        params |= {"k": 1.0} if form is laws.bottleneck else {}
        result = known(form, **params)
        result.samples.loc[0, ["A", "B"]] = np.inf, np.inf
        result.samples.loc[1, "alpha"] = np.nan
        front = frontier(result)
        assert "2 of 3 resamples have no frontier" in front.status
        # Two of three draws may lie anywhere, so the interval has no ends.
        assert exponent(front)["low"] == -np.inf and exponent(front)["high"] == np.inf
        assert exponent(front)["value"] == pytest.approx(0.5, abs=1e-4)
    wrong = known(laws.chinchilla, E=2.0, A=400.0, B=400.0, alpha=-0.1, beta=0.3)
    with pytest.raises(FitError, match=r"has no optimum at any compute.*Check the table"):
        frontier(wrong)


# ------------------------------------------------------------------ own laws with a published name


def law_named_chinchilla(function, **ranges):
    function.__name__ = "chinchilla"
    return law(**ranges)(function)


def test_own_law_named_chinchilla_with_other_parameters():
    def form(N, D, *, E, A_N, A_D, p, q):
        return E + A_N * N**-p + A_D * D**-q

    own = law_named_chinchilla(form, **dict.fromkeys(("E", "A_N", "A_D", "p", "q"), Range(0.1, 10)))
    params = {"E": 1.69, "A_N": 406.4, "A_D": 410.7, "p": 0.34, "q": 0.28}
    published = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    found = parametric(known(own, **params)).at(C=1e18)
    expected = parametric(known(laws.chinchilla, **published)).at(C=1e18)
    assert found["N"][0] == pytest.approx(expected["N"][0], rel=1e-6)


def test_own_law_named_chinchilla_with_another_formula():
    """The optimum minimises the law that was fitted, whatever its name and parameter names are."""

    def form(N, D, *, E, A, B, alpha, beta):
        return E + (A * N**-alpha + B * D**-beta) * (1 + np.log(D / N) ** 2)

    ranges = dict.fromkeys(("E", "A", "B", "alpha", "beta"), Range(0.1, 10))
    own, C = law_named_chinchilla(form, **ranges), 1e14
    params = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    N = np.exp(np.linspace(0, np.log(C / 6), 200_001))
    least = N[np.argmin(own.predict(params, N=N, D=C / (6 * N)))]
    assert parametric(known(own, **params)).at(C=C)["N"][0] == pytest.approx(least, rel=1e-3)


def test_a_law_may_have_a_closed_form_of_its_optimum():
    def form(N, D, *, A, alpha):
        return A * (1 / N + 20 / D) ** alpha

    def optimum(C, *, A, alpha):
        return np.sqrt(C / (6 * 20)) * np.ones_like(A)

    ranges = {"A": Range(0.1, 10), "alpha": Range(0.1, 1)}
    closed, open_ = law(optimum=optimum, **ranges)(form), law(**ranges)(form)
    by_form, by_search = (parametric(known(one, A=50.0, alpha=0.3)) for one in (closed, open_))
    assert by_form.at(C=1e18)["N"][0] == np.sqrt(1e18 / 120)
    assert by_search.at(C=1e18)["N"][0] == pytest.approx(np.sqrt(1e18 / 120), rel=1e-6)


def test_bounds_of_published_laws_need_those_laws():
    def kaplan_ND(N, D, *, E, A):
        return E + A / N + A / D

    own = law(E=Range(0.1, 5), A=Range(1, 1e9))(kaplan_ND)
    with pytest.raises(LawError, match="needs a fit of kaplan_ND"):
        data_rule(known(own, E=2.0, A=1e5))
