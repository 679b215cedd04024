"""What a notebook shows of results, and messages for arguments of the wrong kind."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from conftest import make_sweep

from analysis import (
    contours,
    critical_batch,
    data_rule,
    design,
    fit,
    frontier,
    law,
    laws,
    notebook,
    plan,
    plans,
    style,
    validate,
)
from analysis.fitting.checks import FitError
from analysis.laws import LawError, Range
from scaling.errors import TableError

RUNS, CURVES = make_sweep()


@pytest.fixture(scope="module")
def fits():
    return {name: fit(name, RUNS, bootstrap=50) for name in ("chinchilla", "kaplan_ND")}


class Cells(HTMLParser):
    """Cells of the tables of a page; raises AssertionError for tags that are not closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.styles: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.styles += [value or "" for key, value in attrs if key in ("style", "class", "bgcolor")]
        if tag == "br":
            return
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def results(fits) -> dict[str, object]:
    every = frontier(RUNS, method="all", curves=CURVES, bootstrap=20)
    points = pd.DataFrame(
        [{"L": L, "B": B, "S": 100 * (1 + 5e3 / L**4 / B) / L} for L in (3.0, 3.5, 4.0)
         for B in (32, 128, 512, 2048)]
    )  # fmt: skip
    return {
        "law": laws.kaplan_ND,
        "fit": fits["chinchilla"],
        "frontier": every.fronts["parametric"],
        "comparison": every,
        "plan": plan(fits["chinchilla"], C=1e16),
        "plans": plans(fits, rank=True, C=1e16),
        "validation": validate("chinchilla", RUNS, bootstrap=20),
        "critical batch": critical_batch(points, bootstrap=20),
    }


def test_results_are_tables_that_are_well_formed_and_have_no_colours(fits):
    for name, each in results(fits).items():
        page = each._repr_html_()
        found = Cells(page)
        assert len(found.cells) >= 6, name
        assert all("color" not in style and "background" not in style for style in found.styles)
        assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split(), name
        assert not re.search(r"\de[+-]\d", "".join(found.cells)), name  # 1.5 × 10^6, not 1.5e+06


def test_numbers_have_three_digits_and_symbols_subscripts(fits):
    page = fits["kaplan_ND"]._repr_html_()
    assert "<i>α<sub>N</sub></i>" in page and "<i>N<sub>c</sub></i>" in page
    value = fits["kaplan_ND"].params["alpha_N"]
    assert f"<td>{value:.3g}</td>" in page
    assert notebook.number(1.4949e6) == "1.49\u00a0×\u00a010<sup>6</sup>"
    assert notebook.number(-0.0446) == "−0.0446"
    assert notebook.number(float("nan")) == "–" and notebook.number(float("inf")) == "∞"
    assert notebook.expression("A / N^alpha") == "<i>A</i> / <i>N</i><sup><i>α</i></sup>"
    assert notebook.expression("x_1^(1 / (a + b)) < y") == (
        "<i>x<sub>1</sub></i><sup>1 / (<i>a</i> + <i>b</i>)</sup> &lt; <i>y</i>"
    )


def test_an_interval_that_says_nothing_is_not_shown_as_numbers():
    assert notebook.interval(float("nan"), 1.0) == "no interval"
    assert notebook.interval(0.0, float("inf")) == "not identified"
    assert notebook.interval(float("-inf"), float("inf")) == "not identified"
    assert notebook.interval(0.1, 6e20) == "not identified"
    assert notebook.interval(-2.0, float("inf")) == "[−2, not bounded above]"
    assert notebook.interval(1e-12, 2.9) == "[0,\u00a02.9]"


def test_names_and_formulas_of_users_are_escaped():
    @law(E=Range(1, 3), k=Range(0.1, 1))
    def own(N, *, E, k):
        """L(N) = E + <script>alert(1)</script> & k / N."""
        return E + k / N

    assert "<script" not in own._repr_html_() and "&lt;" in own._repr_html_()
    renamed = fit(own, RUNS, bootstrap=0)
    assert "<script" not in renamed._repr_html_()
    Cells(renamed._repr_html_())


def test_a_plan_shows_what_was_asked_and_what_to_train(fits):
    cells = Cells(plan(fits["chinchilla"], C=1e16)._repr_html_()).cells
    assert "asked for" in cells and "parameters" in cells and "nats per token" in cells
    assert "Train" in plan(fits["chinchilla"], C=1e16)._repr_html_()


