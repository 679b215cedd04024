"""Arms that cannot win are stopped early, and the search finds the same best run."""

from __future__ import annotations

import functools
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from scaling import size
from scaling.columns import config_row
from scaling.config import RunConfig, flatten, override
from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps import Sweep
from sweeps.adaptive.families import family
from sweeps.adaptive.halving import Arm, rungs, verdict
from sweeps.adaptive.learning_rate import rate_of
from sweeps.early_stopping import Halving
from sweeps.execute import execute
from sweeps.folder_status import status
from sweeps.queue import Job
from sweeps.result import failed_row
from sweeps.spec import Spec
from sweeps.store import Store

LR = """
name = "rates"
[base]
model = { n_layer = 1, d_model = 16, n_head = 1, n_ctx = 32 }
data.tokenizer = "bytes"
batch_tokens = 256
tokens = 25_600
optim.lr = 0.01
[axes]
seed = [0, 1]
[until]
lr = { within = 1.2, halving = 2 }
"""
FULL = LR.replace(", halving = 2", "")


# ------------------------------------------------------------------ the rule

arms_of = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=1),
    st.tuples(
        st.integers(0, 6).map(lambda i: 2 + i / 4),
        st.sampled_from(["", "ok", "stopped", "diverged", "failed"]),
    ),
    min_size=1,
)


@given(arms_of, st.floats(1.01, 8))
def test_an_arm_that_stops_is_worse_than_one_that_can_still_win(found, eta: float):
    arms = {run_id: Arm({40: (L, None)}, status) for run_id, (L, status) in found.items()}
    arms["elsewhere"] = Arm({20: (0.1, True)})  # has not reached step 40
    there = {r: L for r, (L, status) in found.items() if status not in ("diverged", "failed")}
    stops = {run_id for run_id in there if verdict(run_id, 40, arms, eta)}
    assert len(there) >= eta or not stops
    go_on = max(1, math.floor(len(there) / eta))
    assert len(there) - len(stops) >= min(len(there), go_on)
    alive = [there[r] for r in there if arms[r].status in ("", "ok")]
    for run_id in stops:
        assert min(alive) < there[run_id]
        assert sum(there[run_id] > L for L in there.values()) >= go_on
    for run_id in there.keys() - stops:  # no other arm is stopped
        better = [r for r in there if there[r] < there[run_id]]
        assert (
            len(there) < eta
            or len(better) < go_on
            or not set(better) & {r for r in there if arms[r].status in ("", "ok")}
        )


@given(st.integers(1, 400), st.integers(1, 40), st.floats(0, 0.9))
def test_rungs_are_evaluations_before_the_end(S: int, points: int, warmup: float):
    run = override(
        RunConfig(),
        {"batch_tokens": 256, "model.n_ctx": 32, "tokens": 256 * S, "eval.points": points}
        | {"optim.warmup_fraction": warmup},
    )
    found = rungs(run)
    assert len(found) <= 2 and list(found) == sorted(found)
    assert all(max(S / 4, warmup * S - 0.5) <= step < S for step in found)
    if S >= 20 and points >= 8 and warmup < 0.2:
        assert len(found) == 2 and found[0] < S / 2 <= found[1]


# ------------------------------------------------------------------ searches among synthetic curves

Curve = Callable[[RunConfig, int], float | None]
"""Held-out loss at a step; None where the run has diverged there."""


def row(run: RunConfig, status: str, S: int, L: float | None) -> dict[str, Any]:
    N = size.parameters(run.model, run.data.vocab_size).N
    D = run.tokens_at(S)
    measured = {"run_id": run.run_id, "N": N, "D": D, "C": 6.0 * N * D, "B": run.batch_tokens}
    return config_row(flatten(run)) | measured | {"S": S, "L": L, "status": status}


