"""Files of tables: compression, spreadsheets, JSON of any shape, encodings, delimiters."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow
import pytest

from analysis import load
from analysis.tables.containers import read_file
from scaling.errors import TableError

ROWS = [
    {"params": 21000000, "tokens": 105000000, "loss": 5.0348},
    {"params": 53000000, "tokens": 265000000, "loss": 4.1354},
]
TABLE = pd.DataFrame(ROWS)
CSV = TABLE.to_csv(index=False)
NAMES = {"params": "N", "tokens": "D", "loss": "L"}


def reads(path: Path | str, expected: pd.DataFrame = TABLE) -> None:
    pd.testing.assert_frame_equal(read_file(Path(path)), expected, check_dtype=False)


def delimited(separator: str) -> str:
    return TABLE.to_csv(index=False, sep=separator)


# ------------------------------------------------------------------ compression


COMPRESSED = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_compressed_table_is_read(tmp_path, suffix, kind):
    data = {
        "csv": lambda: CSV.encode(),
        "tsv": lambda: delimited("\t").encode(),
        "jsonl": lambda: TABLE.to_json(orient="records", lines=True).encode(),
        "json": lambda: json.dumps({"runs": ROWS}).encode(),
        "parquet": lambda: TABLE.to_parquet(),
    }[kind]()
    path = tmp_path / f"runs.{kind}.{suffix}"
    path.write_bytes(COMPRESSED[suffix](data))
    reads(path)
    assert load(path, map=NAMES)["C"].tolist() == (6.0 * TABLE.params * TABLE.tokens).tolist()


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_content_decides_where_the_suffix_is_wrong_or_missing(tmp_path, suffix):
    for name in ("runs", "runs.csv", "runs.json"):
        path = tmp_path / name
        path.write_bytes(COMPRESSED[suffix](CSV.encode()))
        if name != "runs.json":
            reads(path)
    path = tmp_path / "damaged.csv"
    path.write_bytes(COMPRESSED[suffix](CSV.encode())[:-9])
    with pytest.raises(TableError, match=r"is not a readable \.csv table"):
        read_file(path)


def test_an_archive_of_one_file_is_read_and_one_of_several_asks_which(tmp_path):
    path = tmp_path / "runs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("runs.csv", CSV)
        archive.writestr("__MACOSX/._runs.csv", "x")
    reads(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.csv", "a,b\n1,2\n")
    with pytest.raises(TableError, match=r"holds 2 files, runs\.csv, other\.csv: name one, as in"):
        read_file(path)
    reads(f"{path}#runs.csv")


# ------------------------------------------------------------------ formats


def test_arrow_files_streams_and_feather_are_read(tmp_path):
    TABLE.to_feather(tmp_path / "t.feather")
    stream = io.BytesIO()
    table = pyarrow.Table.from_pandas(TABLE)
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "t.arrow").write_bytes(stream.getvalue())
    TABLE.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "wrong.csv").write_bytes((tmp_path / "t.parquet").read_bytes())
    for name in ("t.feather", "t.arrow", "t.parquet", "wrong.csv"):
        reads(tmp_path / name)
    nested = pd.DataFrame({"config": [{"model": {"params": 7}}], "L": [3.0]})
    nested.to_parquet(tmp_path / "nested.parquet")
    assert set(read_file(tmp_path / "nested.parquet")) == {"config.model.params", "L"}


def test_a_workbook_is_read_from_its_only_table(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "runs.xlsx"
    notes = pd.DataFrame({"notes": ["these runs", "were long"]})
    with pd.ExcelWriter(path) as book:
        notes.to_excel(book, sheet_name="notes", index=False)
        TABLE.to_excel(book, sheet_name="runs", index=False, startrow=3, startcol=2)
    reads(path)
    (tmp_path / "runs").write_bytes(path.read_bytes())
    reads(tmp_path / "runs")


def test_a_workbook_with_several_tables_asks_which(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "runs.xlsx"
    with pd.ExcelWriter(path) as book:
        for name in ("first", "second"):
            TABLE.assign(sheet=name).to_excel(book, sheet_name=name, index=False)
    with pytest.raises(TableError, match=r"tables: first, second. Name one, as in '.*#first'"):
        read_file(path)
    assert set(read_file(Path(f"{path}#second")).sheet) == {"second"}
    assert load(f"{path}#second", map=NAMES)["N"].tolist() == TABLE.params.tolist()
    with pytest.raises(TableError, match="has no sheet 'third'; it has first, second"):
        read_file(Path(f"{path}#third"))


def test_a_workbook_without_openpyxl_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "runs.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    monkeypatch.setattr("scaling.extras.installed", lambda module: False)
    with pytest.raises(TableError, match=r"openpyxl is not installed: .*\[excel\]"):
        read_file(path)


@pytest.mark.parametrize("name", ["t.pkl", "t.pickle", "t.joblib", "t.pt", "t.npy", "t.rds", "t"])
def test_formats_that_run_code_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"N": [1]}))
    with pytest.raises(TableError, match="can run code when it is opened"):
        read_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.xls", b"\xd0\xcf\x11\xe0old", "spreadsheet of an unsupported format"),
        ("t.csv", b"<!DOCTYPE html><html>", "it is a web page"),
        ("t.csv", b"a,b\x00\x01\xff\n", "not a readable"),
        ("t.csv", b"\x00\x00\x00", "it is not text"),
        ("t.bin", b"\x00\x01\x02\x03", "is not a table this reads"),
        ("t", b"hello world\nthis is prose\n", "a file without suffix is not a table"),
        ("t.json", b'{"runs": [', "not a readable"),
        ("t.json", b"3", "is JSON, but not a table"),
        ("t.json", b'{"a": [{"x": 1}], "b": [{"x": 2}], "c": 1}', "lists of records, a, b: name"),
        ("t.jsonl", b"", "not a readable"),
        ("t.parquet", b"PAR1 and no more", "not a readable"),
        ("t.xlsx", b"PK\x03\x04dummy", "not a readable"),
        ("t.arrow", b"x", "not a readable"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match=message) as found:
        read_file(tmp_path / name)
    assert "\n" not in str(found.value)


# ------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"runs": ROWS},
        {"meta": {"date": "x", "by": "y"}, "results": ROWS},
        {"version": 1, "sweep": {"runs": ROWS}},
        {name: TABLE[name].tolist() for name in TABLE},
        {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in TABLE},
        {name: {f"r{n}": row[name] for n, row in enumerate(ROWS)} for name in TABLE},
        {"columns": list(TABLE), "data": TABLE.to_numpy().tolist(), "index": [0, 1]},
        json.loads(TABLE.to_json(orient="table", index=False)),
        [list(TABLE), *TABLE.to_numpy().tolist()],
    ],
)
def test_json_of_any_shape_is_a_table(tmp_path, value):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(value))
    reads(path)


def test_records_by_name_keep_their_names(tmp_path):
    path = tmp_path / "runs.json"
    for value in (
        dict(zip("ab", ROWS, strict=True)),
        {"date": "x", "runs": dict(zip("ab", ROWS, strict=True))},
        {"a": [ROWS[0]], "b": [ROWS[1]]},
    ):
        path.write_text(json.dumps(value))
        got = read_file(path)
        assert got.run_id.tolist() == ["a", "b"] and got.loss.tolist() == TABLE.loss.tolist()
    path.write_text(json.dumps({"a": {"run_id": 1, "N": 3}, "b": {"run_id": 2, "N": 4}}))
    assert read_file(path)["key"].tolist() == ["a", "b"]
    one = {"config": {"model": {"params": 7}}, "summary": {"loss": 3.5}}
    path.write_text(json.dumps(one))
    assert read_file(path).to_dict("records") == [{"config.model.params": 7, "summary.loss": 3.5}]
    points = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}]
    path.write_text(json.dumps({"config": {"params": 7}, "name": "x", "history": points}))
    assert read_file(path).to_dict("list") == {
        "step": [1, 2], "loss": [9.0, 8.0], "name": ["x", "x"], "config.params": [7, 7]
    }  # fmt: skip
    path.write_text(json.dumps({"big": ROWS, "small": ROWS[:1], "date": "x"}))
    assert len(read_file(Path(f"{path}#small"))) == 1


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json", "txt"])
def test_nested_records_are_flattened_and_lists_kept(tmp_path, suffix):
    lines = [
        {
            "config": {"model": {"params": params}, "steps": 200, "batch": 256},
            "summary": {"val": {"loss": loss}},
            "curve": [[1, 9.0], [2, 8.0]],
        }
        for params, loss in ((21e6, 5.0348), (53e6, 4.1354))
    ]
    path = tmp_path / f"nested.{suffix}"
    path.write_text("\n".join(map(json.dumps, lines)))
    names = {
        "config.model.params": "N",
        "`config.steps` * `config.batch` * 2048": "D",
        "summary.val.loss": "L",
    }
    got = load(path, map=names)
    assert got["N"].tolist() == [21e6, 53e6] and got["L"].tolist() == [5.0348, 4.1354]
    assert got["D"].tolist() == [200 * 256 * 2048.0] * 2
    assert got["curve"][0] == [[1, 9.0], [2, 8.0]]


def test_a_table_with_lists_in_its_cells_is_fitted(tmp_path, capsys):
    from scaling.cli import main

    path = tmp_path / "runs.jsonl"
    rows = [
        {"N": 2e6 * 3**n, "D": 1e8 * 2**d, "L": 2 + 4 / (n + 2) + 1 / (d + 1), "curve": [n, d]}
        for n in range(4)
        for d in range(4)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    main(["fit", str(path), "--bootstrap", "0"])
    assert "16 rows" in capsys.readouterr().out


def test_numbers_in_quotes_of_json_are_numbers(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([{"N": "21000000", "L": "5.03"}, {"N": "5e7", "L": "NaN"}]))
    got = read_file(path)
    assert got.N.tolist() == [21e6, 5e7] and got.L.isna().tolist() == [False, True]


# ------------------------------------------------------------------ text


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "    "])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "psv", "txt", "dat", "out", ""])
def test_the_delimiter_is_found(tmp_path, separator, suffix):
    path = tmp_path / f"runs{'.' if suffix else ''}{suffix}"
    text = CSV.replace(",", separator)
    path.write_text(text)
    reads(path)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    reads(path)


def test_names_with_spaces_in_aligned_columns(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text("val loss   n params   tokens\n5.03    2.1e7     1e8\n4.1     5e7     2e8\n")
    assert list(read_file(path)) == ["val loss", "n params", "tokens"]


@pytest.mark.parametrize(
    "text",
    [
        "# made by us\n# params, tokens\n\n" + CSV,
        "\n\n" + CSV,
        "sep=;\r\n" + delimited(";"),
        "".join(f"{line},\n" for line in CSV.splitlines()),
        CSV.splitlines()[0] + "\n" + "".join(f"{line},\n" for line in CSV.splitlines()[1:]),
        CSV.replace("params", '"params"').replace("loss", '"loss"'),
        CSV.replace("params", " params").replace("loss", "loss "),
        "# " + delimited(" "),
        "| params | tokens | loss |\n|---|---:|:-:|\n"
        + "".join(f"| {' | '.join(line.split(','))} |\n" for line in CSV.splitlines()[1:]),
        "".join(f"{line},,\n" for line in CSV.splitlines()),
        CSV.replace("\n", "\r"),
        CSV + "\n\n",
    ],
)
def test_what_stands_around_a_table_is_left_out(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_bytes(text.encode())
    reads(path)


def test_row_names_without_a_header_name_the_runs(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("params,loss\nsmall,1e6,3.5\nlarge,1e7,3.1\n")
    got = read_file(path)
    assert got.run_id.tolist() == ["small", "large"] and got.params.tolist() == [1e6, 1e7]


def test_a_line_break_in_a_quoted_name_is_kept(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text('"N","Test\nloss"\n1e6,3.5\n')
    assert list(read_file(path)) == ["N", "Test\nloss"]


def test_hashes_in_names_and_cells_are_no_comments(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("run,#params,loss\n#1,1e6,3.5\n#2,1e7,3.1\n")
    got = read_file(path)
    assert got["run"].tolist() == ["#1", "#2"] and got["#params"].tolist() == [1e6, 1e7]
    path.write_text("#params,loss\n1e6,3.5\n")
    assert list(read_file(path)) == ["params", "loss"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "json", "jsonl"])
def test_encodings_of_unicode(tmp_path, encoding, kind):
    text = {
        "csv": CSV, "tsv": delimited("\t"), "txt": delimited("\t"),
        "json": json.dumps(ROWS), "jsonl": "\n".join(map(json.dumps, ROWS)),
    }[kind]  # fmt: skip
    path = tmp_path / f"runs.{kind}"
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    reads(path)


def test_a_table_in_windows_1252_is_read_and_said(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(CSV.replace("params", "Größe").encode("cp1252"))
    with pytest.warns(UserWarning, match=r"is not UTF-8 \(byte 2\); it is read as Windows-1252"):
        assert list(read_file(path)) == ["Größe", "tokens", "loss"]


def test_words_for_missing_numbers_are_not_text(tmp_path):
    words = ["NaN", "Infinity", "-inf", "None", "null", "N/A", "-", "--", "—", "", "#DIV/0!"]
    path = tmp_path / "runs.csv"
    path.write_text("N,L\n1e6,3.5\n" + "".join(f"1e6,{word}\n" for word in words))
    got = read_file(path)
    assert got.L.dtype == float and got.L[0] == 3.5 and got.L[1:].isna().all()
    assert len(got) == len(words) + 1
