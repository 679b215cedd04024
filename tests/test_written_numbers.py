"""Numbers in text: suffixes, powers, standard errors, and separators of every locale."""

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis import fit, laws, load
from analysis.tables.containers import read_file
from analysis.tables.numbers import parsed
from analysis.tables.written import written
from scaling.cli import main
from scaling.errors import TableError

LOCALES = {
    "plain": ("", "."),
    "English": (",", "."),
    "German": (".", ","),
    "French": ("\u202f", ","),
    "SI": ("\u00a0", ","),
    "thin": ("\u2009", "."),
    "Swiss": ("'", "."),
    "typographic": ("’", "."),
    "Python": ("_", "."),
    "spaced": (" ", ","),
}
"""Marks between groups of digits, and the decimal mark."""


def formatted(value: float, decimals: int, locale: str) -> str:
    """Write a number as a program set to a locale does."""
    group, decimal = LOCALES[locale]
    text = f"{value:,.{decimals}f}"
    return text.translate({ord(","): group, ord("."): decimal})


def table(tmp_path, rows: list[list[str]], separator: str = "\t") -> str:
    path = tmp_path / "runs.tsv"
    path.write_text("\n".join(separator.join(row) for row in [["N", "D", "L"], *rows]) + "\n")
    return str(path)


def read(path: str, **options: str) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # units, and readings that are said
        return load(path, need=("N", "D", "L"), **options)


# ------------------------------------------------------------------ one number


@pytest.mark.parametrize(
    ("text", "value", "stderr"),
    [
        ("21M", 21e6, None), ("21m", 21e6, None), ("1.2B", 1.2e9, None), ("1.4 T", 1.4e12, None),
        ("70 M", 70e6, None), ("1.2G", 1.2e9, None), ("10k", 1e4, None), ("7e7", 7e7, None),
        ("1.2 billion", 1.2e9, None), ("300 million", 3e8, None), ("2 Mrd.", 2e9, None),
        ("2.1×10^7", 2.1e7, None), ("2.1 x 10^7", 2.1e7, None), ("2.1·10⁷", 2.1e7, None),
        ("10^7", 1e7, None), ("2**20", 2**20, None), ("1e-3", 1e-3, None),
        ("1.05E+08", 1.05e8, None),
        ("−3.5", -3.5, None), ("+4", 4.0, None), (".5", 0.5, None), ("5.", 5.0, None),
        ("1,400,000", 1.4e6, None), ("1_400_000", 1.4e6, None), ("12,34,567", 1234567.0, None),
        ("5.03 ± 0.004", 5.03, 0.004), ("5.03±0.004", 5.03, 0.004), ("5.03 +/- 0.004", 5.03, 0.004),
        ("5.03 +- 4e-3", 5.03, 0.004), (r"$5.03 \pm 0.004$", 5.03, 0.004),
        ("5.03(4)", 5.03, 0.04), ("5.030(12)", 5.03, 0.012), ("5.03 (0.004)", 5.03, 0.004),
        ("5.03 (± 0.004)", 5.03, 0.004), ("1.20(5)e9", 1.2e9, 5e7), ("21.0 ± 0.5 M", 21e6, 5e5),
        ("1.2B ± 10M", 1.2e9, 1e7), ("1.2e9 ± 1e7", 1.2e9, 1e7), ("5,03 ± 0,004", 5.03, 0.004),
        ("5,03(4)", 5.03, 0.04), ("1,2B", 1.2e9, None), ("1.234.567,5", 1234567.5, None),
    ],
)  # fmt: skip
def test_a_number_as_people_write_it(text, value, stderr):
    got = parsed(pd.Series([text]))
    assert got[0] == pytest.approx(value, rel=1e-12)
    found = next(n for mark in ".," if (n := written(text, mark)) and n.value == got[0])
    assert found.stderr == pytest.approx(stderr) if stderr else math.isnan(found.stderr)


