"""Predictions on record: what they hold, that they stay, and how they compare with later runs."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TRUTH, chinchilla, make_sweep
from hypothesis import given, settings
from hypothesis import strategies as st
from small import call

from analysis import choose, fit, laws
from analysis.planning import records
from analysis.planning.plan import plan
from analysis.planning.plans import plans
from analysis.planning.prediction import predict_plan, predict_run
from analysis.planning.track_record import track_record
from scaling.errors import ConfigError

N, D = 3e6, 1e8
"""A run beyond those of the tables here, which have N up to 1e6 and D up to 3e7."""


@pytest.fixture(scope="module")
def runs():
    return make_sweep()[0]


@pytest.fixture(scope="module")
def choice(runs):
    return choose(runs, [laws.chinchilla, laws.bottleneck], bootstrap=100)


@pytest.fixture(scope="module")
def prediction(choice):
    return predict_run(choice, N=N, D=D)


@pytest.fixture
def table(runs, tmp_path, monkeypatch):
    """A table of runs in the current folder, small enough for a quick fit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    runs[["N", "D", "L"]].to_csv(tmp_path / "mine" / "runs_of_mine.csv", index=False)
    return "mine/runs_of_mine.csv"


# ------------------------------------------------------------------ the prediction of a given run


def test_a_given_run_is_predicted_by_the_law_at_its_N_and_D(choice, prediction):
    assert pytest.approx(float(choice.first.predict(N=N, D=D)), rel=1e-12) == prediction.L
    assert pytest.approx(chinchilla(N, D), rel=0.02) == prediction.L
    assert prediction.C == 6 * N * D
    low, high = prediction.intervals["statistical"]
    assert low < prediction.L < high
    assert prediction.intervals["extrapolation"] is None
    assert sum(law.weight for law in prediction.laws.values()) == 1
    assert next(iter(prediction.laws)) == choice.name


def test_the_interval_of_a_given_run_includes_the_noise_of_one_run(choice, prediction):
    low, high = prediction.intervals["statistical"]
    exact = choice.first.predict_interval(0.95, N=N, D=D)
    assert high - low > exact[1] - exact[0]


def test_a_run_far_beyond_the_data_is_not_reliable(choice):
    far = predict_run(choice, N=1e10, D=1e13)
    assert any(line.code == "unreliable_extrapolation" for line in far.doubts)
    assert str(far).startswith("NOT RELIABLE") and not far.record()["reliable"]


def test_a_run_inside_the_data_has_no_warning_of_distance(choice):
    inside = predict_run(choice, N=1e5, D=3e6)
    assert not [line for line in inside.status if "beyond" in line]


def test_repeated_data_raise_the_predicted_loss(choice, prediction):
    repeated = predict_run(choice, N=N, D=D, unique=D / 20)
    assert repeated.L > prediction.L
    assert repeated.record()["unique_tokens"] == D / 20


def test_one_fit_predicts_alone(runs):
    alone = predict_run(fit(laws.chinchilla, runs, bootstrap=0), N=N, D=D)
    assert list(alone.laws) == ["chinchilla"] and alone.laws["chinchilla"].weight == 1
    json.dumps(alone.record(), allow_nan=False)
    assert "chinchilla (weight 1)" in str(alone)


class Combined:
    """A combination of fits, as far as a prediction needs it."""

    def __init__(self, choice):
        self.laws, self.errors = choice.fits, choice.errors
        self.weights = dict(zip(choice.fits, (0.25, 0.75), strict=True))

    def predict(self, **at):
        return sum(w * self.laws[name].predict(**at) for name, w in self.weights.items())

    def predict_interval(self, level=0.95, *, kind="extrapolation", noise=False, **at):
        L = self.predict(**at)
        width = {"statistical": 0.01, "extrapolation": 0.05}[kind] * (1 + noise)
        return L - width, L + width