def search(spec: Spec, curve: Curve, seed: int, workers: int) -> tuple[dict[str, Any], Any, int]:
    """Return the rows, the runs and the tokens of a search.

    Its workers take turns at random and die now and then; a run whose worker died starts again.
    """
    chance = random.Random(seed)
    eta = spec.searches.halving if spec.searches else None
    rows: dict[str, Any] = {}
    arms: dict[Any, dict[str, Arm]] = {}
    under_way: dict[str, tuple[RunConfig, list[int]]] = {}
    tokens = trained_again = 0
    while True:
        growth = spec.designed(rows)
        for run_id in growth.unfinished:
            trained_again += 1
            del rows[run_id], arms[family(growth.runs[run_id])][run_id]
        missing = [r for i, r in growth.runs.items() if i not in rows and i not in under_way]
        for run in chance.sample(missing, min(len(missing), workers - len(under_way))):
            under_way[run.run_id] = run, [*(rungs(run) if eta else ()), run.S]
        if not under_way:
            assert trained_again <= len(rows)
            return rows, growth, tokens
        run_id = chance.choice(sorted(under_way))
        run, left = under_way[run_id]
        if chance.random() < 0.1:
            del under_way[run_id]
            continue
        S = left.pop(0)
        L = curve(run, S)
        beside = arms.setdefault(family(run), {})
        ended = "diverged" if L is None else "ok" if S == run.S else ""
        if L is not None and not ended and eta:
            mine = beside.setdefault(run_id, Arm())
            mine.passed.setdefault(S, (L, None))
            if mine.passed[S][1] is None:
                mine.passed[S] = (L, not verdict(run_id, S, beside, eta))
            ended = "" if mine.passed[S][1] else "stopped"
        if ended:
            rows[run_id] = row(run, ended, S, L)
            tokens += rows[run_id]["D"]
            beside.setdefault(run_id, Arm()).status = ended
            del under_way[run_id]


