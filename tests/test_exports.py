"""Tables for other tools: every suffix of `scaling export --out`, and the data beside figures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from small import call

from analysis import figures, load
from analysis.exporting import export
from analysis.figures import data

RESULTS = Path(__file__).parents[1] / "results"
DATA = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
DIGITS = {".xlsx": 1e-15}
"""Relative error of a format that does not hold all digits of a float."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A table of another tool, with texts that a format could take for something else."""
    frame = pd.DataFrame(
        {
            "N": np.geomspace(1e6, 1e8, 6).round(),
            "D": np.geomspace(2e8, 1e10, 6).round(),
            "L": [5.0, 4.5, 4.1, 3.8, 3.6, 1 / 0.3],
            "label": ["=1+1", "a|b", 'ü, "q"', "two\nlines", "<b>", "_x_"],
        }
    )
    frame.to_csv(tmp_path / "own.csv", index=False)
    return tmp_path / "own.csv"


@pytest.mark.parametrize("suffix", DATA)
def test_a_table_written_in_a_format_of_data_is_read_back_as_it_was(suffix, runs, tmp_path):
    out = tmp_path / f"out{suffix}"
    assert call("export", str(runs), "--out", str(out)) == 0
    first, again = load(runs), load(out)
    for name in ("N", "D", "C", "L"):
        np.testing.assert_allclose(again[name], first[name], rtol=DIGITS.get(suffix, 0))
    assert list(again["label"]) == list(first["label"])


@pytest.mark.parametrize("suffix", DATA)
def test_a_results_folder_keeps_every_column_and_number(suffix, tmp_path, capsys):
    out = tmp_path / "deep" / f"out{suffix}"  # the folder is made
    assert call("export", str(RESULTS / "headline"), "--out", str(out)) == 0
    assert capsys.readouterr().out == f"{out}\n"
    first, again = load(RESULTS / "headline"), load(out)
    assert len(again) == len(first) == 53
    assert {"n_layer", "lr_peak", "corpus_hash", "seconds"} <= set(again.columns)
    np.testing.assert_allclose(again["L"], first["L"], rtol=DIGITS.get(suffix, 0))
    assert list(again["run_id"].astype(str)) == list(first["run_id"])


