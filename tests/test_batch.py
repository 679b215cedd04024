import json

import numpy as np
import pandas as pd
import pytest

from analysis import fit, frontier, laws
from analysis.critical_batch import (
    adjusted,
    batch_at_overhead,
    compute_exponents,
    contours,
    critical_batch,
    efficient,
)
from analysis.data_limits import contradiction
from analysis.frontiers.envelope import envelope
from analysis.tables.select import settled
from scaling.cli import main
from scaling.errors import TableError


def tradeoff(L=(3.0, 3.2, 3.5, 4.0), B=(256, 1024, 4096, 16384, 65536), noise=0.0, seed=0):
    """Steps on the law B_crit(L) = 2e8 / L^(1 / 0.21), S_min falling with L."""
    rng = np.random.default_rng(seed)
    rows = []
    for loss in L:
        crit = 2e6 * loss**-4.8
        fewest = 500 * (3.0 / loss) ** 8
        for b in B:
            S = fewest * (1 + crit / b) * np.exp(noise * rng.standard_normal())
            rows.append({"L": loss, "B": b, "S": S})
    return pd.DataFrame(rows)


def test_an_exact_tradeoff_is_recovered():
    got = critical_batch(tradeoff(), bootstrap=50)
    assert got.table["B_crit"].to_numpy() == pytest.approx(2e6 * got.table["L"] ** -4.8, rel=1e-6)
    at = got.table.set_index("L").loc[3.0]
    assert at["S_min"] == pytest.approx(500, rel=1e-6)
    assert at["E_min"] == pytest.approx(500 * at["B_crit"], rel=1e-6)
    assert got.law is not None
    assert got.law.params["alpha_B"] == pytest.approx(1 / 4.8, rel=1e-5)
    assert got.law.params["B_star"] == pytest.approx(2e6, rel=1e-4)
    json.dumps(got.record(), allow_nan=False)
    assert "alpha_B = 0.208" in str(got)


def test_intervals_cover_the_truth():
    hits = 0
    for seed in range(20):
        points = tradeoff(L=(3.0,), B=np.geomspace(256, 65536, 9), noise=0.05, seed=seed)
        row = critical_batch(points, bootstrap=200, level=0.9, seed=seed).table.iloc[0]
        hits += row["low"] <= 2e6 * 3.0**-4.8 <= row["high"]
    assert hits >= 15  # 18 expected; 14 or fewer has a chance of 1 %


def test_zhang_critical_batch_sizes(published):
    """Zhang et al. 2024 (arXiv 2410.21676): batch sizes [sequences] of 20 % overhead over 256, and
    CBS = 93.2 (N / 1e6)^0.468."""
    table = pd.read_csv(published / "cbs_zhang2024" / "steps_to_target.csv")
    table = table.rename(
        columns={"goal_loss": "L", "batch_size_seqs": "B", "steps_to_goal": "S", "params_M": "N"}
    )
    got = critical_batch(table, bootstrap=20)
    sizes = [batch_at_overhead(one, base=256) for one in got.fits]
    assert sizes == pytest.approx([745.32, 955.16, 1393.73, 1888.52, 2533.41], rel=1e-4)
    assert got.table["B_crit"].tolist() == pytest.approx([2191, 3240, 5433, 7907, 11131], rel=1e-3)
    slope, intercept = np.polyfit(np.log(got.table["N"]), np.log(sizes), 1)
    assert slope == pytest.approx(0.46828, abs=1e-4)
    assert np.exp(intercept) == pytest.approx(93.1968, rel=1e-3)


def test_overhead_by_definition():
    (one,) = critical_batch(tradeoff(L=(3.0,)), bootstrap=0 + 20).fits
    B = batch_at_overhead(one, base=256, overhead=0.5)
    examples = [b * float(one.predict(B=b)) for b in (B, 256.0)]
    assert examples[0] / examples[1] == pytest.approx(1.5)


def test_contours_of_curves():
    """Curves that follow L(S) = 2 + (S (1 + crit / B)^-1)^-0.3 reach a loss in
    S_min (1 + crit / B) steps."""
    rows = []
    for i, b in enumerate((512, 2048, 8192, 32768)):
        S = np.geomspace(10, 1e5, 200)
        L = 2 + (S / (1 + 4000 / b)) ** -0.3
        rows += [
            {"run_id": str(i), "N": 1e5, "B": b, "S": s, "L": y} for s, y in zip(S, L, strict=True)
        ]
    points = contours(pd.DataFrame(rows), losses=[2.1, 2.2])
    assert len(points) == 8
    fewest = {loss: (loss - 2) ** (-1 / 0.3) for loss in (2.1, 2.2)}
    expected = [fewest[r.L] * (1 + 4000 / r.B) for r in points.itertuples()]
    assert points["S"].to_numpy() == pytest.approx(expected, rel=2e-3)
    got = critical_batch(points, bootstrap=20)
    assert got.table["B_crit"].to_numpy() == pytest.approx([4000, 4000], rel=0.01)
    spread = contours(pd.DataFrame(rows))
    assert spread["L"].nunique() == 5 and spread.groupby("L")["B"].count().min() >= 3


