"""What becomes of the checks of benchmarks/gpu.py that fail, crash or hang."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GOALS = {"gain": 10.0, "mfu": 0.4}
CHILD = """
import json, os, sys, time
def say(**answer):
    print(json.dumps(answer), flush=True)
for name in sys.argv[-1].split(","):
    say(begins=name)
    print("about", name, file=sys.stderr, flush=True)
    say(**{"so far": {"part": 1.0}})
    if name.startswith("hangs"):
        time.sleep(60)
    if name == "crashes":
        os.kill(os.getpid(), 11)
    failed = name in ("fails", sys.argv[1])
    found = {"status": "failed", "error": "no", "traceback": "at"} if failed else {"status": "ok"}
    say(ends=name, found={**found, "process": os.getpid()})
    if failed:
        os._exit(3)
"""


@pytest.fixture
def watching(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_checks.watching")


def watched(
    watching: Any, folder: Path, names: list[str], *, child: str = CHILD, seconds: float = 60.0
) -> dict[str, dict[str, Any]]:
    """The results in the file, and in the log whatever the processes printed."""
    (folder / "child.py").write_text(child)
    report = watching.Report(folder / "gpu.json", names, GOALS)
    limits = {name: 1.0 if name.startswith("hangs") else 30.0 for name in names}
    watching.supervise(
        [sys.executable, str(folder / "child.py"), "device" if "no device" in names else "none"],
        report,
        limits,
        time.monotonic() + seconds,
        log=folder / "gpu.log",
    )
    values = json.loads((folder / "gpu.json").read_text())
    assert values["finished"]
    return values["checks"]


def test_a_check_that_fails_crashes_or_hangs_costs_only_itself(watching, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "print_stacks", lambda process: None)
    names = ["first", "second", "fails", "third", "crashes", "fourth", "hangs", "fifth"]
    start = time.monotonic()
    found = watched(watching, tmp_path, names)
    assert time.monotonic() - start < 30
    status = {name: one["status"] for name, one in found.items()}
    bad = dict.fromkeys(("fails", "crashes", "hangs"), "failed")
    assert status == dict.fromkeys(names, "ok") | bad
    assert all(one["part"] == 1.0 for one in found.values())  # what it found before is kept
    assert found["fails"]["traceback"] == "at"
    assert found["crashes"]["error"] == "its process ended by SIGSEGV"
    assert "did not end in time" in found["hangs"]["error"]
    assert found["first"]["process"] == found["second"]["process"] != found["third"]["process"]
    assert (tmp_path / "gpu.log").read_text().split() == [
        word for name in names for word in ("about", name)
    ]


def test_when_the_time_is_over_the_rest_is_skipped(watching, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "print_stacks", lambda process: None)
    found = watched(watching, tmp_path, ["first", "hangs", "last"], seconds=0.8)
    assert found["first"]["status"] == "ok"
    assert found["hangs"] == {"part": 1.0, "status": "skipped", "why": "no time left"}
    assert found["last"] == {"status": "skipped", "why": "no time left"}


def test_without_a_device_nothing_is_tried(watching, tmp_path):
    names = ["device", "losses", "no device"]
    found = watched(watching, tmp_path, names)
    assert found["device"]["status"] == "failed"
    assert found["losses"] == {"status": "skipped", "why": "there is no such device"}


def test_a_process_that_cannot_begin_is_named(watching, tmp_path):
    found = watched(watching, tmp_path, ["first", "last"], child="import missing_module")
    why = "the process of the checks ended with exit code 1"
    assert found["first"] == found["last"] == {"status": "skipped", "why": why}


def test_a_process_that_hangs_prints_its_stacks(watching, tmp_path):
    waiting = "import faulthandler, signal, time\nfaulthandler.register(signal.SIGUSR1)\n"
    waiting += "def stuck():\n    print('ready', flush=True)\n    time.sleep(60)\nstuck()\n"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", waiting],
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        watching.print_stacks(process)
        watching.end(process)
    assert "in stuck" in (tmp_path / "log").read_text()


def test_goals_are_missed_by_the_best_way_only(watching, tmp_path):
    report = watching.Report(tmp_path / "gpu.json", [], GOALS)
    report.checks = {
        "eager_1e6": {"status": "ok", "gain": 8.0},
        "compiled_1e6": {"status": "ok", "gain": 12.0},
        "eager_3e3": {"status": "ok", "gain": 9.0},
        "mfu_eager": {"status": "ok", "mfu": 0.3},
        "mfu_compiled": {"status": "ok", "mfu": 0.35},
        "losses": {"status": "failed", "error": "no"},
    }
    assert report.missed() == ["losses", "packs of 3e3: 9.0 times the plain loop", "mfu 0.35"]
