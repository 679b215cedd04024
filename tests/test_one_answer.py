"""One law and one number per name: in the summary, plan, report, frontier, figures, log, README."""

import html
import json
import re
from pathlib import Path

import pytest
from matplotlib.legend import Legend
from matplotlib.text import Text

from analysis import choose, fit, frontier, laws, load, plans, validate
from analysis.figures import registry, style
from analysis.fitting.held_out import held_out_tests, rms
from analysis.frontiers.choice import CANDIDATES
from analysis.laws.symbols import MEANINGS
from analysis.reporting.html import page
from analysis.reporting.summary import summarise
from scaling import table
from scaling.cli.app import main

ROOT = Path(__file__).resolve().parents[1]
HEADLINE = ROOT / "results" / "headline"
DRAWN = ("kaplan1", "frontier", "holdout", "gpt3", "isoflop")
"""The figures that print named numbers."""
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
VALUE = rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]"
ENDS = rf"\[({NUMBER}), ({NUMBER})\]"
EXPONENT = re.compile(rf"\^-({NUMBER})\$\s+\$(alpha_\w(?:\^\w+)?) \\in {ENDS}")
"""An exponent and its interval in a legend."""
POWER = re.compile(rf"^\$([ND])_opt \\propto C\^({NUMBER})\$ {ENDS}")
"""A power of compute and its interval in a legend, beside a line in the colour of its method."""
METHOD_OF = {colour: method for method, colour in style.METHODS.items()} | {
    style.METHODS["parametric"]: "parametric (auto)"
}

Numbers = dict[str, tuple[str, ...]]
"""{name: value as printed, or value and ends of its interval; "" for a part not printed}."""


@pytest.fixture(scope="module")
def headline():
    return summarise(HEADLINE, draw=False)


def text_of_summary(text: str) -> Numbers:
    """The numbers of a summary, brief or detailed."""
    found: Numbers = {}
    law = ""
    for line in text.replace("\n  ", " \n  ").splitlines():
        if title := re.match(r"  L\(N, D\), (\w+): ", line):
            law = title[1]
        for name, *parts in re.findall(rf"(\w+(?:\^\w+)?) = {VALUE}", line):
            found[name if name in MEANINGS else f"{law}.{name}"] = tuple(parts)
        if front := re.match(r"frontier, (.+?): ", line):
            for power, *parts in re.findall(rf"([ND])_opt ~ C\^{VALUE}", line):
                found[f"{power}_opt {front[1]}"] = tuple(parts)
        if rule := re.search(rf"data rule: .* N\^{VALUE}", line):
            found["data rule"] = rule.groups()
        if error := re.match(r"  (\w+) +([\d.]+) %", line):
            found[f"held-out error {error[1]}"] = (error[2],)
    joined = " ".join(text.split())
    if powers := re.search(r"N_opt ~ C\^a: (.*?)(?: figures:| more with| \d+ items)", joined):
        for method, *parts in re.findall(rf"([a-z]+(?: \(\w+\))?) {VALUE}", powers[1]):
            found[f"N_opt {method}"] = tuple(parts)
    if errors := re.search(r"held-out error: (.*?) laws:", joined):
        for law, error in re.findall(r"(\w+) ([\d.]+) %", errors[1]):
            found[f"held-out error {law}"] = (error,)
    return found


def text_of_report(text: str) -> Numbers:
    """The numbers of a page; its powers of ten become exponents again."""
    found: Numbers = {}
    text = text[: text.index('<script id="data"')].replace("−", "-")
    text = re.sub(r"\u00a0×\u00a010<sup>(-?\d+)</sup>", r"e\1", text).replace("\u00a0", " ")
    for body in re.findall(r"<tr>(.*?)</tr>", text):
        cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", body)]
        power = re.search(r'alttext="([ND]_opt)"', body)
        if len(cells) == 5 and power:
            found[f"{power[1]} {cells[0]}"] = (cells[2], *re.findall(NUMBER, cells[3]))
        elif law := re.search(r'data-law="(\w+)"', body):
            found[f"held-out error {law[1]}"] = (cells[5].removesuffix(" %"),)
    for card in re.findall(r'<article class="card"><h3>(L.*?</article>)', text):
        law = re.match(r"L\(.*?\): (\w+)", card)
        for name, shown in re.findall(r'<dt><math alttext="(.*?)">.*?<dd>(.*?)</dd>', card):
            parts = re.findall(NUMBER, re.sub(r"<[^>]*>|\(.*?\)", "", shown))
            found[name if name in MEANINGS else f"{law[1]}.{name}"] = tuple(parts)
    words = html.unescape(re.sub("<[^>]*>", "", text.replace("<sup>", "^")))
    if rule := re.search(rf"data rule: .*? N\^{VALUE}", words, re.I):
        found["data rule"] = rule.groups()
    # The parameters of L(N), L(D) and L(C) other than their exponents have no rivals.
    return {name: parts for name, parts in found.items() if not re.match(r"kaplan_[NDC]\.", name)}


