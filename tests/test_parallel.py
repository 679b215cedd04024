"""Several processes train a run together: same numbers as one, and none is left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch

from scaling.config import canonical, from_dict, override
from scaling.devices import launch
from scaling.devices.device import device_of
from scaling.devices.ranks import Ranks
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.run_progress import CHECKPOINT
from scaling.training.train import Interrupted, train, train_pack
from sweeps import Sweep
from sweeps.checks import prepare
from sweeps.errors import StoreError
from sweeps.measure import Machine
from sweeps.options import SweepOptions

pytestmark = pytest.mark.usefixtures("own_cache")

ONE = Execution(threads=1, device="cpu")
TWO = dataclasses.replace(ONE, devices=2)
SHARDED = dataclasses.replace(TWO, shard=True)
CLOSE = {"rel": 1e-5}
"""Tolerance for losses after 24 steps in float32, summed in another order."""


@pytest.fixture
def run(text_file):
    """P and the 63 test windows are odd, so that the ranks have unequal shares."""
    shape = {"n_layer": 1, "d_model": 15, "n_head": 3, "n_ctx": 16, "d_ff": 30}
    return from_dict(
        {
            "model": shape,
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "optim.lr": 1e-2,
            "optim.ema": 0.9,
            "eval": {"test_tokens": 63 * 16, "points": 3, "noise_parts": 2},
            "tokens": 24 * 128,
            "batch_tokens": 128,
        }
    )


def curve(result, *names):
    return [point[name] for point in result.curve for name in names]


def stop_after(n):
    calls = iter(range(1, 10**9))
    return lambda: next(calls) >= n


def ended(pids, seconds=10.0):
    """Whether all these processes end within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(p) and psutil.Process(p).status() != "zombie" for p in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def pack(run):
    return [run, override(run, {"seed": 3, "optim.lr": 1e-3, "tokens": 16 * 128})]


def same(result, alone, sharded=False):
    losses = "L", "L_train", "grad_norm"
    assert curve(result, *losses) == pytest.approx(curve(alone, *losses), **CLOSE)
    # The gradients of two ranks are those of two micro-batches; with sharding, of other ones.
    noise = ["B_noise_norm"] if sharded else ["B_noise", "B_noise_norm"]
    assert curve(result, *noise) == pytest.approx(curve(alone, *noise), rel=1e-3)
    positions = result.tests[0]["L_position"]
    assert positions == pytest.approx(alone.tests[0]["L_position"], **CLOSE)
    assert result.row["L_stderr"] == pytest.approx(alone.row["L_stderr"], rel=1e-4)
    assert {k for k, v in alone.row.items() if type(v) is not type(result.row[k])} == set()
    assert result.row["D"] == alone.row["D"]
    return True


def test_a_pack_on_two_devices_matches_one_device(pack, started):
    ended_runs = []
    results = train_pack(pack, execution=TWO, on_result=ended_runs.append)
    assert sorted(r.config.seed for r in ended_runs) == [0, 3]  # each exactly once
    assert all(map(same, results, train_pack(pack, execution=ONE)))
    assert results[0].row["device"] == "2 x cpu x1"
    assert len(started) == 1 and ended(started, 0.1)


def test_ranks_start_on_other_nodes(pack, started):
    four = dataclasses.replace(ONE, devices=4, nodes=2)
    with launch.reaching("127.0.0.1", [launch.LocalNode()]):
        results = train_pack(pack, execution=four)
        assert len(started) == 3 and ended(started, 0.1)
        with pytest.raises(ConfigError, match="nodes=4, but this process starts ranks on its own"):
            train_pack(pack, execution=dataclasses.replace(four, nodes=4))
    for result, alone in zip(results, train_pack(pack, execution=ONE), strict=True):
        both = (curve(one, "L", "L_train", "grad_norm") for one in (result, alone))
        assert next(both) == pytest.approx(next(both), **CLOSE)
    assert results[0].row["device"] == "4 x cpu x1"


