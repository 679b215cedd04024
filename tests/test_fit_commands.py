"""`scaling fit | laws | validate | verify-published` on tables of any origin."""

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
def test_mistakes_end_with_one_line_and_code_two(table, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(table), *MAP, *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_tables_of_other_laws_need_only_their_columns(tmp_path, capsys):
    rng = np.random.default_rng(1)
    x = np.geomspace(1, 1e3, 12)
    noise = np.exp(0.003 * rng.standard_normal(12))
    tables = {
        "power_N": {"N": 1e6 * x, "L": 30 * (1e6 * x) ** -0.2 * noise},
        "mccandlish": {"B": 1e3 * x, "S": (500 + 4e6 / (1e3 * x)) * noise},
        "critical_batch": {"L": 2 + x / 1e3, "B_crit": 2e8 * (2 + x / 1e3) ** -4.8 * noise},
        "learning_rate": {"N": 1e6 * x, "D": 1e9 * rng.permutation(x), "lr_peak": 1e-3 * noise},
        "floor_D": {"D": 1e7 * x, "L": (1.5 + 300 * (1e7 * x) ** -0.3) * noise},
    }
    for name, columns in tables.items():
        file = tmp_path / f"{name}.csv"
        pd.DataFrame(columns).to_csv(file, index=False)
        main(["fit", str(file), "--law", name, "--bootstrap", "20"])
        assert f"{name}: " in capsys.readouterr().out
    main(["validate", str(tmp_path / "power_N.csv"), "--law", "power_N", "--bootstrap", "50"])
    assert "runs up to a cut-off in N" in capsys.readouterr().out


def test_two_laws_are_both_printed(table, capsys):
    main(["fit", str(table), *MAP, "--law", "power_N", "--law", "power_D", "--bootstrap", "20"])
    text = capsys.readouterr().out
    assert "power_N: L(N) = A / N^alpha" in text and "power_D: L(D) = A / D^alpha" in text
    main(["fit", str(table), *MAP, "--law", "power_N", "--law", "power_D", "--bootstrap", "20",
          "--json"])  # fmt: skip
    assert [r["law"] for r in json.loads(capsys.readouterr().out)] == ["power_N", "power_D"]


def test_laws_as_json_and_narrow(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["laws", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["mccandlish"]["target"] == "S" and rows["chinchilla"]["inputs"] == "N, D"
    main(["laws"])
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("chinchilla "))
    assert lines[at + 1].strip().startswith("Hoffmann et al. 2022")
    assert max(map(len, lines)) <= 80


@pytest.mark.filterwarnings("default")
def test_warnings_are_notes_without_paths(table, capsys):
    runs = pd.read_csv(table)
    runs.assign(params=runs["params"] / 1e9, tokens=runs["tokens"] / 1e9).to_csv(table)
    main(["fit", str(table), *MAP, "--bootstrap", "0"])
    error = capsys.readouterr().err
    assert error.startswith("scaling: note: ") and "is that in millions" in error
    assert error.count("\n") == 1 and "UserWarning" not in error and ".py" not in error


def test_swapped_columns_are_reported_once(table, capsys):
    main(["fit", str(table), "--map", "loss=L,params=D,tokens=N", "--bootstrap", "0"])
    both = "".join(capsys.readouterr())
    assert both.count("swapped") == 1
    main(["frontier", str(table), "--map", "loss=L,params=D,tokens=N"])
    assert "".join(capsys.readouterr()).count("swapped") == 1


def test_columns_under_other_names(table, capsys):
    runs = pd.read_csv(table)
    runs["tokens"] = runs["tokens"].map("{:,.0f}".format)
    runs.assign(params_M=runs["params"] / 1e6).to_csv(table)
    names = "--map=loss=L,1e6*params_M=N,tokens=D"
    main(["fit", str(table), names, "--json", "--bootstrap", "50"])
    found = json.loads(capsys.readouterr().out)
    assert found["params"]["alpha"]["value"] == pytest.approx(0.34, abs=0.03)
    assert set(found["params"]) == {"E", "A", "B", "alpha", "beta"} and found["n"] == 40
    assert isinstance(found["status"], list) and isinstance(found["certificate"], dict)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("D>>1", "'D>>1' is not a condition on the rows"),
        ("D", "'D' is not a condition on the rows"),
        ("depth > 3", "name 'depth' is not defined"),
        ("N < 0", "leaves an empty table: none of 40 rows match"),
    ],
)
def test_invalid_conditions(table, where, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(table), *MAP, "--where", where])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_a_condition_may_use_derived_columns(table, capsys):
    main(["fit", str(table), *MAP, "--law", "power_N", "--where", "C > 0", "--bootstrap", "0"])
    assert "40 rows" in capsys.readouterr().out


def test_a_table_without_an_ok_row_ends_in_one_line(table, capsys):
    pd.read_csv(table).assign(status="failed").to_csv(table, index=False)
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(table), *MAP])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "no row has status 'ok' (40 failed)" in error
    assert error.count("\n") == 1


def test_validate_takes_the_options_of_fit(table, capsys):
    main(["validate", str(table), *MAP, "--against", "gadre", "--objective", "lad", "--on", "raw",
          "--bootstrap", "30", "--cluster", "C", "--seed", "3"])  # fmt: skip
    assert "gadre" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["validate", str(table), *MAP, "--delta", "-1"])
    assert stop.value.code == 2 and "delta=-1.0 must be positive" in capsys.readouterr().err


def test_summary_needs_known_columns_and_finished_runs(sweep, tmp_path, capsys):
    from scaling.table import write

    runs, curves = sweep()
    write(
        tmp_path / "s", runs.assign(status="failed").to_dict("records"), curves.to_dict("records")
    )
    (tmp_path / "t.csv").write_text("width,score\n1,2\n3,4\n")
    for path, message in ((tmp_path / "t.csv", "no column 'N'"), (tmp_path / "s", "(30 failed)")):
        with pytest.raises(SystemExit) as stop:
            main(["summary", str(path)])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and message in error and error.count("\n") == 1
