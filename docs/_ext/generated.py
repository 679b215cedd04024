"""Parts of pages generated from the code, from results and from files of the repository.

A line such as `<!-- generated: laws -->` in a page is replaced by what the function of that name
returns.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from formula import symbol, tex
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


# ---------------------------------------------------------------- laws and symbols


def laws() -> str:
    """Every law with its formula, its symbols and its source."""
    from analysis import laws as known

    parts = []
    for law in known.LAWS.values():
        body = (inspect.getdoc(law.function) or "").partition("\n\n")[2]
        explained = re.sub(r"Source:.*?(\n\n|\Z)", "", body, flags=re.S).strip()
        parts += [f"### {law.name}", _formula(law.formula)]
        parts += [_plain(explained)] if explained else []
        parts.append(
            f"Columns {_codes(law.inputs)} · parameters {_codes(law.params)} · predicts "
            f"`{law.target}`" + "".join(
                f" · ${symbol(name)}$ = `{expression}`" for name, expression in law.derived.items()
            )
        )  # fmt: skip
        parts.append(f"Source: {_cited(law.source)}")
    return "\n\n".join(parts)


def _formula(text: str) -> str:
    made, words = tex(text)
    return f"$$\n{made}\n$$" + (f"\n\n{words[0].upper()}{words[1:]}." if words else "")


def _plain(text: str) -> str:
    """Paragraphs of a docstring in Markdown; indented ones are code."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(
        f"```python\n{inspect.cleandoc(block)}\n```" if block.startswith("    ")
        else re.sub(r"([\\*_<^~$])", r"\\\1", block)
        for block in blocks
    )  # fmt: skip


def _cited(text: str) -> str:
    link = r"[arXiv \1](https://arxiv.org/abs/\1)"
    return re.sub(r"(?:arXiv )?\b(\d{4}\.\d{4,5})\b", link, text)


