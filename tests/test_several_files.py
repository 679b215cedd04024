"""Several files, a folder or a pattern of files are one table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from small import call

from analysis import load
from scaling.errors import TableError

SIZES = {"21M": 2.1e7, "53M": 5.3e7, "120M": 1.2e8, "310M": 3.1e8}
D = np.array([1e9, 2e9, 4e9, 8e9])
NAMES = {r"{path:N(\w+)\.}": "N", "tokens": "D", "loss": "L"}


def curve(n):
    return pd.DataFrame({"tokens": D, "loss": 1.8 + 400 * n**-0.34 + 1500 * D**-0.36})


@pytest.fixture
def folder(tmp_path):
    for name, n in SIZES.items():
        curve(n).to_csv(tmp_path / f"loss_N{name}.csv", index=False)
    return tmp_path


def same(first, second):
    order = ["run_id", "D"]
    pd.testing.assert_frame_equal(
        first.sort_values(order, ignore_index=True), second.sort_values(order, ignore_index=True)
    )


def test_a_folder_a_list_and_a_pattern_are_the_same_table(folder):
    files = sorted(folder.glob("*.csv"))
    whole = load(folder, map=NAMES)
    assert len(whole) == 16 and set(whole["N"]) == set(SIZES.values())
    assert sorted(whole["run_id"].unique()) == sorted(f"loss_N{name}" for name in SIZES)
    assert list(whole.columns) == ["D", "L", "N", "run_id", "C"]  # nothing of the files stays
    same(whole, load(files, map=NAMES))
    same(whole, load(str(folder / "*.csv"), map=NAMES))
    same(whole, load(reversed(files), map=NAMES))
    assert whole.attrs["source"] == str(folder)
    assert load(files, map=NAMES).attrs["source"].startswith("4 tables (")


def test_one_file_may_have_values_in_its_name(folder):
    found = load(folder / "loss_N21M.csv", map=NAMES)
    assert found["N"].tolist() == [2.1e7] * 4 and "run_id" not in found


def test_the_rest_of_the_columns_is_guessed(folder):
    with pytest.warns(UserWarning, match="the other columns are taken as by"):
        found = load(folder, map={r"{path:N(\w+)\.}": "N"})
    whole = load(folder, map=NAMES)
    same(found[list(whole.columns)], whole)


def test_a_number_in_the_names_is_suggested(folder):
    with pytest.raises(TableError, match=r"Is it in their names\? Say --map '\{path:N\("):
        load(folder, map={"tokens": "D", "loss": "L"})


def test_subfolders_count_if_the_folder_holds_no_table(tmp_path):
    for name, n in SIZES.items():
        (tmp_path / f"N{name}.run").mkdir()
        curve(n).to_csv(tmp_path / f"N{name}.run" / "log.csv", index=False)
        (tmp_path / f"N{name}.run" / "config.json").write_text("{}")
    found = load(tmp_path, map={r"{path:N(\w+)\.run}": "N", "tokens": "D", "loss": "L"})
    assert sorted(found["run_id"].unique()) == sorted(f"N{name}.run/log" for name in SIZES)


def test_files_of_many_runs_are_no_runs(tmp_path):
    for name, factor in (("a", 1.0), ("b", 2.0)):
        pd.DataFrame({"N": list(SIZES.values()), "D": D * factor, "L": 3.0}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    found = load([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert len(found) == 8 and "run_id" not in found


def test_a_file_without_a_column_is_named(folder):
    curve(1e8).rename(columns={"loss": "other"}).to_csv(folder / "loss_N100M.csv", index=False)
    with pytest.raises(TableError, match=r"loss_N100M\.csv of 5 files has no value in column 'L'"):
        load(folder, map=NAMES)


def test_a_file_whose_name_does_not_match_is_named(folder):
    curve(1e8).to_csv(folder / "notes.csv", index=False)
    with pytest.raises(TableError, match=r"matches nothing in '.*notes\.csv'; 16 of 20 rows"):
        load(folder, map=NAMES)


def test_other_files_of_a_folder_are_left_alone(folder):
    (folder / "README.md").write_text("hello")
    (folder / "settings.json").write_text(json.dumps({"a": 1}))
    (folder / ".hidden.csv").write_text("x")
    assert len(load(folder, map=NAMES)) == 16


def test_what_cannot_be_opened(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match=r"has no runs\.csv"):
        load(tmp_path / "empty")
    with pytest.raises(TableError, match="matches no file"):
        load(str(tmp_path / "no*.csv"))
    with pytest.raises(TableError, match="is given twice"):
        load([folder / "loss_N21M.csv", folder / "loss_N21M.csv"])
    with pytest.raises(TableError, match="no table is given"):
        load([])


def test_results_folders_are_joined_and_never_guessed(tmp_path, sweep):
    from scaling import table

    for name, seed in (("one", 0), ("two", 1)):
        runs, curves = sweep(seed=seed)
        runs["run_id"], curves["run_id"] = runs["run_id"] + name, curves["run_id"] + name
        table.write(tmp_path / name, runs.to_dict("records"), curves.to_dict("records"))
    both = load([tmp_path / "one", tmp_path / "two"])
    assert len(both) == 60 and "guessed" not in both.attrs
    assert len(load([tmp_path / "one", tmp_path / "one"])) == 30  # equal ids are the same run
    curves = load([tmp_path / "one", tmp_path / "two"], curves=True)
    assert curves["run_id"].nunique() == 60


@pytest.mark.filterwarnings("default")
def test_a_command_takes_several_files(folder, capsys):
    words = ["--map", r"{path:N(\w+)\.}=N", "--map", "tokens=D,loss=L", "--bootstrap", "0"]
    assert call("fit", *map(str, sorted(folder.glob("*.csv"))), *words) == 0
    several = capsys.readouterr().out
    assert call("fit", str(folder), *words) == 0
    assert capsys.readouterr().out == several and "16 rows" in several
