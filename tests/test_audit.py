"""`scaling audit`: a claimed law is re-derived, and what is wrong with it is ranked by cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import call

from analysis import fit, laws
from analysis.validation.audit import audit
from analysis.validation.claim import Claim, half_digit, read_claim

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.366}
MAP = '[map]\nparams = "N"\ntokens = "D"\nloss = "L"'
HUBER: dict[str, Any] = {"objective": "huber", "delta": 1e-3, "bootstrap": 0}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    N, D = np.exp(rng.uniform(17, 23, 60)), np.exp(rng.uniform(21, 26, 60))
    L = laws.chinchilla.predict(TRUTH, N=N, D=D) * np.exp(0.004 * rng.standard_normal(60))
    return pd.DataFrame({"params": N, "tokens": D, "loss": L})


@pytest.fixture(scope="module")
def known(runs) -> dict[str, float]:
    """The constants of the Huber fit, with all digits."""
    return fit("chinchilla", runs.set_axis(list("NDL"), axis=1), **HUBER).params


def claim_file(
    folder: Path,
    params: Mapping[str, Any],
    head: str = "",
    tail: str = MAP,
    law: str = "chinchilla",
) -> Path:
    lines = [f'law = "{law}"', head or 'objective = "huber"\ndelta = 1e-3', "[params]"]
    lines += [f"{p} = {v}" for p, v in params.items()]
    (folder / "claim.toml").write_text("\n".join([*lines, tail]) + "\n")
    return folder / "claim.toml"


def findings(capsys, table: Path, claim: Path) -> dict[str, dict[str, Any]]:
    assert call("audit", table, claim, "--json") == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    costs = [each["cost_nats"] for each in found if each["cost_nats"] is not None]
    assert costs == sorted(costs, reverse=True)
    assert all({"code", "text", "cost_nats", "cost_flops"} <= set(each) for each in found)
    return {each["code"]: each for each in found}


@pytest.fixture
def table(runs, tmp_path) -> Path:
    runs.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def written(params: Mapping[str, float], digits: int = 7) -> dict[str, str]:
    return {p: f"{v:.{digits}g}" for p, v in params.items()}


# ------------------------------------------------------------------ claims about a made-up table


def test_a_claim_that_is_right_has_no_finding(table, known, tmp_path, capsys):
    file = claim_file(tmp_path, written(known))
    assert findings(capsys, table, file) == {}
    assert call("audit", table, file) == 0
    text = capsys.readouterr().out
    assert "no finding" in text and "re-derived alpha = " in text


def test_a_claim_with_wrong_constants_is_not_at_its_minimum(table, known, tmp_path, capsys):
    file = claim_file(tmp_path, written({**known, "alpha": known["alpha"] + 0.01}))
    found = findings(capsys, table, file)["not_at_minimum"]
    assert found["minimum"] == pytest.approx(known, rel=1e-4)
    assert found["cost_nats"] > 0.01 and found["excess"] > 0.1


def test_cost_is_the_difference_of_predicted_losses_at_larger_compute(runs, known):
    """It is the larger of those at 10 and 100 times the compute, each at the law's own optimum."""
    claimed = {**known, "E": known["E"] + 0.05}
    given = runs.set_axis(list("NDL"), axis=1)
    found = audit(Claim(law=laws.chinchilla, params=claimed), given)
    cost = next(each.cost for each in found.findings if each.code == "not_at_minimum")
    assert cost.nats == pytest.approx(0.05, rel=1e-6)
    # By the re-derived law, so much more compute lowers its best loss by so much.
    C = float(cost.factor or 0) * 6 * float((given["N"] * given["D"]).max())

    def best(C: float) -> float:
        N = laws.chinchilla.optimum(C, **known)  # pyright: ignore[reportOptionalCall]
        return float(laws.chinchilla.predict(known, N=N, D=C / 6 / N))

    assert best(C) - best(C + float(cost.flops or 0)) == pytest.approx(0.05, rel=1e-6)


def test_rounded_constants_are_told_from_wrong_ones(table, known, tmp_path, capsys):
    """Two digits of alpha and beta move the predictions; better constants round to them."""
    few = written(known) | {p: f"{known[p]:.2f}" for p in ("alpha", "beta")}
    found = findings(capsys, table, claim_file(tmp_path, few))
    assert "rounding" in found and found["rounding"]["parameter"] in ("alpha", "beta")
    assert found["rounding"]["rms"] > 1e-3 and "not_at_minimum" not in found