def test_a_pack_goes_on_with_another_number_of_devices(pack, tmp_path):
    folders = [tmp_path / run.run_id for run in pack]
    for execution, steps in ((SHARDED, 9), (ONE, 5)):
        with pytest.raises(Interrupted):
            how = {"execution": execution, "should_stop": stop_after(steps)}
            train_pack(pack, folders=folders, **how)
    saved = torch.load(folders[1] / CHECKPOINT, weights_only=True)
    assert saved["members"][pack[1].run_id]["step"] == 14
    results = train_pack(pack, execution=SHARDED, folders=folders)
    alone = train_pack(pack, execution=ONE)
    assert all(same(*both, sharded=True) for both in zip(results, alone, strict=True))


def test_ranks_with_unequal_shares_match_one_device(run):
    # The batch grows by single sequences, so that ranks differ in their number of micro-batches.
    growing = {"batch_tokens": 256, "tokens": 12 * 256, "optim.batch_warmup_tokens": 6 * 256}
    grown = override(run, growing | {"eval.noise_parts": None})
    n_ctx = run.model.n_ctx
    steps = {grown.tokens_at(s + 1) - grown.tokens_at(s) for s in range(grown.S)}
    assert any(tokens // n_ctx % 2 for tokens in steps)
    both = [dataclasses.replace(how, micro_tokens=n_ctx) for how in (ONE, TWO)]
    alone, result = (train(grown, execution=how) for how in both)
    names = "L", "L_train", "grad_norm"
    assert curve(result, *names) == pytest.approx(curve(alone, *names), **CLOSE)


def test_a_rank_that_is_killed_ends_the_run_and_nobody_stays(run, started):
    calls = iter(range(1, 100))

    def kill_one():
        if next(calls) == 3:
            os.kill(started[1], signal.SIGKILL)
        return False

    three = dataclasses.replace(ONE, devices=3)
    with pytest.raises(
        ChildProcessError, match=r"rank 2 \(process \d+\) ended by SIGKILL; the run"
    ):
        train(override(run, {"batch_tokens": 192}), execution=three, should_stop=kill_one)
    assert len(started) == 2 and ended(started, 0.1)


def test_a_rank_that_does_not_come_up_is_waited_for_no_longer_than_said(run, tmp_path, monkeypatch):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 100")
    slow.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(slow))
    monkeypatch.setattr(launch, "_PATIENCE", timedelta(seconds=0.1))
    with pytest.raises(
        ChildProcessError, match=r"rank 1 \(process \d+\) has not started within 0.1 s"
    ):
        train(run, execution=TWO)
    slow.write_text("#!/bin/sh\necho no such library >&2; exit 7")
    monkeypatch.setattr(launch, "_PATIENCE", timedelta(seconds=100))
    with pytest.raises(ChildProcessError, match=r"rank 1 .* exit code 7: no such library; the run"):
        train(run, execution=TWO)


def test_what_a_rank_raises_is_raised(run, own_family, started):
    code = own_family.read_text() + textwrap.indent(
        textwrap.dedent(
            """
            def mean_loss(self, *args):
                import torch.distributed as dist
                if dist.get_rank() == 1:
                    raise MemoryError("no more of it")
                return super().mean_loss(*args)
            """
        ),
        "    ",
    )
    own_family.write_text(code)
    run = override(run, {"model.family": f"{own_family}:Mean"})
    with pytest.raises(MemoryError, match="does not fit into memory: no more of it Use"):
        train(run, execution=TWO)
    assert len(started) == 1 and ended(started, 0.1)


