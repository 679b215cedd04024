"""Laws: the formulas against their papers, the decorator, finding one by name."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from analysis import LawError, Range, law, laws, published
from analysis.laws import forms


def test_chinchilla_at_chinchilla():
    # Hoffmann et al. 2022, eq. 10 and Table 4: 70B parameters, 1.4T tokens.
    loss = published.hoffmann2022.approach3.predict(N=70e9, D=1.4e12)
    assert loss == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28, rel=1e-12)
    assert loss == pytest.approx(1.937, abs=1e-3)


def test_muennighoff_readme_examples():
    # github.com/huggingface/datablations, README: two allocations of one budget.
    form = published.muennighoff2023
    assert form.predict(N=6.34e9, D=242e9, D_unique=25e9) == pytest.approx(2.2256440889984477)
    assert form.predict(N=8.67e9, D=178e9, D_unique=25e9) == pytest.approx(2.2269634075087867)


def test_muennighoff_without_repetition_is_chinchilla():
    p = dict(published.muennighoff2023.params)
    N, D = np.array([1e8, 1e9]), np.array([1e11, 4e11])  # N below what D alone makes optimal
    base = {k: p[k] for k in ("E", "A", "B", "alpha", "beta")}
    expected = laws.chinchilla(N, D, **base)
    assert laws.muennighoff.predict(p, N=N, D=D, D_unique=D) == pytest.approx(expected)


def test_gadre_in_both_of_its_forms():
    p = published.gadre2024.c4.params
    N, D = 4e8, 3e10
    M, C = D / N, 6 * N * D
    stated = p["E"] + (p["a"] * M ** p["eta"] + p["b"] * M ** -p["eta"]) * C ** -p["eta"]
    assert published.gadre2024.c4.predict(N=N, D=D) == pytest.approx(stated, rel=1e-12)


def test_mccandlish_is_the_hyperbola_of_the_paper():
    # McCandlish et al. 2018, eq. 2.11: (S / S_min - 1)(E / E_min - 1) = 1, E = B S.
    p, B = {"S_min": 5e3, "E_min": 1e9}, np.geomspace(1e3, 1e7, 9)
    S = laws.mccandlish.predict(p, B=B)
    assert (S / p["S_min"] - 1) * (B * S / p["E_min"] - 1) == pytest.approx(np.ones(9))


def test_kaplan_surface_has_the_papers_limits():
    p = published.kaplan2020.L_ND.params
    far = laws.kaplan_ND.predict(p, N=1e9, D=1e30)
    assert far == pytest.approx((p["N_c"] / 1e9) ** p["alpha_N"])
    assert laws.kaplan_ND.predict(p, N=1e30, D=1e10) == pytest.approx(
        (p["D_c"] / 1e10) ** p["alpha_D"]
    )


def test_bottleneck_with_k_one_is_chinchilla_and_with_large_k_the_worse_of_two():
    p = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.33, "beta": 0.31}
    N, D = np.geomspace(1e7, 1e10, 5), np.geomspace(1e11, 1e8, 5)
    assert laws.bottleneck(N, D, **p, k=1.0) == pytest.approx(laws.chinchilla(N, D, **p))
    worse = p["E"] + np.maximum(400 * N**-0.33, 900 * D**-0.31)
    assert laws.bottleneck(N, D, **p, k=200.0) == pytest.approx(worse, rel=1e-2)


def test_broken_slopes_on_both_sides_and_no_overflow_at_a_sharp_break():
    form = laws.broken("D")
    p = {"E": 0.1, "A": 50.0, "c_0": 0.1, "c_1": 0.3, "d_1": 1e9, "f_1": 0.01}
    D = np.array([1e5, 1e6, 1e12, 1e13])
    y = np.log(form.predict(p, D=D) - 0.1)
    slope = np.diff(y) / np.diff(np.log(D))
    assert slope[0] == pytest.approx(-0.1) and slope[2] == pytest.approx(-0.4)
    assert form.predict({**p, "f_1": 1e-6}, D=1e13) == pytest.approx(form.predict(p, D=1e13))


def test_broken_without_breaks_is_a_floor():
    x = np.geomspace(1e3, 1e9, 7)
    straight = laws.broken("N", 0).predict({"E": 1.0, "A": 9.0, "c_0": 0.2}, N=x)
    floor = laws.floor("N").predict({"E": 1.0, "A": 9.0, "alpha": 0.2}, N=x)
    assert straight == pytest.approx(floor)


def test_routed_saturates_at_both_ends():
    # Clark et al. 2022: one expert acts as E_start, very many as E_max.
    p = {"a": -0.08, "b": -0.1, "c": 0.009, "d": 1.1, "E_start": 2.0, "E_max": 300.0}
    N = 1e8

    def plain(E):
        return 10 ** (-0.08 * 8 - 0.1 * np.log10(E) + 0.009 * 8 * np.log10(E) + 1.1)

    assert laws.routed.predict(p, N=N, E=1.0) == pytest.approx(plain(2.0))
    assert laws.routed.predict(p, N=N, E=1e12) == pytest.approx(plain(300.0))


def test_every_law_has_a_formula_and_a_source():
    rows = laws.table()
    assert len(rows) == len(laws.LAWS) >= 20
    assert (rows["source"].str.len() > 10).all()
    for each in laws.LAWS.values():
        assert set(each.params) and "=" in each.formula


def test_every_law_is_a_public_name_of_the_package():
    for name, each in laws.LAWS.items():
        assert getattr(laws, name) is each and name in laws.__all__
    assert all(hasattr(laws, name) for name in laws.__all__)


def test_a_law_in_ten_lines():
    @law(E=Range(0.3, 3), A=Range(1, 1e4), alpha=Range(0.1, 1), kappa=Range(1e-3, 1e3))
    def shared(N, D, *, E, A, alpha, kappa):
        """L(N, D) = E + A (1/N + kappa/D)^alpha."""
        return E + A * (1 / N + kappa / D) ** alpha

    assert shared.inputs == ("N", "D") and shared.params == ("E", "A", "alpha", "kappa")
    assert shared.formula == "L(N, D) = E + A (1/N + kappa/D)^alpha"
    value = shared(1e6, 1e9, E=1, A=2, alpha=0.5, kappa=10)
    assert value == pytest.approx(1 + 2 * 1.1e-6**0.5 * (1.01 / 1.1) ** 0.5)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"E": Range(0.3, 3)}, "'A' of its signature has no Range"),
        ({"E": Range(0.3, 3), "A": Range(1, 2), "B": Range(1, 2)}, "Range given for 'B'"),
        ({"E": Range(0.3, 3), "A": (1, 2)}, "must be a Range"),
        ({"E": Range(0.3, 3), "A": Range(1, 1, of="D")}, "not an input"),
    ],
)
def test_signature_and_ranges_must_agree(ranges, message):
    def form(N, *, E, A):
        return E + A / N

    with pytest.raises(LawError, match=message):
        law(**ranges)(form)


def test_a_law_needs_inputs_parameters_and_sane_ranges():
    with pytest.raises(LawError, match="no input"):
        law(A=Range(1, 2))(lambda *, A: A)
    with pytest.raises(LawError, match="nothing to fit"):
        law()(lambda N, A: A / N)
    with pytest.raises(LawError, match="empty"):
        Range(3, 1)
    with pytest.raises(LawError, match="finite"):
        Range(1, np.inf)


def test_resolve_by_name_column_and_file(tmp_path):
    assert laws.resolve("chinchilla") is laws.chinchilla
    assert laws.resolve(laws.gadre) is laws.gadre
    assert laws.resolve("floor_seen").inputs == ("seen",)
    assert laws.resolve("broken_D_2").params[-1] == "f_2"
    with pytest.raises(LawError, match="Did you mean 'chinchilla'"):
        laws.resolve("chinchila")
    file = tmp_path / "mine.py"
    file.write_text(
        "from analysis import law, Range\n"
        "@law(A=Range(1, 10))\n"
        "def one(N, *, A):\n"
        '    """L(N) = A / N."""\n'
        "    return A / N\n"
    )
    assert laws.resolve(f"{file}:one").formula == "L(N) = A / N"
    assert laws.resolve(str(file)).name == "one"
    with pytest.raises(LawError, match="has no law 'two'; it has one"):
        laws.resolve(f"{file}:two")
    with pytest.raises(LawError, match="no such file"):
        laws.resolve(f"{tmp_path}/absent.py:one")
    good = file.read_text()
    for bad, message in (
        ("1 / 0\n", "cannot be loaded: ZeroDivisionError"),
        ("import sys; sys.exit(0)\n", "cannot be loaded: SystemExit"),
        (good.replace("A / N\n", "A / M\n"), "the law one cannot be computed: NameError"),
    ):
        file.write_text(bad)
        with pytest.raises(LawError, match=message):
            laws.resolve(f"{file}:one")


def test_laws_pickle_and_are_keys(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from analysis import law, Range\n@law(A=Range(1, 10))\n"
        "def one(N, *, A):\n    return A / N\n"
    )
    made = [laws.power("tokens"), laws.floor("N"), laws.broken("N", 2), laws.broken("x_2")]
    for each in (*laws.LAWS.values(), *made, laws.resolve(f"{file}:one")):
        again = pickle.loads(pickle.dumps(each))
        assert again == each and {each: 1}[again] == 1 and again.params == each.params
        x = dict.fromkeys(each.inputs, 7.0)
        p = {q: 0.6 + 0.1 * i for i, q in enumerate(each.params)}
        assert again.predict(p, **x) == each.predict(p, **x)
    assert laws.broken("N", 2) != laws.broken("N") == forms.broken_N
    assert laws.floor("N") == forms.floor_N != forms.floor_D

    @law(A=Range(1, 10))
    def local(N, *, A):
        return A / N

    with pytest.raises(pickle.PicklingError, match="Define it at the top of a module"):
        pickle.dumps(local)


def test_columns_are_passed_by_name():
    with pytest.raises(LawError, match=r"chinchilla needs N, D; got N. .*predict\(N=..., D=...\)"):
        published.besiroglu2024.predict(N=1e9)
    with pytest.raises(LawError, match="got N, D, C"):
        published.besiroglu2024.predict(N=1e9, D=1e10, C=1e20)


def test_whole_numbers_do_not_overflow():
    p = {"E": 1.69, "a": 400.0, "b": 400.0, "eta": 0.12}
    N, D = np.array([7 * 10**10]), np.array([14 * 10**11])
    plain = laws.gadre(N.astype(float), D.astype(float), **p)
    assert laws.gadre(N, D, **p) == pytest.approx(plain, rel=1e-12)
    assert laws.gadre(7 * 10**10, 14 * 10**11, **p) == pytest.approx(plain[0], rel=1e-12)
    assert laws.power("N")(np.array([8]), A=1.0, alpha=1.0) == pytest.approx(0.125)


def test_less_than_an_epoch_is_data_without_repetition():
    p = {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35, "beta": 0.35, "R_N": 5.3, "R_D": 15.4}
    part = laws.muennighoff(1e8, 1e9, 1e11, **p)  # D a hundredth of D_unique
    assert np.isfinite(part) and part == pytest.approx(laws.muennighoff(1e8, 1e9, 1e9, **p))
    tiny = laws.muennighoff(1e8, 1e9, 1e15, **p)
    assert tiny == pytest.approx(part)