def families(rows: dict[str, Any], growth: Any) -> list[list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for run_id, run in growth.runs.items():
        found.setdefault(family(run), []).append(rows[run_id])
    return list(found.values())


@functools.cache
def spec_of(text: str) -> Spec:
    return Spec.from_text(text)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1.3, 2.0, 3.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_curves_that_cross_and_diverge_leave_a_finished_best(seed: int, workers: int, eta: float):
    """Losses are random: an arm that is good at a rung may diverge or end as the worst."""

    def curve(run: RunConfig, S: int) -> float | None:
        chance = random.Random(f"{seed} {run.run_id} {S}")
        return None if chance.random() < 0.25 else 2 + chance.random()

    spec = spec_of(LR.replace("halving = 2", f"halving = {eta}"))
    rows, growth, _ = search(spec, curve, seed, workers)
    assert not growth.unfinished
    for arms in families(rows, growth):
        states = [r["status"] for r in arms]
        assert "ok" in states or "stopped" not in states  # stopped for an arm that ended well
        if "ok" in states:
            best = min((r for r in arms if r["status"] == "ok"), key=lambda r: r["L"])
            assert any(f"run {best['run_id']}" in line for line in growth.notes)
    again = spec.designed(dict(sorted(rows.items())))
    assert again.runs == growth.runs and again.notes == growth.notes


@given(st.floats(-2, 2), st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1.5, 2.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_curves_that_do_not_cross_lead_to_the_same_best_for_less(
    shift: float, seed: int, workers: int, eta: float
):
    def curve(run: RunConfig, S: int) -> float:
        return (2 + math.log(rate_of(run) / 0.01 / math.exp(shift)) ** 2) * (1 + 10 / S)

    whole, full, most = search(spec_of(FULL), curve, seed, workers)
    rows, growth, tokens = search(
        spec_of(LR.replace("halving = 2", f"halving = {eta}")), curve, seed, workers
    )
    assert growth.notes[:2] == full.notes and growth.runs == full.runs
    stopped = [r for r in rows.values() if r["status"] == "stopped"]
    assert tokens == most - sum(25_600 - r["D"] for r in stopped)
    assert bool(stopped) == bool(growth.notes[2:])
    assert all(rows[i]["L"] == whole[i]["L"] for i in rows if rows[i]["status"] == "ok")


def test_a_search_saves_a_fifth_of_its_tokens():
    """The best rates span a factor of 55. Over more searches, halves save 20 % and thirds 33 %."""
    spent = trained = 0
    for shift in (-2, -1, 0, 1, 2):

        def curve(run: RunConfig, S: int, shift: int = shift) -> float:
            return 2 + (math.log(rate_of(run) / 0.01) - shift) ** 2

        trained += search(spec_of(FULL), curve, shift, 2)[2]
        spent += search(spec_of(LR), curve, shift, 2)[2]
    assert spent < 0.85 * trained


def test_if_the_leading_arm_diverges_the_next_best_is_trained_to_its_end():
    """The middle rate leads at every rung and then diverges."""

    def curve(run: RunConfig, S: int) -> float | None:
        if run.seed or rate_of(run) != 0.01:
            return 2 + abs(math.log(rate_of(run) / 0.02))
        return 1.0 if S < run.S else None

    spec = spec_of(LR)
    rows = {}
    first = {run.optim.lr: run for run in spec.designed({}).runs.values() if run.seed == 0}
    assert sorted(first) == [0.0025, 0.01, 0.04]
    for lr, ended in ((0.0025, "stopped"), (0.01, "diverged"), (0.04, "stopped")):
        S = rungs(first[lr])[0]
        rows[first[lr].run_id] = row(first[lr], ended, S, curve(first[lr], S))
    growth = spec.designed(rows)
    assert growth.unfinished == {first[0.04].run_id}
    # Without halving in the spec, all stopped runs are asked for.
    assert spec_of(FULL).designed(rows).unfinished == {first[lr].run_id for lr in (0.0025, 0.04)}
    rows, growth, _ = search(spec, curve, 0, 1)
    found = float(growth.notes[0].split()[2].rstrip(":"))
    assert 1 / 1.2 < found / 0.02 < 1.2 and rows[first[0.04].run_id]["status"] != "stopped"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LR.replace("halving = 2", "halving = 1"), "lr.halving=1.0 must be above 1"),
        (LR.replace("halving = 2", "halving = 'x'"), "lr.halving: 'x' is not float or none"),
        (LR.replace("halving = 2", "halving = true"), "lr.halving: True is not float or none"),
        (LR.replace("halving = 2", "halving = -3"), "lr.halving=-3.0 must be above 1"),
        (
            LR.replace("lr = {", "isoflop = {").replace("within = 1.2, ", ""),
            "unknown key 'halving'",
        ),
        (LR.replace("[axes]", "eval.points = 3\n[axes]"), "with eval.points=3 run"),
        (LR.replace("[axes]", "optim.warmup_fraction = 1.0\n[axes]"), "once its warm-up is over"),
    ],
)
def test_mistakes_are_reported(text: str, message: str):
    with pytest.raises(ConfigError) as error:
        Spec.from_text(text)
    assert message in str(error.value) and "[until]" in str(error.value)


# ------------------------------------------------------------------ the records


def points(run: RunConfig, L: float) -> list[dict[str, Any]]:
    return [{"S": S, "L": L} for S in [1, *rungs(run)]]


def test_arms_of_a_pack_are_compared_with_all_others_and_decisions_are_final(tmp_path: Path):
    runs = [run for run in spec_of(LR).designed({}).runs.values() if run.seed == 0]
    first, second = rungs(runs[0])
    store = Store(tmp_path)
    halving = Halving(store, 1.5)  # two of three continue
    curves = {r.run_id: points(r, L) for r, L in zip(runs, (3.0, 2.0, 2.5), strict=True)}

    def pass_by(chosen: list[RunConfig], upto: int) -> dict[str, str]:
        return halving([(r, [p for p in curves[r.run_id] if p["S"] <= upto]) for r in chosen])

    assert pass_by(runs, 1) == {} and not (tmp_path / "rungs").exists()
    stops = pass_by(runs, first)
    assert list(stops) == [runs[0].run_id] and "number 3 of 3 arms" in stops[runs[0].run_id]
    # One arm comes again from an older checkpoint; the decision stands though others changed.
    curves[runs[2].run_id] = points(runs[2], 3.5)
    assert pass_by(runs[2:], first) == {}
    assert list(pass_by(runs[:1], first)) == [runs[0].run_id]
    # It had not reached the next rung, where there are no two others.
    assert pass_by(runs[1:2], second) == {}
    assert list(pass_by(runs[2:], second)) == [runs[2].run_id]
    # An arm is stopped only for arms that can still win.
    other = override(runs[0], {"optim.lr": 0.02})
    curves[other.run_id] = points(other, 2.2)
    records = sorted((tmp_path / "rungs").glob("*/*.json"))
    assert len(records) == 3 and len({path.parent for path in records}) == 1
    for run in runs:
        store.finish(failed_row(run, "") | {"status": "diverged"}, [])
    assert pass_by([other], first) == {}


