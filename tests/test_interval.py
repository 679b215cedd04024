"""Rounds of designed runs narrow an interval for few FLOPs, and each is decided once."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.planning.adaptive import interval_runs, interval_width
from scaling import size
from scaling.cli import main
from scaling.columns import config_row
from scaling.config import RunConfig, flatten
from scaling.errors import ConfigError
from sweeps import Sweep
from sweeps.adaptive.candidates import check_same_settings
from sweeps.adaptive.interval import DueRound, Interval, Round, decide
from sweeps.errors import BudgetSpent, StoreError
from sweeps.folder_status import status
from sweeps.spec import Spec
from sweeps.store import Store

SIZES = (
    "[{ n_layer = 1, d_model = 16, n_head = 1 }, "
    "{ n_layer = 2, d_model = 32, n_head = 2, d_ff = 128 }, "
    "{ n_layer = 2, d_model = 64, n_head = 2 }]"
)
GRID = f"""
name = "narrow"
[base]
data.tokenizer = "bytes"
optim.lr = "0.05 N^-0.25"
[axes]
model = {SIZES}
tokens = [40_960, 409_600, 4_096_000]
[until]
interval = {{ width = 0.1 }}
"""


def N_of(run: RunConfig) -> int:
    return size.parameters(run.model, run.data.vocab_size).N


def C_of(runs: Any) -> float:
    return sum(6.0 * N_of(run) * run.D for run in runs)


def row(run: RunConfig, salt: int = 0) -> dict[str, Any]:
    """Return a result on a known law with 0.3 % of noise."""
    N = N_of(run)
    L = 1.5 + 9.0 * N**-0.25 + 38.0 * run.D**-0.3
    L *= math.exp(random.Random(f"{run.run_id} {salt}").gauss(0, 0.003))
    measured = {"run_id": run.run_id, "N": N, "D": run.D, "C": 6.0 * N * run.D, "S": run.S}
    return config_row(flatten(run)) | measured | {"B": run.batch_tokens, "L": L, "status": "ok"}


def some_design(due: DueRound) -> tuple[list[int], float, str]:
    """Choose two runs, which depend on the results, and the second of them twice."""
    free = [i for i, left in enumerate(due.left) if left > 1]
    order = random.Random(repr(sorted(r["L"] for r in due.rows)))
    picks = order.sample(free, 2)
    return [*picks, picks[-1]], due.width / 2, ""


def by_number(asked: Interval, rows: list[Any]) -> float:
    return 0.9 / len(rows) if rows else math.inf


def settle(
    spec: Spec,
    order: random.Random,
    salt: int = 0,
    width: Any = by_number,
    design: Any = some_design,
    forget: float = 0.0,
) -> tuple[dict[str, Any], list[Round], list[str]]:
    """Finish runs one at a time in a random order until none is asked for.

    With the probability `forget`, a decision is lost before it is recorded, and made again.
    """
    rows: dict[str, Any] = {}
    rounds: list[Round] = []
    while True:
        growth = spec.designed(rows, None, rounds)
        missing = [run for run_id, run in growth.runs.items() if run_id not in rows]
        assert bool(growth.due) != bool(missing) or not missing
        if missing:
            run = order.choice(missing)
            rows[run.run_id] = row(run, salt)
        elif growth.due:
            assert growth.due.results not in {each.results for each in rounds if not each.runs}
            decided = decide(growth.due, width, design)
            if order.random() < forget:
                rows = dict(order.sample(sorted(rows.items()), len(rows)))
                continue
            rounds.append(Round.of(json.loads(json.dumps(decided.record()))))
        else:
            return rows, rounds, growth.notes


# ------------------------------------------------------------------ replay


@given(st.integers(0, 2**32), st.floats(0, 0.7))
@settings(max_examples=15, deadline=None)
def test_rounds_depend_neither_on_the_order_of_results_nor_on_kills_before_their_record(
    seed, forget
):
    spec = Spec.from_text(GRID.replace("0.1 }", "0.05 }"))
    undisturbed, rounds, notes = settle(spec, random.Random(0))
    rows, again, notes_again = settle(spec, random.Random(seed), forget=forget)
    assert rows == undisturbed and again == rounds and notes_again == notes
    assert [len(each.runs) for each in rounds] == [3, 3, 3, 0] and len(rows) == 9 + 3 * 3
    ids = [run.run_id for each in rounds for run in each.runs]
    assert len(set(ids)) == len(ids)  # a run that is chosen again has another seed
    # With some of the results only, as after a kill at any time, the recorded runs are asked for.
    some = dict(random.Random(seed).sample(sorted(rows.items()), seed % len(rows)))
    growth = spec.designed(some, None, rounds)
    assert growth.runs.keys() == rows.keys() and growth.due is None
    for i, each in enumerate(rounds):  # a round rests on those before it alone
        before = spec.designed(undisturbed, None, rounds[:i])
        assert before.due and decide(before.due, by_number, some_design) == each


def test_progress_is_reported_and_a_narrower_interval_continues():
    spec = Spec.from_text(GRID)
    rows, rounds, notes = settle(spec, random.Random(0), width=lambda a, r: 0.9 / len(r) + 0.01)
    assert notes == ["chinchilla alpha: interval of width 0.085 after 1 round, 0.1 asked"]
    first = spec.designed(
        {run: r for run, r in rows.items() if run in spec.by_id}, None, rounds[:1]
    )
    assert first.notes == [
        "chinchilla alpha: interval of width 0.11 after 0 rounds, 0.1 asked; round 1 is "
        "expected to make it 0.055, 0 of its 3 runs have finished"
    ]
    narrower = Spec.from_text(GRID.replace("0.1 }", "0.05, rounds = 2 }"))
    due = narrower.designed(rows, None, rounds).due
    assert due and due.after == 1 and len(due.rows) == 12
    last = decide(dataclasses.replace(due, after=2), by_number, some_design)
    assert not last.runs and "2 rounds are the most" in last.why
    other = Spec.from_text(GRID.replace("width", 'parameter = "beta", width')).designed(
        rows, None, rounds
    )
    assert other.due and other.due.after == 0 and other.runs.keys() == rows.keys()
    changed = Spec.from_text(GRID.replace("0.05 N", "0.06 N")).designed(rows, None, rounds)
    assert len(changed.runs) == 9 and not changed.notes  # these rounds belong to other runs


# ------------------------------------------------------------------ what may be chosen


def test_candidates_are_like_the_spec_and_within_it():
    spec = Spec.from_text(GRID)
    rows = {run_id: row(run) for run_id, run in spec.by_id.items()}
    due = spec.designed(rows).due
    assert due and due.flops == pytest.approx(C_of(spec.runs) / 2)
    N = sorted(map(N_of, spec.runs))
    assert {N_of(run) for run in due.candidates} >= set(N) and len(due.candidates) > 60
    for run in due.candidates:
        assert N[0] <= N_of(run) <= N[-1] and 40_960 <= run.D <= 4_096_000
        assert C_of([run]) <= due.flops and run.tokens == run.D
    check_same_settings([*due.candidates, *spec.runs])
    own = [i for i, run in enumerate(due.candidates) if run.run_id in rows]
    new = [i for i, seed in enumerate(due.seeds) if seed == 0]
    assert len(own) == 8  # the ninth costs more than a round
    assert all(due.left[i] == 7 and due.seeds[i] == 1 for i in own)
    assert all(due.left[i] == 8 for i in new) and len(own) + len(new) == len(due.candidates)
    assert {run.run_id for run in due.round(own).runs}.isdisjoint(rows)
    lost = {own[0]: due.candidates[own[0]].run_id}
    again = spec.designed(rows | {lost[own[0]]: rows[lost[own[0]]] | {"status": "diverged"}}).due
    assert again and again.left[own[0]] == 0

    wide = Spec.from_text(GRID.replace("width", "reach = 4, flops = 1e15, width")).designed(rows)
    assert wide.due and max(map(N_of, wide.due.candidates)) > 2 * N[-1]
    assert max(run.D for run in wide.due.candidates) == 4 * 4_096_000


def test_ladders_keep_their_tokens_per_parameter():
    text = GRID.replace("tokens = [40_960, 409_600, 4_096_000]", "tokens_per_parameter = [10, 40]")
    spec = Spec.from_text(text)
    due = spec.designed({run_id: row(run) for run_id, run in spec.by_id.items()}).due
    assert due
    ratios = [run.D / N_of(run) for run in due.candidates]
    assert min(ratios) > 9 and max(ratios) < 44  # whole steps
    assert max(map(N_of, due.candidates)) > 2 * min(map(N_of, due.candidates))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[axes]", "[axes]\nbatch_tokens = [1024, 4096]", "differ in batch_tokens. Give one value"),
        ("0.1 }", "0.1, flops = 0 }", "flops=0.0 must be above 0"),
        ("0.1 }", "0.1, add = 'more' }", "'more' is not one of 'designed', 'seeds'"),
        ("width = 0.1", "rounds = 3", "'width' is missing"),
    ],
)
def test_mistakes_are_reported(old: str, new: str, message: str):
    with pytest.raises(ConfigError) as error:
        Spec.from_text(GRID.replace(old, new))
    assert message in str(error.value) and "[until] interval" in str(error.value)


def test_specs_with_seeds_alone_add_seeds_and_a_selection_of_runs_designs_none():
    for options, add in (("seeds = 4", "seeds"), ("rounds = 4", "designed"),
                         ("seeds = 4, add = 'designed'", "designed")):  # fmt: skip
        spec = Spec.from_text(GRID.replace("0.1 }", f"0.1, {options} }}"))
        assert spec.searches and spec.searches.interval and spec.searches.interval.add == add
    spec = Spec.from_text(GRID)
    assert spec.by_design and not spec.select(["D<1e6"]).by_design


# ------------------------------------------------------------------ the design


def test_designed_rounds_take_far_fewer_flops_than_seeds():
    """Count FLOPs until the interval of alpha is 0.08 wide, for sweeps with different noise."""
    spent: dict[str, list[float]] = {"designed": [], "seeds": []}
    spec = Spec.from_text(GRID.replace("0.1 }", "0.08 }"))
    for salt in range(2):
        _, rounds, notes = settle(spec, random.Random(0), salt, interval_width, interval_runs)
        assert rounds[-1].width <= 0.08 and not rounds[-1].why and "0.08 asked" in notes[0]
        added = [run for each in rounds for run in each.runs]
        assert added and rounds[0].expected < rounds[0].width
        spent["designed"].append(C_of(added))
        table = [row(run, salt) for run in spec.runs]
        for seed in range(1, 9):
            again = [dataclasses.replace(run, seed=seed) for run in spec.runs]
            table += [row(run, salt) for run in again]
            if interval_width(Interval(width=0.08), table) <= 0.08:
                break
        spent["seeds"].append(seed * C_of(spec.runs))
    assert sum(spent["seeds"]) > 10 * sum(spent["designed"])


def test_a_design_that_cannot_narrow_the_interval_gives_the_reason():
    spec = Spec.from_text(GRID.replace("0.1 }", "1e-6, flops = 2e9 }"))
    rows = {run_id: row(run) for run_id, run in spec.by_id.items()}
    due = spec.designed(rows).due
    assert due
    many = [
        row(run, salt) | {"run_id": f"{salt} {run_id}"}
        for salt in range(40)
        for run_id, run in spec.by_id.items()
    ]
    weak = decide(dataclasses.replace(due, rows=many), interval_width, interval_runs)
    assert not weak.runs and "expected to narrow it by less than 1%" in weak.why
    broken = [r | {"status": "failed"} for r in due.rows]
    lost = decide(dataclasses.replace(due, rows=broken), interval_width, interval_runs)
    assert not lost.runs and "no runs can be designed: " in lost.why and lost.width == math.inf
    assert Round.of(json.loads(json.dumps(lost.record(), default=str).replace("Infinity", "null")))
    full = decide(
        dataclasses.replace(due, left=(0,) * len(due.left)), interval_width, interval_runs
    )
    assert "as many seeds" in full.why


def test_a_first_fit_that_determines_almost_nothing_still_starts_a_round():
    """For these tiny runs, no draw of the law's parameters was finite."""
    losses = (3.494, 2.980, 2.513, 3.296, 2.984, 2.413, 3.109, 2.978, 2.429)
    sizes = [(N, D) for N in (888, 3312, 12768) for D in (16384, 65536, 262144)]
    spec = Spec.from_text(GRID)
    rows = {
        run_id: row(run) | {"N": N, "D": D, "L": L}
        for (run_id, run), (N, D), L in zip(spec.by_id.items(), sizes, losses, strict=True)
    }
    due = spec.designed(rows).due
    assert due
    first = decide(due, interval_width, interval_runs)
    assert first.width > 5 and first.runs and first.expected < first.width


