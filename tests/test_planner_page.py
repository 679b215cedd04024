"""The planner of a report page: its numbers are those of `scaling plan`."""

import json
import math
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SIZES, TOKENS, emulate, make_sweep
from small import call

from analysis import fit, laws, plan
from analysis.data_limits import with_unique
from analysis.fitting.combination import Combination
from analysis.fitting.status import worth_telling
from analysis.frontiers.choice import asked_for
from analysis.frontiers.parametric import parametric
from analysis.planning.plans import plans
from analysis.planning.prediction import predict_run
from analysis.planning.price import loss_over_best
from analysis.planning.quantity import Quantity
from analysis.planning.recipe import recipe
from analysis.reporting import deviating, plan_cards, planner
from analysis.reporting.elements import loss, package_file
from analysis.reporting.html import security_policy
from analysis.reporting.law_numbers import mixed_counts
from analysis.reporting.planner_data import data_of
from analysis.reporting.summary import command_words, summarise
from scaling import table

REL = 1e-6
MODEL = "\n".join(map(package_file, planner.MODEL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of a sweep."""
    path = tmp_path_factory.mktemp("results")
    runs, curves = make_sweep(noise=0.01)
    table.write(path, runs.to_dict("records"), curves.to_dict("records"))
    return path


@pytest.fixture(scope="module")
def summary(folder):
    return summarise(folder, draw=False)


def page(summary) -> str:
    code = planner.script()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><meta http-equiv="Content-Security-Policy" content="'
        f'{security_policy([code])}"><title>t</title><style>:root {{ --ink: #111; '
        f"--muted: #555; --paper: #fff; --panel: #eee; --line: #ccc; --accent: #b22; }} "
        f"{planner.STYLE}</style></head><body>{' '.join(planner.section(summary))}"
        f"{' '.join([*deviating.section(summary), *plan_cards.plan_section(summary)])}"
        f"<script>{code}</script></body></html>"
    )


class Page:
    """The page of a summary in a browser."""

    def __init__(self, browser, path, summary):
        path.write_text(page(summary), "utf-8")
        browser.get(path.as_uri())
        self.browser = browser

    def find(self, name):
        return self.browser.find_element("id", f"planner-{name}")

    def text(self, name):
        return self.find(name).get_attribute("textContent")

    def rest(self):
        """Wait for the next frame, in which the answer is drawn."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    def set(self, name, value):
        """Move a slider, or write into a field."""
        self.browser.execute_script(
            "const at = document.getElementById('planner-' + arguments[0]);"
            "at.value = arguments[1];"
            "at.dispatchEvent(new Event('input', {bubbles: true}));"
            "at.dispatchEvent(new Event('change', {bubbles: true}));",
            name, str(value),
        )  # fmt: skip
        self.rest()

    def toggle(self, name):
        self.browser.execute_script(f"document.getElementById('planner-{name}').click()")
        self.rest()

    def quantity(self, name):
        data = self.browser.execute_script(
            f"return {{...document.getElementById('planner-{name}').dataset}}"
        )
        return Quantity(*(float(data[k]) for k in ("value", "low", "high")))

    def prices(self):
        return self.browser.execute_script(
            "return [...document.querySelectorAll('#planner-cost tr[data-factor]')].map(row =>"
            "({...row.dataset}))"
        )

    def options(self):
        """The options of the command that the page gives, without the results."""
        words = shlex.split(self.text("command"))
        assert words[:2] == ["scaling", "plan"]
        at = next(i for i, word in enumerate(words) if word.startswith("--"))
        return dict(zip(words[at::2], words[at + 1 :: 2], strict=True))


@pytest.fixture
def shown(browser, tmp_path, summary):
    """The page of the sweep; nothing may be logged by the end."""
    yield Page(browser, tmp_path / "page.html", summary)
    assert browser.get_log("browser") == []


def close(found, wanted):
    assert tuple(found) == pytest.approx(tuple(wanted), rel=REL, nan_ok=True)


def loss_of(found, kind):
    """A predicted loss with the ends of its interval."""
    ends = found.intervals[kind]
    assert ends is not None
    return (found.L, *ends)


def priced(ratios):
    """Ratios of compute; what nobody would pay counts as unreachable, as rounding decides it."""
    return [math.inf if ratio > 1e9 else ratio for ratio in ratios]


def check_plan(page, wanted):
    for name in ("C", "N", "D", "L"):
        close(page.quantity(name), getattr(wanted, name))
    close(page.quantity("ratio"), wanted.tokens_per_parameter)
    for name in ("B", "S", "lr"):
        value = float(page.find(name).get_attribute("data-value"))
        assert value == pytest.approx(getattr(wanted.recipe, name), rel=REL)
    for row, price in zip(page.prices(), wanted.deviations, strict=True):
        assert float(row["factor"]) == price.factor
        ratios = [float(row[k]) for k in ("value", "low", "high")]
        close(priced(ratios), priced(price.compute))
        if ratios[0] < 1e9:
            assert float(row["tokens"]) == pytest.approx(price.D, rel=REL)
    unsupported = page.find("mark").get_attribute("data-mark") == "bad"
    assert unsupported == bool(wanted.doubts)


OPTIONS = {
    "--flops": "C", "--params": "N", "--tokens": "D", "--inference-tokens": "served",
    "--unique-tokens": "unique",
}  # fmt: skip


def asked(page) -> dict[str, Any]:
    return {OPTIONS[name]: float(value) for name, value in page.options().items()}


def test_the_answer_comes_first_in_one_sentence_with_its_trust(shown, summary):
    sentence = shown.text("answer")
    assert sentence.startswith("With 10x the compute: ")
    assert f"loss {loss(summary.plan.L.value)} [" in sentence
    assert "missed its held-out runs by" in sentence
    check_plan(shown, summary.plan)
    assert shown.text("trust").startswith("Carried by bottleneck")
    assert "larger ones" in shown.text("trust")
    assert shown.text("doubt").startswith("Most likely to make it wrong: ")
    assert shown.text("mark") in dict(plan_cards.MARKS.values()).values()
    holds = f"{len(summary.choice.first.samples):,} draws"
    assert holds in shown.browser.find_element("class name", "planner-note").text


def test_without_scripts_the_page_tells_the_same_answer(shown, summary):
    text = " ".join(planner.section(summary))
    assert shown.text("answer") in text.replace("&#x27;", "'")
    assert f">{shown.text('mark')}</span>" in text


@pytest.mark.parametrize(
    "moves",
    [
        {"slider-C": -1.0},
        {"slider-C": 0.5},
        {"slider-C": 2.9},
        {"served": 0.5},
        {"served": 2.5, "slider-C": 1.0},
        {"unique": -0.5},
        {"unique": -2.0, "served": 0.2},
    ],
)
def test_numbers_at_the_sliders_are_those_of_plan(shown, summary, moves):
    best = summary.plan
    for name, decades in moves.items():
        at = best.C.value if name == "slider-C" else best.D.value
        shown.set(name, math.log10(at) + decades)
    request = asked(shown)
    assert request["C"] == pytest.approx(shown.quantity("C").value, rel=1e-12)
    check_plan(shown, plan(summary.choice.first, **request))


@pytest.mark.parametrize("name", ["N", "D"])
@pytest.mark.parametrize("more", [{}, {"served": 0.3}, {"unique": -0.7}])
def test_a_pinned_size_or_amount_of_data_alone_is_planned_for(shown, summary, name, more):
    at = getattr(summary.plan, name).value
    shown.set(f"slider-{name}", math.log10(at) - 0.8)
    shown.toggle("pin-C")
    for slider, decades in more.items():
        shown.set(slider, math.log10(at) + decades)
    request = asked(shown)
    assert name in request and "C" not in request
    try:
        wanted = plan(summary.choice.first, **request)
    except Exception:
        assert "No plan" in shown.text("answer")
        return
    check_plan(shown, wanted)


def written(page, summary):
    """The texts of the cards and tables of a summary, as a page without scripts has them."""
    lines = [*deviating.section(summary), *plan_cards.plan_section(summary)]
    return page.browser.execute_script(
        "const page = new DOMParser().parseFromString(arguments[0], 'text/html');"
        "return [...page.querySelectorAll('[data-of]')].map(each =>"
        "  [each.dataset.of, each.textContent])",
        " ".join(lines),
    )  # fmt: skip


def told(page):
    """The texts of the cards and tables, as the page shows them."""
    return page.browser.execute_script(
        "return [...document.querySelectorAll('[data-of]')].map(each =>"
        "  [each.dataset.of, each.textContent])"
    )


def test_cards_and_tables_say_at_first_what_they_say_without_scripts(shown, summary):
    shown.rest()
    texts = told(shown)
    assert len(texts) > 50
    assert texts == written(shown, summary)


@pytest.mark.parametrize(("name", "decades"), [("C", -0.82), ("C", 0.7), ("N", -0.4), ("D", 0.3)])
def test_cards_and_tables_follow_the_sliders(shown, summary, name, decades):
    at = getattr(summary.plan, name).value
    shown.set(f"slider-{name}", math.log10(at) + decades)
    if name != "C":
        shown.toggle("pin-C")
    before = written(shown, summary)
    made = plans(summary.choice, **asked(shown))
    further = plan(summary.choice.first, C=10 * made.first.C.value)
    moved = replace(summary, plan=made.first, planned=made, further=further)
    assert told(shown) == written(shown, moved) != before


def test_two_pins_give_the_loss_of_that_very_run(shown, summary):
    best = summary.plan
    shown.set("slider-N", math.log10(best.N.value) + 0.6)
    request = asked(shown)
    assert request.keys() == {"N", "D"}
    assert 6 * request["N"] * request["D"] == pytest.approx(best.C.value, rel=1e-6)
    found = predict_run(summary.choice, **request)
    close(shown.quantity("L"), loss_of(found, "extrapolation"))
    assert "are best, with a loss of" in shown.text("deviation")
    assert shown.find("served").get_attribute("disabled")
    shown.set("unique", math.log10(request["D"]) - 0.5)
    request = asked(shown)
    found = predict_run(summary.choice, **request)
    close(shown.quantity("L"), loss_of(found, "extrapolation"))


def test_hours_and_dollars_buy_the_flops_of_the_command(shown):
    shown.set("unit", "hours")
    shown.set("device", "a100")
    shown.set("C-number", "0.5")
    options = shown.options()
    assert options == {"--gpus": "1", "--hours": "0.5", "--gpu": "a100"}
    assert shown.quantity("C").value == pytest.approx(0.5 * 3600 * 312e12 * 0.4, rel=1e-12)
    shown.set("unit", "dollars")
    shown.set("price", "3")
    shown.set("C-number", "12")
    options = shown.options()
    assert options == {"--dollars": "12", "--dollars-per-hour": "3", "--gpu": "a100"}
    assert shown.quantity("C").value == pytest.approx(4 * 3600 * 312e12 * 0.4, rel=1e-12)
    shown.set("device", "v100")
    assert shown.options()["--precision"] == "fp16"


def test_the_copied_command_prints_the_numbers_of_the_page(shown, summary, capsys):
    best = summary.plan
    shown.set("C-number", "2e13")
    shown.set("served", math.log10(best.D.value))
    shown.set("unique", math.log10(best.D.value) - 0.5)
    assert call(*shlex.split(shown.text("command"))[1:], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("C", "N", "D", "L"):
        close(shown.quantity(name), (found[name][k] for k in ("value", "low", "high")))
    assert (shown.find("mark").get_attribute("data-mark") == "bad") == (not found["reliable"])


def test_the_answer_is_redrawn_within_50_ms_and_told_to_other_figures(shown, summary):
    shown.browser.execute_script(
        "window.told = []; document.addEventListener('answer', e => told.push(e.detail))"
    )
    times = []
    for step in range(8):
        shown.set("slider-C", math.log10(summary.plan.C.value) + step / 10)
        times.append(float(shown.find("section").get_attribute("data-ms")))
    assert min(times) < 50
    told = shown.browser.execute_script("return told.at(-1)")
    assert told == {
        "C": shown.quantity("C").value, "N": shown.quantity("N").value,
        "D": shown.quantity("D").value, "L": shown.quantity("L").value,
        "L_low": shown.quantity("L").low, "L_high": shown.quantity("L").high,
    }  # fmt: skip


def test_keys_move_the_sliders_and_every_control_has_a_name(shown):
    from selenium.webdriver import Keys

    before = shown.quantity("C").value
    shown.find("slider-C").send_keys(Keys.ARROW_RIGHT)
    shown.rest()
    assert before < shown.quantity("C").value < 1.05 * before
    unnamed = shown.browser.execute_script(
        "return [...document.querySelectorAll('input, select, button')].filter(x =>"
        "!(x.getAttribute('aria-label') || x.textContent.trim() || x.labels?.length))"
        ".map(x => x.outerHTML)"
    )
    assert unnamed == []
    assert "FLOPs" in shown.find("slider-C").get_attribute("aria-valuetext")
    live = shown.find("live")
    assert live.get_attribute("aria-live") == "polite"
    shown.browser.execute_async_script("setTimeout(arguments[0], 1200)")
    assert shown.text("answer") in shown.text("live")
    off = shown.browser.execute_script(
        "return [...document.querySelectorAll('output')].every(x => x.ariaLive === 'off')"
    )
    assert off  # only one element speaks, after a rest


def test_a_field_takes_numbers_as_people_write_them_and_marks_others(shown):
    shown.set("N-number", "1.5M")
    assert shown.options()["--params"] == "1.5e6"
    shown.set("N-number", "many")
    assert shown.find("N-number").get_attribute("aria-invalid") == "true"
    assert shown.options()["--params"] == "1.5e6"
    shown.toggle("reset")
    assert shown.options().keys() == {"--flops"}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_planner_fits_wide_and_narrow_pages(browser, tmp_path, summary, width):
    emulate(browser, width)
    Page(browser, tmp_path / "page.html", summary)
    over = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(over) <= 0


# ------------------------------------------------------------------ every kind of fit


def summary_of(found) -> Any:
    """What the planner needs of a summary of one fit."""
    choice = asked_for({found.name: found})
    made = plans(choice, C=10 * float(found.runs["C"].max()))
    return SimpleNamespace(
        choice=choice, plan=made.first, runs=found.runs, curves=None, command="scaling plan x.csv",
        verdict=made.verdict, critical=None,
    )  # fmt: skip


RUNS = make_sweep(noise=0.01)[0]
FEW = make_sweep(sizes=(1e5, 3e5, 1e6, 3e6), tokens=(1e7, 3e7, 1e8), noise=0.01)[0]
FITS = {
    "a law without a closed form": lambda: fit(laws.kaplan_ND, RUNS, bootstrap=60),
    "one exponent": lambda: fit(laws.shared_exponent, RUNS, bootstrap=60),
    "linearised": lambda: fit(laws.chinchilla, FEW, bootstrap=60, intervals="delta"),
    "noise that varies": lambda: fit(laws.chinchilla, RUNS, bootstrap=60, noise="sizes"),
    "raw residuals": lambda: fit(laws.chinchilla, RUNS, bootstrap=60, on="raw"),
    "few draws": lambda: fit(laws.bottleneck, RUNS, bootstrap=7),
    "no draws": lambda: fit(laws.chinchilla, RUNS, bootstrap=0),
}


def frontier_of(found, *, served=0.0, unique=None):
    return parametric(found if unique is None else with_unique(found, unique), served=served)


@pytest.mark.parametrize("kind", FITS)
def test_the_model_of_the_page_agrees_with_every_kind_of_fit(browser, kind):
    found = FITS[kind]()
    summary = summary_of(found)
    best = summary.plan
    C, N, D = best.C.value, best.N.value, best.D.value
    requests = [
        ("C", C, {}), ("C", C / 1e3, {}), ("N", N / 3, {}), ("D", D / 3, {}),
        ("C", C, {"served": D}), ("C", C, {"unique": D / 9}),
        ("C", 2 * C, {"served": 3 * D, "unique": D / 3}), ("D", D, {"unique": D / 4}),
    ]  # fmt: skip
    runs = [(N, D, {}), (3 * N, D / 3, {}), (N / 4, D, {"unique": D / 20})]
    browser.get("about:blank")
    values = browser.execute_script(
        MODEL + "const [data, requests, runs] = arguments;"
        "const model = plannerModel(JSON.parse(data));"
        "const q = x => [x.value, x.low, x.high].map(String);"
        "const all = x => ({C: q(x.C), N: q(x.N), D: q(x.D), L: q(x.L), "
        "  sizes: model.sizes(x.best).map(s => ({factor: s.factor, price: q(s.price),"
        "    over: q(s.over), L: s.L})), band: x.extrapolation.band, B: x.recipe.B,"
        "  texts: x.doubts.map(d => d.text), notes: model.notes(x), shape: x.shapes.model});"
        "return [requests.map(([a, v, o]) => all(model.plan(a, v, o))),"
        "  runs.map(([N, D, o]) => q(model.run(N, D, o).L))];",
        json.dumps(data_of(summary)), requests, runs,
    )  # fmt: skip
    number = {"Infinity": math.inf, "NaN": math.nan}

    def floats(q):
        return [number.get(x, x) if x in number else float(x) for x in q]

    for (name, value, options), got in zip(requests, values[0], strict=True):
        wanted = plan(found, **{name: value}, **options)
        for each in ("C", "N", "D", "L"):
            close(floats(got[each]), getattr(wanted, each))
        others = [size for size in got["sizes"] if size["factor"] != 1]
        for size, expected in zip(others, wanted.deviations, strict=True):
            assert size["factor"] == expected.factor
            close(priced(floats(size["price"])), priced(expected.compute))
        front = frontier_of(found, **options)
        at = {name: floats(got[name])[0] for name in ("N", "D")}
        for size in others:
            close(floats(size["over"]), loss_over_best(front, factor=size["factor"], **at))
        assert got["band"] == wanted.extrapolation.band
        assert got["texts"] == list(map(str, wanted.doubts))
        if not options:  # which change what a frontier notes about its fit
            rest = [line for line in worth_telling(wanted.status) if line not in wanted.doubts]
            assert sorted(got["notes"]) == sorted(rest)
        model = wanted.shape.model
        assert [got["shape"][k] for k in ("layers", "width", "heads")] == [
            model.n_layer, model.d_model, model.n_head
        ]  # fmt: skip
        assert got["B"] == pytest.approx(wanted.recipe.B, rel=REL)
    for (n, d, options), got in zip(runs, values[1], strict=True):
        wanted = predict_run(summary.choice, N=n, D=d, **options)
        close(floats(got), loss_of(wanted, "statistical"))


def test_the_page_holds_the_draws_of_every_law_that_carries_the_answer(summary):
    found = summary.choice.first
    assert isinstance(found, Combination)
    counts = mixed_counts(found)
    assert sum(counts) == len(found.samples) and len(counts) == len(found.laws)
    for part, each in zip(
        np.split(found.samples.to_numpy(float), np.cumsum(counts)[:-1]),
        found.laws.values(),
        strict=True,
    ):
        assert np.array_equal(part, each.samples.to_numpy(float)[: len(part)])


def test_the_command_selects_the_same_runs(summary, folder):
    assert summary.command == f"scaling plan {folder}"
    selection = {
        "map": {"eval loss": "L", "n": "N"},
        "where": "N > 1e5",
        "strict": True,
        "rows": "auto",
    }
    assert command_words(["a b.csv", "c.csv"], selection) == [
        "'a b.csv'", "c.csv", "--map 'eval loss=L,n=N'", "--where 'N > 1e5'", "--strict",
    ]  # fmt: skip


# ------------------------------------------------------------------ without a plan


def test_a_page_without_a_plan_says_why():
    runs = RUNS[RUNS["N"] == RUNS["N"].max()]
    verdict = ("No law.", "What to train next, these runs do not tell: one <size>.", "Add runs.")
    lines = planner.section(
        SimpleNamespace(plan=None, choice=None, runs=runs, verdict=verdict)  # pyright: ignore
    )
    text = " ".join(lines)
    assert "do not tell: one &lt;size&gt;." in text and "Add runs." in text
    assert "planner-data" not in text and "<input" not in text
    assert "getElementById('planner-data')" in planner.script()


# ------------------------------------------------------------------ unique tokens


def test_unique_tokens_limit_the_combined_fit_too(summary):
    found, best = summary.choice.first, summary.plan
    unique = best.D.value / 8
    tied = plan(found, C=best.C.value, unique=unique)
    assert tied.N.value > 1.05 * best.N.value and tied.L.value > best.L.value
    assert tied.L.low <= tied.L.value <= tied.L.high
    enough = plan(found, C=best.C.value, unique=3 * best.D.value)
    assert enough.N.value == pytest.approx(best.N.value, rel=1e-5)
    run = predict_run(summary.choice, N=tied.N.value, D=tied.D.value, unique=unique)
    assert pytest.approx(tied.L.value, rel=1e-9) == run.L
    assert [name for name, law in run.laws.items() if law.weight] == list(found.laws)


def test_repetition_does_not_change_the_noise_of_a_fit():
    found = fit(laws.chinchilla, RUNS, bootstrap=60)
    N, D = float(RUNS["N"].max()), float(RUNS["D"].min())
    few = with_unique(found, 10 * D)  # all longer runs would repeat data
    one, other = (np.ravel(x.predict_interval(0.9, noise=True, N=N, D=D)) for x in (found, few))
    assert np.log(one[1] / one[0]) < 0.06
    assert other == pytest.approx(one)


def test_a_choice_is_not_changed_by_unique_tokens(summary):
    found = summary.choice.first
    before = found.predict(N=1e6, D=1e9)
    assert with_unique(found, 1e6).predict(N=1e6, D=1e9) > before
    assert found.predict(N=1e6, D=1e9) == before


# ------------------------------------------------------------------ the recipe


def test_the_recipe_of_the_page_uses_a_measured_critical_batch_size(summary):
    law = fit(laws.critical_batch, table_of_batches(), bootstrap=0)
    measured: Any = SimpleNamespace(law=law)
    data = data_of(replace(summary, critical=measured))
    assert data is not None
    part, at = data["recipe"], {"N": 3e6, "D": 4e8, "L": 2.7}
    wanted = recipe(**at, runs=summary.choice.first.runs, critical=measured)
    for name in ("B", "lr"):
        value = part[name]["value"]
        for x, power in part[name]["powers"].items():
            value *= (at[x] / part["at"][x]) ** power
        assert value == pytest.approx(getattr(wanted, name), rel=1e-9)
    assert re.sub("<[^>]*>", "", part["sources"]["B"]) == "Bcrit(L) of these runs"


def sweep_of_batches(folder):
    """Write a sweep with four batch sizes and a run that diverged early."""
    runs, curves = make_sweep(noise=0.01)
    tables = [(runs, curves)]
    for k, batch in enumerate((1024, 16384, 65536)):
        more, points = make_sweep(SIZES[:3], TOKENS[2:3], batch=batch, points=24, seed=k)
        names = {name: f"{batch}-{name}" for name in more["run_id"]}
        tables.append(
            (more.assign(run_id=more["run_id"].map(names)),
             points.assign(run_id=points["run_id"].map(names)))
        )  # fmt: skip
    runs, curves = (pd.concat(each, ignore_index=True) for each in zip(*tables, strict=True))
    bad = runs.iloc[-1].to_dict() | {"run_id": "bad", "status": "diverged", "L": math.nan}
    low = curves[curves["run_id"] == runs["run_id"].iloc[-1]].assign(run_id="bad")
    low = low.assign(L=0.8 * low["L"])  # it would move B_crit
    rows = [*runs.to_dict("records"), bad]
    table.write(folder, rows, pd.concat([curves, low]).to_dict("records"))


def test_card_page_and_command_have_one_batch_size(browser, tmp_path, capsys):
    sweep_of_batches(tmp_path / "batches")
    summary = summarise(tmp_path / "batches", draw=False)
    assert summary.plan is not None and summary.critical is not None
    page = Page(browser, tmp_path / "page.html", summary)
    page.rest()
    assert call(*shlex.split(page.text("command"))[1:], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["sources"]["B"] == "B_crit(L) of these runs"
    for name in ("B", "S", "lr"):
        on_page = float(page.find(name).get_attribute("data-value"))
        assert on_page == pytest.approx(found["recipe"][name], rel=REL)
        assert getattr(summary.plan.recipe, name) == pytest.approx(found["recipe"][name], rel=REL)
    for name in ("C", "N", "D", "L"):
        ends = [found[name][k] for k in ("value", "low", "high")]
        close(page.quantity(name), ends)
        close(getattr(summary.plan, name), ends)
    for price, wanted in zip(page.prices(), found["deviations"], strict=True):
        known = {k: v for k, v in wanted["compute"].items() if isinstance(v, float)}
        for key, value in known.items():
            assert float(price[key]) == pytest.approx(value, rel=REL)
    assert told(page) == written(page, summary)


def table_of_batches():
    L = np.array([2.0, 2.5, 3.0, 3.5])
    return pd.DataFrame({"L": L, "B_crit": 2e8 / L ** (1 / 0.21)})
