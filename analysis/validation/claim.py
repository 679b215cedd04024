"""A claimed law as a TOML file: the law, its constants, and how they were obtained.

The constants keep the digits that they were written with: 0.34 stands for 0.335 to 0.345.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from analysis.laws import Law, LawError, resolve
from scaling.errors import ConfigError, did_you_mean

PAPERS_DELTA = 1e-3
"""Huber's threshold if a claim names none: that of Hoffmann et al. 2022 and most papers since."""

_KEYS = (
    "law", "params", "objective", "delta", "on", "rows", "held_out", "fixed", "map", "convention"
)  # fmt: skip
_OBJECTIVES = ("huber", "ls", "lad")
_KIND = ("kind", "name", "loss", "objective")
"""Keys under which a table [objective] may name what was minimised."""


class _Written(float):
    """A number that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> _Written:
        self = super().__new__(cls, text)
        self.text = text
        return self


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A law with constants that someone obtained from a table, and how."""

    law: Law
    params: Mapping[str, float]
    """Every parameter of the law."""
    half: Mapping[str, float] = field(default_factory=dict)
    """Half a unit of the last digit written, per parameter: the rounding error of the claim."""
    objective: Literal["huber", "ls", "lad"] = "huber"
    delta: float | None = PAPERS_DELTA
    """Huber's threshold; None for the other objectives."""
    on: Literal["log", "raw"] = "log"
    rows: str | None = None
    """Condition that selects the rows to which the law was fitted."""
    held_out: str | None = None
    """Condition that selects larger rows, which the law should predict."""
    fixed: tuple[str, ...] | None = None
    """Parameters that were held at their value, not fitted; None if the claim does not tell."""
    map: Mapping[str, str] = field(default_factory=dict)
    """{column of the table: symbol}."""
    convention: Mapping[str, str] = field(default_factory=dict)
    """What N and C count: a column of the table, or words such as 'total' and '6 N D'."""
    source: str = "the claim"

    @property
    def digits(self) -> dict[str, float]:
        """Half a unit of the last digit of each parameter; 0 if the digits are not known."""
        return {p: float(self.half.get(p, 0.0)) for p in self.law.params}

    def record(self) -> dict[str, Any]:
        """Return the claim as plain values for JSON."""
        return {
            "law": self.law.name,
            "params": dict(self.params),
            "rounding": self.digits,
            "objective": self.objective,
            "delta": self.delta,
            "on": self.on,
            "rows": self.rows,
            "held_out": self.held_out,
            "fixed": None if self.fixed is None else list(self.fixed),
            "map": dict(self.map),
            "convention": dict(self.convention),
            "source": self.source,
        }


def read_claim(path: str | Path) -> Claim:
    """Read a claim from a TOML file.

    Raises ConfigError for what is not a claim, and LawError for a law that is not known.
    """
    path = Path(path)
    try:
        given = tomllib.loads(path.read_text("utf-8"), parse_float=_Written)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text: a claim is a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    return _claim(given, path)


def _claim(given: Mapping[str, Any], path: Path) -> Claim:
    for key in given:
        if key not in _KEYS:
            raise ConfigError(
                f"{path}: {key!r} is not a key of a claim.{did_you_mean(key, _KEYS)} The keys are "
                f"{', '.join(_KEYS)}."
            )
    if not isinstance(given.get("law"), str):
        raise ConfigError(f'{path} names no law: write law = "chinchilla", or "file.py:name".')
    law = _law(given["law"], path)
    params, half = _parameters(law, given.get("params"), path)
    objective, delta, on = _objective(given, path)
    return Claim(
        law=law,
        params=params,
        half=half,
        objective=objective,
        delta=delta,
        on=on,
        rows=_text(given, "rows", path),
        held_out=_text(given, "held_out", path),
        fixed=_fixed(law, given.get("fixed"), path),
        map=_map(law, given.get("map", {}), path),
        convention=_convention(given.get("convention", {}), path),
        source=str(path),
    )


def _law(name: str, path: Path) -> Law:
    """Return the law; a file of code is looked for here, and then beside the claim."""
    file, colon, rest = name.rpartition(":") if ".py:" in name else (name, "", "")
    beside = path.parent / file
    if file.endswith(".py") and not Path(file).is_file() and beside.is_file():
        name = f"{beside}{colon}{rest}"
    try:
        return resolve(name)
    except LawError as error:
        raise LawError(f"{path}: {error}") from None


