"""Which downstream tasks the loss predicts: synthetic tasks whose answer is known, bad input."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis import LawError, predictability
from scaling.errors import TableError


def accuracy(L, half, steepness=3.0, floor=0.25, ceiling=0.95):
    return floor + (ceiling - floor) / (1 + np.exp(steepness * (L - half)))


def tasks_of(seed: int, n: int = 60) -> pd.DataFrame:
    """Tasks of runs with losses between 2.2 and 4.2: what each is, its name says."""
    rng = np.random.default_rng(seed)
    L = rng.uniform(2.2, 4.2, n)

    def noise(size: float) -> np.ndarray:
        return size * rng.standard_normal(n)

    return pd.DataFrame(
        {
            "L": L,
            "predictable": accuracy(L, 2.8) + noise(0.01),
            "predictable_loss": 1.2 * (L - 1.7) ** 0.8 + 1 + noise(0.02),
            "noise": 0.4 + noise(0.03),
            "guessing": 0.25 + noise(0.01),
            "emerging": np.maximum(0.25, 0.25 + 0.9 * (2.5 - L)) + noise(0.01),
        }
    )


CHANCE = {
    "predictable": 0.25,
    "predictable_loss": None,
    "noise": 0.25,
    "guessing": 0.25,
    "emerging": 0.25,
}


@pytest.fixture(scope="module")
def verdicts():
    return predictability(tasks_of(0), CHANCE)


def test_tasks_get_the_verdict_that_they_were_made_for(verdicts):
    assert {each.task: each.code for each in verdicts} == {
        "predictable": "predictable",
        "predictable_loss": "predictable",
        "noise": "unpredictable",
        "guessing": "at_chance",
        "emerging": "emerging",
    }
    assert verdicts["predictable"].predictable and verdicts["predictable"].skill > 0.7
    assert not verdicts["noise"].predictable and not verdicts["noise"].skill_low > 0


def test_verdicts_are_plain_words_and_a_table(verdicts):
    text = str(verdicts)
    for words in (
        "predictable: predictable: a law of the loss misses unseen better runs by",
        "noise: not predictable: no law of the loss beats a constant",
        "guessing: at chance: no run differs from guessing (0.25)",
        "emerging: emerging: at chance in runs with a higher loss, above it only in the best",
    ):
        assert words in text
    assert list(verdicts.summary()["task"]) == list(CHANCE) and len(verdicts) == len(CHANCE)
    assert json.loads(json.dumps(verdicts.record()))[0]["code"] == "predictable"


def test_pure_noise_is_rarely_called_predictable():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(0.5 + 0.05 * rng.standard_normal((40, 6))).add_prefix("task_")
    runs["L"] = rng.uniform(2, 4, 40)
    found = predictability(runs, [c for c in runs if c != "L"])
    assert sum(each.predictable for each in found) <= 1


def test_a_task_that_gets_worse_with_a_better_loss_is_predictable_too():
    rng = np.random.default_rng(1)
    L = rng.uniform(2, 4, 50)
    runs = pd.DataFrame({"L": L, "inverse": 0.2 + 0.1 * L + 0.01 * rng.standard_normal(50)})
    assert predictability(runs, "inverse")[0].predictable


def test_runs_without_a_score_are_left_out_and_few_runs_get_no_verdict():
    runs = tasks_of(0)
    runs.loc[20:, "noise"] = np.nan
    runs.loc[10:, "guessing"] = np.nan
    some, few = predictability(runs, ["noise", "guessing"])
    assert some.runs == 20 and some.code != "too_few"
    assert few.code == "too_few"
    assert few.text == "no verdict: 10 runs have both a loss and a score; 15 are needed"


def test_bad_input_is_named():
    runs = tasks_of(0)
    with pytest.raises(TableError, match="'hellaswag'"):
        predictability(runs, ["hellaswag"])
    with pytest.raises(TableError, match="'val_loss'"):
        predictability(runs, ["noise"], loss="val_loss")
    with pytest.raises(TableError, match="no task is given"):
        predictability(runs, [])
    with pytest.raises(LawError, match="chinchilla"):
        predictability(runs, ["noise"], law="chinchilla")
    with pytest.raises(TableError, match="load"):
        predictability("runs.csv", ["noise"])  # pyright: ignore


def test_constant_scores_and_equal_losses_get_a_verdict():
    runs = pd.DataFrame({"L": np.full(20, 3.0), "flat": np.full(20, 0.25)})
    flat = predictability(runs, {"flat": 0.25})[0]
    assert flat.code == "at_chance"
    runs = runs.assign(L=np.linspace(2, 4, 20))
    assert predictability(runs, {"flat": 0.25})[0].code == "at_chance"


def test_real_tasks_differ_in_whether_their_loss_predicts_them(published):
    # 90 runs on FineWeb, Brandfonbrener et al. 2024: boolq scatters at every loss.
    table = pd.read_csv(published / "loss_to_loss2024" / "sweep_3sets.csv")
    runs = table[table["data"] == "fineweb-100b"].rename(
        columns=lambda name: name.removeprefix("eval/downstream/")
    )
    found = predictability(
        runs, {"arc_easy_test_acc": 0.25, "boolq_test_acc": 0.5}, loss="val_loss"
    )
    assert [each.code for each in found] == ["predictable", "unpredictable"]
    assert found["arc_easy_test_acc"].error < 0.015 and found["boolq_test_acc"].skill < 0.1
