"""Blocks of steps, and steps that are recorded as graphs: neither changes a number.

No test has a GPU: a stand-in records a step by keeping the function, and replays it by calling it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL, call

from scaling.config import RunConfig, from_dict, override
from scaling.data.windows import TrainTokens
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.training import blocks, graphs, trainer
from scaling.training.member import Member
from scaling.training.schedule import schedule, schedule_of
from scaling.training.stack import Inputs, Stack
from scaling.training.step import TrainingStep
from scaling.training.train import Interrupted, Result, train, train_pack
from scaling.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
GRAPHS = dataclasses.replace(ONE, cuda_graphs=True)

CASES: dict[str, dict[str, Any]] = {
    "cosine": {},
    "linear": {"optim.schedule": "linear", "optim.warmup_fraction": 0.1},
    "constant": {"optim.schedule": "constant"},
    "wsd": {"optim.schedule": "wsd", "optim.cooldown": "1-sqrt"},
    "restarts": {"optim.schedule": "cosine-restarts", "optim.cycles": 3},
    "steps": {"optim.schedule": "step"},
    "growing batches": {"optim.batch_warmup_tokens": 4000},
    "running means": {"optim.ema": 0.9, "eval.update_ratio": True},
    "noise": {"eval.noise_parts": 2},
    "few tokens": {"data.unique_tokens": 32 * 20},
    "one evaluation": {"eval.points": 1},
}


def figures(results: list[Result]) -> list[str]:
    """What was measured, as text: nan equals itself."""
    return [repr((r.curve, r.tests, r.row["L"], r.row["D_shared"])) for r in results]


def pack_of(run: RunConfig, changes: dict[str, Any]) -> list[RunConfig]:
    return [override(run, changes | {"seed": k, "tokens": (60 - 15 * k) * 256}) for k in range(3)]


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize("case", CASES)
def test_blocks_have_the_numbers_of_single_steps(run, case, monkeypatch, tmp_path):
    runs = pack_of(run, CASES[case])
    in_blocks = figures(train_pack(runs, slots=2, execution=ONE))
    calls = itertools.count()
    folders = [tmp_path / one.run_id for one in runs]
    with pytest.raises(Interrupted):  # in the middle of a block
        train_pack(runs, execution=ONE, folders=folders, should_stop=lambda: next(calls) == 22)
    resumed = figures(train_pack(runs, execution=ONE, folders=folders))
    monkeypatch.setattr(blocks, "_MOST_STEPS", 1)
    monkeypatch.setattr(blocks, "_READ_AT_ONCE", 1)
    assert figures(train_pack(runs, slots=2, execution=ONE)) == in_blocks
    assert resumed == in_blocks


def test_branches_leave_their_trunk_at_the_same_steps(run, monkeypatch):
    wsd = {"optim.schedule": "wsd", "optim.warmup_tokens": 512}
    runs = [override(run, wsd | {"tokens": n * 256}) for n in (20, 35, 60)]
    results = train_pack(runs, slots=2, execution=ONE)
    assert results[0].row["D_shared"] > 0
    in_blocks = figures(results)
    monkeypatch.setattr(blocks, "_MOST_STEPS", 1)
    assert figures(train_pack(runs, slots=2, execution=ONE)) == in_blocks


def test_a_block_ends_at_the_next_event(run):
    (trajectory,) = Trainer([run], ONE, [None]).trajectories
    member = trajectory.leader
    evaluations = sorted(member.eval_steps)
    assert blocks.steps_to_event([trajectory]) == evaluations[0]
    member.step = evaluations[0]
    assert blocks.steps_to_event([trajectory]) == evaluations[1] - evaluations[0]
    member.step = run.S  # a benchmark may train on
    assert blocks.steps_to_event([trajectory]) == 64
    growing = override(run, {"optim.batch_warmup_tokens": 4000, "eval.points": 1})
    (trajectory,) = Trainer([growing], ONE, [None]).trajectories
    sizes = np.diff([growing.tokens_at(step) for step in range(growing.S + 1)])
    assert blocks.steps_to_event([trajectory]) == int((sizes == sizes[0]).sum())


def test_members_do_no_work_in_steps_where_nothing_is_due(run, monkeypatch):
    """What the host does for each member happens once per block."""
    calls: collections.Counter[str] = collections.Counter()
    names = ("next_rates", "numbers_of_sequences", "next_event", "progress", "__setattr__")
    for name in names:
        plain = getattr(Member, name)

        def counted(self, *args, name=name, plain=plain):
            calls[name] += 1
            return plain(self, *args)

        monkeypatch.setattr(Member, name, counted)
    monkeypatch.setattr(trainer, "_PROGRESS_SECONDS", 1e9)
    runs = [override(run, {"seed": k, "eval.points": 1}) for k in range(4)]
    whole = Trainer(runs, ONE, [None] * 4)
    whole.steps(1)
    calls.clear()
    whole.steps(run.S - 2)
    assert calls == {}
    train_pack(runs, execution=ONE)
    assert calls["next_rates"] == calls["numbers_of_sequences"] == 4


def test_a_stopped_run_says_where_it_stopped(run):
    calls = itertools.count()
    with pytest.raises(Interrupted, match=r"at 8 of 60"):
        train(run, execution=ONE, should_stop=lambda: next(calls) == 7)


@given(
    st.sampled_from([c for c in CASES.values() if "optim.schedule" in c] + [{}]),
    st.integers(0, 90),
    st.integers(1, 70),
)
def test_rates_of_a_block_are_those_of_the_schedule(text_file, changes, first, steps):
    data = {"data": {"corpus": str(text_file), "tokenizer": "bytes"}}
    run = from_dict({**data, "tokens": 90 * 1024, "batch_tokens": 1024, **changes})
    member = Member.__new__(Member)
    member.step, member.lr_peaks = first, (3e-3, 1e-2)
    member.schedule = schedule_of(run)
    scales = [schedule(run, step) for step in range(first, first + steps)]
    expected = [[3e-3 * scale, 1e-2 * scale] for scale in scales]
    assert member.next_rates(steps).tolist() == expected


class Elsewhere:
    """A device that is not the CPU, for :class:`blocks.Source`; its tensors are on the CPU."""

    type = "elsewhere"


@pytest.mark.parametrize("most", [blocks.MOST_TOKENS, 10])
def test_tokens_on_a_device_are_those_of_the_file(run, monkeypatch, most):
    monkeypatch.setattr(blocks, "MOST_TOKENS", most)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, _: self)
    monkeypatch.setattr(torch, "arange", lambda n, device: torch.from_numpy(np.arange(n)))
    runs = [run, override(run, {"seed": 5})]
    whole = Trainer(runs, ONE, [None, None])
    source = blocks.Source(whole.source.tokens, Elsewhere())  # type: ignore[arg-type]
    assert (source.tokens_n is None) == (most == 10)
    members = [trajectory.leader for trajectory in whole.trajectories]
    for here in (source, whole.source):
        here.begin(members, 2, slice(1, 3))
        for step in (0, 1, 0):
            windows_kbt = here.windows(step)
            assert windows_kbt.dtype == torch.long
            first = step * members[0].next_sequences + 1
            expected = np.stack([m.tokens.batch(m.run.seed, first, 2) for m in members])
            assert (windows_kbt.numpy() == expected).all()


def test_sequences_of_several_epochs_are_found_at_once(run):
    tokens: TrainTokens = Trainer([run], ONE, [None]).source.tokens
    n = len(tokens.starts)
    sequences = np.array([[n - 1, n, 3 * n + 2], [0, 5 * n, 2]])
    found = tokens.starts_of(4, sequences)
    each = [int(tokens.starts_of(4, np.array([s]))[0]) for s in sequences.ravel()]
    assert found.ravel().tolist() == each


# ------------------------------------------------------------------ graphs


class Recorder:
    """Stands in for CUDA graphs: every replay reads and writes the memory of the recording."""

    made: ClassVar[list[Recorder]] = []
    trained: ClassVar[tuple[Any, Any]] = (None, None)
    """The stack and the inputs of the last step."""

    def __init__(self, device: torch.device) -> None:
        self.warmed = 0
        self.replays: list[int] = []
        """How often each recording was replayed."""
        Recorder.made.append(self)

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warmed += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        number, memory = len(self.replays), set()
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            work()
            memory.add(addresses(*Recorder.trained))
            assert len(memory) == 1

        return replay


def addresses(stack: Stack, inputs: Inputs) -> tuple[int, ...]:
    """Where the tensors of a step lie."""
    each = (*vars(stack).values(), *vars(stack.optimizer).values(), *vars(inputs).values())
    return tuple(x.data_ptr() for x in each if isinstance(x, torch.Tensor))


@pytest.fixture
def recorders(monkeypatch) -> list[Recorder]:
    Recorder.made.clear()
    monkeypatch.setattr(trainer, "CudaRecorder", Recorder)
    plain = TrainingStep.train

    def seen(self: TrainingStep, stack: Stack, inputs: Inputs) -> None:
        Recorder.trained = stack, inputs
        plain(self, stack, inputs)

    monkeypatch.setattr(TrainingStep, "train", seen)
    return Recorder.made


@pytest.mark.parametrize("case", [case for case in CASES if case != "noise"])
def test_graphed_steps_have_the_numbers_of_plain_steps(run, case, recorders, monkeypatch):
    runs = pack_of(run, CASES[case])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphed = figures(train_pack(runs, slots=2, execution=GRAPHS))
    (recorder,) = recorders
    assert len(recorder.replays) > 1 and min(recorder.replays) > 0
    steps = sum(one.S for one in runs)
    assert sum(recorder.replays) < steps
    monkeypatch.setattr(graphs, "WARM_UP_STEPS", 10**9)  # plain steps of the same optimizer
    assert figures(train_pack(runs, slots=2, execution=GRAPHS)) == graphed
    assert recorders[1].replays == []


def test_a_graph_is_recorded_for_each_arrangement_after_its_first_steps(run, recorders):
    runs = [override(run, {"seed": k, "tokens": n * 256}) for k, n in enumerate((20, 50))]
    train_pack(runs, execution=GRAPHS)
    assert recorders[0].warmed == 3 + 3
    assert recorders[0].replays == [20 - 3, 30 - 3]


def test_graphed_runs_resume(run, recorders, tmp_path):
    whole = train(run, execution=GRAPHS)
    calls = itertools.count()
    with pytest.raises(Interrupted):
        train(run, execution=GRAPHS, folder=tmp_path, should_stop=lambda: next(calls) == 30)
    assert figures([train(run, execution=GRAPHS, folder=tmp_path)]) == figures([whole])
    plain = train(run, execution=ONE)
    assert whole.row["L"] == pytest.approx(plain.row["L"], abs=2e-3)


def test_a_step_that_cannot_be_recorded_trains_as_usual(run, recorders, monkeypatch):
    plain = train(run, execution=GRAPHS)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Recorder, "record", fail)
    with pytest.warns(UserWarning, match=r"recording one failed \(no\)") as seen:
        assert figures([train(run, execution=GRAPHS)]) == figures([plain])
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("changes", "execution", "why"),
    [
        ({"eval.noise_parts": 2}, {}, r"eval\.noise_parts splits each step"),
        ({"optim.optimizer": "adafactor"}, {}, r"graphs need optim\.optimizer='adamw'"),
        ({}, {"micro_tokens": 64}, "each step takes 4 micro-batches"),
    ],
)
def test_steps_that_are_no_graphs_say_why_once(run, recorders, changes, execution, why):
    runs = pack_of(run, changes)
    how = dataclasses.replace(GRAPHS, **execution)
    with pytest.warns(UserWarning, match=f"steps are not CUDA graphs: {why}") as seen:
        train_pack(runs, slots=2, execution=how)
    assert len(seen) == 1 and recorders[0].replays == []


def test_graphs_need_a_gpu_and_one_of_them(run):
    with pytest.raises(ConfigError, match=r"cuda_graphs=true needs a CUDA GPU, .* on cpu"):
        train(run, execution=GRAPHS)
    with pytest.raises(ConfigError, match=r"needs a single device, and execution\.devices=2"):
        dataclasses.replace(GRAPHS, devices=2)


def test_a_sweep_on_cpus_refuses_graphs(here, capsys):
    (here / "small.toml").write_text(SMALL)
    assert call("sweep", "small.toml", "--cuda-graphs", "--device", "cpu", "--dry-run") == 2
    assert "cuda_graphs=true needs GPUs" in capsys.readouterr().err
