"""What commands report becomes results: reports, rows, tables, and what is done with them."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import fit, load
from analysis.comparison.compare import split
from analysis.curves.forecast import forecast
from scaling import run_folders, table
from scaling.columns import COLUMNS
from scaling.command_run import CommandRun
from scaling.config import RunConfig
from scaling.errors import ConfigError, TableError
from scaling.recorded_run import recorded
from sweeps.early_stopping import Halving
from sweeps.errors import StoreError
from sweeps.result import failed_row, parse, to_json
from sweeps.runner.lines import LONGEST_LINE
from sweeps.runner.reports import MissingResult, Report, ReportReader
from sweeps.runner.rows import WrongSize, row_of
from sweeps.runner.runner import Sources
from sweeps.store import Store

LOG = {
    "step": r"step (\d+)",
    "L": r"val loss ([\d.e+-]+|nan|inf)",
    "L_train": r"train loss ([\d.]+)",
    "lr": r"lr ([\d.e-]+)",
}


def run_of(N: int | None = 1000, steps: int = 100, **keys: Any) -> CommandRun:
    keys = {"lr": 0.01, "depth": 4, "tokens": 128 * steps} | keys
    words = ("python", "train.py", "--lr", "{lr}", "--depth", "{depth}")
    return CommandRun(command=words, keys=keys, N=N, D=128 * steps, batch_tokens=128)


def reader(folder: Path, run: CommandRun | None = None, **sources: Any) -> ReportReader:
    return ReportReader(run or run_of(), Sources(**sources), folder, folder / "output.log")


def row_and_curve(run: CommandRun, report: Report, **more: Any) -> tuple[Any, list[Any]]:
    row, curve, tests = row_of(run, report, seconds=1.0, device="cpu", **more)
    assert tests == []
    return row, curve


# ------------------------------------------------------------------ reports

PIECES = st.sampled_from(
    [
        b"step 10 train loss 3.5 lr 1e-3",
        b"step 20 train loss 3.25",
        b"\x1b[32mval loss 3.125\x1b[0m step 20",
        b"val loss nan",
        b'{"step": 30, "val_loss": 2.5, "lr": 0.01}',
        b'{"step": 40, "loss": 2.25}',
        b'{"L": 2.0, "N": 1000, "score": 0.5}',
        b'{"L": 1.0, "half',
        b"{'loss': 3.0, 'epoch': 0.5}",
        b"\xff\xfe not text",
        "π ≈ 3.14".encode(),
        b"{" * 50,
        b"",
        b"warming up  12%|###     |",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.tuples(PIECES, ENDS), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    last=PIECES,
)
def test_a_log_in_any_chunks_gives_the_same_report_as_the_whole(
    lines: list[tuple[bytes, bytes]], cuts: list[int], last: bytes
):
    text = b"".join(piece + end for piece, end in lines) + last + b"\nval loss 9.5"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "output.log"
        chunked = reader(folder, log=LOG)
        at = 0
        for cut in [*sorted(cuts), len(text)]:
            with log.open("ab") as file:
                file.write(text[at : max(at, cut)])
            at = max(at, min(cut, len(text)))
            chunked.read()
        whole = reader(folder, log=LOG).finish()
        assert repr(chunked.finish()) == repr(whole)  # nan differs from itself


def test_lines_of_json_in_the_output_are_points_and_final_numbers(tmp_path: Path):
    lines = [
        {"step": 50, "loss": 3.5, "val_loss": 3.25, "lr": 0.01},
        {"level": "info", "message": "saved"},
        {"step": 100, "val_loss": 3.0, "learning_rate": 0.001},
        {"L": 2.9, "N": 1010, "D": 12800, "accuracy": 0.5},
    ]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "output.log").write_text(f"starting\n{text}\ndone\n")
    found = reader(tmp_path).finish()
    assert found.final["L"] == 2.9 and found.final["accuracy"] == 0.5
    assert "message" not in found.final  # a structured log is not a result
    assert found.step == 100
    assert found.curve == [
        {"S": 50, "D": 6400, "L": 3.25, "L_train": 3.5, "lr": 0.01},
        {"S": 100, "D": 12800, "L": 3.0, "lr": 0.001},
    ]


def test_patterns_find_points_in_lines_that_name_their_step_before(tmp_path: Path):
    log = tmp_path / "output.log"
    log.write_text("step 50 train loss 3.5 lr 1e-2\nval loss 3.25\rstep 100 train loss 3\r\n")
    found = reader(tmp_path, log=LOG)
    assert found.read().final["L"] == 3.25
    with log.open("a") as file:
        file.write("\x1b[31mval loss \x1b[1m3.0\x1b[0m")
    assert found.read().final["L"] == 3.25, "the line may still grow"
    ended = found.finish()
    assert ended.final["L"] == 3.0 and ended.L_step == 100
    assert [point["S"] for point in ended.curve] == [50, 100]


def test_one_pattern_with_named_groups_gives_several_columns(tmp_path: Path):
    (tmp_path / "output.log").write_text("it 50/100 | val 3.25 | mfu 41.5%\n")
    pattern = r"it (?P<S>\d+)/\d+ \| val (?P<L>[\d.]+) \| mfu (?P<percent>[\d.]+)"
    found = reader(tmp_path, log={"*": pattern}).finish()
    assert found.curve == [{"S": 50, "D": 6400, "L": 3.25}]
    assert found.final["percent"] == 41.5


def test_files_that_are_half_written_or_rewritten_are_read_when_they_are_complete(tmp_path: Path):
    curve, result = tmp_path / "curve.jsonl", tmp_path / "result.json"
    found = reader(tmp_path)
    assert found.read() == Report()
    curve.write_text('{"step": 10, "val_loss": 4.0}\n{"step": 20, "val_')
    result.write_text('{"L": 3.')
    assert found.read().curve == [{"S": 10, "D": 1280, "L": 4.0}]
    with curve.open("a") as file:
        file.write('loss": 3.5}\n')
    assert [point["L"] for point in found.read().curve] == [4.0, 3.5]
    curve.write_text('{"step": 20, "val_loss": 3.25}\n')  # by a command that has resumed
    assert [point["L"] for point in found.read().curve] == [4.0, 3.25]
    result.write_text('{"L": 3.0}')
    assert found.read().final["L"] == 3.0


def test_a_result_may_hold_its_curve(tmp_path: Path):
    points = [{"step": 50, "eval_loss": 3.5}, {"step": 100, "eval_loss": 3.25}]
    (tmp_path / "result.json").write_text(json.dumps({"best": 1, "log_history": points}))
    found = reader(tmp_path).finish()
    assert [point["L"] for point in found.curve] == [3.5, 3.25] and found.final["L"] == 3.25


def test_a_dictionary_that_python_prints_counts_and_its_loss_is_that_of_training(tmp_path: Path):
    lines = ["{'loss': 3.5, 'epoch': 1}", "{'eval_loss': 3.25, 'epoch': 1}"]
    lines.append("{'loss': nan, 'epoch': 2}")
    (tmp_path / "output.log").write_text("\n".join(lines))
    found = reader(tmp_path).finish()
    assert found.final["L"] == 3.25 and math.isnan(float(found.final["L_train"]))


def test_an_endless_line_and_a_deep_one_do_no_harm(tmp_path: Path):
    deep = b'{"step":' * 100_000
    lines = [b"x" * 3 * LONGEST_LINE, deep, b'{"L": 3.0}\n']
    (tmp_path / "output.log").write_bytes(b"\n".join(lines))
    start = time.monotonic()
    assert reader(tmp_path, log=LOG).finish().final["L"] == 3.0
    assert time.monotonic() - start < 5


def test_a_long_curve_is_thinned_and_keeps_its_held_out_losses(tmp_path: Path):
    with (tmp_path / "curve.jsonl").open("w") as file:
        for step in range(1, 30_001):
            held_out = {"val_loss": 3.0} if step % 1000 == 0 else {}
            file.write(json.dumps({"step": step, "loss": 3.5} | held_out) + "\n")
    found = reader(tmp_path).finish()
    assert len(found.curve) <= 10_000 and found.step == 30_000
    assert sum("L" in point for point in found.curve) == 30


@pytest.mark.parametrize(
    ("report", "columns", "L", "conversion"),
    [
        ({"val_loss": 3.0}, {}, 3.0, ""),
        ({"loss": 3.0}, {}, 3.0, ""),
        ({"train_loss": 2.0, "eval/loss": 3.0}, {}, 3.0, ""),
        ({"val_ppl": 20.0}, {}, math.log(20.0), "log(val_ppl)"),
        ({"val_ppl": 20.0, "val_loss": 3.0}, {}, 3.0, ""),
        ({"val_bits_per_token": 4.0}, {}, 4 * math.log(2), "log(2)*val_bits_per_token"),
        ({"metric": 3.0}, {"L": "metric"}, 3.0, ""),
        ({"metric": 20.0}, {"L": "log(metric)"}, math.log(20.0), "log(metric)"),
        (
            {"test_perplexity": 20.0},
            {"L": "test_perplexity"},
            math.log(20.0),
            "log(test_perplexity)",
        ),
        ({"loss": 2.0, "x": {"y": "3.0"}}, {"L": "x/y"}, 3.0, ""),
        ({"L": "3.0"}, {}, 3.0, ""),
    ],
)
def test_losses_are_taken_by_their_names_and_converted_as_these_say(
    tmp_path: Path, report: dict[str, Any], columns: dict[str, str], L: float, conversion: str
):
    (tmp_path / "result.json").write_text(json.dumps(report))
    found = reader(tmp_path, columns=columns).finish()
    assert found.final["L"] == pytest.approx(L)
    assert found.conversions.get("L", "") == conversion
    row, _ = row_and_curve(run_of(), found)
    assert row.get("converted", "") == (f"L = {conversion}" if conversion else "")


@pytest.mark.parametrize(
    "report", [{"val_bpb": 1.0}, {"train_loss": 3.0}, {"L": None}, {"L": True}]
)
def test_what_is_no_loss_per_token_is_not_taken_for_one(tmp_path: Path, report: dict[str, Any]):
    (tmp_path / "result.json").write_text(json.dumps(report))
    with pytest.raises(MissingResult, match="without reporting its held-out loss L"):
        reader(tmp_path).finish()


def test_a_missing_result_names_what_was_looked_for_and_the_last_lines(tmp_path: Path):
    (tmp_path / "output.log").write_text("".join(f"line {i}\n" for i in range(100)) + "bye")
    (tmp_path / "result.json").write_text('{"accuracy": 0.5}')
    log = {"L": r"val loss (\S+)"}
    with pytest.raises(MissingResult) as caught:
        reader(tmp_path, log=log, tracker="wandb", path="wandb", columns={"L": "final"}).finish()
    text = str(caught.value)
    assert "L (called 'final' in [runner.results.columns])" in text
    assert "result.json (with accuracy)" in text and "curve.jsonl (it does not exist)" in text
    assert r"L = 'val loss (\\S+)' (it matched 0 of 101 lines)" in text
    assert "wandb does not exist" in text and str(tmp_path) in text
    assert text.endswith("\n  line 99\n  bye") and "line 1\n" not in text


def test_a_run_whose_parameters_nobody_knows_has_no_result(tmp_path: Path):
    (tmp_path / "result.json").write_text('{"L": 3.0}')
    with pytest.raises(MissingResult, match="number of parameters N"):
        reader(tmp_path, run_of(N=None)).finish()
    (tmp_path / "result.json").write_text('{"L": 3.0, "N": 5000}')
    row, _ = row_and_curve(run_of(N=None), reader(tmp_path, run_of(N=None)).finish())
    assert row["N"] == 5000 and row["C"] == 6 * 5000 * 12800


# ------------------------------------------------------------------ rows


@pytest.mark.parametrize("loss", ["NaN", "Infinity", '"nan"', '"inf"'])
def test_a_loss_that_is_not_finite_is_a_divergence(tmp_path: Path, loss: str):
    lines = ['{"step": 40, "L": 4.0}', f'{{"step": 50, "L": {loss}}}']
    (tmp_path / "curve.jsonl").write_text("\n".join(lines))
    row, curve = row_and_curve(run_of(), reader(tmp_path).finish())
    assert row["status"] == "diverged" and row["L"] is None
    assert re.fullmatch(r"its loss is (nan|inf) at step 50", row["error"])
    assert (row["S"], row["D"]) == (50, 6400) and [point["L"] for point in curve] == [4.0, None]


def test_a_row_has_the_command_its_keys_and_what_was_reported():
    run = CommandRun(
        command=("train", "{lr}"), keys={"lr": 0.01, "n_layer": 4, "flash": True, "seed": 3},
        derived={"steps": 100}, N=1000, D=12800, batch_tokens=128, tag="a",
    )  # fmt: skip
    final = {"L": 3.0, "score": 0.5, "n_layer": 9, "seconds": 4, "N_total": 1500.0, "mfu": 0.4}
    row, _ = row_and_curve(run, Report(final))
    assert row["command"] == "train {lr}" and row["tag"] == "a" and row["run_id"] == run.run_id
    assert (row["lr"], row["lr_peak"], row["n_layer"], row["seed"]) == ("0.01", 0.01, 4, 3)
    assert row["flash"] is True and row["steps"] == 100 and row["score"] == 0.5
    assert (row["B"], row["S"], row["C"]) == (128, 100, 6.0 * 1000 * 12800)
    assert (row["N_total"], row["mfu"]) == (1500, 0.4)
    assert row["seconds"] == 1.0 and row["reported_seconds"] == 4
    assert "schedule" not in row and "family" not in row


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (Report({"L": 3.0, "N": 1600}), "reported N=1,600 and the spec gives N=1,000"),
        (
            Report({"L": 3.0, "D": 6400}, stated=frozenset({"D", "L"})),
            "reported D=6,400 and the spec gives D=12,800",
        ),
        (Report({"L": 3.0}, step=90, L_step=90), "that of step 90 of 100"),
        (Report({"L": 3.0}, step=400, L_step=100), "reported step 400, and the spec gives 100"),
        (Report({"L": 3.0, "N": math.nan}), "reported N=nan"),
    ],
)
def test_sizes_that_contradict_the_spec_are_refused(report: Report, message: str):
    with pytest.raises(WrongSize, match=message):
        row_and_curve(run_of(), report)
    row, _ = row_and_curve(run_of(), report, status="stopped", error="no use")
    assert row["status"] == "stopped"  # nothing measured is lost


def test_sizes_that_differ_by_rounding_are_those_of_the_command():
    final = {"L": 3.0, "N": 1010, "D": 12700}
    row, _ = row_and_curve(run_of(), Report(final, stated=frozenset(final)))
    assert (row["N"], row["D"], row["C"]) == (1010, 12700, 6.0 * 1010 * 12700)


def test_the_curve_has_a_row_per_held_out_loss_with_the_mean_training_loss():
    curve = [
        {"S": 10, "L_train": 5.0, "lr": 0.1},
        {"S": 20, "L_train": 4.0, "L": 4.5},
        {"S": 30, "L_train": 3.0},
        {"S": 40, "L": 3.5, "lr": 0.05},
    ]
    _, points = row_and_curve(run_of(steps=40), Report({"L": 3.5}, curve, step=40, L_step=40))
    assert [(p["S"], p["D"], p["L"], p["L_train"], p["lr"]) for p in points] == [
        (20, 2560, 4.5, 4.5, 0.1),
        (40, 5120, 3.5, 3.0, 0.05),
    ]


# ------------------------------------------------------------------ tables


def law(N: float, D: float) -> float:
    return 1.7 + 30 / N**0.3 + 60 / D**0.3


def runs_and_reports() -> list[tuple[CommandRun, Report]]:
    found = []
    for N in (100_000, 200_000, 400_000, 800_000):
        for steps in (2000, 4000, 8000, 16_000):
            run = run_of(N, steps, depth=N // 100_000, kind="007")
            D = 128 * steps
            points = [
                {"S": s, "D": 128 * s, "L": law(N, 128 * s), "lr": 0.01}
                for s in range(steps // 10, steps + 1, steps // 10)
            ]
            final = {"L": law(N, D), "score": 0.5} | ({"note": 'a "b",\nc'} if N > 100_000 else {})
            found.append((run, Report(final, points, step=steps, L_step=steps)))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "mine")
    for run, report in runs_and_reports():
        store.finish(*row_of(run, report, seconds=2.0, device="cpu"))
    failed = run_of(1_600_000, 100, depth=16)
    store.finish(failed_row(failed, "exit code 1\nno such file"), [])
    store.merge()
    return store


def test_a_table_of_commands_has_their_columns_and_no_others(store: Store):
    found = table.read(store.folder)
    assert list(found.columns) == [
        "run_id", "status", "N", "D", "C", "B", "S", "L", "lr_peak", "seconds", "device", "error",
        "command", "lr", "depth", "kind", "note", "score", "tokens",
    ]  # fmt: skip
    assert found["depth"].dtype.kind == "i" and set(found["status"]) == {"ok", "failed"}
    assert found["error"].dropna().tolist() == ["exit code 1\nno such file"]


def test_own_columns_survive_merging_reading_and_retrying(store: Store):
    text = (store.folder / "runs.csv").read_text()
    again = Store(store.folder)
    rows = again.rows()
    first = next(row for row in rows.values() if row["N"] == 200_000)
    assert (first["depth"], first["kind"], first["note"]) == (2, "007", 'a "b",\nc')
    assert first["score"] == 0.5 and "schedule" not in first and first["tag"] == ""
    for path in (store.folder / ".index.json", *store.folder.glob("runs/*/result.json")):
        if path.parent.name[0] in "0123456789.m":  # of some runs, only the row is left
            path.unlink()
    Store(store.folder).merge()
    assert (store.folder / "runs.csv").read_text() == text
    failed = [run_id for run_id, row in rows.items() if row["status"] == "failed"]
    again.forget(failed)
    assert len(Store(store.folder).rows()) == len(rows) - 1
    assert again.rows()[first["run_id"]]["note"] == 'a "b",\nc'


def test_a_stored_result_is_read_back_as_it_was(store: Store):
    run, report = runs_and_reports()[0]
    row, curve, _ = row_of(run, report, seconds=2.0, device="cpu")
    found = parse((store.folder / "runs" / run.run_id / "result.json").read_bytes(), run.run_id)
    assert dict(found.row) == {**row, "tag": ""} and found.curve == curve


def test_an_edited_cell_of_an_own_column_is_reported(store: Store):
    path = store.folder / "runs.csv"
    path.write_text(path.read_text().replace(",007,", ",008,", 1))
    messages: list[str] = []
    again = Store(store.folder)
    again.say = messages.append  # type: ignore[method-assign]
    again.rows()
    assert "kind='008' in the table and '007' as measured" in messages[0]


def test_runs_of_a_command_and_our_own_do_not_mix(store: Store):
    own = RunConfig()
    store.finish(failed_row(own, "boom"), [])
    with pytest.raises(StoreError, match=f"run {own.run_id}.*and of a command.*--results"):
        store.merge()


def test_our_own_tables_have_no_column_for_a_command(tmp_path: Path):
    found = table.ordered([dict(failed_row(RunConfig(), "boom"))])
    assert list(found.columns) == [c.name for c in COLUMNS if c.name != "command"]


def test_a_command_that_says_nothing_of_steps_has_a_result(tmp_path: Path):
    store = Store(tmp_path / "mine")
    run = CommandRun(command=("train", "{N}"), keys={"N": 1000, "tokens": 5000}, N=1000, D=5000)
    store.finish(*row_of(run, Report({"L": 3.0}), seconds=1.0, device=""))
    store.merge()
    row = Store(store.folder).rows()[run.run_id]
    row.check()  # type: ignore[attr-defined]
    assert (row["N"], row["D"], row["B"], row["S"], row["L"]) == (1000, 5000, None, None, 3.0)
    assert "B" not in table.read(store.folder).columns
    assert len(load(store.folder)) == 1


def test_a_law_is_fitted_to_a_table_of_commands(store: Store):
    runs = load(store.folder)
    assert list(runs["status"]).count("ok") == 16
    found = fit("chinchilla", runs, bootstrap=0)
    assert found.predict(N=4e5, D=1e6) == pytest.approx(law(4e5, 1e6), rel=1e-3)


# ------------------------------------------------------------------ while they run


def begin(store: Store, run: CommandRun, points: list[list[float | None]]) -> None:
    folder = store.folder / "runs" / run.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(to_json({"run_id": run.run_id} | recorded(run)))
    progress = {"step": points[-1][0], "curve": points, "tokens_per_second": 1e5}
    (folder / "progress.json").write_text(json.dumps(progress))


def decayed(step: float, steps: int) -> float:
    return 0.01 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2)


def curve_of(N: float, steps: int, end: int) -> list[dict[str, float]]:
    every = steps // 40
    return [
        {"S": s, "D": 128.0 * s, "L": law(N, 128 * s) + 2 * decayed(s, steps),
         "lr": decayed(s, steps)}
        for s in range(every, end + 1, every)
    ]  # fmt: skip


@pytest.fixture
def under_way(tmp_path: Path) -> tuple[Store, CommandRun]:
    store = Store(tmp_path / "mine")
    for steps in (2000, 4000):
        run, points = run_of(200_000, steps), curve_of(200_000, steps, steps)
        report = Report({"L": points[-1]["L"]}, points, step=steps, L_step=steps)
        store.finish(*row_of(run, report, seconds=2.0, device="cpu"))
    open_ = run_of(200_000, 4000, seed=1)
    points = [[int(p["S"]), p["L"], p["lr"]] for p in curve_of(200_000, 4000, 3000)]
    begin(store, open_, points)
    return store, open_


def test_runs_under_way_are_forecast_by_the_learning_rates_that_they_report(
    under_way: tuple[Store, CommandRun],
):
    store, open_ = under_way
    found = run_folders.read(store.folder)
    assert found.open[open_.run_id].config == open_ and found.open[open_.run_id].step == 3000
    (only,) = forecast(store.folder)
    assert only.run == open_.run_id and (only.steps, only.steps_left) == (4000, 1000)
    assert only.loss == pytest.approx(law(200_000, 128 * 4000) + 0.002, rel=0.02)
    assert only.seconds_left == pytest.approx(1000 * 128 / 1e5)


def test_runs_without_learning_rates_are_not_forecast(tmp_path: Path):
    store = Store(tmp_path / "mine")
    run = run_of(200_000, 2000)
    begin(store, run, [[s, law(2e5, 128 * s), None] for s in range(100, 1001, 100)])
    with pytest.raises(TableError, match=r"reports no learning rates.*--lr-schedule"):
        forecast(store.folder)


def test_arms_are_compared_at_the_first_loss_that_they_report_from_a_rung_on(tmp_path: Path):
    store = Store(tmp_path / "mine")
    halving = Halving(store, eta=2.0)
    good, bad = run_of(lr=0.01), run_of(lr=0.08)
    early = [{"S": 20, "L": 5.0}]
    assert halving([(good, early)]) == {} and halving([(bad, early)]) == {}
    assert halving([(good, [*early, {"S": 30, "L": 3.0}])]) == {}
    late = [*early, {"S": 27, "L": 4.0}]
    stopped = halving([(bad, late)])
    assert stopped.keys() == {bad.run_id} and "at step 25" in stopped[bad.run_id]
    assert halving([(bad, late)]).keys() == {bad.run_id}, "the decision is kept"
    later = [*early, {"S": 30, "L": 3.0}, {"S": 40, "L": 2.9}]
    assert halving([(good, later)]) == {}
    assert halving([(good, [*later, {"S": 45, "L": math.nan}])]) == {}


def test_the_hint_for_two_recipes_names_values_that_a_condition_meets(store: Store):
    rates = [0.01, 0.02, 0.04] * 6
    runs = table.read(store.folder).assign(lr=[str(rate) for rate in rates[:17]])
    runs.to_csv(store.folder / "runs.csv", index=False)
    with pytest.raises(ConfigError, match=r"lr in \[0\.01, 0\.02\]"):
        split(load(store.folder), "lr")
    assert set(load(store.folder, where="lr in [0.01, 0.02]")["lr"].astype(float)) == {0.01, 0.02}