@pytest.mark.parametrize(("kind", "words"), [("lad", "least absolute"), ("ls", "least squares")])
def test_a_claim_with_another_objective_than_it_states_says_which(
    runs, table, tmp_path, capsys, kind, words
):
    other = fit("chinchilla", runs.set_axis(list("NDL"), axis=1), objective=kind, bootstrap=0)
    file = claim_file(tmp_path, written(other.params, 9))
    assert words in findings(capsys, table, file)["not_at_minimum"]["text"]
    file = claim_file(tmp_path, written(other.params, 9), f'objective = "{kind}"')
    assert "not_at_minimum" not in findings(capsys, table, file)


def test_constants_in_millions_are_recognised(table, known, tmp_path, capsys):
    A, B = known["A"] / 1e6 ** known["alpha"], known["B"] / 1e9 ** known["beta"]
    file = claim_file(tmp_path, written({**known, "A": A, "B": B}, 9))
    found = findings(capsys, table, file)
    assert set(found) == {"units"} and found["units"]["units"] == {"N": 1e6, "D": 1e9}
    assert "N in millions and D in billions" in found["units"]["text"]


def test_a_claim_made_with_another_count_of_parameters_is_recognised(runs, tmp_path, capsys):
    both = runs.assign(params_with_embeddings=runs["params"] + 4e4 * runs["params"] ** (1 / 3))
    both.to_csv(tmp_path / "runs.csv", index=False)
    total = both.assign(params=both["params_with_embeddings"]).iloc[:, :3]
    params = fit("chinchilla", total.set_axis(list("NDL"), axis=1), **HUBER).params
    found = findings(capsys, tmp_path / "runs.csv", claim_file(tmp_path, written(params)))
    assert "not_at_minimum" not in found
    assert "N = params_with_embeddings" in found["convention_N"]["text"]
    tail = MAP + '\n[convention]\nN = "params_with_embeddings"'
    found = findings(capsys, tmp_path / "runs.csv", claim_file(tmp_path, written(params), "", tail))
    assert "not_at_minimum" not in found


def test_a_term_that_the_rows_do_not_show_is_not_identified(tmp_path, capsys):
    """D matters less than the noise, so that its exponent may be anything."""
    rng = np.random.default_rng(4)
    N, D = np.exp(rng.uniform(17, 23, 80)), np.exp(rng.uniform(21, 26, 80))
    L = laws.chinchilla.predict({**TRUTH, "B": 1e-3}, N=N, D=D)
    L = L * np.exp(0.01 * rng.standard_normal(80))
    columns = {"params": N, "tokens": D, "loss": L}
    pd.DataFrame(columns).to_csv(tmp_path / "runs.csv", index=False)
    found = fit("chinchilla", pd.DataFrame({"N": N, "D": D, "L": L}), **HUBER).params
    at = claim_file(tmp_path, written(found, 9))
    shown = findings(capsys, tmp_path / "runs.csv", at)
    # It is a finding only where it changes a prediction.
    assert all(each["cost_nats"] > 1e-3 for each in shown.values() if each["code"] != "trend")


def test_rows_that_the_claim_leaves_out_test_it(runs, tmp_path, capsys):
    """Larger runs of the same kind, which lie above the law, are missed."""
    large = (runs["params"] * runs["tokens"]).rank() > 50
    bent = runs.assign(split=np.where(large, "test", "train"))
    bent.loc[large, "loss"] *= 1.05
    bent.to_csv(tmp_path / "runs.csv", index=False)
    small = bent[~large][["params", "tokens", "loss"]].set_axis(list("NDL"), axis=1)
    params = written(fit("chinchilla", small, **HUBER).params)
    head = 'objective = "huber"\ndelta = 1e-3\nrows = "split == \'train\'"'
    found = findings(capsys, tmp_path / "runs.csv", claim_file(tmp_path, params, head))
    assert found["held_out"]["rows"] == 10
    assert found["held_out"]["mean"] == pytest.approx(0.05, abs=0.01)
    corpus = bent.assign(split=np.where(large, "other_corpus", "this_corpus"))
    corpus.to_csv(tmp_path / "runs.csv", index=False)
    head = head.replace("train", "this_corpus")
    assert findings(capsys, tmp_path / "runs.csv", claim_file(tmp_path, params, head)) == {}


def test_residuals_that_trend_blame_the_constants_or_the_form(runs, table, known, tmp_path, capsys):
    tilted = {**known, "B": known["B"] * 1.3}
    found = findings(capsys, table, claim_file(tmp_path, written(tilted)))
    assert (
        found["trend"]["input"] in ("D", "C") and "constants are at fault" in found["trend"]["text"]
    )
    assert "bias" in found


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(1, 8))
def test_a_number_lies_within_half_a_digit_of_what_is_written(value, digits):
    text = f"{value:.{digits}g}"
    assert abs(float(text) - value) <= half_digit(text) * (1 + 1e-9) or "e+" in text


