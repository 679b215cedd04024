"""The process that runs the checks: it prints a line of JSON as each begins and ends."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence

from gpu_checks import CHECKS
from gpu_checks.bench import Bench, Figures, SkipError
from gpu_checks.watching import ANEW


def run(names: Sequence[str], bench: Bench) -> None:
    """Run checks. What they themselves print goes to stderr.

    After a failure the device may be in any state, so this process ends.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = answers
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    import torch  # noqa: F401 (it may take a minute, which counts for no check)

    warnings.filterwarnings("error", "steps are not CUDA graphs")
    for name in names:
        print(json.dumps({"begins": name}), flush=True)
        print(f"---- {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        found: Figures = {"status": "ok"}
        try:
            found |= CHECKS[name].function(bench)
        except SkipError as why:
            found = {"status": "skipped", "why": str(why)}
        except Exception as error:
            traceback.print_exc()
            found = {"status": "failed", "error": f"{type(error).__name__}: {str(error)[:400]}"}
            found["traceback"] = traceback.format_exc()[-3000:]
        found["seconds"] = round(time.perf_counter() - start, 2)
        print(json.dumps({"ends": name, "found": found}), flush=True)
        if found["status"] == "failed" or (CHECKS[name].last and bench.on_gpu):
            os._exit(ANEW)
