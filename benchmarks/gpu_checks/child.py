"""The process that runs the checks: it prints a line of JSON as each begins and ends."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence

from gpu_checks import CHECKS
from gpu_checks.bench import Bench, Figures, SkipError


def run(names: Sequence[str], bench: Bench) -> None:
    """Run checks. What they themselves print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = answers
    warnings.filterwarnings("error", "steps are not CUDA graphs")
    for name in names:
        print(json.dumps({"begins": name}), flush=True)
        start = time.perf_counter()
        found: Figures = {"status": "ok"}
        try:
            found |= CHECKS[name](bench)
        except SkipError as why:
            found = {"status": "skipped", "why": str(why)}
        except Exception as error:
            found = {"status": "failed", "error": f"{type(error).__name__}: {str(error)[:400]}"}
        found["seconds"] = round(time.perf_counter() - start, 2)
        print(json.dumps({"ends": name, "found": found}), flush=True)
        if "CUDA error" in found.get("error", ""):  # nothing after it would work
            os._exit(3)
