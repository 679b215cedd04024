"""IsoFLOP tables from other sources: flaws are reported, corrected or rejected."""

import json

import numpy as np
import pandas as pd
import pytest
from exact_fits import exact_fit

from analysis import fit, frontier, laws, load
from analysis.tables.conventions import counted
from scaling.cli import main
from scaling.config import ModelConfig
from scaling.errors import ConfigError, TableError
from scaling.size import flops_per_token, parameters

BUDGETS = (1e10, 1e11, 1e12, 1e13)
FACTORS = tuple(np.geomspace(0.2, 5, 7))


def isoflop_sets(optimum, budgets=BUDGETS, factors=FACTORS, alpha=0.25):
    table = pd.concat(
        [
            pd.DataFrame({"N": optimum(C)[0] * np.asarray(factors), "C": C}).assign(
                D=lambda t: t["C"] / (6 * t["N"])
            )
            for C in budgets
        ],
        ignore_index=True,
    )
    return loss(table, alpha)


def loss(table, alpha=0.25):
    return table.assign(L=1.9 + 9 * table["N"] ** -alpha + 38 * table["D"] ** -0.30)


def exponent(front, name="N_opt"):
    return front.exponents.set_index("exponent").loc[name]


def test_external_table_whose_compute_deviates_from_6ND(optimum, tmp_path, capsys):
    """Token counts are off by up to 8 % either way, and there is no compute column."""
    rng = np.random.default_rng(3)
    table = isoflop_sets(optimum)
    table["D"] *= np.exp(rng.uniform(-0.08, 0.08, len(table)))
    table = loss(table)
    words = {"N": "n_params", "D": "tokens_seen", "L": "val/loss"}
    table.drop(columns="C").rename(columns=words).to_csv(tmp_path / "external.csv", index=False)
    options = "--method isoflop --json --bootstrap 100 --map n_params=N,tokens_seen=D,val/loss=L"
    main(["frontier", str(tmp_path / "external.csv"), *options.split()])
    found = json.loads(capsys.readouterr().out)
    rows = {row["exponent"]: row for row in found["exponents"]}
    assert rows["N_opt"]["value"] == pytest.approx(0.3 / 0.55, abs=0.01)
    assert [o["sizes"] for o in found["optima"]] == [7] * 4
    for row, C in zip(found["optima"], BUDGETS, strict=True):
        assert row["N"] == pytest.approx(optimum(row["C"])[0], rel=0.06)
        assert row["C"] == pytest.approx(C, rel=0.1)
    assert any("losses are moved to the budget's C" in line for line in found["status"])
    assert found["params"] == {
        "column": "N",
        "counts": "non-embedding parameters, exact (biases and norms counted)",
    }


def test_runs_between_budgets_belong_to_no_budget(optimum):
    table = isoflop_sets(optimum)
    strays = loss(pd.DataFrame({"N": [1e4, 3e4, 2e5], "D": [1e6, 2e6, 4e6]}))
    strays["C"] = 6 * strays["N"] * strays["D"]
    both = pd.concat([strays, table], ignore_index=True)
    front = frontier(both, method="isoflop", law="chinchilla", bootstrap=20)
    assert front.optima["C"].tolist() == pytest.approx(list(BUDGETS))
    assert front.status[0].startswith("3 of 31 runs, C = 6e+10 to 4.8e+12, share no budget")
    merged = isoflop_sets(optimum, (1e10, 1.2e10, 1e12))
    wide = frontier(merged, method="isoflop", law="chinchilla", tolerance=0.3)
    assert len(wide.optima) == 2  # sets within the requested tolerance are merged


def test_nearly_equal_sizes_are_merged(optimum):
    """Nearly equal sizes, as read off a figure or counted without norms, distort interpolation."""
    table = isoflop_sets(optimum)
    again = table.assign(N=table["N"] * 1.0001)
    again["L"] *= 1.004
    front = frontier(pd.concat([table, again]), method="akima", bootstrap=20)
    assert front.optima["sizes"].tolist() == [7] * 4
    assert np.abs(np.log(front.optima["N"] / optimum(BUDGETS)[0])).max() < 0.01


