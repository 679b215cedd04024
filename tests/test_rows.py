"""Rows that count: conditions, missing losses, duplicates, resumed runs and searches."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import fit, laws, load
from analysis.fitting.checks import FitError
from analysis.tables.rows import RowsLeftOut, evaluations, in_words, repeated
from analysis.tables.searches import best_of_searches
from scaling.errors import TableError


def grid(sizes=(1e7, 3e7, 1e8, 3e8), tokens=(1e9, 3e9, 1e10), noise=0.0) -> pd.DataFrame:
    N, D = (x.ravel() for x in np.meshgrid(sizes, tokens, indexing="ij"))
    L = 1.8 + 400 * N**-0.34 + 1500 * D**-0.36
    return pd.DataFrame({"N": N, "D": D, "L": L * np.exp(noise * np.sin(np.arange(len(N)) ** 2))})


# ------------------------------------------------------------------ conditions


def test_rows_are_selected_before_they_are_checked():
    table = grid()
    table.loc[0, "D"] = 0.0
    with pytest.raises(TableError, match=r'row 0 \(D=0.0\). Leave such rows out with --where "D >'):
        load(table)
    assert len(load(table, where="D > 0")) == 11


@pytest.mark.parametrize(
    ("value", "condition"),
    [(np.nan, "N > 0"), (-1.0, "N > 0"), (np.inf, "0 < N < 1e+100"), (1e-200, "N > 1e-100")],
)
def test_the_remedy_of_an_input_that_is_no_size_works(value, condition):
    table = grid()
    table.loc[5, "N"] = value
    with pytest.raises(TableError) as error:
        load(table)
    assert f"first at row 5 (N={value})" in str(error.value)
    assert f'Leave such rows out with --where "{condition}".' in str(error.value)
    assert "runs[" not in str(error.value)
    assert len(load(table, where=condition)) == 11


def test_only_columns_that_a_law_uses_are_checked():
    table = grid().assign(B=[np.nan] + [1e5] * 11, S=-1.0, C=[0.0] + [1e18] * 11)
    assert len(load(table, need=("N", "D", "L"))) == 12
    assert fit("chinchilla", load(table, need=("N", "D", "L")), bootstrap=0).n == 12
    with pytest.raises(TableError, match="column 'B' must be positive"):
        load(table, need=("B", "L"))


def test_a_condition_sees_columns_before_and_after_the_map_and_derived_ones():
    table = grid().rename(columns={"N": "params", "D": "tokens"}).assign(size=["s", "m", "l"] * 4)
    names = {"params": "N", "tokens": "D"}
    for where in ("D > 2e9", "tokens > 2e9", "C > 6 * N * 2e9", "size != 's'", "D / N > 2e9 / N"):
        got = load(table, map=names, where=where, need=("N", "D", "L"))
        assert len(got) == 8 and got["D"].min() == 3e9
    with pytest.raises(
        TableError, match=r"not a condition on the rows.*columns are params, tokens"
    ):
        load(table, map=names, where="depth > 3")


def test_a_condition_reads_numbers_as_people_write_them():
    table = grid().assign(D=["1B", "3B", "10B"] * 4, width=["256", "n/a", "1k"] * 4)
    assert len(load(table, where="D > 2e9")) == 8
    assert len(load(table, where="width > 300")) == 4
    table.loc[0, "D"] = "unknown"
    with pytest.raises(TableError, match="'D' must be numbers"):
        load(table)
    assert len(load(table, where="D > 0")) == 11


def test_a_condition_is_about_finished_runs():
    table = grid().assign(state="finished")
    table.loc[12] = [3e8, 9e11, 2.0, "crashed"]
    with pytest.warns(RowsLeftOut):
        got = load(table, where="D == D.max()")
    assert got.loc[got["status"] == "ok", "D"].tolist() == [1e10] * 4
    with pytest.raises(TableError, match="leaves an empty table: none of 12 rows match"):
        load(table, where="D > 1e11")


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None, "NaN", "Infinity", ""])
def test_rows_without_a_loss_are_left_out_and_counted(value, tmp_path):
    table = grid().astype({"L": object})
    table.loc[[2, 7], "L"] = value
    table.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.warns(RowsLeftOut, match="10 rows; left out: 2 without a loss"):
        got = load(tmp_path / "runs.csv")
    assert got.attrs["left_out"] == {"without a loss": 2} and 2 not in got.index
    with pytest.raises(TableError, match=r"2 of 12 rows are not, first at row 2.*--where"):
        load(tmp_path / "runs.csv", strict=True)


def test_a_fit_records_the_rows_that_were_left_out():
    table = pd.concat([grid(noise=0.01), grid(noise=0.01)], ignore_index=True)
    table.loc[24] = [1e8, 2e9, np.nan]
    with pytest.warns(RowsLeftOut, match="12 rows; left out: 12 exact duplicates, 1 without a lo"):
        found = fit("chinchilla", load(table), bootstrap=0)
    assert found.n == 12
    assert found.record()["left_out"] == {"exact duplicates": 12, "without a loss": 1}
    assert "12 of 25 rows (left out: 12 exact duplicates, 1 without a loss)" in found.text()


# ------------------------------------------------------------------ duplicates


def test_exact_duplicates_do_not_narrow_the_intervals():
    once = grid(noise=0.01)
    with pytest.warns(RowsLeftOut):
        twice = load(pd.concat([once, once], ignore_index=True))
    one, two = (fit("chinchilla", each, bootstrap=0) for each in (load(once), twice))
    assert one.stderr == two.stderr and one.params == two.params
    with pytest.raises(TableError, match="12 of 24 rows repeat an earlier one exactly, first at"):
        load(pd.concat([once, once], ignore_index=True), strict=True)


def test_rows_that_differ_in_anything_but_their_number_are_kept():
    table = pd.concat([grid(), grid()], ignore_index=True)
    for column in ({"seed": [0] * 12 + [1] * 12}, {"run_id": [f"r{i}" for i in range(24)]}):
        assert not repeated(table.assign(**column)).any()
    for name in ("Unnamed: 0", "index", "#"):
        assert repeated(table.assign(**{name: range(24)})).sum() == 12
    assert repeated(table.assign(curve=[[1, 2]] * 24)).sum() == 12
    assert not repeated(table.assign(curve=[[1, i] for i in range(24)])).any()


# ------------------------------------------------------------------ resumed runs and curves


def resumed() -> pd.DataFrame:
    """Twelve runs, two of which have an earlier evaluation, and one a step written twice."""
    table = grid(noise=0.01).assign(run_id=[f"r{i}" for i in range(12)])
    early = table.iloc[[3, 8]].assign(D=lambda t: t["D"] / 3, L=lambda t: t["L"] * 1.1)
    old = table.iloc[[5]].assign(L=9.0)
    return pd.concat([early, old, table], ignore_index=True)


def test_of_a_step_that_a_resumed_run_wrote_twice_the_last_row_counts():
    with pytest.warns(RowsLeftOut, match="14 evaluations of 12 runs; left out: 1 written again"):
        got = load(resumed())
    assert got["L"].max() < 9
    with pytest.warns(RowsLeftOut, match="12 runs; left out: 1 written again.*, 2 earlier eval"):
        last = load(resumed(), rows="auto")
    assert len(last) == 12 and set(last["run_id"]) == {f"r{i}" for i in range(12)}
    assert np.allclose(last.sort_values(["N", "D"])["D"], grid()["D"])


def test_few_runs_keep_all_their_evaluations_unless_told_otherwise():
    curves = pd.concat([grid(sizes=(1e7, 3e7, 1e8), tokens=np.geomspace(1e8, 1e10, 9))])
    curves["run_id"] = curves["N"].astype(str)
    kept, _, why = evaluations(curves, "auto")
    assert len(kept) == 27 and "fewer than 10 runs" in why and "--rows last" in why
    last, left, _ = evaluations(curves, "last")
    assert len(last) == 3 and left == 24 and (last["D"] == 1e10).all()
    assert evaluations(curves, "all")[1] == 0


def learning_curves(ends: np.ndarray, sizes: np.ndarray) -> pd.DataFrame:
    """Return ten evaluations of each run, on its way to `ends` tokens."""
    tokens = np.outer(ends, np.geomspace(0.05, 1, 10))
    N = np.repeat(sizes, 10)
    table = pd.DataFrame(
        {"run_id": np.repeat(np.arange(len(ends)), 10), "N": N, "D": tokens.ravel()}
    )
    noise = np.random.default_rng(0).normal(0, 0.002, len(table))
    loss = 1.8 + 400 / table["N"] ** 0.34 + 1500 / table["D"] ** 0.36
    return table.assign(L=loss * np.exp(noise))


SIZES = np.geomspace(2e7, 7e8, 12)
WOBBLE = np.random.default_rng(1).uniform(0.95, 1.05, 12)


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        (np.full(12, 2e9), "D is nearly the same"),
        (2e9 * WOBBLE, "D is nearly the same"),
        (20 * SIZES, "D follows N"),
        (20 * SIZES * WOBBLE, "D follows N"),
        (1e19 / 6 / SIZES, "D follows N"),
        (3e5 * SIZES**0.5, "D follows N"),
        (np.tile([2e9, 8e9], 6), ""),
        (20 * SIZES * np.tile([0.3, 1, 3], 4), ""),
    ],
)
def test_only_last_evaluations_that_tell_n_from_d_are_taken_alone(ends, why):
    curves = learning_curves(ends, SIZES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RowsLeftOut)
        runs = load(curves, rows="auto")
    assert len(runs) == (120 if why else 12)
    said = in_words(runs)
    assert why in said and ("--rows last" if why else "--rows all") in said
    if why:
        found = fit("chinchilla", runs, bootstrap=0).params
        assert found["beta"] == pytest.approx(0.36, abs=0.04)


def test_last_evaluations_at_few_points_are_not_taken_alone():
    sizes = np.repeat(np.geomspace(2e7, 7e8, 5), 2)
    ends = np.repeat([4e9, 1e9, 8e9, 2e9, 3e10], 2)
    kept, left, why = evaluations(learning_curves(ends, sizes), "auto")
    assert left == 0 and len(kept) == 100 and "only 5 different N and D" in why


def test_a_law_of_n_alone_takes_the_last_evaluations():
    curves = learning_curves(np.full(12, 2e9), SIZES)
    assert len(evaluations(curves, "auto", ("N", "L"))[0]) == 12
    assert len(evaluations(curves, "auto", ("D", "L"))[0]) == 120


def test_a_refused_fit_of_last_evaluations_names_the_option_for_all():
    with pytest.warns(RowsLeftOut):
        runs = load(learning_curves(np.full(12, 2e9), SIZES), rows="last")
    with pytest.raises(FitError, match=r"differ in D.*108 earlier evaluations.*--rows all"):
        fit("chinchilla", runs)


def test_one_run_id_at_several_sizes_is_several_runs():
    table = grid().assign(run_id="all of them", seed=0)
    assert len(evaluations(table, "last")[0]) == 4
    assert len(evaluations(table.assign(seed=range(12)), "last")[0]) == 12


def test_curves_of_one_run_id_at_several_sizes_are_told_apart():
    table = grid().assign(run_id=[None, "own", *["shared"] * 10])
    curves = load(table, curves=True)
    assert curves["run_id"].nunique() == 6 and "own" in set(curves["run_id"])
    assert (curves.groupby("run_id")["N"].nunique() == 1).all()
    assert (curves["D_total"] == curves.groupby("run_id")["D"].transform("max")).all()


# ------------------------------------------------------------------ searches


RATES = tuple(np.geomspace(2.5e-4, 6.4e-2, 9))


def search(rates=RATES, depth=0.02) -> pd.DataFrame:
    """Nine learning rates at each of 8 (N, D); the best is lr = 22 N^-0.6 D^0.05."""
    table = grid(sizes=(1e7, 3e7, 1e8, 3e8), tokens=(1e9, 4e9)).merge(
        pd.DataFrame({"lr_peak": rates}), how="cross"
    )
    best = 22.0 * table["N"] ** -0.6 * table["D"] ** 0.05
    return table.assign(L=table["L"] + depth * np.log(table["lr_peak"] / best) ** 2)


def test_a_learning_rate_law_is_fitted_to_the_best_run_of_each_size_and_horizon():
    found = fit(laws.learning_rate, search(), bootstrap=0)
    assert found.n == 8 and found.params["p"] == pytest.approx(-0.6, abs=0.15)
    assert found.certificate.left_out == {"not the best lr_peak of their N and D": 64}
    best = search().loc[lambda t: t.groupby(["N", "D"])["L"].idxmin()]
    assert found.params == fit(laws.learning_rate, best, bootstrap=0).params


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(72)), st.floats(-0.004, 0.004))
def test_the_order_of_rows_and_the_rounding_of_D_do_not_matter(order, rounding):
    table = search()
    table["D"] *= 1 + rounding * (np.arange(72) % 2)
    kept = best_of_searches(table, "lr_peak", ("N", "D")).kept
    again = best_of_searches(table.iloc[list(order)], "lr_peak", ("N", "D")).kept
    assert kept.sum() == 8 and set(table.index[kept]) == set(table.iloc[list(order)].index[again])


def test_diverged_runs_do_not_stop_a_search_and_count_as_rates_tried():
    table = search()
    low = table["N"] > 2e8
    diverged = low & (table["lr_peak"] > 1.1e-3)
    for lost in ({"L": table["L"].mask(diverged)},
                 {"status": np.where(diverged, "diverged", "ok")}):  # fmt: skip
        found = best_of_searches(table.assign(**lost), "lr_peak", ("N", "D"))
        assert found.kept.sum() == 8 and not found.remarks
    assert fit("learning_rate", table.assign(L=table["L"].mask(diverged)), bootstrap=0).n == 8


def test_a_best_rate_at_the_edge_of_its_grid_is_left_out():
    table = search()
    table = table[(table["N"] < 2e8) | (table["lr_peak"] > 2e-3)]
    found = fit("learning_rate", table, bootstrap=0)
    assert found.n == 6 and found.certificate.left_out["best at the edge of the lr_peak tried"] == 2
    assert any(line.startswith("edge of search") or "smallest or largest" in line
               for line in found.status)  # fmt: skip
    with pytest.raises(TableError, match="every N and D is the smallest or the largest tried"):
        fit("learning_rate", search(rates=(1e-9, 1e-8)), bootstrap=0)


def test_single_rates_are_taken_as_they_are_and_it_is_stated():
    table = search()
    single = table[(table["N"] > 2e7) | (table["lr_peak"] == table["lr_peak"].median())]
    found = fit("learning_rate", single, bootstrap=0)
    assert found.n == 8 and "2 have only one lr_peak per N and D" in "; ".join(found.status)
    lost = single.assign(L=single["L"].where(single["N"] > 2e7))
    assert fit("learning_rate", lost, bootstrap=0).n == 6  # a run without a loss was not tuned
    several = fit("learning_rate", table.drop(columns="L"), bootstrap=0)
    assert several.n == 72 and "no loss L" in "; ".join(several.status)


def test_a_batch_size_law_is_fitted_to_the_best_batch():
    table = search(rates=np.geomspace(1e4, 1e7, 25)).rename(columns={"lr_peak": "B"})
    best = 3.0 * table["D"] ** 0.5
    table["L"] = grid()["L"].iloc[0] + 0.01 * np.log(table["B"] / best) ** 2
    found = fit("batch_size", table, bootstrap=0)
    assert found.n == 8 and 0.2 < found.params["q"] < 0.8