@pytest.mark.parametrize(
    "text",
    [
        "M", "1 2", "1,2,3", "5.03 (4)", "5.03 (4.61)", "21(2)", "5..0", "5.0.1",
        "3.5%", "~5.0", "<3.1", ">20", "5.03 ±", "1,40,0", "1e999", "0x10", "2025-03-01", "1/2",
        "5.03 ± 0.1%", "10^9999", "v1.2", "1.2.3", "one", "1 00 000",
    ],
)  # fmt: skip
def test_what_is_not_clearly_a_number_is_refused(text):
    assert np.isnan(parsed(pd.Series([text]))[0])
    with pytest.raises(TableError, match="column 'N' must be numbers: 1 of 2 rows is not"):
        load(pd.DataFrame({"N": ["1e6", text], "L": [3.0, 3.1]}), need=("N", "L"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3.5%", "a percentage"), ("<3.1", "a bound, not a measured value"),
        (">20", "a bound"), ("~5.0", "an approximate value"), ("ca. 5", "an approximate value"),
    ],
)  # fmt: skip
def test_a_refusal_says_why(text, why):
    with pytest.raises(TableError, match=rf"L={text!r}, {why}"):
        load(pd.DataFrame({"N": [1e6], "L": [text]}), need=("N", "L"))


@given(st.floats(0.01, 1e3), st.integers(1, 4), st.sampled_from("kMBGT"), st.booleans())
def test_a_suffix_multiplies(value, decimals, suffix, spaced):
    text = f"{value:.{decimals}f}{' ' if spaced else ''}{suffix}"
    factor = {"k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}[suffix]
    (got,) = parsed(pd.Series([text]))
    assert got == pytest.approx(float(f"{value:.{decimals}f}") * factor, rel=1e-12)


# ------------------------------------------------------------------ separators


number = st.one_of(
    st.tuples(st.integers(1, 10**12), st.just(0)),
    st.tuples(st.floats(0.001, 1e7), st.integers(1, 6)),
)
row = st.tuples(number, number, st.tuples(st.floats(0.5, 9.9), st.integers(1, 6)))


def different(rows, locale) -> tuple[list[list[str]], np.ndarray]:
    """Return different rows as text, and their values."""
    of = {
        tuple(round(value, decimals) for value, decimals in row): [
            formatted(value, decimals, locale) for value, decimals in row
        ]
        for row in rows
    }
    return list(of.values()), np.array(list(of))


@settings(deadline=None, max_examples=100)
@given(st.lists(row, min_size=1, max_size=4), st.sampled_from(sorted(LOCALES)))
@example([((1400, 0), (2500, 0), (5.035, 3))], "German")
@example([((1400, 0), (2500, 0), (5.035, 3))], "English")
@example([((1400, 0), (2500, 0), (5.035, 3))], "French")
def test_a_number_of_any_locale_is_read_back_or_refused(tmp_path_factory, rows, locale):
    """No value is ever wrong: least of all by a factor of 1000."""
    texts, expected = different(rows, locale)
    if not (expected > 0).all():
        return
    path = table(tmp_path_factory.mktemp("locale"), texts)
    decimal = LOCALES[locale][1]
    given_mark = read(path, decimal=decimal)
    assert np.allclose(given_mark[["N", "D", "L"]], expected, rtol=1e-12)
    try:
        got = read(path)
    except TableError as error:
        assert "with a decimal comma" in str(error) and "--decimal comma or" in str(error)
    else:
        assert np.allclose(got[["N", "D", "L"]], expected, rtol=1e-12)


@settings(deadline=None)
@given(st.lists(row, min_size=2, max_size=4), st.sampled_from(sorted(LOCALES)))
def test_a_table_with_losses_of_four_decimals_is_always_read(tmp_path_factory, rows, locale):
    rows = [(n, d, (loss, 4)) for n, d, (loss, _) in rows]
    texts, expected = different(rows, locale)
    if not (expected > 0).all():
        return
    got = read(table(tmp_path_factory.mktemp("locale"), texts))
    assert np.allclose(got[["N", "D", "L"]], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("rows", "losses"),
    [
        ([["21000000", "1e8", "5,035"], ["53000000", "1e8", "0,617"]], [5.035, 0.617]),
        ([["21.000.000", "1e8", "5,035"], ["900.000", "1e8", "4,617"]], [5.035, 4.617]),
        ([["21\u202f000", "1e8", "5,035"], ["53\u202f000", "1e8", "4,617"]], [5.035, 4.617]),
        ([["1e6", "1e8", "5,0351"], ["1e6", "1e8", "4,617"]], [5.0351, 4.617]),
        ([["21,0 M", "1e8", "5,035"], ["53,0 M", "1e8", "4,617"]], [5.035, 4.617]),
        ([["1e6", "1e8", "5,035 ± 0,004"], ["1e6", "1e8", "4,617 ± 0,004"]], [5.035, 4.617]),
    ],
)
def test_one_number_shows_the_decimal_mark_of_a_file(tmp_path, rows, losses):
    assert read(table(tmp_path, rows))["L"].tolist() == losses


def test_a_semicolon_between_columns_stands_for_a_decimal_comma(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N;D;L\n1400000;2e7;5,035\n2500000;2e7;4,012\n")
    assert read(path)["L"].tolist() == [5.035, 4.012]
    path.write_text("N;D;L\n1,400,000;2e7;5.03\n2,500,000;2e7;4.01\n")
    assert read(path)["N"].tolist() == [1.4e6, 2.5e6] and read(path)["L"].tolist() == [5.03, 4.01]


AMBIGUOUS = [["21000000", "105000000", "5,035"], ["53000000", "265000000", "4,135"]]


def test_an_ambiguous_number_is_refused_with_both_readings(tmp_path, capsys):
    path = table(tmp_path, AMBIGUOUS)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", path])
    out = capsys.readouterr().err
    assert stopped.value.code == 2 and len(out.strip().splitlines()) == 1
    assert "'5,035' is 5.035 with a decimal comma and 5035 with a decimal point" in out
    assert "Add --decimal comma or --decimal point" in out
    for mark in (",", "comma"):
        assert read(path, decimal=mark)["L"].tolist() == [5.035, 4.135]
    for mark in (".", "point"):
        assert read(path, decimal=mark)["L"].tolist() == [5035, 4135]
    with pytest.raises(TableError, match="--decimal ';' is not a decimal mark"):
        read(path, decimal=";")


def test_an_ambiguous_column_that_is_not_used_is_left_alone(tmp_path):
    path = tmp_path / "runs.tsv"
    path.write_text("N\tL\tother\n21000000\t5\t5,035\n53000000\t4\t4,135\n")
    assert load(path, need=("N", "L"))["other"].tolist() == ["5,035", "4,135"]


def test_a_reading_that_other_columns_decide_is_said(tmp_path):
    path = table(tmp_path, [["1,400", "1e8", "5.03"], ["2,500", "1e8", "4.01"]])
    with pytest.warns(UserWarning, match=r"N: 1,400 is read as 1400, .* a decimal point"):
        assert read_file(Path(path))["N"].tolist() == [1400, 2500]
    assert read(path, decimal="comma")["N"].tolist() == [1.4, 2.5]


def test_points_are_groups_only_where_a_comma_is_decimal(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N;D;L\n1.400;2e7;5,03\n2.500;2e7;4,01\n")
    assert read(path)["N"].tolist() == [1400, 2500]
    path.write_text("N;D;L\n1.400;2e7;5.035\n2.500;2e7;4.012\n")
    assert read(path)["N"].tolist() == [1.4, 2.5]
    assert read(path, decimal=",")["N"].tolist() == [1400, 2500]


def test_a_file_with_both_marks_is_read_column_by_column(tmp_path):
    path = table(tmp_path, [["1e6", "0.5", "5,0351"], ["1e6", "0.75", "4,617"]])
    got = read(path)
    assert got["D"].tolist() == [0.5, 0.75] and got["L"].tolist() == [5.0351, 4.617]


def test_groups_beside_long_numbers_are_thousands():
    assert parsed(pd.Series(["1,000", "2000"])).tolist() == [1000, 2000]
    assert np.isnan(parsed(pd.Series(["1,000", "2"]))[0])


def test_a_space_between_groups_leaves_either_mark_to_be_decimal(tmp_path):
    for loss in ("5,035", "5.035", "5.035 ± 0.004", "5,035 ± 1,004"):
        assert read(table(tmp_path, [["1 400 000", "1e8", loss]]))["L"].tolist() == [5.035]


def test_a_word_in_a_column_does_not_hide_its_locale(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N;L;status\n1e6;5,0351;ok\n1e6;1,234;ok\n1e6;boom;failed\n")
    assert load(path, need=("N", "L"))["L"].tolist()[:2] == [5.0351, 1.234]


# ------------------------------------------------------------------ standard errors


def surface() -> pd.DataFrame:
    """Return exact losses of chinchilla's law on a grid, as they are printed."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e8, 5e10, 5)))
    return pd.DataFrame({"N": N, "D": D, "L": 1.8 + 400 / N**0.34 + 1500 / D**0.36})


def test_the_second_number_is_the_standard_error(tmp_path):
    rows = [["1e6", "1e8", "5.03 ± 0.004"], ["2e6", "1e8", "4.61 ± 0.003"], ["3e6", "1e8", "4.5"]]
    got = read(table(tmp_path, rows))
    assert got["L"].tolist() == [5.03, 4.61, 4.5]
    assert got["L_stderr"].tolist()[:2] == [0.004, 0.003] and np.isnan(got["L_stderr"][2])
    mine = got.assign(L=["5.03 ± 1", "4 ± 1", "4"], L_stderr=[0.1, 0.2, 0.3])
    assert load(mine, need=("N", "L"))["L_stderr"].tolist() == [0.1, 0.2, 0.3]  # the table's own


def test_standard_errors_weigh_rows_if_asked(tmp_path):
    runs = surface()
    precise = np.arange(len(runs)) % 5 != 0
    runs["L"] = np.where(precise, runs["L"], runs["L"] * 1.05)
    error = np.where(precise, 1e-5, 0.2)
    text = runs.assign(L=[f"{v:.8f} ± {e:.5f}" for v, e in zip(runs["L"], error, strict=True)])
    loaded = load(text, need=("N", "D", "L"))
    options = {"objective": "ls", "bootstrap": 0}
    plain = fit(laws.chinchilla, loaded, **options)
    weighted = fit(laws.chinchilla, loaded, weights="stderr", **options)
    assert abs(weighted.params["alpha"] - 0.34) < 1e-3 < abs(plain.params["alpha"] - 0.34)
    by_hand = fit(laws.chinchilla, loaded, weights=(loaded["L"] / error) ** 2, **options)
    same = [fit(laws.chinchilla, loaded, weights="L_stderr", **options),
            fit(laws.chinchilla, loaded.rename(columns={"L_stderr": "loss_se"}), weights="stderr",
                **options)]  # fmt: skip
    for other in (by_hand, *same):
        assert other.params == pytest.approx(weighted.params, rel=1e-6)
    raw = fit(laws.chinchilla, loaded, weights="stderr", on="raw", **options)
    hand = fit(laws.chinchilla, loaded, weights=error**-2.0, on="raw", **options)
    assert raw.params == pytest.approx(hand.params, rel=1e-6)
    with pytest.raises(TableError, match=r"need a column 'L_stderr'.*--map COLUMN=L_stderr"):
        fit(laws.chinchilla, surface(), weights="stderr")
    with pytest.raises(TableError, match="'L_stderr' must be positive and finite"):
        fit(laws.chinchilla, loaded.assign(L_stderr=0.0), weights="stderr")


def test_the_command_line_weighs_rows_too(tmp_path, capsys):
    rows = [[f"{n:.0f}", f"{d:.0f}", f"{v:.5f} ± 0.004"] for n, d, v in surface().to_numpy()]
    path = table(tmp_path, rows)
    main(["fit", path, "--weights", "stderr", "--bootstrap", "0"])
    assert "25 rows" in capsys.readouterr().out
    plain = tmp_path / "plain.csv"
    surface().to_csv(plain, index=False)
    with pytest.raises(SystemExit):
        main(["fit", str(plain), "--weights", "stderr"])
    assert "--map COLUMN=L_stderr" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [1e-25, 1e-300, 1e300])
def test_weights_are_relative_whatever_their_size(scale):
    runs = surface()
    runs["L"] *= 1 + 0.002 * np.sin(np.arange(len(runs)))
    weights = 1 + np.arange(len(runs)) % 3.0
    expected = fit(laws.chinchilla, runs, weights=weights, bootstrap=50)
    got = fit(laws.chinchilla, runs, weights=weights * scale, bootstrap=50)
    assert got.params == pytest.approx(expected.params, rel=1e-9)
    assert got.stderr == pytest.approx(expected.stderr, rel=1e-6)
    assert got.objective == pytest.approx(expected.objective)
