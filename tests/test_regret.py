"""Decision regret: nats and FLOPs lost by acting on the advice of smaller runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from small import call

from analysis import FitError, fit, laws, load, regret
from analysis.frontiers.frontier import frontier
from analysis.validation.compute_lost import extra_compute
from analysis.validation.compute_targets import compute_targets
from scaling.errors import TableError

RESULTS = Path(__file__).parents[1] / "results"
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.34, "beta": 0.37}
OPTIMUM = cast(Callable[..., Any], laws.chinchilla.optimum)
BUDGETS = np.geomspace(1e17, 1e20, 6)


def isoflop(budgets=BUDGETS, per=9, noise=0.0, seed=0) -> pd.DataFrame:
    """An isoFLOP set of Hoffmann et al.'s law, sizes within a factor of four of the best."""
    rows = []
    for C in budgets:
        best = OPTIMUM(C, **TRUTH)
        N = best * np.geomspace(0.25, 4, per)
        rows.append(pd.DataFrame({"N": N, "D": C / 6 / N}))
    out = pd.concat(rows, ignore_index=True)
    L = laws.chinchilla.predict(TRUTH, N=out["N"], D=out["D"])
    rng = np.random.default_rng(seed)
    return out.assign(C=6 * out["N"] * out["D"], L=L * np.exp(noise * rng.standard_normal(len(L))))


def searches(best=lambda N, D: 0.02 * N**-0.2, sizes=(1e7, 3e7, 1e8, 3e8), steps=9):
    """Searches of the learning rate: L rises as the square of ln(lr / best)."""
    rows = []
    for N in sizes:
        D = 20 * N
        for lr in 1e-4 * 2.0 ** np.arange(steps):
            L = laws.chinchilla.predict(TRUTH, N=N, D=D) + 0.01 * np.log(lr / best(N, D)) ** 2
            rows.append({"N": N, "D": D, "lr_peak": lr, "L": float(L)})
    return pd.DataFrame(rows).assign(C=lambda t: 6 * t["N"] * t["D"])


# ------------------------------------------------------------------ N and D


def test_the_true_law_has_no_regret():
    got = regret("chinchilla", isoflop())
    rows = got.table.query("rule == 'chinchilla'")
    assert len(rows) >= 5 and rows["nats"].max() < 1e-6 and (rows["decision"] == "N and D").all()
    assert (rows["factor"] > 1).all() and not rows["at_least"].any()


def test_the_regret_of_a_size_is_the_loss_of_its_runs_above_the_best():
    """A rule that advises four times the best size, at which there is a run."""
    runs = isoflop()
    got = regret({"large": lambda small: lambda C: 4 * OPTIMUM(C, **TRUTH)}, runs)
    rows = got.table.query("rule == 'large'")
    for row in rows.to_dict("records"):
        N, D = 4 * (best := OPTIMUM(row["C"], **TRUTH)), row["C"] / 24 / best
        lost = laws.chinchilla.predict(TRUTH, N=N, D=D) - laws.chinchilla.predict(
            TRUTH, N=best, D=4 * D
        )
        assert row["nats"] == pytest.approx(float(lost), rel=1e-6)
        # Along the frontier the reducible loss falls as C^-gamma.
        gamma, above = 0.34 * 0.37 / (0.34 + 0.37), row["L_best"] - 1.8
        factor = ((above - row["nats"]) / above) ** (-1 / gamma) - 1
        assert row["flops"] == pytest.approx(row["C"] * factor, rel=1e-3)
    assert len(rows) and got.summary().query("rule == 'large'")["nats"].item() > 0


def test_advice_beyond_the_runs_gives_a_lower_bound():
    got = regret({"huge": lambda small: lambda C: 1e3 * OPTIMUM(C, **TRUTH)},
                 isoflop())  # fmt: skip
    rows = got.table.query("rule == 'huge'")
    assert rows["at_least"].all() and (rows["nats"] > 0).all() and ">= 0." in str(got)


