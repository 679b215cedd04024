"""Tables of other tools in ../shared/strangers: which columns are N, D and L."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, load
from scaling.errors import TableError

STRANGERS = Path(__file__).parents[2] / "shared" / "strangers"
pytestmark = [
    pytest.mark.skipif(not STRANGERS.is_dir(), reason="../shared/strangers is not here"),
    pytest.mark.filterwarnings("ignore"),
]


def read(name, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = load(STRANGERS / name, need=("N", "D", "L"), **options)
    return table, " | ".join(str(each.message) for each in caught)


def truth(table):
    return 1.8 + 400 * table["N"] ** -0.34 + 1500 * table["D"] ** -0.36


def test_a_small_perplexity_is_converted():
    table, note = read("04-perplexity-small/ppl_small.csv")
    raw = pd.read_csv(STRANGERS / "04-perplexity-small/ppl_small.csv")
    assert np.allclose(table["L"], np.log(raw["perplexity"])) and "log(perplexity)=L" in note
    same, _ = read("04-perplexity-small/ppl_small.csv", map={"perplexity": "L"})
    assert np.allclose(table["L"], same["L"])


def test_one_file_a_run():
    table, _ = read("10-one-file-a-run", map={r"{path:loss_N(\d+)}": "N"})
    assert len(table) == 120 and table["run_id"].nunique() == 4
    assert np.allclose(table["L"], truth(table), rtol=0.02)
    with pytest.raises(TableError, match=r"--map '\{path:N\("):
        read("10-one-file-a-run")


def test_a_shape_steps_batch_and_context():
    table, note = read("11-shape-steps-batch-seq/sweep.csv")
    raw = pd.read_csv(STRANGERS / "11-shape-steps-batch-seq/sweep.csv")
    assert np.allclose(table["N"], 12.0 * raw["n_layers"] * raw["d_model"] ** 2)
    assert np.allclose(table["D"], raw["max_steps"] * 256.0 * 1024)
    assert "12 n_layer d_model^2" in note and "sequences" in note
    found = fit("chinchilla", table, bootstrap=0)
    assert 0.2 < found.params["alpha"] < 0.5 and 0.25 < found.params["beta"] < 0.5


@pytest.mark.parametrize("name", [
    "03-duplicated-rows/twice.csv", "05-locale/quoted_decimal_comma.csv", "05-locale/utf16.csv",
    "06-containers/nested.jsonl", "06-containers/runs.csv.gz", "06-containers/wrapped.json",
    "07-written-numbers/pm.csv", "07-written-numbers/suffix.csv",
    "08b-tracker-states/small_lowercase.csv", "01-wandb-nan-infinity/wandb_export.csv",
])  # fmt: skip
def test_no_map_is_needed(name):
    table, note = read(name)
    used = table[table["status"] == "ok"] if "status" in table.columns else table
    assert np.allclose(used["L"], truth(used), rtol=0.1) and note.count("--map") == 1
    assert len(used) >= 19
