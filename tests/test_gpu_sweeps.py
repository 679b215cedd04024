"""Sweeps on GPUs, as far as they can be tested without one: shares, memory, measurements."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import subprocess
import sys
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
from disturbed import BASE as OWN_BASE
from disturbed import Project, starts
from hypothesis import given
from hypothesis import strategies as st
from small import BASE, SMALL, call

from scaling import table
from scaling.config import flatten
from scaling.devices.ranks import ALONE
from scaling.errors import ConfigError
from scaling.execution import Execution
from sweeps import gpus, measure
from sweeps.measure import Machine
from sweeps.on_ray.resources import gpu_share, worker_resources
from sweeps.options import SweepOptions
from sweeps.queue import Job, Outcome, Queue
from sweeps.spec import Spec
from sweeps.store import Store

CUDA_OOM = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
HOST_OOM = "1 worker(s) were killed: the node is running low on memory"


# ------------------------------------------------------------------ shares of GPUs


def slots(asked: dict[str, float], nodes: list[dict[str, float]]) -> int:
    """Return the number of workers that fit on `nodes` as Ray counts: in shares of 1/10000."""

    def shares(amount: float) -> int:
        return round(amount * 10_000)

    each_gpu = 10_000 // shares(asked["GPU"])
    return sum(
        min(int(node["GPU"]) * each_gpu, shares(node["CPU"]) // shares(asked["CPU"]))
        for node in nodes
    )


@given(workers=st.integers(1, 20_000), nodes=st.sampled_from([1, 2, 125]))
def test_all_workers_run_at_once_and_no_gpu_has_more_than_needed(workers, nodes):
    cluster = [{"CPU": 192.0, "GPU": 8.0}] * nodes
    gpus = 8 * nodes
    if workers > 192 * nodes:
        workers = 192 * nodes
    resources = worker_resources(workers, Execution(), cluster)
    (asked,) = resources.bundles
    assert slots(asked, cluster) >= workers
    per_gpu = resources.workers_per_gpu
    assert asked["GPU"] <= 1 and (per_gpu - 1) * gpus < workers <= per_gpu * gpus
    assert resources.with_whole_gpu == [asked | {"GPU": 1.0}]


def test_shares_of_a_gpu_add_up_to_at_most_one_as_ray_rounds_them():
    assert [gpu_share(k) for k in (0, 1, 2, 3, 6)] == [0.0, 1.0, 0.5, 0.3333, 0.1666]
    assert all(round(gpu_share(k) * 10_000) * k <= 10_000 for k in range(1, 200))
    with_cpus_alone = [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 0.0, "GPU": 4.0}]
    six = worker_resources(6, Execution(), with_cpus_alone)  # the last node has no CPU for them
    assert (six.workers_per_gpu, six.bundles) == (2, [{"CPU": 1.0, "GPU": 0.5}])
    on_cpus = worker_resources(6, Execution(device="cpu"), with_cpus_alone)
    assert (on_cpus.workers_per_gpu, on_cpus.bundles) == (0, [{"CPU": 1.0}])
    assert on_cpus.with_whole_gpu == on_cpus.bundles
    own = worker_resources(2, Execution(devices=2), with_cpus_alone)
    assert (own.workers_per_gpu, own.with_whole_gpu) == (1, [{"CPU": 2.0, "GPU": 2.0}])


PLACEMENT = """
import sys
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group
from scaling.config import flatten
from scaling.execution import Execution
from sweeps import gpus, measure
from sweeps.measure import Machine
from sweeps.on_ray.resources import worker_resources
head = {"num_cpus": 0, "num_gpus": 0, "temp_dir": sys.argv[1], "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head | {"object_store_memory": 100 << 20})
for _ in range(2):
    cluster.add_node(num_cpus=32, num_gpus=8, object_store_memory=100 << 20)
ray.init(address=cluster.address, log_to_driver=False)
alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
for workers in (12, 17, 48):
    asked = worker_resources(workers, Execution(), alive)
    groups = [placement_group(asked.bundles, strategy=asked.strategy) for _ in range(workers)]
    ready = [group.wait(20) for group in groups]
    rest = 16 * asked.workers_per_gpu - workers
    more = [placement_group(asked.bundles) for _ in range(rest + 1)]
    fit = [group.wait(20) for group in more[:-1]] + [more[-1].wait(0.5)]
    print(workers, asked.workers_per_gpu, all(ready), all(fit[:-1]), fit[-1])
    for group in groups + more:
        ray.util.remove_placement_group(group)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_ray_places_every_worker_on_nodes_of_eight_gpus(project: Project, ray_folder: str):
    words = [sys.executable, "-c", PLACEMENT, ray_folder]
    out = subprocess.run(
        words, env=project.environment, capture_output=True, text=True, timeout=200, check=True
    ).stdout
    assert [line.split() for line in out.splitlines()] == [
        [workers, per_gpu, "True", "True", "False"]
        for workers, per_gpu in (("12", "1"), ("17", "2"), ("48", "3"))
    ]


HUNGRY = """
import ray
import torch
from scaling.model import Model, family

@family
class Hungry(Model):
    def tensors(self):
        return {"mix.weight": (self.model.d_model, self.model.d_model)}

    def hidden(self, p, tokens_kbt):
        if ray.is_initialized() and p["mix.weight"].requires_grad:
            gpus = ray.get_runtime_context().get_assigned_resources().get("GPU")
            print("trains on", gpus, "GPUs")
            if self.model.d_model > 16 and gpus < 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self.embed(p, tokens_kbt).flatten(1, 2) @ p["mix.weight"]"""

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 0, "num_gpus": 0, "temp_dir": sys.argv[1], "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head | {"object_store_memory": 100 << 20})
cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=100 << 20)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_run_that_does_not_fit_beside_another_is_trained_with_a_whole_gpu(
    project: Project, ray_folder: str
):
    (project.folder / "hungry.py").write_text(HUNGRY)
    base = OWN_BASE.replace("d_model = 16", f'family = "{project.folder}/hungry.py:Hungry"')
    spec = project.spec(
        "hungry",
        f'name = "hungry"\n{base}tokens = 2560\n[axes]\nmodel.d_model = [8, 12, 16, 20]\n',
    )
    words = [sys.executable, "-c", CLUSTER, ray_folder]
    project.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    how |= {"cwd": project.folder, "env": project.environment}
    cluster = subprocess.Popen(words, **how)
    try:
        address = cluster.stdout.readline().strip()
        project.run("hungry", "results", "workers=2", "retries=1", f"address={address}")
    finally:
        cluster.communicate()
    store = project.store("hungry", "results")
    assert set(table.read(store.folder).status) == {"ok"}
    logs = [(store.run_folder(run.run_id) / "output.log").read_text() for run in spec.runs]
    assert all("trains on 0.5 GPUs" in log for log in logs[:3])
    assert "trains on 0.5 GPUs" in logs[3] and "trains on 1.0 GPUs" in logs[3]
    assert [len(starts(store, run.run_id)) for run in spec.runs] == [1, 1, 1, 2]