def test_a_rule_may_be_a_law_a_fit_a_frontier_a_design_or_a_function():
    def design(small):  # a design: every other row only
        return fit("chinchilla", small.iloc[::2], bootstrap=0)

    class Predictor:
        def predict(self, N, D):
            return laws.chinchilla.predict(TRUTH, N=N, D=D)

    rules = {
        "law": laws.chinchilla,
        "design": design,
        "isoflop": lambda small: frontier(small, method="isoflop", bootstrap=0),
        "predictor": lambda small: Predictor(),
        "constant": lambda small: lambda C: 1e8,
    }
    got = regret(rules, isoflop())
    mean = got.summary().set_index("rule")["nats"]
    assert mean["constant"] > 0.01
    assert mean[["law", "design", "predictor"]].max() < 1e-5
    assert mean["isoflop"] < 1e-3 and "same D / N" in mean.index


def test_a_rule_sees_no_run_beyond_its_cut_off():
    seen = []

    def rule(small):
        seen.append(float((6 * small["N"] * small["D"]).max()))
        return lambda C: 1e8

    got = regret({"watched": rule}, isoflop())
    cuts = got.table.query("rule == 'watched'")["cut"].unique()
    assert max(seen) <= max(cuts) and len(cuts) == len(seen)
    assert (got.table["C"] > got.table["cut"]).all()


def test_a_grid_is_read_across_at_equal_compute():
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 3e9, 8), np.geomspace(1e8, 1e12, 9)))
    L = laws.chinchilla.predict(TRUTH, N=N, D=D)
    targets = compute_targets(pd.DataFrame({"N": N, "D": D, "C": 6 * N * D, "L": L}))
    assert len(targets) >= 3
    for target in targets:
        exact = laws.chinchilla.predict(TRUTH, N=target.N, D=target.C / 6 / target.N)
        assert pytest.approx(exact, rel=2e-3) == target.L


def test_what_a_table_does_not_allow_is_absent():
    ladder = pd.DataFrame({"N": (N := np.geomspace(1e7, 1e9, 12)), "D": 20 * N})
    ladder["L"] = laws.chinchilla.predict(TRUTH, N=N, D=20 * N)
    got = regret("chinchilla", ladder)
    assert got.table.empty and len(got.absent) >= 2 and got.summary().empty
    assert "no decision can be judged" in str(got)
    assert got.record()["regret"] == [] and json.dumps(got.record())
    few = regret("chinchilla", isoflop(BUDGETS[:3], per=5))
    some = few.table["rule"].unique()
    assert "same D / N" in some
    assert all(row["nats"] >= 0 for row in few.table.to_dict("records"))


def test_a_law_of_other_inputs_and_a_table_without_losses_are_refused():
    with pytest.raises(FitError, match="kaplan_N is a law of N; only a law of N and D"):
        regret("kaplan_N", isoflop())
    with pytest.raises(TableError, match="no column 'L'"):
        regret("chinchilla", isoflop().drop(columns="L"))


def test_the_compute_that_makes_up_for_nats_is_that_of_the_law():
    def loss(C):
        return 1.7 + 1000 * C**-0.17

    wanted = ((loss(1e20) - 1.7) / (loss(1e20) - 0.01 - 1.7)) ** (1 / 0.17) - 1
    assert extra_compute(loss, 1e20, 0.01) == pytest.approx(1e20 * wanted, rel=1e-9)
    assert extra_compute(loss, 1e20, 0) == 0 and math.isinf(extra_compute(loss, 1e20, 5))


# ------------------------------------------------------------------ learning rate and batch size


def test_a_power_law_of_the_learning_rate_beats_keeping_the_last_one():
    got = regret("chinchilla", searches())
    rows = got.table.query("decision == 'lr'")
    mean = rows.groupby("rule")["nats"].mean()
    assert mean["power law"] < mean["same as the largest"]
    assert set(rows["rule"]) == {"power law", "same as the largest"}


def test_the_regret_of_a_learning_rate_is_exact_on_the_grid():
    steps = 1e-4 * 2.0 ** np.arange(9)
    runs = searches(best=lambda N, D: steps[6] if N < 5e7 else steps[4])
    rows = regret("chinchilla", runs).table.query("rule == 'same as the largest'")
    first = rows[rows["cut"] < 6 * 20 * 5e7**2]
    assert first["advice"].to_numpy() == pytest.approx(steps[6])
    late = first[first["C"] > 6 * 20 * 5e7**2]
    assert late["nats"].to_numpy() == pytest.approx(0.01 * np.log(4) ** 2)
    assert late["best"].to_numpy() == pytest.approx(steps[4])


