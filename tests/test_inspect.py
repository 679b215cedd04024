"""`scaling inspect`: what a table holds, what it allows, what it lacks, and suspicious rows."""

from __future__ import annotations

import json
import math
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_sweep
from small import call

import analysis
from analysis.figures.registry import of_results
from scaling import table as results
from scaling.errors import TableError

STRANGERS = Path(__file__).parents[2] / "shared" / "strangers"
SIZES = (21e6, 53e6, 120e6, 310e6, 740e6)
RATIOS = (5, 10, 20, 40, 80)


def loss(N: float, D: float) -> float:
    return 1.8 + 400 / N**0.34 + 1500 / D**0.36


def grid(noise: float = 0.003) -> pd.DataFrame:
    """Return a table of 25 runs in the words of other tools."""
    rng = np.random.default_rng(0)
    rows = [(N, N * r, loss(N, N * r) * math.exp(rng.normal(0, noise)))
            for N in SIZES for r in RATIOS]  # fmt: skip
    return pd.DataFrame(rows, columns=["n_params", "train_tokens", "val/loss"])


def saved(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


def record(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert call("inspect", *map(str, words), "--json") == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def meanings(found: dict) -> dict[str, str]:
    return {each["name"]: each["means"] for each in found["columns"]}


def reasons(found: dict, row: int | None) -> str:
    return "; ".join(each["reason"] for each in found["suspicious"] if each["row"] == row)


# ------------------------------------------------------------------ columns


def test_each_column_has_its_meaning_unit_range_and_reason(tmp_path, capsys):
    table = grid().assign(note="x", State="finished")
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    columns = {each["name"]: each for each in found["columns"]}
    assert columns["n_params"]["means"] == "N" and columns["n_params"]["unit"] == "parameters"
    assert columns["n_params"]["range"] == [21e6, 740e6]
    assert columns["n_params"]["shown"] == "21M to 740M"
    assert columns["train_tokens"]["means"] == "D" and columns["val/loss"]["means"] == "L"
    assert columns["val/loss"]["unit"] == "nats/token"
    assert "held-out loss" in columns["val/loss"]["why"]
    assert columns["State"]["means"] == "status" and columns["note"]["means"] is None
    assert found["map"] == "--map n_params=N,train_tokens=D,val/loss=L"
    assert found["derived"] == {"C": "6 N D"} and found["suspicious"] == []


def test_a_converted_column_has_the_range_and_the_unit_of_what_it_means(tmp_path, capsys):
    table = grid().rename(columns={"val/loss": "val_ppl"})
    table["val_ppl"] = np.exp(table["val_ppl"])
    table["params (M)"] = table.pop("n_params") / 1e6
    columns = {
        each["name"]: each
        for each in record(capsys, saved(table, tmp_path / "runs.csv"))["columns"]
    }
    assert columns["val_ppl"]["means"] == "L" and 2 < columns["val_ppl"]["range"][0] < 3
    assert "log(val_ppl)" in columns["val_ppl"]["why"]
    assert columns["params (M)"]["range"] == pytest.approx([21e6, 740e6])


def test_bits_per_byte_are_not_called_nats(tmp_path, capsys):
    table = grid().rename(columns={"val/loss": "val_bpb"}).assign(val_bpb=lambda t: t.val_bpb / 3)
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    (column,) = [each for each in found["columns"] if each["name"] == "val_bpb"]
    assert (column["means"], column["unit"]) == ("L", "bits/byte")


def test_a_column_that_is_not_chosen_says_which_one_is(tmp_path, capsys):
    table = grid().assign(**{"train/loss": lambda t: t["val/loss"] - 0.1})
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    columns = {each["name"]: each for each in found["columns"]}
    assert columns["train/loss"]["means"] is None
    assert "'val/loss'" in columns["train/loss"]["why"]
    assert "'train/loss'" in columns["val/loss"]["why"]


def test_the_map_of_the_user_is_taken_and_said(tmp_path, capsys):
    table = grid().rename(columns={"n_params": "a", "train_tokens": "b", "val/loss": "c"})
    path = saved(table, tmp_path / "runs.csv")
    assert set(record(capsys, path)["missing"]) >= {"N", "D", "L"}
    found = record(capsys, path, "--map", "a=N,b=D,c=L")
    assert meanings(found) == {"a": "N", "b": "D", "c": "L"}
    assert found["columns"][0]["why"] == "--map says so"
    assert "chinchilla" in found["allows"]["laws"]


def test_a_shape_and_a_batch_in_sequences_are_explained(tmp_path, capsys):
    table = pd.DataFrame(
        [(L, d, 256, 1024, s, loss(12 * L * d**2, s * 2**18))
         for L, d in ((6, 384), (12, 768), (24, 1024)) for s in (200, 800, 3200, 12800)],
        columns=["n_layers", "d_model", "batch_size", "seq_len", "max_steps", "val_loss"],
    )  # fmt: skip
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    means = meanings(found)
    assert means["batch_size"] == "B" and means["max_steps"] == "S"
    assert found["derived"]["D"] == "S B" and "n_layer" in found["derived"]["N"]
    assert "batch_size*seq_len" in found["map"] and "bottleneck" in found["allows"]["laws"]


# ------------------------------------------------------------------ what it allows


def test_laws_methods_and_figures_are_asked_and_give_reasons(tmp_path, capsys):
    found = record(capsys, saved(grid(), tmp_path / "runs.csv"))
    assert {"chinchilla", "bottleneck", "kaplan_N"} <= set(found["allows"]["laws"])
    assert found["allows"]["methods"] == ["parametric"]
    assert "frontier" in found["allows"]["figures"]
    missing = found["missing"]
    assert missing["kaplan_NS"] == "needs S" and "D_unique" in missing["muennighoff"]
    assert "learning curves" in missing["envelope"] and "budgets" in missing["isoflop"]
    assert "budgets" in missing["figure isoflop"]  # a figure that is called like a method
    assert "lr_peak" in missing["kaplanD1"]
    assert all(missing.values())


def test_what_is_allowed_works_and_the_rest_does_not(tmp_path, capsys):
    path = saved(grid(), tmp_path / "runs.csv")
    found = record(capsys, path)
    names = {"n_params": "N", "train_tokens": "D", "val/loss": "L"}
    runs = analysis.load(path, map=names)
    for name in ("chinchilla", "kaplan_ND"):
        assert name in found["allows"]["laws"]
        assert analysis.fit(name, runs, bootstrap=0).params
    with pytest.raises(TableError):
        analysis.fit("kaplan_NS", runs, bootstrap=0)
    for name in ("isoflop", "kaplan2", "kaplanD1"):
        assert name not in found["allows"]["figures"]
        with pytest.raises(TableError):
            of_results(name, path, map=names)


def test_curves_allow_an_envelope(tmp_path, capsys):
    rows = [(f"r{N:.0f}", N, D, loss(N, D)) for N in SIZES[:4]
            for D in np.geomspace(1e8, 5e10, 30)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["run_id", "params", "tokens", "loss"])
    found = record(capsys, saved(table, tmp_path / "curves.csv"))
    assert {"envelope", "isoflop", "parametric"} <= set(found["allows"]["methods"])
    assert {"kaplan2", "gpt3"} <= set(found["allows"]["figures"])


def test_a_results_folder_is_inspected(tmp_path, capsys):
    runs, curves = make_sweep()
    results.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    found = record(capsys, tmp_path)
    assert meanings(found)["N"] == "N" and found["map"] == ""
    assert "chinchilla" in found["allows"]["laws"]
    assert found["missing"]["kaplan7"] == "needs runs that differ in family"


# ------------------------------------------------------------------ what is wrong with it


def test_rows_that_are_mistakes_are_found_each_for_its_reason(tmp_path, capsys):
    table = grid().assign(flops=lambda t: 6 * t.n_params * t.train_tokens, vocab_size=32000)
    table["run"] = [f"run{i}" for i in range(25)]
    table.loc[4, "train_tokens"] /= 1e3
    table.loc[8, "flops"] *= 10
    table.loc[12, "val/loss"] *= 1.6
    table.loc[15, "val/loss"] = 11.2
    table.loc[20, "val/loss"] = np.inf
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    assert {each["row"] for each in found["suspicious"]} == {4, 8, 12, 15, 20}
    assert {each["run_id"] for each in found["suspicious"]} >= {"run4", "run8"}
    assert "a thousand" in reasons(found, 4) and "10 times 6 N D" in reasons(found, 8)
    assert "above the loss of the other runs' law" in reasons(found, 12)
    assert "ln(vocab_size) = 10.37" in reasons(found, 15)
    assert "no finite loss" in reasons(found, 20)


def test_a_clean_table_has_no_suspicious_row(tmp_path, capsys):
    table = grid(noise=0.0).assign(lr=lambda t: 3e-4 * (t.n_params / 1e8) ** -0.3)
    assert record(capsys, saved(table, tmp_path / "runs.csv"))["suspicious"] == []


def test_a_wide_sweep_is_not_suspicious_for_its_width(tmp_path, capsys):
    rows = [(N, D, 7 * N * D, loss(N, D)) for N in np.geomspace(1e6, 1e9, 7)
            for D in np.geomspace(1e8, 1e11, 7)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["params", "tokens", "flops", "loss"])
    assert record(capsys, saved(table, tmp_path / "runs.csv"))["suspicious"] == []


def test_without_a_vocabulary_a_loss_above_twelve_nats_is_suspicious(tmp_path, capsys):
    table = grid()
    table.loc[3, "val/loss"] = 12.5
    assert "12 nats" in reasons(record(capsys, saved(table, tmp_path / "runs.csv")), 3)


def test_repeated_rows_and_rows_of_resumed_runs_are_listed(tmp_path, capsys):
    table = pd.concat([grid(), grid().iloc[:3]])
    found = record(capsys, saved(table, tmp_path / "twice.csv"))
    assert [each["row"] for each in found["suspicious"]] == [25, 26, 27]
    assert "3 exact duplicates" in found["used"]
    again = grid().assign(run_id=[f"r{i}" for i in range(25)])
    again = pd.concat([again, again.iloc[[7]].assign(**{"val/loss": 3.0})])
    found = record(capsys, saved(again, tmp_path / "resumed.csv"))
    assert "resumed run" in reasons(found, 7)


def test_a_copy_under_another_id_is_suspicious(tmp_path, capsys):
    table = grid().assign(run_id=[f"r{i}" for i in range(25)])
    table = pd.concat([table, table.iloc[[2]].assign(run_id="copy")])
    assert "the same run" in reasons(record(capsys, saved(table, tmp_path / "runs.csv")), 25)


def test_odd_learning_rates_are_suspicious(tmp_path, capsys):
    table = grid().assign(learning_rate=lambda t: 3e-4 * (t.n_params / 1e8) ** -0.3)
    table.loc[10, "learning_rate"] = 3.0
    table.loc[11, "learning_rate"] = 0.0
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    assert "learning rate" in reasons(found, 10) and "end of a schedule" in reasons(found, 11)
    table.loc[[10, 11], "learning_rate"] = [3e-4, 3e-4]
    table.loc[12, "learning_rate"] = 0.05
    assert "off the learning rates" in reasons(
        record(capsys, saved(table, tmp_path / "runs.csv")), 12
    )


def test_a_search_of_learning_rates_and_its_edge_are_named(tmp_path, capsys):
    rows = [(N, 20 * N, rate, loss(N, 20 * N) + 0.02 * math.log(rate / 1e-3) ** 2)
            for N in SIZES for rate in (1e-3, 2e-3, 4e-3)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["params", "tokens", "lr", "loss"])
    text = reasons(record(capsys, saved(table, tmp_path / "runs.csv")), None)
    assert "3 learning rates at one N and D" in text and "smallest or the largest tried" in text


def test_units_of_a_whole_column_are_doubted_once(tmp_path, capsys):
    table = grid().assign(train_tokens=lambda t: t.train_tokens / 2048)
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    assert [each["row"] for each in found["suspicious"]] == [None]
    assert "in sequences" in reasons(found, None)
    both = grid().assign(vocab_size=[32000] * 12 + [50257] * 13)
    assert "vocabularies" in reasons(record(capsys, saved(both, tmp_path / "runs.csv")), None)


# ------------------------------------------------------------------ tables that do not load


def test_a_refused_table_is_described_with_the_reason_and_the_remedy(tmp_path, capsys):
    table = pd.concat([pd.DataFrame([(21e6, 0, 10.9)], columns=grid().columns), grid()])
    found = record(capsys, saved(table, tmp_path / "zero.csv"))
    assert "column 'D' must be positive" in found["missing"]["table"]
    assert found["remedy"] == "--where 'D > 0'" and "chinchilla" in found["allows"]["laws"]
    assert "positive" in reasons(found, 0)


def test_two_losses_are_both_shown_with_their_ranges(tmp_path, capsys):
    table = grid().assign(test_loss=lambda t: t["val/loss"] + 0.01)
    found = record(capsys, saved(table, tmp_path / "runs.csv"))
    assert "--map test_loss=L" in found["missing"]["L"] and "(2.39 to" in found["missing"]["L"]
    assert found["allows"] == {"laws": [], "methods": [], "figures": []}
    assert meanings(found)["n_params"] == "N"


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("params,tokens\n1e7,1e9\n2e7,2e9\n", "L", "no column 'L'"),
        ("params,tokens,loss\n", "N", "empty"),
        ("params,params,loss\n1e7,2e7,3\n", "table", "two columns are called 'params'"),
        ("params\ttokens\tloss\n21000000\t105000000\t5,035\n", "table", "--decimal comma"),
        ("params,tokens,loss,state\n1e7,1e9,3,running\n", "table", "no run has finished"),
        ("params,tokens,loss\n1e7,1e9,\n2e7,2e9,nan\n", "table", "no row has a loss"),
        ("params,tokens,loss\n1e7,1e9,3.2\n", "chinchilla", "needs 6 rows"),
    ],
)
def test_a_table_with_a_problem_is_no_error(text, key, words, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    found = record(capsys, path)
    assert words in found["missing"][key]
    assert [each["name"] for each in found["columns"]][:1] == ["params"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("none.csv", None, "does not exist"),
        ("empty.csv", b"", "not a readable"),
        ("runs.xlsx", b"PKdummy", "not a readable"),
        ("notes.txt", b"hello world\nno table is here\n", "no table of runs"),
        ("model.pkl", b"\x80\x04.", "can run code"),
    ],
)
def test_what_is_no_table_is_one_message(name, data, words, tmp_path, capsys):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert call("inspect", str(tmp_path / name)) == 2
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and printed.out == ""


