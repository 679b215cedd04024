"""Sweeps trained in this process: what is planned, trained, kept, extended and refused."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from scaling import table
from scaling.config import ConfigError, Execution
from sweeps import Sweep, estimate
from sweeps.jobs import Job, Outcome, Queue, execute
from sweeps.progress import Display, clock, eta, si
from sweeps.run import Stopped, _interruptible
from sweeps.spec import Spec
from sweeps.status import status
from sweeps.store import Store, StoreError

ROOT = Path(__file__).parents[1]

BASE = """
name = "small"
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 }
batch_tokens = 256
tokens = 2560
eval = { test_tokens = 2048, points = 4 }
[axes]
"""
SMALL = BASE + "seed = [0, 1]\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(cache))
    rng = random.Random(0)
    words = [
        "the",
        "of",
        "and",
        "to",
        "in",
        "that",
        "it",
        "was",
        "his",
        "he",
        "with",
        "as",
        "for",
        "had",
        "you",
        "not",
        "be",
        "her",
        "is",
        "at",
        "on",
        "by",
    ]
    text = (" ".join(rng.choices(words, k=60)) + "." for _ in range(1000))
    (tmp_path / "corpus.txt").write_text("\n\n".join(text))
    return tmp_path


def sweep(text: str = SMALL, results: str | None = None) -> Sweep:
    Path("small.toml").write_text(text)
    return Sweep.from_toml("small.toml", results)


def run(it: Sweep, **options) -> tuple[pd.DataFrame, str]:
    out = io.StringIO()
    runs = it.run(workers=2, in_process=True, console=Console(file=out), **options)
    return runs, out.getvalue()


def result_times(store: Store) -> dict[str, int]:
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in (store.folder / "runs").glob("*/result.json")
    }


def test_a_sweep_ends_in_a_table_with_its_curves_and_manifest():
    it = sweep()
    runs, out = run(it)
    assert list(runs.run_id.sort_values()) == sorted(r.run_id for r in it.spec.runs)
    assert (runs.status == "ok").all() and runs.L.between(1, 6).all()
    assert (runs.D == 2560).all() and (runs.seed.sort_values() == [0, 1]).all()
    curves = table.read_curves(it.folder)
    assert curves.groupby("run_id").L.last().sort_index().tolist() == (
        runs.sort_values("run_id").L.tolist()
    )
    manifest = json.loads((it.folder / "manifest.json").read_text())
    assert manifest["spec"] == SMALL and manifest["versions"]["torch"]
    assert manifest["sessions"][0]["jobs"] == 2
    assert [h[:16] for h in manifest["corpus_hashes"].values()] == [runs.corpus_hash[0]]
    assert "2 ok" in out and "results/small/runs.csv" in out


def test_a_rerun_trains_nothing_and_an_extended_grid_only_what_is_new():
    it = sweep()
    run(it)
    before = result_times(it.store)
    _, out = run(sweep())
    assert "nothing to train" in out
    assert result_times(it.store) == before
    runs, out = run(sweep(BASE + "seed = [0, 1, 2]\n"))
    assert "1 of 3 runs to train" in out and len(runs) == 3
    after = result_times(it.store)
    assert len(after) == 3 and before.items() <= after.items()
    runs, out = run(sweep(BASE + "seed = [2]\n"))  # rows that were measured are never dropped
    assert len(runs) == 3 and "2 finished runs" in out


def test_a_committed_table_counts_as_finished_and_can_be_extended():
    it = sweep()
    first, _ = run(it)
    subprocess.run(["rm", "-r", str(it.folder / "runs")], check=True)
    again, out = run(sweep())
    assert "nothing to train" in out
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    more, _ = run(sweep(BASE + "seed = [0, 1, 2]\n"))
    old = more[more.seed < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, first, check_exact=True)
    assert len(result_times(it.store)) == 1
    assert set(table.read_curves(it.folder).run_id) == set(more.run_id)


def test_results_that_were_not_merged_are_merged_without_training():
    it = sweep()
    first, _ = run(it)
    for name in ("runs.csv", "curves.parquet"):
        (it.folder / name).unlink()
    before = result_times(it.store)
    again, _ = run(sweep())
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert result_times(it.store) == before


def test_a_sweep_under_way_has_a_table(monkeypatch: pytest.MonkeyPatch):
    import scaling.train

    train, seen = scaling.train.train, []

    def look(config, **options):
        seen.append(len(Store("results/small").merged()))
        return train(config, **options)

    monkeypatch.setattr(scaling.train, "train", look)
    monkeypatch.setattr("sweeps.jobs._MERGE_SECONDS", 0.0)
    run(sweep())
    assert seen == [0, 1]


def test_a_damaged_result_or_checkpoint_is_trained_again():
    it = sweep()
    first, _ = run(it)
    run_id = it.spec.runs[0].run_id
    folder = it.store.run_folder(run_id)
    for name in ("runs.csv", "curves.parquet"):
        (it.folder / name).unlink()
    (folder / "result.json").write_bytes(b"")
    (folder / "checkpoint.pt").write_bytes(b"half a checkp")
    again, out = run(sweep())
    assert "result.json.bad-1" in out and "1 of 2 runs to train" in out
    measured_anew = ["seconds", "tokens_per_second"]
    pd.testing.assert_frame_equal(
        first.drop(columns=measured_anew), again.drop(columns=measured_anew), check_exact=True
    )


def test_a_text_that_changed_is_refused_before_training():
    run(sweep())
    text = Path("corpus.txt").read_text()
    Path("corpus.txt").write_text(text.replace("that", "this"))
    with pytest.raises(StoreError, match=r"trained on another text.*'corpus.txt'"):
        run(sweep(BASE + "seed = [0, 1, 2]\n"))
    assert "nothing to train" in run(sweep())[1]
    assert len(run(sweep(results="elsewhere"))[0]) == 2


def test_a_run_that_raises_is_a_failed_row_and_can_be_retried():
    text = SMALL + "[[sets]]\nname = 'bad'\nbase.eval.test_tokens = 1e9\naxes.seed = [0]\n"
    runs, out = run(sweep(text))
    assert sorted(runs.status) == ["failed", "ok", "ok"]
    error = runs[runs.status == "failed"].error.iloc[0]
    assert "test_tokens" in error
    assert "1 failed" in out
    before = result_times(Store("results/small"))
    assert "nothing to train" in run(sweep(text))[1]
    runs, out = run(sweep(text), retry_failed=True)
    assert "1 of 3 runs to train" in out and len(runs) == 3
    failed = runs[runs.status == "failed"].run_id.iloc[0]
    changed = {k for k, v in result_times(Store("results/small")).items() if v != before[k]}
    assert changed == {failed}


def test_trouble_that_may_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    import scaling.train

    train, calls = scaling.train.train, []

    def out_of_memory(config, **options):
        calls.append(config.seed)
        if config.seed == 0 or calls.count(1) == 1:
            raise MemoryError("no room")
        return train(config, **options)

    monkeypatch.setattr(scaling.train, "train", out_of_memory)
    runs, _ = run(sweep(), retries=2)
    assert runs.set_index("seed").status.to_dict() == {0: "failed", 1: "ok"}
    assert (calls.count(0), calls.count(1)) == (3, 2)
    assert "3 attempts ended badly; the last: MemoryError: no room" in runs.error.max()


def test_a_checkpoint_that_cannot_be_resumed_is_set_aside(monkeypatch: pytest.MonkeyPatch):
    import scaling.train

    train = scaling.train.train

    def picky(config, *, folder, **options):
        if (folder / "checkpoint.pt").exists():
            raise KeyError("a field of another version")
        return train(config, folder=folder, **options)

    monkeypatch.setattr(scaling.train, "train", picky)
    it = sweep()
    folder = it.store.run_folder(it.spec.runs[0].run_id)
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"old")
    runs, _ = run(it)
    assert (runs.status == "ok").all()
    assert (folder / "checkpoint.pt.bad-1").read_bytes() == b"old"
    assert "starts anew" in (folder / "output.log").read_text()


def test_a_full_disk_ends_the_sweep_and_keeps_what_had_finished(monkeypatch: pytest.MonkeyPatch):
    finish = Store.finish

    def full(self: Store, row, curve) -> None:
        if self.rows():
            raise StoreError("the disk is full")
        finish(self, row, curve)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", full)
        with pytest.raises(StoreError, match="the disk is full"):
            run(sweep())
    assert len(table.read("results/small")) == 1
    assert "1 of 2 runs to train" in run(sweep())[1]


def test_stopping_keeps_the_checkpoint_and_names_the_command(monkeypatch: pytest.MonkeyPatch):
    import scaling.train

    train = scaling.train.train

    def stopped_half_way(config, *, should_stop, **options):
        steps = []

        def stop() -> bool:
            steps.append(1)
            if len(steps) == 5:
                os.kill(os.getpid(), 15)  # SIGTERM, as a batch system sends
                time.sleep(0.25)
            return should_stop()

        return train(config, should_stop=stop, **options)

    monkeypatch.setattr(scaling.train, "train", stopped_half_way)
    it = sweep()
    with pytest.raises(Stopped, match=r"scaling sweep small\.toml --workers 2 --in-process"):
        run(it)
    assert table.read(it.folder).empty
    assert status(it.folder).interrupted == 1
    monkeypatch.setattr(scaling.train, "train", train)
    assert len(run(sweep())[0]) == 2


def test_a_second_ctrl_c_stops_at_once_and_handlers_return():
    import signal

    before = signal.getsignal(signal.SIGINT)
    asked = []
    with pytest.raises(KeyboardInterrupt), _interruptible(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [1]
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == [1] and signal.getsignal(signal.SIGINT) is before


# ------------------------------------------------------------------ plan and queue


def test_the_plan_counts_and_orders_by_cost():
    it = sweep(BASE + "tokens = [2560, 25_600]\nmodel.d_model = [8, 32]\n")
    plan = it.plan(workers=2)
    assert plan.tokens == 2 * (2560 + 25_600)
    cost = [plan.seconds[run_id] for run_id in plan.missing]
    assert cost == sorted(cost, reverse=True) and next(iter(plan.missing.values())).D == 25_600
    assert max(cost) <= plan.wall_seconds <= sum(cost)
    text = str(plan)
    assert "4 runs: 4 to train" in text and "a guess" in text
    run(it)
    assert str(it.plan()) == "4 runs: 4 finished, 0 to train"
    more = sweep(BASE + "tokens = [2560, 25_600, 51_200]\nmodel.d_model = [8, 32]\n").plan()
    assert more.speed.samples == 4 and "from 4 measurements" in str(more)


def test_dry_run_measures_in_children():
    plan = sweep().plan(workers=1, measure=True)
    assert plan.speed.samples == 1 and 0 < plan.wall_seconds < 60
    with pytest.raises(ConfigError, match=r"measuring .* failed"):
        sweep(SMALL.replace("corpus.txt", "nowhere.txt")).plan(workers=1, measure=True)


def test_speed_recovers_prices_from_samples():
    true = estimate.Speed(1e-3, 5e-4, 2e-11)
    samples = [
        (B, layers, F, true.step / B + true.layer * layers / B + true.flop * F)
        for B in (256, 4096)
        for layers in (1, 4)
        for F in (1e5, 1e7)
    ]
    fitted = estimate.speed(samples)
    for B, layers, F, seconds in samples:
        guess = fitted.step / B + fitted.layer * layers / B + fitted.flop * F
        assert abs(guess / seconds - 1) < 0.1
    one = estimate.speed(samples[:1])
    assert min(one.step, one.layer, one.flop) > 0 and one.samples == 1


def test_the_queue_hands_out_the_dearest_first_and_no_more_once_stopped(tmp_path: Path):
    runs = Spec.from_text(BASE + "seed = [0, 1, 2, 3]\n").runs
    queue = Queue(Store(tmp_path / "s"), retries=1)
    queue.add(Job((run,), seconds) for run, seconds in zip(runs, [3, 9, 1, 9], strict=True))
    taken = [queue.take() for _ in range(3)]
    assert [job.seconds for job in taken if job] == [9, 9, 3]
    first = taken[0]
    assert first and first.runs == (runs[1],)
    queue.crash([first], "died")
    assert queue.take() == first
    queue.crash([first], "died")
    assert queue.store.rows()[runs[1].run_id]["status"] == "failed"
    queue.stopping = True
    assert queue.take() is None and not queue.exhausted
    for job in taken[1:]:
        assert job
        queue.release(job)
    assert queue.exhausted


def test_jobs_that_ran_out_of_memory_together_are_tried_alone(tmp_path: Path):
    runs = Spec.from_text(BASE + "seed = [0, 1, 2]\n").runs
    queue = Queue(Store(tmp_path / "s"), retries=0)
    queue.add(Job((run,), seconds) for run, seconds in zip(runs, [3, 2, 1], strict=True))
    first, second = queue.take(), queue.take()
    assert first and second
    queue.crash([first, second], "2 worker(s) were killed: the node is running low on memory")
    third = queue.take()
    assert third and third.runs == (runs[2],) and queue.take() is None
    queue.finish(third, [Outcome(third.id, "memory", "MemoryError: no room")])
    assert queue.store.rows()[third.id]["status"] == "failed"  # nothing was beside it
    assert queue.take() == first and queue.take() is None
    queue.finish(first, [Outcome(first.id, "ok")])
    assert queue.take() == second and not queue.exhausted
    queue.crash([second], "the node is running low on memory")
    assert queue.exhausted
    assert set(queue.store.rows()) == {second.id, third.id}


def test_a_run_that_another_process_holds_is_not_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sweeps.jobs._LEASE_PATIENCE", 0.2)
    store = Store(tmp_path / "s")
    job = Job(Spec.from_text(SMALL).runs[:1], 1.0)
    with store.lease(job.id) as held:
        assert held
        outcomes = execute(job, store, Execution(threads=1), lambda: False)
    assert [outcome.status for outcome in outcomes] == ["busy"]
    assert store.rows() == {}
    queue = Queue(store, retries=2)
    queue.finish(job, outcomes)
    assert "held by another process" in queue.fatal


# ------------------------------------------------------------------ what a person sees


def test_status_says_what_is_done_and_what_is_not():
    it = sweep()
    run(it)
    run(sweep(BASE + "seed = [0, 1, 2]\n"))
    text = str(status(it.folder))
    assert text == "small: 3 runs: 3 ok"
    more = status(it.folder, Spec.from_text(BASE + "seed = [0, 1, 2, 3]\n"))
    assert (more.runs, more.missing, more.finished["ok"]) == (4, 1, 3)
    with pytest.raises(StoreError, match="is not there"):
        status("results/nothing")
    with pytest.raises(StoreError, match="holds no results"):
        status(".")


def test_display_in_a_terminal_and_in_a_log(tmp_path: Path):
    spec = Spec.from_text(BASE + "seed = [0, 1, 2]\n")
    store = Store(tmp_path / "s")
    seconds = {run.run_id: 10.0 for run in spec.runs}
    queue = Queue(store, retries=0)
    queue.add(Job((run,), 10.0) for run in spec.runs)
    first = queue.take()
    assert first
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120)
    with Display(queue, store, spec.by_id, seconds, workers=1, console=terminal) as display:
        store.begin(first.runs[0])
        store.report_progress(first.id, {"step": 5, "steps": 10, "D": 1280, "L": 3.25})
        done, total, left, words = display._state()
        assert done == pytest.approx(total / 6) and words == "0/3 runs"
        assert 20 < left < 60
        time.sleep(0.7)
        queue.crash([first], "died")
        time.sleep(0.7)
    shown = out.getvalue()
    assert "L=3.250" in shown and "1/3 runs, 1 failed" in shown


def test_numbers_and_clocks_read_well():
    assert [si(x) for x in (0.5, 999, 1000, 1.25e6, 3e12)] == ["0.5", "999", "1k", "1.25M", "3T"]
    assert [clock(x) for x in (5, 65, 7500, 200_000)] == ["5s", "1m05s", "2h05m", "2d07h"]
    assert eta(0, 0, 100, 2) == pytest.approx(50)
    assert eta(1000, 1000, 100, 2) == pytest.approx(100, rel=0.01)  # twice as slow as estimated


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": True}, {"retries": -1}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        sweep().run(**({"in_process": True} | options))


def test_plan_and_status_import_neither_ray_nor_torch_and_take_no_time():
    run(sweep())
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from sweeps import Sweep; from sweeps.status import status\n"
        "print(Sweep.from_toml('small.toml').plan(), status('results/small'))\n"
        "assert not {'ray', 'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True, capture_output=True)


@pytest.mark.slow
def test_a_thousand_finished_runs_plan_and_report_in_two_seconds(tmp_path: Path):
    spec = Spec.from_text(BASE + f"seed = {list(range(1000))}\n")
    store = Store(tmp_path / "results" / "small")
    queue = Queue(store, retries=0)
    for one in spec.runs:
        queue.crash([Job((one,), 1.0)], "stands for a result")
    start = time.perf_counter()
    assert "1000 finished" in str(Sweep(spec, tmp_path / "results").plan())
    assert status(store.folder, spec).missing == 0
    assert time.perf_counter() - start < 2