def text_of_figure(figure) -> Numbers:
    found: Numbers = {}
    for artist in figure.findobj(Text):
        text = artist.get_text().replace("\\mathrm", "").replace("{", "").replace("}", "")
        text = text.replace("\\alpha", "alpha").replace("\N{MINUS SIGN}", "-")
        if law := EXPONENT.search(text):
            found[law[2]] = (law[1], law[3], law[4])
        if error := re.match(r"(\w+)(?: \(.*\))?\n([\d.]+) % rms", text.replace("\\_", "_")):
            found[f"held-out error {error[1]}"] = (error[2],)
    for legend in figure.findobj(Legend):
        for label, line in zip(legend.get_texts(), legend.legend_handles, strict=True):
            text = label.get_text().replace("\\mathrm", "").replace("{", "").replace("}", "")
            if power := POWER.search(text.replace("\N{MINUS SIGN}", "-")):
                found[f"{power[1]}_opt {METHOD_OF[line.get_color()]}"] = power.groups()[1:]
    return found


def text_of_log() -> Numbers:
    log = (ROOT / "results" / "LOG.md").read_text("utf-8")
    section = log[log.index("## headline: ") :]
    section = section[: section.index("\n## ")]
    found: Numbers = {}
    for name, *parts in re.findall(rf"^\| (.+?) \| {VALUE} \|", section, re.M):
        head = name.partition(",")[0]
        found[head.replace("N_opt ~ C^a: ", "N_opt ")] = tuple(parts)
    errors = re.search(r"five cut-offs the errors are ([\d.]+), ([\d.]+) and ([\d.]+) %", section)
    for law, error in zip(("bottleneck", "kaplan_ND", "chinchilla"), errors.groups(), strict=True):
        found[f"held-out error {law}"] = (error,)
    return found


def text_of_readme() -> Numbers:
    caption = (ROOT / "README.md").read_text("utf-8").split("kaplan1.png)")[1].split("```")[0]
    caption = " ".join(caption.split())
    return {name: tuple(p) for name, *p in re.findall(rf"(alpha_\w(?:\^\w+)?) = {VALUE}", caption)}


def agree(first: str, second: str) -> bool:
    """Whether two printed numbers can be roundings of the same number."""
    a, b = float(first), float(second)
    return abs(a - b) <= 0.5001 * (last_digit(first) + last_digit(second))


def last_digit(text: str) -> float:
    mantissa, _, power = text.partition("e")
    return 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))


def test_one_number_per_name(headline):
    made, missing = registry.drawings(HEADLINE, names=DRAWN, shared=headline.shared())
    assert set(made) == set(DRAWN), missing
    sources = {
        "summary": text_of_summary(str(headline)),
        "details": text_of_summary(headline.details()),
        "report": text_of_report(page(headline, {}, {}, {})),
        "log": text_of_log(),
        "README": text_of_readme(),
    } | {f"figure {name}": text_of_figure(figure) for name, figure in made.items()}
    assert not [name for name, found in sources.items() if not found]
    names = sorted({name for found in sources.values() for name in found})
    shown = {
        name: {source: found[name] for source, found in sources.items() if name in found}
        for name in names
    }
    expected = {"alpha_N", "alpha_D", "alpha_C", "alpha_C^env", "alpha_N^ND", "alpha_D^ND"}
    expected |= {"data rule", "N_opt parametric (auto)", "N_opt envelope", "N_opt akima"}
    laws = {"auto", *(law.name for law in CANDIDATES)} - {"bottleneck"}
    expected |= {f"held-out error {law}" for law in laws}
    for name in expected:
        assert len(shown[name]) >= 2, (name, shown[name])
    wrong = [
        (name, one, other)
        for name, by_source in shown.items()
        for one, parts in by_source.items()
        for other, others in by_source.items()
        if not all(map(agree, parts, others))
    ]
    assert not wrong, [(name, shown[name]) for name, *_ in wrong]


def test_names_that_are_easily_confused_are_explained():
    text = (ROOT / "docs" / "concepts" / "symbols.md").read_text("utf-8")
    for name, meaning in MEANINGS.items():
        assert f"| `{name}` | {meaning} |" in text


