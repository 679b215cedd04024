"""One command for a GPU that this code has not met: is it right, and how fast is it?

    python benchmarks/gpu.py --seconds 420 --out gpu.json [--device cuda] [--tiny] [--check]

It needs PyTorch and NumPy, but neither Ray nor tyro nor an installed `scaling`. Correctness comes
first: losses against the CPU, resumed runs, packs against single runs, compiled against eager code,
every attention kernel, sharding, and that the host waits for nothing within a step. Then speed,
large models before small: model FLOP utilisation (matmul FLOPs of scaling.count over the peak of a
matrix product on this device, or over --peak-flops), and packs against a plain loop, eager,
compiled and as CUDA graphs. Random letters replace a corpus, because neither depends on the text.

Each check runs guarded and each result is written as it comes, so that whatever ends the run leaves
the rest. `scaling doctor --gpu gpu.json` shows the file. Goals: packs at N <= 1e6 are at least 10
times as fast as the plain loop, and N = 1e8 reaches a utilisation of 40 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_checks import CHECKS
from gpu_checks.bench import Bench, Figures

GOAL_GAIN, GOAL_MFU = 10.0, 0.4


class Report:
    """The file of results, written after every one."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.left = path, names
        self.checks: dict[str, Figures] = {}
        self.finished = False

    def add(self, name: str, found: Figures) -> None:
        self.checks[name] = found
        self.write()

    def write(self) -> None:
        device = self.checks.get("device", {})
        values = {"device": device.get("name"), "torch": device.get("torch")}
        values |= {"goals": {"gain": GOAL_GAIN, "mfu": GOAL_MFU}}
        values |= {"checks": self.checks, "finished": self.finished}
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(values, indent=2) + "\n")
        os.replace(new, self.path)

    def missed(self) -> list[str]:
        """Goals that were measured and not reached, and checks that failed."""
        failed = [name for name, found in self.checks.items() if found["status"] == "failed"]
        for name, found in self.checks.items():
            if found.get("gain", GOAL_GAIN) < GOAL_GAIN:
                failed.append(f"{name}: {found['gain']} times the plain loop")
        best = max((found.get("mfu", 0.0) for found in self.checks.values()), default=0.0)
        return failed + [f"mfu {best}"] * (0 < best < GOAL_MFU)


def supervise(arguments: argparse.Namespace, text: str) -> Report:
    """Run the checks in a child process; start another one where it dies or hangs."""
    report = Report(arguments.out, list(CHECKS))
    deadline = time.monotonic() + arguments.seconds
    while report.left and time.monotonic() < deadline:
        command = [sys.executable, __file__, "--child", ",".join(report.left), "--text", text]
        command += ["--device", arguments.device, "--seconds", str(arguments.seconds)]
        command += ["--tiny"] * arguments.tiny
        if arguments.peak_flops:
            command += ["--peak-flops", str(arguments.peak_flops)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            follow(process, report, deadline)
        finally:
            process.kill()
            process.wait()
    for name in report.left:
        report.checks.setdefault(name, {"status": "skipped", "why": "no time left"})
    report.finished = True
    report.write()
    return report


def follow(process: subprocess.Popen, report: Report, deadline: float) -> None:
    """Write down what the child prints, until it ends or the time is over."""
    running, so_far = "", {}
    assert process.stdout is not None
    for line in lines(process.stdout.fileno(), deadline):
        answer = json.loads(line)
        if "begins" in answer:
            running, so_far = answer["begins"], {}
        elif "so far" in answer:
            so_far = answer["so far"]
            report.add(running, {"status": "running", **so_far})
        else:
            report.left.remove(answer["ends"])
            report.add(answer["ends"], answer["found"])
            print(f"{answer['ends']:<16} {json.dumps(answer['found'])}", flush=True)
            running = ""
    ended = process.poll() is not None or time.monotonic() < deadline
    if running:
        how = {"status": "failed", "error": "its process ended"}
        if not ended:
            how = {"status": "skipped", "why": "it did not end in time"}
        report.left.remove(running)
        report.add(running, so_far | how)
    elif ended and process.wait() not in (0, 3):
        report.left.clear()  # it did not even begin


def lines(file: int, deadline: float) -> Iterator[bytes]:
    """Lines of a pipe until it closes or the time is over."""
    rest = b""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([file], [], [], max(0.0, deadline - time.monotonic()))
        read = os.read(file, 1 << 16) if ready else b""
        if not read:
            return
        *whole, rest = (rest + read).split(b"\n")
        yield from whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="output file")
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
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCALING_CACHE"] = folder
        text = Path(folder, "random.txt")
        words = 100 if arguments.tiny else 5000
        letters = ("".join(draw.choices("abcdefghij klmnop", k=400)) for _ in range(words))
        text.write_text("\n\n".join(letters))
        report = supervise(arguments, str(text))
    missed = report.missed()
    print(f"{arguments.out}: missed={', '.join(missed) or 'none'}")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
