"""CPU time that a report takes, size of its page, and time until it is drawn in headless Chromium.

Two pages: the committed sweep `headline` with all its figures, and 10,000 synthetic runs with a
million points of learning curves. The time is that from the start of the navigation until the
figures and the table are drawn, the median of several loads.

    python benchmarks/report_speed.py            # print the figures
    python benchmarks/report_speed.py --check    # exit with 1 if a goal is missed

Needs selenium, Chromium and its driver. Writing the page of 10,000 runs takes minutes; `--page
FILE` measures a page that is written already.
"""

# ruff: noqa: E402  (threads must be set before numpy is imported)
from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from goals import finish

from analysis.reporting.html import report

GOALS = {
    "headline_mb": ("at most", 5.0),
    "headline_seconds": ("at most", 3.0),
    "many_mb": ("at most", 15.0),
    "many_seconds": ("at most", 3.0),
    "many_written_cpu_seconds": ("at most", 300.0),
}
HEADLINE = Path(__file__).parents[1] / "results" / "headline"
RUNS, POINTS = 10_000, 100
"""Runs of the synthetic sweep, and evaluations of each."""
_LOADS = 5


def many_runs(folder: Path, runs: int = RUNS, points: int = POINTS, seed: int = 0) -> None:
    """Write a results folder with runs of 20 sizes, 25 amounts of data and several rates, of which
    one in a hundred diverged."""
    rng = np.random.default_rng(seed)
    sizes, data = np.geomspace(1e5, 1e9, 20), np.geomspace(1e7, 1e11, 25)
    rates = np.arange(max(1, runs // 500))
    N, D, k = (x.ravel() for x in np.meshgrid(sizes.round(), data.round(), rates, indexing="ij"))
    away = 0.02 * (k / len(rates) - 0.5) ** 2
    noise = np.exp(0.005 * rng.normal(size=len(N)))
    ids = [f"run{i:05d}" for i in range(len(N))]
    ended = rng.random(len(N)) < 0.01
    L = np.where(ended, np.nan, (1.7 + 400 / N**0.34 + 410 / D**0.28) * noise + away)
    table = pd.DataFrame(
        {
            "run_id": ids, "N": N, "D": D, "C": 6 * N * D, "B": 2.0**18, "S": D / 2**18, "L": L,
            "lr_peak": 1e-3 * 2.0 ** (k - len(rates) / 2), "seed": 0,
            "tag": [f"group {i % 3}" for i in range(len(N))],
            "status": np.where(ended, "diverged", "ok"),
            "error": np.where(ended, "the loss rose above ln V", None),
        }
    )  # fmt: skip
    tokens = D[:, None] * np.geomspace(0.01, 1, points)
    along = (1.7 + 400 / N**0.34 + away)[:, None] + 410 / tokens**0.28
    curves = pd.DataFrame(
        {
            "run_id": np.repeat(ids, points), "S": tokens.ravel() / 2**18, "D": tokens.ravel(),
            "C": (6 * N[:, None] * tokens).ravel(),
            "L": (along * np.exp(0.005 * rng.normal(size=along.shape))).ravel(),
        }
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "runs.csv", index=False)
    curves.to_parquet(folder / "curves.parquet")


@contextmanager
def browser() -> Iterator[Any]:
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        sys.exit("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                 "window-size=1280,900"):  # fmt: skip
        options.add_argument(f"--{flag}")
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def seconds_to_draw(window: Any, page: Path, loads: int = _LOADS) -> float:
    """Return the median time from the start of the navigation until the page has painted its
    figures."""
    found = []
    for _ in range(loads):
        window.get("about:blank")
        begun = time.perf_counter()
        window.get(page.resolve().as_uri())  # returns after the load event
        window.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )
        if not window.execute_script("return document.documentElement.dataset.drawn"):
            sys.exit(f"{page} did not draw its figures.")
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def measured(page: Path | None = None) -> dict[str, float]:
    """Return sizes [MB] and times [s]; `page` is the page of many runs, if it exists already, and
    is not written then."""
    with tempfile.TemporaryDirectory() as folder, browser() as window:
        found = {}
        pages = {"headline": report(HEADLINE, Path(folder) / "headline.html")}
        if page is None:
            many_runs(Path(folder) / "many")
            begun = time.process_time()
            page = report(Path(folder) / "many")
            found["many_written_cpu_seconds"] = time.process_time() - begun
        pages["many"] = page
        for name, each in pages.items():
            found[f"{name}_mb"] = each.stat().st_size / 1e6
            found[f"{name}_seconds"] = seconds_to_draw(window, each)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", type=Path, help="a page of many runs that is written already")
    options = parser.parse_args()
    found = measured(options.page)
    finish(found, {name: GOALS[name] for name in found}, check=options.check)


if __name__ == "__main__":
    main()
