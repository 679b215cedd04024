"""Every command uses the same rows of a table, and none gives a traceback for a bad one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import call

from analysis import figures
from scaling.table import write

N, D = (x.ravel() for x in np.meshgrid([1e7, 3e7, 1e8, 3e8], [1e9, 3e9, 1e10, 3e10], indexing="ij"))
LOSS = (1.8 + 400 * N**-0.34 + 1500 * D**-0.36) * np.exp(0.003 * np.sin(np.arange(16) ** 2))
GOOD = pd.DataFrame({"run_id": [f"r{i}" for i in range(16)], "N": N, "D": D, "L": LOSS})

QUICK = {
    "fit": ("--bootstrap", "20"),
    "validate": ("--bootstrap", "20", "--against", "kaplan_ND"),
    "frontier": ("--method", "parametric", "--bootstrap", "20"),
    "plan": ("--flops", "1e21", "--law", "chinchilla"),
    "design": ("--budget", "1e21", "--bootstrap", "20"),
}


def curves(runs: pd.DataFrame, points: int = 4) -> pd.DataFrame:
    """Return evaluations of each run, the last of which is its row."""
    parts = [
        runs.assign(D=runs["D"] * k / points, L=runs["L"] * (k / points) ** -0.03)
        for k in range(1, points + 1)
    ]
    return pd.concat(parts, ignore_index=True)


def messy() -> pd.DataFrame:
    table = GOOD.assign(state="finished")
    table.loc[[0, 4], "state"] = "Crashed", "running"
    table.loc[7, "L"] = np.nan
    return pd.concat([table, table.iloc[8:12]], ignore_index=True)


def resumed() -> pd.DataFrame:
    early = GOOD.iloc[[3, 8]].assign(D=lambda t: t["D"] / 3, L=lambda t: t["L"] * 1.1)
    return pd.concat([early, GOOD.iloc[[5]].assign(L=9.0), GOOD], ignore_index=True)


TABLES = {
    "messy": (messy(), 13, "13 finished runs; left out: 1 crashed, 1 running, 4 exact duplicates, "
              "1 without a loss"),
    "resumed": (resumed(), 16, "16 runs; left out: 1 written again by a resumed run, 2 earlier"),
    "curves": (curves(GOOD), 16, "16 runs; left out: 48 earlier evaluations of their runs"),
    "few curves": (curves(GOOD.iloc[::2]), 32, "32 evaluations of 8 runs"),
}  # fmt: skip


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each fit."""
    module = sys.modules["analysis.fitting.fit"]
    found: list[int] = []
    original = module.usable_rows

    def counted(*arguments):
        rows = original(*arguments)
        found.append(len(rows[0]))
        return rows

    monkeypatch.setattr(module, "usable_rows", counted)
    return found


