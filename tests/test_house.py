"""The rules of the house, read from the syntax trees of the three packages.

Files that fit in one's head, short functions, no private name used across modules, no import
circle, docstrings that are sentences.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("scaling", "sweeps", "analysis")
FILE_LINES = 450
FUNCTION_LINES = 60
REASON = "Long because"
"""Words in the docstring of a function that may be longer, followed by why."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, tuple[Path, str, ast.Module]]:
    """{dotted name: (path, source, syntax tree)} of every module."""
    found = {}
    for path in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        source = path.read_text()
        found[module_name(path)] = (path, source, ast.parse(source))
    return found


def imported(name: str, tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """(module, imported name, line) of every import of our own modules, lazy ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                yield node.module or "", alias.name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES and alias.name != name:
                    yield alias.name, "", node.lineno


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree without blocks under `if TYPE_CHECKING`, whose imports never run."""

    class Remover(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Remover().visit(ast.parse(ast.unparse(tree)))


def code_lines(function: Function, source: list[str]) -> int:
    """Lines that hold code: neither blank, nor comments, nor docstrings."""
    texts = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    code = (source[line - 1].strip() for line in lines if line not in texts)
    return sum(1 for line in code if line and not line.startswith("#"))


def test_files_fit_in_ones_head():
    lengths = {name: len(source.splitlines()) for name, (_, source, _) in modules().items()}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        lengths[str(path.relative_to(ROOT))] = len(path.read_text().splitlines())
    assert "benchmarks/gpu.py" in lengths
    assert {name: n for name, n in lengths.items() if n > FILE_LINES} == {}


def test_functions_are_short_or_say_why_not():
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, source, tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, Function)
        and code_lines(node, source.splitlines()) > FUNCTION_LINES
        and REASON not in (ast.get_docstring(node) or "")
    ]
    assert long == []


def test_private_names_stay_in_their_module():
    private = []
    for name, (path, _, tree) in modules().items():
        private += [f"{path}:{k} {m}.{n}" for m, n, k in imported(name, tree) if is_private(n)]
        aliases = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if f"{node.module}.{alias.name}" in modules()
        }
        private += [
            f"{path}:{node.lineno} {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and is_private(node.attr)
        ]
    assert private == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_import_circle():
    """Imports inside functions count, since they too say what needs what."""
    graph: dict[str, set[str]] = {}
    for name, (_, _, tree) in modules().items():
        needs = {
            f"{m}.{n}" if f"{m}.{n}" in modules() else m
            for m, n, _ in imported(name, without_type_checking(tree))
        }
        graph[name] = {other for other in needs if other in modules() and other != name}
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert graph == {}


def test_docstrings_are_sentences():
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path, _, tree in modules().values():
        assert ast.get_docstring(tree), f"{path} does not say what it is for"
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                assert not (ast.get_docstring(node) or "").startswith("Of "), path


def test_lines_of_the_bundled_specs_are_short():
    """The linter checks the lines of Python files only."""
    for path in (ROOT / "sweeps" / "specs").glob("*.toml"):
        assert max(map(len, path.read_text().splitlines())) <= 100, path


def test_long_tests_exist():
    for name in (ROOT / "tests" / "long_tests.txt").read_text().splitlines():
        file, function = name.partition("[")[0].split("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(), name
