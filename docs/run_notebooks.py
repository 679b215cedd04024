"""Run the notebooks and store them with small outputs that any machine reproduces.

`make notebooks` runs this file. Stored outputs have no timings, paths, progress or versions, and
images of few colours, so that a change of a notebook shows what changed. The tests run the
notebooks again and compare: see :func:`differences`.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"

TOLERANCE = 1e-2
"""Largest relative difference between a number in a stored output and the same one in a new run.
It allows for other processors and libraries; an estimate that changed differs by more."""

WIDEST = 1000
"""Largest width of a stored image [pixels]."""
COLOURS = 256
"""Largest number of colours of a stored image."""

_MACHINE = [
    (r"(?:/[\w.+-]+)*/(tmp\w{8})\b", "FOLDER"),  # a temporary folder
    (re.escape(str(ROOT)), "."),
    (r"\bprocess \d+\b", "process …"),
    (r"\b\d[\d.,]* ?(?:ms|min|s|h)\b(?: \d+ (?:min|s)\b)?|\b\d+[hm]\d\d[ms]?\b", "…"),  # durations
    (r"\b\d[\d.,]* (?:tokens|FLOPs?)/s\b", "…"),
    (r"\b0x[0-9a-f]{6,}\b", "0x…"),
]
"""What depends on the machine or the hour, and what is stored in its place."""
_PASSING = re.compile(
    r"^\s*\d+ ?% ·.*$"  # progress of a sweep
    r"|^\d+ jobs?: .*$|; about … with \d+ worker.*$"  # what was measured on this machine
    r"|^\d+ ok in ….*$|, in this process, about …$",
    re.M,
)
"""Lines and ends of lines that are not stored."""


def executed(path: Path, *, first: str = "") -> Any:
    """Return a notebook after running it; `first` is code to run before its cells."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    if first:
        notebook.cells = [nbformat.v4.new_code_cell(first), *cells]
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=250, resources=resources).execute()
    notebook.cells = cells
    return stripped(notebook)


def stripped(notebook: Any) -> Any:
    """Return a notebook without what changes from run to run, and with small images."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [each for output in cell.outputs for each in _small(output)]
    return notebook


def _small(output: Any) -> Iterator[Any]:
    """Yield an output as it is stored; progress and warnings on standard error are left out."""
    if output.output_type == "stream":
        if output.name == "stdout":
            output.text = _of_any_machine(output.text)
            yield output
        return
    if output.output_type not in ("display_data", "execute_result"):
        yield output
        return
    if output.output_type == "execute_result":
        output.execution_count = None
    output.metadata = {}
    data = output.data
    if "text/html" in data or "image/png" in data:
        data.pop("text/plain", None)  # as long as the page, and not shown
    for kind, content in list(data.items()):
        if kind.startswith("text/"):
            data[kind] = _of_any_machine(content)
    if "text/html" in data:
        data["text/html"] = re.sub(r'<pre style="[^"]*">', "<pre>", data["text/html"])
        if data["text/html"].startswith("<pre>"):  # printed by rich
            data["text/html"] = _of_any_machine(data["text/html"].removeprefix("<pre>"))
            data["text/html"] = f"<pre>{data['text/html']}"
        if not re.sub(r"<[^>]*>", "", data["text/html"]).strip():
            return
    if "image/png" in data:
        data["image/png"] = _few_colours(data["image/png"])
    yield output


def _of_any_machine(text: str) -> str:
    for pattern, instead in _MACHINE:
        text = re.sub(pattern, instead, text)
    text = "\n".join(line.rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", _PASSING.sub("", text))


def _few_colours(encoded: str) -> str:
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    if image.width > WIDEST:
        size = (WIDEST, round(image.height * WIDEST / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    small = io.BytesIO()
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode() + "\n"


# ------------------------------------------------------------------ comparison

_NUMBER = re.compile(r"[-−]?\d[\d,]*\.?\d*(?:[eE][+-]?\d+)?")


def differences(stored: Any, new: Any) -> list[str]:
    """Return what differs between the outputs of a notebook and those of a new run.

    Words must be equal, up to spaces. Numbers may differ by :data:`TOLERANCE`, relatively, or by
    one in their last digit. Of images, only the number is compared.
    """
    found = []
    for i, (old, fresh) in enumerate(zip(stored.cells, new.cells, strict=True)):
        if old.cell_type != "code":
            continue
        before, after = texts_of(old), texts_of(fresh)
        if [kind for kind, _ in before] != [kind for kind, _ in after]:
            found.append(
                f"cell {i} has outputs {[kind for kind, _ in before]}, now "
                f"{[kind for kind, _ in after]}"
            )
            continue
        for (kind, one), (_, other) in zip(before, after, strict=True):
            if kind != "image/png" and (what := _difference(one, other)):
                found.append(f"cell {i}: {what}")
    return found


def texts_of(cell: Any) -> list[tuple[str, str]]:
    """Return (kind, content) of every output of a cell; parts of one stream are joined."""
    texts: list[tuple[str, str]] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if texts and texts[-1][0] == "stdout":
                texts[-1] = ("stdout", texts[-1][1] + output.text)
            else:
                texts.append(("stdout", output.text))
        else:
            texts += sorted((kind, str(value)) for kind, value in output.get("data", {}).items())
    return texts


def _difference(one: str, other: str) -> str | None:
    """Return the first difference of two texts in words, or None."""
    words, others = (re.sub(r"\s+", " ", _NUMBER.sub("#", text)).strip() for text in (one, other))
    if words != others:
        pairs = zip(words, others, strict=False)
        k = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(words), len(others)))
        return f"{words[max(k - 30, 0) : k + 40]!r} is now {others[max(k - 30, 0) : k + 40]!r}"
    for old, new in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True):
        a, b = (float(text.replace("−", "-").replace(",", "")) for text in (old, new))
        if abs(a - b) > max(TOLERANCE * max(abs(a), abs(b)), 1.01 * _last_digit(old)):
            return f"{old} is now {new}"
    return None


def _last_digit(text: str) -> float:
    """Return the value of one in the last digit of a written number."""
    mantissa, _, power = text.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    # A whole number such as a count of runs must be equal.
    return 10.0 ** (int(power or 0) - places) if places else 0.0


def main() -> None:
    """Run the notebooks and store their outputs; with names, only these."""
    chosen = {Path(name).stem for name in sys.argv[1:]}
    os.environ["PYTHONPATH"] = str(ROOT)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not chosen or path.stem in chosen:
            nbformat.write(executed(path), path)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