def test_ranks_end_with_the_first_that_is_killed(run, tmp_path):
    code = (
        "import json, sys; from pathlib import Path\n"
        "from scaling.devices.rank_process import RankProcess\n"
        "from scaling.config import from_dict\n"
        "from scaling.execution import Execution\n"
        "from scaling.training.train import train\n"
        "start = RankProcess.__init__\n"
        "def noted(child, request):\n"
        "    start(child, request)\n"
        "    print(child.process.pid, flush=True)\n"
        "RankProcess.__init__ = noted\n"
        "ex = Execution(device='cpu', devices=2, checkpoint_seconds=0.05)\n"
        "train(from_dict(json.loads(sys.argv[1])), execution=ex, folder=Path(sys.argv[2]))"
    )
    run = override(run, {"tokens": 10**5 * 128})
    words = [sys.executable, "-c", code, json.dumps(canonical(run)), str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = [int(process.stdout.readline())]
        deadline = time.monotonic() + 200
        while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert (tmp_path / CHECKPOINT).exists() and ended(pids)


def test_what_cannot_be_shared_is_refused_before_anything_starts(run, monkeypatch, started):
    three = dataclasses.replace(ONE, devices=3)
    with pytest.raises(ConfigError, match=r"devices=3 cannot share the 8 .* use batch_tokens=144"):
        train(run, execution=three)
    muon = override(run, {"optim.optimizer": "muon"})
    with pytest.raises(ConfigError, match=r"optim.optimizer='muon' updates them whole"):
        train(muon, execution=SHARDED)
    growing = override(run, {"optim.batch_warmup_tokens": 1024, "eval.noise_parts": None})
    with pytest.raises(
        ConfigError, match=r"has 1 sequences, less than one for each of .*devices=2"
    ):
        train(growing, execution=TWO)
    with pytest.raises(
        ConfigError, match=r"shard=true needs several devices .*execution.devices=1"
    ):
        Execution(shard=True)
    with pytest.raises(ConfigError, match=r"execution.devices=0 must be positive"):
        Execution(devices=0)
    with pytest.raises(
        ConfigError, match=r"devices=3 cannot be spread evenly over .*nodes=2; set .* to 2 "
    ):
        Execution(devices=3, nodes=2)
    with pytest.raises(
        ConfigError, match=r"nodes=2, but .* `torchrun --nnodes 2 --nproc-per-node 1`"
    ):
        train(run, execution=dataclasses.replace(TWO, nodes=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ConfigError, match=r"devices=2, but this machine has 1 GPU; use at most that many"
    ):
        train(run, execution=Execution(devices=2))
    for devices, said in (
        (4, "devices=2, but this machine has 1 GPU"),
        (2, "nodes=2, but this pro"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(run, execution=Execution(devices=devices, nodes=2))
    with pytest.raises(ConfigError, match=r"device='cuda:1' is one GPU, not devices=2"):
        device_of("cuda:1", 2)
    assert str(device_of("cuda", 1)) == "cuda"
    assert not started
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"devices=2, but torchrun has started 4 processes"):
        train(run, execution=TWO)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    four = dataclasses.replace(ONE, devices=4)
    with pytest.raises(
        ConfigError, match=r"torchrun has started 2 of 4 .* as execution.nodes \(now 1\)"
    ):
        train(run, execution=four)


def test_shares_partition_the_items():
    for n in (0, 1, 2, 7, 64):
        for size in (1, 2, 3, 8):
            shares = [list(range(n))[Ranks(r, size).share(n)] for r in range(size)]
            assert [i for share in shares for i in share] == list(range(n))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


SPEC = """
name = "{name}"
[base]
data = {{ corpus = "{corpus}", tokenizer = "bytes" }}
model = {{ n_layer = 1, d_model = 8, n_head = 1, n_ctx = 32 }}
batch_tokens = 256
tokens = 2560
eval = {{ test_tokens = 2048, points = 4 }}
[axes]
seed = {seeds}
"""


@pytest.fixture
def sweep(tmp_path, text_file, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(name, seeds):
        Path("spec.toml").write_text(SPEC.format(name=name, corpus=text_file, seeds=seeds))
        return Sweep.from_toml("spec.toml")

    return make


def test_a_sweep_on_two_devices_survives_the_death_of_a_rank(sweep, monkeypatch, started):
    alone = sweep("alone", [0]).run(in_process=True, quiet=True)  # the slices of P are equal
    it = sweep("two", [0])
    report, killed = it.store.report_progress, []

    def kill_one(*told):
        if not killed:
            killed.append(started[0])
            os.kill(started[0], signal.SIGKILL)
        report(*told)

    monkeypatch.setattr(it.store, "report_progress", kill_one)
    runs = it.run(in_process=True, quiet=True, devices=2, device="cpu", shard=True)
    assert runs.status.tolist() == ["ok"] and runs.device.tolist() == ["2 x cpu x1"]
    assert runs.L.tolist() == pytest.approx(alone.L.tolist(), **CLOSE)
    events = [e["event"] for e in it.store.attempts(runs.run_id[0])]
    assert events == ["start", "killed", "start", "ok"]
    assert it.store.manifest()["sessions"][0]["devices"] == 2
    assert killed == started[:1] and len(started) == 2 and ended(started, 0.1)


def test_a_sweep_asks_for_no_more_devices_than_there_are(sweep, started):
    cores = len(os.sched_getaffinity(0))
    it = sweep("small", [0, 1])
    for ask in (it.plan, it.run):
        asked = f"workers=2 of threads=1 on devices={8 * cores} take {16 * cores} cores"
        said = f"{asked}, but .* {cores};"
        with pytest.raises(ConfigError, match=said):
            ask(workers=2, devices=8 * cores)
    with pytest.raises(
        ConfigError, match=r"run \w+: execution.devices=3 cannot share the 8 sequences"
    ):
        prepare("small", it.store, it.spec.runs, {}, dataclasses.replace(ONE, devices=3))
    for ask in (it.plan, it.run):
        how = {"devices": 2, "nodes": 2}
        with pytest.raises(ConfigError, match=r"nodes=2, but in_process .* `torchrun --nnodes 2"):
            ask(in_process=True, **how)
        with pytest.raises(ConfigError, match=r"nodes=2, but without an address"):
            ask(workers=1, **how)
        with pytest.raises(ConfigError, match=r"compile is decided by measurements.* nodes=2"):
            ask(workers=1, compile=True, **how)
    assert not it.folder.exists() and not started
    paths = {Machine(1, 1, "cpu", devices=devices).path(it.spec.runs[0]) for devices in (1, 2)}
    assert len(paths) == 2
    known = ["cpu x1", "2 x cpu x1", "2 x cpu x4", "2 x NVIDIA H100", "NVIDIA H100", ""]
    for device, threads, devices, like in (
        ("cpu", 1, 1, known[:1]),
        ("cpu", 4, 2, known[2:3]),
        ("auto", 1, 2, known[1:4:2]),
        ("cuda", 1, 1, known[4:5]),
    ):
        on = Machine(1, threads, device, devices=devices)
        assert list(filter(on.like, known)) == [*like, ""]
    two_nodes = SweepOptions(workers=1, device="cpu", devices=2, nodes=2, shard=True)
    words = it.resume_command(two_nodes)
    assert words.endswith("--workers 1 --device cpu --devices 2 --nodes 2 --shard")


def test_what_several_devices_of_a_worker_ask_of_ray():
    from sweeps.on_ray.resources import worker_resources

    def asked(workers, execution, *nodes):
        group = worker_resources(workers, execution, [{"CPU": c, "GPU": g} for c, g in nodes])
        return group.strategy, group.bundles

    four = Execution(devices=4)
    mixed = (8, 0), (8, 4)
    whole = {"CPU": 4.0, "GPU": 4.0}
    assert asked(2, four, *mixed)[1] == [whole]
    assert asked(8, Execution(), *mixed)[1] == [{"CPU": 1.0, "GPU": 0.5}]
    assert asked(2, four, (8, 0))[1] == [{"CPU": 4.0}]
    said = (
        "2 workers asks for 4 GPUs and 4 CPUs of one node, but the nodes .* have 2 GPUs and 8 "
        "CPUs, 4 GPUs and 2 CPUs; use fewer devices[.]"
    )
    few = (8, 2), (2, 4)
    with pytest.raises(StoreError, match=said):
        asked(2, four, *few)
    assert asked(2, dataclasses.replace(four, device="cpu"), *few)[1] == [{"CPU": 4.0}]
    with pytest.raises(StoreError, match=r"asks for 16 CPUs, but the largest node .* has 8"):
        asked(1, dataclasses.replace(four, threads=4), *few)

    two = Execution(devices=8, nodes=2)
    assert asked(1, two, (8, 4), (8, 4), (8, 0)) == ("STRICT_SPREAD", [whole, whole])
    assert asked(1, two, (8, 0), (4, 0))[1] == [{"CPU": 4.0}] * 2
    said = (
        "asks for 4 GPUs and 4 CPUs on each of 2 nodes, but the nodes .* have 2 x 0 GPUs and 8 "
        "CPUs, 8 GPUs and 16 CPUs; use fewer devices, or other nodes[.]"
    )
    with pytest.raises(StoreError, match=said):
        asked(1, two, (8, 0), (16, 8), (8, 0))
    with pytest.raises(
        StoreError, match=r"asks for 4 CPUs on each of 2 nodes.* have 2 CPUs, 9 CPUs"
    ):
        asked(1, dataclasses.replace(two, device="cpu"), (9, 8), (2, 8))


@pytest.mark.slow
def test_a_sweep_on_two_devices_through_ray(sweep):
    alone = sweep("alone", [0, 1, 2]).run(in_process=True, quiet=True)
    it = sweep("two", [0, 1, 2])
    run = it.spec.runs[0]
    found = Machine(1, 1, "cpu", devices=2).measure([(run, 2)])
    assert all(0 < seconds < 10 for sizes in found.values() for seconds in sizes.values())
    runs = it.run(workers=1, devices=2, device="cpu", quiet=True)
    assert runs.status.tolist() == ["ok"] * 3 and set(runs.device) == {"2 x cpu x1"}
    losses = [table.set_index("run_id").L.sort_index().tolist() for table in (runs, alone)]
    assert losses[0] == pytest.approx(losses[1], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun(run, tmp_path, nodes):
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={2 // nodes}"]
    if nodes == 1:
        each = [["--standalone"]]
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        at = ["--master-addr=127.0.0.1", f"--master-port={port}", "--nnodes=2"]
        each = [[*at, f"--node-rank={node}"] for node in range(2)]
    train_it = ["-m", "scaling.cli", "train", "--execution.devices", "2"]
    train_it += ["--execution.nodes", str(nodes), "--execution.device", "cpu"]
    train_it += ["--data.corpus", run.data.corpus, "--data.tokenizer", "bytes"]
    train_it += ["--model.n-layer", "1", "--model.d-model", "15", "--model.n-head", "3"]
    train_it += ["--model.n-ctx", "16", "--model.d-ff", "30", "--optim.lr", "0.01"]
    train_it += ["--eval.test-tokens", "1008", "--eval.points", "3", "--eval.noise-parts", "2"]
    train_it += ["--tokens", str(run.tokens), "--batch-tokens", "128", "--optim.ema", "0.9"]
    train_it += ["--folder", str(tmp_path)]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    how["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([*words, *own, *train_it], **how) for own in each]
    try:
        said = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * nodes, said
    assert not any(out for out, _ in said[1:])
    row = json.loads(said[0][0])
    assert row["run_id"] == run.run_id and row["device"] == "2 x cpu x1"
    assert row["L"] == pytest.approx(train(run, execution=ONE).row["L"], **CLOSE)
