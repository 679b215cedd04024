"""Tables as people lay them out: titles, notes, comments, parts and the same row in two files."""

import json

import pytest

from analysis import load
from scaling.errors import TableError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROWS = [
    (N, D, round(1.8 + 400 / N**0.34 + 1500 / D**0.36, 4))
    for N in (2e7, 6e7, 2e8, 7e8)
    for D in (4e8, 2e9, 1e10)
]
LINES = [f"{N:.0f},{D:.0f},{L}" for N, D, L in ROWS]
RECORDS = [{"params": N, "tokens": D, "loss": L} for N, D, L in ROWS]


def text(*lines, header="params,tokens,loss"):
    return "\n".join((header, *lines)) + "\n"


def read(tmp_path, written, name="t.csv", **options):
    path = tmp_path / name
    path.write_text(written, "utf-8")
    return load(path, **options)


@pytest.mark.parametrize("keys", [("train", "test"), ("gpt", "llama"), ("Train", "Val")])
def test_two_lists_of_runs_in_one_file_are_never_pooled(tmp_path, keys):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({keys[0]: RECORDS, keys[1]: RECORDS[:5]}))
    with pytest.raises(TableError, match=f"{keys[0]}, {keys[1]}.*t.json#{keys[0]}"):
        load(path)
    assert len(load(f"{path}#{keys[0]}")) == 12


def test_records_are_found_below_several_single_keys(tmp_path):
    deep = {"results": {"sweep": {"day": {"runs": RECORDS}}}}
    assert len(read(tmp_path, json.dumps(deep), "t.json")) == 12


def test_a_row_in_two_files_counts_once(tmp_path):
    for name, lines in (("a.csv", LINES[:8]), ("b.csv", LINES[4:])):
        (tmp_path / name).write_text(text(*lines))
    found = load([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert len(found) == 12 and found.attrs["left_out"] == {"exact duplicates": 4}


def test_rows_in_two_files_with_row_numbers_count_once(tmp_path):
    for name, lines in (("a.csv", LINES[:8]), ("b.csv", LINES[4:])):
        numbered = [f"{n},{line}" for n, line in enumerate(lines)]
        (tmp_path / name).write_text(text(*numbered, header=",params,tokens,loss"))
    assert len(load([tmp_path / "a.csv", tmp_path / "b.csv"])) == 12


def test_equal_rows_of_files_whose_names_hold_the_size_are_different_runs(tmp_path):
    for size in ("20M", "60M"):
        (tmp_path / f"N{size}.csv").write_text("tokens,loss\n1e9,3.2\n2e9,3.1\n")
    names = {"{path:N([0-9]+M)}": "N"}
    assert len(load(tmp_path, map=names, need=("N", "D", "L"))) == 4


def test_text_with_commas_does_not_hide_semicolons(tmp_path):
    lines = [line.replace(",", ";") + ";a, b, c" for line in LINES]
    assert len(read(tmp_path, text(*lines, header="params;tokens;loss;note, if any"))) == 12


def test_comments_may_stand_anywhere(tmp_path):
    lines = ["# first", *LINES[:5], "# a, b", *LINES[5:], "# end of file"]
    assert len(read(tmp_path, text(*lines))) == 12


@pytest.mark.parametrize("title", ["Sweep; March\n\n", "Sweep of March, final\n", "Sweep\nby us\n"])
def test_a_title_above_the_header_is_no_header(tmp_path, title):
    assert len(read(tmp_path, title + text(*LINES))) == 12


@pytest.mark.parametrize("named", [None, {"#params": "N", "#tokens": "D", "loss#val": "L"}])
def test_names_may_begin_with_a_hash(tmp_path, named):
    written = text(*LINES, header="#params,#tokens,loss#val")
    found = read(tmp_path, written, map=named)
    assert len(found) == 12 and found["N"].min() == 2e7


def test_a_message_lists_the_columns_of_the_file_alone(tmp_path):
    (tmp_path / "a.csv").write_text(text(*LINES[:6]))
    (tmp_path / "b.csv").write_text(text(*LINES[6:]))
    with pytest.raises(TableError, match="the columns are params, tokens, loss; named") as found:
        load([tmp_path / "a.csv", tmp_path / "b.csv"], where="Dd > 1")
    assert "\x1f" not in str(found.value)
    with pytest.raises(TableError, match="no column 'B'; it has params, tokens, loss"):
        load(tmp_path / "a.csv", need=("N", "D", "L", "B"))
