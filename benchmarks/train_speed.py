"""Training speed: our loop compared with a plain reference loop, side by side.

The reference is a fresh implementation of the common recipe: a module tree of nn.Linear and
nn.LayerNorm, batches cut row by row from random positions of a memory map, PyTorch's AdamW with two
parameter groups, clip_grad_norm_, and a loss that is read every ten steps. Both train the same
shape on the same tokens, the reference in its own process. Short turns of both alternate, so that
noise on the machine affects both alike.

    python benchmarks/train_speed.py [--check] [--batch-tokens 4096 1024] [--turns 7]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scaling import size
from scaling.config import ModelConfig, RunConfig, from_dict
from scaling.data import corpus
from scaling.execution import Execution
from scaling.training.trainer import Trainer

SHAPES = {
    "3e3": ModelConfig(n_layer=1, d_model=16, n_head=1),
    "3e4": ModelConfig(n_layer=3, d_model=32, n_head=2),
    "3e5": ModelConfig(n_layer=6, d_model=64, n_head=2),
    "3e6": ModelConfig(n_layer=7, d_model=192, n_head=6),
}


class Block(nn.Module):
    def __init__(self, m: ModelConfig) -> None:
        super().__init__()
        d = m.d_model
        self.n_head = m.n_head
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.projection = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(d, dim=2)
        q, k, v = (y.view(b, t, self.n_head, -1).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).contiguous().view(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Reference(nn.Module):
    """A conventional GPT-2-style module tree with tied embeddings."""

    def __init__(self, m: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, m.d_model)
        self.positions = nn.Embedding(m.n_ctx, m.d_model)
        self.blocks = nn.ModuleList(Block(m) for _ in range(m.n_layer))
        self.norm = nn.LayerNorm(m.d_model)
        self.head = nn.Linear(m.d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, x, y):
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        logits = self.head(self.norm(h))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))


def reference_steps(run: RunConfig, files: corpus.TokenFiles):
    """A generator that trains n steps of the reference loop for each `send(n)`."""
    torch.manual_seed(run.seed)
    model = Reference(run.model, files.vocab_size)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    data = np.memmap(files.train, dtype=np.uint16, mode="r")
    ctx, rows = run.model.n_ctx, run.batch_tokens // run.model.n_ctx
    step = 0
    n = yield
    while True:
        for _ in range(n):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 1e5))
            ix = torch.randint(len(data) - ctx, (rows,))
            x = torch.stack([torch.from_numpy(data[i : i + ctx].astype(np.int64)) for i in ix])
            y = torch.stack(
                [torch.from_numpy(data[i + 1 : i + 1 + ctx].astype(np.int64)) for i in ix]
            )
            loss = model(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 10 == 0:
                loss.item()
            step += 1
        n = yield


def reference_apart(run: RunConfig):
    """Run :func:`reference_steps` in its own process with one thread.

    A separate process is needed because our loop changes how a process keeps freed memory, from
    which a plain loop must not benefit.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=_serve, args=(run, theirs), daemon=True)
    child.start()
    theirs.close()
    n = yield
    while True:
        ours.send(n)
        ours.recv()
        n = yield


def _serve(run: RunConfig, pipe: Connection) -> None:
    torch.set_num_threads(1)
    steps = reference_steps(run, corpus.prepare(run.data))
    next(steps)
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(steps.send(pipe.recv()))


def ratio(name: str, batch_tokens: int, turns: int, seconds: float) -> tuple[float, ...]:
    """(ours, reference) tokens/s, the median over turns of their ratio, and its standard error."""
    run = from_dict({"batch_tokens": batch_tokens, "tokens": 10**9, "optim.lr": 1e-3})
    run = dataclasses.replace(run, model=SHAPES[name])
    trainer = Trainer([run], Execution(threads=1, device="cpu"), [None])
    theirs = reference_apart(run)
    next(theirs)
    trainer.steps(2)
    theirs.send(2)
    start = time.perf_counter()
    theirs.send(2)
    n = max(2, round(seconds / ((time.perf_counter() - start) / 2)))
    ours_s, theirs_s = [], []
    for turn in range(turns):
        pair = [(ours_s, trainer.steps), (theirs_s, theirs.send)]
        for seconds_of, go in pair if turn % 2 else reversed(pair):
            start = time.perf_counter()
            go(n)
            seconds_of.append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(ours_s, theirs_s, strict=True)]
    tokens = n * batch_tokens
    middle = statistics.median(ratios)
    spread = 1.4826 * statistics.median(abs(r - middle) for r in ratios)
    error = 1.25 * spread / math.sqrt(turns)  # standard error of a median
    return tokens / min(ours_s), tokens / min(theirs_s), middle, error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 if ours is slower by more than two standard errors",
    )
    parser.add_argument(
        "--batch-tokens", type=int, nargs="+", default=[4096, 1024], help="tokens per step"
    )
    parser.add_argument("--turns", type=int, default=7, help="alternating turns")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds per turn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures, slower = {}, False
    print("one thread each; bpe-1024, context 128; median ratio over alternating turns")
    print(f"{'N':>9} {'B':>6} {'ours tok/s':>12} {'reference':>12} {'ratio':>7} {'+-':>6}")
    for name, shape in SHAPES.items():
        for batch_tokens in arguments.batch_tokens:
            ours, theirs, r, error = ratio(name, batch_tokens, arguments.turns, arguments.seconds)
            N = size.parameters(shape, 1024).N
            print(
                f"{N:>9,} {batch_tokens:>6} {ours:>12,.0f} {theirs:>12,.0f} {r:>7.3f} {error:>6.3f}"
            )
            figures[f"ratio_N{name}_B{batch_tokens}"] = round(r, 3)
            slower |= r + 2 * error < 1
    slowest = min(figures.values())
    print(" ".join(f"{k}={v}" for k, v in figures.items()), f"slowest_ratio={slowest}")
    return int(arguments.check and slower)


if __name__ == "__main__":
    raise SystemExit(main())
