"""One command for a GPU that this code has not met: is it right, and how fast is it?

    python benchmarks/gpu.py --seconds 420 --out gpu.json [--device cuda] [--tiny] [--check]

It needs PyTorch and NumPy, but neither Ray nor tyro nor an installed `scaling`. Correctness comes
first: losses against the CPU, resumed runs, packs against single runs, every attention kernel,
sharding, CUDA graphs, compiled against eager code, and that the host waits for nothing within a
step. Then speed, large models before small and what needs no compilation before what does: model
FLOP utilisation (matmul FLOPs of scaling.count over the peak of a matrix product on this device, or
over --peak-flops), and packs against a plain loop, eager, as CUDA graphs, and compiled. Random
letters replace a corpus, because neither depends on the text.

Checks run in a process of their own. One that fails, crashes or hangs costs its own result and a
new process for the rest. Each result is written as it comes, so that whatever ends the command
leaves the rest; what the checks print goes to a log beside it, with tracebacks. `scaling doctor
--gpu gpu.json` shows the file. Goals: packs at N <= 1e6 are at least 10 times as fast as the plain
loop, and N = 1e8 reaches a utilisation of 40 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_checks import CHECKS
from gpu_checks.bench import Bench
from gpu_checks.watching import Report, supervise

GOALS = {"gain": 10.0, "mfu": 0.4}

CACHES = {
    "SCALING_CACHE": "scaling",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Folders that the checks write to, within a temporary one: the home may be read-only."""


def command(arguments: argparse.Namespace, text: Path) -> list[str]:
    """Return the command of the process that runs the checks."""
    words = [sys.executable, __file__, "--text", str(text), "--device", arguments.device]
    words += ["--tiny"] * arguments.tiny
    if arguments.peak_flops:
        words += ["--peak-flops", str(arguments.peak_flops)]
    return words


def write_text(path: Path) -> None:
    """Write 2 MB of random letters, always the same."""
    draw = random.Random(0)
    letters = ("".join(draw.choices("abcdefghij klmnop", k=400)) for _ in range(5000))
    path.write_text("\n\n".join(letters))


def limits(names: Sequence[str], device: str) -> Mapping[str, float]:
    """Return the most seconds of each check; a CPU, which compiles for minutes, has no limits."""
    return {name: CHECKS[name].seconds if device != "cpu" else float("inf") for name in names}


def stop(number: int, frame: FrameType | None) -> None:
    """End as after an interrupt from the keyboard: together with the process of the checks."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="output file")
    parser.add_argument(
        "--only", nargs="+", choices=CHECKS, metavar="CHECK", help="only these checks"
    )
    parser.add_argument("--seconds", type=float, default=420.0, help="seconds for everything")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a quick test")
    parser.add_argument("--peak-flops", type=float, help="peak FLOP/s of the device in bfloat16")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--text", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        from gpu_checks import child

        bench = Bench(
            device=arguments.device,
            text=arguments.text,
            tiny=arguments.tiny,
            peak_flops=arguments.peak_flops,
        )
        child.run(arguments.child.split(","), bench)
        return 0
    deadline = time.monotonic() + arguments.seconds
    signal.signal(signal.SIGTERM, stop)
    names = [name for name in CHECKS if name in ("device", *(arguments.only or CHECKS))]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    report = Report(arguments.out, names, GOALS)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for variable, name in CACHES.items():
            os.environ[variable] = str(Path(folder, name))
        text = Path(folder, "random.txt")
        write_text(text)
        log = arguments.out.with_suffix(".log")
        try:
            supervise(
                command(arguments, text), report, limits(names, arguments.device), deadline, log=log
            )
        except KeyboardInterrupt:
            print(f"{arguments.out}: interrupted", file=sys.stderr)
            return 130
    missed = report.missed()
    print(f"{arguments.out}: missed={json.dumps(missed) if missed else 'none'}")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
