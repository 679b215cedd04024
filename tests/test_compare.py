"""Two recipes compared: effective speed-up, crossover, choices by the small runs, the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import call

from analysis import FitError, compare, effective_speedup, laws, load
from analysis.comparison.compare import split
from analysis.comparison.joint import joint_fit
from analysis.comparison.small_runs import pairs
from analysis.planning.quantity import quantity_of
from scaling.errors import ConfigError, TableError

E, ALPHA = 1.7, 0.17
OPTIMUM = cast(Callable[..., Any], laws.chinchilla.optimum)
COMPUTE: Any = np.geomspace(1e17, 1e20, 7)


def ladder(
    k: float, alpha: float = ALPHA, *, C: Any = COMPUTE, noise=0.0, rng=None
) -> pd.DataFrame:
    """Runs of E + k C^-alpha."""
    L = E + k * C**-alpha
    if rng is not None:
        L = L * np.exp(noise * rng.standard_normal(len(C)))
    return pd.DataFrame({"C": C, "L": L})


def sizes(A: float, B: float, n: int = 7, E: float = 1.8) -> pd.DataFrame:
    """A grid of runs of Hoffmann et al.'s law with exponents 0.34 and 0.37."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, n), np.geomspace(3e8, 1e11, n)))
    return pd.DataFrame({"N": N, "D": D, "C": 6 * N * D, "L": E + A * N**-0.34 + B * D**-0.37})


# ------------------------------------------------------------------ effective speed-up


@settings(max_examples=50, deadline=None)
@given(
    floor=st.floats(0, 3), alpha=st.floats(0.03, 0.6), gap=st.floats(0.05, 3),
    speedup=st.floats(0.2, 20),
)  # fmt: skip
def test_the_speedup_of_two_losses_is_that_of_the_law(floor, alpha, gap, speedup):
    got = effective_speedup(floor + gap, floor + gap * speedup**alpha, floor=floor, alpha=alpha)
    rounding = 1e-15 * (floor + gap * 4) / gap / alpha * 4
    assert got.value == pytest.approx(speedup, rel=max(rounding, 1e-12))
    assert math.isnan(got.low) and math.isnan(got.high)


@pytest.mark.parametrize("factor", [0.7, 1.1, 1.6])
def test_the_speedup_of_two_constructed_ladders_with_a_pinned_floor_is_exact(factor):
    found = compare(ladder(1000), ladder(1000 * factor), floor=E, share="exponents", bootstrap=200)
    assert found.speedup.value == pytest.approx(factor ** (1 / ALPHA), rel=1e-12)
    assert found.better == ("A" if factor > 1 else "B")
    assert found.probability == (1.0 if factor > 1 else 0.0)
    assert found.by_compute["speedup"].to_numpy() == pytest.approx(factor ** (1 / ALPHA), rel=1e-12)
    same = effective_speedup(
        float(found.losses[0].value), float(found.losses[1].value), floor=E, alpha=ALPHA
    )
    assert found.speedup.value == pytest.approx(same.value, rel=1e-10)


def test_the_speedup_of_recipes_with_two_exponents_changes_with_compute():
    found = compare(ladder(1000), ladder(1000, ALPHA + 0.004), floor=E, C=1e21, bootstrap=0)
    for C, speedup in found.by_compute[["C", "speedup"]].to_numpy():
        reducible = 1000 * C**-ALPHA
        assert speedup == pytest.approx((1000 / reducible) ** (1 / (ALPHA + 0.004)) / C, rel=1e-9)
    assert math.isnan(found.probability) and "no interval" in str(found)


def test_the_speedup_of_laws_of_N_and_D_is_that_of_their_frontiers():
    a, b = sizes(480, 2100), sizes(520, 2400)
    found = compare(a, b, law="chinchilla", C=1e22, bootstrap=0)
    gamma = 0.34 * 0.37 / (0.34 + 0.37)
    lowest = []
    for A, B in ((480.0, 2100.0), (520.0, 2400.0)):
        N = OPTIMUM(1e22, E=1.8, A=A, B=B, alpha=0.34, beta=0.37)
        lowest.append(A * N**-0.34 + B * (1e22 / 6 / N) ** -0.37)
    assert found.speedup.value == pytest.approx((lowest[1] / lowest[0]) ** (1 / gamma), rel=1e-6)
    assert found.losses[0].value == pytest.approx(1.8 + lowest[0], rel=1e-9)
    assert found.floor is not None and found.floor.value == pytest.approx(1.8, rel=1e-6)


