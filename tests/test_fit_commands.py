"""`scaling fit | laws | validate | verify-published` on a stranger's table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scaling.cli import main


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(16, 22, 40)), np.exp(rng.uniform(20, 26, 40))
    loss = (1.8 + 400 * N**-0.34 + 2000 * D**-0.36) * np.exp(0.003 * rng.standard_normal(40))
    file = tmp_path / "runs.csv"
    pd.DataFrame({"params": N, "tokens": D, "loss": loss}).to_csv(file, index=False)
    return file


MAP = ["--map", "loss=L,params=N,tokens=D"]


def test_fit_prints_one_json_object(table, capsys):
    main(["fit", str(table), *MAP, "--law", "chinchilla", "--objective", "huber", "--delta", "1e-3",
          "--on", "log", "--reduce", "sum", "--bootstrap", "200", "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["law"] == "chinchilla" and found["n"] == 40
    assert found["params"]["alpha"]["low"] < 0.34 < found["params"]["alpha"]["high"]
    assert set(found["derived"]["a"]) == {"value", "stderr", "low", "high"}
    assert found["loss"] == "Huber(delta=0.001) of log L, sum" and found["objective"] > 0
    assert found["status"][0] == "converged"
    assert {"starts", "share", "gap", "condition"} <= set(found["certificate"])
    assert {"fit", "intervals", "total"} <= set(found["timings"])


def test_fit_prints_a_table_with_the_level_asked_for(table, capsys):
    main(["fit", str(table), *MAP, "--bootstrap", "200", "--level", "0.8"])
    text = capsys.readouterr().out
    assert "80 % low" in text and "status: converged" in text and "40 rows" in text


def test_fit_takes_a_law_from_a_file(table, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from analysis import law, Range\n"
        "@law(E=Range(0.3, 3), A=Range(1, 1e4), alpha=Range(0.1, 1), kappa=Range(1e-3, 1e3))\n"
        "def mine(N, D, *, E, A, alpha, kappa):\n"
        '    """L(N, D) = E + A (1/N + kappa/D)^alpha."""\n'
        "    return E + A * (1 / N + kappa / D) ** alpha\n"
    )
    main(["fit", str(table), *MAP, "--law", f"{file}:mine", "--bootstrap", "100"])
    assert "mine: L(N, D) = E + A (1/N + kappa/D)^alpha" in capsys.readouterr().out


def test_laws_are_listed(capsys):
    main(["laws"])
    text = capsys.readouterr().out
    assert "E + A / N^alpha + B / D^beta" in text and "Hoffmann et al. 2022" in text


def test_validate_prints_a_verdict(table, capsys):
    main(["validate", str(table), *MAP, "--against", "gadre"])
    text = capsys.readouterr().out
    assert "supported by these runs" in text and "gadre" in text
    main(["validate", str(table), *MAP, "--against", "gadre", "--json"])
    assert len(json.loads(capsys.readouterr().out)["laws"]) == 2


def test_verify_published_prints_verdicts(published, tmp_path, capsys):
    folder = tmp_path / "cbs_zhang2024"
    folder.mkdir()
    (folder / "steps_to_target.csv").write_text(
        (published / "cbs_zhang2024" / "steps_to_target.csv").read_text()
    )
    main(["verify-published", "--data", str(tmp_path)])
    assert "reproduced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law", "chinchila"], "Did you mean 'chinchilla'"),
        (["--law", "chinchilla", "--delta", "-1"], "delta=-1.0 must be positive"),
        (["--law", "kaplan_C", "--where", "N < 0"], "empty"),
    ],
)
def test_mistakes_end_in_one_line_and_code_two(table, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(table), *MAP, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
