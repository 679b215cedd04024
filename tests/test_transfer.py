"""Effective data transferred: simulated experiments whose truth is known."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import call

from analysis import effective_data, figures, fit, frontier
from analysis.transfer.arms import arms
from analysis.transfer.presentation import text
from scaling.errors import TableError

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "fine_tune.md"
SIZES = (6_600, 19_600, 56_600)
SCRATCH = (12_800, 38_400, 115_200, 345_600, 1_036_800)


def loss(N: float, D: np.ndarray | float) -> np.ndarray | float:
    """The loss from scratch (Hoffmann et al. 2022, eq. 2, with other numbers)."""
    return 1.5 + 60 / N**0.4 + 90 / np.asarray(D) ** 0.4


def experiment(
    k: float = 5.0,
    alpha: float = 0.5,
    beta: float = 0.4,
    *,
    noise: float = 0.0,
    scatter: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Both arms, with D_T = k D_F^alpha N^beta; three learning rates, the middle one the best.

    `noise` is that of log L between seeds, `scatter` that of log D_T between cells.
    """
    generator = np.random.default_rng(seed)
    off = np.random.default_rng([seed, 1])
    D_T = {
        (N, D_F): k * D_F**alpha * N**beta * math.exp(scatter * off.standard_normal())
        for N in SIZES
        for D_F in SCRATCH
    }
    rows = []
    for N in SIZES:
        for s in (0, 1):
            for D_F in SCRATCH:
                for arm in ("", "abc"):
                    if arm and max(SCRATCH) == D_F:
                        continue
                    D_E = D_F + (D_T[N, D_F] if arm else 0)
                    best = loss(N, D_E) * math.exp(noise * generator.standard_normal())
                    for lr in (0.3, 1.0, 3.0):
                        L = best * (1 if lr == 1 else 1.05)
                        row = {"N": N, "D": 3 * D_F, "unique_tokens": D_F, "seed": s, "lr": lr}
                        rows.append(row | {"L": L, "init_run": arm, "status": "ok"})
    return pd.DataFrame(rows)