@pytest.mark.parametrize(
    ("factors", "alpha", "law"),
    [
        (np.geomspace(1 / 16, 16, 15), 0.25, None),  # wide, on the law that is chosen
        (np.geomspace(0.1, 3, 9), 0.25, "chinchilla"),  # off centre
        (np.geomspace(1 / 8, 8, 9), 0.4, "chinchilla"),  # alpha and beta apart
    ],
)
def test_bias_of_parabolas_is_measured(optimum, factors, alpha, law):
    """The reported bias is the error of noiseless sets (Czech et al. 2026, arXiv 2603.22339)."""
    truth = {"E": 1.9, "A": 9.0, "B": 38.0, "alpha": alpha, "beta": 0.30}
    C = np.array(BUDGETS)
    table = isoflop_sets(lambda c: optimum(c, truth), BUDGETS, factors, alpha)
    front = frontier(table, method="isoflop", law=law, bootstrap=20)
    off = np.log(front.optima["N"] / optimum(C, truth)[0])
    assert front.optima["bias"].to_numpy() == pytest.approx(off.to_numpy(), abs=2e-3)
    assert np.abs(off).max() > 0.004
    assert front.bias["N"] == pytest.approx(np.expm1(off.mean()), abs=2e-3)
    assert "bias of the method" in str(front)
    akima = frontier(table, method="akima", law=law, bootstrap=20)
    assert abs(akima.bias["N"]) < abs(front.bias["N"])


def test_first_order_bias_of_a_centred_parabola(optimum):
    """To first order ln N is off by -(beta - alpha) <x^4> / (6 <x^2>), x the offsets of ln N."""
    x = np.log(np.geomspace(0.25, 4, 15))
    front = frontier(isoflop_sets(optimum, factors=np.exp(x)), method="isoflop", bootstrap=9)
    first = -(0.30 - 0.25) * np.mean(x**4) / (6 * np.mean(x**2))
    assert np.log1p(front.bias["N"]) == pytest.approx(first, rel=0.4)


def test_minima_within_the_noise_are_not_used(optimum):
    rng = np.random.default_rng(0)
    table = isoflop_sets(optimum, (1e10, 1e11, 1e12), np.geomspace(0.2, 5, 9))
    flat = isoflop_sets(optimum, (1e13,), np.geomspace(0.8, 1.3, 9))
    both = pd.concat([table, flat], ignore_index=True)
    both["L"] *= np.exp(0.004 * rng.standard_normal(len(both)))
    front = frontier(both, method="isoflop", bootstrap=100)
    assert front.optima["kind"].iloc[-1] in ("flat", "edge", "concave")
    assert front.ranges["C"][1] < 1e13
    assert any("C = 1e+13" in line for line in front.status)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t[t["C"] == 1e10], r"two budgets.*one budget only|N_opt\(1e\+10\)"),
        (lambda t: t.groupby("C").head(3), "at least 4 sizes at one C"),
        (
            lambda t: pd.concat([t.assign(B=512), t.assign(B=2048)]),
            r"runs of N = .* at several batch sizes \(512, 2048\).*Keep one batch size",
        ),
        (lambda t: t.groupby("C").tail(4), "at the smallest or largest size"),
        (lambda t: t.assign(L=6 - t["L"]), "edge|smallest or largest|downwards"),
    ],
)
def test_error_explains_why_there_is_no_frontier(optimum, change, expected):
    with pytest.raises(TableError, match=expected):
        frontier(change(isoflop_sets(optimum)), method="isoflop", law="chinchilla", bootstrap=5)


def test_counts_and_flops_from_the_model_shape():
    shapes = [
        {"n_layer": 2, "d_model": 64, "n_head": 2},
        {"n_layer": 3, "d_model": 96, "n_head": 3},
    ]
    rows = [shape | {"n_ctx": 128, "vocab_size": 1024, "D": 1e6, "L": 4.0} for shape in shapes]
    table = pd.DataFrame(rows).assign(tied=[True, False])
    table["N"] = [parameters(ModelConfig(**s, n_ctx=128), 1024).N for s in shapes]
    table["C"] = 6 * table["N"] * table["D"]
    models = [
        ModelConfig(**s, n_ctx=128, tied=t) for s, t in zip(shapes, (True, False), strict=True)
    ]
    total = [parameters(m, 1024).N_total for m in models]
    by_shape = counted(table, "N_total", "C_matmul")
    assert by_shape["N"].tolist() == total
    expected = [flops_per_token(m, 1024, "matmul") * 1e6 for m in models]
    assert by_shape["C"].tolist() == pytest.approx(expected)
    assert counted(table, "N_total", "6 N_total D")["C"].tolist() == pytest.approx(
        [6e6 * n for n in total]
    )
    assert (counted(table, "N_head", "C")["N"] > table["N"]).all()
    with pytest.raises(TableError, match="counted from the shape, given n_ctx, vocab_size too"):
        counted(table.drop(columns=["n_ctx", "vocab_size"]), "N_total", "C")
    with pytest.raises(TableError, match="no column 'C_ours'"):
        counted(table, "N", "C_ours")
    with pytest.raises(TableError, match=r"cannot be counted from the shape.*does not divide"):
        counted(table.assign(n_head=7), "N_total", "C")


