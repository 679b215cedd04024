"""The answer in three sentences, and how summary, plan, report and demo begin or end with it."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import choose, fit, laws, load, plan, plans
from analysis.figures import registry
from analysis.planning.answer import WIDTH, doubts, flops, verdict, wrapped
from analysis.reporting.html import report
from analysis.reporting.summary import summarise
from scaling import table
from scaling.cli.app import main
from scaling.units import count

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A results folder, its runs and its curves."""
    from conftest import make_sweep

    runs, curves = make_sweep(noise=0.001)
    runs = runs.assign(seed=0, n_layer=2)
    folder = tmp_path_factory.mktemp("swept")
    table.write(folder, runs.to_dict("records"), curves.to_dict("records"))
    return folder, load(folder), curves


@pytest.fixture(scope="module")
def summary(swept):
    return summarise(swept[0], draw=False)


def test_the_summary_begins_with_three_sentences(summary):
    law, advice, against = summary.verdict
    assert " ".join(str(summary).split("\n\n")[0].split()) == " ".join(summary.verdict)
    test = summary.choice.test
    assert law == summary.choice.sentence and "auto (bottleneck" in law.split(":")[0]
    assert ": fitted to the smaller runs alone, it missed" in law
    assert f"missed the {test.runs} larger ones" in law and "times the compute" in law
    C, best = summary.plan.C.value, summary.plan
    assert advice.startswith(f"With 10 times the compute of the largest run ({flops(C)} FLOPs), ")
    for part in ("train ", "parameters on ", "tokens", "batches of ", "peak learning rate of "):
        assert part in advice
    spread = f"{best.L.low:.3f} to {best.L.high:.3f}"
    assert f"expect a loss of {best.L.value:.3f} nats per token (95 % interval {spread})" in advice
    assert against.startswith("The main doubt") and against.endswith(".")
    for text in (str(summary), summary.details()):
        assert "correlated" not in text
    assert list(summary.verdict) == summary.record()["verdict"]
    json.dumps(summary.record(), allow_nan=False)


def test_the_last_fifteen_lines_of_a_summary_hold_the_answer(summary):
    last = str(replace(summary, figures=(Path("f/kaplan1.pdf"),))).splitlines()[-15:]
    assert " ".join(summary.verdict[0].split()[:3]) in " ".join(last)
    assert all(len(line) <= WIDTH for line in last)
    assert "more with --details" in last[-1]
    demo = (ROOT / "Makefile").read_text("utf-8").split("\ndemo: ")[1].split("\n\n")[0]
    assert demo.splitlines()[-1].endswith("scaling summary results/quickstart")


def test_the_readme_shows_what_the_demo_prints():
    first = (ROOT / "README.md").read_text("utf-8").split("## Install")[0]
    shown = first.split("```text\n")[1].split("```")[0].splitlines()
    assert len(shown) <= 15 and "predicts these runs best" in shown[0]
    assert "make demo" in first and "more with --details" in shown[-1]


def test_plan_and_report_begin_with_the_same_sentences(swept, summary, monkeypatch, capsys):
    folder, runs, _ = swept
    C = 10 * float(runs["C"].max())
    main(["plan", str(folder), "--flops", str(C)])
    assert " ".join(capsys.readouterr().out.split("\n\n")[0].split()) == " ".join(summary.verdict)
    main(["plan", str(folder), "--flops", str(C), "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == list(summary.verdict)
    monkeypatch.setattr(registry, "FIGURES", {})
    page = report(folder, folder / "page.html").read_text("utf-8")
    lead = html.unescape(page[: page.index("<h2>")])
    plan = summary.plan
    answer = re.findall(r'<p id="planner-answer"[^>]*>(.*?)</p>', lead)[0].replace("\xa0", " ")
    assert f"{count(plan.N.value)} parameters on {count(plan.D.value)} tokens" in answer
    assert f"loss {plan.L.value:.2f} [{plan.L.low:.2f}, {plan.L.high:.2f}]" in answer
    for part, sentence in (("trust", summary.verdict[0]), ("doubt", summary.verdict[2])):
        assert f'id="planner-{part}">{sentence}<' in lead


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"N": 1e6}, "To make the best of 1M parameters, train 1M parameters on "),
        ({"D": 1e8}, "To make the best of 100M tokens, train "),
        ({"L": 2.4}, "To reach a loss of 2.4 nats per token, train "),
        ({"C": 1e13}, "With 1e13 FLOPs, train "),
    ],
)
def test_every_request_is_answered(swept, asked, words):
    choice = choose(swept[1], [laws.chinchilla], bootstrap=50)
    _, advice, _ = plans(choice, **asked).verdict
    assert advice.startswith(words)
    assert ("FLOPs)" in advice) == ("C" not in asked) and ("expect" in advice) == ("L" not in asked)


