"""Runs of trackers as tables: `scaling import`, and sources in place of tables."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small import call
from tracker_files import (
    BATCH,
    CONTEXT,
    event,
    history,
    ladder,
    law,
    settings,
    write_mlflow_database,
    write_mlflow_run,
    write_wandb_run,
)

from analysis import inspect, load
from analysis.figures import registry
from analysis.importing import wandb_api
from analysis.tables.rows import RowsLeftOut
from analysis.tables.runs_and_curves import load_runs_and_curves
from scaling.errors import TableError

pytestmark = pytest.mark.filterwarnings("always::UserWarning")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An offline project of W&B: nine finished runs, one that crashed, one that diverged and one
    without an end."""
    for start, (id, _, config, rows) in enumerate(ladder()):
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    config = settings(2, 128, 400)
    N = 12 * 2 * 128**2
    rows = history(N, 400)
    write_wandb_run(tmp_path, rows[:6], config, id="crash", start=20, exit_code=1)
    write_wandb_run(tmp_path, rows[:6], config, id="going", start=21, exit_code=None)
    exploded = [{k: "NaN" if "loss" in k else v for k, v in row.items()} for row in rows[6:]]
    write_wandb_run(tmp_path, rows[:6] + exploded, config, id="boom", start=22)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert call(*words) == code
    seen = capsys.readouterr()
    return " ".join((seen.out if code == 0 else seen.err).split())


# ------------------------------------------------------------------ one answer, whichever way


def test_a_project_becomes_a_table_with_every_run_and_its_status(project, tmp_path, capsys):
    out = tmp_path / "o" / "runs.csv"
    text = printed(capsys, "import", f"wandb:{project}", "--out", str(out))
    assert "12 runs (9 ok" in text and "1 diverged" in text and "1 unfinished" in text
    table = pd.read_csv(out).set_index("run_id")
    assert table["status"].value_counts().to_dict() == {
        "ok": 9, "failed": 1, "unfinished": 1, "diverged": 1
    }  # fmt: skip
    for id, N, _, rows in ladder():
        D = rows[-1]["_step"] * BATCH * CONTEXT
        assert table.loc[id, "N"] == N and table.loc[id, "D"] == D
        assert table.loc[id, "L"] == pytest.approx(law(N, D), rel=1e-12)
        assert table.loc[id, "C"] == pytest.approx(6 * N * D) and table.loc[id, "lr_peak"] == 3e-3
    assert math.isnan(table.loc["boom", "L"])
    curves = pd.read_parquet(out.with_name("runs.curves.parquet"))
    assert (curves.groupby("run_id").size().loc[[id for id, *_ in ladder()]] == 4).all()
    assert (curves["D"] == curves["S"] * BATCH * CONTEXT).all() and "lr" in curves.columns


def test_a_source_its_table_and_the_printed_map_give_the_same_rows(project, tmp_path, capsys):
    source = f"wandb:{project}"
    direct = load(source)
    for name in ("runs.csv", "runs.parquet", "runs.jsonl", "runs.tsv"):
        assert call("import", source, "--out", str(tmp_path / "o" / name)) == 0
        table = load(tmp_path / "o" / name)
        a, b = (t[t["status"] == "ok"].set_index("run_id").sort_index() for t in (direct, table))
        pd.testing.assert_frame_equal(a[["N", "D", "C", "L"]], b[["N", "D", "C", "L"]],
                                      check_exact=False, rtol=1e-9)  # fmt: skip
        assert direct.attrs["unfinished"] == table.attrs["unfinished"]
    record = json.loads((tmp_path / "o" / "runs.import.json").read_text())
    again = load(source, map=record["map"])
    pd.testing.assert_frame_equal(
        again[["N", "D", "L", "S", "B"]], direct[["N", "D", "L", "S", "B"]]
    )
    assert record["source"] == source and record["option"].startswith("--map ")
    assert record["map"]["val/loss"] == "L" and record["map"]["tokens_seen"] == "D"


def test_the_curves_of_a_table_are_found_beside_it(project, tmp_path):
    out = tmp_path / "o" / "sizes.csv"
    assert call("import", f"wandb:{project}", "--out", str(out)) == 0
    of_source, of_table = (load(path, curves=True) for path in (f"wandb:{project}", out))
    for curves in (of_source, of_table):
        used = curves[curves["status"] == "ok"]
        assert len(used) == 36 and used["run_id"].nunique() == 9
        assert np.allclose(
            used["L"], [law(N, D) for N, D in zip(used["N"], used["D"], strict=True)]
        )
    assert len(load(out.parent)) == len(load(out))  # the files beside it are no tables


