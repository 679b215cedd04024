"""Train a small GPT on one text. Everything is in this file.

    python nano.py --data shakespeare.txt --depth 4 --width 128 --max-iters 2000 --out out

--data is a text, whose bytes are the tokens and whose last tenth is the validation text, or a
folder with token files train.bin and val.bin (uint16). The validation loss is measured on
consecutive rows of block_size + 1 tokens.
"""

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, eps=1e-5)


class Attention(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.heads, self.rope = o.heads, o.position == "rope"
        self.qkv = nn.Linear(o.width, 3 * o.width, bias=o.bias)
        self.out = nn.Linear(o.width, o.width, bias=o.bias)
        if self.rope:
            channels = o.width // o.heads
            rate = 10_000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
            angle = torch.arange(o.block_size, dtype=torch.float64)[:, None] * rate
            self.register_buffer("cos", angle.cos().float(), persistent=False)
            self.register_buffer("sin", angle.sin().float(), persistent=False)

    def rotate(self, x):
        t = x.shape[2]
        cos, sin = self.cos[:t], self.sin[:t]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            part.view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        if self.rope:
            q, k = self.rotate(q), self.rotate(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        norm = RMSNorm if o.norm == "rmsnorm" else nn.LayerNorm
        self.norm1, self.attention = norm(o.width, bias=o.bias), Attention(o)
        self.norm2 = norm(o.width, bias=o.bias)
        self.up = nn.Linear(o.width, 4 * o.width, bias=o.bias)
        self.down = nn.Linear(4 * o.width, o.width, bias=o.bias)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, o):
        super().__init__()
        norm = RMSNorm if o.norm == "rmsnorm" else nn.LayerNorm
        self.embedding = nn.Embedding(o.vocab_size, o.width)
        self.positions = nn.Embedding(o.block_size, o.width) if o.position == "learned" else None
        self.blocks = nn.ModuleList(Block(o) for _ in range(o.depth))
        self.norm = norm(o.width, bias=o.bias)
        self.head = nn.Linear(o.width, o.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * o.depth) if residual else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if o.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())

    def size(self):
        """Parameters without embeddings and output layer."""
        return sum(p.numel() for part in (self.blocks, self.norm) for p in part.parameters())

    def optimizer(self, o):
        """AdamW: decay for the matrices of the blocks, a learning rate of its own for the rest."""
        matrices = [p for p in self.blocks.parameters() if p.dim() > 1]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters() if id(p) not in chosen]
        groups = [
            {"params": matrices, "weight_decay": o.weight_decay, "peak": o.lr},
            {"params": rest, "weight_decay": 0.0, "peak": o.lr_embedding or o.lr},
        ]
        return torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)


def lr_factor(step, o):
    """Learning rate of a step relative to the peak."""
    if step < o.warmup_iters:
        return (step + 1) / o.warmup_iters
    if o.schedule == "wsd":
        return min(1.0, (o.max_iters - step) / max(1, round(o.cooldown * o.max_iters)))
    done = (step - o.warmup_iters) / max(1, o.max_iters - 1 - o.warmup_iters)
    left = 1 - done if o.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return o.final_lr + (1 - o.final_lr) * left


def read_tokens(o):
    """Return the tokens for training and those for validation."""
    data = Path(o.data)
    if data.is_dir():
        return (np.fromfile(data / f"{side}.bin", dtype=np.uint16) for side in ("train", "val"))
    tokens = np.frombuffer(data.read_bytes(), dtype=np.uint8)
    cut = len(tokens) * 9 // 10
    return tokens[:cut], tokens[cut:]


class Batches:
    """Windows of the training tokens in a new random order every epoch."""

    def __init__(self, tokens, o):
        self.tokens, self.o = tokens, o
        self.windows = (len(tokens) - 1) // o.block_size
        self.epoch, self.order = -1, None

    def __call__(self, step):
        rows = []
        for i in range(step * self.o.batch_size, (step + 1) * self.o.batch_size):
            epoch, place = divmod(i, self.windows)
            if epoch != self.epoch:
                shuffle = np.random.default_rng([self.o.seed, epoch])
                self.epoch, self.order = epoch, shuffle.permutation(self.windows)
            start = self.order[place] * self.o.block_size
            rows.append(self.tokens[start : start + self.o.block_size + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64)).to(self.o.device)


def validation(tokens, o):
    """Return rows of block_size + 1 validation tokens."""
    rows = min(len(tokens) // (o.block_size + 1), -(-o.eval_tokens // o.block_size))
    used = tokens[: rows * (o.block_size + 1)].astype(np.int64)
    return torch.from_numpy(used.reshape(rows, -1)).to(o.device)


@torch.no_grad()
def loss_on(model, rows):
    total = sum(model(r[:, :-1], r[:, 1:]).item() * len(r) for r in rows.split(64))
    return total / len(rows)


def save(path, **state):
    """Write a checkpoint; an interruption leaves the old one."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def train(o):
    torch.manual_seed(o.seed)
    model = GPT(o).to(o.device)
    if o.count_only:
        print(f"parameters: {model.size()}")
        return
    optimizer, first, losses = model.optimizer(o), 0, []
    train_tokens, val_tokens = read_tokens(o)
    batches, held_out = Batches(train_tokens, o), validation(val_tokens, o)
    checkpoint = Path(o.out) / "ckpt.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if o.resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=o.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"resuming from step {first}", flush=True)
    print(f"number of parameters: {model.size() / 1e6:.4f}M without embeddings", flush=True)
    for step in range(first, o.max_iters):
        factor = lr_factor(step, o)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        rows = batches(step)
        loss = model(rows[:, :-1], rows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), o.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            sys.exit(f"loss is {losses[-1]} at step {step + 1}")
        done = step + 1
        if done % o.eval_interval == 0 or done == o.max_iters:
            train_loss, losses = sum(losses) / len(losses), []
            val_loss = loss_on(model, held_out)
            print(
                f"step {done}: train loss {train_loss:.4f}, val loss {val_loss:.6f}, "
                f"lr {o.lr * factor:.3e}",
                flush=True,
            )
            save(checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), step=done)


def options(words=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", default="input.txt", help="text, or folder of train.bin and val.bin")
    p.add_argument("--vocab-size", type=int, default=256)
    p.add_argument("--depth", type=int, default=2)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--heads", type=int, default=2)
    p.add_argument("--block-size", type=int, default=128)
    p.add_argument("--position", choices=("learned", "rope"), default="rope")
    p.add_argument("--norm", choices=("layernorm", "rmsnorm"), default="layernorm")
    p.add_argument("--bias", action="store_true", help="biases in linear layers and norms")
    p.add_argument("--tied", action="store_true", help="output layer is the embedding")
    p.add_argument("--batch-size", type=int, default=8, help="sequences per iteration")
    p.add_argument("--max-iters", type=int, default=1000)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--lr-embedding", type=float, help="for all but the matrices of the blocks")
    p.add_argument("--schedule", choices=("cosine", "linear", "wsd"), default="cosine")
    p.add_argument("--warmup-iters", type=int, default=20)
    p.add_argument("--final-lr", type=float, default=0.1, help="fraction of the peak")
    p.add_argument("--cooldown", type=float, default=0.2, help="last fraction of a wsd run")
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--grad-clip", type=float, default=1.0)
    p.add_argument("--eval-interval", type=int, default=200)
    p.add_argument("--eval-tokens", type=int, default=65_536)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", default="out", help="folder of the checkpoint")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint, if any")
    p.add_argument("--count-only", action="store_true", help="print the size and stop")
    return p.parse_args(words)


if __name__ == "__main__":
    train(options())