def _parameters(law: Law, given: Any, path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the value of each parameter, and half a unit of its last digit."""
    example = ", ".join(law.params)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path} has no table [params]: give {example} of {law.name} there.")
    for name in given:
        if name in _KEYS and name not in law.params:
            raise ConfigError(
                f"{path}: {name!r} stands in [params]; write it above the first line in brackets."
            )
        if name not in law.params:
            raise ConfigError(
                f"{path}: {law.name} has no parameter {name!r}.{did_you_mean(name, law.params)} "
                f"It has {example}."
            )
    lacking = [p for p in law.params if p not in given]
    if lacking:
        raise ConfigError(f"{path}: [params] lacks {', '.join(lacking)}; {law.name} has {example}.")
    values, half = {}, {}
    for p in law.params:
        value = given[p]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{path}: {p} = {value!r} is not a number.")
        low = law.ranges[p].positive and value < 0
        if not np.isfinite(float(value)) or low:
            kind = "positive, or zero" if low else "finite"
            raise ConfigError(f"{path}: {p} = {float(value):g} must be {kind}.")
        values[p], half[p] = float(value), half_digit(getattr(value, "text", str(value)))
    return values, half


def half_digit(text: str) -> float:
    """Return half a unit of the last digit of a number as written: 0.005 for '0.34'."""
    exponent = Decimal(text.replace("_", "")).as_tuple().exponent
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else 0.0


def _objective(
    given: Mapping[str, Any], path: Path
) -> tuple[Literal["huber", "ls", "lad"], float | None, Literal["log", "raw"]]:
    """Return the objective, Huber's threshold, and whether residuals are of logarithms."""
    stated, kind = given.get("objective", "huber"), None
    options = {name: given[name] for name in ("delta", "on") if name in given}
    if isinstance(stated, Mapping):
        words = [stated[name] for name in _KIND if name in stated]
        kind = words[0] if words else "huber"
        unknown = [name for name in stated if name not in (*_KIND, "delta", "on", "reduce")]
        if unknown:
            raise ConfigError(
                f"{path}: [objective] has no key {unknown[0]!r}; it has kind, delta and on."
            )
        options |= {name: stated[name] for name in ("delta", "on") if name in stated}
    else:
        kind = stated
    if kind not in _OBJECTIVES:
        near = did_you_mean(kind, _OBJECTIVES) if isinstance(kind, str) else ""
        raise ConfigError(
            f"{path}: objective = {kind!r} is not one of {', '.join(_OBJECTIVES)}.{near}"
        )
    on, delta = options.get("on", "log"), options.get("delta")
    if on not in ("log", "raw"):
        raise ConfigError(f'{path}: on = {on!r} is neither "log" nor "raw".')
    if delta is not None:
        number = isinstance(delta, int | float) and not isinstance(delta, bool)
        if not number or not np.isfinite(delta) or delta <= 0:
            raise ConfigError(f"{path}: delta = {delta!r} must be a positive number.")
        if kind != "huber":
            raise ConfigError(f"{path}: delta belongs to the objective huber, not to {kind}.")
    threshold = (float(delta) if delta is not None else PAPERS_DELTA) if kind == "huber" else None
    return cast(Any, kind), threshold, cast(Any, on)


def _fixed(law: Law, given: Any, path: Path) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or any(p not in law.params for p in given):
        wrong = [p for p in given if p not in law.params] if isinstance(given, list) else given
        raise ConfigError(
            f"{path}: fixed = {wrong!r} must list parameters of {law.name}: "
            f"{', '.join(law.params)}."
        )
    if set(given) >= set(law.params):
        raise ConfigError(f"{path}: every parameter of {law.name} is fixed: nothing was fitted.")
    return tuple(given)


def _map(law: Law, given: Any, path: Path) -> dict[str, str]:
    """Return {column: symbol}; a pair may also be written with the symbol on the left."""
    if not isinstance(given, Mapping):
        raise ConfigError(f'{path}: [map] must be a table, such as "val/loss" = "L".')
    symbols = {*law.inputs, law.target, "N", "D", "C", "B", "S", "run_id", "D_unique"}
    pairs: dict[str, str] = {}
    for left, right in given.items():
        if not isinstance(right, str) or not right:
            raise ConfigError(f"{path}: [map] {left} = {right!r} must name a symbol, such as N.")
        forward = right in symbols or left not in symbols
        column, symbol = (left, right) if forward else (right, left)
        if pairs.setdefault(column, symbol) != symbol:
            raise ConfigError(
                f"{path}: [map] gives the column {column!r} two symbols, {pairs[column]} and "
                f"{symbol}; keep one of them."
            )
    return pairs


def _convention(given: Any, path: Path) -> dict[str, str]:
    if isinstance(given, str):
        given = {"N": given}
    usable = isinstance(given, Mapping) and all(
        name in ("N", "C") and isinstance(value, str) for name, value in given.items()
    )
    if not usable:
        raise ConfigError(
            f'{path}: [convention] says what N and C count, such as N = "total", C = "6 N D", or '
            f"names a column; it is {given!r}."
        )
    return dict(given)


def _text(given: Mapping[str, Any], name: str, path: Path) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(
            f'{path}: {name} = {value!r} must be a condition on rows, such as "D > 1e9".'
        )
    return value