def test_a_loss_that_the_other_recipe_never_reaches_is_an_infinite_speedup():
    found = compare(
        sizes(480, 2100), sizes(480, 2100, E=2.5), law="chinchilla", share="nothing", C=1e22,
        bootstrap=0,
    )  # fmt: skip
    assert math.isinf(found.speedup.value) and "no compute brings B" in str(found)
    assert found.record()["speedup"]["value"] is None


def test_the_interval_of_two_losses_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    a, b = 1000 * 1e20**-ALPHA, 1100 * 1e20**-ALPHA
    noise, truth, hits = 0.02 * a, (b / a) ** (1 / ALPHA), 0
    for _ in range(2000):
        got = effective_speedup(
            E + a + noise * rng.standard_normal(), E + b + noise * rng.standard_normal(),
            floor=E, alpha=ALPHA, stderr_A=noise, stderr_B=noise, level=0.9,
        )  # fmt: skip
        hits += got.low <= truth <= got.high
    assert 0.87 <= hits / 2000 <= 0.93


def test_the_interval_of_two_ladders_covers_as_often_as_it_says():
    """Sixty pairs; benchmarks/compare_coverage.py has the other cases and more of them."""
    rng, truth = np.random.default_rng(1), 1.1 ** (1 / ALPHA)
    hits = 0
    for seed in range(60):
        tables = (ladder(k, C=np.geomspace(1e17, 1e20, 12), noise=0.003, rng=rng)
                  for k in (1000, 1100))  # fmt: skip
        joint = joint_fit(laws.floor_C, (*tables,), share="exponents", floor=E, bootstrap=200,
                          seed=seed)  # fmt: skip
        got = quantity_of(joint.speedup(1e21), 0.9)
        hits += got.low <= truth <= got.high
    assert 48 <= hits <= 59  # 0.9 +- 2.6 standard errors


def test_a_loss_that_may_be_at_the_floor_leaves_the_speedup_unbounded():
    got = effective_speedup(1.71, 1.9, floor=1.7, alpha=0.2, stderr_A=0.02)
    assert got.low > 1 and math.isinf(got.high)
    with pytest.raises(FitError, match=r"loss of A, 1\.6, is not above the floor of 1\.7"):
        effective_speedup(1.6, 1.9, floor=1.7, alpha=0.2)
    with pytest.raises(FitError, match="alpha=0"):
        effective_speedup(1.8, 1.9, floor=1.7, alpha=0)


# ------------------------------------------------------------------ crossover


def test_the_crossover_of_constructed_ladders_is_where_their_losses_are_equal():
    crossing = 1e22
    steeper = ladder(1000 * crossing**0.02, ALPHA + 0.02)
    found = compare(ladder(1000), steeper, floor=E, names=("old", "new"), bootstrap=200)
    assert found.leader == "old"
    assert found.crossover.value == pytest.approx(crossing, rel=1e-8)
    assert found.crossover.low <= crossing * (1 + 1e-6) and found.overtaken == 1
    assert "new overtakes old at C = 1e+22" in str(found)
    again = compare(steeper, ladder(1000), floor=E, names=("new", "old"), bootstrap=0)
    assert again.leader == "old" and again.crossover.value == pytest.approx(crossing, rel=1e-8)


def test_the_crossover_of_laws_of_N_and_D_is_where_their_frontiers_meet():
    rng = np.random.default_rng(2)
    a = sizes(480, 2100)
    b = a.assign(L=1.8 + 900 * a["N"] ** -0.375 + 3500 * a["D"] ** -0.395)
    noisy = [t.assign(L=t["L"] * np.exp(0.002 * rng.standard_normal(len(t)))) for t in (a, b)]
    exact = compare(a, b, law="chinchilla", bootstrap=0)
    x = exact.crossover.value
    left, right = exact.fit.losses(np.array([x]))
    assert left[0, 0] == pytest.approx(right[0, 0], rel=1e-10)
    found = compare(*noisy, law="chinchilla", bootstrap=300)
    assert found.crossover.low <= x <= found.crossover.high
    assert found.crossover.high < 100 * found.crossover.low
    assert exact.leader == found.leader == "A"


