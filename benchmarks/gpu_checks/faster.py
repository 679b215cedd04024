"""Do the ways to train faster, CUDA graphs and compilation, have the losses of eager steps?"""

from __future__ import annotations

import warnings
from typing import Any

from gpu_checks.bench import Bench, Figures, check, close, note


def packs_as_graphs(bench: Bench, **how: Any) -> Figures:
    """Compare a pack whose members end one by one with the same pack in eager steps."""
    from scaling.config import override
    from scaling.training.train import train_pack

    changes = [{"seed": k, "tokens": (40 - 10 * k) * 512, "optim.ema": 0.9} for k in range(3)]
    runs = [override(bench.run(), change) for change in changes]
    ours, plain = (
        [result.row["L"] for result in train_pack(runs, execution=bench.execution(**each))]
        for each in ({"cuda_graphs": True, **how}, {})
    )
    return close("losses of packs", ours, plain, 2e-3)


@check("graphs", seconds=60)
def graphs(bench: Bench) -> Figures:
    """Do steps replayed as CUDA graphs have the losses of eager steps: a run, a growing batch, a
    pack whose members end one by one? Do they wait for nothing?"""
    bench.needs_gpus()
    found: Figures = {}
    for name, changes in (
        ("one", {}),
        ("bfloat16", {"precision": "bfloat16"}),
        ("growing", {"optim__batch_warmup_tokens": 4096}),
    ):
        run = bench.run(**changes)
        ours, plain = (
            bench.losses(run, bench.execution(cuda_graphs=graphed)) for graphed in (True, False)
        )
        most = 2e-2 if name == "bfloat16" else 2e-3
        found[name] = close(name, ours, plain, most)["largest_difference"]
        note(found)
    found["packs"] = packs_as_graphs(bench)["largest_difference"]
    # 8192 tokens per step, since torch sorts the tokens of more than 3072 embeddings
    run = bench.run(tokens=200 * 512, eval__points=1)
    trainer = bench.trainer(run, 16, bench.execution(cuda_graphs=True))
    trainer.steps(5)
    with bench.no_waits():
        trainer.steps(20)
    return found


@check("failed_graph", seconds=60, last=True)
def failed_graph(bench: Bench) -> Figures:
    """Does a run go on where its step cannot be recorded, here because it waits for the device?"""
    bench.needs_gpus()
    import torch

    from scaling.training.step import TrainingStep

    plain = bench.losses(bench.run(), bench.execution())
    train = TrainingStep.train

    def waiting(self: Any, stack: Any, inputs: Any) -> None:
        train(self, stack, inputs)
        stack.loss_sum_k.tolist()

    TrainingStep.train = waiting  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            ours = bench.losses(bench.run(), bench.execution(cuda_graphs=True))
    finally:
        TrainingStep.train = train  # type: ignore[method-assign]
    said = [str(one.message) for one in seen if "CUDA graphs" in str(one.message)]
    assert said, "no warning"
    torch.cuda.empty_cache()  # fails if the recording has not ended
    current, default = (
        torch.cuda.current_stream(bench.device),
        torch.cuda.default_stream(bench.device),
    )
    assert current == default, "another stream is current"
    return close("losses", ours, plain, 2e-3) | {"warning": said[0]}


@check("compiled", seconds=120)
def compiled(bench: Bench) -> Figures:
    """Does compiled code have the losses of eager code?"""
    bench.needs_compiler()
    ours, plain = (bench.losses(bench.run(), bench.execution(compile=c)) for c in (True, False))
    return close("losses", ours, plain, 2e-3)


@check("compiled_graphs", seconds=120)
def compiled_graphs(bench: Bench) -> Figures:
    """Does compiled code train as CUDA graphs, too, and wait for nothing without them?"""
    bench.needs_gpus()
    bench.needs_compiler()
    found = packs_as_graphs(bench, compile=True)
    note(found)
    trainer = bench.trainer(bench.run(eval__points=1), 3, bench.execution(compile=True))
    trainer.steps(3)
    with bench.no_waits():
        trainer.steps(3)
    return found
