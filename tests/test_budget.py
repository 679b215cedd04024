"""Plans under hardware, cost, inference and data limits; batch size and learning rate."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exact_fits import exact_fit
from small import call

from analysis import fit, laws
from analysis.critical_batch import critical_batch
from analysis.data_limits import convergence, data_for, early_stop, repeating, worth  # fmt: skip
from analysis.fitting.result import FitResult
from analysis.frontiers.parametric import parametric
from analysis.planning.accelerators import GPUS, compute_budget, memory
from analysis.planning.plan import plan
from analysis.planning.plans import plans
from analysis.planning.recipe import recipe
from analysis.published import hoffmann2022, kaplan2020, muennighoff2023
from scaling.config import ModelConfig
from scaling.errors import ConfigError
from scaling.size import parameters


def known(published) -> FitResult:
    """Return a published law as a fit without uncertainty."""
    law, params = published.law, dict(published.params)
    runs = pd.DataFrame({"N": [1e8, 1e10], "D": [1e9, 1e12], "S": [1e3, 1e5], "D_unique": 1e9})
    return exact_fit(law, params, runs)


CHINCHILLA = known(hoffmann2022.approach3_unrounded)


def test_budget_from_hardware_or_money():
    got = compute_budget(gpus=8, hours=24, gpu="h100", mfu=0.5)
    assert pytest.approx(8 * 24 * 3600 * 989.5e12 * 0.5) == got.C
    assert "MFU as given" in got.description and "TFLOP/s" in got.description
    assumed = compute_budget(gpus=8, hours=24, gpu="h100")
    assert (
        pytest.approx(0.8 * got.C) == assumed.C and "assumed, not measured" in assumed.description
    )
    paid = compute_budget(dollars=960, dollars_per_hour=5, gpu="h100", mfu=0.5)
    assert pytest.approx(got.C) == paid.C
    assert compute_budget(gpus=1, hours=1, precision="fp8").C > compute_budget(gpus=1, hours=1).C
    for device in GPUS.values():  # narrower types are faster; each entry has a source
        assert device.source and list(device.peak.values()) == sorted(device.peak.values())[::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 8, "hours": 1, "gpu": "h10"}, "gpu='h10' is not known. Did you mean 'h100'"),
        ({"gpus": 8, "hours": 1, "gpu": "v100"}, "no peak of v100 is known for it; there are fp16"),
        ({"gpus": 8}, "hours is missing"),
        ({"dollars": 100}, "needs dollars_per_hour"),
        ({"dollars": 100, "dollars_per_hour": 2, "hours": 3}, "not both"),
        ({"gpus": 8, "hours": 1, "mfu": 40}, "at most 1, such as 0.4"),
        ({"gpus": -8, "hours": 1}, "gpus=-8 must be positive"),
    ],
)
def test_infeasible_budgets(options, message):
    with pytest.raises(ConfigError, match=message):
        compute_budget(**options)


def test_memory_of_a_known_model():
    """Rajbhandari et al. 2020, section 3.1: 24 GB for the 1.5 B parameters of GPT-2."""
    gpt2 = ModelConfig(n_layer=48, d_model=1600, n_head=25, n_ctx=1024)
    got = memory(gpt2, 50257)
    assert got["states"] == pytest.approx(24e9, rel=0.05)
    assert got["states"] == 16 * parameters(gpt2, 50257).N_total
    assert got["activations"] == 34 * 1024 * 1600 * 48 + 6 * 1024 * 50257
    assert got["gpus"] == {"rtx4090": 2, "a100": 1, "h200": 1}


def test_inference_makes_the_optimal_model_smaller():
    """A longer-trained 7B model saves 1.7e22 FLOPs (17 %) over a 13B model for 2e12 served tokens.

    Sardana et al. 2024 (arXiv 2401.00448), section 1.
    """
    plain = plan(CHINCHILLA, N=13e9)
    served = plan(CHINCHILLA, L=plain.L.value, served=2e12)
    before = 6 * plain.N.value * plain.D.value + 2 * plain.N.value * 2e12
    assert served.N.value == pytest.approx(7e9, rel=0.15)
    assert before - served.C.value == pytest.approx(1.7e22, rel=0.15)
    assert 1 - served.C.value / before == pytest.approx(0.17, abs=0.03)
    N, D = served.N.value, served.D.value
    assert pytest.approx(6 * N * D + 2 * N * 2e12, rel=1e-6) == served.C.value
    for d in served.deviations:  # training and inference together
        other = 6 * d.factor * N * d.D + 2 * d.factor * N * 2e12
        assert d.compute.value == pytest.approx(other / served.C.value, rel=1e-6)
        assert d.compute.value > 1
    assert served.shape is not None
    assert (
        pytest.approx(served.C.value) == 6 * served.shape.N * served.shape.D + 4e12 * served.shape.N
    )
    assert "2T tokens of inference included" in str(served)


def test_inference_by_brute_force():
    front = parametric(CHINCHILLA, served=1e12)
    C = 1e23
    N = np.geomspace(1e9, 1.6e10, 200_001)
    D = (C - 2e12 * N) / (6 * N)
    best = N[np.argmin(CHINCHILLA.predict(N=N, D=D))]
    assert front.at(C=C)["N"][0] == pytest.approx(best, rel=1e-3)


def test_few_unique_tokens_are_repeated():
    free = plan(CHINCHILLA, C=1e22)
    tied = plan(CHINCHILLA, C=1e22, unique=free.D.value / 4)
    enough = plan(CHINCHILLA, C=1e22, unique=free.D.value * 1.1)
    assert enough.N.value == pytest.approx(free.N.value, rel=1e-4)
    assert not any("epochs" in line for line in enough.status)
    assert 2 < tied.D.value / (free.D.value / 4) < 4  # fewer epochs than without the limit
    assert tied.N.value > free.N.value and free.L.value < tied.L.value < free.L.value * 1.02
    assert "epochs of the" in tied.status[0]
    # Muennighoff et al. 2023, section 1: up to four epochs are nearly as good as fresh data.
    law = repeating(laws.chinchilla, unique=1e9)
    fresh, four = (
        (law if limited else laws.chinchilla).predict(CHINCHILLA.params, N=1e9, D=4e9)
        for limited in (False, True)
    )
    assert 1 < four / fresh < 1.01
    epochs = known(muennighoff2023)
    assert worth(epochs, epochs=[0.5, 1, 4]).tolist() == pytest.approx([0.5, 1, 3.73], abs=0.01)
    assert float(worth(epochs, epochs=1e4)) == pytest.approx(1 + 15.388, rel=1e-3)


def test_batch_size_and_learning_rate(sweep):
    """Use Li et al. 2025 (arXiv 2503.04715), eq. 1, or what the runs themselves show."""
    got = recipe(N=1e9, D=1e11, L=2.3)
    assert pytest.approx(0.58 * 1e11**0.571) == got.B
    assert got.lr == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert pytest.approx(1e11 / got.B) == got.S
    runs, _ = sweep()
    runs["lr_peak"] = 0.07 * runs["N"] ** -0.3
    own = recipe(N=1e9, D=1e11, L=2.3, runs=runs)
    assert own.lr == pytest.approx(0.07 * 1e9**-0.3) and "0.07 N^-0.3" in own.sources["lr"]
    assert recipe(N=1e9, D=1e11, L=2.3, runs=runs.assign(lr_peak=3e-3)).lr == got.lr
    rows = [
        {"L": L, "B": b, "S": 500 * (3 / L) ** 8 * (1 + 2e6 * L**-4.8 / b)}
        for L in (3.0, 3.2, 3.5) for b in (256, 1024, 4096, 16384, 65536)
    ]  # fmt: skip
    critical = critical_batch(pd.DataFrame(rows), bootstrap=20)
    measured = recipe(N=1e9, D=1e11, L=2.3, critical=critical)
    assert pytest.approx(2e6 * 2.3**-4.8, rel=1e-3) == measured.B
    assert measured.sources["B"] == "B_crit(L) of these runs"


def test_several_laws_show_their_disagreement(sweep):
    runs, _ = sweep()
    fits = {
        law.name: fit(law, runs, bootstrap=30)
        for law in (laws.chinchilla, laws.shared_exponent, laws.kaplan_N)
    }
    both = plans(fits, C=1e15)
    assert list(both.plans) == ["chinchilla", "shared_exponent"]
    assert "needs a law of N and D" in both.skipped["kaplan_N"]
    N = [p.N.value for p in both.plans.values()]
    assert both.disagreement["N"] == pytest.approx(max(N) / min(N)) and both.disagreement["C"] == 1
    text = str(both)
    assert "the same under other laws" in text and "no plan by kaplan_N" in text
    record = both.record()
    assert record["laws"]["chinchilla"]["N"] == record["N"]
    json.dumps(record, allow_nan=False)
    t = both.first.tenfold
    assert t["N"] * t["D"] == pytest.approx(10)
    assert t["B"] * t["S"] == pytest.approx(t["D"])
    assert record["memory"]["states"] > 0  # the runs give their vocabulary size
    with pytest.raises(ConfigError, match="out of reach"):
        plans(fits, L=0.1)


def test_the_law_that_predicts_best_comes_first(sweep):
    runs, _ = sweep(noise=0.001)  # generated by Chinchilla's form
    fits = {
        law.name: fit(law, runs, bootstrap=30)
        for law in (laws.kaplan_ND, laws.shared_exponent, laws.chinchilla)
    }
    ranked = plans(fits, rank=True, C=1e15)
    assert next(iter(plans(fits, C=1e15).plans)) == "kaplan_ND"  # in the given order
    assert next(iter(ranked.plans)) == "chinchilla"
    assert ranked.held_out["chinchilla"] < 0.005 < ranked.held_out["kaplan_ND"]
    named = plans({"mine": fits["chinchilla"]}, rank=True, C=1e15)  # the caller chooses the names
    assert named.held_out["mine"] < 0.005
    assert f"larger runs missed by {ranked.held_out['kaplan_ND']:.1%}" in str(ranked)
    few = runs[runs["N"] <= runs["N"].unique()[1]].head(7)  # too few to hold out any
    unknown = plans({"chinchilla": fit(laws.chinchilla, few, bootstrap=10)}, rank=True, C=1e15)
    assert math.isnan(unknown.held_out["chinchilla"]) and "missed" not in str(unknown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"served": -1.0}, "served=-1.0 must be a number of tokens"),
        ({"unique": math.nan}, "unique=nan must be"),
        ({"unique": 0.0}, "nothing to train on"),
    ],
)
def test_infeasible_data_limits(options, message):
    with pytest.raises(ConfigError, match=message):
        plan(CHINCHILLA, C=1e20, **options)
    with pytest.raises(ConfigError, match="needs a fitted law"):
        plan(parametric(CHINCHILLA), C=1e20, served=1e9)


# ------------------------------------------------------------------ enough data, enough steps


def test_enough_data_for_any_law():
    kaplan = known(kaplan2020.L_ND)
    got = data_for(kaplan, N=1e9, excess=0.02)
    limit = kaplan.predict(N=1e9, D=1e40)
    assert float(kaplan.predict(N=1e9, D=got.value)) == pytest.approx(1.02 * float(limit), rel=1e-6)
    # Kaplan et al. 2020, eq. 4.4: D >= 5e3 N^0.74, which they round.
    assert got.value == pytest.approx(5e3 * 1e9**0.74, rel=0.25)
    assert got.low <= got.value <= got.high
    p = CHINCHILLA.params
    excess = 0.01 * (p["E"] + p["A"] * 1e9 ** -p["alpha"])
    assert data_for(CHINCHILLA, N=1e9, excess=0.01).value == pytest.approx(
        (p["B"] / excess) ** (1 / p["beta"]), rel=1e-6
    )
    with pytest.raises(ConfigError, match="excess=0 must be positive"):
        data_for(kaplan, N=1e9, excess=0)
    with pytest.raises(ValueError, match="needs a law of N and D"):
        data_for(known(kaplan2020.L_N), N=1e9)


def test_early_stopping_bound():
    """More data or a smaller model stops later (Kaplan et al. 2020, eq. 5.7 and Fig. 16)."""
    of_data, of_steps = known(kaplan2020.L_ND), known(kaplan2020.L_NS)
    stop = early_stop(of_data, of_steps, N=1e8, D=np.array([1e8, 1e9, 1e10]))
    assert (np.diff(stop) > 0).all()
    gap = of_data.predict(N=1e8, D=1e9) - (6.4e13 / 1e8) ** 0.076
    assert stop[1] == pytest.approx(2.1e3 * float(gap) ** (-1 / 0.76))
    assert early_stop(of_data, of_steps, N=1e7, D=1e9) > stop[1]
    with pytest.raises(ValueError, match="needs a fit of kaplan_NS"):
        early_stop(of_data, of_data, N=1e8, D=1e9)


def test_stopping_short_of_convergence():
    """Stop f = alpha_N / alpha_S = 10 % short of convergence (Kaplan et al. 2020, appendix B.3).

    Compared with stopping 2 % short: 2.7 times the parameters, 7.7 times fewer steps, 65 % less
    compute.
    """
    got = convergence(alpha_N=0.076, alpha_S=0.76)
    assert got.efficient == pytest.approx(0.10)
    assert pytest.approx(2.7, abs=0.05) == got.N
    assert pytest.approx(1 / 7.7, rel=0.05) == got.S
    assert pytest.approx(0.35, abs=0.02) == got.C
    # The least compute for a loss under L(N, S) leaves it that far above the converged loss.
    law = replace(kaplan2020.L_NS, params=dict(kaplan2020.L_NS.params) | {"alpha_N": 0.076})
    N = np.geomspace(1e6, 1e12, 400_001)
    limit = (law.params["N_c"] / N) ** 0.076
    with np.errstate(invalid="ignore"):
        S = law.params["S_c"] / np.where(limit < 3.0, 3.0 - limit, np.nan) ** (1 / 0.76)
    best = np.nanargmin(N * S)
    assert 3.0 / limit[best] - 1 == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(ConfigError, match="alpha_N=0 must be positive"):
        convergence(alpha_N=0, alpha_S=1)


# ------------------------------------------------------------------ on the command line


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 25 exact runs of Chinchilla's law."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    runs = pd.DataFrame({"run_id": [f"r{i}" for i in range(N.size)], "N": N, "D": D})
    runs["C"], runs["L"] = 6 * N * D, CHINCHILLA.predict(N=N, D=D)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def test_plan_takes_gpus_and_hours(table, capsys):
    words = ["plan", table, "--law", "chinchilla", "--gpus", 8, "--hours", 24]
    assert call(*words, "--mfu", 0.5) == 0
    shown = capsys.readouterr().out
    assert "8 h100 for 24 hours" in shown and "3.42e+20" in shown  # 8 x 24 h x 989.5e12 / 2
    assert call(*words, "--flops", "1e20") == 2
    assert "give one budget" in capsys.readouterr().err


def test_frontier_prints_latex(table, capsys):
    assert call("frontier", table, "--law", "chinchilla", "--latex") == 0
    assert r"\toprule" in capsys.readouterr().out
