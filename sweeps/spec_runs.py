"""The runs that the sections of a spec define."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from scaling import size
from scaling.command_run import Run
from scaling.config import RunConfig, fields_of, from_dict
from scaling.errors import ConfigError
from scaling.init_from import resolved
from sweeps.spec_values import (
    CONFIG_TABLES,
    HORIZONS,
    Point,
    RunKeys,
    Spaced,
    as_text,
    check_field,
    check_keys,
    check_number,
    check_one_horizon,
    check_values,
    flattened,
    is_range,
    leaves,
    subtable,
)

_SET_SECTIONS = ("name", "tag", "base", "axes", "isoflop")
_SCALED = ("base", "axes", "isoflop", "sets", "execution", "runner")

_MOST = 2**63
"""Parameters and tokens must be below this, the limit of integers in the table."""

_MOST_POINTS = 100_000
"""Maximum number of points in one range."""

_MOST_RUNS = 1_000_000
"""Maximum number of runs in one set."""


class SpecRun(NamedTuple):
    """A run and the part of the spec that it comes from."""

    run: Run
    where: str
    """The section."""
    point: Point
    """The values set by its axes."""
    C: float | None
    """Its FLOPs, if [isoflop] set them."""

    def describe(self, where: str) -> str:
        """Describe the section and the point, for messages that begin with `where`."""
        values = ", ".join(f"{key}={as_text(value)}" for key, value in self.point.items())
        return f"{self.where}: {values or 'base'}".removeprefix(where)[2:]


class ConfigKeys:
    """The fields of :class:`scaling.config.RunConfig`, for runs of our own trainer."""

    check_key = staticmethod(check_field)
    check_values = staticmethod(check_values)

    models_prefix = "model."

    @staticmethod
    def prefix(key: str, value: Any) -> str | None:
        return "" if key == "zip" else f"{key}." if key in CONFIG_TABLES else None

    @staticmethod
    def in_range(key: str, value: Spaced, ends: tuple[Any, Any]) -> Any:
        return value

    @staticmethod
    def run(values: Point, where: str, section: Callable[[str], str]) -> RunConfig:
        return _run(values, where, section)


def all_runs(values: dict[str, Any], changes: Point, where: str, keys: RunKeys) -> list[SpecRun]:
    """Return every run of the spec `values`, with `changes` to their keys."""
    shared = flattened(subtable(values, "base", where), keys, f"{where} [base]")
    runs = []
    if "axes" in values or "isoflop" in values:
        runs += _section_runs(shared, values, changes, where, keys, tag=None)
    sets = values.get("sets", [])
    if not isinstance(sets, list):
        raise ConfigError(f"{where} [sets]: write [[sets]], once for every set.")
    for number, block in enumerate(sets, 1):
        if not isinstance(block, dict):
            raise ConfigError(f"{where} [[sets]]: {block!r} is not a table.")
        name = block.get("name", f"set {number}")
        here = f"{where} [[sets]] {name!r}"
        check_keys(block, _SET_SECTIONS, here)
        own = flattened(subtable(block, "base", here), keys, f"{here} base")
        base = _overridden(shared, own)
        tag = block.get("tag", block.get("name"))
        for key, value in (("name", name), ("tag", tag)):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{here}: {key}={value!r} must be text.")
        runs += _section_runs(base, block, changes, here, keys, tag=tag)
    return runs


def at_scale(values: dict[str, Any], scale: Any, where: str) -> dict[str, Any]:
    """Return the spec's tables at a scale. The keys of all scales are checked."""
    scales = subtable(values, "scale", where)
    for name, changed in scales.items():
        here = f"{where} [scale.{name}]"
        if not isinstance(changed, dict):
            raise ConfigError(f"{here}: {changed!r} must be a table: [scale.{name}].")
        check_keys(changed, _SCALED, here)
    if scale is None:
        return values
    if not isinstance(scale, str) or scale not in scales:
        known = f"it has {', '.join(scales)}" if scales else "it has none; give [scale.NAME]"
        raise ConfigError(f"{where}: no scale {scale!r}; {known}.")
    values = dict(values)
    for section, changed in scales[scale].items():
        here = f"{where} [scale.{scale}] {section}"
        if section == "sets":
            values["sets"] = _scaled_sets(values.get("sets", []), changed, here)
        elif section == "runner":  # its tables have keys with dots: columns, variables
            values["runner"] = _merged(subtable(values, "runner", where), changed, here)
        else:
            values[section] = _scaled_table(subtable(values, section, where), changed, here)
    return values


