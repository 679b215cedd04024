"""Backtests over a suite of tables: cells, scores, rules, suite files, cache and command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import call

from analysis import FitError, backtest, choose, figures
from analysis.laws import resolve
from analysis.validation import suite as suite_module
from analysis.validation.goodness import deviance
from analysis.validation.suite import COLUMNS, Suite
from analysis.validation.suite_cells import LEAST, Predictive, cells_of, scores
from analysis.validation.suite_predict import Fits, predict
from analysis.validation.suite_rules import RULES, How, Rule, rules_named
from analysis.validation.suite_tables import SuiteTable, entries, tables_of
from scaling.errors import ConfigError

ROOT = Path(__file__).parents[1]


def law(N, D, E=1.9, A=9.0, B=38.0, alpha=0.25, beta=0.30):
    return E + A * N**-alpha + B * D**-beta


def grid(noise: float = 0.0, seed: int = 0, sizes: int = 5, tokens: int = 5) -> pd.DataFrame:
    """A grid of runs of a known law; C spans a factor of about 4000."""
    N, D = np.meshgrid(np.geomspace(1e4, 1e6, sizes), np.geomspace(1e6, 4e7, tokens))
    N, D = N.ravel(), D.ravel()
    L = law(N, D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(N)))
    return pd.DataFrame({"N": N, "D": D, "C": 6 * N * D, "L": L})


def cell(runs: pd.DataFrame, factor: float = 16.0, axis: str = "C"):
    table = SuiteTable(name="t", group="g", runs=runs)
    (found,), _ = cells_of(table, (axis,), (factor,))
    return found


# ------------------------------------------------------------------ scores


def test_the_true_law_predicts_larger_runs_without_error():
    found = backtest(grid(), rules=["chinchilla"], baseline="chinchilla")
    assert sorted(found.rows["factor"]) == [4, 16, 64]
    assert (found.rows["rms"] < 1e-6).all() and (found.rows["bias"].abs() < 1e-6).all()
    assert (found.rows["n"] + found.rows["n_fit"] == 25).all()


def test_a_shift_of_the_larger_runs_is_the_bias_and_the_rms():
    runs = grid()
    above = runs["C"] > runs["C"].max() / 16
    runs.loc[above, "L"] *= np.exp(0.05)
    found = backtest(runs, rules=["chinchilla:ls"], factors=[16], baseline="chinchilla:ls")
    (row,) = found.rows.to_dict("records")
    assert row["bias"] == pytest.approx(0.05, abs=1e-6)
    assert row["rms"] == pytest.approx(0.05, abs=1e-6)
    assert row["n"] == above.sum()


def test_scores_are_those_computed_by_hand():
    predictive = Predictive(
        law="a",
        centre=np.log([2.0, 3.0]),
        weights=np.ones(1),
        means=np.log([[2.0, 3.0]]),
        scales=np.array([[0.1, 0.2]]),
    )
    row = scores(predictive, np.array([2.0 * np.exp(0.03), 3.0 * np.exp(-0.5)]), 0.9)
    assert row["rms"] == pytest.approx(np.sqrt((0.03**2 + 0.5**2) / 2))
    assert row["bias"] == pytest.approx((0.03 - 0.5) / 2)
    assert row["coverage"] == 0.5 and row["n"] == 2  # 0.5 is 2.5 standard deviations
    assert row["width"] == pytest.approx(2 * 1.6448536 * 0.15)
    densities = [-0.5 * 0.3**2 - np.log(0.1), -0.5 * 2.5**2 - np.log(0.2)]
    assert row["log_score"] == pytest.approx(np.mean(densities) - 0.5 * np.log(2 * np.pi))


def test_the_interval_of_a_mixture_covers_its_level_of_both_members():
    predictive = Predictive(
        law="a+b",
        centre=np.zeros(1),
        weights=np.array([0.5, 0.5]),
        means=np.array([[0.0], [10.0]]),
        scales=np.array([[1.0], [1.0]]),
    )
    low, high = predictive.interval(0.9)
    # Each member holds half of the mass: its outer tail of 10 % is 5 % of the whole.
    assert low == pytest.approx(-1.2815516, abs=1e-6)
    assert high == pytest.approx(11.2815516, abs=1e-6)


def test_without_an_interval_the_scores_of_intervals_are_absent():
    nothing = np.full((1, 2), np.nan)
    predictive = Predictive(
        law="a", centre=np.zeros(2), weights=np.ones(1), means=np.zeros((1, 2)), scales=nothing
    )
    assert set(scores(predictive, np.ones(2), 0.9)) == {"rms", "bias", "n"}


def test_intervals_cover_their_level_on_synthetic_truth():
    tables = [grid(noise=0.01, seed=seed, sizes=6, tokens=6) for seed in range(24)]
    for i, table in enumerate(tables):
        table.attrs["source"] = f"table {i}"
    found = backtest(tables, rules=["chinchilla:ls"], factors=[4], baseline="chinchilla:ls")
    weights = found.rows["n"] / found.rows["n"].sum()
    assert 0.82 < float(found.rows["coverage"] @ weights) < 0.97
    assert 0.5 < found.rows["rms"].mean() / 0.01 < 2


def test_bootstrap_draws_are_made_only_if_asked_for():
    fits = Fits(cell(grid(noise=0.01)), 0, 0)
    predict(rules_named(["chinchilla"])[0], fits)
    assert not len(fits.fit("chinchilla", How()).samples)
    fits = Fits(cell(grid(noise=0.01)), 50, 0)
    predictive = predict(rules_named(["chinchilla"])[0], fits)
    assert len(fits.fit("chinchilla", How(), 50).samples) == 50
    assert np.isfinite(predictive.scales).all()


# ------------------------------------------------------------------ cells


def test_cells_that_a_table_does_not_allow_are_absent():
    runs = grid(noise=0.003)
    runs = runs[runs["C"] > runs["C"].max() / 100]
    found = backtest(runs, rules=["kaplan_ND"], baseline="kaplan_ND")
    assert 64 not in set(found.rows["factor"]) and len(found.rows)
    assert "rms_64" not in found.summary().columns
    assert all(row["factor"] != 64 for row in found.record()["rows"])


def test_size_and_data_are_axes_of_their_own():
    found = backtest(
        grid(), rules=["chinchilla"], axes=["N", "D"], factors=[4], baseline="chinchilla"
    )
    rows = found.rows.set_index("axis")
    assert rows.loc["N", "n"] == 10  # two of five sizes lie above a quarter of the largest
    assert rows.loc["D", "n"] == 10
    assert set(found.summary()["axis"]) == {"N", "D"}


def test_factors_with_the_same_split_count_once_at_the_largest():
    runs = grid()
    far = runs.tail(1).assign(N=1e8, D=4e9, C=6 * 1e8 * 4e9)
    far["L"] = law(far["N"], far["D"])
    table = SuiteTable(name="t", group="g", runs=pd.concat([runs, far], ignore_index=True))
    found, why = cells_of(table, ("C",), (4.0, 16.0, 64.0))
    assert not why and [each.factor for each in found] == [64]


def test_a_run_is_held_out_as_a_whole():
    runs = grid()
    runs["run_id"] = [f"{i // 2}" for i in range(len(runs))]
    found = cell(runs)
    assert not set(found.below["run_id"]) & set(found.above["run_id"])


def test_tables_without_a_cut_off_are_left_out_and_the_others_tested():
    one_size = grid()[lambda t: t["N"] == t["N"].min()]
    few = grid().head(LEAST - 2)
    narrow = grid(sizes=4, tokens=4)
    narrow["C"] = 1e12
    for name, table in (("one", one_size), ("few", few), ("narrow", narrow)):
        table.attrs["source"] = name
    good = grid()
    good.attrs["source"] = "good"
    found = backtest([one_size, few, narrow, good], rules=["chinchilla"], baseline="chinchilla")
    assert set(found.rows["table"]) == {"good"}
    assert set(found.skipped) == {"one", "few", "narrow"}
    assert "have one N (1e+04)" in found.skipped["one"]
    assert f"it has {LEAST - 2} runs" in found.skipped["few"]
    assert "no cut-off" in found.skipped["narrow"] and "factor of 1 in C" in found.skipped["narrow"]
    with pytest.raises(FitError, match=r"^no table can be tested: one: .*; and 1 more\.$"):
        backtest([one_size, few], rules=["chinchilla"], baseline="chinchilla")


# ------------------------------------------------------------------ rules


def rule(selection: str, *laws: str) -> Rule:
    return Rule(name="mine", laws=laws, selection=selection)  # pyright: ignore[reportArgumentType]


def test_names_of_rules_are_unique_and_patterns_select_them():
    names = [each.name for each in RULES]
    assert len(names) == len(set(names))
    found = {each.name for each in rules_named(["bottleneck*"])}
    assert {"bottleneck", "bottleneck:C", "bottleneck:raw", "bottleneck:lad"} <= found
    with pytest.raises(ConfigError, match=r"no rule is called 'botleneck'\. Did you mean 'bottl"):
        rules_named(["botleneck"])


def test_a_rule_that_this_version_cannot_follow_is_not_offered():
    assert not Rule(name="x", laws=("auto",)).available or "auto" in [r.name for r in RULES]
    known = {each.name for each in rules_named([])}
    assert {"power_C", "chinchilla:huber1e-3", "held_out", "stacking:C"} <= known
    assert known == {each.name for each in RULES if each.available}


@pytest.mark.parametrize("selection", ["aicc", "held_out"])
def test_a_selection_takes_the_law_that_the_runs_follow(selection):
    fits = Fits(cell(grid(noise=0.001)), 0, 0)
    found = predict(rule(selection, "shared_exponent", "kaplan_ND", "chinchilla"), fits)
    assert found.law == "chinchilla"


def test_the_held_out_choice_is_that_of_the_planner():
    found = cell(grid(noise=0.01))
    names = ("chinchilla", "kaplan_ND", "shared_exponent")
    choice = choose(found.below, [resolve(name) for name in names], bootstrap=200, alone=True)
    assert predict(rule("held_out", *names), Fits(found, 0, 0)).law == choice.name


def test_the_median_of_laws_is_that_of_their_predictions():
    fits = Fits(cell(grid(noise=0.01)), 0, 0)
    laws = ("chinchilla", "kaplan_ND", "shared_exponent")
    each = [predict(rule("single", law), fits).centre for law in laws]
    found = predict(rule("median", *laws), fits)
    assert found.centre == pytest.approx(np.median(each, axis=0))
    assert found.weights == pytest.approx([1 / 3] * 3)


def test_stacking_gives_the_weight_to_the_law_that_predicts():
    fits = Fits(cell(grid(noise=0.0005)), 0, 0)
    found = predict(rule("stacking", "kaplan_ND", "chinchilla"), fits)
    assert found.law.startswith("chinchilla") and found.weights.sum() == pytest.approx(1)
    assert found.centre == pytest.approx(found.weights @ found.means)


def test_aicc_weights_are_exponential_in_the_differences():
    fits = Fits(cell(grid(noise=0.01)), 0, 0)
    laws = ("chinchilla", "kaplan_ND")
    found = predict(rule("aicc_weights", *laws), fits)
    aicc = []
    for law in laws:
        result = fits.fit(law, How())
        n, k = result.n, len(result.params) + 1
        aicc.append(n * deviance(result) + 2 * k + 2 * k * (k + 1) / (n - k - 1))
    ratio = found.weights[0] / found.weights[1]
    assert ratio == pytest.approx(np.exp((aicc[1] - aicc[0]) / 2))


def test_weights_by_compute_are_those_of_the_column():
    fits = Fits(cell(grid(noise=0.01)), 0, 0)
    w = fits.fit("chinchilla", How(weights="C")).problem.weights
    C = fits.cell.below["C"].to_numpy()
    assert w / w.sum() == pytest.approx(C / C.sum())


def test_fits_are_shared_by_rules(monkeypatch):
    from analysis.validation import suite_predict

    count, real = [], suite_predict.fit
    monkeypatch.setattr(
        suite_predict, "fit", lambda law, *a, **k: count.append(law) or real(law, *a, **k)
    )
    fits = Fits(cell(grid(noise=0.01)), 0, 0)
    for selection in ("single", "median", "aicc", "aicc_weights", "stacking"):
        predict(rule(selection, "chinchilla", "kaplan_ND"), fits)
    assert sorted(count) == ["chinchilla", "kaplan_ND"]


# ------------------------------------------------------------------ summary


def made(*rows: tuple[str, str, str, float, float]) -> Suite:
    """A suite of (table, group, rule, factor, rms)."""
    names = ("table", "group", "rule", "factor", "rms")
    table = pd.DataFrame(rows, columns=names).assign(axis="C", law="l", bias=0.0, n=1, n_fit=9)
    return Suite(
        rows=table.reindex(columns=list(COLUMNS)), baseline="a", level=0.9, skipped={}, failed={}
    )


def test_the_summary_is_the_mean_over_groups_and_the_geometric_mean_ratio():
    found = made(
        ("t1", "g1", "a", 4, 0.02), ("t1", "g1", "b", 4, 0.01),
        ("t2", "g1", "a", 4, 0.04), ("t2", "g1", "b", 4, 0.02),
        ("t3", "g2", "a", 4, 0.01), ("t3", "g2", "b", 4, 0.08),
        ("t3", "g2", "a", 16, 0.01), ("t3", "g2", "b", 16, 0.08),
    ).summary().set_index("rule")  # fmt: skip
    assert found.loc["b", "rms_4"] == pytest.approx((0.015 + 0.08) / 2)
    assert found.loc["b", "rms_16"] == pytest.approx(0.08)
    # Group g1 halves the error and g2 multiplies it by 8: the geometric mean is 2.
    assert found.loc["b", "ratio"] == pytest.approx(2)
    assert found.loc["b", "worst"] == pytest.approx(8) and found.loc["b", "worst_group"] == "g2"
    assert found.loc["a", "ratio"] == pytest.approx(1)
    assert found.loc["b", "low"] == pytest.approx(0.5) and found.loc["b", "high"] == pytest.approx(
        8
    )


def test_ratios_compare_the_cells_of_both_rules():
    found = made(
        ("t1", "g1", "a", 4, 0.02), ("t1", "g1", "b", 4, 0.01), ("t1", "g1", "a", 16, 9.0),
        ("t2", "g2", "b", 4, 7.0),
    )  # fmt: skip
    assert found.summary().set_index("rule").loc["b", "ratio"] == pytest.approx(0.5)


def test_groups_are_told_apart():
    found = made(
        ("t1", "g1", "a", 4, 0.02), ("t1", "g1", "b", 4, 0.01),
        ("t2", "g2", "a", 4, 0.01), ("t2", "g2", "b", 4, 0.03),
    )  # fmt: skip
    table = found.by_group().set_index(["rule", "group"])["ratio"]
    assert table["b", "g1"] == pytest.approx(0.5) and table["b", "g2"] == pytest.approx(3)
    last = found.details().splitlines()[-2:]
    assert [line.split() for line in last] == [["a", "1.00", "1.00"], ["b", "0.50", "3.00"]]


def test_tables_with_the_same_name_are_numbered():
    first = second = grid()
    first.attrs["source"] = "runs.csv"
    found, _ = tables_of([first, second])
    assert [each.name for each in found] == ["runs.csv", "runs.csv (2)"]
    assert found[0].content == found[1].content


# ------------------------------------------------------------------ suite files


def write(folder: Path, text: str) -> Path:
    (folder / "data").mkdir()
    runs = grid(noise=0.003)
    both = pd.concat([runs.assign(set="x"), runs.assign(set="y", L=runs["L"] + 1)])
    both = both.rename(columns={"N": "params", "D": "tokens", "L": "code"}).drop(columns="C")
    both["prose"] = both["code"] + 0.5
    both.to_csv(folder / "data" / "runs.csv", index=False)
    file = folder / "mine.toml"
    file.write_text(text)
    return file


ENTRY = """
[[table]]
group = "ours"
path = "runs.csv"
map = { params = "N", tokens = "D" }
"""


def test_a_suite_file_splits_tables_by_value_and_by_loss(tmp_path):
    more = 'split = ["set"]\nlosses = ["code", "prose"]\nwhere = "params > 2e4"\n'
    found, skipped = tables_of([write(tmp_path, ENTRY + more)], root=tmp_path / "data")
    assert not skipped
    assert [each.name for each in found] == [
        "ours/x/code", "ours/y/code", "ours/x/prose", "ours/y/prose"
    ]  # fmt: skip
    assert {each.group for each in found} == {"ours"}
    assert all(len(each.runs) == 20 and each.runs["N"].min() > 2e4 for each in found)
    assert found[2].runs["L"].to_numpy() == pytest.approx(found[0].runs["L"].to_numpy() + 0.5)
    assert found[0].runs["C"].to_numpy() == pytest.approx(
        (6 * found[0].runs["N"] * found[0].runs["D"]).to_numpy()
    )


def test_the_best_run_of_each_size_is_taken_if_asked_for(tmp_path):
    text = ENTRY.replace('path = "', 'path = "data/') + 'losses = ["code"]\nbest = true\n'
    (table,), _ = tables_of([write(tmp_path, text)])  # relative to the suite file
    assert len(table.runs) == 25 and table.runs["L"].max() < grid()["L"].max() + 0.5


def test_an_entry_whose_table_is_absent_is_left_out(tmp_path):
    text = ENTRY + 'losses = ["code"]\nsplit = ["set"]\n'
    text += text.replace("runs.csv", "none.csv").replace("ours", "gone")
    text += ENTRY.replace("ours", "no column") + 'split = ["sort"]\nlosses = ["code"]\n'
    found, skipped = tables_of([write(tmp_path, text)], root=tmp_path / "data")
    assert len(found) == 2 and set(skipped) == {"gone", "no column"}
    assert "none.csv does not exist" in skipped["gone"] and "--root" in skipped["gone"]
    assert "no column 'sort' to split by" in skipped["no column"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[table]]\npath = 'a'\n", "table 1: group is missing"),
        ("[[table]]\ngroup = 'a'\npath = 'b'\nmapp = {}\n", "no key 'mapp'.*Did you mean 'map'"),
        ("[[table]]\ngroup = 'a'\npath = 'b'\nlosses = 'L'\n", "losses = 'L' must be a list"),
        ("[[table]]\ngroup = 'a'\npath = 'b'\nbest = 1\n", "best = 1 must be true or false"),
        ("[[table]]\ngroup = 'a'\npath = 'b'\nmap = {a = 1}\n", "map = .* must be a table"),
        ("[[tables]]\ngroup = 'a'\n", "consists of entries .*found tables"),
        ("", "consists of entries"),
        ("[[table]\n", "not a suite file in TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_suite_file_is_named(tmp_path, text, message):
    file = tmp_path / "suite.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        entries(file)


def test_a_folder_stands_for_the_tables_in_it(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    grid().to_csv(folder / "first.csv", index=False)
    grid().drop(columns="L").to_csv(folder / "second.csv", index=False)
    (folder / "notes.md").write_text("no table")
    (tmp_path / "empty").mkdir()
    found, skipped = tables_of([folder, tmp_path / "empty", tmp_path / "none.csv"])
    assert [each.name for each in found] == [str(folder / "first.csv")]
    assert set(skipped) == {
        str(folder / "second.csv"), str(tmp_path / "empty"), str(tmp_path / "none.csv")
    }  # fmt: skip
    assert skipped[str(tmp_path / "empty")].startswith("no table and no results folder")


def test_the_shipped_suite_describes_the_published_tables(published):
    found, skipped = tables_of([ROOT / "benchmarks" / "published.toml"], root=published)
    assert not skipped and len(found) >= 30 and len({each.group for each in found}) >= 10
    sizes = {each.name: len(each.runs) for each in found}
    assert sizes["besiroglu2024"] == 240 and sizes["headline"] == 53
    assert sum(name.startswith("porian2024") for name in sizes) == 10
    for each in found:
        cells, why = cells_of(each, ("C",), (4.0, 16.0, 64.0))
        assert cells and not why, each.name


# ------------------------------------------------------------------ cache, processes, command


def test_a_second_call_computes_nothing_and_other_content_is_computed(tmp_path, monkeypatch):
    runs = grid(noise=0.01)
    asked = {"rules": ["chinchilla", "median"], "baseline": "chinchilla", "factors": [16]}
    first = backtest(runs, cache=tmp_path, **asked)
    computed, real = [], suite_module.score

    def counted(cell, rules, **options):
        computed.append([rule.name for rule in rules])
        return real(cell, rules, **options)

    monkeypatch.setattr(suite_module, "score", counted)
    again = backtest(runs, cache=tmp_path, **asked)
    assert not computed
    pd.testing.assert_frame_equal(first.rows, again.rows)
    more = backtest(runs, cache=tmp_path, **asked | {"rules": ["chinchilla", "kaplan_ND"]})
    assert computed == [["kaplan_ND"]] and len(more.rows) == 2
    backtest(runs.assign(L=runs["L"] * 1.01), cache=tmp_path, **asked)
    assert computed[1:] == [["chinchilla", "median"]]
    for file in tmp_path.iterdir():
        file.write_text("not JSON")
    backtest(runs, cache=tmp_path, **asked)
    assert computed[2:] == [["chinchilla", "median"]]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    asked = {"rules": ["kaplan_ND"], "baseline": "kaplan_ND", "factors": [4]}
    with pytest.warns(UserWarning, match="scores cannot be kept"):
        found = backtest(grid(noise=0.01), cache=tmp_path / "file" / "cache", **asked)
    assert len(found.rows) == 1


def test_several_processes_give_the_same_rows():
    runs = grid(noise=0.01)
    asked = {"rules": ["chinchilla"], "baseline": "chinchilla", "factors": [4, 16]}
    one, two = backtest(runs, **asked), backtest(runs, workers=2, **asked)
    pd.testing.assert_frame_equal(one.rows, two.rows, rtol=1e-9)


def test_headline_is_predicted_better_by_its_best_law(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    words = ["--rule", "bottleneck:C", "--factors", "16", "--baseline", "chinchilla:huber1e-3"]
    folder = str(ROOT / "results" / "headline")
    assert call("backtest", folder, *words, "--json", "--csv", str(tmp_path / "rows.csv")) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"table", "law", "rule", "factor", "rms", "bias", "coverage", "width", "n"} <= set(
        found["rows"][0]
    )
    (better,) = [row for row in found["summary"] if row["rule"] == "bottleneck:C"]
    assert better["ratio"] < 0.6 and better["rms"] < 0.02
    written = pd.read_csv(tmp_path / "rows.csv")
    assert written["rms"].tolist() == pytest.approx([row["rms"] for row in found["rows"]])


def test_the_command_notes_tables_without_a_cut_off_and_fails_if_there_are_no_others(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    runs = grid(noise=0.003)
    runs.to_csv(tmp_path / "good.csv", index=False)
    runs[runs["N"] == runs["N"].min()].to_csv(tmp_path / "one.csv", index=False)
    asked = ["--rule", "kaplan_ND", "--baseline", "kaplan_ND", "--factors", "4"]
    plot = tmp_path / "errors.svg"
    good, one = str(tmp_path / "good.csv"), str(tmp_path / "one.csv")
    assert call("backtest", good, one, *asked, "--plot", str(plot)) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{good}: rms error of ln L") and "kaplan_ND" in printed.out
    assert f"note: {one} is left out: all 5 runs have one N (1e+04)" in printed.err
    assert plot.stat().st_size > 1000
    assert call("backtest", one, *asked) == 2
    error = capsys.readouterr().err
    assert "no table can be tested" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--factors", "4,x"], "write them as 4,16,64"),
        (["--factors", "1"], "factor 1 must be larger than 1"),
        (["--axis", "B"], "there is no axis 'B'"),
        (["--rule", "auto*x"], "no rule is called 'auto*x'"),
        (["--baseline", "bottleneck*"], "must be one rule"),
        (["--workers", "0"], "workers=0 must be at least 1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(words, message, capsys, tmp_path):
    grid().to_csv(tmp_path / "good.csv", index=False)
    assert call("backtest", str(tmp_path / "good.csv"), *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_the_figure_shows_the_error_of_each_rule_at_each_factor():
    found = made(
        ("t1", "g1", "a", 4, 0.02), ("t1", "g1", "b", 4, 0.01),
        ("t1", "g1", "a", 16, 0.04), ("t1", "g1", "b", 16, 0.03),
    )  # fmt: skip
    (ax,) = figures.backtest_errors(found).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    assert lines["a"] == [[4, 2], [16, 4]]
    assert np.allclose(lines["b"], [[4, 1], [16, 3]])
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", "--"]
