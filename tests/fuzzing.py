"""The cases of tests/test_fuzz.py: a command line on a damaged copy of a good results folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from scaling import cli
from sweeps import Sweep
from sweeps.spec import Spec
from sweeps.store import Store

SPEC = """\
name = "sweep"
description = "tiny"
[base]
data.corpus = "corpus.txt"
data.tokenizer = "bytes"
model.n_layer = 1
model.n_head = 1
model.n_ctx = 8
optim.lr = "0.05 N^-0.25"
batch_tokens = 16
eval.test_tokens = 128
eval.points = 3
[axes]
model.d_model = [4, 8, 16]
tokens = [32, 64, 128, 256]
"""
RUNS = 12

# ------------------------------------------------------------------ one example


@dataclass(frozen=True)
class Case:
    """A command line and the files that it finds.

    In every text, @OUT stands for a folder of the user that nothing may touch, and @ID0 to @ID11
    stand for the ids of the runs.
    """

    words: tuple[str, ...]
    damage: tuple[tuple[Any, ...], ...] = ()
    """Damage to a good results folder: names of functions below, with their arguments."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Other files in the current folder."""


class TooLong(BaseException):
    """Raised at a time limit; a BaseException, so that no handler under test catches it."""


class World:
    """A good results folder, and a check that damages and uses copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.good = folder / "good"
        self.good.mkdir()
        (self.good / "spec.toml").write_text(SPEC)
        words = random.Random(0).choices(["the", "law", "of", "a", "large", "loss", "is\n"], k=6000)
        (self.good / "corpus.txt").write_text(" ".join(words))
        with contextlib.chdir(self.good):
            Sweep.from_toml("spec.toml").run(in_process=True, quiet=True, packs=False)
            self.ids = [run.run_id for run in Spec.from_toml("spec.toml").runs]
            self._tidy(Store("results/sweep"))
        self.results = self.good / "results/sweep"

    def _tidy(self, store: Store) -> None:
        """Replace the results by those of a law, equal on all machines; two runs are unfinished."""
        for name in ("runs.csv", "curves.parquet", "tests.parquet"):
            (store.folder / name).unlink()
        for number, run_id in enumerate(self.ids):
            folder = store.run_folder(run_id)
            values = json.loads((folder / "result.json").read_bytes())
            row, L = values["row"], 0.0
            for point in values["curve"]:
                point["L"] = L = 1.5 + 20 / row["N"] ** 0.4 + 9 / point["D"] ** 0.5
                point["L_train"] = L * 1.01
            row |= {"L": L, "seconds": 1.5, "tokens_per_second": 1e3, "step_seconds": 0.1}
            row |= {"mfu": 0.1, "peak_flops": 1e9, "memory": 1 << 20}
            if number in (8, 9):
                row |= {"status": ("diverged", "failed")[number - 8], "L": None, "error": "nan"}
            (folder / "result.json").write_text(json.dumps(values))
            (folder / "output.log").write_text("it printed this\n")
            (folder / "attempts.jsonl").write_text('{"event": "start", "time": "2026-01-01"}\n')
        for run_id in self.ids[10:]:
            folder = store.run_folder(run_id)
            (folder / "result.json").unlink()
            (folder / "checkpoint.pt").write_bytes(b"no checkpoint")
            store.report_progress(run_id, {"step": 1, "steps": 2, "D": 16, "L": 5.0})
        for name in (f"rungs/0a/{self.ids[0]}.json", "rounds/0001.json"):
            path = store.folder / name
            path.parent.mkdir(parents=True)
            path.write_text('{"format": 1, "passed": [[1, 5.0, true]]}')
        store.merge()

    def fill(self, text: Any) -> Any:
        """Replace @OUT and @ID0 to @ID11 in a text of a case."""
        if isinstance(text, str):
            for number in reversed(range(RUNS)):
                text = text.replace(f"@ID{number}", self.ids[number])
            return text.replace("@OUT", str(self.out))
        return text

    def check(self, case: Case) -> None:
        """Run a case. If it fails, raise AssertionError and keep its folder."""
        self.number += 1
        self.root = self.folder / str(self.number)
        self.out, here = self.root / "out", self.root / "here"
        (self.out / "folder").mkdir(parents=True)
        here.mkdir()
        for path in (self.out / "keep.txt", self.out / "folder/result.json", here / "notes.txt"):
            path.write_text("mine\n")
        for folder in (here, self.out):
            for name in ("evil.py", "statistics.py"):
                said = f"open({str(self.root / 'ran')!r}, 'a').write(__file__ + '\\n')\n"
                (folder / name).write_text(said)
        shutil.copytree(self.results, here / "results/sweep")
        for name in ("corpus.txt", "spec.toml"):
            shutil.copy(self.good / name, here / name)
        for name, content in case.files.items():
            data = self.fill(content)
            data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
            (here / name).write_bytes(data)
        for name, *arguments in case.damage:
            with contextlib.suppress(Exception):  # an earlier one may have removed its file
                DAMAGE[name](here / "results/sweep", *map(self.fill, arguments))
        results = self._results(here)
        before = self._listing(here)
        code, out, err = self._call(here, [self.fill(word) for word in case.words])
        try:
            self._judge(case, code, out, err)
            after = self._listing(here)
            changed = [k for k in before | after if before.get(k) != after.get(k)]
            assert not changed, f"changed outside the results folder: {changed}"
            lost = [path for path, data in results.items() if not _holds(path, data)]
            assert not lost, f"lost: {lost}"
        except AssertionError as error:
            error.add_note(f"in {self.root}\nstdout: {out[-2000:]}\nstderr: {err[-4000:]}")
            raise
        shutil.rmtree(self.root, ignore_errors=True)

    def _results(self, here: Path) -> dict[Path, bytes]:
        """Results that the damage left intact."""
        found = {}
        for run_id in self.ids:
            path = f"runs/{run_id}/result.json"
            data = (self.results / path).read_bytes() if (self.results / path).exists() else None
            if data and _holds(here / "results/sweep" / path, data):
                found[here / "results/sweep" / path] = data
        return found

    def _listing(self, here: Path) -> dict[str, Any]:
        """Type, mode, time and content of all files of the user outside the results."""
        found: dict[str, Any] = {}
        for top in (self.out, here):
            for folder, folders, files in os.walk(top):
                if Path(folder) == here:
                    folders.remove("results")
                for path in [Path(folder, name) for name in (*folders, *files)]:
                    if path.parent == here and path.name.startswith("new"):  # a target of --out
                        continue
                    seen = path.lstat()
                    data = path.read_bytes() if stat.S_ISREG(seen.st_mode) else None
                    found[str(path)] = (seen.st_mode, seen.st_mtime_ns, data)
        return found

    def _call(self, here: Path, words: list[str]) -> tuple[Any, str, str]:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.TextIOWrapper(
            io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        pages = words[0] in ("summary", "report", "figure")
        code: Any = 0
        with (
            contextlib.chdir(here),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            limits(60 if pages else 15, 3 << 30),
        ):
            warnings.resetwarnings()
            for kind in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", kind)
            try:
                cli.main(words)
            except SystemExit as end:
                code = end.code
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                code = "".join(traceback.format_exception(error)[-8:])
        texts = (
            pipe.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]
            for pipe in (out, err)
        )
        return (code or 0, *texts)

    def _judge(self, case: Case, code: Any, out: str, err: str) -> None:
        command = case.words[0]
        assert isinstance(code, int), f"raised: {code}"
        assert code in ((0, 1, 2, 3) if command == "sweep" else (0, 2, 3)), f"exit code {code}"
        assert "Traceback" not in out + err, "a traceback"
        assert "out of memory" not in err, "out of memory"
        lines = [line for line in err.split("\n")[:-1] if not line.startswith("scaling: note: ")]
        if code:
            assert len(lines) == 1 and lines[0].startswith("scaling: "), (
                f"not a single line: {lines}"
            )
        if command not in ("status", "watch", "logs", "cancel", "clean", "export", "sweep"):
            number = re.search(r"(?i)(?<![\w'\"./-])nan(?![\w'\"./-])|= ?-?inf\b|\[inf", out)
            assert number is None, (
                f"not a finite number: {out[max(0, number.start() - 60) : number.end()]}"
            )
        if "--json" in case.words and "--latex" not in case.words and code == 0:
            assert not re.search(r"\b(NaN|Infinity)\b", out), "invalid JSON"
            json.loads(out)
        ran = (self.root / "ran").read_text() if (self.root / "ran").exists() else ""
        mine = str(self.root / "here/evil.py")  # beside the spec, so a sweep runs it, with a note
        strange = {
            f for f in ran.splitlines() if (command, f) != ("sweep", mine) or mine not in err
        }
        assert not strange, f"ran {strange}"


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and not path.parent.is_symlink() and path.read_bytes() == data


@contextlib.contextmanager
def limits(seconds: float, memory: int) -> Iterator[None]:
    """Limit CPU time (wall-clock time to ten times that) in seconds, and extra memory in bytes."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"more than {seconds} s of CPU, or blocked")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handlers = {s: signal.signal(s, stop) for s in (signal.SIGALRM, signal.SIGPROF)}
    start, (left, _) = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if left:  # the time limit of the test itself
            signal.setitimer(signal.ITIMER_REAL, max(0.1, left - time.monotonic() + start))