def _scaled_sets(sets: list[Any], changed: Any, where: str) -> list[Any]:
    """Return the sets, with the tables in `changed` on top of those of the sets that it names."""
    names = [each.get("name") if isinstance(each, dict) else None for each in sets]
    if not isinstance(changed, list):
        raise ConfigError(f"{where}: write a list of tables, each with the name of its set.")
    sets = list(sets)
    for change in changed:
        if not isinstance(change, dict) or change.get("name") not in names:
            raise ConfigError(
                f"{where}: {change!r} has no name of a set: {', '.join(map(str, names))}."
            )
        at = names.index(change["name"])
        sets[at] = {
            key: _scaled_table(subtable(sets[at], key, where), change[key], where)
            if isinstance(change.get(key), dict)
            else change.get(key, sets[at].get(key))
            for key in {**sets[at], **change}
        }
    return sets


def _merged(table: dict[str, Any], changed: Any, where: str) -> dict[str, Any]:
    """Return nested tables with those of `changed` on top."""
    if not isinstance(changed, dict):
        raise ConfigError(f"{where}: {changed!r} must be a table.")
    return table | {
        key: _merged(inner, value, f"{where} {key}")
        if isinstance(inner := table.get(key), dict) and isinstance(value, dict)
        else value
        for key, value in changed.items()
    }


def _scaled_table(table: dict[str, Any], changed: Any, where: str) -> dict[str, Any]:
    """Return `table` with the leaves of `changed` on top."""
    if not isinstance(changed, dict):
        raise ConfigError(f"{where}: {changed!r} must be a table.")
    return _overridden(leaves(table), leaves(changed))


def _section_runs(
    base: Point,
    values: dict[str, Any],
    changes: Point,
    where: str,
    keys: RunKeys,
    *,
    tag: str | None,
) -> list[SpecRun]:
    """Return the runs of the axes and isoflop tables among `values`, on top of `base`."""
    axes = _axes(subtable(values, "axes", where), keys, f"{where} [axes]")
    window = None
    if "isoflop" in values:
        more, window = _isoflop(subtable(values, "isoflop", where), keys, f"{where} [isoflop]")
        axes += more
    on_axes = _keys_of_axes(axes, where)
    if tag is not None and "tag" not in on_axes:
        base = {**base, "tag": tag}

    def section(key: str) -> str:
        if key in changes:
            return f"{where}, changes: {key}"
        if key == "flops" and "isoflop" in values:
            return f"{where} [isoflop]: C"
        return f"{where} [axes]: {key}" if key in on_axes else f"{where} [base]: {key}"

    has_budgets = "isoflop" in values and not set(HORIZONS) & changes.keys()
    runs, ratios = [], []
    for points in itertools.product(*axes):
        point = functools.reduce(operator.or_, points, {})
        whole = _overridden(base, point)
        run = keys.run(_overridden(whole, changes) if changes else whole, where, section)
        if window:
            ratios.append(run.D / (size.N_of(run) or math.nan))
            if not window[0] <= ratios[-1] <= window[1]:
                continue
        runs.append(SpecRun(run, where, point, point["flops"] if has_budgets else None))
    if window and not runs:
        raise ConfigError(
            f"{where} [isoflop]: tokens_per_parameter={list(window)} leaves out every run: D / N "
            f"goes from {min(ratios):.3g} to {max(ratios):.3g}. Widen it, or change C or the "
            "models."
        )
    return runs


def _keys_of_axes(axes: list[list[Point]], where: str) -> set[str]:
    """Return the keys that the axes set. Raises ConfigError if axes conflict or runs are too
    many."""
    keys: set[str] = set()
    for points in axes:
        of_axis = {key for point in points for key in point}
        if twice := keys & of_axis:
            raise ConfigError(f"{where}: {sorted(twice)[0]!r} is on two axes; keep one of them.")
        keys |= of_axis
    check_one_horizon(keys, where)
    number = math.prod(map(len, axes))
    if number > _MOST_RUNS:
        raise ConfigError(
            f"{where}: the axes make {number:.3g} runs; at most {_MOST_RUNS:g} can be."
        )
    return keys


