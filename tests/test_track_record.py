"""Predictions on record: what they hold, that they stay, and how they compare with later runs."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TRUTH, chinchilla, make_sweep
from small import call

from analysis import choose, fit, laws
from analysis.planning import records
from analysis.planning.plan import plan
from analysis.planning.plans import plans
from analysis.planning.prediction import predict_plan, predict_run
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


def test_plan_refuses_what_it_cannot_record_before_it_fits(table, capsys):
    words = ("plan", "absent.csv", "--params", "3e6", "--tokens", "1e8", "--record")
    assert call(*words, "../up") == 2
    assert "--record '../up' must be a plain word" in capsys.readouterr().err
    given = ("plan", table, "--params", "3e6", "--tokens", "1e8", "--law", "chinchilla")
    assert call(*given, "--inference-tokens", "1e9") == 2
    assert "--inference-tokens matters for the best size" in capsys.readouterr().err
    assert call(*given, "--flops", "1e15") == 2
    assert "--params with --tokens predicts" in capsys.readouterr().err
