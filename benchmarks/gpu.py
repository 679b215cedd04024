"""Speed of packs and of a large run on a GPU. Requires PyTorch and `scaling`, but not Ray or tyro.

Packs of small models are compared with the same runs one after another (tokens/s, our own loop); a
single run and the best pack are also compiled. A large compiled run in bfloat16 gives the model
FLOP utilisation: matmul FLOPs (scaling.count) over the peak of a matrix product on this device, or
over --peak-flops. Random tokens replace a corpus, because speed does not depend on them. The
results are written to a JSON file.

    python benchmarks/gpu.py [--check] [--device cuda] [--out gpu.json] [--tiny]

Goals: packs at N <= 1e6 are at least 10 times as fast as sequential runs, and N = 1e8 reaches a
utilisation of 40 %.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

SHAPES = {
    "3e3": {"n_layer": 1, "d_model": 16, "n_head": 1},
    "3e5": {"n_layer": 6, "d_model": 64, "n_head": 2},
    "1e6": {"n_layer": 5, "d_model": 128, "n_head": 4},
}
LARGE = {"n_layer": 14, "d_model": 768, "n_head": 12, "n_ctx": 1024}


def step_seconds(values: dict, K: int, device: str, seconds: float, **execution) -> float:
    """Seconds per step of K runs: the least of five tries, each synchronised with the device."""
    from scaling.config import from_dict, override
    from scaling.execution import Execution
    from scaling.training.trainer import Trainer

    run = from_dict(values)
    runs = [override(run, {"seed": k}) for k in range(K)]
    trainer = Trainer(runs, Execution(device=device, **execution), [None] * K)
    trainer.steps(3)
    trainer.stack.loss_sum_k.tolist()
    tries, n = [], 1
    for _ in range(5):
        start = time.perf_counter()
        trainer.steps(n)
        trainer.stack.loss_sum_k.tolist()
        tries.append((time.perf_counter() - start) / n)
        n = max(1, round(seconds / tries[-1]))
    return min(tries)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="output file")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a quick test")
    parser.add_argument("--peak-flops", type=float, help="peak FLOP/s of the device in bfloat16")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCALING_CACHE"] = folder
        text = Path(folder, "random.txt")
        generator = torch.Generator().manual_seed(0)
        letters = torch.randint(
            97, 123, (200 if arguments.tiny else 20_000, 100), generator=generator
        )
        text.write_text("\n\n".join("".join(map(chr, row)) for row in letters.tolist()))
        figures = measure(arguments, str(text))
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    gains = [v for k, v in figures.items() if k.startswith("gain_")]
    missed = ["packs"] * (min(gains) < 10) + ["mfu"] * (figures["mfu"] < 0.4)
    said = " ".join(f"{k}={v}" for k, v in figures.items() if isinstance(v, int | float))
    print(said, f"missed={','.join(missed) or 'none'}")
    return int(arguments.check and bool(missed))


def measure(arguments: argparse.Namespace, text: str) -> dict:
    from scaling import size
    from scaling.config import ModelConfig
    from scaling.devices.device import device_of
    from scaling.devices.hardware import peak_flops

    device = device_of(arguments.device)
    cuda = device.type == "cuda"
    seconds = 0.05 if arguments.tiny else 1.0
    data = {"data": {"corpus": text, "tokenizer": "bytes"}, "eval.points": 1}
    figures: dict = {"torch": torch.__version__}
    figures["device"] = torch.cuda.get_device_name(device) if cuda else "cpu"
    for name, shape in list(SHAPES.items())[: 1 if arguments.tiny else None]:
        values = data | {"model": shape, "batch_tokens": 1024, "tokens": 10**9}
        values |= {"eval.test_tokens": 128}
        alone = step_seconds(values, 1, arguments.device, seconds)
        best, best_K = alone, 1
        for K in (2, 4) if arguments.tiny else (4, 16, 64):
            each = step_seconds(values, K, arguments.device, seconds) / K
            if each < best:
                best, best_K = each, K
        figures |= {f"gain_{name}": round(alone / best, 2), f"K_{name}": best_K}
        print(
            f"N={name}: {1024 / alone:,.0f} tokens/s alone, "
            f"{1024 / best:,.0f} in a pack of {best_K}"
        )
        for K in sorted({1, best_K}):
            each = step_seconds(values, K, arguments.device, seconds, compile=True) / K
            figures[f"compiled_{name}_{K}"] = round(alone / each, 2)
            print(f"N={name}: {1024 / each:,.0f} tokens/s compiled, in a pack of {K}")
    shape = SHAPES["3e3"] if arguments.tiny else LARGE
    model = ModelConfig(**shape)
    B = 256 if arguments.tiny else 32 * model.n_ctx
    values = data | {"model": shape, "batch_tokens": B, "tokens": 10**4 * B}
    values |= {"eval.test_tokens": model.n_ctx, "precision": "bfloat16"}
    took = step_seconds(values, 1, arguments.device, seconds, compile=not arguments.tiny)
    peak = arguments.peak_flops or peak_flops(device, torch.bfloat16, torch.get_num_threads())
    flops = size.flops_per_token(model, 256, "matmul") * B / took
    figures |= {"N": size.parameters(model, 256).N, "tokens_per_second": round(B / took)}
    figures |= {"peak_flops": peak, "mfu": round(flops / peak, 3)}
    print(f"N={figures['N']:,}: {B / took:,.0f} tokens/s, {100 * flops / peak:.1f} % of {peak:.3g}")
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