# ------------------------------------------------------------------ memory


def queue_of(tmp_path: Path, runs: int, per_gpu: int, retries: int = 1) -> Queue:
    queue = Queue(Store(tmp_path / "s"), retries=retries)
    queue.workers_per_gpu = per_gpu
    each = Spec.from_text(BASE + f"seed = {list(range(runs))}\n").runs
    queue.add(Job((run,), 100.0 - i) for i, run in enumerate(each))
    return queue


def take(queue: Queue) -> Job:
    job = queue.take()
    assert job is not None
    return job


def test_a_job_that_lacked_a_shared_gpu_is_tried_on_one_of_its_own_beside_others(tmp_path):
    queue = queue_of(tmp_path, 4, per_gpu=2)
    first, second = take(queue), take(queue)
    queue.finish(first, [Outcome(first.id, "memory", CUDA_OOM)])
    assert queue.store.killed(first.id) == 0  # it is not known which one is to blame
    third, fourth = take(queue), take(queue)
    assert not (third.alone or fourth.alone)
    again = take(queue)  # after all others, and while three of them still run
    assert again == dataclasses.replace(first, alone=True) and len(queue.running) == 4
    queue.finish(again, [Outcome(first.id, "memory", CUDA_OOM)])
    assert queue.store.killed(first.id) == 1  # it had a whole GPU
    again = take(queue)
    assert again.alone
    queue.finish(again, [Outcome(first.id, "memory", CUDA_OOM)])
    assert queue.store.rows()[first.id]["status"] == "failed"
    for job in (second, third, fourth):
        queue.finish(job, [Outcome(job.id, "ok")])
    assert queue.exhausted