def test_adjustment_for_the_batch():
    """Kaplan et al. 2020, eqs. 5.4 and 5.5: at B = B_crit half of C and half of S were needed."""
    critical = critical_batch(tradeoff(), bootstrap=20)
    at = {"L": [3.0], "B": [2e6 * 3.0**-4.8], "C": [1e12], "S": [100.0]}
    row = adjusted(pd.DataFrame(at), critical).iloc[0]
    assert row["C_min"] == pytest.approx(5e11, rel=1e-4)
    assert row["S_min"] == pytest.approx(50, rel=1e-4)
    one = critical_batch(tradeoff(L=(3.0,)), bootstrap=20)
    with pytest.raises(TableError, match="three losses or more"):
        adjusted(pd.DataFrame(at), one)


def test_adjusted_compute_is_a_convention_of_the_frontier(sweep):
    runs, curves = sweep()
    curves = curves.merge(runs[["run_id", "N", "B"]], on="run_id").assign(D_total=curves["D"])
    tiny = adjusted(curves, {"B_star": 1e15, "alpha_B": 0.21})  # all batches far below critical
    assert np.allclose(tiny["C_min"], tiny["C"], rtol=1e-6)
    front = frontier(adjusted(curves, {"B_star": 2e6, "alpha_B": 0.21}), flops="C_min", bootstrap=9)
    assert front.convention == "N against C = C_min"
    assert front.ranges["C"][1] < frontier(curves, bootstrap=9).ranges["C"][1]


def test_exponents_that_follow_from_kaplans_constants():
    """Section 6: N ~ C^0.73, B ~ C^0.24, S ~ C^0.03 by measurement.

    alpha_C is 0.050 as measured, and 0.054 as predicted by the rounded constants of Tables 2 and 3
    (alpha_S 0.76, alpha_B 0.21, alpha_N 0.077).
    """
    got = compute_exponents(alpha_N=0.077, alpha_B=0.21, alpha_S=0.76)
    assert -got["L"] == pytest.approx(0.054, abs=0.002)
    assert got["N"] + got["D"] == pytest.approx(1)
    assert got["N"] == pytest.approx(0.73, abs=0.06)
    assert got["B"] == pytest.approx(0.24, abs=0.02)


def test_too_few_batch_sizes_and_far_ones_are_reported():
    with pytest.raises(TableError, match="three batch sizes or more"):
        critical_batch(tradeoff(B=(256, 1024)))
    one = pd.DataFrame({"run_id": ["a"] * 3, "N": 1e5, "B": 512, "S": [1, 2, 3], "L": [4, 3.5, 3]})
    with pytest.raises(TableError, match="no size was trained at 3 batch sizes"):
        contours(one)
    with pytest.raises(TableError, match="no column 'B'"):
        contours(one.drop(columns="B"))
    far = critical_batch(tradeoff(L=(3.0,), B=(64, 128, 256, 512)), bootstrap=20)
    assert "lies outside the batch sizes trained" in far.status[0]


def kaplan_curves(noise=0.0):
    """Learning curves that obey eqs. 1.6 and 5.3 exactly: five sizes at four batch sizes each."""
    p = {"N_c": 1e9, "alpha_N": 0.1, "S_c": 30.0, "alpha_S": 0.7, "B_star": 3e6, "alpha_B": 0.21}
    rng, rows = np.random.default_rng(0), []
    for i, N in enumerate(np.geomspace(1e4, 1e6, 5)):
        floor = (p["N_c"] / N) ** p["alpha_N"]
        for B in (256, 1024, 4096, 16384):
            L = floor + np.geomspace(2.0, 0.03, 60)
            crit = p["B_star"] * L ** (-1 / p["alpha_B"])
            S = p["S_c"] * (L - floor) ** (-1 / p["alpha_S"]) * (1 + crit / B)
            table = pd.DataFrame({"run_id": f"{i}-{B}", "N": N, "B": B, "S": S, "D": B * S, "L": L})
            rows.append(table.assign(B_noise=1.5 * crit))
    curves = pd.concat(rows, ignore_index=True)
    curves["L"] *= np.exp(noise * rng.standard_normal(len(curves)))
    return curves.assign(C=6 * curves["N"] * curves["D"])


@pytest.fixture(scope="module")
def kaplan_critical():
    return critical_batch(contours(kaplan_curves(), count=3), bootstrap=20)


