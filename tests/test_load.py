"""load(): folders of sweeps and tables of any origin, checked, derived and warned of."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load
from scaling import table
from scaling.errors import TableError

positive = st.floats(1e2, 1e12)


def write(folder, sweep, **changes):
    runs, curves = sweep(**changes)
    table.write(folder, runs.to_dict("records"), curves.to_dict("records"))
    return runs, curves


def test_a_results_folder(tmp_path, sweep):
    runs, _ = write(tmp_path, sweep)
    got = load(tmp_path)
    assert len(got) == len(runs) == 30
    assert np.allclose(got["C"], 6 * got["N"] * got["D"])
    assert got.attrs == {"source": str(tmp_path), "derived": {}}


def test_curves_carry_their_run(tmp_path, sweep):
    runs, curves = write(tmp_path, sweep)
    got = load(tmp_path, curves=True)
    assert len(got) == len(curves)
    last = got.sort_values("D").groupby("run_id").tail(1).set_index("run_id")
    runs = runs.set_index("run_id").loc[last.index]
    assert (last["N"] == runs["N"]).all() and (last["B"] == runs["B"]).all()
    assert (last["D"] == last["D_total"]).all() and (last["D_total"] == runs["D"]).all()
    assert np.allclose(last["L"], runs["L"]) and np.allclose(last["L_final"], runs["L"])


def test_a_diverged_run_keeps_the_good_part_of_its_curve(tmp_path, sweep):
    runs, curves = sweep()
    runs.loc[3, ["status", "L"]] = "diverged", np.nan
    of_it = curves.index[curves["run_id"] == runs["run_id"][3]]
    curves.loc[of_it[-2:], "L"] = np.nan
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    assert load(tmp_path)["status"].eq("diverged").sum() == 1
    assert len(load(tmp_path, curves=True)) == len(curves) - 2


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_a_table_of_another_origin_in_any_format(tmp_path, suffix):
    foreign = pd.DataFrame({"params": [1e6, 2e6], "tokens": [1e8, 1e8], "val/loss": [3.0, 2.8]})
    path = tmp_path / f"table.{suffix}"
    {
        "csv": lambda: foreign.to_csv(path, index=False),
        "tsv": lambda: foreign.to_csv(path, index=False, sep="\t"),
        "parquet": lambda: foreign.to_parquet(path),
        "jsonl": lambda: foreign.to_json(path, orient="records", lines=True),
        "json": lambda: foreign.to_json(path, orient="records"),
    }[suffix]()
    got = load(path, map={"params": "N", "tokens": "D", "val/loss": "L"})
    assert got["C"].tolist() == [6e14, 1.2e15]
    assert got.attrs["derived"] == {"C": "6 N D"}


@settings(deadline=None)
@given(N=positive, S=st.integers(1, 10**6), B=st.integers(1, 10**6))
def test_missing_columns_are_derived_exactly(N, S, B):
    full = {"N": N, "D": float(S * B), "C": 6.0 * N * S * B, "S": S, "B": B, "L": 3.0}
    for keep in (("N", "D"), ("N", "C"), ("C", "D"), ("N", "S", "B"), ("C", "S", "B")):
        row = pd.DataFrame([{name: full[name] for name in (*keep, "L")}])
        with warnings.catch_warnings():  # any N and D here, sensible or not
            warnings.simplefilter("ignore", UserWarning)
            got = load(row)
        for name in ("N", "D", "C"):
            assert got[name][0] == pytest.approx(full[name], rel=1e-12)
            assert (name in got.attrs["derived"]) == (name not in keep)


def test_curves_of_another_origin_need_a_run_id():
    points = pd.DataFrame({"N": [1e6, 1e6], "D": [2e7, 4e7], "L": [3.0, 2.9]})
    with pytest.raises(TableError, match="no column 'run_id'"):
        load(points, curves=True)
    got = load(points.assign(run_id="a"), curves=True)
    assert got["D_total"].tolist() == [4e7, 4e7] and got["L_final"].tolist() == [2.9, 2.9]


def test_suspicious_values_are_warned_of():
    good = pd.DataFrame({"N": [1e6, 2e6], "D": [2e7, 4e7], "L": [3.0, 2.8]})
    load(good)
    with pytest.warns(UserWarning, match="are N and D swapped"):
        load(good.rename(columns={"N": "D", "D": "N"}))
    with pytest.warns(UserWarning, match="'val_bpb', which looks like bits"):
        load(good.rename(columns={"L": "val_bpb"}), map={"val_bpb": "L"})
    with pytest.warns(UserWarning, match="worse than guessing"):
        load(good.assign(vocab_size=8))
    with pytest.warns(UserWarning, match="perplexity"):
        load(good.assign(L=[40.0, 30.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="L").rename(columns={"N": "n"}), "has no column 'N'"),
        (
            lambda t: t.assign(test_loss=t["L"], val_loss=t["L"] + 0.1).drop(columns="L"),
            "Say which: --map val_loss=L or --map test_loss=L",
        ),
        (lambda t: t.assign(L=[3.0, -1.0]), "must be positive and finite.*first at row 1"),
        (lambda t: t.assign(L=np.nan), "no row has a loss.*all 2 rows.*first at row 0"),
        (lambda t: t.iloc[:0], "no runs"),
    ],
)
def test_a_table_that_cannot_be_used(change, message):
    good = pd.DataFrame({"N": [1e6, 2e6], "D": [2e7, 4e7], "L": [3.0, 2.8]})
    with pytest.raises(TableError, match=message):
        load(change(good))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        load(tmp_path / "nothing.csv")
    with pytest.raises(TableError, match=r"has no runs\.csv"):
        load(tmp_path)
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(TableError, match=r"is not a readable \.xlsx table"):
        load(tmp_path / "a.xlsx")
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(TableError, match=r"is not a readable \.parquet table"):
        load(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(TableError, match=r"is not a readable \.csv table"):
        load(tmp_path / "a.csv")


def test_a_map_never_hides_a_column():
    both = pd.DataFrame({"N": [1e6], "D": [2e7], "L": [3.0], "loss": [2.9]})
    with pytest.raises(TableError, match="would hide the column 'L'"):
        load(both, map={"loss": "L"})
    assert load(both, map={"loss": "L", "L": "L_old"})["L"].tolist() == [2.9]
    with pytest.raises(TableError, match="no column 'los'"):
        load(both, map={"los": "L"})


def test_the_input_table_is_not_modified():
    mine = pd.DataFrame({"N": [1e6], "D": [2e7], "L": [3.0]})
    load(mine)
    assert list(mine) == ["N", "D", "L"] and json.dumps(mine.attrs) == "{}"


def nl(**changes):
    return pd.DataFrame({"N": [1e6, 2e6, 4e6], "L": [3.0, 2.8, 2.6]} | changes)


def test_only_the_columns_of_a_law_are_needed_and_derived():
    got = load(nl(), need=("N", "L"))
    assert list(got) == ["N", "L"] and got.attrs["derived"] == {}
    with pytest.raises(TableError, match="no column 'D'"):
        load(nl())
    trade = pd.DataFrame({"B": [1e3, 2e3], "S": [900.0, 500.0]})
    assert list(load(trade, need=("B", "S"))) == ["B", "S"]  # D = S B is nobody's question
    both = load(nl(D=[1e8, 1e8, 1e8]), need=("N", "D", "L"))
    assert both.attrs["derived"] == {"C": "6 N D"}
    assert load(nl(S=[100, 200, 300], B=[4e5, 4e5, 4e5]), need=("D", "L"))["D"][0] == 4e7


def test_words_in_a_column_of_numbers(tmp_path):
    with pytest.raises(TableError, match=r"'N' must be numbers: 1 of 3.*row 1 \(N='big'\).*7e7"):
        load(nl(N=["1e6", "big", "4e6"]), need=("N", "L"))
    path = tmp_path / "runs.csv"
    path.write_text("N,D,L,status\n1e6,2e7,3.0,ok\n2e6,4e7,-,failed\n")
    got = load(path)  # a failed run has no loss, however it says so
    assert got["L"].tolist()[0] == 3.0 and np.isnan(got["L"][1])
    path.write_text("S,B,N,L\n10k,100,1e6,3.0\n")
    assert load(path)["D"][0] == 1e6  # not S B = '10k10k...'
    path.write_text("S,B,N,L\nten,100,1e6,3.0\n")
    with pytest.raises(TableError, match=r"'S' must be numbers.*row 0"):
        load(path)


def test_numbers_with_commas_and_suffixes(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(
        '\ufeff,n_params, train_tokens,final_loss\n0,70M,"1,400,000,000",3.2\n1,1.5B,1.4T,2.5\n'
        "2,,,\n3,4e6,20 B,3.9\n,,,\n"
    )
    names = {"n_params": "N", "train_tokens": "D", "final_loss": "L"}
    got = load(path, map=names)
    assert got["N"].tolist() == [7e7, 1.5e9, 4e6] and got["D"].tolist() == [1.4e9, 1.4e12, 2e10]
    path.write_text("params;tokens;loss\n1e6;2e7;3,5\n2e6;4e7;3,25\n")
    assert load(path, map={"params": "N", "tokens": "D", "loss": "L"})["L"].tolist() == [3.5, 3.25]
    for word in ("M", "3.5%", "1e6 bytes", "1,2,3"):
        with pytest.raises(TableError, match="'N' must be numbers"):
            load(nl(N=["1e6", word, "4e6"]), need=("N", "L"))


def test_the_likeliest_columns_are_taken_and_named():
    foreign = pd.DataFrame({"Test Loss": [3.0], "n_params": [1e6], "train_tokens": [2e7]})
    for names, guess in (
        ({}, "--map 'n_params=N,train_tokens=D,Test Loss=L'"),
        ({"n_params": "N"}, "the other columns .* --map 'n_params=N,train_tokens=D,Test Loss=L'"),
        ({"n_params": "N", "train_tokens": "D"}, "L 3 nats per token"),
    ):
        with pytest.warns(UserWarning, match=guess):
            assert load(foreign, map=names)["L"].tolist() == [3.0]


def test_a_map_may_hold_expressions(tmp_path):
    foreign = pd.DataFrame(
        {"params_M": ["1,000", "2000"], "log10_tokens": [8.0, 9.0], "val ppl": 20.0}
    )
    names = {"1e6 * params_M": "N", "10**log10_tokens": "D", "log(`val ppl`)": "L"}
    got = load(foreign, map=names)
    assert got["N"].tolist() == [1e9, 2e9] and got["D"].tolist() == pytest.approx([1e8, 1e9])
    assert got["L"][0] == pytest.approx(np.log(20))
    for wrong in ("1e6 * params_M *", "params_M + nothing"):
        with pytest.raises(TableError, match="nor an expression of columns"):
            load(foreign, map={wrong: "N"})


def test_two_columns_of_one_name(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,L,L\n1e6,2e7,3.0,2.9\n")
    with pytest.raises(TableError, match="two columns are called 'L'"):
        load(path)
    with pytest.raises(TableError, match="map gives 2 columns the name 'L': a, b"):
        load(nl(a=1.0, b=2.0), map={"a": "L", "b": "L", "L": "old"}, need=("N", "L"))


def test_units_that_look_wrong_are_warned_of():
    good = nl(D=[2e7, 4e7, 8e7])
    with pytest.warns(UserWarning, match="N = 2 and D = 0.04; is that in millions or billions"):
        load(good.assign(N=good["N"] / 1e6, D=good["D"] / 1e9))
    with pytest.warns(UserWarning, match="N = 2; is that in millions"):
        load(good.assign(N=good["N"] / 1e6), need=("N", "L"))
    with pytest.warns(UserWarning, match=r"C is 1\.2e-20 times 6 N D; are their units FLOPs"):
        load(good.assign(C=6 * good["N"] * good["D"] / 8.64e19))


def test_a_fit_reports_swapped_N_and_D():
    swapped = nl(D=[1e4, 1e5, 2e5]).assign(N=[1e6, 1e7, 2e7])
    with pytest.warns(UserWarning, match="swapped"):
        load(swapped)
    load(swapped, need=("N", "D", "L"))  # no second warning beside the status of the fit


def test_rows_of_unknown_status():
    table = nl(D=1e8, status=["estupendo", "estupendo", "muerto"])
    with pytest.raises(TableError, match="2 'estupendo', 1 'muerto', and no word that means fin"):
        load(table)
    with pytest.warns(UserWarning, match=r"2 finished runs; left out: 1 muerto \(unknown\)"):
        load(table.assign(status=["ok", "ok", "muerto"]))
    none = load(table.assign(status="failed", L=np.nan))  # and no warning of an empty mean
    assert len(none) == 3


def wandb():
    return pd.DataFrame(
        {
            "Name": ["brisk-sun-1", "calm-sea-2", "dry-leaf-3", "elder-elm-4"],
            "State": ["finished", "crashed", "running", "finished"],
            "Runtime": [100, 20, 30, 90],
            "config.params": [1e6, 1e6, 2e6, 2e6],
            "config.tokens": [1e8, 1e8, 1e8, 2e8],
            "val/loss": [3.0, np.nan, 3.1, 2.8],
        }
    )


def test_a_table_of_runs_from_weights_and_biases(tmp_path):
    path = tmp_path / "wandb_export.csv"
    wandb().to_csv(path, index=False)
    names = {"config.params": "N", "config.tokens": "D", "val/loss": "L"}
    with pytest.warns(UserWarning, match="2 finished runs; left out: 1 crashed, 1 running"):
        got = load(path, map=names)
    assert got["status"].tolist() == ["ok", "failed", "ok"]
    assert got["run_id"].tolist() == ["brisk-sun-1", "calm-sea-2", "elder-elm-4"]
    assert got["C"][0] == 6e14
    states = pd.DataFrame({"State": ["Ohio", "Utah"], "N": [1e6, 1e6], "D": 1e8, "L": 3.0})
    with pytest.warns(UserWarning, match="holds 'Ohio', 'Utah', which are no states of runs"):
        assert "status" not in load(states)  # a column of that name, but not theirs


def test_a_chart_from_weights_and_biases_becomes_one_row_per_run_and_step(tmp_path):
    path = tmp_path / "chart.csv"
    names = [f"{run} - val/loss{end}" for run in ("a - b", "c") for end in ("", "__MIN", "__MAX")]
    columns = dict(zip(names, ([3.0, 2.0], [0, 0], [9, 9], [4.0, np.nan], 1, 1), strict=True))
    pd.DataFrame({"Step": [1, 2]} | columns).to_csv(path, index=False)
    got = load(path, map={"val/loss": "L"}, need=("S", "L"))
    assert got["run_id"].tolist() == ["a - b", "a - b", "c"] and got["S"].tolist() == [1, 2, 1]
    assert got["L"].tolist() == [3.0, 2.0, 4.0]
    with pytest.raises(
        TableError, match=r"chart exported from Weights & Biases.* no N, D, C\. Export the table"
    ):
        load(path, map={"val/loss": "L"})
    sized = pd.DataFrame({"tokens": [1e8, 2e8], "x - loss": [3.0, 2.9], "x - params": 1e6})
    sized.to_csv(path, index=False)
    assert load(path, map={"tokens": "D", "loss": "L", "params": "N"})["C"].tolist() == [
        6e14,
        1.2e15,
    ]


def test_settings_in_the_names_of_grouped_runs_are_columns(tmp_path):
    path = tmp_path / "chart.csv"
    labels = ["n_params: 21000000, lr: 0.001", "n_params: 53000000, lr: 3e-4"]
    lines = {
        f"{label} - val/loss{end}": [4.0 - n + x, 3.9 - n + x]
        for n, label in enumerate(labels)
        for end, x in (("", 0.0), ("__MIN", -0.1), ("__MAX", 0.1))
    }
    pd.DataFrame({"tokens": [1e8, 2e8]} | lines).to_csv(path, index=False)
    got = load(path, map={"n_params": "N", "tokens": "D", "val/loss": "L"})
    assert got["N"].tolist() == [21e6, 21e6, 53e6, 53e6] and got["lr"].iloc[-1] == 3e-4
    assert got["L"].tolist() == [4.0, 3.9, 3.0, 2.9] and got["run_id"].nunique() == 2
    mixed = {"Step": [1, 2], "N=21M - loss": [4.0, 3.9], "the best - loss": [3.0, 2.9]}
    pd.DataFrame(mixed).to_csv(path, index=False)
    assert list(load(path, map={"loss": "L"}, need=("S", "L"))) == ["run_id", "Step", "L", "S"]
    pd.DataFrame({"Step": [1, 2], "N=21M - loss": [4.0, 3.9]}).to_csv(path, index=False)
    got = load(path, map={"loss": "L", "Step * 1e8": "D"})
    assert got["N"].tolist() == [21e6, 21e6] and got["D"].tolist() == [1e8, 2e8]


def test_a_curve_of_tensorboard_counts_steps(tmp_path):
    path = tmp_path / "val_loss.csv"
    path.write_text("Wall time,Step,Value\n1.7e9,100,4.0\n1.7e9,200,3.9\n")
    got = load(path, map={"Value": "L"}, need=("S", "L"))
    assert got["S"].tolist() == [100, 200] and got["L"].tolist() == [4.0, 3.9]
    with pytest.raises(TableError, match=r"a curve exported from TensorBoard.* no N, D\..*Step"):
        load(path, map={"Value": "L"}, need=("N", "D", "L"))