def test_a_job_that_lacked_a_gpu_of_its_own_counts_an_attempt_at_once(tmp_path):
    queue = queue_of(tmp_path, 3, per_gpu=1)
    first, second = take(queue), take(queue)
    queue.finish(first, [Outcome(first.id, "memory", "RuntimeError: CUDA error: out of memory")])
    assert queue.store.killed(first.id) == 1
    again = take(queue)
    assert (again.id, again.alone) == (first.id, False)
    third = take(queue)
    queue.crash([again], CUDA_OOM)
    assert queue.store.rows()[first.id]["status"] == "failed"
    assert {second.id, third.id} == set(queue.running)


def test_jobs_that_lacked_the_memory_of_the_machine_are_tried_with_nothing_else_running(tmp_path):
    for per_gpu in (0, 1, 2):
        queue = queue_of(tmp_path / str(per_gpu), 3, per_gpu)
        first, second = take(queue), take(queue)
        queue.crash([first], HOST_OOM)
        assert queue.store.killed(first.id) == 0
        third = take(queue)
        assert queue.take() is None
        for job in (second, third):
            queue.finish(job, [Outcome(job.id, "ok")])
        assert take(queue) == first and queue.take() is None


def test_the_runs_of_a_pack_that_dies_for_lack_of_a_gpu_are_tried_apart(tmp_path):
    for per_gpu in (1, 2):
        queue = Queue(Store(tmp_path / str(per_gpu)), retries=1)
        queue.workers_per_gpu = per_gpu
        runs = Spec.from_text(BASE + "seed = [0, 1]\n").runs
        queue.add([Job(runs, 2.0, 2)])
        queue.crash([take(queue)], CUDA_OOM)
        each = take(queue), take(queue)  # side by side, each with a GPU
        assert [len(job.runs) for job in each] == [1, 1]
        assert [job.alone for job in each] == [per_gpu > 1] * 2


# ------------------------------------------------------------------ the GPUs of a machine

EIGHT = "".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i}{i}a4-5b)\n" for i in range(8))
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d)
  MIG 3g.20gb     Device  1: (UUID: MIG-a28ad590-3fda)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa0012)
