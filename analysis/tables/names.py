"""Rename the columns of a table, and compute those that an expression or a pattern gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.tables.numbers import to_numbers
from analysis.tables.several import FILE, check_names_once
from scaling.columns import COLUMNS
from scaling.errors import TableError
from scaling.mapping import in_expression, option
from scaling.table import missing_column

_SYMBOLS = {column.name for column in COLUMNS}

_RUN = ("run_id", "run", "Name", "name", "run_name", "Run", "ID", "id")
"""Columns that the field `run` of a pattern stands for; the first that is there counts."""


_SIZE = re.compile(r"(?<![A-Za-z0-9.])[0-9]+(?:\.[0-9]+)?[kKmMbB](?![A-Za-z])")
"""A number of parameters in a text."""


def rename(table: pd.DataFrame, names: Mapping[str, str], where: str) -> pd.DataFrame:
    """Rename columns and evaluate expressions as given by `map`."""
    check_names_once(table, where)
    made, replaced = {}, []
    reversed_pairs = {
        new: old for old, new in names.items()
        if old in _SYMBOLS and new not in _SYMBOLS and new in table.columns
    }  # fmt: skip
    for old, new in names.items():
        reverse = old in _SYMBOLS and new not in _SYMBOLS and new in table.columns
        if reverse and old not in table.columns:
            raise TableError(
                f"{where}: the table has no column {old!r}. The left side of --map is what is in "
                f"the table, the right side its symbol here: did you mean {option(reversed_pairs)}?"
            )
        if old not in table.columns:
            made[old] = evaluated(table, old, where, new)
        rivals = [name for name in names if names[name] == new]
        if len(rivals) > 1:
            raise TableError(
                f"{where}: map gives {len(rivals)} columns the name {new!r}: "
                f"{', '.join(rivals)}. Keep one of them."
            )
        if new in table.columns and old in made and re.search(rf"\b{re.escape(new)}\b", old):
            replaced.append(new)  # log(L)=L
        elif new in table.columns and new not in names:
            raise TableError(
                f"{where}: {option({old: new})} would hide the column {new!r} that is there "
                f"already; rename that one too, as in {option({old: new, new: f'{new}_old'})}."
            )
    errors = standard_errors(table, {names[old]: values for old, values in made.items()})
    return table.drop(columns=replaced).assign(**made, **errors).rename(columns=dict(names))


def standard_errors(table: pd.DataFrame, made: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """Return the standard errors of losses that an expression made of texts such as 5.03 ± 0.01."""
    loss = made.get("L")
    if loss is None or "L_stderr" in table.columns or "stderr" not in loss.attrs:
        return {}
    return {"L_stderr": loss.attrs.pop("stderr")}


def in_order(table: pd.DataFrame, names: Mapping[str, str]) -> dict[str, str]:
    """Return `names` such that every left side is of columns of the table alone.

    A symbol that another pair makes stands for what is on its left side, as in params=N,20*N=D;
    and a # before the first name of a header may be given or not.
    """
    own = set(table.columns)
    plain = {}
    for column, symbol in names.items():
        bare = column.lstrip("# ")
        plain[bare if column not in own and bare in own else column] = symbol
    sources = {symbol: column for column, symbol in plain.items()}

    def expanded(column: str, within: frozenset[str]) -> str:
        def replaced(word: re.Match[str]) -> str:
            name = word[0]
            if name[0] == "`" or name in own or name in within or name not in sources:
                return name
            left = sources[name]
            if left in own:
                return in_expression(left)
            return f"({expanded(left, within | {name})})"

        if column in own or "{" in column or column in sources:
            return column
        return re.sub(r"`[^`]*`|(?<![\w.])[^\W\d]\w*(?!\w*\()", replaced, column)

    return {expanded(column, frozenset([symbol])): symbol for column, symbol in plain.items()}


def evaluated(table: pd.DataFrame, expression: str, where: str, symbol: str = "") -> pd.Series:
    """Return the values of an expression of columns and patterns, such as 1e6 * params_M.

    A pattern {field:REGEX} is the first group of REGEX in that field of each row: a column, or
    `path` for the file that the row is from.
    """
    values: dict[str, pd.Series] = {}
    text, at = "", 0
    for start, end, field, regex in _patterns(expression):
        name = f"_{len(values)}_"
        values[name] = _found(table, field, regex, where)
        text, at = f"{text}{expression[at:start]}{name}", end
    text += expression[at:]
    if text in values:
        return values[text]
    for quoted in dict.fromkeys(re.findall("`([^`]+)`", text)):
        if quoted not in table.columns:
            raise TableError(f"{where}: {_missing(table, quoted, symbol)} (named in --map)")
        name = f"_{len(values)}_"
        values[name], text = table[quoted], text.replace(f"`{quoted}`", name)
    plain = [word for word in re.findall(r"\b[^\W\d]\w*", text) if word in table.columns]
    values |= {word: table[word] for word in plain}
    if expression.isidentifier() or not values:
        raise TableError(f"{where}: {_missing(table, expression, symbol)} (named in --map)")
    numbers = pd.DataFrame(values)
    if "status" in table.columns and "status" not in values:
        numbers["status"] = table["status"]  # rows that do not count need not be numbers
    to_numbers(numbers, list(values), where)
    try:
        found = pd.Series(numbers.eval(text), table.index, dtype=float)
        errors = {name: f"{name}_stderr" for name in values if f"{name}_stderr" in numbers}
        if len(errors) == 1:  # by the difference that one standard error makes
            ((name, error),) = errors.items()
            above = numbers.assign(**{name: numbers[name] + numbers[error]}).eval(text)
            found.attrs["stderr"] = pd.Series(above - found, table.index, dtype=float).abs()
        return found
    except Exception as error:
        raise TableError(
            f"{where}: --map: {expression!r} is neither a column nor an expression of columns "
            f"({str(error).partition(chr(10))[0]}). Write names that are not plain words in "
            "`backticks`."
        ) from None


def lacking(name: str, table: pd.DataFrame) -> str:
    """Return :func:`missing_column` for a table, with advice if N may be in a column of text."""
    return _missing(table, name) + (size_in_texts(table) if name == "N" else "")


def size_in_texts(table: pd.DataFrame) -> str:
    """Return the advice to take N from a column of text such as gpt-21M; '' if there is none."""
    for name in table.columns:
        values = table[name].dropna().unique()
        if name == FILE or len(values) < 2 or not all(isinstance(v, str) for v in values):
            continue
        sizes = [_SIZE.findall(value) for value in values]
        if all(len(each) == 1 for each in sizes) and len({each[0] for each in sizes}) > 1:
            field = "run" if name == "run_id" else name
            pattern = option({f"{{{field}:([0-9.]+[kKmMbB])(?![A-Za-z])}}": "N"})
            return f" Is N in {field!r}, as in {values[0]!r}? Say {pattern}."
    return ""


def _missing(table: pd.DataFrame, name: str, symbol: str = "") -> str:
    return missing_column(name, [c for c in table.columns if c != FILE], symbol)


def _patterns(expression: str) -> list[tuple[int, int, str, str]]:
    """Return (start, end, field, regex) of each {field:regex}, whose braces may be nested."""
    found, at = [], 0
    while match := re.compile(r"\{([^:{}]+):").search(expression, at):
        depth, at = 1, match.end()
        while at < len(expression) and depth:
            sign = expression[at]
            if sign == "\\":
                at += 1
            depth += (sign == "{") - (sign == "}")
            at += 1
        if depth:
            break
        found.append((match.start(), at, match[1].strip(), expression[match.end() : at - 1]))
    return found


def _found(table: pd.DataFrame, field: str, regex: str, where: str) -> pd.Series:
    """Return what a pattern matches in a field of each row: its first group, or all of it."""
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise TableError(
            f"{where}: --map: {regex!r} in {{{field}:{regex}}} is not a regular expression "
            f"({error})."
        ) from None
    column = _field(table, field, where)
    texts = table[column].map(str)
    kinds = {text: _match(pattern, text, column == FILE) for text in texts.unique()}
    values = texts.map(kinds)
    if values.isna().any():
        row = values.index[values.isna()][0]
        what = f"{field}={table[column][row]!r}" if column != FILE else f"{table[column][row]!r}"
        at = "" if column == FILE else f" at row {row}"
        raise TableError(
            f"{where}: --map: the pattern {regex!r} matches nothing in {what}{at}; "
            f"{values.notna().sum()} of {len(values)} rows match. Correct the pattern, or leave "
            f"the {'file' if column == FILE else 'row'} out."
        )
    return values


def _field(table: pd.DataFrame, field: str, where: str) -> str:
    """Return the column that the field of a pattern stands for."""
    if field == "path" and FILE in table.columns:
        return FILE
    field = field.strip("`")
    if field in table.columns:
        return field
    if field == "run" and (found := next((c for c in _RUN if c in table.columns), None)):
        return found
    raise TableError(f"{where}: {_missing(table, field)} (named in --map; `path` is the file)")


def _match(pattern: re.Pattern[str], text: str, is_file: bool) -> str | None:
    """Return the first group of a match; in the name of a file before the whole of its path."""
    parts = (Path(text).name, text) if is_file else (text,)
    for part in parts:
        if match := pattern.search(part):
            groups = [group for group in match.groups() if group is not None]
            return groups[0] if groups else match[0]
    return None