def test_a_claim_may_be_written_in_several_ways(known, tmp_path):
    one = claim_file(tmp_path, written(known), tail='[map]\n"a b" = "N"\nloss = "L"')
    first = read_claim(one)
    two = claim_file(
        tmp_path,
        written(known),
        "rows = 'N > 1'",
        '[map]\nN = "a b"\nL = "loss"\n[objective]\nkind = "huber"\ndelta = 0.001',
    )
    second = read_claim(two)
    assert first.map == second.map == {"a b": "N", "loss": "L"}
    assert (second.objective, second.delta, second.on) == ("huber", 1e-3, "log")
    assert second.rows == "N > 1" and first.digits == second.digits


def test_a_law_of_a_file_beside_the_claim_is_audited(table, known, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from analysis.laws import Range, law\n\n\n"
        "@law(E=Range(0.3, 3), A=Range(1, 1e4), B=Range(1, 1e5), alpha=Range(0.1, 1), "
        "beta=Range(0.1, 1))\n"
        "def mine(N, D, *, E, A, B, alpha, beta):\n"
        '    """L(N, D) = E + A / N^alpha + B / D^beta."""\n'
        "    return E + A * N**-alpha + B * D**-beta\n"
    )
    file = claim_file(tmp_path, written(known), law="mine.py:mine")
    assert findings(capsys, table, file) == {}


# ------------------------------------------------------------------ claims that cannot be audited