# ------------------------------------------------------------------ the store


def test_a_damaged_round_counts_as_undecided(tmp_path: Path):
    store = Store(tmp_path / "sweep")
    rounds = settle(Spec.from_text(GRID.replace("0.1 }", "0.05 }")), random.Random(0))[1]
    assert store.rounds() == []
    for each in rounds:
        store.decide(each)
    assert store.rounds() == rounds
    files = sorted((tmp_path / "sweep" / "rounds").iterdir())
    assert [file.name for file in files] == [f"{i:04d}.json" for i in (1, 2, 3, 4)]
    whole = files[3].read_text()
    for damaged in (whole[:-40], "", "[]", "{}", whole.replace('"after": 3', '"was": 3')):
        files[3].write_text(damaged)
        assert store.rounds() == rounds[:3]
        assert "is damaged" in store.messages.pop() and not files[3].exists()
    files[2].write_text(files[2].read_text().replace('"tokens": ', '"tokens": 1'))
    assert store.rounds() == rounds[:2] and "of this version" in store.messages.pop()
    files[1].write_text(files[1].read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(StoreError, match="newer version"):
        store.rounds()


def test_rounds_of_a_store_on_a_uri_lie_there(tmp_path: Path, own_cache: Path):
    uri = f"file://{tmp_path}/far"
    from sweeps.remote import Remote

    rounds = settle(Spec.from_text(GRID.replace("0.1 }", "0.05 }")), random.Random(0))[1]
    stores = []
    for name in ("one", "two"):  # two machines, each with its own folder
        store = Store(tmp_path / name)
        store.remote, store._given = Remote(uri), uri
        store.folder.mkdir()
        stores.append(store)
    stores[0].decide(rounds[0])
    assert stores[1].rounds() == rounds[:1]
    stores[1].decide(rounds[1])
    stores[0].pull(at_once=True)
    assert stores[0].rounds() == rounds[:2]
    assert sorted(p.name for p in (tmp_path / "far" / "rounds").iterdir()) == [
        "0001.json",
        "0002.json",
    ]


# ------------------------------------------------------------------ a real sweep

REAL = """
name = "real"
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
batch_tokens = 256
eval = { test_tokens = 2048, points = 1 }
optim.lr = 0.01
[axes]
model = [
    { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 },
    { n_layer = 1, d_model = 16, n_head = 1, n_ctx = 32 },
]
tokens = [1280, 2560]
[until]
interval = { width = 0.1, flops = 1e9 }
"""


@pytest.fixture
def here(here: Path) -> Path:
    Path("real.toml").write_text(REAL)
    return here


def train(results: str | None = None, **options: Any) -> tuple[Any, str]:
    out = io.StringIO()
    designer = SimpleNamespace(interval_width=by_number, interval_runs=some_design)
    sweep = Sweep.from_toml("real.toml", results, designer=designer)
    how = {"in_process": True, "packs": False, "console": Console(file=out, width=200)}
    return sweep.run(**how, **options), out.getvalue()


def test_a_sweep_adds_its_rounds_once_whenever_it_is_killed(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    undisturbed, out = train("elsewhere")
    assert len(undisturbed) == 4 + 2 * 3
    end = "chinchilla alpha: interval of width 0.09 after 2 rounds, 0.1 asked"
    assert end in out.splitlines()

    record = Store.decide

    def killed(after: bool) -> Any:
        def decide(store: Store, round: Round) -> None:
            if after:
                record(store, round)
            raise KeyboardInterrupt("killed")

        return decide

    store = Sweep.from_toml("real.toml").store
    for after, finished, recorded in ((False, 4, 0), (True, 4, 1), (True, 7, 2)):
        monkeypatch.setattr(Store, "decide", killed(after))
        with pytest.raises(KeyboardInterrupt):
            train()
        assert (len(store.rows()), len(store.rounds())) == (finished, recorded)
    assert status("results/real").missing == 3
    assert "round 2 is expected to make it" in str(status("results/real"))
    first = (store.folder / "rounds" / "0001.json").read_bytes()
    monkeypatch.setattr(Store, "decide", record)
    one = C_of(store.rounds()[1].runs[:1])
    with pytest.raises(BudgetSpent):
        train(budget_flops=1.01 * max(one, *(C_of([r]) for r in store.rounds()[1].runs)))
    runs, out = train()
    assert end in out.splitlines()
    assert (store.folder / "rounds" / "0001.json").read_bytes() == first
    losses = [t.set_index("run_id").L.to_dict() for t in (runs, undisturbed)]
    assert losses[0] == losses[1]
    _, out = train()
    assert "all finished" in out and end in out and len(store.rounds()) == 3
    assert end in str(status("results/real"))
    assert end in str(Sweep.from_toml("real.toml").plan(in_process=True))


def test_impossible_laws_are_rejected_before_anything_starts(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for option, message in (
        ('law = "chinchila"', "Did you mean 'chinchilla'?"),
        ('parameter = "gamma"', "chinchilla has E, A, B, alpha, beta"),
        ('law = "kaplan_N", parameter = "alpha_N"', "Give add = 'seeds'"),
    ):
        Path("real.toml").write_text(REAL.replace("width = 0.1", f"width = 0.1, {option}"))
        with pytest.raises(SystemExit) as stop:
            main(["sweep", "real.toml", "--in-process"])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    monkeypatch.setattr("sweeps.adaptive.protocols.DEFAULT_DESIGNER", "not_installed")
    with pytest.raises(ConfigError, match="interval needs a fit"):
        Sweep.from_toml("real.toml").run(in_process=True)
    assert not Path("results").exists()
