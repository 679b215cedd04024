"""Laws of the accuracy on tasks: synthetic ladders whose truth is known, bad input, figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import call

from analysis import figures
from analysis.abilities.forms import FORMS, fit_form
from analysis.abilities.scores import at_chance, join, load_scores, seed_noise
from analysis.abilities.steps import loss_step
from analysis.abilities.task_law import task_law
from analysis.abilities.tasks import Abilities, macro_error, table, task_laws
from scaling.abilities.table import COLUMNS
from scaling.errors import TableError

SIZES = np.geomspace(2.5e3, 1e6, 6).round()
TOKENS = np.geomspace(64e3, 6.4e6, 6).round()
ITEMS = 1000

TRUTH = {"agree": (0.5, 0.95, 3.0, 3.2, 1.0), "last_word": (0.25, 0.8, 2.0, 4.4, 1.3)}
"""{task: (chance, ceiling, k, L_half, ratio of the loss on the answers to L)}."""


def loss(N, D):
    return 1.8 + 2 * (N / 300) ** -0.35 + 2 * (2e4 / D) ** 0.4


def accuracy(nll, chance, ceiling, k, half):
    return chance + (ceiling - chance) / (1 + np.exp(k * (nll - half)))


def expected(task: str, N: float, D: float) -> float:
    *shape, ratio = TRUTH[task]
    return float(accuracy(ratio * loss(N, D), *shape))


def a_score(rng: np.random.Generator, run_id: str, task: str, p: float, **values) -> dict:
    hits = rng.binomial(ITEMS, p) / ITEMS
    row = {
        "run_id": run_id, "task": task, "version": "v1", "shots": 0, "metric": "accuracy_sum",
        "n": ITEMS, "value": hits, "stderr": np.sqrt(hits * (1 - hits) / ITEMS), "nll": 2.0,
        "bits_per_byte": 1.0, "p_gold": p, "chance": 0.25, "main": True,
    }  # fmt: skip
    return row | values


def a_ladder(seed: int, sizes=SIZES, tokens=TOKENS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs of a ladder and their scores: what each task is, its name says."""
    rng = np.random.default_rng(seed)
    runs, rows = [], []
    for i, (N, D) in enumerate((N, D) for N in sizes for D in tokens):
        run_id = f"run{i:03d}"
        L = loss(N, D) * np.exp(0.003 * rng.standard_normal())
        runs.append(
            {"run_id": run_id, "status": "ok", "N": N, "D": D, "C": 6 * N * D, "L": L, "B": 512,
             "S": D // 512, "n_ctx": 128}
        )  # fmt: skip
        for task, (chance, *shape, ratio) in TRUTH.items():
            nll = ratio * loss(N, D) * np.exp(0.004 * rng.standard_normal())
            p = accuracy(nll, chance, *shape)
            rows.append(a_score(rng, run_id, task, p, nll=nll, chance=chance))
        rows.append(a_score(rng, run_id, "article", 0.5, chance=0.5))
        rows.append(a_score(rng, run_id, "noise", float(rng.uniform(0.35, 0.55))))
        for shots in (0, 4):
            p = accuracy(L, 0.25, 0.9, 2 + shots / 4, 3)
            rows.append(a_score(rng, run_id, "copy", p, shots=shots, metric="accuracy_pmi", nll=L))
        rows.append(
            a_score(rng, run_id, "repeat", 0.5, metric="bits_per_byte", chance=np.nan, value=L)
        )
        rows.append(a_score(rng, run_id, "agree", 0.1, metric="accuracy_pmi", main=False))
    return pd.DataFrame(runs), pd.DataFrame(rows)[list(COLUMNS)]


def written(folder: Path, runs: pd.DataFrame, scores: pd.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    runs.to_csv(folder / "runs.csv", index=False)
    scores.to_parquet(folder / "tasks.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("results") / "ladder", *a_ladder(0))


@pytest.fixture(scope="module")
def found(results) -> Abilities:
    return task_laws(results, tasks=["agree", "last_word", "article", "noise", "repeat"])


def test_tasks_get_the_verdict_that_they_were_made_for(found):
    assert {each.title: each.code for each in found} == {
        "agree": "predictable",
        "last_word": "predictable",
        "article": "at_chance",
        "noise": "unpredictable",
    }
    assert found.other == ("repeat",)
    assert "agree" in found["agree"].text or "sigmoid" in found["agree"].text


def test_the_sigmoid_of_the_truth_predicts_larger_runs_best(found):
    for each in found:
        if each.predictable:
            assert each.form.startswith("sigmoid")
            assert each.error < 0.03 and each.error < 0.5 * each.chosen.constant
            assert each.r2 > 0.9 and 0.9 < each.ceiling <= 1
    errors = found["agree"].trial.errors
    assert min(errors, key=errors.__getitem__).startswith("sigmoid")
    assert {"log accuracy in C", "exponential of L"} <= set(errors)


def test_a_task_at_chance_is_not_fitted(found):
    article = found["article"]
    assert article.text.startswith("at chance: the best run scores 0.")
    assert article.fitted is None and np.isnan(article.predict(1e6, 1e8))
    assert article.interval(1e6, 1e8).record()["low"] is None


def test_predictions_hold_the_truth_beyond_the_runs(found):
    prediction = found.predict(5e6, 3e7, 0.95)
    assert set(prediction.accuracy) == {"agree", "last_word"}
    for task, q in prediction.accuracy.items():
        assert q.low < expected(task, 5e6, 3e7) < q.high and q.high - q.low < 0.15
    assert prediction.others == "at chance: article; not predictable: noise"
    assert "accuracy on tasks of one new run of 5M parameters" in str(prediction)


def test_fewer_items_widen_the_interval(found):
    agree = found["agree"]
    wide, narrow = (agree.interval(1e6, 1e7, 0.9, items=n) for n in (50, 100_000))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_chained_intervals_cover():
    """At up to 10 times the compute, about 90 % of new runs lie in intervals of 90 %."""
    inside = []
    chance, *shape, ratio = TRUTH["agree"]
    for seed in range(1, 7):
        rng = np.random.default_rng(100 + seed)
        runs, scores = a_ladder(seed, SIZES[1:], TOKENS[:-1])
        rows = join(scores[scores["task"] == "agree"], runs)
        law = task_law("agree", 0, rows, {"nll": loss_step(rows, "nll")})
        for N, D in ((3e6, 2.5e6), (1e6, 2.5e7), (3e5, 5e6), (2e6, 1e7)):
            nll = ratio * loss(N, D) * np.exp(0.004 * rng.standard_normal())
            measured = rng.binomial(ITEMS, accuracy(nll, chance, *shape)) / ITEMS
            q = law.interval(N, D, 0.9)
            inside.append(q.low <= measured <= q.high)
    assert np.mean(inside) >= 0.8


def test_macro_accuracy_of_the_largest_runs_is_predicted_without_them(results):
    scores = load_scores(results)
    macro = macro_error(scores[scores["task"].isin(["agree", "last_word"])])
    assert macro.tasks == ("agree", "last_word") and len(macro.runs) == 3
    assert macro.runs["C"].min() > scores["C"].quantile(0.85)
    assert macro.error <= 0.02
    assert "off by 0.0" in str(macro)


def ten_runs(values) -> pd.DataFrame:
    N = np.geomspace(1e4, 1e6, len(values))
    runs = pd.DataFrame({"run_id": [f"r{i}" for i in range(len(values))], "N": N, "D": 20 * N})
    runs["L"] = np.linspace(4, 2.5, len(values))
    scores = [
        {"run_id": run_id, "task": "step", "version": "v", "shots": 0, "metric": "accuracy_sum",
         "n": ITEMS, "value": value, "stderr": 0.015, "nll": L, "bits_per_byte": 1.0,
         "p_gold": value, "chance": 0.5, "main": True}
        for run_id, value, L in zip(runs["run_id"], values, runs["L"], strict=True)
    ]  # fmt: skip
    return join(pd.DataFrame(scores), runs)


def test_a_step_between_two_runs_is_a_degenerate_fit():
    rows = ten_runs([0.5, 0.51, 0.49, 0.5, 0.5, 0.9, 0.91, 0.89, 0.9, 0.9])
    fitted = fit_form(FORMS["sigmoid of L"], rows)
    assert fitted is not None and fitted.result.params["k"] > 20
    assert fitted.degenerate.startswith("degenerate fit: a step of slope k = ")
    law = task_law("step", 0, rows, {"L": None, "nll": None})
    assert not law.predictable and law.code == "too_few"


def test_a_smooth_rise_is_not_degenerate():
    rows = ten_runs(accuracy(np.linspace(4, 2.5, 10), 0.5, 0.95, 3, 3.2))
    fitted = fit_form(FORMS["sigmoid of L"], rows)
    assert fitted is not None and not fitted.degenerate
    assert fitted.result.params["k"] == pytest.approx(3, rel=0.05)


def test_a_rise_whose_end_is_not_seen_holds_the_ceiling_at_one():
    rows = ten_runs(accuracy(np.linspace(4, 2.5, 10), 0.5, 1.0, 1.5, 2.0))
    fitted = fit_form(FORMS["sigmoid of L"], rows)
    assert fitted is not None and fitted.result.params["ceiling"] <= 1


def test_scores_below_the_noise_are_at_chance_and_late_rises_are_not():
    rng = np.random.default_rng(0)
    flat = ten_runs(0.5 + 0.012 * rng.standard_normal(10))
    late = ten_runs([0.5, 0.51, 0.49, 0.5, 0.5, 0.5, 0.51, 0.6, 0.7, 0.8])
    assert at_chance(flat) and not at_chance(late)


def test_an_answer_that_cannot_be_guessed_and_is_never_given_is_at_chance():
    rows = ten_runs(np.zeros(10)).assign(chance=0.0, stderr=0.0)
    assert at_chance(rows)


def test_repeated_runs_measure_the_noise_of_seeds():
    rows = ten_runs([0.5, 0.6] * 5).assign(N=1e5, D=1e6)
    assert seed_noise(rows) == pytest.approx(np.std([0.5, 0.6] * 5, ddof=1))
    assert seed_noise(ten_runs([0.5, 0.6] * 5)) == 0


def test_scores_are_those_of_finished_runs_one_version_and_the_main_metric():
    runs, scores = a_ladder(0, SIZES[:2], TOKENS[:2])
    runs.loc[0, "status"] = "diverged"
    old = scores.head(1).assign(version="v0", run_id="run003")
    both = join(pd.concat([scores, old]), runs)
    assert "run000" not in set(both["run_id"]) and set(both["version"]) == {"v1"}
    assert not both.duplicated(["run_id", "task", "shots"]).any()
    with pytest.raises(TableError, match="none of the 4 runs with scores"):
        join(scores, runs.assign(run_id="other"))


def test_command_prints_a_table_and_json(results, capsys):
    base = ("abilities", str(results), "--tasks", "agree,article", "--params", "5e6")
    assert call(*base, "--tokens", "3e7") == 0
    out = capsys.readouterr().out
    assert "held out" in out and "predictable" in out and "at chance" in out
    assert "accuracy on tasks of one new run of 5M parameters on 30M tokens" in out
    assert call(*base, "--tokens", "3e7", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in record["tasks"]] == ["predictable", "at_chance"]
    q = record["prediction"]["accuracy"]["agree"]
    assert q["low"] < expected("agree", 5e6, 3e7) < q["high"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--params", "1e6"], "give both --params and --tokens"),
        (["--flops", "1e15", "--params", "1e6", "--tokens", "1e7"], "give one run"),
        (["--tasks", "agre"], "there are no scores of task 'agre'"),
        (["--tasks", ","], "names no task"),
    ],
)
def test_bad_options_are_refused(results, options, words, capsys):
    assert call("abilities", str(results), *options) == 2
    assert words in capsys.readouterr().err


def test_results_without_scores_say_how_to_make_them(tmp_path, capsys):
    runs, _ = a_ladder(0)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    assert call("abilities", str(tmp_path)) == 2
    assert f"scaling eval {tmp_path} --tasks" in capsys.readouterr().err


def test_plan_and_summary_give_accuracies_where_there_are_scores(results, tmp_path, capsys):
    runs, scores = a_ladder(0)
    few = scores[scores["task"].isin(["agree", "article"])]
    folder = written(tmp_path / "few", runs, few)
    assert call("plan", str(folder), "--params", "5e6", "--tokens", "3e7") == 0
    out = capsys.readouterr().out
    assert "accuracy on tasks of one new run" in out and "at chance: article" in out
    (folder / "tasks.parquet").unlink()
    assert call("plan", str(folder), "--params", "5e6", "--tokens", "3e7") == 0
    assert "accuracy" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["accuracy_N", "accuracy_L", "few_shot", "aggregate"])
def test_figures_of_tasks_are_drawn(name, results):
    drawn = figures.of_results(name, results)
    titles = [ax.get_title() for ax in drawn.axes]
    if name.startswith("accuracy"):
        assert {"agree", "article (at chance)"} <= set(titles)
    if name == "accuracy_L":
        by_title = dict(zip(titles, drawn.axes, strict=True))
        assert len(by_title["agree"].lines) == 2  # the level of guessing, and the sigmoid
        assert len(by_title["article (at chance)"].lines) == 1
    if name == "few_shot":
        assert "copy" in titles
    if name == "aggregate":
        labels = {text.get_text() for text in drawn.legends[0].get_texts()}
        assert labels == {"zero-shot", "few-shot (4)", "single tasks", "guessing"}


def test_figures_need_scores(tmp_path):
    runs, _ = a_ladder(0)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(TableError, match=r"scores of tasks \(tasks.parquet"):
        figures.of_results("accuracy_N", tmp_path)


def test_table_names_degenerate_and_missing_tasks(found):
    text = table(found)
    assert text.splitlines()[-1] == "without an accuracy: repeat"
    assert list(found.summary()["task"]) == ["agree", "article", "last_word", "noise"]
    assert json.loads(json.dumps(found.record()))[0]["form"].startswith("sigmoid")