def _codes(names: Iterator[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def glossary() -> str:
    """The docstring of the package `scaling`, which defines the symbols."""
    import scaling

    return _page_of(inspect.getdoc(scaling) or "")


def _page_of(text: str) -> str:
    """A module's docstring: paragraphs, and indented blocks as they stand."""
    made = []
    for block in re.split(r"\n\s*\n(?=\S)", text):
        words, _, code = block.partition("\n\n    ")
        if block.startswith("    "):
            words, code = "", block[4:]
        made += [_cited(words.replace("``", "`"))] if words else []
        made += [f"```text\n{inspect.cleandoc('    ' + code)}\n```"] if code else []
    return "\n\n".join(made)


# ---------------------------------------------------------------- specs and tables


def spec_grammar() -> str:
    """The docstring of sweeps.spec, whose example is the grammar."""
    from sweeps import spec

    return _grammar(spec)


def runner_grammar() -> str:
    """The docstring of sweeps.runner.parse, whose example is the table [runner]."""
    from sweeps.runner import parse

    return _grammar(parse)


def _grammar(module: ModuleType) -> str:
    """The example in a module's docstring, and the words after it."""
    text = inspect.getdoc(module) or ""
    if "\n    " not in text:  # all but the summary is the example
        return f"```toml\n{text.partition(chr(10))[2].strip()}\n```"
    code = "\n".join(
        line for line in text.splitlines()[1:] if line.startswith("    ") or not line.strip()
    ).strip("\n")
    after = text.rpartition("\n    ")[2].partition("\n\n")[2].replace("``", "`")
    return f"```toml\n{inspect.cleandoc(code)}\n```\n\n{after}"


def placeholders() -> str:
    """The placeholders that every command of a spec knows."""
    from sweeps.runner.runner import PLACEHOLDERS

    rows = "\n".join(f"| `{{{name}}}` | {meaning} |" for name, meaning in PLACEHOLDERS.items())
    return f"| placeholder | value |\n|---|---|\n{rows}"


def expressions() -> str:
    """What expressions of [runner.derived] may contain."""
    from sweeps.runner.expressions import FUNCTIONS

    return (
        "An expression of `[runner.derived]` consists of numbers, keys, `+ - * / // % **`, "
        f"parentheses and the functions {_codes(tuple(FUNCTIONS))}, as in Python. It may use other "
        "derived keys, in any order. Nothing else is evaluated."
    )


def sources() -> str:
    """The fields of the table [runner.results]."""
    from sweeps.runner.runner import Sources

    return _options(Sources)


def failures() -> str:
    """The fields of the table [runner.failures]."""
    from sweeps.runner.runner import Failures

    return _options(Failures)


def _options(cls: type) -> str:
    rows = [f"| `{key}` | {_cell(meaning)} |" for key, _, _, meaning in _fields(cls)]
    return "| key | meaning |\n|---|---|\n" + "\n".join(rows)


def fields() -> str:
    """Every field of RunConfig: its key in a spec, type, default and meaning."""
    from scaling.config import RunConfig

    parts: dict[str, list[str]] = {}
    for key, hint, default, meaning in _fields(RunConfig):
        group = key.partition(".")[0] if "." in key else "run"
        row = f"| `{key}` | {_type(hint)} | `{_toml(default)}` | {_cell(meaning)} |"
        parts.setdefault(group, []).append(row)
    head = "| key | type | default | meaning |\n|---|---|---|---|\n"
    return "\n\n".join(f"### {group}\n\n{head}" + "\n".join(rows) for group, rows in parts.items())


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    hints = typing.get_type_hints(cls)
    documented = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _fields(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            meaning = " ".join(documented.get((cls.__name__, field.name), []))
            yield prefix + field.name, hint, field.default, meaning


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    options = [each for each in typing.get_args(hint) if each is not type(None)]
    if typing.get_origin(hint) in (list, tuple):
        return "list of " + " or ".join(each.__name__ for each in options if each is not ...)
    return " or ".join(each.__name__ for each in options or [hint])


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _cell(text: str) -> str:
    return re.sub(r"([*_<|$])", r"\\\1", text) if "`" not in text else text.replace("|", r"\|")


def columns() -> str:
    """results/README.md, which the schema generates, without its title."""
    return (ROOT / "results" / "README.md").read_text().partition("\n\n")[2]


# ---------------------------------------------------------------- command line


def commands() -> str:
    """A table of the commands, and the help of each."""
    from scaling.cli import COMMANDS

    parts = ["| command | what it does |\n|---|---|"]
    for name, command in COMMANDS.items():
        summary = (inspect.getdoc(command) or "").partition("\n")[0]
        parts[0] += f"\n| [`{name}`](#{name.replace(' ', '-')}) | {_cell(summary)} |"
    for name in COMMANDS:
        parts += [f"## {name}", f"```text\n{_help(*name.split())}\n```"]
    return "\n\n".join(parts)


def _help(*command: str) -> str:
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("scaling")), *command, "--help"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    return done.stdout.strip()


# ---------------------------------------------------------------- Python


def api(package: str, heading: str = "###") -> str:
    """Exports of `package`: functions, then classes, including those that functions return."""
    module = importlib.import_module(package)
    exported = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    functions = {name: each for name, each in exported.items() if inspect.isroutine(each)}
    classes = {name: each for name, each in exported.items() if inspect.isclass(each)}
    paths = {each: f"{package}.{name}" for name, each in (functions | classes).items()}
    for each in functions.values():
        for cls in _returned(each):
            paths.setdefault(cls, f"{cls.__module__}.{cls.__qualname__}")
    return "\n\n".join(_directive(heading, path, each) for each, path in paths.items())


def _directive(heading: str, path: str, each: Any) -> str:
    kind, members = "autofunction", ""
    if inspect.isclass(each):
        kind = "autoexception" if issubclass(each, Exception) else "autoclass"
        members = "\n   :members:"
    title = f"{heading} {path.rpartition('.')[2]}"
    return f"{title}\n\n```{{eval-rst}}\n.. {kind}:: {path}{members}\n```"


def _returned(function: Any) -> list[type]:
    """Our classes in the return annotation of a function."""
    try:
        hint = typing.get_type_hints(function).get("return")
    except NameError:  # a name that is imported for type checkers only
        return []
    options = typing.get_args(hint) or (hint,)
    ours = ("scaling", "sweeps", "analysis")
    return [each for each in options if inspect.isclass(each) and each.__module__.startswith(ours)]


def layers() -> str:
    """The import contracts on the order of modules, from pyproject.toml, top layer first."""
    with (ROOT / "pyproject.toml").open("rb") as config:
        contracts = tomllib.load(config)["tool"]["importlinter"]["contracts"]
    parts = []
    for contract in contracts:
        if contract["type"] == "layers":
            first = contract["layers"][0]
            package = contract["containers"][0] if "containers" in contract else first.split(".")[0]
            order = "\n".join(contract["layers"]).replace(f"{package}.", "")
            parts.append(f"### `{package}`\n\n```text\n{order}\n```")
    return "\n\n".join(parts)


# ---------------------------------------------------------------- results


def gallery() -> str:
    """The figures of the committed results, with captions from the registry of figures."""
    from analysis.figures import FIGURES

    parts = []
    for name, drawing in sorted(FIGURES.items(), key=_paper_order):
        files = sorted(ROOT.glob(f"results/*/figures/{name}.png"))
        best = [file for file in files if file.parts[-3] in (drawing.spec, "headline")] or files
        for file in best[:1]:
            folder = file.parents[1].relative_to(ROOT)
            source = f" Layout of {_cited(drawing.source)}." if drawing.source else ""
            command = f"scaling figure {name} {folder}"
            if folder.name == "headline" and drawing.spec == "batch":
                command += " --critical results/batch"
            others = [f"`{each.parents[1].relative_to(ROOT)}`" for each in files if each != file]
            also = f" Also drawn for {', '.join(others)}." if others else ""
            wide = int.from_bytes(file.read_bytes()[16:20]) > 1000  # the width of a PNG
            parts.append(
                f"## {name}\n\n:::{{figure}} ../{file.relative_to(ROOT)}\n"
                f":alt: {drawing.shows}\n:figclass: {'page' if wide else 'column'}\n\n"
                f"{drawing.shows}.{source}\nDrawn by `{command}`.{also}\n:::"
            )
    return "\n\n".join(parts)


def _paper_order(figure: tuple[str, Any]) -> tuple[bool, str, int]:
    """Sort the figures of Kaplan et al. by their numbers, and the others after them."""
    letters = figure[0].rstrip("0123456789")
    return not letters.startswith("kaplan"), letters, int(figure[0].removeprefix(letters) or 0)


def file(path: str) -> str:
    """A Markdown file of the repository."""
    return _flattened((ROOT / path).read_text(), (ROOT / path).parent)


def _flattened(text: str, folder: Path) -> str:
    """Replace links that lead out of the documentation by the names of the files."""

    def flat(match: re.Match[str]) -> str:
        words, target = match[1], match[2].partition("#")[0]
        path = (folder / target).resolve()
        if not target or ":" in target or not path.exists():
            return match[0]
        if folder.is_relative_to(DOCS) and (
            path.is_relative_to(DOCS) or path.is_relative_to(ROOT / "notebooks")
        ):
            return match[0]
        if path.is_relative_to(DOCS) and folder == ROOT:  # shown by a page at the top of docs/
            return f"[{words}]({path.relative_to(DOCS)})"
        name = path.relative_to(ROOT)
        return words if f"`{name}`" in words.replace("/`", "`") else f"{words} (`{name}`)"

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", flat, text)


PARTS: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        laws,
        glossary,
        spec_grammar,
        runner_grammar,
        placeholders,
        expressions,
        sources,
        failures,
        fields,
        columns,
        commands,
        api,
        layers,
        gallery,
        file,
    )
}


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    def made(match: re.Match[str]) -> str:
        return PARTS[match[1]](*match[2].split())

    folder = Path(app.env.doc2path(name)).parent
    if name.startswith("notebooks/"):
        return
    source[0] = _flattened(source[0], folder)
    source[0] = re.sub(r"^<!-- generated: (\w+)(.*?)-->$", made, source[0], flags=re.M)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
