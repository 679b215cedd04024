"""Fits of few rows, floors of zero, weights and targets of any size, and repeated rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws

TRUTH = {"E": 1.82, "A": 480.0, "B": 2100.0, "alpha": 0.347, "beta": 0.367}


def surface(n: int, seed: int = 0, noise: float = 0.005, **other: float) -> pd.DataFrame:
    """Return runs of Chinchilla's law (with `other` values of its parameters)."""
    rng = np.random.default_rng([n, seed])
    N = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), n))
    D = N * np.exp(rng.uniform(np.log(3), np.log(300), n))
    L = laws.chinchilla.predict(TRUTH | other, N=N, D=D) * np.exp(noise * rng.standard_normal(n))
    return pd.DataFrame({"N": N, "D": D, "L": L})


# ------------------------------------------------------------------ Huber at every n


@pytest.mark.parametrize("n", [8, 15, 20, 24, 40])
def test_the_default_objective_is_huber_at_every_number_of_rows(n):
    assert fit("chinchilla", surface(n), bootstrap=0).objective_kind == "huber"


@pytest.mark.parametrize("n", [14, 20, 24])
@pytest.mark.parametrize("bad", [3, 7])
def test_one_doubled_loss_among_few_rows_does_not_carry_the_fit_away(n, bad):
    runs = surface(n, noise=0.001)
    runs.loc[bad, "L"] *= 2
    result = fit("chinchilla", runs, bootstrap=0)
    assert result.params["E"] == pytest.approx(1.82, rel=0.08)
    assert result.params["alpha"] == pytest.approx(0.347, rel=0.3)


def test_huber_intervals_of_few_rows_cover_as_often_as_least_squares():
    covered = {"ls": 0, "huber": 0}
    for seed in range(25):
        runs = surface(9, seed)
        for objective in covered:
            result = fit("chinchilla", runs, objective=objective, bootstrap=0)
            rows = result.interval(0.9).loc[["E", "alpha", "beta"]]
            truth = [TRUTH[p] for p in rows.index]
            covered[objective] += int(((rows["low"] <= truth) & (rows["high"] >= truth)).sum())
    assert covered["huber"] >= covered["ls"] - 4
    assert covered["huber"] >= 0.78 * 75


# ------------------------------------------------------------------ floors of zero


@pytest.mark.parametrize("n", [16, 60])
@pytest.mark.parametrize("form", ["chinchilla", "floor_N"])
def test_the_interval_of_a_floor_of_zero_contains_zero(n, form):
    contained = []
    for seed in range(6):
        runs = surface(n, seed, E=0.0)
        if form == "floor_N":
            noise = np.random.default_rng(seed).standard_normal(n)
            runs["L"] = 20 * runs["N"] ** -0.1 * np.exp(0.005 * noise)
        row = fit(form, runs, bootstrap=100).interval(0.95).loc["E"]
        contained.append(row["low"] == 0.0)
        assert 0 < row["high"] < 10
    assert np.mean(contained) > 0.8


def test_the_interval_of_a_floor_that_the_data_need_does_not_contain_zero():
    result = fit("chinchilla", surface(60), bootstrap=100)
    assert result.interval()["low"]["E"] > 1.5
    assert result.interval()["low"]["A"] > 0


# ------------------------------------------------------------------ sizes of numbers


@pytest.mark.parametrize("size", [1e-320, 1e-25, 1e300])
def test_equal_weights_of_any_size_change_nothing(size):
    runs = surface(40)
    weighted = fit("chinchilla", runs, weights=np.full(40, size), bootstrap=0)
    plain = fit("chinchilla", runs, bootstrap=0)
    assert weighted.params == plain.params and weighted.status == plain.status


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e6])
@pytest.mark.parametrize("on", ["log", "raw"])
@pytest.mark.parametrize("objective", ["huber", "ls"])
def test_the_unit_of_the_target_does_not_matter(size, on, objective):
    runs = surface(40)
    options = {"on": on, "objective": objective, "bootstrap": 0}
    plain = fit("chinchilla", runs, **options)
    scaled = fit("chinchilla", runs.assign(L=runs["L"] * size), **options)
    assert scaled.params["E"] == pytest.approx(plain.params["E"] * size, rel=1e-5)
    assert scaled.params["alpha"] == pytest.approx(plain.params["alpha"], rel=1e-5)
    assert scaled.certificate.not_identified == plain.certificate.not_identified


# ------------------------------------------------------------------ repeated rows


def repeats(runs: pd.DataFrame) -> str:
    status = fit("chinchilla", runs, bootstrap=0).status
    return "; ".join(line for line in status if line.code == "duplicates")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", [1e-3, 2e-3]), ("B", [64.0, 128.0]), ("corpus", ["web", "code"]),
        ("optimizer", ["adamw", "muon"]), ("my_setting", ["a", "b"]),
    ],
)  # fmt: skip
def test_rows_that_differ_in_a_setting_do_not_repeat_another(name, values):
    runs = surface(30).round({"L": 2})
    runs[name] = [values[0]] * 30
    other = runs.iloc[[4]].assign(**{name: values[1]}).set_axis([99])
    assert "1 rows repeat another exactly, first row 99" in repeats(
        pd.concat([runs, other.assign(**{name: values[0]})])
    )
    assert repeats(pd.concat([runs, other])) == ""


@pytest.mark.parametrize(
    ("name", "values"), [("run_id", [f"r{i}" for i in range(31)]), ("seconds", np.arange(31.0))]
)
def test_rows_with_another_name_or_time_still_repeat_one(name, values):
    runs = surface(30)
    runs = pd.concat([runs, runs.iloc[[4]]], ignore_index=True).assign(**{name: values})
    assert "1 rows repeat another exactly, first row 30" in repeats(runs)
