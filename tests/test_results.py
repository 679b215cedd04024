"""Committed results: complete, of one schema, and sensible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaling import table
from sweeps.spec import Spec

RESULTS = Path(__file__).parents[1] / "results"
SWEEPS = sorted(p.parent for p in RESULTS.glob("*/runs.csv") if p.parent.name != "quickstart")


def test_there_are_results():
    assert "cpu" in [folder.name for folder in SWEEPS]


@pytest.mark.parametrize("folder", SWEEPS, ids=lambda p: p.name)
def test_a_result_is_whole(folder):
    runs, curves = table.read(folder), table.read_curves(folder)
    assert list(runs.columns) == [c.name for c in table.COLUMNS]
    assert runs.run_id.is_unique and set(curves.run_id) <= set(runs.run_id)
    table.check(runs, need=("N", "D", "C", "L"))
    last = curves.groupby("run_id")["L"].last()
    ok = runs[runs.status == "ok"].set_index("run_id")
    assert (last[ok.index] == ok.L).all()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["revision"] and manifest["versions"]["torch"] and manifest["corpus_hashes"]
    for name in ("kaplan1", "kaplan2", "frontier"):
        assert (folder / "figures" / f"{name}.png").exists()


@pytest.mark.parametrize("folder", SWEEPS, ids=lambda p: p.name)
def test_every_run_of_the_spec_is_there_under_its_identity(folder):
    runs = table.read(folder).set_index("run_id")
    spec = Spec.from_toml(folder.name)
    assert {run.run_id for run in spec.runs} <= set(runs.index)
    for run in spec.runs:
        row = runs.loc[run.run_id]
        assert (row.D, row.B, row.seed) == (run.D, run.batch_tokens, run.seed)
        assert row.d_model == run.model.d_model


def test_loss_falls_with_size_and_with_data():
    # Learning rates are sensible at every size, or this would not hold. Below 4e5 tokens a third
    # and a fourth layer cost more than they give (results/LOG.md): sizes of up to two layers there.
    runs = table.read(RESULTS / "cpu")
    grid = runs[(runs.status == "ok") & (runs.seed == 0)]
    loss = grid.pivot(index="N", columns="D", values="L")
    assert loss.shape == (7, 7) and not loss.isna().any(axis=None)
    assert (loss.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)
    long = loss.loc[:, loss.columns > 3.9e5]
    assert (long.diff().iloc[1:] < 0).all(axis=None)
    shallow = grid[grid.n_layer <= 2].pivot(index="N", columns="D", values="L")
    assert (shallow.diff().iloc[1:] < 0).all(axis=None)
