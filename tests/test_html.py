"""What a notebook shows of results, and messages for arguments of the wrong kind."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import make_sweep
from small import SMALL

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
    small_plots,
    style,
    validate,
)
from analysis.comparison.joint import joint_fit
from analysis.curves.joint import fit_joint
from analysis.curves.simulated import simulate
from analysis.fitting.checks import FitError
from analysis.laws import LawError, Range
from scaling import notebook as progress_page
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


def test_results_have_small_plots_that_are_well_formed(fits):
    """SVG with a name for screen readers, in the colour of the text, with every dot inside."""
    for name, each in results(fits).items():
        page = each._repr_html_()
        plots = re.findall(r"<svg.*?</svg>", page, re.S)
        wanted = {"fit": 2, "frontier": 1, "plan": 1, "plans": 1}
        assert len(plots) == wanted.get(name, 0), name
        for plot in plots:
            root = ElementTree.fromstring(plot)
            assert root.get("role") == "img" and root.get("aria-label")
            assert root.get("fill") == "currentColor" and "nan" not in plot
            width, height = map(float, root.get("viewBox", "").split()[2:])
            circles = [each for each in root if each.tag == "circle"]
            assert all(0 <= float(each.get("cx")) <= width for each in circles)
            assert all(0 <= float(each.get("cy")) <= height for each in circles)
        assert sum(map(len, plots)) < 40_000, name


def test_the_plot_of_a_fit_shows_every_row_and_that_of_plans_every_law(fits):
    page = fits["chinchilla"]._repr_html_()
    law, residuals = re.findall(r"<svg.*?</svg>", page, re.S)
    assert law.count("<circle") == residuals.count("<circle") == fits["chinchilla"].n
    page = plans(fits, rank=True, C=1e16)._repr_html_()
    (losses,) = re.findall(r"<svg.*?</svg>", page, re.S)
    assert losses.count("<circle") == 2 and "kaplan_ND</text>" in losses


def test_plots_of_values_without_sense_are_left_out_or_drawn_without_them():
    nan, inf = float("nan"), float("inf")
    assert small_plots.Plot("x", "y").dots([1], [1]).svg() == ""
    assert small_plots.Plot("x", "y", log_x=True).dots([-1, 0, 2], [1, 1, 1]).svg() == ""
    drawn = small_plots.Plot("x", "<y>").dots([1, 2, nan, 3], [1, inf, 1, 2]).svg()
    assert drawn.count("<circle") == 2 and "&lt;y&gt;" in drawn
    band = small_plots.Plot("x", "y").line([1, 2], [1, 2]).band([1, 2], [0, nan], [1, 2]).svg()
    assert "polygon" not in band
    rows = [(3.0, nan, inf), (nan, 1.0, 2.0), (3.5, 3.0, 4.0)]
    drawn = small_plots.intervals(["a", "b<", "c"], rows, "L")
    assert drawn.count("<circle") == 2 and "b&lt;" in drawn and "nan" not in drawn
    assert small_plots.intervals(["a"], [(nan, nan, nan)], "L") == ""


def test_joint_fits_are_shown_as_html():
    both = joint_fit(laws.chinchilla, (RUNS, RUNS.assign(L=1.01 * RUNS["L"])), bootstrap=20)
    page = both._repr_html_()
    Cells(page)
    assert "Two recipes" in page and page.count("<svg") == 2
    sweep = simulate([1e4, 1e5, 1e6], [4e5, 1.6e6, 6.4e6], points=16)
    page = fit_joint(sweep.curves, rates=sweep.rates, n_boot=20)._repr_html_()
    found = Cells(page).cells
    assert "90 % interval" in found and page.count("<svg") == 1 and "3 sizes" in page


def test_importing_notebook_displays_needs_no_matplotlib():
    code = "import sys, analysis, analysis.notebook, analysis.small_plots\n"
    code += "print({'matplotlib', 'IPython', 'ipywidgets'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ------------------------------------------------------------------ progress in a notebook


def executed(tmp_path, *cells: str) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Run cells in a Jupyter kernel; return the HTML that was shown on the way, as (type of the
    message, HTML), and the HTML that is left of each cell."""
    client, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    shown: list[tuple[str, str]] = []

    class Watched(client.NotebookClient):
        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] in ("display_data", "update_display_data"):
                shown.append((msg["msg_type"], msg["content"]["data"].get("text/html", "")))
            return super().process_message(msg, cell, cell_index)

    absent = (
        "import sys\nclass Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'ipywidgets': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import os; os.environ['SCALING_PROGRESS'] = '1'"
    )
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (absent, *cells)]
    )
    with contextlib.chdir(tmp_path):
        Watched(notebook, timeout=250).execute()
    left = [
        [o.data.get("text/html", "") for o in cell.outputs if "data" in o]
        for cell in notebook.cells[1:]
    ]
    return shown, left


def test_a_sweep_in_a_notebook_shows_a_bar_that_ends_full(here):
    pytest.importorskip("torch")
    (here / "small.toml").write_text(SMALL)
    cell = (
        "import sweeps.display\nsweeps.display._TICK_SECONDS = 0.02\n"
        "from sweeps import Sweep\nSweep.from_toml('small.toml').run(in_process=True);"
    )
    shown, (left,) = executed(here, cell)
    bars = [(kind, page) for kind, page in shown if "/2 runs" in page and "<progress" in page]
    assert bars[0][0] == "display_data" and len(bars) > 1
    assert {kind for kind, _ in bars[1:]} == {"update_display_data"}
    (bar,) = [page for page in left if "<progress" in page]
    assert 'value="100.0"' in bar and "2/2 runs" in bar
    assert not any("widget" in page for _, page in shown)


def test_a_long_step_in_a_notebook_is_shown_and_gone_at_the_end_of_the_cell(tmp_path):
    cells = (
        "import time\nfrom scaling import progress\n"
        "progress.step('fitting <law>', '3 of 10'); time.sleep(2.2)",
        "progress.step('quick')",
        "with progress.silent():\n    progress.step('no'); time.sleep(1.7)",
    )
    shown, left = executed(tmp_path, *cells)
    assert 'value="30.0"' in shown[0][1] and "fitting &lt;law&gt;: 3 of 10" in shown[0][1]
    assert all("quick" not in page and "no" not in page.split() for _, page in shown)
    assert left == [[""], [], []]


def test_outside_of_notebooks_no_page_is_shown():
    assert not progress_page.active() and progress_page.steps() is None
    assert "value" not in progress_page.bar(None, "working")
    assert 'value="100.0"' in progress_page.bar(250, "<b>") and "<b>" not in progress_page.bar(
        0, "<b>"
    )


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


def test_cards_fit_wide_and_narrow_pages(fits, tmp_path, browser):
    """In a browser, tables scroll by themselves and the page does not."""
    body = "<hr>".join(each._repr_html_() for each in results(fits).values())
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{body}")
    for width in (1200, 500):
        browser.set_window_size(width, 800)
        browser.get(f"file://{tmp_path}/page.html")
        script = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(script) <= 0, width


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