def test_cards_fit_wide_and_narrow_pages(fits, tmp_path):
    """In a browser, tables scroll by themselves and the page does not."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    body = "<hr>".join(each._repr_html_() for each in results(fits).values())
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{body}")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        for width in (1200, 500):
            browser.set_window_size(width, 800)
            browser.get(f"file://{tmp_path}/page.html")
            script = "return document.documentElement.scrollWidth - window.innerWidth"
            assert browser.execute_script(script) <= 0, width
    finally:
        browser.quit()


# ------------------------------------------------------------------ the plot of a fit


@pytest.mark.parametrize(("width", "inches"), [("full", style.FULL), ("column", style.COLUMN)])
def test_plot_of_a_fit_has_the_house_style_and_units(fits, width, inches):
    figure = fits["chinchilla"].plot(width=width)
    left, right = figure.axes
    assert figure.get_size_inches()[0] == inches
    assert left.get_ylabel() == "Measured: Test loss $L$ [nats/token]"
    assert left.get_xlabel() == "Fitted by chinchilla: Test loss $L$ [nats/token]"
    assert right.get_xlabel() == "Parameters $N$" and right.get_ylabel() == "Residual [%]"
    assert left.xaxis.label.get_fontfamily() == ["STIXGeneral"]
    assert not left.spines["top"].get_visible()
    measured = np.sort(left.lines[0].get_ydata())
    assert measured == pytest.approx(np.sort(RUNS["L"]))
    assert style.label("lr_peak") == "lr_peak" and style.label("seconds") == "seconds [s]"


# ------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda f: fit(RUNS, "chinchilla"), r"fit\(law, runs\): the arguments are swapped"),
        (lambda f: validate(RUNS, laws.chinchilla), r"validate\(law, runs\): the arguments are sw"),
        (lambda f: fit("chinchilla", "runs.csv"), r"Read it first: load\('runs.csv'\)"),
        (lambda f: fit(f, RUNS), r"fit\(law, runs\): law is a fit. Give its law: result.law."),
        (lambda f: fit(RUNS, RUNS), "law is a table. Give a law or its name"),
        (lambda f: fit("chinchilla", f), "runs is a fit. It must be a table"),
        (lambda f: validate(f, RUNS), "law is a fit. Give its law"),
        (lambda f: plan(laws.chinchilla, C=1e18), "source is a law. It must be a fit"),
        (lambda f: plan({"chinchilla": f}, C=1e18), r"plans\(\) takes several fits"),
        (lambda f: plan("results", C=1e18), r"Read it first: load\('results'\)"),
        (lambda f: plans(f, C=1e18), "sources is a fit. It must be fits by name"),
        (lambda f: plans(RUNS, C=1e18), "sources is a table. It must be fits by name"),
        (lambda f: frontier("results"), r"Read it first: load\('results'\)"),
        (lambda f: frontier(laws.chinchilla), "data is a law. It must be a table"),
        (lambda f: frontier(plan(f, C=1e16)), "data is a plan. It must be a table"),
        (lambda f: design(RUNS, budget=1e15), "result is a table. Fit a law first"),
        (lambda f: data_rule(RUNS), "result is a table. Fit kaplan_ND first"),
        (lambda f: critical_batch(f), "points is a fit. It must be a table, as contours"),
        (lambda f: contours("results"), r"Read it first: load\('results'\)"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(fits, wrong, message):
    with pytest.raises(TypeError, match=message):
        wrong(fits["chinchilla"])


def test_an_unknown_word_is_answered_with_the_nearest():
    with pytest.raises(FitError, match=r"objective='hubr' is not known: .*Did you mean 'huber'"):
        fit("chinchilla", RUNS, objective="hubr")
    with pytest.raises(FitError, match=r"intervals='boot' is not known"):
        fit("chinchilla", RUNS, intervals="boot")
    with pytest.raises(TableError, match=r"method='isoflops' is not known.*mean 'isoflop'"):
        frontier(RUNS, method="isoflops")
    with pytest.raises(LawError, match="is not a law: give a Law, its name"):
        laws.resolve(3)  # type: ignore[arg-type]


def test_a_misspelt_law_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match=r"no attribute 'chinchila'. Did you mean 'chinchi"):
        laws.chinchila  # noqa: B018
    with pytest.raises(AttributeError, match=r"Known: .*kaplan_ND"):
        laws.zzz  # noqa: B018
    assert not hasattr(laws, "__wrapped__")
    assert set(laws.LAWS) <= set(dir(laws))
    assert not {"annotations", "importlib", "TYPE_CHECKING"} & set(dir(laws))


def test_words_of_public_functions_are_literals():
    """Type checkers and editors know every word that an option takes."""
    import inspect
    import typing

    for function, names in (
        (fit, ("objective", "on", "reduce", "intervals")),
        (frontier, ("method",)),
    ):
        hints = inspect.signature(function, eval_str=True).parameters
        for name in names:
            text = str(hints[name].annotation)
            assert "Literal" in text and str(typing.get_args(hints[name].annotation)), name