@pytest.mark.parametrize("command", ["fit", "frontier", "summary"])
def test_commands_take_a_source(project, command, capsys, monkeypatch):
    monkeypatch.chdir(project)
    few = ["--bootstrap", "20"] if command != "summary" else []
    text = printed(capsys, command, "wandb:wandb", *few)
    assert "chinchilla" in text or "frontier" in text or "train" in text


def test_what_was_guessed_is_printed_once(project, capsys):
    assert call("fit", f"wandb:{project}", "--bootstrap", "0") == 0
    err = capsys.readouterr().err
    assert err.count("taken as by --map") == 1 and "val/loss=L" in err


# ------------------------------------------------------------------ which row of a run


def test_the_best_row_and_the_row_at_given_tokens(project, tmp_path, capsys):
    tokens = 5_000_000
    out = tmp_path / "o" / "runs.csv"
    text = printed(capsys, "import", f"wandb:{project}", "--out", str(out), "--rows", "at=5M")
    assert "interpolated" in text
    table = pd.read_csv(out)
    ok = table[table["status"] == "ok"]
    assert len(ok) == 3 and (ok["D"] == tokens).all()  # those of 400 steps: 6.6M and 3.3M tokens
    assert np.allclose(ok["L"], [law(N, tokens) for N in ok["N"]], rtol=0.02)
    best = load(f"wandb:{project}", rows="best")
    last = load(f"wandb:{project}")
    key = best["status"] == "ok"
    merged = best[key].merge(last, on="run_id")
    assert (merged["L_x"] <= merged["L_y"]).all()
    with pytest.raises(ValueError, match="at=2B"):
        load(f"wandb:{project}", rows="at=-1")


