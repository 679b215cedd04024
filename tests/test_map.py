"""The option --map: its grammar, expressions and patterns, and hints that work when pasted."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load
from scaling.cli.arguments import column_map
from scaling.errors import ConfigError, TableError
from scaling.mapping import option
from scaling.table import missing_column

N, D, L = [2.1e7, 5.3e7], [1e9, 2e9], [4.0, 3.5]


def table(**columns):
    return pd.DataFrame({"N": N, "D": D, "L": L} | columns)


@pytest.mark.parametrize(("options", "names"), [
    (["loss=L,params=N"], {"loss": "L", "params": "N"}),
    (["loss=L", "params=N"], {"loss": "L", "params": "N"}),
    (["loss = L , params = N ,"], {"loss": "L", "params": "N"}),
    ([r"{path:loss_N(\d+)}=N,tokens_seen=D"], {r"{path:loss_N(\d+)}": "N", "tokens_seen": "D"}),
    ([r"{name:N=(\w{1,3})}=N,b=D"], {r"{name:N=(\w{1,3})}": "N", "b": "D"}),
    ([r"{name:\{(\d+),=}=N,b=D"], {r"{name:\{(\d+),=}": "N", "b": "D"}),
    (["loss, test=L"], {"loss, test": "L"}),
    (["`a,b`=L,c=N"], {"a,b": "L", "c": "N"}),
    (["'a,b'=L,c=N"], {"a,b": "L", "c": "N"}),
    (['"a,b"=L'], {"a,b": "L"}),
    (["# params (M), all=N"], {"# params (M), all": "N"}),
    (["loss (nats, test)=L,c=N"], {"loss (nats, test)": "L", "c": "N"}),
    (["tokens (B=D,loss=L"], {"tokens (B": "D", "loss": "L"}),
    (["lr=0.1=L"], {"lr=0.1": "L"}),
    (["model's loss=L,x=N"], {"model's loss": "L", "x": "N"}),
    (["where(a > 1, b, c)=L"], {"where(a > 1, b, c)": "L"}),
    (["1e6*`params, M`=N"], {"1e6*`params, M`": "N"}),
])  # fmt: skip
def test_the_grammar_of_a_map(options, names):
    assert column_map(options) == names


@pytest.mark.parametrize("text", ["loss", "=L", "loss=", "loss=L,params", "`a=b`"])
def test_what_is_no_map(text):
    with pytest.raises(ConfigError, match="is not COLUMN=SYMBOL, such as loss=L"):
        column_map([text])


def test_a_column_has_one_symbol():
    with pytest.raises(ConfigError, match="two symbols, N and D"):
        column_map(["a=N", "a=D"])


NAMES = st.text("ab ,=#(){}[]'\"/.-_é", min_size=1, max_size=8).filter(
    lambda name: name == name.strip() and re.search("[abé]", name)
    and "," not in (name[0], name[-1]) and not re.match(r"(['\"]).*\1$", name)
)  # fmt: skip


@given(st.dictionaries(NAMES, st.sampled_from(["N", "D", "L"]), min_size=1, max_size=3))
def test_a_printed_map_is_read_back(names):
    words = shlex.split(option(names))
    assert words[0] == "--map"
    assert column_map(words[1::2]) == names


@pytest.mark.parametrize("name", [
    "val/loss", "loss, test", "# loss", "loss (nats/token)", "test loss", "loss[final]", "a=loss",
    "{loss}", "final.loss", "loss's", 'the "loss"', "loss;", "$loss", "loss & more",
])  # fmt: skip
def test_columns_of_any_name_can_be_mapped_and_hinted(name, tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame({"N": N, "D": D, name: L}).to_csv(path, index=False)
    names = column_map(shlex.split(option({name: "L"}))[1:])
    assert load(path, map=names)["L"].tolist() == L
    hint = missing_column("L", ["N", "D", name])
    if match := re.search(r"Say (--map .*)\.$", hint):
        assert column_map(shlex.split(match[1])[1:]) == {name: "L"}


@pytest.mark.parametrize(("expression", "value"), [
    ("2*`a b`", [2.0, 4.0]), ("`a b` + `# c (M)`", [11.0, 22.0]), ("1e1*`x/y`", [30.0, 40.0]),
    ("log(`a b`)", [0.0, np.log(2)]), ("10**`x/y`", [1e3, 1e4]), ("`a b`*plain", [5.0, 10.0]),
])  # fmt: skip
def test_expressions_of_columns_of_any_name(expression, value):
    more = {"a b": [1, 2], "# c (M)": [10, 20], "x/y": [3, 4], "plain": [5, 5]}
    found = load(table(**more), map={expression: "value"})
    assert np.allclose(found["value"], value)


def test_a_column_may_be_replaced_by_an_expression_of_itself():
    found = load(table(N=[21.0, 53.0]), map={"1e6*N": "N"})
    assert found["N"].tolist() == N


def test_values_from_text_by_a_pattern():
    runs = pd.DataFrame({"name": ["gpt-21M_lr3", "gpt-53M_lr4"], "D": D, "L": L})
    assert load(runs, map={r"{name:gpt-(\w+)_}": "N"})["N"].tolist() == N
    assert load(runs, map={r"{run:gpt-(\d+)M}": "N0", r"1e6*{name:(\d+)M}": "N"})["N"].tolist() == N
    assert load(runs, map={r"{name:\d+M}": "N"})["N"].tolist() == N  # without a group: all of it
    for wrong, message in (
        (
            r"{name:gpt-(2\w+)_}",
            "nothing in name='gpt-53M_lr4' at row 1; 1 of 2 rows match",
        ),
        (r"{name:(}", "is not a regular expression"),
        (r"{title:(\d+)}", "no column 'title'"),
        (r"{path:(\d+)}", "`path` is the file"),
    ):
        with pytest.raises(TableError, match=re.escape(message)):
            load(runs, map={wrong: "N"})


def test_a_reversed_pair_is_recognised():
    with pytest.raises(TableError, match=r"did you mean --map 'val loss=L'\?"):
        load(pd.DataFrame({"N": N, "D": D, "val loss": L}), map={"L": "val loss"})


def test_a_missing_column_names_the_likely_ones_as_options():
    assert missing_column("L", ["a", "loss"]).endswith("Is it 'loss'? Say --map loss=L.")
    both = missing_column("L", ["val loss", "test loss"])
    assert both.endswith("Say --map 'val loss=L' or --map 'test loss=L'.")
    assert missing_column("N", ["params_M"]).endswith("Say --map '1e6*params_M=N'.")
    assert missing_column("N", ["x", "y"]) == (
        "the table has no column 'N' (parameters); it has x, y. Say which it is: --map COLUMN=N."
    )
    said = missing_column("D", ["val_loss", "max_steps", "global_step"])
    assert "(training tokens)" in said and "--map '65536*global_step=D' if each step" in said


def test_warnings_about_units_can_be_pasted():
    for columns, names in (
        ({"N": [21, 53]}, {}), ({"params": [21.0, 53.0]}, {"params": "N"}),
        ({"params_M": [21.0, 53.0]}, {"params_M": "N"}),
    ):  # fmt: skip
        runs = pd.DataFrame({"D": D, "L": L} | columns)
        with pytest.warns(UserWarning, match="millions or billions") as caught:
            load(runs, map=names)
        (hint,) = re.findall(r"--map .*?(?= or|\.$)", str(caught[0].message))[:1]
        assert load(runs, map=column_map(shlex.split(hint)[1:]))["N"].tolist() == N
    with pytest.warns(UserWarning, match="a perplexity") as caught:
        load(table(L=[40.0, 30.0]))
    (hint,) = re.findall(r"--map .*?(?=\.$)", str(caught[0].message))
    assert np.allclose(load(table(L=[40.0, 30.0]), map=column_map(shlex.split(hint)[1:]))["L"],
                       np.log([40, 30]))  # fmt: skip