def test_an_unreliable_plan_says_so_in_the_second_sentence(swept):
    choice = choose(swept[1], [laws.chinchilla], bootstrap=50)
    found = plans(choice, C=1e24)
    assert found.first.doubts
    _, advice, against = found.verdict
    assert ", the answer is NOT RELIABLE: the law says " in advice
    assert "times the compute of the largest run" in against
    assert "NOT RELIABLE" not in plans(choice, C=1e14).verdict[1]


def test_doubts_are_told_by_consequence(swept):
    _, runs, _ = swept
    choice = choose(runs, bootstrap=50)
    found = plans(choice, C=10 * float(runs["C"].max()))
    far = replace(found.first, N=found.first.N._replace(value=found.first.N.value * 3))
    rivals = {choice.name: found.first, list(choice.fits)[1]: far}
    told = [d.code for d in doubts(choice, found.first, rivals, runs)]
    order = ("beyond_test", "rivals", "shape_untested", "larger", "batch", "lr", "one_seed")
    assert told == [code for code in order if code in told]
    assert {"one_seed"} <= set(told)
    text = verdict(choice, found.first, runs=runs)[2]
    assert text.count("that ") >= 2
    other = runs.assign(seed=range(len(runs)))
    assert "one_seed" not in [d.code for d in doubts(choice, found.first, {}, other)]


def test_a_searched_learning_rate_is_no_doubt(swept):
    _, runs, _ = swept
    choice = choose(runs, [laws.chinchilla], bootstrap=50)
    found = plans(choice, C=1e14).first
    assert "lr" in [d.code for d in doubts(choice, found, {}, runs)]
    again = [runs.assign(lr_peak=runs["lr_peak"] * factor) for factor in (0.5, 1, 2)]
    searched = pd.concat(again)
    assert "lr" not in [d.code for d in doubts(choice, found, {}, searched)]


def test_runs_of_one_size_have_an_answer_too(swept, tmp_path):
    _, runs, curves = swept
    one = runs[runs["N"] == runs["N"].max()]
    table.write(tmp_path, one.to_dict("records"), curves.to_dict("records"))
    found = summarise(tmp_path, draw=False)
    law, advice, _ = found.verdict
    assert law == "No law of N and D could be fitted, so nothing was tested on larger runs."
    assert advice.startswith("What to train next, these runs do not tell: ")
    assert str(found) and found.record()["plan"] is None


def test_a_table_is_summarised_and_reported_as_far_as_it_allows(swept, tmp_path, monkeypatch):
    _, runs, _ = swept
    path = tmp_path / "runs.csv"
    names = {"params": "N", "tokens": "D", "loss": "L"}
    runs[["N", "D", "L"]].rename(columns={v: k for k, v in names.items()}).to_csv(path, index=False)
    found = summarise(path, map=names)
    assert found.curves is None and found.plan is not None and not found.figures
    assert "frontier by envelope" in found.skipped and "--figures" in found.skipped["figures"]
    assert "items are missing" in str(found)
    few = summarise(path, map=names, where="D < 1e7", figures=tmp_path / "f")
    assert few.counts == {"ok": (runs["D"] < 1e7).sum()}
    assert {file.stem for file in few.figures} == {"kaplan1", "frontier"}
    monkeypatch.setattr(registry, "FIGURES", {})
    page = report(path, map=names)
    assert page == tmp_path / "runs.html" and 'id="planner-answer"' in page.read_text("utf-8")


def test_a_summary_of_selected_runs_takes_their_curves_only(swept):
    folder, runs, _ = swept
    found = summarise(folder, where="N > 1e4", draw=False)
    assert set(found.curves["run_id"]) == set(runs.loc[runs["N"] > 1e4, "run_id"])


def test_warnings_of_single_parameters_stay_in_the_certificate(swept):
    result = fit(laws.chinchilla, swept[1], bootstrap=50)
    assert any(line.code == "correlated" for line in result.warnings)
    assert "correlated" in str(result) and "correlated" not in str(plan(result, C=1e14))


def test_sentences_wrap():
    assert all(len(line) <= WIDTH for line in wrapped(["word " * 60, "other " * 3]))
    assert flops(4.01e14) == "4e14" and flops(1.25e9) == "1.2e9"
