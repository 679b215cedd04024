"""Tables as people lay them out: titles, notes, comments, parts and the same row in two files."""

import json

import pytest

from analysis import load
from scaling.column_words import meaning
from scaling.errors import TableError
from scaling.table import missing_column

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


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("params.n_tokens", "D"),
        ("params_tokens", "D"),
        ("config.data.train_tokens", "D"),
        ("hparams/n_params", "N"),
        ("metrics.val_loss", "L"),
        ("summary.eval/loss", "L"),
        ("params.n_params", "N"),
        ("params_M", "N"),
        ("user_attrs_n_tokens", "D"),
        ("params_lr", "lr_peak"),
    ],
)
def test_the_prefix_of_a_tracker_hides_no_word(name, symbol):
    assert meaning(name).symbol == symbol


@pytest.mark.parametrize(
    ("name", "symbol", "way"),
    [
        ("dataset_size", "D", "dataset_size=D"),
        ("gflops", "C", "1e9*gflops=C"),
        ("size_m", "N", "1e6*size_m=N"),
    ],
)
def test_a_vague_name_is_suggested(name, symbol, way):
    assert way in missing_column(symbol, [name, "x"])


def test_a_column_called_like_a_symbol_that_cannot_be_it_is_no_symbol(tmp_path):
    lines = [f"{512 * (1 + n % 4)},{line}" for n, line in enumerate(LINES)]
    written = text(*lines, header="D,params,tokens,loss")
    with pytest.raises(TableError, match=r"'D' holds 512 to 2048.*--map tokens=D,D=D_column"):
        read(tmp_path, written)
    found = read(tmp_path, written, map={"tokens": "D", "D": "D_column"})
    assert found["D"].min() == 4e8
    layers = [f"{12 + n % 4},{line}" for n, line in enumerate(LINES)]
    with pytest.raises(TableError, match=r"'L' holds 12 to 15.*--map loss=L,L=L_column"):
        read(tmp_path, text(*layers, header="L,params,tokens,loss"))
    millions = [f"{N / 1e6},{D / 1e9},{L}" for N, D, L in ROWS]
    assert len(read(tmp_path, text(*millions, header="N,D,loss"))) == 12  # with a warning


def test_an_expression_may_use_a_symbol_of_the_same_map(tmp_path):
    written = text(*LINES)
    for names in (
        {"params": "N", "20*N": "D", "loss": "L"},
        {"20*N": "D", "1e0*params": "N", "loss": "L"},
    ):
        found = read(tmp_path, written, map=names)
        assert (found["D"] == 20 * found["N"]).all() and found["N"].min() == 2e7


def test_a_misspelt_column_of_the_map_is_corrected_for_its_symbol(tmp_path):
    with pytest.raises(TableError, match=r"Say --map params=N\."):
        read(tmp_path, text(*LINES), map={"parms": "N", "tokens": "D", "loss": "L"})


def test_a_map_written_the_wrong_way_round_is_turned_as_a_whole(tmp_path):
    with pytest.raises(TableError, match="did you mean --map params=N,tokens=D,loss=L"):
        read(tmp_path, text(*LINES), map={"N": "params", "D": "tokens", "L": "loss"})


def test_an_expression_carries_the_standard_error_along(tmp_path):
    lines = [f"{N},{D},{L} ± 0.01" for N, D, L in ROWS]
    names = {"params": "N", "tokens": "D", "0.69*loss": "L"}
    found = read(tmp_path, text(*lines), map=names)
    assert found["L_stderr"].to_list() == pytest.approx([0.0069] * 12)


def test_a_search_of_learning_rates_guesses_the_loss_too(tmp_path):
    lines = [f"{line},{lr}" for line in LINES for lr in (1e-3, 2e-3, 4e-3)]
    written = text(*lines, header="params,tokens,loss,lr")
    found = read(tmp_path, written, need=("N", "D", "lr_peak"), also=("L", "N", "D"))
    assert {"lr_peak", "L"} <= set(found.columns)


NOTES = {
    "notes": [*LINES, "Notes:", "loss on C4, at the end, with care"],
    "a header again": [*LINES[:6], "params,tokens,loss", *LINES[6:]],
    "units": ["[1],[1],[nats]", *LINES],
    "totals": [*LINES, "mean,,3.1"],
    "totals of all": [*LINES, "Total,3.5e9,3.1"],
}


@pytest.mark.parametrize("kind", NOTES)
def test_rows_that_are_no_data_are_left_out_and_counted(tmp_path, kind):
    found = read(tmp_path, text(*NOTES[kind]))
    assert len(found) == 12 and sum(found.attrs["left_out"].values()) in (1, 2)
    assert list(found["N"]) == [N for N, _, _ in ROWS]


def test_notes_beside_names_of_runs_are_left_out(tmp_path):
    lines = [f"run-{n},{line}" for n, line in enumerate(LINES)]
    written = text(*lines, "see the appendix", header="name,params,tokens,loss")
    assert len(read(tmp_path, written)) == 12


def test_notes_are_left_out_of_columns_in_an_expression(tmp_path):
    millions = [f"{N / 1e6},{D},{L}" for N, D, L in ROWS]
    written = text(*millions, "Note: N in millions")
    assert read(tmp_path, written, map={"1e6*params": "N"})["N"].min() == 2e7


def test_a_row_of_units_that_change_the_numbers_is_refused_with_the_map(tmp_path):
    lines = ["[M],[B],(nats)", *(f"{N / 1e6},{D / 1e9},{L}" for N, D, L in ROWS)]
    with pytest.raises(TableError, match=r"units.*1e6\*params=N,1e9\*tokens=D"):
        read(tmp_path, text(*lines))
    names = {"1e6*params": "N", "1e9*tokens": "D"}
    assert read(tmp_path, text(*lines), map=names)["D"].max() == 1e10


def test_a_table_of_words_where_numbers_belong_is_still_refused(tmp_path):
    lines = [*LINES[:5], *("a,b,c" for _ in range(7))]
    with pytest.raises(TableError, match="must be numbers"):
        read(tmp_path, text(*lines))


def test_units_behind_numbers_are_known(tmp_path):
    lines = [f"{N / 1e6:g}M params,{D / 1e9:g}B tokens,{L} nats" for N, D, L in ROWS]
    found = read(tmp_path, text(*lines))
    assert found["N"].min() == 2e7 and found["D"].max() == 1e10 and found["L"].max() < 6
    with pytest.raises(TableError, match="must be numbers"):
        read(tmp_path, text(*(f"{N},{D},{L} bits" for N, D, L in ROWS)))


def test_a_list_in_a_cell_is_called_a_list(tmp_path):
    lines = [f'{N},{D},"[{L}, 2.0]"' for N, D, L in ROWS]
    with pytest.raises(TableError, match="a list; write one row"):
        read(tmp_path, text(*lines))


@pytest.mark.parametrize("name", ["bits_per_byte", "bpb", "val/bpb", "Bits per byte"])
def test_bits_per_byte_are_known_by_every_name(tmp_path, name):
    with pytest.warns(UserWarning, match="looks like bits"):
        assert len(read(tmp_path, text(*LINES, header=f"params,tokens,{name}"))) == 12
