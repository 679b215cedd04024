"""The notebooks run, and their stored outputs are those of a new run."""

from __future__ import annotations

import base64
import copy
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTTED = {
    "01_launch": 1,
    "02_fit": 1,
    "03_figures": 6,
    "04_plan": 2,
    "05_abilities": 2,
    "06_forecast": 1,
}
ABSENT = (  # as on a machine without torch and ray
    "import sys\n"
    "class Absent:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in ('torch', 'ray'): raise ModuleNotFoundError(name)\n"
    "sys.meta_path.insert(0, Absent())"
)


def _tool():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs/run_notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


tool = _tool()


def images(notebook) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def texts(notebook) -> str:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(
        text for cell in cells for kind, text in tool.texts_of(cell) if kind != "image/png"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_new_run_of_a_notebook_gives_its_stored_outputs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stored = nbformat.read(path, as_version=4)
    new = tool.executed(path, first="" if path.stem == "01_launch" else ABSENT)
    assert len(images(new)) >= PLOTTED[path.stem]
    assert tool.differences(stored, new) == [], "run `make notebooks` and read the difference"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_outputs_are_small_and_of_any_machine(path):
    assert path.stat().st_size < 400 * 1024
    notebook = nbformat.read(path, as_version=4)
    drawn = images(notebook)
    assert len(drawn) >= PLOTTED[path.stem]
    for image in drawn:
        assert image.startswith(b"\x89PNG") and int.from_bytes(image[16:20]) <= 1000
    for cell in notebook.cells:
        assert not cell.metadata and cell.get("execution_count") is None
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr"
    shown = texts(notebook)
    assert len(shown) > 500
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/|\x1b\[|\r|\d it/s", shown)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}  # no version


def test_results_are_stored_as_tables():
    """Fits, frontiers and plans are shown as HTML, which code hosts render."""
    shown = texts(nbformat.read(ROOT / "notebooks" / "04_plan.ipynb", as_version=4))
    assert "Compute-optimal frontier" in shown and "<table>" in shown and "N<sub>opt</sub>" in shown
    assert "FitResult(" not in shown and "Plan(" not in shown


def notebook_with(text: str, kind: str = "stdout"):
    if kind == "stdout":
        output = nbformat.v4.new_output("stream", name="stdout", text=text)
    else:
        output = nbformat.v4.new_output("display_data", {kind: text})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("alpha = 0.339", "alpha = 0.341", True),  # within 1 %
        ("alpha = 0.339", "alpha  =  0.339", True),  # spaces
        ("alpha = 0.339", "alpha = 0.349", False),
        ("N = 1.49e+06", "N = 1.50e+06", True),
        ("N = 1.49e+06", "N = 1.49e+07", False),
        ("− 0.004 nats", "− 0.005 nats", True),  # one in the last digit
        ("-0.5", "0.5", False),
        ("53 rows", "54 rows", False),  # a count
        ("1,490 runs", "1,491 runs", True),
        ("converged", "not converged", False),
        ("a 1", "a", False),
    ],
)
def test_outputs_are_compared_word_by_word_and_numbers_within_a_percent(old, new, same):
    for kind in ("stdout", "text/html"):
        found = tool.differences(notebook_with(old, kind), notebook_with(new, kind))
        assert (found == []) is same, found


def test_an_output_of_another_kind_is_a_difference():
    assert tool.differences(notebook_with("1"), notebook_with("1", "text/html"))
    none = notebook_with("1")
    none.cells[0].outputs = []
    assert tool.differences(notebook_with("1"), none)


def test_what_depends_on_the_machine_is_not_stored():
    text = (
        f"results in /tmp/tmpab12cd34/mine, read from {ROOT}/results\n"
        "  5 %\r 100 %\r done in 12.5 s\n2 min 3 s left at 12,345 tokens/s; process 4711"
    )
    notebook = notebook_with(text)
    noise = nbformat.v4.new_output("stream", name="stderr", text="Training: 3 it/s")
    notebook.cells[0].outputs.append(noise)
    notebook.cells[0].metadata = {"execution": {"iopub.execute_input": "2026-01-01"}}
    notebook.cells[0].execution_count = 7
    stored = tool.stripped(copy.deepcopy(notebook))
    assert texts(stored) == (
        "results in FOLDER/mine, read from ./results\n done in …\n… left at …; process …"
    )
    assert stored.cells[0].execution_count is None and not stored.cells[0].metadata


def test_make_notebooks_stores_them():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(
        r"^notebooks: data\n\t\$\(BIN\)/python docs/run_notebooks\.py$", makefile, re.M
    )