def _overridden(base: Point, changes: Point) -> Point:
    """Return `base` with `changes` on top; a horizon among the changes replaces that of the
    base."""
    if not changes.keys().isdisjoint(HORIZONS):
        base = {key: value for key, value in base.items() if key not in HORIZONS}
    return base | changes


def _run(values: Point, where: str, section: Callable[[str], str]) -> RunConfig:
    """Return the run with these values. `section` tells where a key was set, for messages."""
    plain = {key: value for key, value in values.items() if key not in HORIZONS[1:]}
    spaced = {key for key, value in plain.items() if type(value) is Spaced}
    D = _snapped(plain, spaced) if spaced else None
    own = {key: plain.pop(key) for key in ("seed",) if key in plain}
    run = _config(tuple(plain.items()), where)
    if run.init:
        run = _resolved(run, plain, section("init"))
    N = size.parameters_of(run).N
    if N >= _MOST:
        sizes = ", ".join(
            f"{section(key).removeprefix(where).strip(' :')}={as_text(value)}"
            for key, value in values.items()
            if key.startswith("model.")
        )
        raise ConfigError(f"{where}: {sizes}: a model with more than 2^63 parameters.")
    horizon = "tokens"
    for key, factor in (("tokens_per_parameter", N), ("flops", 1 / (6 * N))):
        if key in values:
            horizon, D = key, values[key] * factor
    if max(D or 0, run.D) >= _MOST:
        value = values.get(horizon, run.tokens)
        raise ConfigError(
            f"{section(horizon)}={as_text(value)} gives more than 2^63 training tokens, with "
            f"batch_tokens={as_text(run.batch_tokens)} and N={as_text(N)}."
        )
    if D is not None:
        # Use whole steps, so that equal runs have equal configs however D was computed.
        own["tokens"] = max(1, round(D / run.batch_tokens)) * run.batch_tokens
    try:
        return run.with_own(**own) if own else run
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _snapped(plain: Point, spaced: set[str]) -> float | None:
    """Round the values of log-spaced ranges, in place, to what their fields allow.

    Removes `tokens` if it is among them and returns it, to be rounded to whole steps later.
    """
    plain.update({key: float(plain[key]) for key in spaced})
    default = fields_of()
    for key, unit_key in (("model.d_model", "model.n_head"), ("batch_tokens", "model.n_ctx")):
        if key in spaced:
            unit = plain.get(unit_key, default[unit_key][1])
            if isinstance(unit, int) and unit > 0:
                plain[key] = max(1, round(plain[key] / unit)) * unit
    for key in spaced - {"model.d_model", "batch_tokens", "tokens"}:
        if _is_whole(key):
            plain[key] = _rounded(plain[key])
    return plain.pop("tokens") if "tokens" in spaced else None


def _resolved(run: RunConfig, values: Point, where: str) -> RunConfig:
    try:
        return resolved(run, named=values.keys())
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.lru_cache(maxsize=1024)
def _config(values: tuple[tuple[str, Any], ...], where: str) -> RunConfig:
    """Return a run with these values. Cached: many runs of a grid differ only in seed and
    horizon."""
    return from_dict(dict(values), where=where)


def by_run_id(runs: list[SpecRun], where: str) -> dict[str, Run]:
    """Return the runs by id. Raises ConfigError if two are the same run."""
    first: dict[str, SpecRun] = {}
    for each in runs:
        run_id = each.run.run_id
        if run_id in first:
            raise ConfigError(
                f"{where}: two runs are the same run {run_id}: "
                f"'{first[run_id].describe(where)}' and '{each.describe(where)}'. Drop one of "
                "them, or let their seeds differ. (Computed sizes are rounded to whole steps.)"
            )
        first[run_id] = each
    return {run_id: each.run for run_id, each in first.items()}