def test_a_combination_gives_both_intervals_and_the_weights_of_its_laws(choice):
    combined = Combined(choice)
    found = predict_run(combined, N=N, D=D)
    L = float(combined.predict(N=N, D=D))
    assert pytest.approx(L) == found.L
    assert found.intervals["statistical"] == pytest.approx((L - 0.02, L + 0.02))
    assert found.intervals["extrapolation"] == pytest.approx((L - 0.1, L + 0.1))
    assert [law.weight for law in found.laws.values()] == [0.75, 0.25]
    assert "extrapolation interval of one new run" in str(found)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"N": -1.0, "D": 1e6}, "N=-1.0 must be a number from 1"),
        ({"N": 1e6, "D": math.nan}, "D=nan must be a number from 1"),
        ({"N": 1e6, "D": 0.5}, "D=0.5 must be a number from 1"),
        ({"N": 1e6, "D": 1e6, "unique": 0.0}, "unique=0.0 must be a positive number"),
    ],
)
def test_a_run_that_cannot_be_is_refused(choice, asked, message):
    with pytest.raises(ConfigError, match=message):
        predict_run(choice, **asked)


def test_a_law_of_N_alone_predicts_no_run(runs):
    with pytest.raises(ConfigError, match="needs a law of both; kaplan_N is a law of N"):
        predict_run(fit(laws.kaplan_N, runs, bootstrap=0), N=N, D=D)


def test_the_prediction_of_a_plan_is_that_of_its_best_run(choice):
    found = plans(choice, C=1e15)
    got = predict_plan(found)
    assert (found.first.N.value, found.first.D.value) == (got.N, got.D)
    assert got.asked == {"C": 1e15}
    assert pytest.approx(found.first.L.value, rel=1e-6) == got.L
    assert plan(choice.first, C=1e15).L.value == found.first.L.value


# ------------------------------------------------------------------ the file


def test_a_record_holds_what_was_asked_predicted_and_fitted(prediction, runs, tmp_path):
    path = records.write_record(prediction, runs, "first", [tmp_path], revision="abc")
    assert path == tmp_path / "plans" / "first.json"
    values = json.loads(path.read_text())
    assert values["asked"] == {"N": N, "D": D} and values["C"] == 6 * N * D
    assert values["intervals"]["statistical"] == list(prediction.intervals["statistical"])
    assert values["intervals"]["extrapolation"] is None
    assert values["laws"]["chinchilla"]["params"].keys() == TRUTH.keys()
    assert values["table"]["sha256"] == records.content_hash(runs)
    assert values["table"]["rows"] == len(runs) and values["table"]["sources"] == ["."]
    assert values["revision"] == "abc" and values["version"]
    assert datetime.fromisoformat(values["time"]).tzinfo is not None
    read = records.read_record(path)
    assert read.name == "first" and read.interval("extrapolation") is None


def test_a_record_is_never_overwritten(prediction, runs, tmp_path):
    path = records.write_record(prediction, runs, "first", [tmp_path])
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"first\.json: there is a record of .* never"):
        records.write_record(prediction, runs, "first", [tmp_path])
    assert path.read_bytes() == before


def test_a_record_is_not_written_through_a_link(prediction, runs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "plans").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        records.write_record(prediction, runs, "first", [tmp_path / "mine"])
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "two words", "x" * 101, "a\nb"])
def test_the_name_of_a_record_is_a_plain_word(name, tmp_path):
    with pytest.raises(ConfigError, match="must be a plain word"):
        records.check_free(tmp_path, name)


def test_the_hash_of_a_table_is_that_of_its_numbers(runs, tmp_path):
    """Not of its order, its format or its other columns."""
    asked = records.content_hash(runs)
    runs[::-1].to_csv(tmp_path / "runs.csv", index=False)
    assert records.content_hash(pd.read_csv(tmp_path / "runs.csv")[["L", "D", "N"]]) == asked
    changed = runs.assign(L=runs["L"] * np.where(np.arange(len(runs)) == 3, 1 + 1e-15, 1.0))
    assert changed["L"].ne(runs["L"]).sum() == 1
    assert records.content_hash(changed) != asked