def test_the_law_that_predicts_best_is_the_same_everywhere(headline, capsys):
    choice = headline.choice
    assert choice.name == "auto" and choice.determined
    assert headline.plan.N.value == pytest.approx(1.80e6, rel=0.02)
    assert "parametric frontier, auto" in headline.plan.source
    written = page(headline, {}, {}, {})
    assert choice.sentence in str(headline).replace("\n", " ")
    assert html.escape(choice.sentence) in written
    assert re.search(r"parametric \(auto\) .* \(the plan uses this one\)", str(headline))
    assert html.escape("the plan uses this one") in written
    main(["plan", str(HEADLINE), "--flops", "4.01e14", "--json"])
    planned = json.loads(capsys.readouterr().out)
    assert planned["verdict"][0] == choice.sentence and planned["choice"]["law"] == "auto"
    assert planned["N"]["value"] == pytest.approx(headline.plan.N.value, rel=1e-3)
    # a frontier fits fewer laws with draws, and chooses the same
    alone = choose(headline.runs, alone=True)
    assert alone.sentence == choice.sentence
    assert alone.first.samples.equals(choice.first.samples)


@pytest.fixture
def tables(sweep):
    runs, curves = sweep(noise=0.001)  # generated by Chinchilla's form
    curves = load(curves.merge(runs[["run_id", "N"]], on="run_id"), curves=True)
    return load(runs), curves


def test_a_frontier_takes_the_law_chosen_and_says_which_one_the_plan_uses(tables):
    runs, curves = tables
    every = frontier(runs, method="all", curves=curves, bootstrap=20)
    chosen = choose(runs, bootstrap=20)
    assert every.fronts["parametric"].fit.law == chosen.first.law
    text = str(every)
    assert f"parametric ({chosen.name})" in text and text.count("the plan uses this one") == 1
    assert text.count("the plan uses the parametric frontier") == len(every.fronts) - 1
    asked = frontier(runs, method="parametric", law="kaplan_ND", bootstrap=20)
    assert "if kaplan_ND is asked for" in str(asked) and "correlated" not in str(asked)
    figure = registry.FIGURES["frontier"].draw(runs, curves, choice=chosen)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sum("the plan uses this one" in label for label in labels) == 1


@pytest.mark.parametrize("name", ["deviation", "contours", "profile", "holdout"])
def test_figures_draw_the_law_chosen(tables, name):
    runs, _ = tables
    wrong = choose(runs, [laws.shared_exponent], bootstrap=20)
    figure = registry.FIGURES[name].draw(runs, None, choice=wrong)
    assert wrong.name == "shared_exponent"
    shown = [text.get_text() for text in figure.findobj(Text)]
    assert any("kappa" in t or "shared" in t or "(1/N + " in t for t in shown), shown


def test_held_out_errors_are_one_computation(tables):
    runs, _ = tables
    result = fit(laws.kaplan_ND, runs, bootstrap=0)
    test = held_out_tests({"kaplan_ND": result})["kaplan_ND"]
    found = validate(laws.kaplan_ND, runs, against=(), bootstrap=0)
    assert found.laws["held_out"].iloc[0] == pytest.approx(test.error, rel=1e-6)
    by_cut = [rms(test.errors[cut]) for cut in test.cuts]
    assert found.backtest["error"].to_list() == pytest.approx(by_cut, rel=1e-3)
    assert test.runs == found.backtest["n_held"].iloc[0] and test.reach > 1


def test_without_runs_to_hold_out_the_best_fit_leads_and_the_answer_says_so(tables):
    runs, _ = tables
    few = runs[runs["N"] <= runs["N"].unique()[1]].head(7)
    choice = choose(few, [laws.chinchilla, laws.kaplan_ND], bootstrap=10)
    assert choice.rule == "fit" and "too few to hold any out" in choice.sentence
    assert "missed" not in choice.sentence


def test_the_law_asked_for_wins(tables, tmp_path, capsys):
    runs, curves = tables
    table.write(tmp_path, runs.to_dict("records"), curves.to_dict("records"))
    main(["plan", str(tmp_path), "--flops", "1e15", "--law", "kaplan_ND"])
    shown = capsys.readouterr().out
    assert shown.startswith("kaplan_ND is the law asked for")
    main(["frontier", str(tmp_path), "--method", "parametric", "--bootstrap", "20"])
    assert f"parametric ({choose(runs, alone=True).name})" in capsys.readouterr().out
    given = plans({law.name: fit(law, runs, bootstrap=20) for law in CANDIDATES[:2]}, C=1e15)
    assert given.choice.rule == "asked" and given.choice.name == "chinchilla"
