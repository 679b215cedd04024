"""Learning-rate transfer: is the best learning rate of a narrow model the best for a wide one?

Models of up to 16 times the width, with 16 heads instead of one, are trained at learning rates a
factor of 2 apart, in the standard parametrisation and in muP (Yang et al. 2022, arXiv 2203.03466,
Fig. 1). The two coincide at the width --base, except for attention. The optimum is interpolated by
a parabola. It may move by at most a factor of 2 under muP, and must move by more under the standard
parametrisation.

    python benchmarks/mup_transfer.py [--check] [--figure mup.png] [--widths 16 32 64 128 256]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

HEAD = 16  # channels per head

Losses = dict[tuple[str, int], list[float]]
"""{(parametrisation, width): loss at each learning rate}; inf if it diverged."""


def run_of(parametrisation: str, width: int, lr: float, base: int, tokens: int, seed: int):
    from scaling.config import from_dict

    model = {"n_layer": 2, "d_model": width, "n_head": max(1, width // HEAD), "n_ctx": 64}
    if parametrisation == "muP":
        model["mup_base_width"] = base
    return from_dict(
        {"model": model, "tokens": tokens, "batch_tokens": 1024, "seed": seed}
        | {"data.tokenizer": "bytes"}
        | {
            "optim": {"lr": lr, "warmup_fraction": 0.1},
            "eval": {"points": 1, "test_tokens": 32_768},
        }
    )


def losses(task: tuple[str, int, Sequence[float], int, int, Sequence[int]]) -> list[float]:
    """Mean test loss over seeds at each learning rate, trained as one pack on one thread."""
    from scaling.execution import Execution
    from scaling.training.train import train_pack

    parametrisation, width, rates, base, tokens, seeds = task
    runs = [run_of(parametrisation, width, lr, base, tokens, s) for lr in rates for s in seeds]
    results = train_pack(runs, slots=2, execution=Execution(threads=1, device="cpu"))
    found = [r.row["L"] if r.status == "ok" else math.inf for r in results]
    return np.mean(np.reshape(found, (len(rates), -1)), axis=1).tolist()


def measure(
    widths: Sequence[int],
    rates: Sequence[float],
    base: int,
    tokens: int,
    seeds: int,
    workers: int,
) -> Losses:
    tasks = [
        (parametrisation, width, (lr,), base, tokens, range(seeds))
        for width in sorted(widths, reverse=True)  # most expensive first
        for parametrisation in ("standard", "muP")
        for lr in rates
    ]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(losses, tasks))
    table: Losses = {}
    for (parametrisation, width, *_), (loss,) in zip(tasks, found, strict=True):
        table.setdefault((parametrisation, width), []).append(loss)
    return table


def optimum(rates: Sequence[float], loss: Sequence[float]) -> float:
    """log2 of the best learning rate: the vertex of the parabola through the best grid point and
    its neighbours, or the grid point itself if a neighbour is missing or diverged."""
    x, y = np.log2(rates), np.asarray(loss)
    i = int(np.argmin(y))
    if 0 < i < len(y) - 1 and np.isfinite(y[i - 1 : i + 2]).all():
        left, middle, right = y[i - 1 : i + 2]
        return float(x[i] + (left - right) / (2 * (left - 2 * middle + right)))
    return float(x[i])


def draw(path: Path, widths: Sequence[int], rates: Sequence[float], table: Losses) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(widths)))
    for ax, parametrisation in zip(axes, ("standard", "muP"), strict=True):
        for colour, width in zip(colours, widths, strict=True):
            loss = np.asarray(table[parametrisation, width])
            ax.plot(rates, loss, "o-", color=colour, markersize=3, label=str(width))
            i = int(np.argmin(loss))
            ax.plot(rates[i], loss[i], "*", color=colour, markersize=10)
        ax.set(xscale="log", xlabel="learning rate", title=parametrisation)
    finite = np.concatenate(list(table.values()))
    finite = finite[np.isfinite(finite)]
    axes[0].set(ylabel="test loss [nats/token]", ylim=(finite.min() - 0.1, finite.min() + 2))
    axes[1].legend(title="d_model", fontsize=7)
    figure.savefig(path, dpi=200)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="values of d_model"
    )
    parser.add_argument("--base", type=int, help="base width of muP (default: the widest)")
    parser.add_argument("--tokens", type=float, default=196_608, help="training tokens per run")
    parser.add_argument(
        "--powers",
        type=int,
        nargs=2,
        default=[-11, -5],
        help="first and last power of 2 of the rates",
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds per learning rate")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--figure", type=Path, help="file for a figure")
    a = parser.parse_args()
    widths = sorted(a.widths)
    rates = [2.0**p for p in range(a.powers[0], a.powers[1] + 1)]
    start = time.perf_counter()
    table = measure(widths, rates, a.base or max(widths), int(a.tokens), a.seeds, a.workers)
    seconds = time.perf_counter() - start
    print(
        f"{'':<10}{'width':>6} {'best lr':>8}  loss at each lr = 2^{a.powers[0]}..2^{a.powers[1]}"
    )
    moved, grid, edge = {}, {}, False
    for parametrisation in ("standard", "muP"):
        best, at = [], []
        for width in widths:
            loss = table[parametrisation, width]
            best.append(optimum(rates, loss))
            at.append(int(np.argmin(loss)))
            edge |= at[-1] in (0, len(rates) - 1)
            said = " ".join(f"{x:6.3f}" for x in loss)
            print(f"{parametrisation:<10}{width:>6} {2 ** best[-1]:>8.4f}  {said}")
        moved[parametrisation] = max(best) - min(best)
        grid[parametrisation] = max(at) - min(at)
    if edge:
        print("note: an optimum is at the edge of the grid; widen the grid with --powers.")
    if a.figure:
        draw(a.figure, widths, rates, table)
    reached = moved["muP"] <= 1 and moved["standard"] > moved["muP"]
    print(
        f"grid_steps_mup={grid['muP']} grid_steps_standard={grid['standard']} "
        f"octaves_mup={moved['muP']:.2f} octaves_standard={moved['standard']:.2f} "
        f"widths={widths[-1] / widths[0]:g}x seconds={seconds:.0f} reached={reached}"
    )
    return int(a.check and not reached)


if __name__ == "__main__":
    raise SystemExit(main())
