"""Tables whose rows or names are not those of runs yet: groups, histories, sizes, archives."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import openpyxl
import pandas as pd
import pytest
from test_guess import D, L, N, read

from analysis import load
from analysis.tables.containers import read_file
from scaling.cli.app import main
from scaling.errors import TableError

RUNS = pd.DataFrame({"params": N, "tokens": D, "val_loss": L})


def is_read(path, table=RUNS, **options):
    """Assert that N, D and L of a file are those of the runs."""
    with pytest.warns(UserWarning):
        found = load(path, need=("N", "D", "L"), **options).sort_values("N", ignore_index=True)
    assert np.allclose(found[["N", "D", "L"]], table[["params", "tokens", "val_loss"]])
    return found


# ------------------------------------------------------------------ headers of two rows


def grouped():
    columns = [("config", "params"), ("config", "tokens"), ("train", "loss"), ("val", "loss")]
    data = np.column_stack([N, D, L - 0.1, L])
    return pd.DataFrame(data, columns=pd.MultiIndex.from_tuples(columns))


@pytest.mark.parametrize("index", [False, True])
def test_a_header_of_several_levels_names_columns_by_the_last(tmp_path, index):
    grouped().to_csv(tmp_path / "runs.csv", index=index)
    is_read(tmp_path / "runs.csv")


def test_a_header_below_merged_cells_names_the_columns(tmp_path):
    grouped().to_excel(tmp_path / "runs.xlsx")
    is_read(tmp_path / "runs.xlsx")


def test_a_row_of_units_is_no_header(tmp_path):
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n,,nats\n2e7,1e9,3.9\n5e7,2e9,3.4\n")
    assert list(read_file(tmp_path / "runs.csv").columns) == ["params", "tokens", "loss"]


def test_cells_merged_down_a_column_hold_their_value(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Our sweep", None, None])
    sheet.merge_cells("A1:C1")
    sheet.append(["params", "tokens", "val_loss"])
    for at in range(4):
        sheet.append([2e7 * (1 + at // 2) if at % 2 == 0 else None, 1e9 * (1 + at), 4.0 - at / 10])
    sheet.merge_cells("A3:A4")
    sheet.merge_cells("A5:A6")
    book.save(tmp_path / "runs.xlsx")
    assert read_file(tmp_path / "runs.xlsx")["params"].tolist() == [2e7, 2e7, 4e7, 4e7]


# ------------------------------------------------------------------ text


def test_a_printed_frame_is_read(tmp_path):
    (tmp_path / "runs.txt").write_text(RUNS.to_string())
    is_read(tmp_path / "runs.txt")


@pytest.mark.parametrize(("rows", "message"), [
    ("2100000,1000000,5,03\n2100000,2000000,4,61\n5300000,1000000,4,13\n",
     "each row has 4 fields, but the header has 3; are these numbers with a ',' in them"),
    ("2100000,1000000,5.03\n2100000,2000000,4.61\n5300000,1000000,4.13,once more\n",
     "row 2 has 4 fields, but the header has 3; put quotes around what holds a ','"),
    ("21,000,000,105,000,000,5.03\n53,000,000,1,050,000,000,4.03\n",
     "fields, but the header has 3"),
])  # fmt: skip
def test_rows_with_more_fields_than_the_header_are_refused(tmp_path, rows, message):
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n" + rows)
    with pytest.raises(TableError) as caught:
        read_file(tmp_path / "runs.csv")
    assert message in str(caught.value)


def test_a_table_without_a_header_is_refused(tmp_path):
    (tmp_path / "runs.csv").write_text("21000000,1e9,5.03\n53000000,2e9,4.61\n")
    with pytest.raises(TableError, match="no names of columns: its first row is 21000000, 1e9"):
        load(tmp_path / "runs.csv")


# ------------------------------------------------------------------ archives


def archive(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as opened:
            for name, text in files.items():
                opened.writestr(name, text)
        return
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as opened:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            opened.addfile(member, io.BytesIO(text.encode()))


@pytest.mark.parametrize("name", ["runs.zip", "runs.tar", "runs.tar.gz", "runs.tgz"])
def test_the_tables_of_an_archive_are_one_table(tmp_path, name):
    one = {"README.md": "# Runs", "export/runs.csv": RUNS.to_csv(index=False)}
    archive(tmp_path / name, one)
    is_read(tmp_path / name)
    parts = {f"run_N{n:.0f}/log.csv": RUNS[RUNS["params"] == n].drop(columns="params") for n in N}
    texts = {file: part.to_csv(index=False) for file, part in parts.items()}
    archive(tmp_path / name, texts)
    found = is_read(tmp_path / name, map={r"{path:run_N(\d+)}": "N"}, table=RUNS)
    assert len(found) == 5
    assert len(read_file(tmp_path / f"{name}#run_N21000000/log.csv")) == 1


def test_a_broken_archive_is_named(tmp_path, capsys):
    (tmp_path / "runs.tar.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(tmp_path / "runs.tar.gz")])
    assert stop.value.code == 2 and "runs.tar.gz is not a readable" in capsys.readouterr().err


# ------------------------------------------------------------------ JSON


def test_lists_of_keys_and_values_are_objects(tmp_path):
    runs = [
        {
            "info": {"run_id": str(at), "status": "FINISHED"},
            "data": {
                "metrics": [{"key": "val_loss", "value": row.val_loss, "step": 9}],
                "params": [
                    {"key": "n_params", "value": str(row.params)},
                    {"key": "train_tokens", "value": str(row.tokens)},
                ],
            },
        }
        for at, row in enumerate(RUNS.itertuples())
    ]
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    is_read(tmp_path / "runs.json")


def test_cells_of_dicts_as_text_are_columns(tmp_path):
    cells = pd.DataFrame(
        {
            "summary": [str({"val_loss": v, "_step": 9, "gap": float("nan")}) for v in L.tolist()],
            "config": [json.dumps({"n_params": n, "tokens": d}) for n, d in zip(N, D, strict=True)],
            "name": list("abcde"),
        }
    )
    cells.to_csv(tmp_path / "project.csv")
    assert is_read(tmp_path / "project.csv")["run_id"].tolist() == list("abcde")


@pytest.mark.parametrize("points", ["objects", "lists"])
def test_the_histories_of_runs_become_rows(tmp_path, points):
    runs = []
    for at, n in enumerate(N):
        tokens = [1e9, 2e9, 4e9]
        losses = [1.8 + 400 * n**-0.34 + 1500 * d**-0.36 for d in tokens]
        history = {"tokens": tokens, "val_loss": losses}
        if points == "objects":
            history = {"history": pd.DataFrame(history).to_dict("records")}
        runs.append({"id": f"r{at}", "config": {"params": n}, **history})
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    with pytest.warns(UserWarning):
        found = load(tmp_path / "runs.json", need=("N", "D", "L"))
    assert len(found) == 15 and found["run_id"].nunique() == 5
    assert np.allclose(found["L"], 1.8 + 400 * found["N"] ** -0.34 + 1500 * found["D"] ** -0.36)


def test_lists_beside_a_loss_of_each_run_stay_in_their_cells(tmp_path):
    rows = RUNS.assign(curve=[[{"step": 1, "loss": 9.0}]] * 5).to_dict("records")
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    assert len(is_read(tmp_path / "runs.json")) == 5


def test_values_of_json_may_span_lines_and_the_last_may_be_cut_short(tmp_path):
    path = tmp_path / "runs.jsonl"
    text = "\n".join(json.dumps(row, indent=1) for row in RUNS.to_dict("records"))
    path.write_text(text)
    is_read(path)
    lines = RUNS.to_json(orient="records", lines=True)
    path.write_text(lines + '{"params": 21000')
    with pytest.warns(UserWarning, match="line 6, the last, is cut short"):
        assert len(read_file(path)) == 5
    path.write_text(lines.replace('"tokens"', "tokens", 1))
    with pytest.raises(TableError, match="double quotes: line 1 column"):
        read_file(path)


def test_infinity_beside_words_is_a_missing_loss(tmp_path):
    rows = [{"params": n, "tokens": d, "loss": loss} for n, d, loss in zip(N, D, L, strict=True)]
    text = "\n".join(map(json.dumps, [*rows, rows[0] | {"loss": "NaN"}]))
    (tmp_path / "runs.jsonl").write_text(
        text + '\n{"params": 1e7, "tokens": 1e9, "loss": Infinity}'
    )
    is_read(tmp_path / "runs.jsonl")


def test_the_named_index_of_a_frame_is_a_column(tmp_path):
    indexed = RUNS.set_index(["params", "tokens"])
    indexed.to_parquet(tmp_path / "runs.parquet")
    is_read(tmp_path / "runs.parquet")
    is_read(indexed)


# ------------------------------------------------------------------ sizes in names


@pytest.mark.parametrize("name", ["loss_{}", "{}", "{} val loss", "val_loss (N={})", "params {}"])
@pytest.mark.parametrize("size", ["21M", "21000000"])
def test_a_column_of_losses_for_each_size(name, size):
    tokens = np.array([1e9, 2e9, 4e9])
    table = {"tokens": tokens, name.format(size): 4 - tokens / 1e10, name.format("1.2B"): tokens}
    found, note = read(table, need=("N", "D", "L"), where="L < 10")
    assert found["N"].tolist() == [2.1e7] * 3 and found["D"].tolist() == tokens.tolist()
    assert found["L"].tolist() == (4 - tokens / 1e10).tolist() and "one size each" in note


def test_columns_of_sizes_that_are_no_losses_are_left_alone():
    table = {"params": N, "tokens": D, "loss": L, "score_21M": L, "score_53M": L}
    assert len(read(table, need=("N", "D", "L"))[0]) == 5


def test_a_size_in_text_is_proposed():
    with pytest.raises(TableError) as caught:
        load(pd.DataFrame({"model": ["gpt-21M", "gpt-53M"], "tokens": 1e9, "loss": [4.0, 3.5]}))
    (pattern,) = [word for word in str(caught.value).split("'") if word.endswith("=N")]
    column, _, symbol = pattern.rpartition("=")
    table = pd.DataFrame({"model": ["gpt-21M", "gpt-53M"], "tokens": 1e9, "loss": [4.0, 3.5]})
    with pytest.warns(UserWarning):
        assert load(table, map={column: symbol})["N"].tolist() == [2.1e7, 5.3e7]


# ------------------------------------------------------------------ folders


def test_settings_beside_a_table_are_its_columns(tmp_path):
    for at, row in enumerate(RUNS.itertuples()):
        folder = tmp_path / "sweep" / "trials" / f"trial_{at}"
        folder.mkdir(parents=True)
        settings = {"model": {"n_params": row.params}, "val_loss": "cross entropy", "tags": ["a"]}
        (folder / "params.json").write_text(json.dumps(settings))
        (folder / "progress.csv").write_text(f"tokens,val_loss\n{row.tokens},{row.val_loss}\n")
    is_read(tmp_path)
    (folder / "params.json").write_text("{")
    with pytest.raises(TableError, match=r"params\.json is not readable as the settings of a run"):
        load(tmp_path)


def test_a_number_in_the_names_of_folders_is_proposed(tmp_path):
    for size, loss in (("21M", 3.5), ("53M", 3.3)):
        (tmp_path / f"run_{size}").mkdir()
        (tmp_path / f"run_{size}" / "log.csv").write_text(f"tokens,loss\n1e9,{loss}\n2e9,3.2\n")
    with pytest.raises(TableError, match=r"--map '\{path:run_\("):
        load(tmp_path)
    with pytest.raises(TableError, match="no column 'D'") as caught:
        load(tmp_path, map={r"{path:run_(\d+M)}": "N", "tokens": "x"})
    assert "{path" not in str(caught.value)  # the number in the name is N already


@pytest.mark.filterwarnings("ignore")
def test_import_takes_the_decimal_mark(tmp_path, capsys):
    rows = [
        f"{n:.0f}\t{d:.0f}\t{loss:.3f}".replace(".", ",")
        for n, d, loss in zip(N, D, L, strict=True)
    ]
    (tmp_path / "runs.tsv").write_text("\n".join(["params\ttokens\tloss", *rows]))
    out = ["import", str(tmp_path / "runs.tsv"), "--out", str(tmp_path / "out.csv")]
    with pytest.raises(SystemExit):
        main(out)
    assert "--decimal comma" in capsys.readouterr().err
    main([*out, "--decimal", "comma"])
    assert np.allclose(pd.read_csv(tmp_path / "out.csv")["L"], np.round(L, 3))
