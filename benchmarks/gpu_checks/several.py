"""Do the collectives work, sharding, several GPUs, and the death of a process among them?"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from typing import Any

from gpu_checks.bench import Bench, Figures, check, close


@check("one_rank", seconds=60)
def one_rank(bench: Bench) -> Figures:
    """Does a sharded run on one rank have the losses of a plain one, through the collectives?"""
    import torch.distributed as dist

    from scaling.devices.ranks import Ranks

    plain = bench.trainer(bench.run(), 1, bench.execution())
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)
        backend = "cpu:gloo,cuda:nccl" if bench.on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            sharded = bench.trainer(bench.run(), 1, bench.execution(), ranks=Ranks(sharded=True))
            for trainer in (plain, sharded):
                trainer.steps(20)
            sums = [t.stack.loss_sum_k.item() / 20 for t in (sharded, plain)]
        finally:
            dist.destroy_process_group()
    return close("mean losses", sums[:1], sums[1:], 2e-3)


@check("two_ranks", seconds=90)
def two_ranks(bench: Bench) -> Figures:
    """Does a run on two GPUs have the losses of one on a single GPU?"""
    bench.needs_gpus(2)
    run = bench.run()
    two, one = (bench.losses(run, bench.execution(devices=n)) for n in (2, 1))
    return close("losses", two, one, 2e-3)


@check("lost_rank", seconds=90)
def lost_rank(bench: Bench) -> Figures:
    """When a rank dies, does the run end within seconds, although the launch queue is full?"""
    import torch

    from scaling.devices import launch
    from scaling.devices.rank_process import RankProcess
    from scaling.devices.ranks import Ranks

    if bench.on_gpu:
        bench.needs_gpus(2)
    pids: list[int] = []
    steps, killed = 0, 0.0

    class Noted(RankProcess):
        def __init__(self, start: Any) -> None:
            super().__init__(start)
            pids.append(self.process.pid)

    def kill() -> bool:
        nonlocal steps, killed
        steps += 1
        if steps == 3:
            x = torch.ones(1 << 20, device=bench.device)
            killed = time.perf_counter()
            os.kill(pids[0], signal.SIGKILL)
            Ranks(size=2).add(x)  # NCCL does not notice
            for _ in range(5000):
                x.mul_(0.5)
            bench.synchronize()
        return False

    launch.RankProcess = Noted
    try:
        bench.losses(bench.run(), bench.execution(devices=2), should_stop=kill)
    except ChildProcessError as error:
        took = time.perf_counter() - killed
        assert "SIGKILL" in str(error) and took < 15, f"{took:.0f} s: {error}"
    else:
        raise AssertionError("the run ended although a rank had died")
    finally:
        launch.RankProcess = RankProcess
    return {"seconds_until_raised": took}
