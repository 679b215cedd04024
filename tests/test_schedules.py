"""Cooldowns, restarts and step decay, their trunks, and rules for beta2 and weight decay."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.tables.select import settled
from scaling.config import RunConfig, canonical, from_dict, override
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.optim_rules import parsed, spelled
from scaling.training.pack_key import branch_step, has_trunk, trunk
from scaling.training.schedule import (
    change_points,
    cooldown_steps,
    cycle,
    optimizer_settings,
    peaks,
    resume_steps,
    schedule,
    warmup_steps,
)
from scaling.training.train import train, train_pack
from sweeps.result import failed_row

B = 128
ONE = Execution(threads=1, device="cpu")


def assert_same(member, alone):
    assert member.curve == alone.curve
    assert member.row["L"] == alone.row["L"] and member.row["D"] == alone.row["D"]


def run_of(S, **optim):
    return from_dict({"tokens": S * B, "batch_tokens": B, "optim": optim})


def rates(run):
    return [schedule(run, step) for step in range(run.S)]


steps = st.integers(2, 300)
fractions = st.floats(0, 1)
lists = st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True)


def restarting(points):
    return ",".join(str(point * B) for point in points)


# ------------------------------------------------------------------ cooldowns


@given(steps, fractions, st.sampled_from(["linear", "1-sqrt"]))
def test_a_cooldown_falls_from_the_peak_to_nearly_zero(S, fraction, cooldown):
    run = run_of(S, schedule="wsd", warmup_tokens=0, cooldown_fraction=fraction, cooldown=cooldown)
    values = rates(run)
    K = cooldown_steps(run)
    assert values[: S - K + 1] == [1.0] * (S - K + 1)
    falling = values[S - K :]
    assert all(a > b > 0 for a, b in pairwise(falling))
    assert falling[-1] <= 1 / K


@given(steps, fractions)
def test_the_one_minus_sqrt_cooldown_is_the_published_formula_and_below_the_linear_one(S, fraction):
    """Hägele et al. 2024 (arXiv 2405.18392): f(n) = 1 - sqrt((n - (N - N_decay)) / N_decay)."""
    common = {"schedule": "wsd", "warmup_tokens": 0, "cooldown_fraction": fraction}
    linear, root = run_of(S, **common), run_of(S, **common, cooldown="1-sqrt")
    K = cooldown_steps(root)
    for n in range(S - K, S):
        assert schedule(root, n) == pytest.approx(1 - math.sqrt((n - (S - K)) / K), abs=1e-12)
    assert all(a <= b for a, b in zip(rates(root), rates(linear), strict=True))


def test_both_cooldowns_share_the_trunk():
    common = {"schedule": "wsd", "warmup_tokens": 10 * B}
    runs = [
        run_of(S, **common, cooldown=cooldown, cooldown_fraction=fraction)
        for S, cooldown, fraction in [
            (100, "linear", 0.2),
            (100, "1-sqrt", 0.2),
            (60, "1-sqrt", 0.4),
        ]
    ]
    assert len({run.run_id for run in runs}) == 3 and len({trunk(run) for run in runs}) == 1
    assert [branch_step(run) for run in runs] == [80, 80, 36]


# ------------------------------------------------------------------ WSD-S and restarts


@given(steps, lists, fractions, st.sampled_from(["linear", "1-sqrt"]))
def test_wsd_s_cools_down_at_each_horizon_and_returns_to_the_peak(S, points, fraction, cooldown):
    run = run_of(
        S, schedule="wsd-s", warmup_tokens=0, resume_tokens=restarting(points),
        cooldown_fraction=fraction, cooldown=cooldown,
    )  # fmt: skip
    values = rates(run)
    assert all(0 < value <= 1 for value in values)
    ends = [*resume_steps(run), S]
    assert ends == sorted({point for point in points if point < S} | {S})
    for first, end in zip([0, *ends], ends, strict=False):
        assert values[first] == 1.0  # a return to the peak, or the beginning
        piece = values[first:end]
        assert piece == sorted(piece, reverse=True)
        K = cooldown_steps(run, end)
        assert end - first >= K or first == 0
        assert piece[-1] <= 1 / K


@given(steps, lists, st.sampled_from(["wsd-s", "cosine-restarts"]))
def test_a_longer_horizon_continues_from_the_decayed_checkpoint(S, points, kind):
    """Every step of a horizon that is in the list belongs to all longer ones."""
    common = {"schedule": kind, "warmup_tokens": 0, "resume_tokens": restarting(points)}
    longest = run_of(S, **common)
    for point in points:
        if point < S:
            run = run_of(point, **common)
            assert branch_step(run) == run.S and trunk(run) == trunk(longest)
            assert rates(run) == rates(longest)[:point]


@given(steps, steps, lists, fractions, st.sampled_from(["wsd-s", "cosine-restarts", "step", "wsd"]))
def test_runs_with_one_trunk_have_the_same_rates_until_they_branch_off(S, T, points, f, kind):
    common = {"schedule": kind, "warmup_tokens": 0, "cooldown_fraction": f}
    if kind in ("wsd-s", "cosine-restarts"):
        common["resume_tokens"] = restarting(points)
    one, other = run_of(S, **common), run_of(T, **common)
    assert has_trunk(one) and trunk(one) == trunk(other)
    shared = min(branch_step(one), branch_step(other))
    assert rates(one)[:shared] == rates(other)[:shared]


def test_points_without_effect_do_not_change_the_run():
    wsd = run_of(100, schedule="wsd")
    for listed in ("12800", "12800, 99999", "1e9"):
        assert run_of(100, schedule="wsd-s", resume_tokens=listed).run_id == wsd.run_id
        cosine = run_of(100, schedule="cosine-restarts", resume_tokens=listed)
        assert cosine.run_id == run_of(100).run_id
    one = run_of(100, schedule="wsd-s", resume_tokens="6400")
    assert one.run_id != wsd.run_id
    other = run_of(100, schedule="wsd-s", resume_tokens="9e3, 6410, 6400.0")
    assert one.run_id != other.run_id
    other = run_of(100, schedule="wsd-s", resume_tokens="9e9, 6410, 6400.0")
    assert one.run_id == other.run_id == from_dict(canonical(other)).run_id
    assert run_of(100, schedule="cosine-restarts", cycles=1).run_id == run_of(100).run_id
    assert run_of(100, cycles=5, cooldown="1-sqrt", step_factor=0.5).run_id == run_of(100).run_id


@given(st.integers(20, 300), st.integers(1, 5), st.floats(0, 0.5), fractions)
def test_cycles_of_a_cosine_are_equal_and_begin_at_the_peak(S, cycles, warmup, final):
    run = run_of(
        S, schedule="cosine-restarts", warmup_fraction=warmup, final_fraction=final, cycles=cycles
    )
    values, W = rates(run), warmup_steps(run)
    ends = [*resume_steps(run), S]
    lengths = np.diff([W, *ends])
    assert len(ends) == min(cycles, S - W) and lengths.max() - lengths.min() <= 1
    for end in ends:
        first, same = cycle(run, end - 1)
        assert same == end and values[first] == pytest.approx(1)
        if end - first > 1:
            assert values[end - 1] == pytest.approx(final)
        assert all(
            a >= b - 1e-12 for a, b in zip(values[first:end], values[first + 1 : end], strict=False)
        )
    assert not has_trunk(run) or cycles == 0


# ------------------------------------------------------------------ step decay


@given(
    steps,
    st.lists(st.tuples(fractions, fractions), min_size=1, max_size=6, unique_by=lambda p: p[0]),
)
def test_knots_are_joined_by_lines(S, points):
    points = sorted(points)
    text = " ".join(f"{done!r}:{rate!r}" for done, rate in points)
    run = run_of(S, schedule="knots", warmup_tokens=0, knots=text)
    done = (np.arange(S) + 1) / S
    assert rates(run) == pytest.approx(np.interp(done, *zip(*points, strict=True)), abs=1e-9)
    assert run.run_id == run_of(S, schedule="knots", warmup_tokens=0, knots=f" {text} ").run_id
    assert run_of(S, knots=text).run_id == run_of(S).run_id
    assert not has_trunk(run)


@given(steps, st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.floats(0.01, 1))
def test_step_decay_is_piecewise_constant_and_ends_at_the_product(S, drops, factor):
    text = ", ".join(map(repr, drops))
    run = run_of(S, schedule="step", warmup_tokens=0, step_fractions=text, step_factor=factor)
    values = rates(run)
    assert values == sorted(values, reverse=True)
    passed = sum(round(drop * S) < S for drop in set(drops))
    assert values[-1] == pytest.approx(factor**passed)
    assert all(value == 1 for value in values[: round(min(drops) * S)])


def test_the_default_steps_are_those_of_deepseek():
    """DeepSeek-AI 2024 (arXiv 2401.02954): 31.6 % of the peak after 80 % of the tokens, 10 % after
    90 %."""
    values = rates(run_of(100, schedule="step", warmup_tokens=0))
    assert values[79] == 1 and values[80] == values[89] == 0.316
    assert values[90] == pytest.approx(0.1, rel=2e-3)


@given(
    steps, lists, st.sampled_from(["wsd", "wsd-s", "cosine-restarts", "step", "cosine", "linear"])
)
def test_rates_are_smooth_between_change_points(S, points, kind):
    changes = {"resume_tokens": restarting(points)} if kind in ("wsd-s", "cosine-restarts") else {}
    run = run_of(S, schedule=kind, warmup_tokens=0, **changes)
    found = change_points(run)
    assert found[0] == 0 and found[-1] == S and list(found) == sorted(set(found))
    values = np.array(rates(run))
    for a, b in pairwise(found):
        piece = values[a:b]
        if kind in ("wsd", "wsd-s", "linear", "step") and len(piece) > 2:
            assert np.allclose(np.diff(piece, 2), 0, atol=1e-9)
        assert (np.diff(piece) <= 1e-12).all()


def test_a_law_of_steps_takes_the_points_at_the_peak():
    lr = [0.5, 1.0, 1.0, 0.4, 1.0, 0.2]
    curves = pd.DataFrame({"run_id": "a", "S": range(1, 7), "lr": lr})
    for kind, left in (
        ("wsd-s", [2, 3, 5]),
        ("step", [2, 3, 5]),
        ("cosine-restarts", [2, 3, 4, 5, 6]),
    ):
        assert list(settled(curves.assign(schedule=kind))["S"]) == left


# ------------------------------------------------------------------ training


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.schedule": "wsd", "optim.cooldown": "1-sqrt"},
        {"optim.schedule": "wsd-s", "optim.resume_tokens": "5120, 10240"},
        {"optim.schedule": "cosine-restarts", "optim.resume_tokens": "5120, 10240"},
        {"optim.schedule": "step"},
    ],
    ids=lambda changes: changes["optim.schedule"],
)
def test_branches_of_every_schedule_are_the_runs_alone(run, changes):
    base = override(run, {**changes, "optim.warmup_tokens": 1280})
    runs = [override(base, {"tokens": S * 256}) for S in (20, 36, 40, 60)]
    together = train_pack(runs, execution=ONE)
    for member in together:
        assert_same(member, train(member.config, execution=ONE))
    shared = [result.row["D_shared"] // 256 for result in together]
    expected = {
        "wsd": [16, 29, 32, 0], "wsd-s": [20, 29, 40, 0], "cosine-restarts": [20, 20, 40, 0],
        "step": [16, 29, 32, 0],
    }  # fmt: skip
    assert shared == expected[changes["optim.schedule"]]


def test_rules_train_as_the_numbers_that_they_give(run):
    base = {"tokens": 30 * 256}
    rules = override(
        run,
        base | {"optim.beta2": "0.9^(B/512)", "optim.weight_decay": "0.2 (B/1024)^0.5"},
    )
    numbers = override(run, base | {"optim.beta2": 0.9**0.5, "optim.weight_decay": 0.1})
    ruled, plain = train(rules, execution=ONE), train(numbers, execution=ONE)
    assert ruled.row["L"] == pytest.approx(plain.row["L"], abs=1e-6)
    assert ruled.row["beta2"] == pytest.approx(0.9**0.5) and ruled.row["weight_decay"] == 0.1
    assert ruled.row["run_id"] != plain.row["run_id"]


# ------------------------------------------------------------------ rules


def test_beta2_and_weight_decay_follow_batch_and_horizon():
    run = from_dict(
        {
            "tokens": 2**20, "batch_tokens": 2**16, "optim.beta2": "0.98^(B/131072)",
            "optim.weight_decay": "0.1 B^0.5/D^0.5",
        }
    )  # fmt: skip
    settings = optimizer_settings(run)
    assert settings.beta2 == pytest.approx(0.98**0.5)
    assert settings.weight_decay == pytest.approx(0.1 * 0.25)
    horizon = from_dict({"optim.beta2": "1 - 40 B/D", "batch_tokens": 4096, "tokens": 4096 * 1000})
    assert optimizer_settings(horizon).beta2 == pytest.approx(0.96)


@given(st.floats(1e-4, 1), st.integers(1, 32), st.floats(1.1, 1e3), st.booleans())
def test_a_decay_timescale_is_the_running_mean_of_adamw(lr, rows, batches, mup):
    """Wang & Aitchison 2024 (arXiv 2405.13698): timescale 1 / (lr lambda) iterations."""
    B = rows * 128
    changes = {"model.mup_base_width": 16} if mup else {}
    run = from_dict(
        {"batch_tokens": B, "optim.lr": lr, "optim.decay_tokens": batches * B, **changes}
    )
    decay = optimizer_settings(run).weight_decay
    assert B / (lr * decay) == pytest.approx(batches * B)
    rule = from_dict(
        {"batch_tokens": B, "optim.lr": lr, "optim.decay_tokens": "0.2 D", "tokens": 1e6}
    )
    assert optimizer_settings(rule).decay_tokens == pytest.approx(0.2 * rule.D)


def test_decay_tokens_replace_weight_decay():
    one = from_dict({"optim.decay_tokens": 1e6})
    assert one.run_id == from_dict({"optim.decay_tokens": "1e6", "optim.weight_decay": 0.3}).run_id
    assert one.run_id != RunConfig().run_id
    row = failed_row(one, "killed")
    assert row["decay_tokens"] == 1e6 and row["weight_decay"] == pytest.approx(4096 / (3e-3 * 1e6))
    assert failed_row(from_dict({"optim.beta2": "1 - 2 B"}), "x")["beta2"] is None


def test_a_trunk_depends_on_what_its_rules_give():
    ladder = [{"schedule": "wsd", "warmup_tokens": 0}]
    shared = ladder[0] | {"beta2": "0.98^(B/131072)", "weight_decay": "0.1 B^0.5"}
    assert trunk(run_of(50, **shared)) == trunk(run_of(100, **shared))
    for rule in ({"decay_tokens": "0.2 D"}, {"beta2": "1 - 2 B/D"}):
        assert trunk(run_of(50, **ladder[0], **rule)) != trunk(run_of(100, **ladder[0], **rule))


@given(st.floats(1e-3, 1e3), st.floats(-2, 2), st.floats(-2, 2), st.sampled_from(["*", " ", " * "]))
def test_a_rule_is_a_product_of_powers(c, p, q, times):
    text = f"{c!r}{times}B^({p!r}) / (D/2)^{q!r}"
    rule = parsed(text, "optim.weight_decay")
    assert rule.at(N=1, D=2e3, B=7) == pytest.approx(c * 7**p / 1e3**q)
    again = spelled(text, "optim.weight_decay")
    assert spelled(again, "optim.weight_decay") == again
    assert parsed(again, "optim.weight_decay").at(N=1, D=2e3, B=7) == rule.at(N=1, D=2e3, B=7)


def test_one_rule_has_one_spelling():
    ids = {
        from_dict({"optim.beta2": rule}).run_id
        for rule in ("0.98^(B/131072)", "0.98^( B^1.0 * 7.62939453125e-06 )", "0.98 ^ (B / 2^17)")
    }
    assert len(ids) == 1
    assert from_dict({"optim.beta2": "0.95"}).run_id == RunConfig().run_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "wsd-s"}, "'wsd-s' needs optim.resume_tokens, such as '3e5, 6e5'"),
        ({"resume_tokens": "3e5; 6e5"}, "resume_tokens='3e5; 6e5' is not a list of numbers"),
        ({"resume_tokens": "3e5,,6e5"}, "is not a list of numbers"),
        ({"resume_tokens": "inf"}, "is not a list of numbers"),
        ({"resume_tokens": "-5"}, "resume_tokens='-5' must be positive"),
        ({"schedule": "step", "step_fractions": ""}, "needs optim.step_fractions"),
        ({"step_fractions": "80"}, "step_fractions='80' must lie between 0 and 1"),
        ({"step_factor": 2.0}, "step_factor=2.0 must be above 0 and at most 1"),
        ({"step_factor": 0.0}, "step_factor=0.0 must be above 0"),
        ({"schedule": "knots"}, "needs optim.knots, such as '0.1:1 0.8:0.5 1:0.01'"),
        ({"knots": "0.1 0.5"}, "knots='0.1 0.5' is not a list of points such as"),
        ({"knots": "0.1:1 0.5:x"}, "is not a list of points such as"),
        ({"knots": "0.1:1 1:1.5"}, "fractions of the steps and of the peak lie between 0 and 1"),
        ({"knots": "0.5:1 0.5:0.1"}, "the fractions of the steps must increase"),
        ({"cycles": 0}, "optim.cycles=0 must be positive"),
        ({"cooldown": "sqrt"}, "'sqrt' is not one of 'linear', '1-sqrt'"),
        ({"schedule": "wsds"}, "'wsds' is not one of"),
        ({"beta2": "0.98^"}, "beta2='0.98.' is neither a number nor a power law such as '0.98"),
        ({"beta2": "1.5"}, r"optim.beta2=1.5 must lie in \[0, 1\)"),
        ({"weight_decay": "0.98^(B/3)"}, "weight_decay='0.98.* is neither a number nor a power"),
        ({"weight_decay": "-0.1 B"}, "is neither a number nor a power law"),
        ({"weight_decay": -0.1}, "optim.weight_decay=-0.1 must not be negative"),
        ({"decay_tokens": 0.0}, "optim.decay_tokens=0.0 must be positive"),
        ({"decay_tokens": "0.2 T"}, "decay_tokens='0.2 T' is neither .* such as '0.2 D'"),
        (
            {"schedule": "wsd-s", "resume_tokens": "1e4", "warmup_tokens": 20_000},
            "resume_tokens='1e4' begins within the warm-up, which takes 20000 tokens",
        ),
        (
            {"schedule": "wsd-s", "resume_tokens": "9e5", "cooldown_fraction": 0.97},
            "overlap; their sum must be at most 1",
        ),
    ],
)  # fmt: skip
def test_bad_schedules_and_rules_raise_one_clear_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        _ = override(RunConfig(), {"optim": changes}).run_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta2": "1 - 2 B"}, r"optim.beta2='1 - 2 B' gives -8191, which must lie in \[0, 1\)"),
        ({"beta2": "N"}, "gives .*, which must lie in"),
        ({"weight_decay": "D^100"}, "weight_decay='D.100' gives inf, which is not finite"),
        ({"decay_tokens": 4096}, "gives 4096 tokens, no more than the 4096 of one step"),
    ],
)
def test_a_rule_whose_value_cannot_be_is_one_clear_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        optimizer_settings(override(RunConfig(), {"optim": changes}))


def test_existing_runs_keep_their_settings():
    run = from_dict({"optim.weight_decay": 0.2})
    assert optimizer_settings(run) is run.optim
    assert peaks(run) == (3e-3, 3e-3)