def test_a_folder_whose_table_is_damaged_is_described(tmp_path, capsys):
    table = grid().rename(columns={"n_params": "N", "train_tokens": "D", "val/loss": "L"})
    saved(table.assign(run_id="same", status="ok"), tmp_path / "runs.csv")
    found = record(capsys, tmp_path)
    assert "belong to the same run" in found["missing"]["table"]
    assert meanings(found)["N"] == "N"


# ------------------------------------------------------------------ containers, text, speed


def test_every_container_is_read(tmp_path, capsys):
    table = grid()
    table.to_parquet(tmp_path / "a.parquet")
    table.to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("runs.tsv", table.to_csv(sep="\t", index=False))
    for name in ("a.parquet", "b.jsonl", "c.zip"):
        found = record(capsys, tmp_path / name)
        assert meanings(found)["val/loss"] == "L" and "auto" not in found["missing"], name


def test_a_chart_shows_its_axis_as_the_steps(tmp_path, capsys):
    steps = np.arange(500, 5001, 500)
    lines = {f"n_params: {N:.0f} - val/loss": [loss(N, s * 2**19) for s in steps] for N in SIZES}
    found = record(capsys, saved(pd.DataFrame({"Step": steps, **lines}), tmp_path / "chart.csv"))
    assert meanings(found) == {"run_id": "run_id", "n_params": "N", "Step": "S", "val/loss": "L"}
    assert "Step * 524288=D" in found["missing"]["D"]