KAPLAN = "[params]\nN_c=1e9\nalpha_N=0.1\n"
BAD = [
    ("law = 'chinchilla'\n[params]\nE=1\n", "[params] lacks A, B, alpha, beta"),
    ("law = 'chinchila'\n", "no law is called 'chinchila'. Did you mean 'chinchilla'"),
    ("lw = 'chinchilla'\n", "'lw' is not a key of a claim. Did you mean 'law'?"),
    ("law = \n", "is not valid TOML"),
    ("law = 'kaplan_N'\n[params]\nN_c=1e9\nalpha_N='x'\n", "alpha_N = 'x' is not a number"),
    (f"law = 'kaplan_N'\nobjective='hubr'\n{KAPLAN}", "Did you mean 'huber'"),
    (f"law = 'kaplan_N'\n{KAPLAN}rows='N > 1'\n", "'rows' stands in [params]"),
    (f"law = 'kaplan_NS'\n{KAPLAN}S_c=1e3\nalpha_S=0.7\n", "no column 'S'"),
]  # fmt: skip
CHINCHILLA = "[params]\nE=1.8\nA=480.0\nB=2100.0\nalpha=0.35\nbeta=0.366\n"
BAD += [
    (f"law='chinchilla'\nrows='params == params.max()'\n{CHINCHILLA}", "at least 6 are needed"),
    (f"law='chinchilla'\nrows='params > params.nlargest(5).min()'\n{CHINCHILLA}", "4 usable rows"),
    (f"law='chinchilla'\nrows='q > 1'\n{CHINCHILLA}", "claim.toml: rows = 'q > 1' is not a cond"),
    (f"law='chinchilla'\nrows='params > 1e30'\n{CHINCHILLA}", "leaves an empty table"),
    (f"law='chinchilla'\nfixed=['F']\n{CHINCHILLA}", "must list parameters of chinchilla"),
    (f"law='chinchilla'\n{CHINCHILLA}[map]\nsize='N'\ntokens='D'\nloss='L'\n", "no column 'size'"),
    (
        f"law='chinchilla'\n{CHINCHILLA}[convention]\nN='size'\n{MAP}\n",
        "neither a column of the table",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_claim_that_cannot_be_audited_is_refused_in_one_line(
    table, tmp_path, capsys, text, message
):
    (tmp_path / "claim.toml").write_text(text if "[map]" in text else f"{text}{MAP}\n")
    assert call("audit", table, tmp_path / "claim.toml") == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "note: " not in line]
    assert printed.out == "" and len(lines) == 1 and message in lines[0]


def test_a_table_of_one_size_is_refused(runs, tmp_path, capsys):
    runs.assign(params=1e8).to_csv(tmp_path / "runs.csv", index=False)
    assert call("audit", tmp_path / "runs.csv", claim_file(tmp_path, written(TRUTH))) == 2
    assert "needs runs that differ in N" in capsys.readouterr().err


# ------------------------------------------------------------------ published claims


def test_hoffmanns_rounded_constants_are_flagged(published, tmp_path, capsys):
    """Besiroglu et al. 2024: they are neither the minimum nor predict the mean of these runs."""
    params = {"E": "1.69", "A": "406.4", "B": "410.7", "alpha": "0.34", "beta": "0.28"}
    found = findings(capsys, *besiroglu(published, tmp_path, params))
    assert {"not_at_minimum", "rounding", "bias"} <= set(found)
    assert found["not_at_minimum"]["minimum"]["beta"] == pytest.approx(0.36717, abs=2e-4)
    assert found["rounding"]["parameter"] == "beta"


def besiroglu(published, folder: Path, params: Mapping[str, str], kind="huber"):
    head = f'objective = "{kind}"\nrows = "loss < loss.nlargest(5).min()"'
    head += "\ndelta = 1e-3" if kind == "huber" else ""
    tail = '[map]\n"Model Size" = "N"\n"Training FLOP" = "C"\nloss = "L"'
    file = published / "besiroglu2024_epoch" / "svg_extracted_data.csv"
    return file, claim_file(folder, params, head, tail)


def test_besiroglus_constants_are_those_of_another_objective(published, tmp_path, capsys):
    params = {"E": "1.81686", "A": "482.00572", "B": "2085.43420", "alpha": "0.34781",
              "beta": "0.36585"}  # fmt: skip
    found = findings(capsys, *besiroglu(published, tmp_path, params))
    assert set(found) == {"not_at_minimum"}
    assert "least absolute deviations" in found["not_at_minimum"]["text"]
    assert findings(capsys, *besiroglu(published, tmp_path, params, "lad")) == {}


def test_muennighoffs_decay_of_data_is_a_local_optimum_and_hardly_identified(
    published, tmp_path, capsys
):
    from analysis.published import muennighoff2023

    file = published / "muennighoff2023" / "c4_runs_fit182.csv"
    tail = '[map]\nparams = "N"\ntokens = "D"\nunique_tokens = "D_unique"\nloss = "L"'
    params = written(muennighoff2023.params, 8)
    held = 'delta = 1e-3\nfixed = ["E", "A", "B", "alpha", "beta"]'
    for head in ("", held):  # what was held is recognised, too
        claim = claim_file(tmp_path, params, head, tail, law="muennighoff")
        found = findings(capsys, file, claim)
        assert "local optimum" in found["not_at_minimum"]["text"]
        assert found["not_at_minimum"]["minimum"]["R_D"] == pytest.approx(95.4, abs=0.5)
        assert found["not_at_minimum"]["objective_at_claim"] == pytest.approx(0.0158259, abs=1e-7)
        assert found["not_identified"]["parameter"] == "R_D"
        assert found["not_identified"]["low"] == pytest.approx(4.5, abs=1)


@pytest.mark.parametrize("digits", [5, 3])
@pytest.mark.parametrize("key", ["c4_original", "rpj", "rw_original"])
def test_gadres_claims_are_the_minimum_and_identified(published, tmp_path, capsys, key, digits):
    values = {
        "c4_original": (1.5083, 0.1212, 141.28, 189.52),
        "rpj": (1.8366, 0.1364, 212.24, 366.69),
        "rw_original": (1.7345, 0.1272, 157.12, 246.21),
    }[key]
    small = ["d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8"]
    rows = f"(model in {small} and tok_mult == 20) or (model == {small[0]!r} and tok_mult == 320)"
    head = f'objective = "ls"\non = "raw"\nrows = """train_set == {key!r} and ({rows})"""'
    eta = values[1] if digits == 5 else round(values[1], 3)
    params = written(dict(zip(("E", "eta", "a", "b"), values, strict=True)), digits)
    claim = claim_file(tmp_path, {**params, "eta": eta}, head, '[map]\nloss_c4_val = "L"', "gadre")
    found = findings(capsys, published / "gadre2024" / "models104.csv", claim)
    assert not {"not_at_minimum", "not_identified", "units"} & set(found)


TASKS = ("mmlu_avg_test_5shot", "hellaswag_val_5shot", "arc_challenge_test_5shot", "csqa_val_5shot",
         "piqa_val_5shot", "socialiqa_val_5shot", "openbookqa_test_5shot", "c4")  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*bits per byte")
@pytest.mark.parametrize("task", TASKS)
def test_the_ladders_fits_are_the_minimum_and_identified(published, tmp_path, capsys, task):
    file = published / "olmo_ladder2024" / "ladder_points.csv"
    rows = pd.read_csv(file).query("mode == 'train'")
    params = fit("chinchilla", rows.assign(L=rows[task]), **HUBER).params
    head = "delta = 1e-3\nrows = \"mode == 'train'\""
    text = {p: f"{v:.5e}" for p, v in params.items()}
    found = findings(capsys, file, claim_file(tmp_path, text, head, f'[map]\n{task} = "L"'))
    assert not {"not_at_minimum", "not_identified", "units"} & set(found)
