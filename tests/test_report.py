import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis.figures import registry
from analysis.latex import tabular
from analysis.report import report
from scaling import table
from scaling.table import TableError


class Page(HTMLParser):
    """Tags that are open, and those that were there."""

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


def test_report_is_one_whole_page(tmp_path, sweep, monkeypatch):
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
    text = path.read_text()
    page = Page(text)
    assert not page.open
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
        "Next, with 10 times",
        "tagged feed_forward",
    ):
        assert re.search(word, text, flags=re.I), word
    for tag, attrs in page.seen:  # nothing is loaded
        address = attrs.get("src") or attrs.get("href") or attrs.get("xlink:href") or "#"
        assert address.startswith(("#", "data:")), (tag, address)
    assert "@import" not in text and "url(http" not in text


def test_report_of_nothing(tmp_path):
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
