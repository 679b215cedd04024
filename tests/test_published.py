"""Published results are reproduced from the papers' own tables (skipped if these are absent)."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws
from analysis import published as constants
from analysis import verify as verification
from analysis.fitting.problem import huber
from analysis.fitting.solver import solve
from scaling.errors import TableError


def test_kaplan_constants_predict_the_papers_losses():
    # Kaplan et al. 2020, eq. 1.1: 1.5e9 non-embedding parameters, (8.8e13 / 1.5e9)^0.076.
    assert constants.kaplan2020.L_N.predict(N=1.5e9) == pytest.approx(2.3034, abs=1e-3)
    # Eq. 1.3 in PF-days: one PF-day.
    assert constants.kaplan2020.L_C_min.predict(C=8.64e19) == pytest.approx(3.1e8**0.05, rel=1e-9)


@pytest.fixture
def chinchilla_runs(published):
    table = pd.read_csv(published / "besiroglu2024_epoch" / "svg_extracted_data.csv")
    return verification.chinchilla_runs(table)


def test_besiroglu_huber_minimum(chinchilla_runs):
    # Besiroglu et al. 2024, notebook cell 18, to the true minimum of the stated objective.
    r = fit("chinchilla", chinchilla_runs, objective="huber", delta=1e-3, bootstrap=4000)
    assert r.n == 240 and r.objective == pytest.approx(0.0010182740178, abs=1e-12)
    expected = {"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.347310, "beta": 0.367172}
    assert r.params == pytest.approx(expected, rel=2e-6)
    assert r.derived("a").value == pytest.approx(0.5139, abs=1e-4)
    # Standard errors of the paper's 4000 bootstraps; A and B have heavy tails.
    assert r.stderr["alpha"] == pytest.approx(0.0150, abs=0.0006)
    assert r.stderr["beta"] == pytest.approx(0.0206, abs=0.0008)
    assert r.stderr["E"] == pytest.approx(0.0257, abs=0.001)
    assert r.stderr["A"] == pytest.approx(124.5, rel=0.08)
    assert r.certificate.resamples == 1.0
    assert r.certificate.gap is None or r.certificate.gap > 0.5


def test_besiroglu_optimal_allocation(chinchilla_runs):
    r = fit("chinchilla", chinchilla_runs, objective="huber", delta=1e-3, bootstrap=0)

    def N_opt(p, C):
        G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        return G * (C / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))

    assert r.derived(lambda p: N_opt(p, 1e21)).value == pytest.approx(2.7917e9, rel=1e-4)
    ratio = r.derived(lambda p: 5.76e23 / 6 / N_opt(p, 5.76e23) ** 2).value
    assert ratio == pytest.approx(17.92, abs=0.01)


def test_besiroglu_published_point_is_the_lad_fit(chinchilla_runs):
    r = fit("chinchilla", chinchilla_runs, objective="lad", bootstrap=0)
    assert r.objective == pytest.approx(1.1294946585, rel=1e-8)
    assert r.params["A"] == pytest.approx(482.006, abs=0.01)
    assert r.params["B"] == pytest.approx(2085.434, abs=0.05)
    assert r.params["alpha"] == pytest.approx(0.34781, abs=5e-6)
    assert r.params["beta"] == pytest.approx(0.36585, abs=5e-6)


def test_besiroglu_least_squares_and_all_rows(chinchilla_runs, published):
    r = fit("chinchilla", chinchilla_runs, objective="ls", bootstrap=0)
    expected = {"E": 1.86455, "A": 593.322, "B": 4875.64, "alpha": 0.36025, "beta": 0.40588}
    assert r.params == pytest.approx(expected, rel=2e-5)
    table = pd.read_csv(published / "besiroglu2024_epoch" / "svg_extracted_data.csv")
    every = verification.chinchilla_runs(table, drop=0)
    r = fit("chinchilla", every, objective="huber", delta=1e-3, bootstrap=0)
    assert r.n == 245 and r.objective == pytest.approx(0.00182601052307, abs=1e-12)
    assert r.params["E"] == pytest.approx(1.891339, abs=1e-5)
    assert r.params["beta"] == pytest.approx(0.453049, abs=1e-5)


def test_muennighoff_local_and_global_optimum(published):
    table = pd.read_csv(published / "muennighoff2023" / "c4_runs_fit182.csv")
    words = {"params": "N", "tokens": "D", "unique_tokens": "D_unique", "loss": "L"}
    params = constants.muennighoff2023.params
    base = {p: params[p] for p in ("E", "A", "B", "alpha", "beta")}
    runs = table.rename(columns=words)
    r = fit("muennighoff", runs, objective="huber", delta=1e-3, fixed=base, bootstrap=500)
    assert r.problem is not None
    # From the published point, the fit stays in the published basin ...
    start = r.problem.theta(params)
    assert huber(r.problem.residuals(start), 1e-3).sum() == pytest.approx(0.01582594, abs=1e-8)
    local = solve(r.problem, start, 1e-3)
    near = r.problem.params(local.theta)
    assert near["R_D"][0] == pytest.approx(15.372, abs=2e-3)
    assert near["R_N"][0] == pytest.approx(5.315, abs=2e-3)
    assert local.objective[0] == pytest.approx(0.01582593, abs=1e-8)
    # ... which is not the lowest one.
    assert r.objective <= 0.0158047
    assert r.params["R_D"] == pytest.approx(95.4, abs=0.3)
    assert r.params["R_N"] == pytest.approx(1.706, abs=0.01)
    assert "R_D" in r.certificate.not_identified
    assert any(word.startswith("several basins") for word in r.status)
    assert r.interval().loc["R_D", "low"] < 10 and r.interval().loc["R_D", "high"] > 1e6
    fitted = (
        1
        - ((runs["L"] - local_fit(r, near, runs)) ** 2).sum()
        / ((runs["L"] - runs["L"].mean()) ** 2).sum()
    )
    assert fitted == pytest.approx(0.7722, abs=1e-3)


def local_fit(result, params, runs):
    x = {name: runs[name].to_numpy(float) for name in result.law.inputs}
    return result.law.predict({**result.params, **{k: float(v[0]) for k, v in params.items()}}, **x)


@pytest.mark.parametrize(
    ("task", "at_13b", "relative_7b"),
    [
        ("mmlu_avg_test_5shot", 0.7502, 1.28),
        ("hellaswag_val_5shot", 0.6532, -0.29),
        ("arc_challenge_test_5shot", 0.7833, None),
        ("arc_easy_test_5shot", 0.5931, None),
        ("piqa_val_5shot", 0.8748, None),
        ("csqa_val_5shot", 0.6617, None),
        ("socialiqa_val_5shot", 0.9916, None),
        ("openbookqa_test_5shot", 1.2750, None),
        ("c4", 2.3444, -1.98),
    ],
)
def test_olmo_ladder_predictions(published, task, at_13b, relative_7b):
    # Bhagia et al. 2024 (arXiv 2412.04403), step 1: figures/step1_main.csv of their repository.
    table = pd.read_csv(published / "olmo_ladder2024" / "ladder_points.csv")
    train = table[table["mode"] == "train"]
    runs = train.assign(L=train[task])
    r = fit("chinchilla", runs, objective="huber", delta=1e-3, bootstrap=0)
    held = table.set_index("name").loc["13B-5T"]
    assert r.predict(N=held["N"], D=held["D"]) == pytest.approx(at_13b, abs=5e-4)
    if relative_7b is not None:
        held = table.set_index("name").loc["7B-4T"]
        off = 100 * (r.predict(N=held["N"], D=held["D"]) / held[task] - 1)
        assert off == pytest.approx(relative_7b, abs=0.01)


def test_extrapolation_benchmark_orders_the_forms(published):
    # Alabdulmohsin et al. 2022, Caballero et al. 2023: translation, duplicates dropped.
    table = pd.read_csv(published / "revisiting2022" / "benchmark.lang.csv").drop_duplicates()
    table = table.rename(columns={"Seen Examples": "x", "Loss": "L"})
    table = table[table["Domain"] == "NMT"]
    means = []
    for form in (laws.broken("x"), laws.floor("x"), laws.power("x")):
        errors = []
        for _, runs in table.groupby("Model"):
            known, held = (runs[runs["Training"] == k] for k in (1, 0))
            r = fit(form, known, objective="ls", bootstrap=0)
            off = np.log(r.predict(x=held["x"].to_numpy()) / held["L"].to_numpy())
            errors.append(np.sqrt(np.mean(off**2)))
        means.append(np.mean(errors))
    assert means == pytest.approx([0.0105, 0.0482, 0.2217], abs=2e-4)


def test_verify_reproduces_every_table(published):
    found = verification.verify(published)
    rows = found.rows.set_index("quantity")
    assert found.ok and set(rows["verdict"]) == {"reproduced", "not the minimum of its objective"}
    # Gadre et al. 2024: four headline errors; Zhang et al. 2024: the law of critical batch size.
    for quantity, value, tolerance in (
        ("1.4B at M = 640: loss error [%]", 0.7103, 5e-4),
        ("6.9B at M = 20: loss error [%]", 0.7320, 5e-4),
        ("1.4B at M = 640: task error's error [%]", 3.6365, 5e-3),
        ("6.9B at M = 20: task error's error [%]", 0.0464, 5e-3),
        ("CBS = c N^p (millions): c", 93.1968, 1e-3),
        ("CBS = c N^p (millions): p", 0.46828, 1e-5),
    ):
        assert rows.loc[quantity, "ours"] == pytest.approx(value, abs=tolerance)
    assert "93.1968" in str(found)
    # Porian et al. 2024: fifteen exponents by two interpolations, and whose number each row is.
    assert (found.rows["table"] == "porian2024").sum() == 30
    assert len(found.rows[found.rows["table"].str.startswith("nanochat")]) == 6
    ours = found.rows[found.rows["reference"] == "this project"]
    assert set(ours["table"]) == {"revisiting2022"} and len(ours) == 3
    json.dumps(found.record(), allow_nan=False)


def test_verify_says_what_is_missing(tmp_path):
    with pytest.raises(TableError, match="no such folder"):
        verification.verify(tmp_path / "absent")
    with pytest.raises(TableError, match="holds none of the known tables: besiroglu2024_epoch"):
        verification.verify(tmp_path)


def test_a_lower_objective_excuses_a_difference_on_the_same_objective_only():
    verdict = {
        name: verification._row("x", 1.0, 2.0, 0.1, at, stated=stated)["verdict"]
        for name, at, stated in (
            ("as stated", (1.0, 0.9), 1.0002),
            ("another table", (1.0, 0.9), 1.2),
            ("near", (1.0, 0.99), None),
            ("far", (1.0, 0.5), None),
            ("higher", (1.0, 1.01), 1.0),
        )
    }
    fine = "not the minimum of its objective"
    assert verdict == {
        "as stated": fine, "another table": "differs", "near": fine, "far": "differs",
        "higher": "differs",
    }  # fmt: skip
    assert verification._row("x", 1.0, 1.05, 0.1)["verdict"] == "reproduced"


def test_verify_of_a_wrong_table_differs(published, tmp_path):
    table = pd.read_csv(published / "muennighoff2023" / "c4_runs_fit182.csv")
    (tmp_path / "muennighoff2023").mkdir()
    half = table.iloc[::2]
    half.to_csv(tmp_path / "muennighoff2023" / "c4_runs_fit182.csv", index=False)
    assert not verification.verify(tmp_path).ok
