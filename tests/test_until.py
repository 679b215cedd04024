"""Adaptive sweeps find what they search for, in few runs, in whatever order the runs finish."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.planning.adaptive import interval_width
from scaling import size as model_size
from scaling.cli import main
from scaling.columns import config_row
from scaling.config import ModelConfig, RunConfig, flatten
from scaling.errors import ConfigError
from sweeps import Sweep
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.interval import Interval
from sweeps.adaptive.learning_rate import rate_of
from sweeps.adaptive.sizes import model_between, model_beyond
from sweeps.budget import SweepBudget
from sweeps.errors import BudgetSpent
from sweeps.folder_status import status
from sweeps.spec import Spec

SIZES = (
    "[{ n_layer = 1, d_model = 16, n_head = 1 }, { n_layer = 2, d_model = 32, n_head = 2 }, "
    "{ n_layer = 2, d_model = 64, n_head = 2 }]"
)
LR = f"""
name = "rates"
[base]
data.tokenizer = "bytes"
optim.lr = "0.05 N^-0.25"
[axes]
model = {SIZES}
tokens = [8192, 81_920]
[until]
lr = {{ within = 1.2 }}
"""
ISOFLOP = f"""
name = "budgets"
[base]
data.tokenizer = "bytes"
[isoflop]
C = [1e12, 1e13]
models = {SIZES}
[until]
isoflop = {{ within = 1.5 }}
"""


def row(run: RunConfig, L: float | None) -> dict[str, Any]:
    N = model_size.parameters(run.model, run.data.vocab_size).N
    measured = {
        "run_id": run.run_id,
        "N": N,
        "D": run.D,
        "C": 6.0 * N * run.D,
        "B": run.batch_tokens,
    }
    return (
        config_row(flatten(run))
        | measured
        | {"S": run.S, "L": L, "status": "ok" if L else "diverged"}
    )


def settle(
    spec: Spec, loss: Callable[[RunConfig], float | None], order: random.Random | None, **how: Any
) -> tuple[dict[str, Any], Growth]:
    """Finish runs until none is asked for: all at once, or one at a time in a random order."""
    rows: dict[str, Any] = {}
    while True:
        growth = spec.designed(rows, **how)
        missing = [run for run_id, run in growth.runs.items() if run_id not in rows]
        if not missing:
            return rows, growth
        for run in [order.choice(missing)] if order else missing:
            rows[run.run_id] = row(run, loss(run))


def best_lr(run: RunConfig) -> float:
    N = model_size.parameters(run.model, run.data.vocab_size).N
    return 2.0 * N**-0.6 * (run.D / 1e4) ** 0.1


def valley(run: RunConfig) -> float | None:
    """Return a loss with its minimum at best_lr; None, far above it, where training diverges."""
    x = math.log(rate_of(run) / best_lr(run))
    return None if x > 2.5 else 2.0 + 0.1 * x * x


# ------------------------------------------------------------------ learning rate


def test_the_best_learning_rate_of_every_run_is_found_in_few_runs():
    spec = Spec.from_text(LR)
    rows, growth = settle(spec, valley, None)
    families: dict[Any, list[RunConfig]] = {}
    for run in growth.runs.values():
        families.setdefault((run.model, run.tokens), []).append(run)
    assert len(families) == 6 and len(growth.notes) == 6
    for members in families.values():
        best = min(members, key=lambda run: rows[run.run_id]["L"] or math.inf)
        lr = (
            best.optim.lr
            if isinstance(best.optim.lr, float)
            else 0.05 * model_size.parameters(best.model, 256).N ** -0.25
        )
        assert 1 / 1.2 < lr / best_lr(best) < 1.2
    # A grid as fine over the same range has more than twice as many runs.
    assert all("at the end" not in line for line in growth.notes)
    assert len(rows) / 6 < 10


@pytest.mark.parametrize("text", [LR, ISOFLOP])
def test_the_order_in_which_runs_finish_does_not_matter(text: str):
    spec = Spec.from_text(text)
    loss = valley if text == LR else chinchilla
    _, at_once = settle(spec, loss, None)
    for seed in range(3):
        _, one_by_one = settle(spec, loss, random.Random(seed))
        assert one_by_one.runs == at_once.runs and one_by_one.notes == at_once.notes


def test_a_search_that_is_killed_and_resumed_asks_for_the_same_runs():
    spec = Spec.from_text(LR)
    rows, growth = settle(spec, valley, None)
    some = dict(random.Random(0).sample(sorted(rows.items()), len(rows) // 2))
    assert spec.designed(some).runs.items() <= growth.runs.items()
    assert spec.designed(dict(sorted(rows.items()))).notes == growth.notes


def test_larger_sizes_start_at_the_best_value_of_the_next_smaller_one():
    spec = Spec.from_text(LR.replace("tokens = [8192, 81_920]", "tokens = [8192]"))
    started = spec.designed({}).runs.values()
    assert {run.model.d_model for run in started} == {16}  # the other sizes wait
    _, growth = settle(spec, valley, None)
    numbers = [sum(run.model.d_model == d for run in growth.runs.values()) for d in (16, 32, 64)]
    alone = Spec.from_text(
        LR.replace("tokens = [8192, 81_920]", "tokens = [8192]").replace(
            SIZES, "[{ n_layer = 2, d_model = 64, n_head = 2 }]"
        )
    )
    assert numbers[2] <= len(settle(alone, valley, None)[0])


def test_a_best_rate_at_the_end_of_the_range_is_reported():
    _, growth = settle(Spec.from_text(LR), lambda run: 2 - 1e-3 * math.log(rate_of(run)), None)
    assert growth.notes and all("at the end of what was tried" in line for line in growth.notes)
    assert all(
        run.optim.lr <= 100 for run in growth.runs.values() if isinstance(run.optim.lr, float)
    )


def test_a_search_whose_runs_all_diverge_ends():
    _, growth = settle(Spec.from_text(LR), lambda run: None, None)
    assert all("at the end" in line for line in growth.notes)


@given(st.floats(-3, 3), st.floats(1.05, 3), st.floats(1.2, 8))
@settings(max_examples=30, deadline=None)
def test_any_valley_is_bracketed_within_the_factor(shift: float, within: float, factor: float):
    text = LR.replace("within = 1.2", f"within = {within}, factor = {factor}")
    text = text.replace(SIZES, "[{ n_layer = 1, d_model = 16 }]").replace(
        "[8192, 81_920]", "[8192]"
    )
    text = text.replace('"0.05 N^-0.25"', "0.01")

    def loss(run: RunConfig) -> float:
        assert isinstance(run.optim.lr, float)
        return 2 + abs(math.log(run.optim.lr / 0.01) - shift)

    _, growth = settle(Spec.from_text(text), loss, None)
    best = min(growth.runs.values(), key=loss)
    assert isinstance(best.optim.lr, float)
    assert abs(math.log(best.optim.lr / 0.01) - shift) <= math.log(within) + 0.01


# ------------------------------------------------------------------ isoFLOP


def chinchilla(run: RunConfig) -> float:
    N = model_size.parameters(run.model, run.data.vocab_size).N
    return 1.5 + 9.0 * N**-0.25 + 38.0 * run.D**-0.3


def test_isoflop_minima_are_bracketed():
    spec = Spec.from_text(ISOFLOP.replace("C = [1e12, 1e13]", "C = [3e9, 1e12, 1e13]"))
    rows, growth = settle(spec, chinchilla, None)
    assert len(growth.notes) == 3
    for C in (1e12, 1e13):
        near = [r for r in rows.values() if abs(r["C"] / C - 1) < 0.05]
        near.sort(key=lambda r: r["N"])
        i = min(range(len(near)), key=lambda k: near[k]["L"])
        assert 0 < i < len(near) - 1
        left, right = near[i]["N"] / near[i - 1]["N"], near[i + 1]["N"] / near[i]["N"]
        shapes = [
            ModelConfig(n_layer=r["n_layer"], d_model=r["d_model"], n_head=r["n_head"])
            for r in near[i - 1 : i + 2]
        ]
        assert left <= 1.5 or model_between(shapes[0], shapes[1]) is None
        assert right <= 1.5 or model_between(shapes[1], shapes[2]) is None
    assert len(growth.runs) > len(spec.runs)


@given(
    st.integers(1, 8), st.integers(1, 4), st.integers(1, 16), st.integers(1, 8), st.integers(1, 16)
)
def test_models_between_and_beyond_are_valid(n_layer, n_head, width, more_layers, wider):
    small = ModelConfig(n_layer=n_layer, d_model=n_head * width * 4, n_head=n_head)
    large = ModelConfig(
        n_layer=n_layer + more_layers, d_model=n_head * (width + wider) * 4, n_head=n_head
    )
    size = [model_size.parameters(m, 256).N for m in (small, large)]
    between, beyond = model_between(small, large), model_beyond(small, large)
    assert between is None or size[0] < model_size.parameters(between, 256).N < size[1]
    assert beyond is not None and size[1] < model_size.parameters(beyond, 256).N


def test_learning_rate_and_isoflop_together():
    text = ISOFLOP.replace("isoflop =", "lr = { within = 1.5 }\nisoflop =")

    def loss(run: RunConfig) -> float:
        assert isinstance(run.optim.lr, float)
        return chinchilla(run) + 0.1 * math.log(run.optim.lr / best_lr(run)) ** 2

    _, growth = settle(Spec.from_text(text), loss, None)
    sizes = [line for line in growth.notes if line.startswith("best size")]
    assert len(sizes) == 2 and not any("at the end" in line for line in sizes)
    assert settle(Spec.from_text(text), loss, random.Random(1))[1].runs == growth.runs


# ------------------------------------------------------------------ seeds for an interval

INTERVAL = f"""
name = "seeds"
[base]
data.tokenizer = "bytes"
[axes]
model = {SIZES}
tokens = [8192, 40_960, 81_920]
[until]
interval = {{ law = "chinchilla", parameter = "alpha", width = 0.1, seeds = 4 }}
"""


def test_seeds_are_added_until_the_interval_is_narrow():
    spec = Spec.from_text(INTERVAL)
    widths = {9: 1.0, 18: 0.3, 27: 0.09}
    asked = []

    def width(interval, rows):
        asked.append(len(rows))
        return widths[len(rows)]

    rows, growth = settle(spec, chinchilla, None, width=width)
    assert sorted({r["seed"] for r in rows.values()}) == [0, 1, 2] and len(rows) == 27
    assert asked == [9, 18, 27]
    assert growth.notes == ["chinchilla alpha: interval of width 0.09 with 3 seeds, 0.1 asked"]
    assert settle(spec, chinchilla, random.Random(0), width=width)[1].runs == growth.runs
    assert spec.designed(rows).runs == growth.runs  # without a fit, as `scaling status` does it
    _, most = settle(spec, chinchilla, None, width=lambda interval, rows: math.inf)
    assert len(most.runs) == 4 * 9


def test_the_width_is_that_of_the_fit():
    spec = Spec.from_text(INTERVAL)
    noise = random.Random(0)
    rows = [row(run, chinchilla(run) * math.exp(noise.gauss(0, 0.002))) for run in spec.runs]
    asked = spec.searches.interval if spec.searches else None
    wide = interval_width(asked, rows)
    assert wide > 0
    with pytest.raises(ConfigError, match="chinchilla has E, A, B, alpha, beta"):
        interval_width(Interval(width=0.1, parameter="gamma"), rows)
    with pytest.raises(ConfigError, match="designed for laws of N and D; kaplan_N is one of N"):
        interval_width(Interval(width=0.1, law="kaplan_N", parameter="alpha_N"), [])
    assert interval_width(asked, []) == math.inf
    assert interval_width(asked, [r | {"status": "diverged"} for r in rows]) == math.inf


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("lr = { within = 1 }", "lr.within=1.0 must be above 1"),
        ("lr = { factor = 'a' }", "lr.factor: 'a' is not float"),
        ("lr = { near = 2 }", "unknown key 'near'"),
        ("rate = {}", "unknown key 'rate'"),
        ("lr = 3", "must be a table"),
        ("isoflop = {}", "needs an [isoflop] section"),
        ("interval = {}", "'width' is missing"),
        ("lr = {}\ninterval = { width = 1 }", "do not go together"),
    ],
)
def test_mistakes_in_until_are_reported(until: str, message: str):
    text = LR.partition("[until]")[0] + f"[until]\n{until}\n"
    with pytest.raises(ConfigError) as error:
        Spec.from_text(text)
    assert message in str(error.value) and "[until]" in str(error.value)


# ------------------------------------------------------------------ budgets, and a real sweep

REAL = """
name = "real"
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 }
batch_tokens = 256
tokens = 2560
eval = { test_tokens = 2048, points = 2 }
optim.lr = 0.01
[axes]
seed = [0, 1]
"""


def run(text: str, **options: Any) -> tuple[Any, str]:
    Path("real.toml").write_text(text)
    out = io.StringIO()
    it = Sweep.from_toml("real.toml")
    return it.run(
        in_process=True, packs=False, console=Console(file=out), **options
    ), out.getvalue()


def test_an_adaptive_sweep_stops_at_its_budget_and_resumes_to_the_same_end(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    text = REAL.replace("[0, 1]", "[0]") + "[until]\nlr = { within = 1.7 }\n"
    one = model_size.flops_per_token(Spec.from_text(text).runs[0].model, 256) * 2560
    assert "more runs follow" in str(Sweep(Spec.from_text(text)).plan(in_process=True))
    with pytest.raises(
        BudgetSpent, match=r"runs are left. Resume with: scaling sweep real.toml.*--budget-flops"
    ):
        run(text, budget_flops=2.5 * one)
    assert len(Sweep.from_toml("real.toml").store.rows()) == 2
    state = status("results/real")
    assert state.missing == state.runs - 2 > 0
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "real.toml", "--in-process", "--budget-hours", "1e-9", "--no-packs"])
    assert stop.value.code == 3 and "the budget is spent" in capsys.readouterr().err
    runs, out = run(text, budget_hours=1)
    assert out.count("best lr") == 1
    there = runs.set_index("run_id").L.to_dict()
    again, out = run(text)
    assert "all finished" in out and len(again) == len(there)
    undisturbed = Sweep(Spec.from_text(text), "elsewhere").run(
        in_process=True, packs=False, quiet=True
    )
    assert undisturbed.set_index("run_id").L.to_dict() == there


def test_a_budget_below_every_run_is_rejected_before_anything_starts(here: Path):
    with pytest.raises(ConfigError, match="less than the cheapest run takes"):
        run(REAL, budget_flops=1.0)
    for option in ({"budget_flops": 0.0}, {"budget_hours": -1.0}):
        with pytest.raises(ConfigError, match="must be positive"):
            run(REAL, **option)
    assert not Path("results/real/runs.csv").exists()


def test_a_budget_counts_each_run_once():
    runs = Spec.from_text(REAL).runs
    one = model_size.flops_per_token(runs[0].model, 256) * 2560
    budget = SweepBudget(flops=1.5 * one)
    assert budget and not SweepBudget()
    assert budget.admits(runs[:1]) and budget.admits(runs[:1]) and not budget.admits(runs[1:])
    assert not SweepBudget(hours=1e-12).admits(runs)