def test_a_sheet_holds_texts_not_formulas(runs, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    export(runs, tmp_path / "runs.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "runs.xlsx").active
    header = [cell.value for cell in sheet[1]]
    cell = sheet.cell(2, header.index("label") + 1)
    assert (cell.value, cell.data_type) == ("=1+1", "s")


def test_a_printed_table_has_the_main_columns_with_few_digits(runs, tmp_path):
    export(runs, tmp_path / "runs.md")
    lines = (tmp_path / "runs.md").read_text().splitlines()
    assert lines[0] == "| N | D | C | L |" and lines[1] == "| ---: | ---: | ---: | ---: |"
    assert len(lines) == 8 and lines[-1].endswith("| 3.333 |")
    export(runs, tmp_path / "runs.tex", columns=["label", "L"])
    text = (tmp_path / "runs.tex").read_text()
    assert "\\toprule" in text and "a|b" in text and "two lines" in text and "\\_x\\_" in text


def test_markup_in_cells_of_markdown_is_escaped(runs, tmp_path):
    export(runs, tmp_path / "runs.md", columns=["label"])
    rows = (tmp_path / "runs.md").read_text().splitlines()[2:]
    assert rows[1:] == ["| a\\|b |", '| ü, "q" |', "| two lines |", "| \\<b> |", "| \\_x\\_ |"]


def test_columns_and_rows_can_be_chosen(runs, tmp_path):
    out = tmp_path / "few.csv"
    words = ("--columns", "L,N", "--where", "N > 2e6")
    assert call("export", str(runs), "--out", str(out), *words) == 0
    few = pd.read_csv(out)
    assert list(few.columns) == ["L", "N"] and len(few) == 5


@pytest.mark.parametrize(("table", "column"), [("curves", "L"), ("tests", "L_position")])
def test_other_tables_of_a_results_folder(table, column, tmp_path):
    for suffix in (".csv", ".parquet", ".xlsx"):
        path = export(RESULTS / "headline", tmp_path / f"t{suffix}", table=table)
        read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".xlsx": pd.read_excel}[suffix]
        found = read(path)
        assert column in found.columns and len(found) >= 53
    if table == "curves":
        assert len(found) > 400  # every evaluation, not the last of each run


def test_scores_of_tasks_are_a_table(tmp_path):
    path = export(RESULTS / "abilities", tmp_path / "tasks.jsonl", table="tasks")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"run_id", "task", "metric", "value"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs --out, a file such as runs.xlsx, or --to"),
        (("--out", "a.csv", "--to", "wandb"), "leave one of them out"),
        (("--out", "a.pdf"), r"--out a.pdf: the suffix sets the format; it can be .csv"),
        (("--out", "a"), "the suffix sets the format"),
        (("--out", "a.csv", "--columns", "N,loss"), "has no column 'loss'"),
        (("--out", "a.csv", "--table", "tasks"), "only the results folder of a sweep has tasks"),
        (("--out", "a.csv", "--again"), "--again needs --to"),
        (("--out", "own.csv"), "--out own.csv is a file of the results"),
        (("--to", "wandb", "--where", "N > 1"), "--where needs --out"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(
    words, message, runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = runs.read_bytes()
    assert call("export", "own.csv", *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]
    assert runs.read_bytes() == before


def test_files_of_a_results_folder_are_never_replaced(tmp_path, capsys):
    folder = shutil.copytree(RESULTS / "headline", tmp_path / "headline")
    for name in ("runs.csv", "curves.parquet"):
        assert call("export", str(folder), "--out", str(folder / name)) == 2
        assert "is a file of the results" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named_with_its_extra(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("scaling.extras.installed", lambda module: module != "openpyxl")
    assert call("export", str(runs), "--out", str(tmp_path / "a.xlsx")) == 2
    assert "pip install 'scaling-laws-lab[excel]'" in capsys.readouterr().err


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=4),
                  st.lists(st.integers(), max_size=2), st.floats(allow_infinity=False)),
        min_size=1, max_size=5,
    ),
    st.sampled_from([*DATA, ".md", ".tex"]),
)  # fmt: skip
def test_cells_of_any_kind_are_written_in_every_format(cells, suffix):
    import tempfile

    frame = pd.DataFrame({"L": 3.0 + np.arange(len(cells)), "odd": pd.Series(cells, dtype=object)})
    with tempfile.TemporaryDirectory() as folder:
        path = export(frame, Path(folder) / f"t{suffix}", columns=["L", "odd"])
        assert path.stat().st_size > 0
        if suffix == ".parquet":
            assert len(pd.read_parquet(path)) == len(cells)


# ------------------------------------------------------------------ data of figures


def drawing(draw):
    """Return the data of a figure with one panel."""
    figure = Figure()
    draw(figure.subplots())
    return data.drawn(figure)


def test_a_figure_is_written_with_its_data_beside_it(tmp_path, capsys):
    folder = shutil.copytree(RESULTS / "isoflop", tmp_path / "isoflop")
    shutil.rmtree(folder / "figures")
    assert call("figure", "kaplan2", str(folder)) == 0
    files = sorted(path.name for path in (folder / "figures").iterdir())
    assert files == ["kaplan2.csv", "kaplan2.pdf", "kaplan2.png"]
    table = pd.read_csv(folder / "figures/kaplan2.csv")
    assert list(table.columns) == list(data.COLUMNS)
    runs = load(folder)
    ends = table[(table["panel"] == "a") & (table["kind"] == "points")]
    np.testing.assert_allclose(sorted(ends["y"]), sorted(runs["L"]), rtol=1e-5)
    np.testing.assert_allclose(sorted(ends["x"]), sorted(runs["D"]), rtol=1e-5)
    np.testing.assert_allclose(sorted(ends["value"]), sorted(runs["N"]), rtol=1e-5)
    assert set(ends["x_axis"]) == {"Tokens processed"}
    assert set(ends["y_axis"]) == {"Test loss L [nats/token]"}
    assert (folder / "figures/kaplan2.csv").stat().st_size < 200_000
    out = tmp_path / "only.csv"
    assert call("figure", "kaplan2", str(folder), "--out", str(out)) == 0
    assert out.read_bytes() == (folder / "figures/kaplan2.csv").read_bytes()
    assert call("figure", "kaplan2", str(folder), "--out", str(tmp_path / "a.pdf")) == 0
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["a.pdf", "only.csv"]


