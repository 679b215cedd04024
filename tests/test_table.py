"""The results table: schema, checks, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import table
from scaling.columns import COLUMNS, CURVE_COLUMNS, config_row, markdown
from scaling.config import flatten, from_dict
from scaling.errors import TableError
from scaling.table import check


def row(**changes):
    values = {"run_id": "a" * 12, "status": "ok", "N": 1000, "D": 2000, "B": 100, "S": 20, "L": 3.0}
    return values | {"C": 6.0 * 1000 * 2000} | changes


def test_column_names_are_unique():
    for columns in (COLUMNS, CURVE_COLUMNS):
        names = [c.name for c in columns]
        assert len(names) == len(set(names))


def test_every_config_field_is_a_column():
    names = {c.name for c in COLUMNS}
    for key in flatten(from_dict({})):
        name = key.rpartition(".")[2]
        assert name in names or name in ("tokens", "batch_tokens")


def test_any_text_in_a_cell_leaves_the_table_whole(tmp_path):
    texts = ["a\rb", "c\r\nd", "e\nf", 'g"h,i', "größe", "\x1b[31m", "name\udcff"]
    rows = [row(run_id=f"{i:012x}", tag=text, error=text) for i, text in enumerate(texts)]
    table.write(tmp_path, rows, [])
    runs = table.read(tmp_path)
    assert runs.tag.tolist() == runs.error.tolist() == [*texts[:-1], "name\\udcff"]
    assert (tmp_path / "runs.csv").read_bytes().count(b"\r\n") == 2  # those of the text, twice


def test_round_trip(tmp_path):
    config = config_row(flatten(from_dict({"optim.lr": "kaplan", "model.tied": False})))
    point = {"run_id": "a" * 12, "S": 1, "D": 100, "C": 6e5, "L": 4.0, "L_train": 4.1, "lr": 0.1}
    test = {"run_id": "a" * 12, "corpus": "kjv", "tokens": 64, "L": 4.0, "L_position": [4.5, 3.5]}
    table.write(tmp_path, [config | row(), config | row(run_id="0" * 12, N=10)], [point], [test])
    runs = table.read(tmp_path)
    assert list(runs.columns) == [c.name for c in COLUMNS]
    assert runs.run_id.tolist() == ["0" * 12, "a" * 12]  # sorted by N; leading zeros kept
    assert runs.lr.tolist() == ["kaplan", "kaplan"] and runs.tied.tolist() == [False, False]
    assert pd.isna(runs.unique_tokens[0])
    curves = table.read_curves(tmp_path)
    tests = table.read_tests(tmp_path)
    assert list(tests.L_position[0]) == [4.5, 3.5] and pd.isna(tests.L_stderr[0])
    assert curves.L.tolist() == [4.0] and list(curves.columns) == [c.name for c in CURVE_COLUMNS]


def test_tables_older_than_a_field_have_its_default(tmp_path):
    config = config_row(flatten(from_dict({})))
    del config["n_repeat"], config["norm"]
    assert table.ordered([config | row()]).norm.tolist() == ["layernorm"]
    pd.DataFrame([config | row()]).to_csv(tmp_path / "runs.csv", index=False)
    runs = table.read(tmp_path)
    assert list(runs.columns) == [c.name for c in COLUMNS]
    assert (runs.n_repeat[0], runs.norm[0]) == (1, "layernorm") and pd.isna(runs.seconds[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the table is empty"),
        ([row(), row(L=np.nan)], r"column 'L' must be positive and finite \[nats/token\]: 1 of 2"),
        ([row(L=np.inf), row(L=-1.0)], "2 of 2 rows are not, first at row 0"),
        ([row(N=0)], "column 'N' must be positive"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(TableError, match=message):
        check(pd.DataFrame(rows))


def test_diverged_rows_need_no_loss():
    check(pd.DataFrame([row(), row(status="diverged", L=np.nan)]))


def test_missing_columns_are_suggested():
    frame = pd.DataFrame([row()]).rename(columns={"L": "val_loss"})
    with pytest.raises(TableError, match=r"no column 'L'; it has .* Is it 'val_loss'\?"):
        check(frame, need=("N", "L"))


def test_missing_folder(tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        table.read(tmp_path / "nothing")
    with pytest.raises(TableError, match=r"has no runs\.csv"):
        table.read(tmp_path)
    (tmp_path / "runs.csv").write_text("")
    with pytest.raises(TableError, match="is not a table"):
        table.read(tmp_path)


def test_results_page_is_generated():
    page = Path(__file__).parents[1] / "results" / "README.md"
    assert page.read_text() == markdown()


def test_a_column_of_points_without_a_value_is_a_column_of_numbers(tmp_path):
    points = [{"run_id": "a" * 12, "S": S, "D": 100 * S, "C": 1e6 * S, "L": 3.0} for S in (1, 2)]
    pd.DataFrame(points).assign(B_noise=None).to_parquet(tmp_path / "curves.parquet")
    curves = table.read_curves(tmp_path)
    assert curves["B_noise"].dtype == float and curves["B_noise"].isna().all()
