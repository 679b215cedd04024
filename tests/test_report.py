import json
import re
import shutil
import time
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.cbook import is_math_text

from analysis.figures import registry, style
from analysis.latex import tabular
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
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_one_complete_page(tmp_path, sweep, monkeypatch):
    runs, curves = sweep()
    bad = runs.iloc[0].to_dict() | {
        "run_id": "bad", "status": "diverged", "L": float("nan"), "error": "loss > 2 <ln V>",
    }  # fmt: skip
    table.write(tmp_path, [*runs.to_dict("records"), bad], curves.to_dict("records"))
    manifest = {"name": "mine", "description": "a & b", "spec": 'name = "mine"', "schema": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    kept = {name: registry.FIGURES[name] for name in ("kaplan2", "kaplan5")}
    monkeypatch.setattr(registry, "FIGURES", kept)
    path = report(tmp_path)
    assert path == tmp_path / "report.html"
    whole = path.read_text()
    page = Page(whole)
    assert not page.open
    text = whole[: whole.rindex("<script>", 0, whole.rindex("<script>"))]  # without plotly's script
    figures = [attrs["id"] for tag, attrs in page.seen if tag == "figure"]
    assert figures == ["kaplan2"] and text.count("<svg") == 1
    body = text[text.index('<table id="runs">') :]
    body = body[: body.index("</table>")]
    assert body.count("<tr>") == 1 + len(runs) and runs["run_id"].iloc[3] in body
    assert "loss &gt; 2 &lt;ln V&gt;" in text and "a &amp; b" in text
    for word in (
        "chinchilla",
        "Held out",
        "frontier",
        "With 10 times the compute of the largest run",
        "With 100 times the compute",
        "tagged feed_forward",
    ):
        assert re.search(word, text, flags=re.I), word
    for tag, attrs in page.seen:  # nothing is loaded
        address = attrs.get("src") or attrs.get("href") or attrs.get("xlink:href") or "#"
        assert address.startswith(("#", "data:")), (tag, address)
    assert "@import" not in text and "url(http" not in text


@pytest.fixture
def browser():
    """Start Debian's Chromium, headless; it keeps what the page logs."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "window-size=1200,1000",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_the_page_is_interactive_in_a_browser(tmp_path, sweep, monkeypatch, browser):
    from selenium.webdriver import ActionChains

    runs, curves = sweep()
    runs = runs.assign(tag=["wide" if i % 2 else "<!--<script>" for i in range(len(runs))])
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    monkeypatch.setattr(registry, "FIGURES", {})
    browser.get(report(tmp_path).as_uri())
    ask, find = browser.execute_script, browser.find_element

    def visible():
        ids = ask("return document.getElementById('plot').data.at(-1).customdata")
        shown = ask(
            "return [...document.querySelectorAll('#runs tbody tr')].filter(row => !row.hidden)"
            ".map(row => row.cells[0].textContent)"
        )
        assert set(ids) == set(shown)
        return set(ids)

    ok = runs[runs.status == "ok"]
    assert visible() == set(ok.run_id)
    # hovering over a run shows its config and draws its curve
    points = browser.find_elements("css selector", "#plot path.point")
    ask("arguments[0].scrollIntoView({block: 'center'})", find("id", "plot"))
    ActionChains(browser).move_to_element(points[0]).perform()
    hovered = wait_for(lambda: re.match("([0-9a-f]{12}|[a-z0-9-]+)  ", find("id", "run").text))
    run = ok.set_index("run_id").loc[hovered[1]]
    assert f"N = {run.N:.0f}" in find("id", "run").text.replace(",", "")
    drawn = ask("return document.getElementById('plot').data[0].y")
    assert drawn == pytest.approx(curves[curves.run_id == hovered[1]].sort_values("S").L, rel=1e-4)
    assert hovered[1] in find("css selector", "tr.marked").text
    # tags and words filter the runs
    find("css selector", "#tag option:nth-child(3)").click()
    assert visible() == set(ok.run_id[ok.tag == "wide"])
    one = ok.run_id[ok.tag == "wide"].iloc[1]
    find("id", "search").send_keys(one)
    assert visible() == {one}
    find("css selector", "#axis option:nth-child(4)").click()
    assert ask("return document.getElementById('plot').data.length") == 2  # no curves over N
    browser.set_window_size(500, 900)
    wait_for(lambda: ask("return document.documentElement.scrollWidth <= window.innerWidth"))
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
    again = {"run_id": f"{rows[0]['run_id']} again", "schedule": EVIL[-1]}
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


@pytest.mark.filterwarnings("ignore:.*31 finished runs; left out")
def test_untrusted_strings_stay_text(tmp_path, sweep, monkeypatch):
    folder = tmp_path / "<!--<script>$x"
    rows = hostile(folder, sweep)
    kept = {name: registry.FIGURES[name] for name in ("kaplan2", "kaplan22", "kaplan7", "kaplan8")}
    monkeypatch.setattr(registry, "FIGURES", kept)
    whole = report(folder).read_text()
    page = Page(whole)
    assert not page.open
    assert [tag for tag, _ in page.seen].count("script") == 3
    assert {attrs["id"] for tag, attrs in page.seen if tag == "figure"} == kept.keys()
    for tag, attrs in page.seen:
        assert tag not in ("iframe", "img", "a"), tag
        assert not [name for name in attrs if name.startswith("on")]
    data = whole.partition('<script id="data" type="application/json">')[2].partition("</script>")[
        0
    ]
    assert not re.search("[<>&\u2028\u2029]", data)
    assert {run["id"] for run in json.loads(data)["runs"]} == {row["run_id"] for row in rows}
    (content,) = (
        attrs["content"] for tag, attrs in page.seen
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert content.startswith("default-src 'none'; script-src 'sha256-")
    scripts = content.partition("script-src ")[2].partition(";")[0]
    assert len(scripts.split()) == 2 and "unsafe" not in scripts


@pytest.mark.filterwarnings("ignore:.*31 finished runs; left out")
def test_no_untrusted_code_runs_in_a_browser(tmp_path, sweep, monkeypatch, browser):
    from selenium.webdriver import ActionChains

    rows = hostile(tmp_path, sweep)
    monkeypatch.setattr(registry, "FIGURES", {})
    browser.get(report(tmp_path).as_uri())
    ask = browser.execute_script
    drawn = ask("return document.getElementById('plot').data.at(-1).customdata.length")
    assert drawn == len(rows)
    assert ask("return document.querySelectorAll('#runs tbody tr').length") == len(rows)
    assert "The spec" in browser.find_element("tag name", "body").text
    ask("arguments[0].scrollIntoView({block: 'center'})", browser.find_element("id", "plot"))
    for point in browser.find_elements("css selector", "#plot path.point")[:: len(rows) // 8]:
        ActionChains(browser).move_to_element(point).perform()
        wait_for(lambda: "window.ran" in browser.find_element("id", "run").text)
    hover = wait_for(lambda: ask("return document.querySelector('#plot .hovertext')?.textContent"))
    assert hover
    assert browser.get_log("browser") == [] and ask("return window.ran === undefined")
    # and even code that got into the page would not run
    ask(f"document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"{MARK}\">')")
    ask(
        "const s = document.createElement('script'); "
        f"s.textContent = '{MARK}'; document.body.append(s)"
    )
    wait_for(lambda: "Content Security Policy" in str(browser.get_log("browser")))
    assert ask("return window.ran === undefined")