"""


def test_gpus_are_those_that_cuda_shows():
    assert [gpu.id for gpu in gpus.selected(EIGHT, None)] == list("01234567")
    assert gpus.model_of(gpus.selected(EIGHT, None)) == "NVIDIA H100 80GB HBM3"
    assert [gpu.id for gpu in gpus.selected(EIGHT, "6, 1")] == ["6", "1"]
    assert [gpu.id for gpu in gpus.selected(EIGHT, "GPU-33,GPU-5")] == ["GPU-33", "GPU-5"]
    for names in ("", "-1", "NoDevFiles", "8,1", "GPU-9"):
        assert gpus.selected(EIGHT, names) == ()
    assert gpus.selected("no devices were found", None) == ()
    both = "MIG-c7384736-a75d,MIG-a28ad590-3fda"
    assert len(gpus.selected(DIVIDED, both)) == 2
    assert gpus.model_of(gpus.selected(DIVIDED, both)) == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert len(gpus.selected(DIVIDED, None)) == 1  # CUDA shows one instance without being told


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch):
    """Let the machine seem to have eight GPUs and sixteen cores."""
    monkeypatch.setattr(gpus, "visible", lambda: gpus.selected(EIGHT, None))
    monkeypatch.setattr("os.cpu_count", lambda: 16)


def machine(workers: int, shared: int = 8, **options) -> Machine:
    return Machine(workers, 1, gpus=shared, gpu="NVIDIA H100 80GB HBM3", **options)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict]]:
    """Environments and requests of the processes that would measure."""
    asked: list[tuple[dict, dict]] = []

    class Child:
        """In place of a process."""

        def __init__(self, *_, env, **__):
            self.env, self.stdin, self.returncode = env, self, 0

        def write(self, request):
            asked.append((self.env, json.loads(request)))

        def close(self):
            pass

        def communicate(self):
            return json.dumps([{1: 1.0}]), ""

        def poll(self):
            return 0

    monkeypatch.setattr(measure.subprocess, "Popen", Child)
    return asked


def test_processes_that_measure_share_gpus_as_the_workers_will(eight_gpus, asked, monkeypatch):
    (run, _) = Spec.from_text(BASE + "seed = [0, 1]\n").runs

    def pinned(on: Machine) -> list[str | None]:
        asked.clear()
        on.measure([(run, 1)])
        assert {request["workers_per_gpu"] for _, request in asked} == {on.workers_per_gpu}
        return [env.get("CUDA_VISIBLE_DEVICES") for env, _ in asked]

    assert pinned(machine(8)) == list("01234567")
    assert pinned(machine(12)) == list("001122334455")
    assert pinned(machine(3)) == list("012")
    assert pinned(machine(1000, shared=1000)) == list("01234567")  # 125 nodes such as this one
    assert pinned(machine(2000, shared=1000)) == list("0011223344556677")
    assert pinned(machine(4, devices=2)) == ["0,1", "2,3", "4,5", "6,7"]
    assert pinned(machine(1, device="cuda:5")) == ["5"]
    assert asked[0][1]["device"] == "cuda"
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    assert pinned(Machine(4, 1, "cpu", gpus=0)) == [before] * 4
    assert pinned(machine(2, shared=2, devices=16)) == [before] * 2
    assert not machine(2, shared=16, devices=16).measurable
    monkeypatch.setattr(gpus, "visible", lambda: ())
    assert not machine(8).measurable  # the driver has no GPU, and the workers have
    assert Machine(8, 1, gpus=0).measurable


def test_speed_is_measured_as_the_runs_will_train(asked, monkeypatch):
    (run, _) = Spec.from_text(BASE + "seed = [0, 1]\n").runs
    seen: list[Execution] = []

    class Noted(Step):
        def __init__(self, runs, execution, *rest, **more):
            super().__init__(runs)
            seen.append(execution)

    monkeypatch.setattr("scaling.training.trainer.Trainer", Noted)
    monkeypatch.setattr(measure, "_step_seconds", lambda _: 1.0)
    monkeypatch.setattr(measure, "_sharing", lambda *_: 1)
    for options in ({"micro_tokens": 64, "recompute": True}, {}):
        Machine(1, 1, "cpu", **options).measure([(run, 1)])
        _, request = asked.pop()
        seen.clear()
        assert measure._answers(request) == [{1: 1.0}]
        assert seen and set(seen) == {Execution(threads=1, device="cpu", **options)}


def test_workers_share_the_gpus_that_they_will_see(eight_gpus):
    from sweeps.on_ray.cluster import gpus_of_workers

    two, four = Execution(devices=2), Execution(devices=4, nodes=2)
    assert gpus_of_workers(Execution(), None, in_process=False) == 8
    assert gpus_of_workers(Execution(), None, in_process=True) == 1
    assert gpus_of_workers(two, None, in_process=True) == 2
    assert gpus_of_workers(four, None, in_process=False) == 4
    assert gpus_of_workers(Execution(device="cpu"), None, in_process=False) == 0


def test_packs_that_would_crowd_a_gpu_are_found_by_its_own_memory(monkeypatch):
    import torch

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 80 << 30))
    monkeypatch.setattr("scaling.devices.hardware.peak_memory", lambda device: 30 << 30)
    gpu = torch.device("cuda", 0)
    assert [measure._crowded(gpu, workers) for workers in (1, 2)] == [False, True]


def test_the_memory_of_a_device_is_shared_by_the_workers_on_it_and_not_by_all_of_a_cluster(
    monkeypatch,
):
    import torch

    monkeypatch.setattr("os.cpu_count", lambda: 16)
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    request = {"workers": 2000, "threads": 1, "devices": 1, "workers_per_gpu": 2}
    assert measure._sharing(request, gpu) == 2
    assert measure._sharing(request | {"workers_per_gpu": 1, "devices": 4}, gpu) == 1
    assert measure._sharing(request, cpu) == 16
    assert measure._sharing(request | {"threads": 4}, cpu) == 4
    assert measure._sharing(request | {"workers": 3, "devices": 2}, cpu) == 6
    assert measure._sharing(request | {"workers": 3, "threads": 64}, cpu) == 1


def test_measurements_hold_for_one_model_of_gpu_and_one_way_to_save_memory(monkeypatch):
    (run, _) = Spec.from_text(BASE + "seed = [0, 1]\n").runs
    monkeypatch.setattr(measure, "machine", lambda: {"cpu": "same"})
    different = [
        Machine(8, 1),
        machine(8),
        machine(8, shared=4),
        Machine(8, 1, gpus=8, gpu="NVIDIA A100-SXM4-40GB"),
        machine(8, micro_tokens=4096),
        machine(8, recompute=True),
    ]
    assert len({on.path(run) for on in different}) == len(different)
    assert Machine(8, 1).path(run) == Machine(8, 1, gpus=0).path(run)  # as before there were any
    rows = ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "cpu x1", ""]
    assert [machine(8).like(row) for row in rows] == [True, False, False, True]
    assert [Machine(8, 1, gpus=0).like(row) for row in rows] == [False, False, True, True]
    assert [Machine(8, 1).like(row) for row in rows] == [True] * 4


class Step:
    """In place of a trainer, on a device that takes `overhead` seconds and then some per token."""

    overhead, per_token, most = 0.01, 1e-6, 10**9
    seen: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, runs, *_, **__):
        if len(runs) * runs[0].batch_tokens > self.most:
            raise MemoryError("no room")
        self.K, self.B = len(runs), runs[0].batch_tokens
        self.seen.append((self.K, self.B))
        self.device = "a device"

    def steps(self, number):
        pass


def measured(monkeypatch, run, largest: int, **device) -> dict[int, float]:
    monkeypatch.setattr("scaling.training.trainer.Trainer", type("Device", (Step,), device))
    monkeypatch.setattr(Step, "seen", [])

    def seconds(step, steps=1):
        return steps * (step.overhead + step.K * step.B * step.per_token)

    monkeypatch.setattr(measure, "_timed_steps", seconds)
    monkeypatch.setattr(measure, "_step_seconds", seconds)
    monkeypatch.setattr(measure, "_sharing", lambda *_: 1)
    monkeypatch.setattr(measure, "_crowded", lambda *_: False)
    request = {"items": [{"run": flatten(run), "largest": largest}]}
    (found,) = measure._measured(request, Execution(), ALONE)
    return found


def test_a_fast_device_is_measured_on_batches_that_take_long_enough(monkeypatch):
    text = BASE.replace("batch_tokens = 256", "batch_tokens = 8192")
    (run, _) = Spec.from_text(text + "seed = [0, 1]\n").runs
    monkeypatch.setattr(measure, "_STEP_FLOPS", 0.0)  # one context at first
    fast = measured(monkeypatch, run, largest=4)
    assert fast == pytest.approx({1: 0.018192, 2: 0.026384, 4: 0.042768})
    assert Step.seen[-3:] == [(1, 8192), (2, 8192), (4, 8192)]
    slow = measured(monkeypatch, run, largest=4, overhead=0.0, per_token=1e-4)
    assert slow == pytest.approx({1: 0.8192})  # a part of the batch, which fills the device
    assert Step.seen[-1] == (1, 2048)
    medium = measured(monkeypatch, run, largest=4, most=3000, per_token=1e-7)
    assert Step.seen[-1] == (1, 2048) and list(medium) == [1]  # the largest part that fits


def test_packs_beyond_the_memory_are_not_measured(monkeypatch):
    (run, _) = Spec.from_text(BASE + "seed = [0, 1]\n").runs
    assert list(measured(monkeypatch, run, largest=8, most=1024)) == [1, 2, 4]
    with pytest.raises(MemoryError):
        measured(monkeypatch, run, largest=8, most=128)


def test_a_pack_that_does_not_fit_is_freed_before_the_next_one_is_measured(monkeypatch):
    alive: weakref.WeakSet[Step] = weakref.WeakSet()
    others = []

    class Device(Step):
        def __init__(self, runs, *more, **options):
            super().__init__(runs, *more, **options)
            others.append(len(alive))
            alive.add(self)

    def seconds(step: Step) -> float:
        if step.K == 4:
            raise MemoryError("CUDA out of memory")
        return 1.0

    (run, _) = Spec.from_text(BASE + "seed = [0, 1]\n").runs
    measured(monkeypatch, run, largest=1)  # replaces what needs a device
    monkeypatch.setattr("scaling.training.trainer.Trainer", Device)
    monkeypatch.setattr(measure, "_step_seconds", seconds)
    request = {"items": [{"run": flatten(run), "largest": 8}] * 2}
    assert measure._measured(request, Execution(), ALONE) == [{1: 1.0, 2: 1.0}] * 2
    assert others == [0] * 6


# ------------------------------------------------------------------ saving memory


def test_a_spec_or_the_options_of_a_sweep_save_memory_without_changing_its_runs():
    table = "[execution]\nmicro_tokens = 64\nrecompute = true\n"
    plain, saving = Spec.from_text(SMALL), Spec.from_text(SMALL + table)
    assert saving.by_id == plain.by_id
    execution = saving.executed(SweepOptions().execution)
    assert (execution.micro_tokens, execution.recompute) == (64, True)
    execution = saving.executed(SweepOptions(micro_tokens=32).execution)
    assert execution.micro_tokens == 32
    execution = plain.executed(SweepOptions(recompute=True).execution)
    assert (execution.micro_tokens, execution.recompute) == (None, True)
    at_scale = Spec.from_text(
        SMALL + "[scale.big]\nexecution.micro_tokens = 128\n", changes={"scale": "big"}
    )
    assert at_scale.micro_tokens == 128
    changed = Spec.from_text(SMALL, changes={"execution.micro_tokens": 256})
    assert changed.micro_tokens == 256 and changed.by_id == plain.by_id


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("micro_tokens = 0", "execution.micro_tokens=0 must be positive"),
        ("micro_tokens = 'all'", "execution.micro_tokens: 'all' is not int or none"),
        ("recompute = 1", "execution.recompute=1 must be true or false"),
        ("shard = true", "cannot set execution.shard, only .*micro_tokens, execution.recompute"),
    ],
)
def test_a_wrong_way_to_save_memory_is_named(line: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        Spec.from_text(f"{SMALL}[execution]\n{line}\n")


def test_the_workers_of_a_sweep_save_memory_as_asked(here: Path, monkeypatch, capsys):
    import scaling.training.step

    split, seen = scaling.training.step.micro_batches, []

    def micro_batches(run, micro_tokens, ranks):
        seen.append(micro_tokens)
        return split(run, micro_tokens, ranks)

    monkeypatch.setattr(scaling.training.step, "micro_batches", micro_batches)
    Path("small.toml").write_text(SMALL)
    words = ("sweep", "small.toml", "--in-process", "--micro-tokens")
    assert call(*words, 16) == 2
    assert "micro_tokens=16 is less than one context of model.n_ctx=32" in capsys.readouterr().err
    assert not seen and not Store("results/small").rows()
    assert call(*words, 64, "--recompute") == 0
    assert set(seen) == {64}
    (attempt, *_) = Store("results/small").attempts(next(iter(Store("results/small").rows())))
    assert attempt["execution"]["micro_tokens"] == 64 and attempt["execution"]["recompute"]