def test_other_conventions_are_interpolated_between_budgets(optimum):
    """Equal 6 N D is not equal 6 N_total D, so losses are interpolated for each size."""
    N = np.geomspace(3e3, 1e6, 12)
    C = np.geomspace(1e9, 1e13, 9)
    table = pd.DataFrame({"N": np.tile(N, 9), "C": np.repeat(C, 12)})
    table["D"] = table["C"] / (6 * table["N"])
    table = loss(table)
    table["N_total"] = table["N"] + 1200 * table["N"] ** 0.34
    plain = frontier(table, method="akima", bootstrap=9)
    total = frontier(table, method="akima", params="N_total", flops="6 N_total D", bootstrap=9)
    assert total.convention == "N_total against C = 6 N_total D"
    inside = plain.ranges["C"][1]
    best = optimum(np.geomspace(inside / 30, inside / 3, 5))[0]
    at = best + 1200 * best**0.34
    compute = np.geomspace(inside / 30, inside / 3, 5) * at / best
    # The optimum at equal 6 N_total D differs; find that of the true law on a fine grid.
    fine = np.geomspace(1e3, 3e6, 4001)
    whole = fine + 1200 * fine**0.34
    true = []
    for c in compute:
        d = c / (6 * whole)
        true.append(whole[np.argmin(1.9 + 9 * fine**-0.25 + 38 * d**-0.30)])
    assert np.log(total.at(C=compute)["N"] / true).abs().max() < 0.15
    assert exponent(total)["value"] < exponent(plain)["value"] - 0.05


def test_second_approach_of_hoffmann(published):
    """Hoffmann et al. 2022, Table 2: N_opt ~ C^0.49 [.462, .534] by isoFLOP minima.

    Besiroglu et al. 2024 read the runs off Fig. 4. Their C lie within 30 % of nine budgets.
    """
    table = pd.read_csv(published / "besiroglu2024_epoch" / "svg_extracted_data.csv")
    runs = load(table, map={"Model Size": "N", "Training FLOP": "C", "loss": "L"})
    for method in ("isoflop", "akima"):
        front = frontier(runs, method=method, tolerance=0.3, bootstrap=200)
        row = exponent(front)
        assert row["value"] == pytest.approx(0.49, abs=0.04)
        assert row["low"] < 0.49 < row["high"]
        assert any("losses are moved" in line for line in front.status)
        # Table A3, approach 2: 400 M parameters at 1.84e19 FLOPs, 1 B at 1.20e20.
        at = front.at(C=[1.84e19, 1.20e20])["N"]
        assert at.tolist() == pytest.approx([4e8, 1e9], rel=0.15)


SURFACES = {"Chinchilla": (0.34, 0.28), "Asymmetric": (0.465, 0.155), "Symmetric": (0.31, 0.31)}


def surface(alpha, beta, factor, sigma=0.0, seed=0, centre=1.0, points=15):
    """Budgets of sizes within `factor` of the optimum (or of `centre` times it), and D_opt(C).

    The constants are those of Czech et al. 2026 (arXiv 2603.22339).
    """
    A, B, E = 406.4, 410.7, 1.69
    C = np.repeat(np.geomspace(1e17, 1e21, 5), points)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    best = G * (C / 6) ** (beta / (alpha + beta))
    N = centre * best * np.tile(np.geomspace(1 / factor, factor, points), 5)
    D = C / (6 * N)
    L = E + A * N**-alpha + B * D**-beta
    L *= np.exp(sigma * np.random.default_rng(seed).standard_normal(len(L)))
    optimal = (1e24 / 6) ** (alpha / (alpha + beta)) / G
    return pd.DataFrame({"N": N, "D": D, "C": C, "L": L}), optimal