def test_searches_of_learning_rate_and_batch_size_are_judged_together():
    rows = []
    for N in (1e7, 3e7, 1e8, 3e8):
        best = np.array([0.02 * N**-0.2, 20 * N**0.5])
        for lr in 1e-4 * 2.0 ** np.arange(9):
            for B in 1e4 * 2.0 ** np.arange(7):
                off = np.log([lr, B] / best)
                L = laws.chinchilla.predict(TRUTH, N=N, D=20 * N) + 0.01 * off @ off
                rows.append({"N": N, "D": 20 * N, "lr_peak": lr, "B": B, "L": float(L)})
    got = regret("chinchilla", pd.DataFrame(rows))
    table = got.table.query("decision == 'lr and B'")
    assert table.query("rule == 'power law'")["nats"].max() < 0.01
    assert len(table) and table["advice"].str.count(",").eq(1).all()


def test_searches_with_their_best_at_an_edge_do_not_judge():
    got = regret("chinchilla", searches(best=lambda N, D: 1.0))
    assert got.table.empty and any("inside the values tried" in line for line in got.absent)


# ------------------------------------------------------------------ the command, real tables


@pytest.mark.filterwarnings("ignore:.*columns are taken")
def test_validate_prints_the_regret(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"N": "params", "D": "tokens", "L": "loss"}
    isoflop(noise=0.001)[list(names)].rename(columns=names).to_csv("runs.csv", index=False)
    assert call("validate", "runs.csv", "--regret", "--against", "kaplan_ND", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in record["summary"]} == {"chinchilla", "kaplan_ND", "same D / N"}
    assert {"cut", "advice", "best", "nats", "flops"} <= set(record["regret"][0])
    assert call("validate", "runs.csv", "--regret") == 0
    assert "N and D, over all cut-offs" in capsys.readouterr().out
    assert call("validate", "runs.csv", "--regret", "--by", "N") == 2
    assert "--by N does not go with --regret" in capsys.readouterr().err


def test_the_regret_of_our_learning_rates_is_found():
    got = regret("chinchilla", load(RESULTS / "lr", mixed=True))
    rows = got.table.query("decision == 'lr'")
    assert len(rows) >= 10 and rows["nats"].max() > 0.05 and (rows["nats"] >= 0).all()
    assert rows["flops"].notna().all()


def test_the_regret_of_sizes_is_found_in_our_grid_and_isoflop_sweeps():
    for name in ("headline", "isoflop"):
        got = regret("bottleneck", load(RESULTS / name, mixed=True), cuts=2)
        rows = got.table.query("rule == 'bottleneck'")
        assert len(rows) >= 3 and rows["nats"].mean() < 0.01, name


@pytest.mark.filterwarnings("ignore:.*columns are taken")
def test_the_regret_of_learning_rate_and_batch_size_of_step_law(published):
    runs = load(
        published / "steplaw2025" / "lr_batch_15cells.csv", need=("N", "D", "L"),
        map={"bs": "B", "smooth loss": "L"}, also=("lr_peak", "B"), where="loss < 3.5",
    )  # fmt: skip
    got = regret("chinchilla", runs).summary().query("decision == 'lr and B'").set_index("rule")
    assert got.loc["power law", "nats"] < 0.004 < got.loc["same as the largest", "nats"]


def test_the_regret_of_sizes_of_porian_et_al(published):
    runs = load(
        published / "porian2024" / "isoflop_points.csv", need=("N", "D", "L"),
        map={"n": "N", "t": "D", "loss": "L"},
        where="dataset == 'rw' and hparams == 'base' and warmup == 'short' and decay == 'kaplan' "
        "and param_count == 'standard'",
    )  # fmt: skip
    got = regret("kaplan_ND", runs, cuts=2)
    assert len(got.table.query("rule == 'kaplan_ND'")) >= 5
    assert (got.table["nats"] >= 0).all()
