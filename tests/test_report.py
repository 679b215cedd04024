import base64
import json
import re
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import emulate, make_sweep
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text

from analysis import laws
from analysis.figures import registry, style
from analysis.latex import tabular
from analysis.reporting.formulas import mathml
from analysis.reporting.html import report
from scaling import table
from scaling.columns import COLUMNS
from scaling.errors import TableError


class Page(HTMLParser):
    """A parser of a page that records the tags still open and all tags seen."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.rows = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def data_of(text):
    """What the page's script reads."""
    return json.loads(
        text.partition('<script id="data" type="application/json">')[2].partition("</script>")[0]
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(page, runs, curves) of a sweep with two tags and a run that diverged."""
    folder = tmp_path_factory.mktemp("sweep")
    runs, curves = make_sweep()
    runs = runs.assign(tag=["wide" if i % 2 else "<!--<script>" for i in range(len(runs))])
    bad = runs.iloc[0].to_dict() | {
        "run_id": "bad", "status": "diverged", "L": float("nan"), "error": "loss > 2 <ln V>",
    }  # fmt: skip
    table.write(folder, [*runs.to_dict("records"), bad], curves.to_dict("records"))
    manifest = {"name": "mine", "description": "a & b", "spec": 'name = "mine"', "schema": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    kept = {name: registry.FIGURES[name] for name in ("kaplan2", "kaplan5")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry, "FIGURES", kept)
        path = report(folder)
    assert path == folder / "report.html"
    return path, runs, curves


def test_report_is_one_complete_page(written):
    path, runs, _ = written
    text = path.read_text()
    page = Page(text)
    assert not page.open
    figures = [attrs["id"] for tag, attrs in page.seen if tag == "figure" and "id" in attrs]
    assert figures == ["kaplan2"] and text.count("<img ") == 1
    body = text[text.index('<table id="runs"') :]
    body = body[: body.index("</table>")]
    shown = min(50, 1 + len(runs))
    assert body.count("<tr>") == 1 + shown and runs["run_id"].iloc[3] in body
    assert set(data_of(text)["runs"]["id"]) == {*runs["run_id"], "bad"}
    assert "loss > 2 <ln V>" in data_of(text)["runs"]["error"] and "a &amp; b" in text
    for word in (
        "chinchilla",
        "Held-out error",
        "frontier",
        "10 times the compute of the largest run",
        "100 times the compute",
        "tagged feed_forward",
    ):
        assert re.search(word, text, flags=re.I), word
    for tag, attrs in page.seen:  # nothing is loaded
        address = attrs.get("src") or attrs.get("href") or attrs.get("xlink:href") or "#"
        assert address.startswith(("#", "data:")), (tag, address)
    assert "@import" not in text and "url(http" not in text


def test_the_page_is_read_in_the_order_of_its_questions(written):
    text = written[0].read_text()
    body = text[text.index("<main>") :]
    marks = [
        'id="plot-hero"', "Why believe it", 'id="plot-backtest"', 'id="plot-residuals-N"',
        'id="plot-laws"', "What it costs to deviate", "<h2>Plans", "<h2>Laws",
        "<h2>Experiments", "<h2>Runs",
        "<h2>Provenance",
    ]  # fmt: skip
    assert sorted(marks, key=body.index) == marks
    first = re.search(r"<section|<figure|<h2", body)
    assert first and first[0] == "<section"  # the answer stands above everything
    assert body.count("<math") > 10 and "<pre>train" not in body


def test_the_page_is_interactive_in_a_browser(written, browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    page, runs, curves = written
    browser.get(page.as_uri())
    ask, find = browser.execute_script, browser.find_element

    def listed():
        return set(ask("return [...document.querySelectorAll('#runs td:first-child')]"
                       ".map(cell => cell.textContent)"))  # fmt: skip

    def point(run):
        """The middle of the point of a run in the first figure, from the figure's middle."""
        return ask(
            "const canvas = document.getElementById('plot-hero'), data = JSON.parse("
            "document.getElementById('data').textContent), k = data.runs.id.indexOf(arguments[0]);"
            "const at = canvas.plot.drawn.find(point => point.run === k);"
            "return [at.px - canvas.clientWidth / 2, at.py - canvas.clientHeight / 2]",
            run,
        )

    ok = runs[runs.status == "ok"]
    assert listed() == {*ok.run_id, "bad"} and len(ok) < 50
    # hovering over a point shows the run's config
    hero = find("id", "plot-hero")
    ask("arguments[0].scrollIntoView({block: 'center'})", hero)
    chosen = ok.sort_values("C").run_id.iloc[-1]
    ActionChains(browser).move_to_element_with_offset(hero, *map(round, point(chosen))).perform()
    wait_for(lambda: chosen in find("id", "run").text)
    assert "N = " in find("id", "run").text
    assert chosen in find("css selector", "tr.marked").text
    # the curve that is drawn is the run's
    drawn = ask(
        "const p = document.getElementById('plot-hero').plot, d = JSON.parse("
        "document.getElementById('data').textContent), k = d.runs.id.indexOf(arguments[0]),"
        "a = d.curves.axes.L, u = new Uint16Array("
        "Uint8Array.from(atob(a.data), c => c.charCodeAt(0)).buffer);"
        "return [...u.slice(d.curves.starts[k], d.curves.starts[k + 1])].map("
        "s => Math.exp(a.low + s * (a.high - a.low) / 65535))",
        chosen,
    )
    assert drawn == pytest.approx(curves[curves.run_id == chosen].sort_values("D").L, rel=1e-4)
    # a click pins it, in every figure
    ActionChains(browser).click().move_to_element(find("tag name", "h1")).perform()
    assert find("css selector", "button[aria-pressed=true]").text == chosen
    assert chosen in find("id", "run").text
    pinned = "return document.getElementById('plot-' + arguments[0]).plot.state.pinned"
    assert ask(pinned, "hero") == ask(pinned, "residuals-N") == ask(pinned, "backtest") >= 0
    # the keyboard goes from run to run, and lets go
    hero.send_keys(Keys.HOME)
    first = find("id", "run").text
    hero.send_keys(Keys.ARROW_RIGHT)
    assert find("id", "run").text != first
    hero.send_keys(Keys.ESCAPE)
    assert not find("id", "chosen").is_displayed()
    # dragging selects runs in all figures and in the table
    ask("arguments[0].scrollIntoView({block: 'center'})", hero)
    width, height = hero.size["width"], hero.size["height"]
    ActionChains(browser).move_to_element_with_offset(
        hero, 0, 2 - height // 2
    ).click_and_hold().move_to_element_with_offset(
        hero, width // 2 - 2, height // 2 - 2
    ).release().perform()
    assert 0 < len(listed()) < len(ok)
    find("id", "runs-clear").click()
    assert listed() == {*ok.run_id, "bad"}
    find("css selector", "#status option:nth-child(2)").click()
    assert listed() == {"bad"} and "loss > 2 <ln V>" in find("css selector", "#runs tbody").text
    find("css selector", "#status option:nth-child(1)").click()
    # tags and words filter the runs
    find("css selector", "#tag option:nth-child(3)").click()
    assert listed() == set(ok.run_id[ok.tag == "wide"])
    one = ok.run_id[ok.tag == "wide"].iloc[1]
    find("id", "search").send_keys(one)
    assert listed() == {one}
    find("id", "search").clear()
    find("css selector", '#runs th[data-name="L"] button').click()
    losses = [float(cell.text) for cell in browser.find_elements("css selector", "#runs td.number")
              if cell.get_attribute("cellIndex") == ask(
                  "return String(document.querySelector('[data-name=L]').cellIndex)")]  # fmt: skip
    assert losses == sorted(losses) and len(losses) > 5
    for option in browser.find_elements("css selector", "#axis option"):
        option.click()
    browser.set_window_size(500, 900)
    wait_for(lambda: ask("return document.documentElement.scrollWidth <= window.innerWidth"))
    assert browser.get_log("browser") == []


def test_figures_follow_the_sliders(written, browser):
    page, runs, _ = written
    browser.get(page.as_uri())
    ask = browser.execute_script
    words = "return ['deviation-words', 'laws-words'].map(id => document.getElementById(id)"
    words += ".textContent)"
    wait_for(lambda: all("With 10 times" in text for text in ask(words)))
    before = ask(
        "const drawn = id => document.getElementById('plot-' + id).plot;"
        "return [drawn('hero').xRange[1], drawn('deviation').xRange[0], drawn('laws').xRange[0]]"
    )
    ask(
        "const at = document.getElementById('planner-C-number');"
        "at.value = arguments[0]; at.dispatchEvent(new Event('input'))",
        str(80 * float(runs.C.max())),
    )
    wait_for(lambda: all("With 80 times" in text for text in ask(words)))
    after = ask(
        "const drawn = id => document.getElementById('plot-' + id).plot;"
        "return [drawn('hero').xRange[1], drawn('deviation').xRange[0], drawn('laws').xRange[0]]"
    )
    assert after[0] > before[0] and after[1] > before[1] and after[2] < before[2]
    assert browser.get_log("browser") == []


def test_the_runs_are_moved_with_the_axes_and_drawn_again_at_rest(written, browser):
    page, runs, _ = written
    browser.get(page.as_uri())
    # For each point: where the picture of the runs shows it, where it is, and where it was drawn.
    places = """
        const plot = document.getElementById('plot-hero').plot;
        const [x, wide] = plot.stretch(plot.runsAt[0], plot.X);
        const [y, high] = plot.stretch(plot.runsAt[1], plot.Y);
        return plot.drawn.map(point => [x + wide * point.px, plot.X(point.x), point.px,
            y + high * point.py, plot.Y(point.y)])
    """
    move = """
        document.dispatchEvent(new CustomEvent('answer', {detail: {C: arguments[0], N: 1e9, D: 1e9,
            L: 0.5, L_low: 0.4, L_high: 0.6}}));
    """
    before = np.array(browser.execute_script(places))
    assert (
        before[:, 0] == pytest.approx(before[:, 2]) and len(before) == (runs.status == "ok").sum()
    )
    during = np.array(browser.execute_script(move + places, 1e6 * float(runs.C.max())))
    assert during[:, 0] == pytest.approx(during[:, 1]) and during[:, 3] == pytest.approx(
        during[:, 4]
    )
    assert np.ptp(during[:, 0]) < 0.9 * np.ptp(before[:, 0])  # the axis reaches further now
    assert during[:, 2] == pytest.approx(before[:, 2])  # and the runs are not drawn again yet

    def rested():
        now = np.array(browser.execute_script(places))
        return np.allclose(now[:, 1], now[:, 2]) and np.allclose(now[:, 0], during[:, 0])

    wait_for(rested)
    assert browser.get_log("browser") == []


def wait_for(found, seconds=5.0):
    end = time.monotonic() + seconds
    while not (answer := found()) and time.monotonic() < end:
        time.sleep(0.05)
    assert answer
    return answer


def test_report_without_results(tmp_path):
    with pytest.raises(TableError, match=r"has no runs\.csv"):
        report(tmp_path)


def test_tables_in_latex():
    index = pd.Index(["alpha_N", "N_c"], name="parameter")
    text = tabular(
        pd.DataFrame({"value": [0.076, 8.8e13], "high": [float("inf"), float("nan")]}, index=index),
        "L(N) = (N_c / N)^alpha_N",
    )
    assert text.startswith("% L(N)") and r"\toprule" in text and r"\begin{tabular}{lrr}" in text
    assert r"$\alpha_{N}$ & $0.076$ & $\infty$ \\" in text
    assert r"$N_{c}$ & $8.8 \cdot 10^{13}$ &  \\" in text
    assert r"50\% of a\_b" in tabular(pd.DataFrame({"x": ["50% of a_b"]}))


def test_untrusted_text_in_latex():
    text = tabular(pd.DataFrame({"a\nb": [r"\input{x}" + "\n\\end", None]}), "a\n\\input{y}")
    assert text.startswith("% a \\input{y}\n") and text.count("input") == 2
    assert r"\textbackslash{}input\{x\} \textbackslash{}end" in text and "a b" in text


@pytest.mark.parametrize(
    "text", [r"$\frac{", "$x$", r"\$x\$", "a $ b", "_hidden", "x" * 500, "a\nb\x1b[31m"]
)
def test_untrusted_text_in_figures(text):
    from matplotlib.figure import Figure

    label = style.words(text)
    figure = Figure()
    ax = figure.subplots()
    ax.plot([1, 2], label=label)
    ax.set_title(label)
    (shown,) = ax.legend().get_texts()
    figure.canvas.draw()
    assert shown.get_text() == label and label.isprintable() and len(label) < 60
    assert not is_math_text(label)


MARK = "window.ran = true"
EVIL = [
    f"<!--<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"--></textarea></style></title><img src=x onerror='{MARK}'>",
    f'"><svg onload="{MARK}">',
    f"<a href=\"javascript:{MARK}\">x</a>&lt;&#39;",
    f"';{MARK};//\u2028\u2029\x00",
    f"</pre></td></table></details><iframe srcdoc='<script>parent.{MARK}</script>'>",
    "$\\frac{ $ %{x} %{customdata} `${1}`",
]  # fmt: skip
"""Text that would run as code, or swallow the rest of the page, wherever it is not escaped."""


HOSTILE_FIGURES = ("kaplan2", "kaplan22", "kaplan7", "kaplan8")


def hostile(folder, sweep):
    """Return a results folder in which every text is one of EVIL."""
    runs, curves = sweep()
    names = {run: f"{run}{EVIL[i % len(EVIL)]}" for i, run in enumerate(runs["run_id"])}
    text = [c.name for c in COLUMNS if c.dtype == "str" and c.name != "status"]
    rows = []
    for i, run in enumerate(runs.to_dict("records")):
        row = {name: EVIL[(i + j) % len(EVIL)] for j, name in enumerate(text)}
        rows.append(row | run | {"run_id": names[run["run_id"]], "n_layer": 1 + i % 2})
    rows = [row | {"corpus": EVIL[0]} for row in rows]
    other = next(text for text in EVIL if text != rows[0]["schedule"])
    again = {"run_id": f"{rows[0]['run_id']} again", "schedule": other}
    more = curves[curves["run_id"] == runs["run_id"][0]].assign(run_id=again["run_id"])
    rows.append(rows[0] | again)
    bad = rows[0] | {"run_id": EVIL[0], "status": EVIL[3], "L": float("nan"), "error": EVIL[0]}
    tests = [
        {"run_id": row["run_id"], "corpus": corpus, "tokens": 9, "L": row["L"], "L_stderr": 0.01,
         "bits_per_byte": row["L"] / 2, "L_position": [row["L"]] * 4}
        for row in rows for corpus in (EVIL[0], *EVIL[-2:])
    ]  # fmt: skip
    curves = curves.assign(run_id=curves["run_id"].map(names), lr=1e-3)
    table.write(
        folder,
        [*rows, bad],
        [*curves.to_dict("records"), *more.assign(lr=1e-3).to_dict("records")],
        tests,
    )
    sets = {key: {text: text for text in EVIL} for key in ("versions", "machine", "corpus_hashes")}
    words = dict(zip(("name", "description", "revision", "spec"), EVIL, strict=False))
    (folder / "manifest.json").write_text(json.dumps(sets | words | {text: text for text in EVIL}))
    return rows


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """(page, rows) of a folder whose name and texts are hostile."""
    folder = tmp_path_factory.mktemp("hostile") / "<!--<script>$x"
    kept = {name: registry.FIGURES[name] for name in HOSTILE_FIGURES}
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*31 finished runs; left out")
        rows = hostile(folder, make_sweep)
        patched.setattr(registry, "FIGURES", kept)
        return report(folder), rows


def test_untrusted_strings_stay_text(hostile_page):
    path, rows = hostile_page
    whole, kept = path.read_text(), dict.fromkeys(HOSTILE_FIGURES)
    page = Page(whole)
    assert not page.open
    found = [attrs["id"] for tag, attrs in page.seen if tag == "figure" and "id" in attrs]
    assert set(found) == kept.keys()
    for tag, attrs in page.seen:
        assert tag not in ("iframe", "a", "textarea"), tag
        assert tag != "img" or attrs["src"].startswith("data:image/svg+xml;base64,")
        assert not [name for name in attrs if name.startswith("on")]
    data = whole.partition('<script id="data" type="application/json">')[2].partition("</script>")[
        0
    ]
    assert not re.search("[<>&\u2028\u2029]", data)
    ids = json.loads(data)["runs"]["id"]
    assert set(ids) == {row["run_id"] for row in rows} | {EVIL[0]}
    (content,) = (
        attrs["content"] for tag, attrs in page.seen
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert content.startswith("default-src 'none'; script-src 'sha256-")
    scripts = content.partition("script-src ")[2].partition(";")[0]
    code = [tag for tag, attrs in page.seen if tag == "script" and "type" not in attrs]
    assert len(scripts.split()) == len(code) and "unsafe" not in scripts


def test_no_untrusted_code_runs_in_a_browser(hostile_page, browser):
    from selenium.webdriver import ActionChains

    path, rows = hostile_page
    browser.get(path.as_uri())
    ask = browser.execute_script
    drawn = ask("return document.getElementById('plot-hero').plot.drawn.length")
    assert drawn == len(rows)
    assert ask("return document.querySelectorAll('#runs tbody tr').length") == min(
        50, 1 + len(rows)
    )
    assert "The spec" in browser.find_element("tag name", "body").text
    for row in browser.find_elements("css selector", "#runs tbody tr")[::8]:
        ask("arguments[0].scrollIntoView({block: 'center'})", row)
        ActionChains(browser).move_to_element(row).perform()
        wait_for(lambda: "window.ran" in browser.find_element("id", "run").text)
    assert browser.get_log("browser") == [] and ask("return window.ran === undefined")
    # and even code that got into the page would not run
    ask(f"document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"{MARK}\">')")
    ask(
        "const s = document.createElement('script'); "
        f"s.textContent = '{MARK}'; document.body.append(s)"
    )
    wait_for(lambda: "Content Security Policy" in str(browser.get_log("browser")))
    assert ask("return window.ran === undefined")


def settle(browser):
    wait_for(lambda: browser.execute_script("return document.documentElement.dataset.drawn"))


def serious(browser):
    """What axe-core finds on the page that keeps people from reading or using it."""
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    (script,) = Path(axe.__file__).parent.glob("axe.min.js")
    browser.execute_script(script.read_text("utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return {
        each["id"]: [node["html"][:200] for node in each["nodes"][:3]]
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    }


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_the_page(written, browser, width, scheme):
    emulate(browser, width, scheme)
    browser.get(written[0].as_uri())
    settle(browser)
    # the page is as wide as the screen; what is wider scrolls in its own box
    over = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(over) <= 0
    assert not serious(browser)


def test_the_planner_is_used_with_the_keyboard_alone(written, browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    emulate(browser, 360)
    browser.get(written[0].as_uri())
    settle(browser)
    ask = browser.execute_script
    focused = "return document.activeElement.id"
    order, keys = [], ActionChains(browser)
    for _ in range(20):
        keys.send_keys(Keys.TAB).perform()
        order.append(ask(focused))
        if order[-1] == "planner-slider-C":
            before = ask("return document.getElementById('planner-L').dataset.value")
            keys.send_keys(Keys.PAGE_UP).perform()
            wait_for(lambda: "10 times the" not in browser.find_element("id", "plan-0").text)
            assert ask("return document.getElementById('planner-L').dataset.value") < before
        elif order[-1] == "planner-unit":
            keys.send_keys("d").perform()  # dollars
        elif order[-1] == "planner-pin-N":
            keys.send_keys(Keys.SPACE).perform()
            wait_for(lambda: "as pinned" in browser.find_element("id", "plan-0").text)
        elif order[-1] == "planner-copy":
            break
        shown = "const at = document.activeElement, box = at.getBoundingClientRect();"
        shown += "return box.width > 0 && box.bottom > 0 && box.top < window.innerHeight"
        assert ask(shown), order[-1]
    wanted = [
        "planner-C-number", "planner-unit", "planner-pin-C", "planner-slider-C",
        "planner-device", "planner-precision", "planner-mfu", "planner-price",
        "planner-N-number", "planner-pin-N", "planner-slider-N", "planner-D-number",
    ]  # fmt: skip
    assert order[: len(wanted)] == wanted and order[-1] == "planner-copy"
    assert "--params" in browser.find_element("id", "planner-command").text
    assert not serious(browser)
    over = "return document.documentElement.scrollWidth - window.innerWidth"
    assert ask(over) <= 0 and browser.get_log("browser") == []


def test_a_second_sweep_stands_beside_the_first(tmp_path, sweep, monkeypatch, browser):
    runs, curves = sweep()
    for name, factor in (("one", 1.0), ("two", 1.05)):
        table.write(
            tmp_path / name,
            runs.assign(L=factor * runs.L, vocab_size=256).to_dict("records"),
            curves.assign(L=factor * curves.L).to_dict("records"),
        )
    monkeypatch.setattr(registry, "FIGURES", {})
    path = report(tmp_path / "one", beside=tmp_path / "two")
    text = path.read_text()
    assert not Page(text).open and "one beside two" in text
    beside = data_of(text)["hero"]["beside"]
    assert beside["runs"]["L"] == pytest.approx(1.05 * runs.L[runs.status == "ok"], rel=1e-3)
    assert beside["frontier"]["L"][0] == pytest.approx(
        1.05 * data_of(text)["hero"]["frontier"]["L"][0], rel=1e-2
    )
    emulate(browser, 360, "dark")
    browser.get(path.as_uri())
    settle(browser)
    over = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(over) <= 0 and not serious(browser)
    assert browser.get_log("browser") == []
    differences = text[text.index("Differences between the two sweeps") :]
    for word in ("best size N at", "loss at", "exponent of L(N)", "held-out error of the law"):
        assert word in differences[: differences.index("</table>")], word
    with pytest.raises(TableError, match=r"is the report's own table; --beside takes another one"):
        report(tmp_path / "one", beside=tmp_path / "one")


def test_ten_thousand_runs_are_thinned_and_paged():
    from analysis.reporting import run_data, run_table

    count, points = 10_000, 100
    ids = [f"run{i}" for i in range(count)]
    D = np.geomspace(1e6, 1e9, count)
    runs = pd.DataFrame({"run_id": ids, "N": 1e6, "D": D, "C": 6e6 * D, "L": 3.0, "status": "ok"})
    along = D[:, None] * np.geomspace(0.01, 1, points)
    curves = pd.DataFrame(
        {"run_id": np.repeat(ids, points), "D": along.ravel(), "C": 6e6 * along.ravel(),
         "L": 3 + 1 / np.log(along.ravel())}
    )  # fmt: skip
    runs = run_data.ordered(runs)
    assert "".join(run_table.section(runs)).count("<tr>") == 1 + 50
    found = run_data.curve_values(runs, curves)
    assert found and found["thinned"] and found["starts"][-1] <= run_data.POINTS
    assert len(run_data.embedded(found)) < 4e6
    packed = found["axes"]["D"]
    steps = np.frombuffer(base64.b64decode(packed["data"]), "<u2")
    scale = (packed["high"] - packed["low"]) / 65535
    first = np.exp(packed["low"] + scale * steps[: found["starts"][1]])
    assert first[[0, -1]] == pytest.approx(along[0, [0, -1]], rel=1e-3)  # the ends stay
    assert np.ptp(np.diff(np.log(first))) < 0.1  # evenly spaced


def test_a_page_says_how_many_of_many_curves_are_drawn(written, monkeypatch):
    from analysis.reporting import linked, run_data, summary

    page, runs, _ = written
    found = summary.summarise(page.parent, draw=False)
    made = linked.Linked(found, run_data.ordered(found.table))
    for most, said in ((len(runs), False), (len(runs) - 1, True)):
        monkeypatch.setattr(linked, "LINES", most)
        words = f"The learning curves of {most} of the {len(runs)} runs are drawn"
        assert (words in "".join(made.hero())) is said
        assert data_of(made.data())["hero"]["lines"] == most


def test_a_dense_figure_is_drawn_as_an_image():
    from matplotlib.figure import Figure

    from analysis.reporting.experiments import svg

    def drawn(points):
        figure = Figure()
        figure.subplots().scatter(np.arange(points), np.arange(points))
        return svg(figure, "mine")

    assert "<image" not in drawn(50) and "<image" in drawn(5000)
    assert len(drawn(5000)) < 3e5


@pytest.mark.parametrize("law", list(laws.LAWS.values()), ids=str)
def test_every_law_is_typeset(law):
    from xml.etree import ElementTree

    markup = mathml(law.formula)
    tree = ElementTree.fromstring(markup)
    assert tree.tag == "math" and tree.attrib["alttext"] == law.formula
    if "/" in law.formula.replace("(1/", "").replace("(1 /", ""):
        assert tree.iter("mfrac")
    assert "^" not in "".join(tree.itertext())


@given(st.text(max_size=60) | st.text("ABNx_'^/()+-= 1.,", max_size=60))
def test_any_formula_is_shown(text):
    from xml.etree import ElementTree

    clean = "".join(c for c in text if c.isprintable())
    markup = mathml(clean)
    tree = ElementTree.fromstring(markup)
    assert tree.tag in ("math", "code")
    assert tree.tag == "math" or "".join(tree.itertext()) == clean