@pytest.mark.parametrize("name", SURFACES)
def test_published_bias_is_reproduced_and_its_correction_removes_it(published, name):
    """Error of D_opt at 1e24 by width of the grid (Czech et al. 2026), with and without."""
    file = published / "approach2_bias_openathena2026" / "extrapolation_error_data.csv"
    rows = pd.read_csv(file).set_index("surface").loc[name]
    for width, expected in zip(10 ** rows["log_range"], rows["rel_error_pct"], strict=True):
        table, true = surface(*SURFACES[name], width)
        how = {"method": "isoflop", "near": np.inf, "on": "raw", "bootstrap": 9}
        alpha, beta = SURFACES[name]
        law = exact_fit(
            laws.chinchilla,
            {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": alpha, "beta": beta},
            table,
        )
        fronts = [frontier(table, law=law, correct_bias=c, **how) for c in (False, True)]
        found = [100 * (front.at(C=1e24)["D"][0] / true - 1) for front in fronts]
        assert found[0] == pytest.approx(expected, abs=1e-3)
        assert abs(found[1]) < 0.01


def test_the_law_that_is_found_corrects_the_bias():
    table, true = surface(0.34, 0.28, 16)
    how = {"method": "isoflop", "near": np.inf, "on": "raw", "bootstrap": 9}
    front = frontier(table, correct_bias=True, **how)
    assert front.at(C=1e24)["D"][0] == pytest.approx(true, rel=1e-4)


def test_intervals_hold_the_bias_and_those_of_a_corrected_frontier_its_uncertainty():
    """On off-centre wide grids, 90 % intervals of the exponent without the bias miss the truth."""
    truth, covered = 0.155 / 0.62, {"alone": 0, "plain": 0, "corrected": 0}
    for seed in range(12):
        table, _ = surface(0.465, 0.155, 8, sigma=0.002, seed=seed, centre=2.0, points=9)
        table["N"] *= (table["C"] / 1e19) ** 0.05  # the grid drifts away from the optimum
        table["D"] = table["C"] / (6 * table["N"])
        noise = np.exp(0.002 * np.random.default_rng(seed).standard_normal(len(table)))
        table["L"] = (1.69 + 406.4 * table["N"] ** -0.465 + 410.7 * table["D"] ** -0.155) * noise
        fitted = fit(laws.chinchilla, table, bootstrap=150)
        how = {"method": "isoflop", "law": fitted, "bootstrap": 150, "level": 0.9}
        plain = frontier(table, **how)
        corrected = frontier(table, correct_bias=True, **how)
        alone = np.quantile(plain.lines["N"][1:, 1], [0.05, 0.95])
        covered["alone"] += alone[0] < truth < alone[1]
        for name, front in (("plain", plain), ("corrected", corrected)):
            row = exponent(front)
            covered[name] += row["low"] < truth < row["high"]
        assert corrected.corrected and not plain.corrected
        assert exponent(plain)["low"] <= exponent(corrected)["low"] + 1e-12
        at = plain.at(C=1e22).iloc[0]
        assert at["N_low"] <= corrected.at(C=1e22)["N"][0] <= at["N_high"]
    assert covered["alone"] <= 6
    assert covered["plain"] >= 10 and covered["corrected"] >= 9


def test_the_bias_is_measured_on_the_law_that_predicts_best(optimum):
    """If runs follow another law, Chinchilla's law gives a different bias."""
    table = isoflop_sets(optimum, factors=np.geomspace(1 / 16, 16, 11))
    table["L"] = 1.9 + ((400 / table["N"]) ** 0.8 + (9e4 / table["D"]) ** 0.8) ** 0.5
    front = frontier(table, method="isoflop", bootstrap=20)
    assert next(iter(front.bias_laws)) != "chinchilla"
    assert sum(front.bias_laws.values()) == pytest.approx(1)
    assert f"measured on {next(iter(front.bias_laws))}" in str(front)
    assert "the intervals hold it" in str(front)
    asked = frontier(table, method="isoflop", law="chinchilla", bootstrap=20)
    assert asked.bias_laws == {"chinchilla": 1.0}
    every = frontier(table, method="all", bootstrap=20)
    assert every.fronts["isoflop"].bias_laws.keys() <= {
        "auto",
        "bottleneck",
        "kaplan_ND",
        "chinchilla",
    }


def test_the_bias_is_corrected_on_the_command_line(tmp_path, capsys):
    table = surface(0.34, 0.28, 8)[0]
    table.to_csv(tmp_path / "runs.csv", index=False)
    words = ["frontier", str(tmp_path / "runs.csv"), "--method", "isoflop", "--bootstrap", "20"]
    found = []
    for more in ((), ("--correct-bias",)):
        main([*words, "--law", "chinchilla", "--json", *more])
        found.append(json.loads(capsys.readouterr().out))
    assert [f["corrected"] for f in found] == [False, True]
    assert {"exponent_low", "exponent_high", "N_low", "N_high"} < found[0]["bias"].keys()
    N = [f["optima"][0]["N"] for f in found]
    assert N[0] / N[1] == pytest.approx(1.029, abs=0.002)
    main([*words, "--law", "chinchilla", "--correct-bias"])
    assert "corrected for; the intervals hold its uncertainty" in capsys.readouterr().out


def test_without_a_law_the_frontier_says_that_it_is_not_corrected(optimum):
    sets = isoflop_sets(optimum, factors=np.geomspace(0.2, 5, 7))
    front = frontier(sets, method="isoflop", law="kaplan_N", correct_bias=True, bootstrap=5)
    assert front.bias is None and not front.corrected
    assert any("is not corrected for it" in line for line in front.status)
    with pytest.raises(ConfigError, match=r"near=0\.5 must be above 1"):
        frontier(sets, method="isoflop", near=0.5)
