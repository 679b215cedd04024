"""Damaged or foreign results folders: every command names the fault in one line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scaling import cli, table
from scaling.columns import COLUMNS
from scaling.errors import TableError

READERS = (
    ["fit", "--bootstrap", "10"],
    ["frontier", "--bootstrap", "10"],
    ["validate", "--bootstrap", "10"],
    ["design", "--budget", "1e14", "--bootstrap", "10"],
    ["plan", "--flops", "1e14"],
    ["figure", "all"],
    ["summary"],
    ["report"],
)


@pytest.fixture
def folder(tmp_path, sweep):
    runs, curves = sweep()
    tests = [
        {"run_id": run, "corpus": "prose", "tokens": 9, "L": L, "L_stderr": 0.01,
         "bits_per_byte": L / 2, "L_position": [L] * 4}
        for run, L in zip(runs["run_id"], runs["L"], strict=True)
    ]  # fmt: skip
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"), tests)
    return tmp_path


@pytest.fixture
def refused(folder, capsys, monkeypatch):
    """Run a command on the folder, which must exit with code 2, and return its one-line error."""
    monkeypatch.setenv("SCALING_DEBUG", "1")  # a traceback fails the test

    def run(name, *options):
        first = ["all"] if "all" in options else []
        rest = [word for word in options if word != "all"]
        with pytest.raises(SystemExit) as ended:
            cli.main([name, *first, str(folder), *rest])
        said = capsys.readouterr()
        assert ended.value.code == 2 and said.out == ""
        assert said.err.count("\n") == 1 and said.err.startswith("scaling: ")
        return said.err

    return run


def edited(folder, change):
    """Change runs.csv, read and written as text."""
    runs = pd.read_csv(folder / "runs.csv", dtype=str, keep_default_na=False)
    change(runs).to_csv(folder / "runs.csv", index=False)


def with_cell(column, value, row=3):
    def change(runs):
        runs.loc[row, column] = value
        return runs

    return change


@pytest.mark.parametrize("command", READERS, ids=lambda words: words[0])
@pytest.mark.parametrize(("change", "said"), [({}, "are equal"), ({"L": "3.5"}, "differ")])
def test_a_duplicate_run_is_refused(folder, refused, command, change, said):
    edited(folder, lambda runs: pd.concat([runs, runs.iloc[[4]].assign(**change)]))
    line = refused(*command)
    assert "runs.csv: lines 6, 32 belong to the same run, run_id=" in line and said in line


@pytest.mark.parametrize("run_id", ["", " "])
def test_a_row_without_a_run_id_is_refused(folder, refused, run_id):
    edited(folder, with_cell("run_id", run_id))
    assert "runs.csv: line 5 has no run_id" in refused("fit")


def test_line_numbers_count_line_ends_in_cells(folder, refused):
    edited(folder, lambda runs: with_cell("error", "a\nb\nc", 1)(with_cell("seed", "inf")(runs)))
    assert "line 7 has seed=inf" in refused("fit")


WHOLE = [c.name for c in COLUMNS if c.dtype == "int"]


@pytest.mark.parametrize("value", ["inf", "-inf", "1e999"])
@pytest.mark.parametrize("column", WHOLE)
def test_infinite_whole_numbers_are_refused(folder, column, value):
    edited(folder, with_cell(column, value))
    with pytest.raises(TableError, match=rf"{column!r} must be a finite number, but line 5 has"):
        table.read(folder)


@pytest.mark.parametrize("command", READERS, ids=lambda words: words[0])
def test_commands_refuse_an_infinite_seed(folder, refused, command):
    edited(folder, with_cell("seed", "inf"))
    assert "column 'seed' must be a finite number, but line 5 has seed=inf" in refused(*command)


@pytest.mark.parametrize("column", ["N", "S", "L"])
@pytest.mark.parametrize("value", ["nan", "", "1e-320", "1e300"])
def test_sizes_and_losses_beyond_the_limits_are_refused(folder, refused, column, value):
    edited(folder, with_cell(column, value))
    for command in (["fit"], ["plan", "--flops", "1e14"], ["report"]):
        assert f"column {column!r} must be positive and finite" in refused(*command)


@pytest.mark.parametrize("column", ["seconds", "seed", "n_layer", "vocab_size", "lr_peak"])
@pytest.mark.parametrize("command", [["plan", "--flops", "1e14"], ["report"], ["figure", "all"]])
def test_text_in_a_column_of_numbers_is_refused(folder, refused, column, command):
    edited(folder, with_cell(column, "fast"))
    line = refused(*command)
    assert f"column {column!r} must be a" in line and f"but line 5 has {column}=fast" in line


def test_a_duplicate_column_is_refused(folder, refused):
    edited(folder, lambda runs: pd.concat([runs, runs[["L"]]], axis=1))
    assert "two columns are called 'L'" in refused("fit")


# ------------------------------------------------------------------ other files


def without(name):
    return lambda points: points.drop(columns=name)


def typed(name, value):
    return lambda points: points.assign(**{name: value})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("curves.parquet", without("run_id"), "has no column 'run_id'"),
        ("curves.parquet", without("L"), "has no column 'L'"),
        ("curves.parquet", lambda points: points[[]], "has no column 'run_id'"),
        ("curves.parquet", lambda points: points.set_index("run_id"), "has no column 'run_id'"),
        ("curves.parquet", typed("run_id", 3), "column 'run_id' must be text"),
        ("curves.parquet", typed("run_id", None), "column 'run_id' must be text"),
        ("curves.parquet", typed("L", "low"), "column 'L' must be numbers"),
        ("curves.parquet", typed("S", True), "column 'S' must be numbers"),
        ("curves.parquet", typed("lr", pd.Timestamp("2024-01-01")), "column 'lr' must be numbers"),
        ("tests.parquet", without("corpus"), "has no column 'corpus'"),
        ("tests.parquet", without("run_id"), "has no column 'run_id'"),
        ("tests.parquet", typed("bits_per_byte", "x"), "column 'bits_per_byte' must be numbers"),
        ("tests.parquet", typed("L_position", 1.0), "column 'L_position' must be lists"),
        ("tests.parquet", typed("L_position", "[1]"), "column 'L_position' must be lists"),
    ],
)
def test_curves_of_other_types_are_refused(folder, refused, name, change, said):
    change(pd.read_parquet(folder / name)).to_parquet(folder / name)
    line = refused("figure", "all")
    assert name in line and said in line


@pytest.mark.parametrize("name", ["curves.parquet", "tests.parquet"])
@pytest.mark.parametrize("data", [b"", b"PAR1", b"run_id,L\n1,2\n", b"PAR1" + bytes(400) + b"PAR1"])
def test_curves_that_are_not_parquet_are_refused(folder, refused, name, data):
    (folder / name).write_bytes(data)
    line = refused("figure", "all")
    assert f"{name} cannot be read as parquet" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "x"', "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "must be a JSON object, not a list"),
        ('"x"', "must be a JSON object, not a string"),
        ("null", "must be a JSON object, not null"),
        ('{"sessions": {"a": 1}}', "'sessions' must be a list, not an object"),
        ('{"corpus_hashes": []}', "'corpus_hashes' must be an object, not a list"),
        ('{"name": 3}', "'name' must be a string, not a number"),
        ('{"spec": true}', "'spec' must be a string, not true or false"),
    ],
)
def test_invalid_manifests_are_named(folder, refused, text, said):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    line = refused("report")
    assert "manifest.json" in line and said in line


def test_the_manifest_is_not_read_unless_it_is_needed(folder, capsys):
    (folder / "manifest.json").write_text("[")
    cli.main(["figure", "kaplan2", str(folder)])
    assert "kaplan2.pdf" in capsys.readouterr().out


def test_words_in_place_of_seconds_are_shown(folder, monkeypatch):
    from analysis.figures import registry
    from analysis.reporting.html import report

    monkeypatch.setattr(registry, "FIGURES", {})
    manifest = {"wall_seconds": "\ud800 an hour", "sessions": [{"wall_seconds": "1 h"}, 3]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "an hour" in report(folder).read_text()


# ------------------------------------------------------------------ options and numbers


def test_a_plan_from_runs_without_a_vocabulary(folder, capsys):
    for column in ("vocab_size", "n_layer", "n_ctx", "d_model", "lr_peak", "D_unique"):
        edited(folder, lambda runs, column=column: runs.drop(columns=column))
    cli.main(["plan", str(folder), "--flops", "1e14", "--law", "chinchilla", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["memory"] is None and found["N"]["value"] > 0


@pytest.mark.parametrize("value", ["1e300", "inf", "nan", "-1", "0", "1e-300"])
@pytest.mark.parametrize("option", ["--flops", "--params", "--tokens"])
def test_impossible_targets_of_plans_are_refused(refused, option, value):
    refused("plan", option, value, "--law", "chinchilla")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--flops", "1e14", "--level", "nan"], "level=nan must lie between 0 and 1"),
        (
            ["plan", "--flops", "1e14", "--inference-tokens", "1e300"],
            "served=1e+300 must be a number",
        ),
        (
            ["plan", "--flops", "1e14", "--unique-tokens", "1e-300"],
            "unique=1e-300 must be a number",
        ),
        (["plan", "--flops", "1e-3"], "less than one"),
        (["frontier", "--level", "1e300"], "level=1e+300 must lie"),
        (["frontier", "--bootstrap", "-1"], "bootstrap=-1 must be a whole number"),
        (["frontier", "--bootstrap", "1e300"], "at most 1000000"),
        (["frontier", "--seed", "-1"], "seed=-1 must be a whole number"),
        (["frontier", "--tolerance", "-1"], "tolerance=-1.0 must be a finite number"),
        (["frontier", "--tolerance", "inf"], "tolerance=inf must be a finite number"),
        (["fit", "--bootstrap", "1e12"], "at most 1000000"),
        (["fit", "--delta", "inf"], "delta=inf must be positive and finite"),
        (["validate", "--delta", "1e300"], "delta=1e+300 must be positive and finite"),
        (["validate", "--level", "2"], "level=2.0 must lie between 0 and 1"),
        (["design", "--budget", "1e300"], "budget=1e+300 must be positive and finite"),
        (["design", "--budget", "1e14", "--level", "nan"], "level=nan must lie"),
        (["design", "--budget", "1e14", "--noise", "1e300"], "noise=1e+300 must be"),
        (["design", "--budget", "1e14", "--noise", "1e-300"], "noise=1e-300 must be"),
        (["design", "--budget", "1e14", "--target", "L@1e300"], "target='L@1e300' is not known"),
    ],
)
def test_impossible_options_are_refused(refused, words, said):
    extra = ["--law", "chinchilla"] if words[0] == "plan" else []
    short = ["--bootstrap", "10"] if words[0] in ("validate", "design") else []
    assert said in refused(*words, *extra, *short)


def test_numbers_are_read_as_they_were_written(folder):
    """Nothing that `write` writes is refused, and numbers formatted for people are read too."""
    edited(folder, with_cell("N", "1,400,000"))
    assert table.read(folder)["N"].iloc[3] == "1,400,000"
    from analysis import load

    assert load(folder)["N"].iloc[3] == 1.4e6
    assert np.isfinite(load(folder, curves=True)["N"]).all()


def alternate(column, values):
    def change(runs):
        runs[column] = [values[i % len(values)] or old for i, old in enumerate(runs[column])]
        return runs

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_cell("L", "1e99"),
        alternate("L", ["1e-90", None]),
        alternate("L", ["1e-99"]),
        lambda runs: runs.assign(L=[f"1e{9 * i - 90}" for i in range(len(runs))]).head(20),
        alternate("N", ["2000", None]),
    ],
    ids=["one", "half", "all", "growing", "sizes"],
)
@pytest.mark.parametrize("command", READERS[:5], ids=lambda words: words[0])
@pytest.mark.filterwarnings("ignore:.* losses? (is|are) above 20 nats")  # a note, for a user
@pytest.mark.filterwarnings("ignore:.* rows have N below 1000")
def test_extreme_losses_and_sizes_give_an_answer_or_one_line(
    folder, capsys, monkeypatch, change, command
):
    """A command gives an answer or a one-line error; a warning of numpy fails this test."""
    monkeypatch.setenv("SCALING_DEBUG", "1")
    edited(folder, lambda runs: change(runs.iloc[::2].reset_index(drop=True)))
    extra = ["--law", "chinchilla"] if command[0] == "plan" else []
    code = 0
    try:
        cli.main([command[0], str(folder), *command[1:], *extra])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert (code == 2 and said.out == "") or (code == 0 and said.out)
    lines = [line for line in said.err.splitlines() if not line.startswith("scaling: note: ")]
    assert len(lines) == (code == 2)
    assert "[nan, nan]" not in said.out
