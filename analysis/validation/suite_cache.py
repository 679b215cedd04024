"""Scores of a suite that are kept between calls, by the content of table, rule and code."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from analysis.validation.suite_cells import Cell
from analysis.validation.suite_rules import Rule
from scaling import files

Score = dict[str, Any] | str
"""What a rule scored in a cell, or the reason why it could not be fitted there."""

_CODE = ("laws/*", "fitting/*", "frontiers/*", "validation/goodness*", "validation/suite_p*",
         "validation/suite_cells*")  # fmt: skip
"""Files of `analysis` on which a score depends. The list of rules is not among them."""
_OPTIONAL = {"prior": ("prior", "auto"), "combination": ("auto",)}
"""Files on which only some rules depend: {beginning of the name: words of these rules}."""


class Cache:
    """Scores in a folder, one file per table; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, *, level: float, bootstrap: int, seed: int) -> None:
        self._folder = folder
        self._settings = f"{level:g} {bootstrap} {seed}"
        self._known: dict[Path, dict[str, Score]] = {}

    def get(self, cell: Cell, rule: Rule) -> Score | None:
        """Return the score kept for a cell and a rule, or None."""
        if self._folder is None:
            return None
        return self._scores(self._file(cell)).get(self._key(cell, rule))

    def put(self, cell: Cell, scores: dict[Rule, Score]) -> None:
        """Keep the scores of a cell. Warns (UserWarning) if they cannot be written."""
        if self._folder is None or not scores:
            return
        path = self._file(cell)
        known = self._scores(path)
        known |= {self._key(cell, rule): score for rule, score in scores.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(path, json.dumps(known).encode(), sync=False)
        except OSError as error:
            warnings.warn(
                f"{path.parent}: scores cannot be kept for a later call "
                f"({error.strerror or error}). --cache names another folder.",
                stacklevel=2,
            )

    def _file(self, cell: Cell) -> Path:
        assert self._folder is not None
        return self._folder / f"{cell.table.content}.json"

    def _scores(self, path: Path) -> dict[str, Score]:
        if path not in self._known:
            try:
                found = json.loads(files.read_bytes(path))
            except (OSError, ValueError):  # absent, or not a file of ours: computed again
                found = {}
            self._known[path] = found if isinstance(found, dict) else {}
        return self._known[path]

    def _key(self, cell: Cell, rule: Rule) -> str:
        """Return a hash of everything but the numbers of the table on which a score depends."""
        asked = {**asdict(rule), "axis": cell.axis, "factor": cell.factor, "of": self._settings}
        text = f"{sorted(asked.items())} {code_version(_words(rule))}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def _words(rule: Rule) -> tuple[str, ...]:
    return tuple(w for w in ("prior", "auto") if rule.how.prior or w in rule.laws)


@functools.cache
def code_version(words: tuple[str, ...]) -> str:
    """Return a hash of the code that scores depend on; comments and formatting do not matter.

    words: 'prior' and 'auto', for rules that need the files of these.
    """
    found = hashlib.sha256(f"{np.__version__} {scipy.__version__}".encode())
    root = Path(__file__).parents[1]
    for path in sorted({path for pattern in _CODE for path in root.glob(pattern)}):
        needed = [each for begin, each in _OPTIONAL.items() if path.name.startswith(begin)]
        if not path.is_file() or any(not set(each) & set(words) for each in needed):
            continue
        data = path.read_bytes()
        if path.suffix == ".py":
            data = ast.dump(ast.parse(data)).encode()
        found.update(path.name.encode() + data)
    return found.hexdigest()