def test_lines_points_bars_and_bands_have_their_numbers():
    def draw(ax):
        ax.plot([1, 2, 3], [4, 5, 6], label="law $L_\\mathrm{opt}$")
        ax.plot([1, 2], [7, 8], "o")
        ax.fill_between([1, 2, 3], [1, 2, 3], [2, 3, 5])
        ax.errorbar([1, 2], [3, 4], yerr=[[0.5, 1], [1, 2]], xerr=0.25, fmt="s", label="seeds")
        ax.axhline(9)
        ax.axvspan(2, 3)
        ax.bar([10, 20], [3, 4], label="count")
        ax.set(xlabel="$N$", ylabel="$L$ [nats]", title="one")

    table = drawing(draw)
    assert set(table["panel"]) == {"a: one"} and set(table["x_axis"]) == {"N"}
    line = table[table["series"] == "law L_opt"]
    assert list(line["y"]) == [4, 5, 6] and set(line["kind"]) == {"line"}
    assert list(table[(table["kind"] == "points") & (table["series"] == "")]["y"]) == [7, 8]
    band = table[table["kind"] == "band"]
    assert band[["x", "low", "high"]].to_numpy().tolist() == [[1, 1, 2], [2, 2, 3], [3, 3, 5]]
    seeds = table[table["series"] == "seeds"]
    assert seeds[["low", "high"]].to_numpy().tolist() == [[2.5, 4], [3, 6]]
    assert seeds[["x_low", "x_high"]].to_numpy().tolist() == [[0.75, 1.25], [1.75, 2.25]]
    reference = table[(table["y"] == 9) & table["x"].isna()]
    assert len(reference) == 1 and list(reference["kind"]) == ["line"]
    span = table[table["kind"] == "span"].iloc[0]
    assert (span["x_low"], span["x_high"]) == (2, 3) and np.isnan(span["low"])
    bars = table[table["kind"] == "bar"]
    assert bars[["x", "y"]].to_numpy().tolist() == [[10, 3], [20, 4]]
    assert set(bars["series"]) == {"count"}


def test_cells_and_contours_have_their_values():
    x = y = np.linspace(0, 1, 5)
    z = np.add.outer(y, x)

    def draw(ax):
        ax.pcolormesh(x, y, z, shading="nearest")
        ax.contour(x, y, z, levels=[0.5, 1.5])

    table = drawing(draw)
    cells = table[table["kind"] == "cell"]
    np.testing.assert_allclose(cells["value"], cells["x"] + cells["y"], atol=1e-9)
    lines = table[table["kind"] == "contour"]
    assert set(lines["value"]) == {0.5, 1.5}
    np.testing.assert_allclose(lines["x"] + lines["y"], lines["value"], atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5000), st.integers(1, 40))
def test_dense_lines_are_thinned_evenly_and_keep_their_ends(points, lines):
    x = np.linspace(1, 2, points)

    def draw(ax):
        for k in range(lines):
            ax.plot(x, k + x)

    table = drawing(draw)
    assert len(table) <= max(2000, 3 * lines)
    for _, line in table.groupby("item"):
        assert line["x"].iloc[0] == 1 and line["x"].iloc[-1] == 2
        assert points > 101 or lines * points > 2000 or len(line) == points
    assert table["item"].nunique() == lines


def test_the_data_of_a_crowded_figure_stay_small():
    figure = Figure()
    axes = figure.subplots(2, 3)
    for ax in axes.flat:
        for _ in range(5):
            ax.scatter(np.arange(900), np.arange(900))
    text = data.text(figure)
    assert len(text) <= 200_000 and set(pd.read_csv(io.StringIO(text))["panel"]) == set("abcdef")
    assert text == data.text(figure)


def test_every_committed_figure_has_data(tmp_path):
    made, _ = figures.registry.drawings(
        RESULTS / "isoflop", names=["kaplan2", "kaplan1", "kaplan11", "contours", "isoflop"]
    )
    assert len(made) >= 4
    for name, figure in made.items():
        table = data.drawn(figure)
        assert len(table) > 20 and table[["x", "y"]].notna().any(axis=None), name
        assert not table["x_axis"].str.contains(r"[\\\\${}]").any(), name
        assert len(data.text(figure).encode()) <= 200_000