# ------------------------------------------------------------------ damage


def regular(path: Path) -> Path:
    if path.exists() and not path.is_file():  # a device or a pipe would block
        raise OSError(path)
    return path


def flip(folder: Path, path: str, at: float, byte: int) -> None:
    data = bytearray(regular(folder / path).read_bytes())
    if data:
        data[int(at * (len(data) - 1))] = byte
    (folder / path).write_bytes(data)


def cut(folder: Path, path: str, at: float) -> None:
    data = regular(folder / path).read_bytes()
    (folder / path).write_bytes(data[: int(at * len(data))])


def write(folder: Path, path: str, content: str | bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    regular(folder / path).write_bytes(data)


def remove(folder: Path, path: str) -> None:
    there = folder / path
    shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()


def make_folder(folder: Path, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        remove(folder, path)
    (folder / path).mkdir(parents=True)
    (folder / path / "inside").write_text("x")


def make_fifo(folder: Path, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        remove(folder, path)
    os.mkfifo(folder / path)


def link(folder: Path, path: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        remove(folder, path)
    (folder / path).symlink_to(target)


def lead_out(folder: Path, path: str, target: str) -> None:
    """Move a file elsewhere and leave a link in its place."""
    shutil.move(folder / path, target)
    (folder / path).symlink_to(target)


def swap(folder: Path, one: str, other: str) -> None:
    (folder / one).rename(folder / "swapped")
    (folder / other).rename(folder / one)
    (folder / "swapped").rename(folder / other)


def mode(folder: Path, path: str, bits: int) -> None:
    (folder / path).chmod(bits)


def set_json(folder: Path, path: str, way: tuple[int | str, ...], value: Any) -> None:
    """Replace the value at a path of a JSON file: keys, or numbers modulo the sizes."""
    text = regular(folder / path).read_text()
    values = json.loads(text.splitlines()[0] if path.endswith("l") else text)
    here = values
    for depth, step in enumerate(way):
        keys = list(here if isinstance(here, dict) else range(len(here)))
        if not keys:
            break
        key = step if step in keys else keys[step % len(keys)] if isinstance(step, int) else keys[0]
        if depth == len(way) - 1 or not isinstance(here[key], dict | list):
            if value == "@DELETE":
                del here[key]
            else:
                here[key] = value
            break
        here = here[key]
    (folder / path).write_text(json.dumps(values))


def set_row(folder: Path, row: int, column: str, text: str) -> None:
    """Set a cell of runs.csv."""
    with regular(folder / "runs.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    lines[1 + row % (len(lines) - 1)][lines[0].index(column)] = text
    with (folder / "runs.csv").open("w", newline="", errors="surrogatepass") as file:
        csv.writer(file).writerows(lines)


def add_line(folder: Path, path: str, at: int, text: str) -> None:
    lines = regular(folder / path).read_text().split("\n")
    lines.insert(at % (len(lines) + 1), text)
    (folder / path).write_text("\n".join(lines), errors="surrogatepass")


def set_points(folder: Path, path: str, column: str, value: Any) -> None:
    """Replace or delete a column of a Parquet file."""
    table = pd.read_parquet(regular(folder / path))
    table = table.drop(columns=column) if value == "@DELETE" else table.assign(**{column: value})
    table.to_parquet(folder / path, index=False)


DAMAGE: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        flip, cut, write, remove, make_folder, make_fifo, link, lead_out, swap, mode, set_json,
        set_row, add_line, set_points,
    )
}  # fmt: skip