def test_the_text_names_the_next_command_and_fits_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    path = saved(grid(), tmp_path / "runs.csv")
    assert call("inspect", str(path), "--where", "D > 2e8") == 0
    text = capsys.readouterr().out
    assert f"scaling fit {path} --law auto --where 'D > 2e8'" in text
    assert all(word in text for word in ("Allows", "Missing", "21M to 740M parameters"))
    long = [line for line in text.splitlines() if len(line) > 90]
    assert all("runs.csv" in line or "--map" in line for line in long)


def test_inspect_of_a_data_frame_has_text_and_html():
    found = analysis.inspect(grid().rename(columns={"val/loss": "<b>loss"}))
    assert "chinchilla" not in found.laws or "loss" in str(found)
    page = found._repr_html_()
    assert "&lt;b&gt;loss" in page and "<b>loss" not in page
    assert "21M to 740M" in str(found)


def test_a_thousand_runs_take_little_time(tmp_path):
    rng = np.random.default_rng(1)
    N, r = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 40), np.geomspace(2, 200, 25)))
    table = pd.DataFrame({"params": N, "tokens": N * r})
    table["loss"] = loss(N, N * r) * np.exp(rng.normal(0, 0.004, len(N)))
    table = table.assign(**{f"metric{i}": rng.normal(size=len(N)) for i in range(30)})
    path = saved(table, tmp_path / "runs.csv")
    analysis.inspect(grid())  # imports
    began = time.process_time()
    assert len(analysis.inspect(path).laws) > 10
    assert time.process_time() - began < 3


@pytest.mark.skipif(not STRANGERS.is_dir(), reason="the folder of strangers' tables is not here")
@pytest.mark.parametrize(
    "name",
    sorted(str(p.relative_to(STRANGERS)) for p in STRANGERS.glob("*/*")) if STRANGERS.is_dir()
    else [],
)  # fmt: skip
def test_tables_of_other_tools_pass_through_inspect(name, capsys):
    if name.endswith("runs.xlsx"):  # seven letters
        assert call("inspect", str(STRANGERS / name)) == 2
        return
    found = record(capsys, STRANGERS / name)
    assert "L" in meanings(found).values()
    assert found["allows"]["laws"] or "--decimal" in found["missing"]["table"]
