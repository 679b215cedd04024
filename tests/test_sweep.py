"""Sweeps in this process: what they plan, train, keep, extend and refuse."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from small import BASE, SMALL

from scaling import table
from scaling.cli import main
from scaling.config import flatten, override
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.training.pack_key import pack_key
from scaling.units import clock, si
from sweeps import Sweep, SweepOptions, measure, packing
from sweeps.costs import Costs, Speed, costs_of, fit_speed
from sweeps.display import Display
from sweeps.driver import interruptible
from sweeps.errors import Stopped, StoreError, headline
from sweeps.estimate import Pace, seconds_left
from sweeps.execute import execute
from sweeps.export import EXPORTERS
from sweeps.folder_status import status
from sweeps.measure import Machine
from sweeps.queue import Job, Outcome, Queue
from sweeps.result import Finished, failed_row
from sweeps.spec import Spec
from sweeps.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, cache: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(cache))
    shutil.copy(text_file, "corpus.txt")
    return tmp_path


def sweep(text: str = SMALL, results: str | None = None) -> Sweep:
    Path("small.toml").write_text(text)
    return Sweep.from_toml("small.toml", results)


def run(it: Sweep, **options) -> tuple[pd.DataFrame, str]:
    """Train in this process, each run alone by default."""
    out = io.StringIO()
    options = {"packs": False} | options
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


def test_chosen_runs_are_trained_and_handed_on_as_they_finish(monkeypatch: pytest.MonkeyPatch):
    run(sweep())
    text = BASE + "seed = [0, 1, 2, 3]\n[[sets]]\nname = 'more'\naxes.seed = [4]\n"
    Path("small.toml").write_text(text)
    seen = []
    it = Sweep.from_toml("small.toml", filters=["seed>1", "seed!=3"], tag="")
    runs, out = run(it, on_finish=seen.append)
    assert "1 of 1 runs to train" in out and "not in this spec" not in out
    assert [finished.row["seed"] for finished in seen] == [2] and len(seen[0].curve) == 4
    assert sorted(runs.seed) == [0, 1, 2]
    assert it.resume_command(SweepOptions()).endswith(
        "--filter 'seed>1' --filter 'seed!=3' --tag ''"
    )
    assert status(it.folder).missing == 2


def test_runs_that_finished_in_another_folder_are_taken_from_there():
    first, _ = run(sweep())
    Path("more.toml").write_text(BASE.replace("small", "more") + "seed = [1, 2]\n")
    more = Sweep.from_toml("more.toml")
    assert len(more.plan(reuse=["results/small"]).missing) == 1
    for _ in range(2):
        both, out = run(more, reuse=["results/small"])
        assert len(both) == 2
    assert "nothing to train" in out and "taken from" not in out
    assert len(result_times(more.store)) == 2
    same = first[first.seed == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(both[both.seed == 1].reset_index(drop=True), same)
    assert len(more.store.attempts(same.run_id[0])) == 0
    assert table.read_curves(more.folder).groupby("run_id").size().tolist() == [4, 4]
    with pytest.raises(StoreError, match="results/nothing holds no finished runs"):
        run(more, reuse=["results/nothing"])
    text = Path("corpus.txt").read_text()
    Path("corpus.txt").write_text(text.replace("that", "this"))
    with pytest.raises(StoreError, match="trained on another text"):
        run(Sweep.from_toml("more.toml", "elsewhere"), reuse=["results/small"])


def test_results_may_lie_behind_a_uri(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    uri = f"local://{here}/bucket/my results"
    runs, out = run(sweep(results=uri))
    assert f"table: {uri}/small/runs.csv" in out
    bucket = here / "bucket" / "my results" / "small"
    assert sorted(path.name for path in bucket.iterdir()) == [
        "curves.parquet", "manifest.json", "results", "runs.csv", "tests.parquet",
    ]  # fmt: skip
    assert {path.stem for path in (bucket / "results").iterdir()} == set(runs.run_id)
    monkeypatch.setenv("SCALING_CACHE", str(here / "another machine"))
    again, out = run(sweep(results=uri))
    assert "nothing to train" in out
    pd.testing.assert_frame_equal(runs, again)
    main(["status", f"{uri}/small"])
    assert capsys.readouterr().out == "small: 2 runs: 2 ok\n"


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
    import scaling.training.train

    train_pack, seen = scaling.training.train.train_pack, []

    def look(runs, **options):
        merged = Path("results/small/runs.csv")
        seen.append(len(merged.read_text().splitlines()) - 1 if merged.exists() else 0)
        return train_pack(runs, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", look)
    monkeypatch.setattr("sweeps.queue._MERGE_SECONDS", 0.0)
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
    measured_anew = ["seconds", "tokens_per_second", "step_seconds", "mfu", "peak_flops", "memory"]
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


def test_a_run_that_raises_is_a_failed_row_and_can_be_retried(monkeypatch: pytest.MonkeyPatch):
    import scaling.training.train

    train_pack = scaling.training.train.train_pack

    def with_a_bug(runs, **options):
        (config,) = runs
        if config.tag == "bad":
            raise RuntimeError(f"cannot do with {Path('corpus.txt').absolute()}\nat all")
        return train_pack(runs, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", with_a_bug)
    text = SMALL + "[[sets]]\nname = 'bad'\naxes.seed = [2]\n"
    runs, out = run(sweep(text))
    assert sorted(runs.status) == ["failed", "ok", "ok"]
    failed = runs.set_index("status").loc["failed"]
    assert "1 failed" in out
    assert len(failed.error.splitlines()) == 1 and str(Path.cwd()) not in failed.error
    log = Path("results/small/runs") / failed.run_id / "output.log"
    assert "Traceback" in log.read_text() and str(Path.cwd()) in log.read_text()
    before = result_times(Store("results/small"))
    assert "1 failed; --retry-failed trains them again): nothing to train" in run(sweep(text))[1]
    runs, out = run(sweep(text), retry_failed=True)
    assert "1 of 3 runs to train" in out and len(runs) == 3
    changed = {k for k, v in result_times(Store("results/small")).items() if v != before[k]}
    assert changed == {failed.run_id}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("", "no message"),
        ("scaling.config.ConfigError: no such thing", "no such thing"),
        ("ray.exceptions.RayActorError: The actor died.\n\tpid: 3", "The actor died."),
        ("IndexError: index out of range", "IndexError: index out of range"),
        ("x\nTraceback (most recent call last):\n  line\nKeyError: 'a'", "KeyError: 'a'"),
        ("OSError: '/home/me/my.d/x.bin', '/a b/c'", "OSError: 'x.bin', '/a b/c'"),
        ("see https://x.org/a/b and a/b, 3 N/m", "see https://x.org/a/b and a/b, 3 N/m"),
        ("A worker died.\nthe node is running low on memory", "the node is running low on memory"),
    ],
)
def test_an_error_is_one_line_without_folders(error: str, said: str):
    assert headline(error) == said


# What a person asks for and cannot have: said before anything starts, and no result.
MISTAKES = {
    "test_tokens": ("eval.test_tokens = 1e9", "eval.test_tokens=1000000000 is not between"),
    "unique": ("data.unique_tokens = 1e12", "data.unique_tokens=1000000000000 is not between"),
    "context": (
        "model.n_ctx = 1048576\nbatch_tokens = 1048576\neval.test_tokens = 1048576",
        "less than one context of model.n_ctx=1048576",
    ),
    "kaplan": (
        "model = { n_layer = 64, d_model = 8192 }\noptim.lr = 'kaplan'",
        "optim.lr='kaplan' (eq. D.1) gives",
    ),
    "overflow": ("optim.lr = '1 N^1000'", "overflows"),
    "corpus": ("data.corpus = 'nowhere.txt'", "'nowhere.txt' is neither"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_spec_is_refused_before_anything_starts(mistake: str):
    keys, said = MISTAKES[mistake]
    bad = "".join(f"base.{line}\n" for line in keys.split("\n"))
    it = sweep(SMALL + f"[[sets]]\nname = 'bad'\n{bad}axes.seed = [0]\n")
    run_id = it.spec.runs[-1].run_id
    for attempt in (run, lambda it: it.plan(workers=1, measure=True)):
        with pytest.raises(ConfigError) as error:
            attempt(it)
        message = str(error.value)
        assert said in message and f"small, run {run_id} 'bad': " in message
        assert "\n" not in message
        assert it.store.rows() == {} and not (it.folder / "manifest.json").exists()


def test_an_address_without_a_cluster_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address, said in (
        ("127.0.0.1:1", "no Ray cluster at address='127.0.0.1:1'"),
        ("ray://127.0.0.1:1", "which a sweep cannot use"),
        ("auto", "none was started on this machine"),
        ("nonsense", "neither 'auto' nor host:port"),
    ):
        with pytest.raises(StoreError, match=said) as error:
            sweep().run(address=address)
        assert "\n" not in str(error.value) and not Path("results").exists()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")  # a stale one
    with pytest.raises(StoreError, match="no Ray cluster"):
        sweep().run(address="auto")
    with pytest.raises(ConfigError, match="in_process"):
        sweep().run(address="auto", in_process=True)


def test_a_device_that_is_not_there_is_refused_before_anything_starts():
    for device in ("nonsense", "cuda:77"):
        with pytest.raises(ConfigError, match=f"device='{device}'"):
            run(sweep(), device=device)
    assert not Path("results/small/manifest.json").exists()


def test_a_mistake_that_shows_late_ends_the_sweep_and_keeps_what_had_finished(
    monkeypatch: pytest.MonkeyPatch,
):
    import scaling.training.train

    train_pack = scaling.training.train.train_pack

    def picky(runs, **options):
        (config,) = runs
        if config.seed == 1:
            raise ConfigError("optim.lr=3 cannot be.")
        return train_pack(runs, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", picky)
    it = sweep(BASE + "zip = [{ seed = 0, tokens = 5120 }, { seed = 1 }, { seed = 2 }]\n")
    with pytest.raises(ConfigError, match=r"^optim.lr=3 cannot be.$"):
        run(it)
    runs = table.read(it.folder)
    assert (runs.status == "ok").all() and 0 in set(runs.seed) and 1 not in set(runs.seed)
    assert it.spec.runs[1].run_id not in it.store.rows()
    assert "wall_seconds" in it.store.manifest()["sessions"][0]
    monkeypatch.setattr(scaling.training.train, "train_pack", train_pack)
    assert len(run(it)[0]) == 3


def test_sessions_keep_what_they_started_with(monkeypatch: pytest.MonkeyPatch):
    import sweeps.manifest

    monkeypatch.setattr(sweeps.manifest, "revision", lambda: "one")
    it = sweep()
    run(it)
    revisions = iter(["two", "changed while it trained"])
    monkeypatch.setattr(sweeps.manifest, "revision", lambda: next(revisions))
    second = Sweep(Spec.from_text(SMALL.replace("[0, 1]", "[0, 1, 2]")), None)
    before = it.store.manifest()
    run(second)
    manifest = it.store.manifest()
    first, last = manifest["sessions"]
    assert before["sessions"] == [first]
    assert (first["revision"], last["revision"], manifest["revision"]) == ("one", "two", "two")
    assert first["spec"] == SMALL and last["spec"] == manifest["spec"] == second.spec.text
    for key in ("versions", "machine", "changes"):
        assert last[key] == manifest[key]
    assert manifest["wall_seconds"] == pytest.approx(first["wall_seconds"] + last["wall_seconds"])
    assert (last["threads"], last["workers"], last["jobs"]) == (1, 1, 1)
    assert last["machine"]["release"].count(".") == 1
    assert platform.node() not in json.dumps(manifest["machine"])


def test_workers_and_threads_are_those_that_the_machine_has():
    cores = len(os.sched_getaffinity(0))
    it = sweep()
    for options in (
        {"workers": cores + 1},
        {"workers": 1, "threads": cores + 1},
        {"threads": cores + 1, "in_process": True},
    ):
        for ask in (it.plan, it.run):
            with pytest.raises(ConfigError, match=f"this process may use {cores}; ask for fewer"):
                ask(**options)
    assert it.plan(workers=cores + 1, in_process=True).workers == 1
    assert not it.folder.exists()


def test_threads_do_not_follow_the_workers():
    it = sweep()
    runs, _ = run(it)
    assert (runs.device == "cpu x1").all()
    assert [s["threads"] for s in it.store.manifest()["sessions"]] == [1]


def test_a_file_in_place_of_the_results_folder_is_refused():
    Path("taken").write_text("")
    for act in (lambda it: it.plan(), run):
        with pytest.raises(StoreError) as error:
            act(sweep(results="taken"))
        assert str(error.value).startswith("taken/small") and "a file is where" in str(error.value)
        assert "damaged" not in str(error.value)


def test_trouble_that_may_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    import scaling.training.train

    train_pack, calls = scaling.training.train.train_pack, []

    def out_of_memory(runs, **options):
        (config,) = runs
        calls.append(config.seed)
        if config.seed == 0 or calls.count(1) == 1:
            raise MemoryError("no room")
        return train_pack(runs, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", out_of_memory)
    runs, _ = run(sweep(), retries=2)
    assert runs.set_index("seed").status.to_dict() == {0: "failed", 1: "ok"}
    assert (calls.count(0), calls.count(1)) == (3, 2)
    assert "3 attempts ended badly; the last: MemoryError: no room" in runs.error.max()


def test_a_checkpoint_that_cannot_be_resumed_is_set_aside(monkeypatch: pytest.MonkeyPatch):
    import scaling.training.train

    train_pack = scaling.training.train.train_pack

    def picky(runs, *, folders, **options):
        if (folders[0] / "checkpoint.pt").exists():
            raise KeyError("a field of another version")
        return train_pack(runs, folders=folders, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", picky)
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

    def full(self: Store, *result) -> None:
        if self.rows():
            raise StoreError("the disk is full")
        finish(self, *result)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", full)
        with pytest.raises(StoreError, match="the disk is full"):
            run(sweep())
    assert len(table.read("results/small")) == 1
    assert "1 of 2 runs to train" in run(sweep())[1]


def test_stopping_keeps_the_checkpoint_and_names_the_command(monkeypatch: pytest.MonkeyPatch):
    import scaling.training.train

    train_pack = scaling.training.train.train_pack

    def stopped_half_way(runs, *, should_stop, **options):
        steps = []

        def stop() -> bool:
            steps.append(1)
            if len(steps) == 5:
                os.kill(os.getpid(), 15)  # SIGTERM, as a batch system sends
                time.sleep(0.25)
            return should_stop()

        return train_pack(runs, should_stop=stop, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", stopped_half_way)
    it = sweep()
    with pytest.raises(Stopped, match=r"small\.toml --no-packs --in-process"):
        run(it)
    assert table.read(it.folder).empty
    assert status(it.folder).interrupted == 1
    monkeypatch.setattr(scaling.training.train, "train_pack", train_pack)
    assert len(run(sweep())[0]) == 2


def test_a_clock_that_jumps_back_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    ticks = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    runs, _ = run(sweep())
    (session,) = Store("results/small").manifest()["sessions"]
    assert (runs.status == "ok").all() and (runs.seconds > 0).all()
    assert 0 < session["busy_seconds"] <= session["wall_seconds"] < 100
    assert 0 <= session["idle_seconds_between_jobs"] < 100


def test_a_second_ctrl_c_stops_at_once_and_handlers_return():
    import signal

    before = signal.getsignal(signal.SIGINT)
    asked = []
    with pytest.raises(KeyboardInterrupt), interruptible(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [1]
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == [1] and signal.getsignal(signal.SIGINT) is before


# ------------------------------------------------------------------ options


CHANGED = SweepOptions(
    workers=3, threads=2, device="cpu", devices=4, nodes=2, shard=True, retries=5, packs=False,
    compile=True, address="auto", in_process=True, retry_failed=True, reuse=("results/a", "b c"),
    budget_flops=1.5e18, budget_hours=0.5, checkpoint_seconds=5.0, export="wandb",
    micro_tokens=4096, recompute=True, cuda_graphs=True, join=True,
)  # fmt: skip


def test_every_option_survives_in_the_resume_command(monkeypatch: pytest.MonkeyPatch):
    for option in dataclasses.fields(SweepOptions):
        assert getattr(CHANGED, option.name) != option.default
    seen = []

    def plan(it: Sweep, options: SweepOptions, **rest) -> str:
        seen.append(options)
        return it.resume_command(options)

    monkeypatch.setattr(Sweep, "plan", plan)
    sweep()
    for options in (CHANGED, SweepOptions()):
        command = shlex.split(Sweep.from_toml("small.toml", "else where").resume_command(options))
        assert command[:2] == ["scaling", "sweep"]
        main([*command[1:], "--dry-run"])
        assert seen[-1] == options
    assert command == ["scaling", "sweep", "small.toml", "--results", "else where"]


def test_the_resume_command_holds_no_credentials():
    options = SweepOptions(reuse=("s3://key:secret@bucket/results/small",))
    it = Sweep.from_toml("quickstart")
    assert it.resume_command(options) == (
        "scaling sweep quickstart --reuse s3://bucket/results/small"
    )


def test_options_are_given_as_an_object_or_as_keywords():
    it = sweep()
    options = SweepOptions(in_process=True, packs=False)
    assert len(it.plan(options).jobs) == len(it.plan(in_process=True, packs=False).jobs) == 2
    assert it.plan(options, workers=2).workers == 1
    assert SweepOptions(reuse=[Path("results/a")]).reuse == ("results/a",)  # type: ignore[arg-type]
    for ask in (it.plan, it.run):
        with pytest.raises(TypeError, match=r"no option 'worker'\. Did you mean 'workers'"):
            ask(worker=2)
        with pytest.raises(TypeError, match=r"options=2 must be SweepOptions"):
            ask(2)
    with pytest.raises(ConfigError, match="reuse='results/a' must be a list"):
        it.plan(reuse="results/a")
    assert not it.folder.exists()


def test_runs_are_exported_as_they_finish(monkeypatch: pytest.MonkeyPatch):
    sent, seen = [], []

    def exporter(store: Store) -> Callable[[Finished], None]:
        def send(finished: Finished) -> None:
            sent.append(finished.row["run_id"])
            raise ConnectionError("no network")

        return send

    monkeypatch.setitem(EXPORTERS, "wandb", exporter)
    runs, out = run(sweep(), export="wandb", on_finish=seen.append)
    assert len(runs) == len(seen) == 2 and set(sent) == set(runs.run_id)
    assert out.count("export to wandb failed: no network") == 1


# ------------------------------------------------------------------ plan and queue


def test_the_plan_counts_and_orders_by_cost():
    it = sweep(BASE + "tokens = [2560, 25_600]\nmodel.d_model = [8, 32]\n")
    plan = it.plan(workers=2)
    assert plan.tokens == 2 * (2560 + 25_600)
    cost = [plan.seconds[run_id] for run_id in plan.missing]
    assert cost == sorted(cost, reverse=True) and next(iter(plan.missing.values())).D == 25_600
    assert max(cost) <= plan.wall_seconds <= sum(cost)
    alone = it.plan(workers=2, in_process=True)  # what runs one after another takes the sum
    assert alone.wall_seconds == pytest.approx(sum(cost)) and "with 1 worker (" in str(alone)
    text = str(plan)
    assert "with 2 workers (" in text
    assert "4 runs: 4 to train" in text and "a guess" in text
    run(it)
    assert str(it.plan()) == "4 runs: 4 finished, 0 to train"
    more = sweep(BASE + "tokens = [2560, 25_600, 51_200]\nmodel.d_model = [8, 32]\n").plan()
    assert more.costs.speed.samples == 4 and "from 4 measurements" in str(more)


def test_dry_run_measures_in_children():
    other = SMALL.replace("d_model = 8", "d_model = 24")  # what is measured is remembered
    plan = sweep(other).plan(workers=1, measure=True)
    assert plan.costs.speed.samples == 1 and 0 < plan.wall_seconds < 60


def test_a_measurement_that_fails_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "torch.py").write_text("raise ImportError('torn in two')")
    monkeypatch.syspath_prepend(tmp_path)  # where the child will find it
    with pytest.raises(
        ConfigError, match=r"measuring .* failed: ImportError: torn in two"
    ) as error:
        sweep(SMALL.replace("d_model = 8", "d_model = 20")).plan(workers=1, measure=True)
    assert "\n" not in str(error.value)


def test_settings_are_measured_as_they_are(monkeypatch: pytest.MonkeyPatch):
    """Fields that are None stay None on their way to the child process."""
    import scaling.training.trainer

    text = SMALL.replace("[axes]", "optim.clip = 'none'\noptim.lr_embedding = 1e-2\n[axes]")
    (first, _) = sweep(text).spec.runs
    trainer, seen = scaling.training.trainer.Trainer, []

    def note(runs, *rest, **options):
        seen.append(runs)
        return trainer(runs, *rest, **options)

    monkeypatch.setattr(scaling.training.trainer, "Trainer", note)
    monkeypatch.setattr(measure, "_MEASURE_SECONDS", 0.01)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    request = {"workers": 2, "threads": 1, "device": "cpu", "compile": False, "devices": 1}
    request["items"] = [{"run": flatten(first), "largest": 2}]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    measure._child()
    (found,) = json.loads(out.getvalue())
    assert set(found) == {"1", "2"} and 0 < found["1"] < found["2"] * 2
    assert [len(runs) for runs in seen] == [1, 2]
    assert {run.optim for runs in seen for run in runs} == {first.optim}
    assert first.optim.clip is None


PACKED = BASE.replace("d_model = 8", "d_model = 12")  # a shape of these tests alone


def remember(it: Sweep, seconds: dict[int, float], workers: int = 1) -> None:
    """Pretend that packs of every architecture of a sweep were measured to take this long."""
    for one in it.spec.runs:
        path = Machine(workers, 1).path(one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seconds))


FLAT = {1: 1.0, 2: 1.1, 4: 1.2, 8: 3.0}  # steps of up to four runs take about as long as of one


def test_packs_are_formed_where_they_pay_and_never_idle_workers():
    many = sweep(PACKED + f"seed = {list(range(16))}\n")
    costs = {
        workers: Costs(fit_speed([]), {pack_key(many.spec.runs[0]): FLAT}) for workers in (1, 2)
    }
    (job,) = packing.form(many.spec.runs, costs[1], 1)
    assert (len(job.runs), job.slots) == (16, 4)
    two = packing.form(many.spec.runs, costs[2], 2)
    assert [(len(job.runs), job.slots) for job in two] == [(8, 4), (8, 4)]
    assert len(packing.form(many.spec.runs, costs[2], 2, packs=False)) == 16
    # As many workers as runs: together they would only take longer.
    assert len(packing.form(many.spec.runs[:4], costs[2], 4)) == 4
    # One long run and short ones: the long one is not held up.
    mixed = sweep(PACKED + "tokens = [2560, 5120, 10_240, 256_000]\n").spec.runs
    jobs = packing.form(mixed, costs[2], 2)
    (long,) = (job for job in jobs if mixed[-1] in job.runs)
    assert packing.makespan([job.seconds for job in jobs], 2) <= packing.makespan([long.seconds], 1)
    # Unmeasured, or measured not to pay: one at a time.
    for known in ({}, {pack_key(mixed[0]): {1: 1.0, 2: 1.98}}):
        slow = Costs(Speed(1.0, 0, 0), known)
        assert all(job.slots == 1 for job in packing.form(many.spec.runs, slow, 2))
    growing = [override(run, {"optim.batch_warmup_tokens": 512}) for run in many.spec.runs]
    assert all(len(job.runs) == 1 for job in packing.form(growing, costs[1], 1))
    remember(many, FLAT)
    plan = many.plan(in_process=True, price=3.6)
    assert "1 jobs: 16 runs in 1 packs of up to 4 at once" in str(plan) and "dollars" in str(plan)
    assert sum(plan.seconds.values()) == pytest.approx(plan.wall_seconds)


def test_children_compile_different_shapes_first_and_each_answer_finds_its_shape(monkeypatch):
    asked = []

    class Child:
        """In place of a process: answers as many seconds as the model is wide."""

        def __init__(self, *_, **__):
            self.stdin, self.returncode = io.StringIO(), 0
            self.stdin.close = lambda stdin=self.stdin: asked.append(json.loads(stdin.getvalue()))
            children.append(self)

        def communicate(self):
            items = asked[children.index(self)]["items"]
            return json.dumps([{1: item["run"]["model.d_model"]} for item in items]), ""

        def poll(self):
            return 0

    children = []
    monkeypatch.setattr(measure.subprocess, "Popen", Child)
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 2)
    shapes = PACKED.replace("d_model = 12, ", "") + "model.d_model = [4, 6, 8]\n"
    runs = sweep(shapes).spec.runs
    found = Machine(2, 1, compile=True).measure([(r, 1) for r in runs], compiled=True)
    assert found == {pack_key(run): {1: run.model.d_model} for run in runs}
    assert [request["first"] for request in asked] == [0, 1]


def test_what_was_measured_to_gain_is_compiled(monkeypatch):
    shapes = PACKED.replace("d_model = 12, ", "") + "model.d_model = [4, 6]\nseed = [0, 1]\n"
    it, on = sweep(shapes), Machine(1, 1, compile=True)
    monkeypatch.setattr(packing, "_WORTH_COMPILING_SECONDS", 1e9)
    small, large = it.spec.runs[0], it.spec.runs[-1]
    remember(it, {1: 1.0, 2: 1.1})
    for run, seconds in ((small, {1: 0.6, 2: 0.9}), (large, {1: 1.0, 2: 1.06})):
        on.path(run, compiled=True).write_text(json.dumps(seconds))
    costs = costs_of(on, it.spec.runs, [])
    assert costs.compiled == {pack_key(small)} and costs.step(small, 1) == 0.6
    plan = it.plan(in_process=True, compile=True)
    assert {job.compile for job in plan.jobs if small in job.runs} == {True}
    assert {job.compile for job in plan.jobs if large in job.runs} == {False}
    assert "2 runs compiled" in str(plan)
    assert not any(job.compile for job in it.plan(in_process=True).jobs)  # unless asked for
    # a shape is asked about once
    monkeypatch.setattr(packing, "_WORTH_COMPILING_SECONDS", 1.0)
    assert not packing.worth_compiling(it.spec.runs, costs, on)
    on.path(large, compiled=True).unlink()
    assert packing.worth_compiling(it.spec.runs, costs, on) == [(it.spec.runs[2], 2)]
    # and a worker does as the job says
    seen = []

    def look(runs, *, execution, **_):
        seen.append(execution.compile)
        raise MemoryError

    monkeypatch.setattr("scaling.training.train.train_pack", look)
    for job in (Job((small,), 1.0, compile=True), Job((large,), 1.0)):
        execute(job, it.store, Execution(compile=True), lambda: False)
    assert seen == [True, False]


def test_the_other_precision_is_tried_where_minutes_are_at_stake_and_told_where_it_gains(
    monkeypatch,
):
    shapes = PACKED.replace("d_model = 12, ", "") + "model.d_model = [4, 6]\nseed = [0, 1]\n"
    it, on = sweep(shapes), Machine(1, 1)
    small, large = it.spec.runs[0], it.spec.runs[-1]
    remember(it, {1: 1.0, 2: 2.0})
    monkeypatch.setattr(Machine, "_timed", None)
    costs = costs_of(on, it.spec.runs, [])
    assert not costs.other and not packing.worth_comparing(it.spec.runs, costs)  # for a minute
    said = str(it.plan(in_process=True, measure=True))
    assert "bfloat16" not in said
    # for longer
    monkeypatch.setattr(packing, "_WORTH_COMPARING_SECONDS", 1.0)
    asked = []

    def timed(on, runs, compiled):
        asked.extend((run.model.d_model, run.precision, most) for run, most in runs)
        assert not compiled
        gain = {4: 1.3, 6: 0.6}
        return [{1: gain[r.model.d_model] if r.precision == "bfloat16" else 1.0} for r, _ in runs]

    monkeypatch.setattr(Machine, "_timed", timed)
    said = str(it.plan(in_process=True, measure=True))
    assert 'precision = "bfloat16" would be faster for 2 runs: ' in said
    assert "takes 0.60 of its time in float32 here" in said
    assert asked == [(d, p, 1) for d in (6, 4) for p in ("float32", "bfloat16")]
    assert str(it.plan(in_process=True, measure=True)) == said and len(asked) == 4  # once
    costs = costs_of(on, it.spec.runs, [])
    assert costs.other == {pack_key(small): 1.3, pack_key(large): 0.6}
    # nothing else became known of packs, in either precision
    assert costs.packs == {pack_key(small): {1: 1.0, 2: 2.0}, pack_key(large): {1: 1.0, 2: 2.0}}
    slow = sweep(shapes.replace("[axes]", "precision = 'bfloat16'\n[axes]", 1))
    assert not costs_of(on, slow.spec.runs, []).packs
    remember(slow, {1: 1.0, 2: 2.0})
    said = str(slow.plan(in_process=True, measure=True))
    assert 'precision = "float32" would be faster for 2 runs' in said and "takes 0.77 of" in said


def test_an_unavailable_precision_does_not_stop_a_sweep(monkeypatch):
    it = sweep(PACKED.replace("d_model = 12", "d_model = 10") + "seed = [0, 1]\n")
    remember(it, {1: 1.0, 2: 2.0})
    monkeypatch.setattr(packing, "_WORTH_COMPARING_SECONDS", 1.0)
    calls = []

    def timed(on, runs, compiled):
        calls.append(runs)
        raise RuntimeError("index_add_(): self and source expected to have the same dtype")

    monkeypatch.setattr(Machine, "_timed", timed)
    for _ in range(2):
        assert "precision" not in str(it.plan(in_process=True, measure=True))
    assert len(calls) == 1


LADDER = PACKED.replace("[axes]", "optim = { schedule = 'wsd', warmup_tokens = 512 }\n[axes]")


def test_packs_are_measured_only_where_they_may_save_more_than_that_takes():
    ladder = LADDER + "tokens = [25_600, 51_200, 102_400]\n"
    seeds = sweep(ladder + "seed = [0, 1, 2, 3]\n").spec.runs
    (first, *_) = seeds

    def asked(runs, second_a_step=1.0, known=()):
        speed = Speed(second_a_step, 0, 0)
        return packing.worth_measuring(runs, Costs(speed, dict.fromkeys(known, FLAT)))

    # four trunks with branches are no more than five times the longest; one is one and a half
    assert asked(seeds) == [(first, 5)]
    assert asked(sweep(ladder).spec.runs) == [(first, 2)]
    assert (
        not asked(seeds[:1]) and not asked(seeds, 1e-4) and not asked(seeds, 1.0, [pack_key(first)])
    )
    speed, alone = Speed(1.0, 0, 0), {pack_key(first): {1: 1.0}}  # measured for its speed
    assert packing.worth_measuring(seeds, Costs(speed, alone)) == [(first, 5)]
    growing = [override(run, {"optim.batch_warmup_tokens": 512}) for run in seeds]
    assert not asked(growing)


def test_packs_and_branches_give_the_table_of_runs_alone():
    text = LADDER + "tokens = [1280, 2560, 5120, 10_240]\nseed = [0, 1]\n"
    alone, _ = run(sweep(text, "alone"))
    remember(sweep(text), {1: 1.0, 2: 1.1})
    plan = sweep(text).plan(in_process=True)
    assert [len(job.runs) for job in plan.jobs] == [8] and "in common trunks" in str(plan)
    together, _ = run(sweep(text), packs=True)
    assert together["pack"].max() == 2 and together.D_shared.max() > 0 == alone.D_shared.max()
    made = ["seconds", "tokens_per_second", "step_seconds", "mfu", "peak_flops", "memory"]
    made += ["pack", "D_shared"]
    pd.testing.assert_frame_equal(
        together.drop(columns=made), alone.drop(columns=made), check_exact=True
    )
    assert sweep(text).store.manifest()["sessions"][0]["busy_seconds"] < 60


def test_a_pack_that_raises_is_tried_run_by_run(monkeypatch: pytest.MonkeyPatch):
    import scaling.training.train

    train_pack = scaling.training.train.train_pack

    def with_a_bug(runs, **options):
        if any(one.seed == 1 for one in runs):
            raise RuntimeError("cannot do that seed")
        return train_pack(runs, **options)

    monkeypatch.setattr(scaling.training.train, "train_pack", with_a_bug)
    text = PACKED + "seed = [0, 1, 2]\n"
    remember(sweep(text), FLAT)
    runs, _ = run(sweep(text), packs=True)
    assert dict(zip(runs.seed, runs.status, strict=True)) == {0: "ok", 1: "failed", 2: "ok"}
    log = next(sweep(text).store.folder.glob("runs/*/output.log"))
    assert any("tried alone" in log.read_text() for log in log.parents[1].glob("*/output.log"))


def test_the_last_attempt_of_a_pack_that_dies_is_made_alone(tmp_path: Path):
    runs = Spec.from_text(PACKED + "seed = [0, 1, 2]\n").runs
    queue = Queue(Store(tmp_path / "s"), retries=1)
    queue.add([Job(runs, 3.0, 2)])
    whole = queue.take()
    assert whole
    queue.crash([whole], "died")
    again = queue.take()
    assert again and again == whole  # once more together
    queue.crash([again], "died")
    each = [queue.take() for _ in range(3)]
    assert [len(job.runs) for job in each if job] == [1, 1, 1] and queue.store.rows() == {}
    queue.crash([job for job in each if job and job.runs[0].seed == 2], "died")
    assert [row["seed"] for row in queue.store.rows().values()] == [2]
    queue.finish(whole, [Outcome(run.run_id, "interrupted") for run in runs])
    rest = queue.take()
    assert rest and (rest.runs, rest.slots) == (runs, 2)


def test_speed_recovers_prices_from_samples():
    true = Speed(1e-3, 5e-4, 2e-11)
    samples = [
        (B, layers, F, true.step / B + true.layer * layers / B + true.flop * F)
        for B in (256, 4096)
        for layers in (1, 4)
        for F in (1e5, 1e7)
    ]
    fitted = fit_speed(samples)
    for B, layers, F, seconds in samples:
        guess = fitted.step / B + fitted.layer * layers / B + fitted.flop * F
        assert abs(guess / seconds - 1) < 0.1
    one = fit_speed(samples[:1])
    assert min(one.step, one.layer, one.flop) > 0 and one.samples == 1


def test_the_queue_hands_out_the_most_expensive_first_and_none_once_stopped(tmp_path: Path):
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
    monkeypatch.setattr("sweeps.queue.LEASE_PATIENCE", 0.2)
    store = Store(tmp_path / "s")
    job = Job(Spec.from_text(SMALL).runs[:1], 1.0)
    with store.lease(job.id) as held:
        assert held
        outcomes = execute(job, store, Execution(threads=1), lambda: False)
    assert [outcome.status for outcome in outcomes] == ["busy"]
    assert store.rows() == {}
    queue = Queue(store, retries=2)
    queue.finish(job, outcomes)
    assert "held by another process" in str(queue.fatal)


# ------------------------------------------------------------------ what a person sees


def test_status_shows_finished_and_missing_runs():
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
    queue.add([Job(spec.runs[:1], 10.0)])
    first = queue.take()
    queue.add([Job(spec.runs[1:], 20.0)])  # a pack
    second = queue.take()
    assert first and second
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120)
    with Display(queue, store, spec.by_id, seconds, workers=1, console=terminal) as display:
        store.begin(first.runs[0])
        store.report_progress(first.id, {"step": 5, "steps": 10, "D": 1280, "L": 3.25})
        count = display._tally.count()
        assert count.C_done == pytest.approx(count.C / 6) and count.runs == "0/3 runs"
        assert 20 < count.seconds < 60
        time.sleep(0.7)
        for run, L in zip(second.runs, (4.5, 4.25), strict=True):
            store.begin(run)
            store.report_progress(
                run.run_id, {"step": 1, "steps": 10, "D": 256, "L": L, "tokens_per_second": 500.0}
            )
        queue.crash([first], "died of shame")
        time.sleep(0.7)
        store.finish(failed_row(second.runs[0], "at its own end"), [])  # the pack goes on
        count = display._tally.count()
        assert count.C_done == pytest.approx(2.1 * count.C / 3)
        assert count.runs == "2/3 runs, 2 failed"
    shown = out.getvalue()
    assert f"{second.runs[0].run_id} and 1 more" in shown and "L=4.250" in shown
    assert "1k tokens/s" in shown and f"{first.id} failed: died of shame" in shown
    assert "L=3.250" in shown and "1/3 runs, 1 failed" in shown


def test_numbers_and_clocks_read_well():
    assert [si(x) for x in (0.5, 999, 1000, 1.25e6, 3e12)] == ["0.5", "999", "1k", "1.25M", "3T"]
    assert [clock(x) for x in (5, 65, 7500, 200_000)] == ["5s", "1m05s", "2h05m", "2d07h"]
    jobs = [{"a": 60.0}, {"b": 40.0, "c": 20.0}]
    assert seconds_left(jobs, {"b": 0.5}, 2) == pytest.approx(60)
    pace = Pace()
    pace.observe(1000, 500, {}, elapsed=500)  # twice as slow as estimated
    assert pace.factor() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": True}, {"retries": -1}])
def test_invalid_options_are_refused(options):
    with pytest.raises(ConfigError):
        sweep().run(**({"in_process": True} | options))


def test_dry_run_and_status_import_neither_ray_nor_torch_nor_pandas():
    it = sweep()
    run(it)
    Path("small.toml").write_text(BASE + "seed = [0, 1, 2]\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from scaling.cli import main\n"
        "main(['sweep', 'small.toml', '--dry-run']); main(['status', 'results/small'])\n"
        "assert not {'ray', 'torch', 'pandas'} & set(sys.modules)"
    )
    with it.store.drive():  # as it is while a sweep is under way
        words = [sys.executable, "-c", code, str(ROOT)]
        out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "3 runs: 2 finished, 1 to train" in out and "small: 2 runs: 2 ok" in out


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