def test_several_test_sets_are_refused_named_or_all_at_once(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        two = [
            {**{k: v for k, v in row.items() if k != "val/loss"},
             **({"val/c4/loss": row["val/loss"], "val/wiki/loss": row["val/loss"] + 1}
                if "val/loss" in row else {})}
            for row in rows
        ]  # fmt: skip
        write_wandb_run(tmp_path, two, config, id=id, start=start)
    source, out = f"wandb:{tmp_path}", tmp_path / "o" / "runs.csv"
    text = printed(capsys, "import", source, "--out", str(out), code=2)
    assert "'val/c4/loss' (" in text and "'val/wiki/loss' (" in text and " in 9 runs)" in text
    assert "--map val/c4/loss=L" in text and not out.parent.exists()
    assert call("import", source, "--out", str(out), "--loss", "val/wiki/loss") == 0
    one = pd.read_csv(out)
    text = printed(capsys, "import", source, "--out", str(out), "--loss", "all")
    assert "18 losses of 9 runs" in text
    both = pd.read_csv(out)
    assert both["test_set"].value_counts().to_dict() == {"val/c4/loss": 9, "val/wiki/loss": 9}
    of_wiki = both[both["test_set"] == "val/wiki/loss"].set_index("run_id")["L"]
    assert (of_wiki == one.set_index("run_id")["L"]).all()
    assert "test_set == " in printed(capsys, "fit", str(out), code=2)
    runs, curves = load_runs_and_curves(out, where="test_set == 'val/wiki/loss'")
    assert len(runs) == 9 and len(curves) == 36 and (curves["L"] > one["L"].min() - 1e-9).all()
    found = inspect(source)
    assert "'val/wiki/loss' (" in found.missing["L"] and not found.laws and not found.figures
    assert {each.name for each in found.columns} >= {"val/c4/loss", "val/wiki/loss"}
    assert call("inspect", source, "--map", "val/wiki/loss=L") == 0
    assert "chinchilla" in inspect(source, map={"val/wiki/loss": "L"}).laws


# ------------------------------------------------------------------ duplicated and resumed runs


def test_a_copied_and_a_resumed_run_are_one_run_each(tmp_path, capsys):
    runs = list(ladder())
    for start, (id, _, config, rows) in enumerate(runs):
        write_wandb_run(tmp_path / "a", rows, config, id=id, start=start)
    id, _, config, rows = runs[0]
    write_wandb_run(tmp_path / "copy", rows, config, id=id, start=0)
    id, N, config, rows = (
        "half",
        12 * 2 * 128**2,
        settings(2, 128, 800),
        history(12 * 2 * 128**2, 800),
    )
    write_wandb_run(tmp_path / "b", rows[:7], config, id=id, start=50, exit_code=1)
    places = sorted({row["_step"] for row in rows[5:]})  # W&B counts from 0 again
    again = [{**row, "_step": places.index(row["_step"])} for row in rows[5:]]
    write_wandb_run(tmp_path / "c", again, config, id=id, start=60)
    write_wandb_run(tmp_path / "b", rows[:7], config, id="back", start=70, exit_code=1)
    write_wandb_run(tmp_path / "c", rows[5:], config, id="back", start=80)  # from a checkpoint
    table = load(f"wandb:{tmp_path}")
    assert table["run_id"].is_unique and len(table) == 11
    D = 800 * BATCH * CONTEXT
    for half in ("half", "back"):
        (row,) = table[table["run_id"] == half].to_dict("records")
        assert row["status"] == "ok" and row["D"] == D and row["L"] == pytest.approx(law(N, D))
    assert row["S"] == 800 and row["B"] == BATCH * CONTEXT
    assert call("fit", f"wandb:{tmp_path}", "--bootstrap", "0") == 0
    err = capsys.readouterr().err
    assert "1 copy of a run is left out" in err and "2 runs were resumed under the same id" in err


def test_a_run_that_continues_another_is_joined_to_it(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    N = 12 * 2 * 128**2
    rows = history(N, 800)
    write_wandb_run(tmp_path, rows[:6], settings(2, 128, 800), id="p1", start=50, exit_code=1)
    config = settings(2, 128, 800) | {"resumed_from": "p1"}
    write_wandb_run(tmp_path, rows[6:], config, id="p2", start=60)
    lost = settings(2, 128, 800) | {"resumed_from": "elsewhere"}
    write_wandb_run(tmp_path, rows, lost, id="p3", start=70)
    curves = load(f"wandb:{tmp_path}", curves=True)
    assert "p1" not in set(curves["run_id"])
    assert len(curves[curves["run_id"] == "p2"]) == 4
    assert call("fit", f"wandb:{tmp_path}", "--bootstrap", "0") == 0
    err = capsys.readouterr().err
    assert "1 run continues another" in err and "elsewhere" not in err and "p3" in err


# ------------------------------------------------------------------ sizes, tokens and units


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


def test_tokens_are_steps_times_batch_times_context_if_nobody_counts_them(tmp_path):
    for start, (id, _, config, rows) in enumerate(ladder()):
        write_wandb_run(tmp_path, without(rows, "tokens_seen"), config, id=id, start=start)
    table = load(f"wandb:{tmp_path}")
    assert (table["D"] == table["S"] * BATCH * CONTEXT).all()


def test_a_batch_of_one_device_is_multiplied_or_asked_about(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        config = config | {"gradient_accumulation_steps": 4}
        write_wandb_run(tmp_path / "a", without(rows, "tokens_seen"), config, id=id, start=start)
        config["per_device_train_batch_size"] = config.pop("batch_size")
        config["world_size"] = 2
        write_wandb_run(tmp_path / "b", without(rows, "tokens_seen"), config, id=id, start=start)
    text = printed(capsys, "fit", f"wandb:{tmp_path / 'a'}", code=2)
    assert (
        "tokens per step may be" in text
        and "batch_size*gradient_accumulation_steps*seq_len=B" in text
    )
    table = load(f"wandb:{tmp_path / 'b'}")
    assert (table["D"] == table["S"] * BATCH * CONTEXT * 8).all()


def test_steps_that_count_from_zero_do_not_split_runs(tmp_path):
    for start, (id, _, config, rows) in enumerate(ladder()):
        del config["batch_size"]
        rows = [{**row, "_step": row["_step"] - 1} for row in rows]
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    runs, curves = load_runs_and_curves(f"wandb:{tmp_path}")
    assert curves is not None and len(curves) == 36 and set(curves["run_id"]) == set(runs["run_id"])
    table = curves[["run_id", "S", "D", "N", "L"]]
    assert len(load(table, rows="last")) == 9 and len(load(table, rows="best")) == 9


@pytest.mark.parametrize("name", ["lr", "learning_rate"])
def test_a_learning_rate_that_only_the_history_has_does_not_split_runs(tmp_path, name):
    for start, (id, _, config, rows) in enumerate(ladder()):
        del config["lr"]
        rows = [{k: v for k, v in row.items() if k != "lr"} for row in rows]
        rows = [{**row, name: 3e-3 * 0.9**k} for k, row in enumerate(rows)]
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    runs, curves = load_runs_and_curves(f"wandb:{tmp_path}")
    assert curves is not None and len(curves) == 36 and set(curves["run_id"]) == set(runs["run_id"])
    assert set(runs["lr_peak"]) == set(curves["lr_peak"]) == {3e-3}
    assert curves.groupby("run_id")["lr"].nunique().eq(4).all()
    out = tmp_path / "o" / "runs.csv"
    assert call("import", f"wandb:{tmp_path}", "--out", str(out)) == 0
    points = pd.read_parquet(out.with_name("runs.curves.parquet"))
    assert points.groupby("run_id")["lr"].nunique().eq(4).all() and "lr_peak" not in points


def test_written_numbers_perplexities_and_planned_tokens(tmp_path, capsys):
    for start, (id, N, config, rows) in enumerate(ladder()):
        D = rows[-1]["_step"] * BATCH * CONTEXT
        config = {"params": f"{N / 1e6:.6f}M", "train_tokens": f"{D / 1e6}M"}
        rows = [{"_step": r["_step"], "val/ppl": math.exp(r["val/loss"])}
                for r in rows if "val/loss" in r]  # fmt: skip
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    table = load(f"wandb:{tmp_path}").set_index("run_id")
    for id, N, _, rows in ladder():
        D = rows[-1]["_step"] * BATCH * CONTEXT
        assert table.loc[id, "L"] == pytest.approx(law(N, D))
        assert table.loc[id, "N"] == pytest.approx(N) and table.loc[id, "D"] == pytest.approx(D)
    curves = load(f"wandb:{tmp_path}", curves=True)
    assert np.allclose(curves["D"], curves["S"] * BATCH * CONTEXT)
    assert call("fit", f"wandb:{tmp_path}", "--bootstrap", "0") == 0
    assert "is a perplexity" in capsys.readouterr().err


def test_parameters_are_counted_from_the_shapes_of_other_frameworks(tmp_path, monkeypatch):
    for start, (id, _, config, rows) in enumerate(ladder()):
        config = {"arch": f"{config['n_layer']}-{config['d_model']}", "seq_len": CONTEXT}
        write_wandb_run(tmp_path, rows, config, id=id, start=start)

    def counted(row: Any) -> tuple[float, str]:
        n_layer, d_model = map(int, row["arch"].split("-"))
        return 12.0 * n_layer * d_model**2, "12 n d^2"

    monkeypatch.setattr("analysis.importing.choose.count_from_shapes", counted)
    table = load(f"wandb:{tmp_path}").set_index("run_id")
    assert all(table.loc[id, "N"] == N for id, N, *_ in ladder())
    write_wandb_run(tmp_path, [], {"arch": "?"}, id="early", start=30, exit_code=1)
    monkeypatch.setattr(
        "analysis.importing.choose.count_from_shapes",
        lambda row: None if row["arch"] == "?" else counted(row),
    )
    again = load(f"wandb:{tmp_path}").set_index("run_id").loc[table.index, "N"]
    assert (again == table["N"]).all()  # a run that failed before it began does not hide the count
    curves = load(f"wandb:{tmp_path}", curves=True)
    assert set(curves["N"]) == set(table["N"])


# ------------------------------------------------------------------ the other trackers


def test_a_file_store_of_mlflow(tmp_path):
    for id, _, config, rows in ladder():
        metrics = {
            name: {r["_step"]: r[name] for r in rows if name in r}
            for name in ("val_loss", "tokens_seen", "val/loss")
            if any(name in r for r in rows)
        }
        write_mlflow_run(tmp_path, metrics, config, id=id)
    write_mlflow_run(tmp_path, metrics, config, id="gone", stage="deleted")
    write_mlflow_run(tmp_path, metrics, config, id="killed", status=5)
    table = load(f"mlflow:{tmp_path / 'mlruns'}")
    assert set(table["experiment"]) == {"sizes"} and len(table) == 10
    assert table.set_index("run_id").loc["killed", "status"] == "failed"
    check_ladder(table)


@pytest.mark.parametrize("form", ["sqlite:///{}", "{}"])
def test_a_database_of_mlflow(tmp_path, form, capsys):
    path = tmp_path / "m.db"
    runs = {
        id: ("FINISHED", config,
             {name: {r["_step"]: r[name] for r in rows if name in r}
              for name in ("val/loss", "tokens_seen")})
        for id, _, config, rows in ladder()
    }  # fmt: skip
    write_mlflow_database(path, runs | {"on": ("RUNNING", {}, {"val/loss": {1: 3.0}})})
    text = printed(capsys, "fit", f"mlflow:{form.format(path)}", "--bootstrap", "0")
    assert "chinchilla" in text
    check_ladder(load(f"mlflow:{form.format(path)}"))


def test_sizes_in_the_names_of_runs_are_offered(tmp_path, capsys):
    for number, N in enumerate((0.8, 3.2, 12.5)):
        points = [event(s, "val/loss", 4.0 - N / 9 - s / 900) + event(s, "tokens", 1e4 * s)
                  for s in (10, 20)]  # fmt: skip
        place = tmp_path / f"gpt-{N}k-s{number}"
        place.mkdir()
        (place / "events.out.tfevents.1").write_bytes(b"".join(points))
    option = "{run:([0-9.]+[kKmMbB])(?![A-Za-z])}=N"
    text = refused(capsys, tmp_path / "o" / "runs.csv", f"tensorboard:{tmp_path}")
    assert "Is N in 'run', as in 'gpt-0.8k-s0'?" in text and f"--map '{option}'" in text
    assert call("fit", f"tensorboard:{tmp_path}") == 2 and option in capsys.readouterr().err
    assert option in inspect(f"tensorboard:{tmp_path}").text(1000)
    names = {"{run:([0-9.]+[kMB])}": "N"}
    assert list(load(f"tensorboard:{tmp_path}", map=names)["N"]) == [800, 12500, 3200]


def test_event_files_of_tensorboard_with_a_folder_per_split(tmp_path):
    for id, _, config, rows in ladder():
        for split, metric in (("train", "train/loss"), ("val", "val/loss")):
            folder = tmp_path / id / split
            folder.mkdir(parents=True)
            events = [event(r["_step"], "loss", r[metric]) for r in rows if metric in r]
            (folder / "events.out.tfevents.1").write_bytes(b"".join(events))
        events = [event(r["_step"], "tokens", r["tokens_seen"]) for r in rows if "tokens_seen" in r]
        (tmp_path / id / "events.out.tfevents.0").write_bytes(b"".join(events))
        lines = "".join(f"{name}: {value}\n" for name, value in config.items())
        (tmp_path / id / "hparams.yaml").write_text(lines)
    check_ladder(load(f"tensorboard:{tmp_path}"), rel=1e-5)


def check_ladder(table: pd.DataFrame, rel: float = 1e-12) -> None:
    found = table.set_index("run_id")
    for id, N, _, rows in ladder():
        D = rows[-1]["_step"] * BATCH * CONTEXT
        assert found.loc[id, "N"] == N and found.loc[id, "D"] == pytest.approx(D, rel=rel)
        assert found.loc[id, "L"] == pytest.approx(law(N, D), rel=rel)


class FakeRun(types.SimpleNamespace):
    def scan_history(self) -> list[dict[str, Any]]:
        return self.rows


def fake_wandb(monkeypatch: pytest.MonkeyPatch, runs: Callable[[str], Any]) -> None:
    module = types.ModuleType("wandb")
    module.Api = lambda: types.SimpleNamespace(runs=runs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(wandb_api.extras, "installed", lambda name: True)


def test_a_project_on_the_server_of_wandb(monkeypatch, capsys):
    found = [
        FakeRun(id=id, name=id, state="finished", config=config, summary={"_step": 3},
                rows=[{**r, "_runtime": 1.0} for r in rows], created_at="2026-01-01T00:00:00Z")
        for id, _, config, rows in ladder()
    ]  # fmt: skip
    found.append(FakeRun(id="x", name="x", state="crashed", config={}, summary={}, rows=[]))
    fake_wandb(monkeypatch, lambda place: found)
    text = printed(capsys, "fit", "wandb:lab/sizes", "--bootstrap", "0")
    assert "9 of 10 rows" in text and "1 crashed" in text
    check_ladder(load("wandb:lab/sizes"))


def test_what_is_made_of_a_source_lies_in_the_current_folder(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "proj"
    for start, (id, _, config, rows) in enumerate(ladder()):
        write_wandb_run(runs, rows, config, id=id, start=start)
    monkeypatch.chdir(tmp_path)
    kept = {name: registry.FIGURES[name] for name in ("frontier",)}
    monkeypatch.setattr(registry, "FIGURES", kept)
    printed(capsys, "report", "wandb:proj")
    printed(capsys, "figure", "frontier", "wandb:proj")
    printed(capsys, "plan", "wandb:proj", "--flops", "1e16", "--record", "next")
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*")}
    assert made == {"proj", "wandb-proj.html", "figures", "plans"}
    assert (tmp_path / "plans" / "next.json").is_file()
    assert "Parameters" in (tmp_path / "wandb-proj.html").read_text()


def test_a_source_is_inspected_with_its_curves(project, capsys):
    text = printed(capsys, "inspect", f"wandb:{project}")
    assert "val/loss L" in text and "frontiers by: envelope" in text


def test_unfinished_runs_of_a_source_are_forecast(project, capsys):
    text = printed(capsys, "forecast", f"wandb:{project}")
    assert "1 running" in text and "9 finished" in text and "going" in text


# ------------------------------------------------------------------ bad input


def refused(capsys: pytest.CaptureFixture[str], out: Path, source: str, *more: str) -> str:
    """Return the one message of an import that is refused, and has written nothing."""
    before = sorted(out.parent.rglob("*")) if out.parent.exists() else []
    assert call("import", source, "--out", str(out), *more) == 2
    assert (sorted(out.parent.rglob("*")) if out.parent.exists() else []) == before
    lines = [
        line for line in capsys.readouterr().err.splitlines()
        if not line.startswith(("scaling: note", "scaling: reading", "scaling: running"))
    ]  # fmt: skip
    assert len(lines) == 1 and "Traceback" not in lines[0]
    return lines[0]


def test_a_missing_package_or_key_is_named(tmp_path, monkeypatch, capsys):
    out = tmp_path / "runs.csv"
    monkeypatch.setattr(wandb_api.extras, "installed", lambda name: False)
    text = refused(capsys, out, "wandb:lab/sizes2")
    assert "pip install 'scaling-laws-lab[wandb]'" in text

    def no_key(place: str) -> None:
        raise RuntimeError("api_key not configured (no-tty). call wandb.login(key=...)")

    fake_wandb(monkeypatch, no_key)
    text = refused(capsys, out, "wandb:lab/sizes2")
    assert "wandb login" in text and "WANDB_API_KEY" in text


def test_a_source_that_is_not_there_is_named(tmp_path, capsys):
    out = tmp_path / "runs.csv"
    assert "does not exist" in refused(capsys, out, "mlflow:nowhere")
    assert "server of mlflow is not read" in refused(capsys, out, "mlflow:http://host:5000")
    (tmp_path / "empty").mkdir()
    text = refused(capsys, out, f"tensorboard:{tmp_path / 'empty'}")
    assert "holds no event file of TensorBoard" in text
    assert ".parquet" in refused(capsys, tmp_path / "runs.pdf", "wandb:x")
    assert call("import", "wandb:x") == 2 and "--out" in capsys.readouterr().err
    (tmp_path / "t.csv").write_text("N,D,L\n1e6,1e8,3\n")
    assert call("fit", "mlflow:x", str(tmp_path / "t.csv")) == 2
    assert "scaling import mlflow:x" in capsys.readouterr().err


def test_a_project_without_a_finished_run_or_a_loss_is_refused(tmp_path, capsys):
    out = tmp_path / "o" / "runs.csv"
    for start, (id, _, config, rows) in enumerate(ladder()):
        write_wandb_run(tmp_path / "a", rows, config, id=id, start=start, exit_code=None)
        write_wandb_run(tmp_path / "b", rows, config, id=id, start=start, exit_code=3)
        write_wandb_run(tmp_path / "c", without(rows, "val/loss", "train/loss"), config, id=id,
                        start=start)  # fmt: skip
        write_wandb_run(tmp_path / "d", [], config, id=id, start=start)
    assert "no run has finished (9 unfinished)" in refused(capsys, out, f"wandb:{tmp_path / 'a'}")
    assert "no run has finished (9 failed)" in refused(capsys, out, f"wandb:{tmp_path / 'b'}")
    text = refused(capsys, out, f"wandb:{tmp_path / 'c'}")
    assert "called a loss" in text and "tokens_seen (1.31e+07 to 2.1e+08 in 9 runs)" in text
    assert "has logged a number" in refused(capsys, out, f"wandb:{tmp_path / 'd'}")
    assert call("fit", f"wandb:{tmp_path / 'a'}") == 2
    assert "no run has finished (9 unfinished)" in capsys.readouterr().err


def test_damaged_files_are_typed_and_named(project, tmp_path, capsys):
    (project / "wandb" / "run-gone.wandb").write_bytes(b"")
    path = next(project.rglob("run-r8x512s6400.wandb"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    out = tmp_path / "o" / "runs.csv"
    assert call("import", f"wandb:{project}", "--out", str(out)) == 0
    seen = capsys.readouterr()
    assert "13 runs (9 ok" in seen.out and "1 unreadable" in seen.out
    assert "2 files are damaged (first: gone: run-gone.wandb" in " ".join(seen.err.split())
    table = pd.read_csv(out).set_index("run_id")
    assert table.loc["gone", "status"] == "unreadable"
    assert table.loc["r8x512s6400", "problem"] == "1 damaged record left out"
    (id, N, _, rows) = [*ladder()][-1]
    assert table.loc[id, "L"] == pytest.approx(law(N, rows[-1]["_step"] * BATCH * CONTEXT))
    assert "1 unreadable" in printed(capsys, "inspect", f"wandb:{project}")


def test_a_project_without_a_loss_is_inspected(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        rows = without(rows, "val/loss", "train/loss")
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    text = printed(capsys, "inspect", f"wandb:{tmp_path}")
    assert "tokens_seen D" in text and "L: no metric of 9 runs is called a loss" in text
    assert "tokens_seen=L" not in text and "scaling fit" not in text
    with pytest.raises(TableError, match="does not exist"):
        inspect(f"wandb:{tmp_path / 'nowhere'}")


def test_mixed_vocabularies_are_refused_and_one_can_be_chosen(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        config["vocab_size"] = 50257 if start % 2 else 32000
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
    text = refused(capsys, tmp_path / "o" / "runs.csv", f"wandb:{tmp_path}")
    assert "32000 (5 runs)" in text and "50257 (4 runs)" in text and "vocab_size ==" in text
    assert call("fit", f"wandb:{tmp_path}", "--bootstrap", "0") == 2
    runs, curves = load_runs_and_curves(f"wandb:{tmp_path}", where="vocab_size == 32000")
    assert len(runs) == 5 and len(curves) == 20 and set(curves["run_id"]) == set(runs["run_id"])
    found = inspect(f"wandb:{tmp_path}")
    assert found.remedy == "--where 'vocab_size == 32000'" and "kaplan_ND" in found.laws
    assert "50257 (4 runs)" in found.missing["table"] and found.remedy in found.text()


def test_tokens_that_count_sequences_are_refused(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        config.pop("batch_size")
        counted = [
            {("consumed_samples" if k == "tokens_seen" else k):
             (v // CONTEXT if k == "tokens_seen" else v) for k, v in row.items()}
            for row in rows
        ]  # fmt: skip
        write_wandb_run(tmp_path / "a", counted, config, id=id, start=start)
        wrong = [
            {k: v // CONTEXT if k == "tokens_seen" else v for k, v in row.items()} for row in rows
        ]
        config["batch_size"] = BATCH
        write_wandb_run(tmp_path / "b", wrong, config, id=id, start=start)
    text = refused(capsys, tmp_path / "o" / "runs.csv", f"wandb:{tmp_path / 'a'}")
    assert "counts sequences" in text and "consumed_samples*seq_len=D" in text
    text = refused(capsys, tmp_path / "o" / "runs.csv", f"wandb:{tmp_path / 'b'}")
    assert "counts sequences" in text and "tokens_seen*seq_len=D" in text
    table = load(f"wandb:{tmp_path / 'b'}", map={"tokens_seen*seq_len": "D"})
    assert (table["D"] == table["S"] * BATCH * CONTEXT).all()


def test_calls_of_log_are_not_taken_for_steps(tmp_path, capsys):
    for start, (id, _, config, rows) in enumerate(ladder()):
        steps = [r["_step"] for r in rows if "val/loss" in r]
        rows = [{"val/loss": r["val/loss"]} for r in rows if "val/loss" in r]
        write_wandb_run(tmp_path, rows, config, id=id, start=start)
        assert steps
    text = refused(capsys, tmp_path / "o" / "runs.csv", f"wandb:{tmp_path}")
    assert "calls of log()" in text and "*step=S" in text


def test_a_table_is_imported_too(tmp_path, capsys):
    rows = [{"params": N, "tokens": 1e8, "loss": law(N, 1e8), "state": "finished"}
            for N in (1e6, 2e6, 4e6)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
    out = tmp_path / "runs.parquet"
    assert "3 runs" in printed(capsys, "import", str(tmp_path / "x.csv"), "--out", str(out))
    assert {"N", "D", "L", "C"} <= set(pd.read_parquet(out).columns)


def test_rows_left_out_are_counted(project):
    with pytest.warns(RowsLeftOut, match="1 unfinished"):
        table = load(f"wandb:{project}")
    assert table.attrs["left_out"] == {"unfinished": 1}
    with pytest.raises(TableError, match="no run has a metric 'nope'"):
        load(f"wandb:{project}", loss="nope")


# ------------------------------------------------------------------ the packages themselves


@pytest.mark.filterwarnings("ignore")
def test_runs_that_wandb_wrote_are_imported(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for id, _, config, rows in list(ladder())[::2]:
        run = wandb.init(project="x", mode="offline", dir=str(tmp_path), config=config, id=id)
        for row in rows:
            run.log({k: v for k, v in row.items() if k != "_step"}, step=row["_step"])
        run.finish()
    id, N, config, rows = [*ladder()][1]
    for part, code in ((rows[:-2], 1), (rows[-4:], 0)):  # resumed from a checkpoint
        run = wandb.init(project="x", mode="offline", dir=str(tmp_path), config=config, id=id,
                         resume="allow")  # fmt: skip
        for row in part:
            run.log({k: v for k, v in row.items() if k != "_step"}, step=row["_step"])
        run.finish(exit_code=code)
    run = wandb.init(project="x", mode="offline", dir=str(tmp_path), config=config, id="crash")
    run.log({"val/loss": 5.0, "tokens_seen": 1e7}, step=100)
    run.finish(exit_code=1)
    wandb.teardown()  # finish() may return before all is on the disk
    text = printed(capsys, "import", f"wandb:{tmp_path}", "--out", str(tmp_path / "runs.csv"))
    assert "7 runs (6 ok, 1 failed)" in text
    table = pd.read_csv(tmp_path / "runs.csv").set_index("run_id")
    assert "problem" not in table  # all checksums are as they are written
    assert table.loc[id, "S"] == rows[-1]["_step"]
    assert table.loc[id, "L"] == pytest.approx(law(N, rows[-1]["_step"] * BATCH * CONTEXT))
    for id, N, _, rows in list(ladder())[::2]:
        assert table.loc[id, "L"] == pytest.approx(law(N, rows[-1]["_step"] * BATCH * CONTEXT))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_runs_that_mlflow_wrote_are_imported(tmp_path, kind, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    store = tmp_path / ("m.db" if kind == "sqlite" else "mlruns")
    mlflow.set_tracking_uri(f"sqlite:///{store}" if kind == "sqlite" else store.as_uri())
    mlflow.set_experiment("sizes")
    for id, _, config, rows in list(ladder())[:2]:
        with mlflow.start_run(run_name=id):
            mlflow.log_params(config)
            for row in rows:
                step = row["_step"]
                mlflow.log_metrics({k: v for k, v in row.items() if k != "_step"}, step=step)
    old = mlflow.create_experiment("old")
    with mlflow.start_run(experiment_id=old):
        mlflow.log_metrics({"val/loss": 9.0}, step=1)
    mlflow.delete_experiment(old)
    table = load(f"mlflow:{store}").set_index("name")
    assert (
        len(table) == 2 and set(table["status"]) == {"ok"} and set(table["experiment"]) == {"sizes"}
    )
    for id, N, _, rows in list(ladder())[:2]:
        assert table.loc[id, "L"] == pytest.approx(law(N, rows[-1]["_step"] * BATCH * CONTEXT))


@pytest.mark.filterwarnings("ignore")
def test_runs_that_tensorboard_wrote_are_imported(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    torch_board = pytest.importorskip("torch.utils.tensorboard", reason="it needs PyTorch")
    for id, _, config, rows in list(ladder())[:2]:
        writer = torch_board.SummaryWriter(str(tmp_path / id))
        for row in rows:
            for name, value in row.items():
                if name != "_step":
                    writer.add_scalar(name, value, row["_step"])
        writer.add_hparams(config, {"hparam/final": 1.0})
        writer.close()
    table = load(f"tensorboard:{tmp_path}").set_index("run_id")
    for id, N, _, rows in list(ladder())[:2]:
        D = rows[-1]["_step"] * BATCH * CONTEXT
        assert table.loc[id, "L"] == pytest.approx(law(N, D), rel=1e-5)
        assert table.loc[id, "N"] == N and table.loc[id, "D"] == pytest.approx(D, rel=1e-5)