def _axes(table: dict[str, Any], keys: RunKeys, where: str) -> list[list[Point]]:
    """Return the axes of a grid, each a list of points."""
    axes = []
    for key, value in leaves(table).items():
        if (prefix := keys.prefix(key, value)) is not None:
            axes.append(_axis_of_tables(value, key, prefix, keys, where))
            continue
        keys.check_key(key, where)
        values = value
        if is_range(value):
            spaced = _log_spaced(value, key, where)
            values = [keys.in_range(key, x, (value["from"], value["to"])) for x in spaced]
        if not isinstance(values, list):
            raise ConfigError(
                f"{where}: {key}={value!r} is one value; give a list or {{ from, to, num }}, or "
                "move it to [base]."
            )
        if not values:
            raise ConfigError(f"{where}: {key}=[] is empty.")
        for item in values:
            keys.check_values({key: item}, where)
        axes.append([{key: item} for item in values])
    return axes


def _isoflop(
    table: dict[str, Any], keys: RunKeys, where: str
) -> tuple[list[list[Point]], tuple[float, float] | None]:
    """Return the axes of an isoflop table, and its window of D / N."""
    check_keys(table, ("C", "models", "tokens_per_parameter"), where)
    for key in ("C", "models"):
        if key not in table:
            raise ConfigError(f"{where}: {key!r} is missing.")
    budgets = table["C"]
    budgets = _log_spaced(budgets, "C", where) if is_range(budgets) else budgets
    if not isinstance(budgets, list) or not budgets:
        raise ConfigError(
            f"{where}: C={table['C']!r} must be a list of FLOPs or {{ from, to, num }}."
        )
    for C in budgets:
        check_number(C, f"{where}: C")
    window = table.get("tokens_per_parameter")
    if window is not None:
        numbers = isinstance(window, list) and all(isinstance(x, int | float) for x in window)
        if not (numbers and len(window) == 2 and 0 < window[0] < window[1]):
            raise ConfigError(
                f"{where}: tokens_per_parameter={window!r} must be [least, most], such as [2, 500]."
            )
        window = (window[0], window[1])
    models = _axis_of_tables(table["models"], "models", keys.models_prefix, keys, where)
    return [[{"flops": C} for C in budgets], models], window


def _axis_of_tables(value: Any, key: str, prefix: str, keys: RunKeys, where: str) -> list[Point]:
    """Return the points of an axis given as a list of tables."""
    if not (isinstance(value, list) and value and all(isinstance(v, dict) for v in value)):
        raise ConfigError(
            f"{where}: {key} must be a list of tables, such as {key} = [{{ n_layer = 1, "
            f"d_model = 32 }}, ...]; it is {value!r}."
        )
    points = [{prefix + inner: v for inner, v in leaves(item).items()} for item in value]
    for point in points:
        for inner in point:
            keys.check_key(inner, where)
        keys.check_values(point, where)
    return points


def _log_spaced(value: dict[str, Any], key: str, where: str) -> list[Spaced]:
    """Return the values of a log-spaced range, both ends included."""
    check_keys(value, ("from", "to", "num"), f"{where} {key}")
    for name in ("from", "to", "num"):
        if name not in value:
            raise ConfigError(f"{where}: {key}={value} lacks {name!r}; give {{ from, to, num }}.")
    low, high, num = value["from"], value["to"], value["num"]
    for name, number in (("from", low), ("to", high)):
        check_number(number, f"{where}: {key}.{name}")  # ranges are log-spaced
    if isinstance(num, bool) or not isinstance(num, int) or not 2 <= num <= _MOST_POINTS:
        raise ConfigError(
            f"{where}: {key}.num={as_text(num)} must be a whole number of at least 2, at most "
            f"{_MOST_POINTS}."
        )
    steps = [i / (num - 1) for i in range(num)]
    values = [math.exp(math.log(low) * (1 - x) + math.log(high) * x) for x in steps]
    return [Spaced(f"{x:.6g}") for x in values]


def _is_whole(key: str) -> bool:
    """Return whether a field holds a whole number."""
    hint = fields_of()[key][0]
    return hint is int or int in typing.get_args(hint)


def _rounded(value: float) -> int:
    """Round to three significant digits, as a person would write the number."""
    return round(float(f"{value:.3g}"))