def test_a_folder_of_tables_keeps_its_records_and_does_not_read_them(prediction, runs, tmp_path):
    from analysis import load

    for first, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        half = runs[["N", "D", "L"]].iloc[first::2]
        half.to_json(tmp_path / name / "runs.json", orient="records")
    before = load(tmp_path)
    records.write_record(prediction, before, "first", [tmp_path])
    assert len(load(tmp_path)) == len(before)


# ------------------------------------------------------------------ the command


def test_plan_records_a_given_run(table, capsys):
    words = ("plan", table, "--params", "3e6", "--tokens", "1e8", "--law", "chinchilla")
    assert call(*words, "--record", "tenfold") == 0
    shown = capsys.readouterr().out
    assert "on record: mine/plans/tenfold.json" in shown
    assert "3M parameters on 100M tokens" in shown
    values = json.loads(Path("mine/plans/tenfold.json").read_text())
    assert values["asked"] == {"N": 3e6, "D": 1e8}
    assert values["table"]["sources"] == ["runs_of_mine.csv"]
    assert call(*words, "--record", "tenfold") == 2
    assert "never overwritten" in capsys.readouterr().err
    assert call(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["L"] == values["L"] and found["intervals"] == values["intervals"]


def test_plan_records_the_best_run_for_a_budget(table, capsys):
    words = ("plan", table, "--flops", "1e15", "--law", "chinchilla", "--where", "N > 4000")
    assert call(*words, "--record", "budget", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    values = json.loads(Path("mine/plans/budget.json").read_text())
    assert shown["on_record"] == "mine/plans/budget.json"
    assert values["asked"] == {"C": 1e15}
    assert (values["N"], values["D"]) == (shown["N"]["value"], shown["D"]["value"])
    assert values["table"]["selection"] == {"where": "N > 4000"}


def test_a_record_of_results_on_a_URI_is_kept_there(runs, tmp_path, own_cache, capsys):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    runs.to_csv(bucket / "runs.csv", index=False)
    uri = f"local://{bucket}"
    words = ("plan", uri, "--params", "3e6", "--tokens", "1e8", "--law", "chinchilla")
    assert call(*words, "--record", "far") == 0
    assert f"on record: {uri}/plans/far.json" in capsys.readouterr().out
    before = (bucket / "plans" / "far.json").read_bytes()
    assert json.loads(before)["table"]["sources"] == ["."]
    assert call(*words, "--record", "far") == 2
    assert (bucket / "plans" / "far.json").read_bytes() == before
    assert call("plan", uri, "--score") == 0
    assert "1 prediction on record, 0 scored" in capsys.readouterr().out


def test_plan_refuses_what_it_cannot_record_before_it_fits(table, capsys):
    words = ("plan", "absent.csv", "--params", "3e6", "--tokens", "1e8", "--record")
    assert call(*words, "../up") == 2
    assert "--record '../up' must be a plain word" in capsys.readouterr().err
    given = ("plan", table, "--params", "3e6", "--tokens", "1e8", "--law", "chinchilla")
    assert call(*given, "--inference-tokens", "1e9") == 2
    assert "--inference-tokens matters for the best size" in capsys.readouterr().err
    assert call(*given, "--flops", "1e15") == 2
    assert "--params with --tokens predicts" in capsys.readouterr().err


# ------------------------------------------------------------------ the score


@pytest.fixture
def place(prediction, runs, tmp_path):
    """A folder of results with a table, a prediction on record, and a folder for later runs."""
    (tmp_path / "first").mkdir()
    runs[["N", "D", "L"]].to_csv(tmp_path / "first" / "table.csv", index=False)
    source = tmp_path / "first" / "table.csv"
    records.write_record(prediction, runs, "tenfold", [source])
    return tmp_path


def later(place, *rows, **more):
    """Write a table of later runs (N, D, L) and return its path."""
    (place / "later").mkdir(exist_ok=True)
    path = place / "later" / "runs_of_later.csv"
    table = pd.DataFrame(rows, columns=["N", "D", "L"]).assign(**more)
    # A table needs several sizes to be read as one of runs.
    rest = table.assign(N=table["N"] / 1e3, D=table["D"] / 1e3, L=table["L"] + 1)
    pd.concat([table, rest]).to_csv(path, index=False)
    return path


def scored(place, *sources):
    found = track_record([place / "first" / "table.csv", *sources])
    (score,) = found.scores
    return score, found


def test_the_predicted_run_is_scored_in_nats_and_per_cent(place, prediction):
    L = prediction.L * 1.01
    score, found = scored(place, later(place, (N, D, L)))
    assert score.same and score.runs == 1
    assert score.error == pytest.approx(0.01 * prediction.L, rel=1e-9)
    assert score.relative == pytest.approx(0.01, rel=1e-9)
    assert found.rms == pytest.approx(math.log(1.01), rel=1e-9)
    assert score.table == "unchanged"
    assert "1 prediction on record, 1 scored" in found.summary
    others = {name: L / law.L.value - 1 for name, law in prediction.laws.items() if not law.weight}
    assert score.other_laws == pytest.approx(others)


@pytest.mark.parametrize("end", [0, 1])
def test_a_loss_is_inside_an_interval_up_to_its_ends(place, prediction, end):
    edge = prediction.intervals["statistical"][end]
    outwards = 1 + (1e-6 if end else -1e-6)
    score, found = scored(place, later(place, (N, D, edge)))
    assert score.inside("statistical") and score.inside("extrapolation") is None
    assert found.coverage == {"statistical": (1, 1), "extrapolation": (0, 0)}
    score, found = scored(place, later(place, (N, D, edge * outwards)))
    assert score.inside("statistical") is False
    assert found.coverage["statistical"] == (0, 1)
    assert "OUTSIDE the 95% statistical interval" in str(found)


def test_both_intervals_are_scored(choice, runs, tmp_path):
    runs[["N", "D", "L"]].to_csv(tmp_path / "table.csv", index=False)
    found = predict_run(Combined(choice), N=N, D=D)
    records.write_record(found, runs, "both", [tmp_path / "table.csv"])
    got = track_record([tmp_path / "table.csv", later(tmp_path, (N, D, found.L + 0.05))])
    assert got.coverage == {"statistical": (0, 1), "extrapolation": (1, 1)}
    assert "1 of 1 inside the 95% extrapolation interval" in got.summary


@given(
    law=st.sampled_from(["chinchilla", "bottleneck"]),
    n=st.floats(0.5, 2.0),
    d=st.floats(0.5, 2.0),
)
@settings(max_examples=60, deadline=None)
def test_the_prediction_moves_with_its_law_to_the_N_and_D_of_the_run(choice, law, n, d):
    found = predict_run(choice.fits[law], N=N, D=D)
    record = records.PlanRecord(path=Path("plans/x.json"), values=found.record())
    assert record.predict(N * n, D * d) == pytest.approx(
        float(choice.fits[law].predict(N=N * n, D=D * d)), rel=5e-4
    )
    assert record.predict(N, D) == pytest.approx(found.L, rel=1e-12)


def test_a_run_near_the_prediction_is_compared_at_its_own_size(place, choice):
    at = {"N": N * 1.5, "D": D / 1.4}
    L = float(choice.first.predict(**at))
    score, found = scored(place, later(place, (*at.values(), L)))
    assert not score.same and score.relative == pytest.approx(0, abs=5e-4)
    low, high = score.interval("statistical")
    assert low < L < high
    assert "the nearest run has N = 4.5e+06" in str(found)


def test_the_nearest_run_counts_and_runs_of_the_same_size_together(place, prediction):
    near = [(N, D, 2.0), (N, D, 2.1), (N * 1.2, D, 9.0), (N, D / 1.1, 9.0)]
    score, found = scored(place, later(place, *near))
    assert score.runs == 2 and score.measured == pytest.approx(math.sqrt(2.0 * 2.1))
    assert "mean of 2 runs" in str(found)


@pytest.mark.parametrize(("n", "d", "more"), [(2.1, 1, "2.1 times more p"), (1, 0.4, "fewer tok")])
def test_a_run_beyond_a_factor_of_two_is_no_test(place, n, d, more):
    score, found = scored(place, later(place, (N * n, D * d, 2.5)))
    assert not score.scored and math.isnan(found.rms)
    assert "within a factor of 2" in score.waiting and more in score.waiting
    assert found.summary == "1 prediction on record, 0 scored"
    json.dumps(found.record(), allow_nan=False)


def test_a_run_that_was_fitted_is_no_test(choice, runs, tmp_path):
    """A prediction inside the data has such runs near it."""
    table = tmp_path / "table.csv"
    runs[["N", "D", "L"]].to_csv(table, index=False)
    row = runs.iloc[12]
    found = predict_run(choice, N=float(row["N"]), D=float(row["D"]))
    records.write_record(found, runs, "inside", [table])
    (score,) = track_record([table]).scores
    assert "among those that it was predicted from" in score.waiting
    new = pd.concat([runs[["N", "D", "L"]], pd.DataFrame([row[["N", "D", "L"]]]).assign(L=2.75)])
    new.to_csv(table, index=False)
    (score,) = track_record([table]).scores
    assert score.measured == pytest.approx(2.75) and score.table == "changed"


def test_a_loss_on_another_text_is_no_test(choice, runs, tmp_path):
    named = runs.assign(corpus_hash="aaaa", tokenizer="bytes")
    table = tmp_path / "table.csv"
    named[["N", "D", "L", "corpus_hash", "tokenizer"]].to_csv(table, index=False)
    records.write_record(predict_run(choice, N=N, D=D), named, "x", [table])
    for text, tokenizer, counts in (
        ("aaaa", "bytes", True), ("bbbb", "bytes", False), ("aaaa", "bpe-300", False),
    ):  # fmt: skip
        other = later(tmp_path, (N, D, 2.5), corpus_hash=text, tokenizer=tokenizer)
        (score,) = track_record([table, other]).scores
        assert score.scored is counts


def test_the_table_of_a_record_is_found_after_both_have_moved(place):
    (place / "first").rename(place / "moved")
    (score,) = track_record([place / "moved" / "table.csv"]).scores
    assert score.table == "unchanged"
    (place / "moved" / "table.csv").rename(place / "moved" / "renamed.csv")
    found = track_record([place / "moved" / "renamed.csv"])
    assert found.scores[0].table == "not found"
    assert "is no longer there" in str(found)


def test_records_without_any_run_are_a_users_mistake(tmp_path, runs):
    runs[["N", "D", "L"]].to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ConfigError, match=r"no prediction is on record in .*plans"):
        track_record([tmp_path / "table.csv"])


DAMAGE = [
    ("{", "Expecting property name"),
    ("[1]", "it holds no object"),
    ("{}", "it has no number 'format'"),
    ({"N": "3e6"}, "'N' is '3e6', not a positive number"),
    ({"L": -1.0}, "'L' is -1.0"),
    ({"level": True}, "'level' is True"),
    ({"time": "yesterday"}, "'time' is no date"),
    ({"time": None}, "'time' is no date"),
    ({"intervals": [1, 2]}, "'intervals' is missing or no object"),
    ({"intervals": {"statistical": [1.0]}}, "its statistical interval is not"),
    ({"laws": {"chinchilla": 3}}, "'laws' does not hold an object per law"),
    ({"nearby": None}, "'nearby' is not a table of losses"),
    ({"nearby": {"factors": [1, 1], "L": [[1, 1], [1, 1]]}}, "'nearby' is not a table of losses"),
    ({"within": 50.0}, "'nearby' is not a table of losses"),
    ({"table": {}}, "'table' has no 'sources'"),
    ({"format": 2}, "written by a newer version"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[str(d) for d, _ in DAMAGE])
def test_a_damaged_record_is_named_and_the_others_are_scored(place, damage, message):
    plans = place / "first" / "plans"
    whole = json.loads((plans / "tenfold.json").read_text())
    text = damage if isinstance(damage, str) else json.dumps(whole | damage)
    (plans / "bad.json").write_text(text)
    found = track_record([place / "first" / "table.csv"])
    assert [score.on_record.name for score in found.scores] == ["tenfold"]
    (told,) = found.unreadable
    assert "bad.json" in told and message in told
    (plans / "tenfold.json").unlink()
    with pytest.raises(ConfigError, match=r"bad\.json"):
        track_record([place / "first" / "table.csv"])


def test_a_record_that_is_a_folder_or_not_text_is_named(place):
    plans = place / "first" / "plans"
    (plans / "folder.json").mkdir()
    (plans / "binary.json").write_bytes(b"\xff\xfe\x00")
    found = track_record([place / "first" / "table.csv"])
    assert len(found.scores) == 1 and len(found.unreadable) == 2


# ------------------------------------------------------------------ scores on the command line


def test_plan_scores_as_text_and_as_json(place, prediction, capsys, monkeypatch):
    monkeypatch.chdir(place)
    later(place, (N, D, prediction.L * 1.02))
    words = ("plan", "first/table.csv", "later/runs_of_later.csv", "--score")
    assert call(*words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1 prediction on record, 1 scored: rms error 1.98%")
    assert "+2.00%" in shown and "later/runs_of_later.csv" in shown
    assert call(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == found["scored"] == 1
    (row,) = found["records"]
    assert row["error_percent"] == pytest.approx(2)
    assert row["inside"] == {"statistical": False, "extrapolation": None}
    assert row["run"]["same"] and row["table"] == "unchanged"


def test_plan_scores_all_results_of_the_folder_by_default(place, prediction, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert call("plan", "--score") == 2
    assert "there is no results folder here" in capsys.readouterr().err
    (place / "results").mkdir()
    (place / "first").rename(place / "results" / "first")
    assert call("plan", "--score") == 0
    assert "1 prediction on record, 0 scored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("later/runs_of_later.csv --score", "no prediction is on record in later/plans"),
        ("first/table.csv --score --flops 1e15", "leave out --flops"),
        ("first/table.csv --score --record x", "leave out --record"),
        ("absent.csv --score", "absent.csv: no such file or folder"),
    ],
)
def test_a_score_that_cannot_be_is_one_line(place, words, message, capsys, monkeypatch):
    monkeypatch.chdir(place)
    later(place, (N, D, 2.5))
    assert call("plan", *words.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err and not printed.out


# ------------------------------------------------------------------ the report


def test_summary_and_report_show_the_track_record(prediction, runs, tmp_path):
    from analysis import summarise
    from analysis.reporting.html import page

    for name, rows in (("first", runs), ("second", runs.iloc[-1:].assign(N=N, D=D, C=6 * N * D))):
        (tmp_path / name).mkdir()
        L = rows["L"] if name == "first" else prediction.L * 1.01
        rows.assign(L=L).to_csv(tmp_path / name / "runs.csv", index=False)
    first = tmp_path / "first"
    before = summarise(first, draw=False)
    assert before.track is None and before.record()["track_record"] is None
    assert "on record" not in str(before) + page(before, {}, {}, {})
    records.write_record(prediction, runs, "tenfold", [first])
    summary = summarise(first, draw=False)
    assert summary.track is not None
    assert "track record: 1 prediction on record, 1 scored: rms error 1.00%" in str(summary)
    assert "tenfold" in summary.details() and "+1.00%" in summary.details()
    assert summary.record()["track_record"]["scored"] == 1
    shown = page(summary, {}, {}, {})
    assert "<h2>Predictions on record</h2>" in shown and re.search(
        r"<td[^>]*>\+1(\.0+)?\s?%</td>", shown
    )
    (first / "plans" / "tenfold.json").write_text("{")
    assert "tenfold.json" in summarise(first, draw=False).skipped["track record"]
