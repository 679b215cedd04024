"""Tables as other tools write them are read: locales, containers, written numbers, charts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws, load
from analysis.tables.containers import read_file
from scaling.cli import main
from scaling.errors import TableError

FOLDER = Path(__file__).parents[2] / "shared" / "strangers"

needs_strangers = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the collection of tables from other tools is not here"
)


def losses(name: str, **names: str) -> pd.DataFrame:
    """Return a loaded table, and check it against the law that made it."""
    got = load(FOLDER / name, map={old: new for new, old in names.items()}, need=("N", "D", "L"))
    truth = 1.8 + 400 / got["N"] ** 0.34 + 1500 / got["D"] ** 0.36
    assert len(got) == 25 and np.allclose(got["L"], truth, rtol=0.02)
    return got


@needs_strangers
def test_decimal_commas_in_quotes():
    losses("05-locale/quoted_decimal_comma.csv", N="Parameter", D="Token", L="Verlust")


@needs_strangers
def test_utf_16_with_tabs():
    losses("05-locale/utf16.csv", N="params", D="tokens", L="loss")


@needs_strangers
def test_three_decimals_after_a_comma_are_refused_with_both_readings(capsys):
    path = FOLDER / "05-locale/three_decimals_comma.tsv"
    words = ["fit", str(path), "--map", "params=N,tokens=D,loss=L", "--bootstrap", "0"]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "5.035" in message and "5035" in message
    main([*words, "--decimal", "comma"])
    assert "25 rows" in capsys.readouterr().out


@needs_strangers
@pytest.mark.parametrize("name", ["runs.csv.gz", "wrapped.json"])
def test_containers(name):
    losses(f"06-containers/{name}", N="params", D="tokens", L="loss")


@needs_strangers
def test_nested_json_lines():
    tokens = "`config.steps` * `config.batch` * `config.seq`"
    losses("06-containers/nested.jsonl", N="config.model.params", D=tokens, L="summary.val.loss")


@needs_strangers
def test_a_damaged_workbook_is_named():
    with pytest.raises(TableError, match=r"is not a readable \.xlsx table"):
        read_file(FOLDER / "06-containers/runs.xlsx")


@needs_strangers
def test_written_numbers():
    losses("07-written-numbers/suffix.csv", N="params", D="tokens", L="loss")
    got = losses("07-written-numbers/pm.csv", N="params", D="tokens", L="loss")
    assert (got["L_stderr"] == 0.004).all()
    weighted = fit(laws.chinchilla, got, weights="stderr", bootstrap=0)
    assert weighted.params["alpha"] == pytest.approx(0.34, abs=0.03)


@needs_strangers
def test_a_chart_of_grouped_runs_has_their_setting_as_a_column(capsys):
    path = FOLDER / "08-wandb-grouped-chart/chart.csv"
    got = load(path, map={"n_params": "N", "val/loss": "L", "Step * 524288": "D"})
    assert got["N"].nunique() == got["run_id"].nunique() == 4 and len(got) == 120
    assert (got["D"] == got["S"] * 524288).all()
    with pytest.raises(SystemExit):
        main(["fit", str(path), "--map", "n_params=N,val/loss=L"])
    hint = capsys.readouterr().err
    assert "no D" in hint and "--map 'Step * 524288=D'" in hint
    main(["fit", str(path), "--map", "n_params=N,val/loss=L", "--map", "Step * 524288=D"])
    assert "120 rows" in capsys.readouterr().out


@needs_strangers
def test_words_for_missing_losses_are_missing():
    got = read_file(FOLDER / "01-wandb-nan-infinity/wandb_export.csv")
    assert got["val/loss"].dtype == float and got["val/loss"].isna().sum() == 3
    assert np.isfinite(got["val/loss"].dropna()).all()