def test_damaged_records_and_full_disks_cost_only_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    good, bad = [run for run in spec_of(LR).designed({}).runs.values() if run.seed == 0][:2]
    first = rungs(good)[0]
    halving = Halving(Store(tmp_path), 2)
    assert halving([(good, points(good, 2.0)[:2])]) == {}
    (record,) = (tmp_path / "rungs").glob("*/*.json")
    whole = record.read_bytes()
    for torn in (b"", whole[: len(whole) // 2], b"[]", b'{"passed": [[1]]}', b'{"passed": 3}'):
        record.write_bytes(torn)
        assert halving([(bad, points(bad, 3.0)[:2])]) == {}
        (record.parent / f"{bad.run_id}.json").unlink()
    record.write_bytes(whole)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeps.early_stopping.write_atomic", full)
    assert list(halving([(bad, points(bad, 3.0)[:2])])) == [
        bad.run_id
    ]  # the decision needs no record
    assert not (record.parent / f"{bad.run_id}.json").exists()
    assert json.loads(whole)["passed"] == [[first, 2.0, True]]


# ------------------------------------------------------------------ real training

REAL = """
name = "real"
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 }
batch_tokens = 256
tokens = 10_240
eval = { test_tokens = 2048, points = 8 }
optim.lr = 0.01
[axes]
seed = [0]
[until]
lr = { within = 1.7, factor = 8, halving = 2 }
"""


def run(text: str, results: str = "results", **options: Any) -> tuple[pd.DataFrame, str]:
    out = io.StringIO()
    it = Sweep(Spec.from_text(text), results)
    how: dict[str, Any] = {"in_process": True, "packs": False} | options
    return it.run(console=Console(file=out, width=200), **how).set_index("run_id"), out.getvalue()


MEASURED = ["status", "S", "D", "C", "L", "error"]


def test_a_sweep_stops_arms_that_cannot_win_and_is_the_same_after_any_kill(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, _ = run(REAL.replace(", halving = 2", ""), "whole")
    runs, out = run(REAL)
    stopped, ok = runs[runs.status == "stopped"], runs[runs.status == "ok"]
    assert len(stopped) >= 2 and f"{len(ok)} ok, {len(stopped)} stopped in" in out
    assert "of the tokens spared" in out and runs.D.sum() < whole.D.sum()
    assert list(runs.index) and set(runs.index) == set(whole.index)  # the search took the same path
    assert ok.L.idxmin() == whole.L.idxmin()
    pd.testing.assert_series_equal(ok.L, whole.L[ok.index])
    assert stopped.error.str.fullmatch(r"at step \d+ its loss [\d.]+ is number \d of \d arms").all()
    assert (stopped.D == 256 * stopped.S).all() and (stopped.S < 40).all()
    curves = pd.read_parquet("results/real/curves.parquet").groupby("run_id")
    assert (curves.L.last()[runs.index] == runs.L).all()
    assert (curves.S.max()[runs.index] == runs.S).all()

    state = status("results/real")
    assert state.finished["stopped"] == len(stopped) and not state.missing
    assert f"{len(stopped)} stopped" in state.line
    assert "nothing to train" in run(REAL, retry_failed=True)[1]

    # Kill it at every 15th evaluation, and when a stopped run is about to be stored.
    calls, call, finish = 0, Halving.__call__, Store.finish

    def dies(self: Halving, measured: Any) -> dict[str, str]:
        nonlocal calls
        calls += 1
        if calls % 15 == 0:
            raise KeyboardInterrupt
        return call(self, measured)

    torn = set()

    def dies_at_first(self: Store, row: Any, *others: Any) -> None:
        if row["status"] == "stopped" and row["run_id"] not in torn:
            torn.add(row["run_id"])
            raise KeyboardInterrupt
        finish(self, row, *others)

    kills, killed = 0, None
    with monkeypatch.context() as patch:
        patch.setattr(Halving, "__call__", dies)
        patch.setattr(Store, "finish", dies_at_first)
        while killed is None:
            try:
                killed, _ = run(REAL, "killed", checkpoint_seconds=0.0)
            except KeyboardInterrupt:
                kills += 1
    assert kills > len(stopped) == len(torn)
    same = [name for name in MEASURED if name != "error"]
    pd.testing.assert_frame_equal(killed[same], runs[same])

    # A spec without the option trains the stopped runs to the end.
    full = REAL.replace(", halving = 2", "")
    plan = Sweep(Spec.from_text(full)).plan(in_process=True)
    assert plan.stopped_early == set(plan.missing) and set() < plan.stopped_early <= set(
        stopped.index
    )
    assert "were stopped early and are trained to the end" in str(plan)
    runs, _ = run(full)
    pd.testing.assert_frame_equal(runs[MEASURED], whole[MEASURED])


def test_arms_that_train_together_stop_at_the_same_rung(here: Path):
    runs = tuple(Spec.from_text(REAL).designed({}).runs.values())
    store = Store(here / "results")
    job = Job(runs, 1.0, slots=3, halving=2)
    ended = execute(job, store, Execution(threads=1, device="cpu"), lambda: False)
    assert sorted(outcome.status for outcome in ended) == ["ok", "stopped", "stopped"]
    found = {r.row["run_id"]: r for r in store.results()}
    first = rungs(runs[0])[0]
    at_rung = {i: next(p["L"] for p in r.curve if p["S"] == first) for i, r in found.items()}
    best = min(at_rung, key=at_rung.__getitem__)
    for run_id, result in found.items():
        row = result.row
        assert (row["status"], row["S"]) == (("ok", 40) if run_id == best else ("stopped", first))
        assert [e["event"] for e in store.attempts(run_id)][-1] == row["status"]


def test_members_that_are_stopped_do_not_change_the_others(here: Path):
    """Stopped members are part of a pack, and the longest run of a trunk with branches."""
    from scaling.training.train import train_pack

    one = Spec.from_text(REAL).runs[0]
    ladder = {"optim.schedule": "wsd", "optim.warmup_tokens": 512}
    runs = [
        override(one, {"optim.lr": 0.02}),
        one,
        override(one, ladder),
        override(one, ladder | {"tokens": 5120}),
    ]
    asked: list[tuple[str, int]] = []

    def give_up(measured: Any) -> dict[str, str]:
        for run, curve in measured:
            assert curve[-1]["S"] < run.S
            asked.append((run.run_id, curve[-1]["S"]))
        return {r.run_id: "enough" for r, curve in measured if r in runs[::2] and len(curve) == 4}

    how = Execution(threads=1, device="cpu")
    ended = train_pack(runs, execution=how, give_up=give_up)
    alone = [train_pack([run], execution=how)[0] for run in runs]
    assert [result.status for result in ended] == ["stopped", "ok", "stopped", "ok"]
    for result, whole in zip(ended, alone, strict=True):
        losses, whole_losses = ([p["L"] for p in r.curve] for r in (result, whole))
        assert losses == whole_losses[: len(losses)]  # bit for bit
        last = {key: result.row[key] for key in ("S", "D", "C", "L")}
        assert last == {key: result.curve[-1][key] for key in last}
        assert (len(losses) == 4, result.row["error"]) == (
            (True, "enough") if result.status == "stopped" else (False, "")
        )
    # The steps that the longest run of a trunk trained count for the run that continues.
    assert ended[2].row["D_shared"] == ended[2].row["D"] and ended[3].row["D_shared"] == 0
    assert len(asked) == len(set(asked)) == sum(len(r.curve) for r in ended) - 2