@pytest.mark.parametrize("name", list(TABLES))
def test_every_command_uses_the_same_rows_and_states_them_once(
    name: str, fitted: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table, n, line = TABLES[name]
    table.to_csv(tmp_path / "runs.csv", index=False)
    for command, options in QUICK.items():
        fitted.clear()
        code = call(command, tmp_path / "runs.csv", *options)
        error = capsys.readouterr().err
        assert code == 0 and max(fitted) == n, (command, error)
        assert error.count(line) == 1 and error.count("left out") <= 1, error


def test_all_evaluations_may_be_asked_for(fitted: list[int], tmp_path: Path, capsys):
    curves(GOOD).to_csv(tmp_path / "runs.csv", index=False)
    for command, options in QUICK.items():
        fitted.clear()
        assert call(command, tmp_path / "runs.csv", *options, "--rows", "all") == 0
        assert max(fitted) == 64, command
    assert "64 evaluations of 16 runs" in capsys.readouterr().err


def test_a_results_folder_and_its_table_of_curves_give_the_same_rows(sweep, fitted, tmp_path):
    runs, points = sweep()
    runs.loc[3, ["status", "L"]] = "diverged", np.nan
    write(tmp_path, runs.to_dict("records"), points.to_dict("records"))
    assert call("frontier", tmp_path, "--method", "parametric", "--bootstrap", "20") == 0
    frontier_rows = max(fitted)
    fitted.clear()
    assert call("fit", tmp_path, "--bootstrap", "20") == 0
    assert frontier_rows == max(fitted) == 29


@pytest.mark.parametrize("command", list(QUICK))
def test_where_map_and_strict_are_taken_by_every_command(command, fitted, tmp_path, capsys):
    table = GOOD.rename(columns={"N": "params", "D": "tokens", "L": "loss"})
    table.loc[0, "tokens"] = 0
    table.to_csv(tmp_path / "runs.csv", index=False)
    mapped = ("--map", "params=N,tokens=D,loss=L", *QUICK[command])
    assert call(command, tmp_path / "runs.csv", *mapped) == 2
    assert 'Leave such rows out with --where "D > 0"' in capsys.readouterr().err
    assert call(command, tmp_path / "runs.csv", *mapped, "--where", "D > 0") == 0
    assert max(fitted) == 15
    table.loc[0, "loss"] = np.nan
    table.assign(tokens=GOOD["D"]).to_csv(tmp_path / "runs.csv", index=False)
    assert call(command, tmp_path / "runs.csv", *mapped, "--strict") == 2
    assert "Leave such rows out with --where" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::analysis.tables.rows.RowsLeftOut")
def test_figures_take_tables_and_selected_runs(sweep, tmp_path):
    table = GOOD.rename(columns={"N": "params", "D": "tokens"})
    table.to_csv(tmp_path / "runs.csv", index=False)
    words = ("--map", "params=N,tokens=D", "--where", "tokens > 2e9")
    assert call("figure", "deviation", tmp_path / "runs.csv", *words) == 0
    assert (tmp_path / "figures" / "deviation.pdf").is_file()
    runs, points = sweep()
    write(tmp_path / "s", runs.to_dict("records"), points.to_dict("records"))
    curves(GOOD, 12).to_csv(tmp_path / "curves.csv", index=False)
    folder, table = tmp_path / "s", tmp_path / "curves.csv"
    selections = (
        (folder, None, 30), (folder, "D == D.max()", 6), (table, None, 16), (table, "N > 5e7", 8)
    )  # fmt: skip
    for source, where, count in selections:
        axes = figures.of_results("kaplan2", source, where=where).axes[0]
        assert len(axes.collections[0].get_segments()) == count, (source, where)


# ------------------------------------------------------------------ bad tables

one_size = GOOD.assign(N=1e8)
BAD = {
    "empty": GOOD.iloc[:0],
    "one row": GOOD.iloc[:1],
    "one size": one_size,
    "one run": GOOD.assign(run_id="r", N=1e8),
    "all crashed": GOOD.assign(state="crashed"),
    "all running": GOOD.assign(status="running"),
    "words for states": GOOD.assign(status="hm"),
    "no losses": GOOD.assign(L=np.nan),
    "one loss": GOOD.assign(L=[3.0] + [np.nan] * 15),
    "text for sizes": GOOD.astype({"N": object}).assign(N="large"),
    "text for losses": GOOD.astype({"L": object}).assign(L="good"),
    "zeros": GOOD.assign(D=0),
    "negative": GOOD.assign(L=-GOOD["L"]),
    "infinite": GOOD.assign(N=np.inf),
    "huge": GOOD.assign(N=1e300),
    "no ids": GOOD.assign(run_id=[None] + ["a"] * 15),
    "equal rows": GOOD.assign(run_id="a", N=1e7, D=1e9, L=3.0),
    "partly blank": GOOD.assign(
        B=[np.nan] + [1e5, 2e5, 4e5] * 5,
        S=[np.nan] * 8 + [1e4] * 8,
        seed=np.nan,
        lr_peak=1e-3 * (N / 1e7) ** -0.3,
        vocab_size=[np.nan] * 15 + [5e4],
        n_layer=np.nan,
    ),
    "words beside": GOOD.assign(
        B="large", lr_peak="low", S="many", C="much", n_layer="deep", vocab_size="big", seed="one"
    ),
    "blank B and C": GOOD.assign(B=np.nan, C=[np.nan] * 15 + [1e20]),
}
COMMANDS = {
    **QUICK,
    "frontier": ("--bootstrap", "20"),
    "plan": ("--flops", "1e21"),
    "figure frontier": ("--out", "figure.png"),
    "figure kaplan2": ("--out", "figure.png"),
    "figure all": ("--out", "figures"),
    "summary": (),
    "report": (),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", list(COMMANDS))
def test_no_command_gives_a_traceback_for_a_bad_table(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if command == "figure all":  # a few, of each kind: runs, curves, laws, others
        registry = sys.modules["analysis.figures.registry"]
        few = ("kaplan1", "isoflop", "envelope", "deviation", "holdout", "parameters", "batch")
        kept = {name: each for name, each in registry.FIGURES.items() if name in few}
        monkeypatch.setattr(registry, "FIGURES", kept)
    name, *rest = command.split()
    for kind, table in BAD.items():
        table.to_csv("runs.csv", index=False)
        code = call(name, *rest, "runs.csv", *COMMANDS[command])
        error = capsys.readouterr().err
        assert code in (0, 2) and "This is a bug" not in error, (kind, error)
        if code == 2:
            last = error.strip().splitlines()[-1]
            assert last.startswith("scaling: ") and len(last) > 30, (kind, error)
            assert "runs[" not in error and "status='" not in error, (kind, error)