def test_a_recipe_that_stays_better_has_no_crossover():
    found = compare(ladder(1000), ladder(1100), floor=E, share="exponents", bootstrap=50)
    assert math.isinf(found.crossover.value) and found.overtaken == 0
    record = found.record()["crossover"]
    assert record["none_found"] and record["value"] is None and record["better_below"] == "A"


def test_recipes_without_noise_or_difference_are_tied():
    found = compare(ladder(1000), ladder(1000), floor=E, bootstrap=50)
    assert found.probability == 0.5 and found.leader is None
    assert "crossover: not known" in str(found)


def test_a_table_compared_with_itself_has_no_winner():
    rng = np.random.default_rng(3)
    table = ladder(1000, C=np.geomspace(1e17, 1e20, 12), noise=0.003, rng=rng)
    found = compare(table, table, floor=E, share="exponents")
    assert found.speedup.value == pytest.approx(1, abs=1e-6)
    assert found.speedup.low < 1 < found.speedup.high and 0.3 < found.probability < 0.7


# ------------------------------------------------------------------ choices by the small runs


def test_choosing_by_the_small_runs_loses_what_the_runs_at_the_target_say():
    crossing = 1e19
    old, new = ladder(1000), ladder(1000 * crossing**0.02, ALPHA + 0.02)
    found = compare(old, new, floor=E, names=("old", "new"), bootstrap=0)
    rows = found.choices[(found.choices["rule"] == "small runs") & (found.choices["C"] == 1e20)]
    early = rows[rows["cut"] < crossing / 2]
    assert (early["chosen"] == "old").all() and (early["better"] == "new").all()
    assert early["nats"].to_numpy() == pytest.approx(old["L"].iloc[-1] - new["L"].iloc[-1])
    wanted = ((old["L"].iloc[-1] - E) / (new["L"].iloc[-1] - E)) ** (1 / ALPHA) - 1
    assert early["flops"].to_numpy() == pytest.approx(1e20 * wanted, rel=1e-6)
    by_law = found.choices[found.choices["rule"] == "floor_C"]
    assert len(by_law) and (by_law["nats"] == 0).all()  # the law sees the crossover coming


def test_choices_are_absent_if_the_recipes_do_not_overlap_in_compute():
    found = compare(ladder(1000), ladder(1100, C=COMPUTE * 1e4), floor=E, bootstrap=0)
    assert found.choices.empty and "do not overlap" in found.why_no_choices
    assert "not judged" in str(found)


def test_runs_of_unequal_compute_are_compared_by_interpolation():
    a, b = (
        ladder(1000, C=np.geomspace(1e17, 1e20, 30)),
        ladder(1100, C=np.geomspace(1.5e17, 3.6e19, 6)),
    )
    found = pairs((a, b), laws.floor_C)
    assert len(found) > 4
    for pair in found:
        assert pytest.approx(E + 1000 * pair.C**-ALPHA, rel=2e-3) == pair.A
        assert pytest.approx(E + 1100 * pair.C**-ALPHA, rel=1e-2) == pair.B


def test_recipes_are_judged_on_the_sizes_that_both_have():
    a = sizes(480, 2100)
    b = sizes(500, 2200)
    more = pd.DataFrame({"N": [2e7], "D": [1e12], "C": [1.2e20], "L": [1.0]})
    with_more = pairs((a, pd.concat([b, more], ignore_index=True)), laws.chinchilla)
    assert with_more == pairs((a, b), laws.chinchilla)
    assert all(pair.A < pair.B for pair in with_more)


# ------------------------------------------------------------------ tables


def test_the_law_follows_from_the_tables():
    assert compare(sizes(480, 2100), sizes(500, 2200), bootstrap=0).fit.law == laws.chinchilla
    assert compare(ladder(1000), ladder(1100), bootstrap=0).fit.law == laws.floor_C


def test_only_runs_on_the_frontier_tell_the_loss_of_a_compute():
    few = sizes(500, 2200).query("D == D.max()").head(4)
    found = compare(sizes(480, 2100), few, bootstrap=0)
    kept = found.fit.result.runs.query("recipe == 1")
    assert found.fit.law == laws.floor_C and len(kept) < 49
    assert (kept.sort_values("C")["L"].diff().dropna() <= 0).all()