def test_compute_efficient_training_measured_and_analytic(kaplan_critical):
    """Kaplan et al. 2020, section 6: exponents in C_min from the curves, and from their laws."""
    got = efficient(kaplan_curves(), kaplan_critical, bootstrap=30)
    rows = got.exponents.set_index("exponent")
    exact = compute_exponents(alpha_N=0.1, alpha_B=0.21, alpha_S=0.7)
    assert rows["analytic"].to_dict() == pytest.approx(exact, abs=2e-3)
    # The laws hold in the limit of small f; a line through five sizes is only this close.
    assert rows["value"].to_dict() == pytest.approx(exact, abs=0.05)
    assert rows.loc["N", "value"] + rows.loc["D", "value"] == pytest.approx(1)
    assert rows.loc["B", "value"] + rows.loc["S", "value"] == pytest.approx(rows.loc["D", "value"])
    assert "alpha_C = 1 / (1 / alpha_S" in str(got)
    json.dumps(got.record(), allow_nan=False)
    at = got.frontier.at(C=np.geomspace(1e9, 1e12, 5))
    C, N, D, L, B, S = at[["C", "N", "D", "L", "B", "S"]].to_numpy().T
    assert pytest.approx(C / (6 * N)) == D and pytest.approx(D / B) == S
    assert kaplan_critical.law is not None
    assert pytest.approx(kaplan_critical.law.predict(L=L)) == B
    assert ((at["S_low"] <= S) & (at["S_high"] >= S)).all()
    # Section 6.3: L(C_min) falls below L(D) of its 2 C_min / (6 N) tokens, if it is the steeper.
    D = np.geomspace(1e5, 1e9, 9)
    for alpha_D in (0.05, 0.9):
        table = pd.DataFrame({"D": D, "L": (1e15 / D) ** alpha_D})
        by_D = fit(laws.kaplan_D, table, bootstrap=20)
        met = contradiction(got, by_D)
        C, low, high = met.at["C"]
        assert low <= C <= high
        if alpha_D == 0.9:
            assert np.isinf(C) and met.meet == 0
            continue
        row = got.frontier.at(C=C).iloc[0]
        assert by_D.predict(D=2 * C / (6 * row["N"])) == pytest.approx(row["L"], rel=1e-5)
        assert met.meet == 1
        assert [met.at[k][0] for k in "NDL"] == pytest.approx([row["N"], 2 * row["D"], row["L"]])
    # Without the adjustment the frontier is another one.
    plain = envelope(kaplan_curves(), bootstrap=5)
    assert plain.convention != got.frontier.convention
    assert any("several batch sizes (256 to 1.638e+04 tokens)" in line for line in plain.status)
    assert abs(plain.lines["N"][0, 1] - exact["N"]) > abs(rows.loc["N", "value"] - exact["N"])


def test_a_law_of_steps_takes_no_warmup_and_no_cooldown():
    S = np.arange(1, 7)
    curves = pd.concat(
        pd.DataFrame({"run_id": schedule, "schedule": schedule, "S": S, "lr": lr})
        for schedule, lr in (
            ("wsd", [0.5, 1, 1, 1, 0.5, 0.1]),
            ("cosine", [0.5, 1, 0.9, 0.6, 0.3, 0.1]),
            ("constant", [1, 1, 1, 1, 1, 1]),
        )
    )
    kept = settled(curves).groupby("run_id")["S"].apply(list)
    assert kept.to_dict() == {
        "wsd": [2, 3, 4], "cosine": [2, 3, 4, 5, 6], "constant": [1, 2, 3, 4, 5, 6],
    }  # fmt: skip
    assert settled(curves.drop(columns="lr")).shape == (18, 3)


def test_kaplans_exponents_by_the_critical_batch_of_another_sweep(tmp_path, capsys):
    curves = kaplan_curves()
    curves.to_csv(tmp_path / "batches.csv", index=False)
    curves[curves["B"] == 1024].to_csv(tmp_path / "one.csv", index=False)
    words = ["frontier", str(tmp_path / "one.csv"), "--method", "kaplan", "--bootstrap", "20"]
    main([*words, "--critical", str(tmp_path / "batches.csv"), "--json"])
    expected = json.loads(capsys.readouterr().out)
    assert expected["critical_batch"]["law"]["params"]["alpha_B"]["value"] == pytest.approx(
        0.21, abs=0.01
    )
    with pytest.raises(SystemExit):
        main(words)  # of one batch size alone there is none
    with pytest.raises(SystemExit):
        main([*words[:3], "envelope", "--critical", str(tmp_path / "batches.csv")])
    assert "--critical is for --method kaplan" in capsys.readouterr().err


def test_the_noise_scale_stands_beside_the_critical_batch(kaplan_critical):
    """Kaplan et al. 2020, Fig. 10: measured at the same losses."""
    got = kaplan_critical
    assert (got.table["B_noise"] / got.table["B_crit"]).to_numpy() == pytest.approx(1.5, rel=0.05)
    without = contours(kaplan_curves().drop(columns="B_noise"))
    assert "B_noise" not in without