def test_the_data_transferred_and_its_law_are_found():
    found = effective_data(experiment())
    cells = found.cells
    truth = 5 * cells["D_F"] ** 0.5 * cells["N"] ** 0.4
    assert len(cells) == 12 and found.stable == 1 and found.parents == ("abc",)
    np.testing.assert_allclose(cells["D_T"], truth, rtol=0.12)  # D_E lies between few losses
    assert found.law is not None and found.law.cells == 12
    assert found.law.alpha == pytest.approx(0.5, abs=0.05)
    assert found.law.beta == pytest.approx(0.4, abs=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say():
    exact = effective_data(experiment())
    assert exact.law is not None
    inside, law, total, truth = 0, 0, 0, exact.cells["D_T"]
    for seed in range(30):
        found = effective_data(experiment(noise=0.004, seed=seed), level=0.9, seed=seed)
        low, high = found.cells["D_T_low"], found.cells["D_T_high"]
        inside, total = inside + ((low <= truth) & (truth <= high)).sum(), total + len(truth)
        assert found.law is not None
        a, b = found.law.intervals["alpha"]
        law += a <= exact.law.alpha <= b
    assert 0.85 <= inside / total <= 0.98
    assert law >= 24


def test_intervals_of_the_law_know_that_cells_scatter_about_it():
    """With little noise, nearly all of the error of alpha and beta is due to the cells."""
    covered = {"alpha": 0, "beta": 0}
    for seed in range(30):
        law = effective_data(experiment(noise=0.0005, scatter=0.3, seed=seed), seed=seed).law
        assert law is not None
        for name, truth in (("alpha", 0.5), ("beta", 0.4)):
            low, high = law.intervals[name]
            covered[name] += low <= truth <= high
    assert all(24 <= number <= 30 for number in covered.values()), covered


def test_a_loss_beyond_the_runs_from_scratch_gives_a_bound_only():
    runs = experiment(k=2000.0)
    found = effective_data(runs)
    last = found.cells.iloc[-1]
    assert math.isnan(last["D_T"]) and "better than any run from scratch" in last["note"]
    assert last["sign"] == "gain" and math.isinf(last["D_T_high"])
    worse = runs.assign(L=runs["L"].where(runs["init_run"] == "", 9.0))
    cells = effective_data(worse).cells
    assert (cells["sign"] == "loss").all() and cells["note"].str.contains("worse than all").all()
    assert effective_data(worse).law is None and "no law" in text(effective_data(worse))


def test_the_best_learning_rate_of_each_arm_counts():
    runs = experiment()
    bad = runs[(runs["lr"] != 1) | (runs["init_run"] == "")]  # the rate that suits is missing
    assert (effective_data(bad).cells["D_T"].fillna(-1) < effective_data(runs).cells["D_T"]).all()


def test_noise_hides_the_sign_of_a_small_transfer():
    found = effective_data(experiment(k=1e-3, noise=0.02))
    assert found.stable < 0.5
    assert f"({found.stable:.0%})" in text(found)


def test_one_rate_counts_for_all_seeds():
    runs = experiment(noise=0.01)
    found = arms(runs).pretrained
    for (N, D_F), cell in found.groupby(["N", "D_F"]):
        own = runs[(runs["N"] == N) & (runs["unique_tokens"] == D_F) & (runs["init_run"] != "")]
        best = own.groupby("lr")["L"].mean().idxmin()
        assert sorted(cell["L"]) == sorted(own[own["lr"] == best]["L"])
    lonely = runs[(runs["seed"] == 0) | (runs["lr"] != 1.0)]  # the best rate has one seed
    assert (arms(lonely).pretrained.groupby(["N", "D_F"])["L"].size() == 2).all()


def test_a_table_with_both_arms_is_refused_by_a_fit():
    runs = experiment()
    with pytest.raises(TableError, match=r"12 of 27 runs began .*init_run\.isna"):
        fit("floor_D", runs[(runs["seed"] == 0) & (runs["lr"] == 1.0)])
    with pytest.raises(TableError, match="began from the weights"):
        frontier(runs.assign(C=6.0 * runs["N"] * runs["D"]))
    fit("floor_D", runs[(runs["init_run"] == "") & (runs["N"] == SIZES[0])])


def test_a_best_rate_at_the_end_of_its_range_is_told():
    inside = effective_data(experiment())
    assert inside.untuned == {"scratch": (0, 15), "pretrained": (0, 12)}
    assert "next rates" not in text(inside)
    runs = experiment()
    few = runs[(runs["lr"] != 3.0) | (runs["init_run"] == "") | (runs["N"] > SIZES[0])]
    found = effective_data(few)
    assert found.untuned == {"scratch": (0, 15), "pretrained": (4, 12)}
    assert "in 0 of 15 cells from scratch and in 4 of 12 fine-tuned" in text(found)
    assert found.record()["untuned"] == {"scratch": [0, 15], "pretrained": [4, 12]}


BAD = {
    "classifiers": (lambda r: r.assign(classes=9, labels="author"), "are classifiers"),
    "encoders and decoders": (
        lambda r: r.assign(family=r["N"].map(lambda N: "encoder" if N < 1e4 else "decoder")),
        "are encoders",
    ),
    "no column": (lambda r: r.drop(columns="init_run"), "no column init_run"),
    "one arm": (lambda r: r[r["init_run"] == ""], "from trained weights"),
    "the other arm": (lambda r: r[r["init_run"] != ""], "from random weights"),
    "one seed": (lambda r: r[r["seed"] == 0], "two seeds"),
    "two corpora": (lambda r: r.assign(corpus=r["seed"].map(str)), "2 values of corpus"),
    "one amount of data": (
        lambda r: r[(r["init_run"] != "") | (r["unique_tokens"] == 12800)],
        "two amounts of data",
    ),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=list(BAD))
def test_a_table_without_a_comparison_is_refused(change, message):
    with pytest.raises(TableError, match=message):
        effective_data(change(experiment()))


def test_the_command_prints_cells_and_law(tmp_path: Path, capsys):
    table = tmp_path / "runs.csv"
    runs = experiment(noise=0.002)
    runs.assign(C=6.0 * runs["N"] * runs["D"], run_id=range(len(runs))).to_csv(table, index=False)
    assert call("transfer", table) == 0
    shown = capsys.readouterr().out
    assert "D_T = k D_F^alpha N^beta" in shown and "in 12 of 12 cells (100%)" in shown
    assert call("transfer", table, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["cells"]) == 12 and record["law"]["cells"] == 12
    assert call("transfer", table, "--where", "init_run == 'none'") == 2


def test_the_figure_shows_both_arms():
    figure = figures.effective_data_transferred(experiment(noise=0.002))
    left, right = figure.axes[:2]
    assert len(left.lines) >= 6 and len(right.lines) >= 3
    assert right.get_ylabel().startswith("Effective data")


def test_the_specs_of_the_page_on_fine_tuning_measure_transfer(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALING_CACHE", raising=False)  # the token files of bundled corpora
    for toml in re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.S | re.M):
        name = tomllib.loads(toml)["name"]
        Path(f"{name}.toml").write_text(toml)
    few = ("--in-process", "--set", "tokens=8192", "--set", "eval.test_tokens=4096")
    assert call("sweep", "children.toml", *few) == 2
    assert "results/parents is not there" in capsys.readouterr().err
    assert call("sweep", "parents.toml", *few) == call("sweep", "children.toml", *few) == 0
    capsys.readouterr()
    assert call("transfer", "results/children", "--json") == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["seeds"] for cell in cells] == 6 * [2]