def test_runs_of_two_tables_with_the_same_ids_are_different_runs():
    a, b = (t.assign(run_id=[f"r{i}" for i in t.index]) for t in (ladder(1000), ladder(1100)))
    assert compare(a, b, floor=E, bootstrap=0).fit.result.problem.units() == 14


def test_unusable_tables_and_options_are_refused():
    a = ladder(1000)
    with pytest.raises(FitError, match="B has 1 run: two or more"):
        compare(a, a.head(1))
    with pytest.raises(FitError, match="same compute"):
        compare(a, a.assign(C=1e18))
    with pytest.raises(TableError, match=r"B: the table has no column 'C'"):
        compare(a, a.drop(columns="C"))
    with pytest.raises(FitError, match="not below every loss"):
        compare(a, a, floor=5)
    with pytest.raises(FitError, match="no irreducible loss"):
        compare(a, a, law="kaplan_C", floor=1.7)
    with pytest.raises(ConfigError, match="law of N, D"):
        compare(a, a, law="learning_rate")
    with pytest.raises(ConfigError, match="share"):
        compare(a, a, share="all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="has 1 value "):
        split(a.assign(kind="x"), "kind")


# ------------------------------------------------------------------ the command


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ladder(1000).to_csv("old.csv", index=False)
    ladder(1100).to_csv("new.csv", index=False)
    parts = [ladder(k).assign(optimizer=name) for name, k in (("sgd", 1000), ("muon", 1100))]
    pd.concat(parts).to_csv("both.csv", index=False)
    return tmp_path


def test_the_command_compares_two_tables(here, capsys):
    words = ("--floor", E, "--share", "exponents", "--flops", "1e21")
    assert call("compare", "old.csv", "new.csv", *words) == 0
    out = capsys.readouterr().out
    assert "effective speed-up of old over new: 1.752 [1.752, 1.752]" in out
    assert "probability that A is better: more than 0.99" in out
    assert call("compare", "old.csv", "new.csv", *words, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["speedup"]["value"] == pytest.approx(1.1 ** (1 / ALPHA), rel=1e-12)
    assert record["target"] == 1e21 and record["better"] == "old" and record["level"] == 0.9
    assert {"crossover", "choices", "by_compute", "probability_A_better"} <= set(record)


def test_the_command_compares_the_values_of_a_column(here, capsys):
    assert call("compare", "both.csv", "--by", "optimizer", "--floor", E, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["A"], record["B"]) == ("sgd", "muon")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("old.csv",), "Give two tables, or one with --by COLUMN"),
        (("old.csv", "new.csv", "both.csv"), "3 tables are given"),
        (("both.csv", "--by", "optimiser"), "Did you mean|no column 'optimiser'"),
        (("both.csv", "--by", "C"), "has 7 values"),
        (("old.csv", "absent.csv"), "absent.csv does not exist"),
        (("old.csv", "new.csv", "--law", "chinchilla"), "no column 'N'"),
        (("old.csv", "new.csv", "--floor", "9"), "Give a lower floor"),
        (("old.csv", "new.csv", "--flops", "-1"), "must be positive"),
        (("old.csv", "new.csv", "--share", "all"), "'all' is not one of"),
    ],
)
def test_the_command_refuses_in_one_line(here, capsys, words, message):
    assert call("compare", *words) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "note:" not in line]
    assert len(lines) == 1 and not captured.out
    assert any(part in lines[0] for part in message.split("|")), lines[0]


# ------------------------------------------------------------------ published tables


def test_the_training_sets_of_gadre_et_al_are_compared(published):
    runs = load(
        published / "gadre2024" / "models104.csv", need=("N", "D", "L"), map={"loss_c4_val": "L"}
    )
    parts = dict(iter(runs.groupby("train_set")))
    found = compare(
        parts["c4_original"], parts["rpj"], law="chinchilla", names=("c4", "rpj"), bootstrap=200,
        C=1e22,
    )  # fmt: skip
    # Judged on C4, training on C4 is better.
    assert found.better == "c4" and found.speedup.value > 1 and found.probability > 0.9
    assert found.speedup.low > 0.5 and len(found.choices)
    with pytest.raises(ConfigError, match=r"3 values .* Keep two of them"):
        split(runs, "train_set")
