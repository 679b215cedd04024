"""A sweep's TOML and the runs that it stands for.

    name = "example"
    description = "what it is to show"

    [base]                                  # fields of RunConfig that all runs share
    data.corpus = "prose"
    optim.lr = "0.05 N^-0.25"               # a number or a rule

    [axes]                                  # every combination of these is a run
    seed = [0, 1]
    batch_tokens = { from = 1024, to = 65536, num = 7 }      # log-spaced
    model = [{ n_layer = 1, d_model = 32 }, { n_layer = 2, d_model = 64 }]    # keys that go together
    tokens_per_parameter = [5, 20, 80]      # D = r N; or `tokens` for D itself, or `flops` for C = 6 N D

    [isoflop]                               # D = C / (6 N) for every budget and every model
    C = [1e12, 1e13]                        # FLOPs
    models = [{ n_layer = 1, d_model = 32 }, { n_layer = 2, d_model = 64 }]
    tokens_per_parameter = [2, 500]         # optional: leave out what lies outside

    [[sets]]                                # more runs: own base on top of the shared one, own axes
    name = "critical-batch"                 # also the tag of its runs
    base.optim.lr = 1e-3
    axes.batch_tokens = [1024, 4096]

    [scale.gpu]                             # `--scale gpu`: the same experiment, elsewhere. What is
    base.precision = "bfloat16"             # here takes the place of what is above, key by key (sets
    axes.tokens_per_parameter = [20, 40]    # by name); the results folder is example-gpu

    [until]                                 # add runs as results come in (sweeps/adaptive)
    lr = { within = 1.25, factor = 4 }      # the best learning rate of every run, by golden section;
                                            # halving = 2: stop what is in the worse half early
    isoflop = { within = 1.5 }              # sizes, until the best one of each budget is bracketed
    interval = { law = "chinchilla", parameter = "alpha", width = 0.05 }    # designed runs, in
                                            # rounds; or, with add = "seeds", the whole grid again

`zip = [{...}, ...]` among the axes ties any keys together, written from the top (`model.n_layer`).
Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import itertools
import math
import operator
import re
import reprlib
import shlex
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scaling import count
from scaling.config import ConfigError, RunConfig, coerce, fields_of, from_dict, unknown_key
from scaling.files import EncodingError, read_text
from sweeps.adaptive.grow import Until, grow
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.halving import rungs
from sweeps.adaptive.interval import Interval, Round, Width, alike
from sweeps.adaptive.isoflop import IsoFlop
from sweeps.adaptive.learning_rate import LearningRate
from sweeps.result import Row

SPECS = Path(__file__).parent / "specs"
"""The bundled specs, found by their bare names."""

_HORIZONS = ("tokens", "tokens_per_parameter", "flops")
_SECTIONS = ("name", "description", "base", "axes", "isoflop", "sets", "until", "scale")
_SET_SECTIONS = ("name", "tag", "base", "axes", "isoflop")
_SCALED = ("base", "axes", "isoflop", "sets")
_PARTS = tuple(dict.fromkeys(key.partition(".")[0] for key in fields_of() if "." in key))
"""The tables of fields: model, data, ..."""

_LARGEST = 1e300
"""Numbers of a spec lie below it, so that sizes made of them can be computed."""

_MOST_BITS = 10_000
"""Of an integer that can be written in decimal digits: Python refuses more than 4300 of them."""

_MOST = 2**63
"""Sizes and tokens lie below it: the table's integers."""
_MOST_POINTS = 100_000
"""Points of one range, at most."""

_MOST_RUNS = 1_000_000
"""Runs of one block, at most."""

_MUTUAL = (
    "model.n_head",
    "model.n_kv_head",
    "model.d_model",
    "model.n_ctx",
    "batch_tokens",
    "eval.noise_parts",
    "eval.test_tokens",
    "data.unique_tokens",
)
"""Fields of which one must divide another."""

Point = dict[str, Any]
"""{dotted key: value} of one choice along an axis; keys of one point go together."""


@dataclass(frozen=True)
class Spec:
    """A named list of runs."""

    name: str
    by_id: dict[str, RunConfig] = field(hash=False)
    """{run_id: run}, in the order of the spec."""
    description: str = ""
    path: Path | None = None
    text: str = ""
    """The TOML it came from."""

    changes: Point = field(default_factory=dict, hash=False)
    """{dotted key: value} changed for every run on top of the TOML."""

    until: Until | None = None
    """What the sweep goes on for, beyond the runs of the TOML."""

    budgets: dict[str, float] = field(default_factory=dict, hash=False)
    """{run_id: C} of the runs of [isoflop]."""

    chosen: tuple[str, ...] = ()
    """Words of the command line that chose these among the runs of the TOML; none for all."""

    allowed: tuple[str, ...] = ()
    """Files of code outside the spec's folder that may be run."""

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        return tuple(self.by_id.values())

    def select(self, filters: Sequence[str] = (), tag: str | None = None) -> Spec:
        """The runs that have the tag, and for which all conditions hold.

        A condition is KEY OP VALUE, such as 'model.n_layer=2', 'D<1e6' or 'seed!=0': a field of
        RunConfig, N, D, C or B, and one of = != < <= > >=. Raises ConfigError where one cannot be
        read, or none of the runs is left.
        """
        words = [word for text in filters for word in ("--filter", text)]
        words += ["--tag", tag] if tag is not None else []
        tests = [_condition(text) for text in filters]
        by_id = {
            run_id: run
            for run_id, run in self.by_id.items()
            if tag in (None, run.tag) and all(test(run) for test in tests)
        }
        if not by_id:
            tags = ", ".join(sorted({repr(run.tag) for run in self.runs if run.tag})) or "none"
            raise ConfigError(
                f"{self.name}: none of {len(self.by_id)} runs matches {shlex.join(words)}; tags are "
                f"{tags}."
            )
        budgets = {run_id: C for run_id, C in self.budgets.items() if run_id in by_id}
        until = self.until
        if until and self.by_design:  # rounds are designed for all runs together
            until = dataclasses.replace(until, interval=None)
        return dataclasses.replace(
            self, by_id=by_id, budgets=budgets, until=until, chosen=(*self.chosen, *words)
        )

    def designed(
        self,
        rows: Mapping[str, Row],
        width: Width | None = None,
        rounds: Sequence[Round] = (),
    ) -> Growth:
        """The runs that the TOML and, with [until], the results so far ask for; `rows` are
        {run_id: row} (:func:`sweeps.adaptive.grow.grow`)."""
        return grow(self.by_id, self.budgets, self.until, rows, width, rounds)

    @property
    def by_design(self) -> bool:
        """Whether rounds of designed runs are added."""
        interval = self.until.interval if self.until else None
        return interval is not None and interval.add == "designed"

    @property
    def halving(self) -> float | None:
        """How many arms there are for one that goes on; None where all do (sweeps.adaptive.halving)."""
        return self.until.halving if self.until else None

    @classmethod
    def from_toml(
        cls,
        path_or_name: str | Path,
        changes: Point | None = None,
        *,
        allow_code: Sequence[str | Path] = (),
        on_code: Callable[[Path], None] = lambda file: None,
    ) -> Spec:
        """Read a spec from a file, or a bundled one by its bare name.

        `changes` are fields changed for every run; 'name' among them renames the sweep and 'scale'
        chooses one of its scales. A spec may name code: a model family or a law of one's own. It is
        run if its file lies in the folder of the spec or is one of `allow_code`; `on_code` is told of
        each file first. Raises ConfigError, naming the file and the section, for whatever is not a
        sweep, and for code in other files.
        """
        path = find(path_or_name)
        try:
            text = read_text(path)
        except (OSError, EncodingError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from None
        allowed = tuple(map(str, allow_code))
        for file in _code_files(text, path, changes or {}, allowed):
            on_code(file)
        spec = cls.from_text(text, path=path, changes=changes)
        return dataclasses.replace(spec, allowed=allowed)

    @classmethod
    def from_text(
        cls, text: str, *, path: Path | None = None, changes: Point | None = None
    ) -> Spec:
        """Read a spec from TOML text; `path` only names it in messages."""
        changes = dict(changes or {})
        where = str(path) if path else "spec"
        try:
            values = tomllib.loads(text)
        except RecursionError:
            raise ConfigError(f"{where}: its values are nested too deeply.") from None
        except ValueError as error:  # TOMLDecodeError, or a number of more digits than Python reads
            line = re.search(r"line (\d+)", str(error))
            at = f"{where}:{line[1]}" if line else where
            raise ConfigError(f"{at}: not valid TOML: {error}.") from None
        _refuse_huge({"": values, "changes": changes}, where)
        _known(values, _SECTIONS, where)
        fields = {key: value for key, value in changes.items() if key not in ("name", "scale")}
        fields = _flat(fields, f"{where}, changes")
        name = values.get("name", path.stem if path else "")
        scale = changes.get("scale")
        values = _scaled(values, scale, where)
        if scale is not None:
            name = f"{name}-{scale}"
        name = changes.get("name", name)
        if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) and name.strip(".")):
            raise ConfigError(
                f"{where}: name={name!r} must be a word of letters, digits, '-', '_' and '.': it "
                "names the results folder."
            )
        description = values.get("description", "")
        if not isinstance(description, str):
            raise ConfigError(f"{where}: description={description!r} must be text.")
        runs = _all_runs(values, fields, where)
        if not runs:
            raise ConfigError(
                f"{where}: no runs. Give [axes], [isoflop] or [[sets]]; for the base run alone, "
                "[axes] seed = [0]."
            )
        by_id = _distinct(runs, where)
        budgets = {each.run.run_id: each.C for each in runs if each.C is not None}
        until = _until(_table(values, "until", where), f"{where} [until]")
        if until and until.isoflop and not budgets:
            raise ConfigError(f"{where} [until]: isoflop needs an [isoflop] section with budgets.")
        if until and until.interval and until.interval.add == "designed":
            try:
                alike(by_id.values())
            except ConfigError as error:
                raise ConfigError(f"{where} [until] interval: {error}") from None
        halving = until.halving if until else None
        blind = [run for run in by_id.values() if halving and not rungs(run)]
        for run in blind[:1]:
            raise ConfigError(
                f"{where} [until]: lr.halving={halving:g} compares runs between a quarter of "
                f"their steps and the end, but with eval.points={run.eval.points} run {run.run_id}, "
                f"of {run.S} steps, is not measured in between once its warm-up is over. Give more "
                "eval.points, or leave halving out."
            )
        return cls(name, by_id, description, path, text, changes, until, budgets)


def _code_files(text: str, path: Path, changes: Point, allowed: Sequence[str]) -> list[Path]:
    """The files of code that a spec names, which may be run from here on. ConfigError for one that
    nobody has allowed."""
    try:
        named = [*_code(tomllib.loads(text)), *_code(changes)]
    except (ValueError, RecursionError):  # said when the spec is read
        return []
    good = {count.code_file(file) for file in allowed}
    files = []
    for reference in named:
        file = count.code_file(reference)
        if not (file in good or file.is_relative_to(path.parent.resolve())):
            raise ConfigError(
                f"{path}, or a change to it, names code outside its own folder: {reference!r} is {file}. "
                f"Read that file; to allow it, add --allow-code {shlex.quote(str(file))}."
            )
        count.allow(reference)
        files.append(file)
    return list(dict.fromkeys(files))


def _refuse_huge(value: Any, where: str, key: str = "") -> None:
    """Raise ConfigError for an integer of thousands of digits: not even a message can show it."""
    if isinstance(value, dict):
        for inner, item in value.items():
            _refuse_huge(item, where, f"{key}.{inner}".strip("."))
    elif isinstance(value, list):
        for item in value:
            _refuse_huge(item, where, key)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ConfigError(f"{where}: {key} is too large: a number of thousands of digits.")


def _code(value: Any, key: str = "") -> Iterator[str]:
    """Every family and law, at any depth, that is code in a file: 'my.py:Name'."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _code(item, str(inner))
    elif isinstance(value, list):
        for item in value:
            yield from _code(item, key)
    elif isinstance(value, str) and key.rpartition(".")[2] in ("family", "law") and ".py" in value:
        yield value


def bundled() -> list[str]:
    """Names of the bundled specs."""
    return sorted(path.stem for path in SPECS.glob("*.toml"))


def find(path_or_name: str | Path) -> Path:
    """The file of a spec given by path or by bare name. ConfigError where there is none."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder; give a spec, such as {path / (path.name + '.toml')}."
        )
    if path.parent == Path() and (SPECS / f"{path.name.removesuffix('.toml')}.toml").is_file():
        return SPECS / f"{path.name.removesuffix('.toml')}.toml"
    near = difflib.get_close_matches(path.stem, bundled(), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Bundled are: {', '.join(bundled())}."
    raise ConfigError(f"spec {str(path_or_name)!r} is neither a file nor a bundled spec. {hint}")


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt,
    ">": operator.gt,
}  # fmt: skip


def _condition(text: str) -> Callable[[RunConfig], bool]:
    """Whether a run meets 'KEY OP VALUE'."""
    found = re.fullmatch(r"\s*([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.+?)\s*", text)
    where = f"--filter {text!r}"
    if found is None:
        raise ConfigError(
            f"{where} is not KEY OP VALUE, such as model.n_layer=2 or D<1e6, with one of = != < <= > >=."
        )
    key, sign, word = found.groups()
    value: Any = word
    with contextlib.suppress(ValueError, RecursionError):
        value = tomllib.loads(f"value = {word}")["value"]
    _refuse_huge(value, f"--filter {text[:60]!r}", key)
    compare = _OPERATORS[sign]
    if key in _SIZES:
        _number(value, f"{where}: {key}")
        return lambda run: compare(_SIZES[key](run), value)
    if key not in fields_of():
        raise ConfigError(f"{where}: {unknown_key(key)}")
    try:
        value = coerce(value, fields_of()[key][0])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None

    def test(run: RunConfig) -> bool:
        mine = functools.reduce(getattr, key.split("."), run)
        try:
            return compare(mine, value)
        except TypeError:  # 'kaplan' is neither above nor below a number
            return False

    return test


_SIZES: dict[str, Callable[[RunConfig], float]] = {
    "N": lambda run: count.parameters(run.model, run.data.vocab_size).N,
    "D": lambda run: run.D,
    "C": lambda run: count.flops_per_token(run.model, run.data.vocab_size) * run.D,
    "B": lambda run: run.batch_tokens,
}


# ------------------------------------------------------------------ sections to runs


class _Origin(NamedTuple):
    """A run and where it came from."""

    run: RunConfig
    where: str
    """The section."""
    point: Point
    C: float | None
    """Its budget, where [isoflop] gave one."""

    def words(self, where: str) -> str:
        """The point in words, for messages that begin with `where`."""
        values = ", ".join(f"{key}={_plain(value)}" for key, value in self.point.items())
        return f"{self.where}: {values or 'base'}".removeprefix(where)[2:]


def _all_runs(values: dict[str, Any], changes: Point, where: str) -> list[_Origin]:
    """Every run of the TOML."""
    shared = _flat(_table(values, "base", where), f"{where} [base]")
    runs = []
    if "axes" in values or "isoflop" in values:
        runs += _block(shared, values, changes, where, tag=None)
    sets = values.get("sets", [])
    if not isinstance(sets, list):
        raise ConfigError(f"{where} [sets]: write [[sets]], once for every set.")
    for number, block in enumerate(sets, 1):
        if not isinstance(block, dict):
            raise ConfigError(f"{where} [[sets]]: {block!r} is not a table.")
        name = block.get("name", f"set {number}")
        here = f"{where} [[sets]] {name!r}"
        _known(block, _SET_SECTIONS, here)
        own = _flat(_table(block, "base", here), f"{here} base")
        base = _over(shared, own)
        tag = block.get("tag", block.get("name"))
        for key, value in (("name", name), ("tag", tag)):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{here}: {key}={value!r} must be text.")
        runs += _block(base, block, changes, here, tag=tag)
    return runs


def _scaled(values: dict[str, Any], scale: Any, where: str) -> dict[str, Any]:
    """The sections as they are at a scale; all scales are read, so that none is wrong unnoticed."""
    scales = _table(values, "scale", where)
    for name, changed in scales.items():
        here = f"{where} [scale.{name}]"
        if not isinstance(changed, dict):
            raise ConfigError(f"{here}: {changed!r} must be a table: [scale.{name}].")
        _known(changed, _SCALED, here)
    if scale is None:
        return values
    if not isinstance(scale, str) or scale not in scales:
        there = f"it has {', '.join(scales)}" if scales else "it has none; give [scale.NAME]"
        raise ConfigError(f"{where}: no scale {scale!r}; {there}.")
    values = dict(values)
    for section, changed in scales[scale].items():
        here = f"{where} [scale.{scale}] {section}"
        if section == "sets":
            values["sets"] = _scaled_sets(values.get("sets", []), changed, here)
        else:
            values[section] = _replaced(_table(values, section, where), changed, here)
    return values


def _scaled_sets(sets: list[Any], changed: Any, where: str) -> list[Any]:
    names = [one.get("name") if isinstance(one, dict) else None for one in sets]
    if not isinstance(changed, list):
        raise ConfigError(f"{where}: write a list of tables, each with the name of its set.")
    sets = list(sets)
    for one in changed:
        if not isinstance(one, dict) or one.get("name") not in names:
            raise ConfigError(
                f"{where}: {one!r} has no name of a set: {', '.join(map(str, names))}."
            )
        at = names.index(one["name"])
        sets[at] = {
            key: _replaced(_table(sets[at], key, where), one[key], where)
            if isinstance(one.get(key), dict)
            else one.get(key, sets[at].get(key))
            for key in {**sets[at], **one}
        }
    return sets


def _replaced(table: dict[str, Any], changed: Any, where: str) -> dict[str, Any]:
    """`table` with the leaves of `changed`; a horizon takes the place of any other."""
    if not isinstance(changed, dict):
        raise ConfigError(f"{where}: {changed!r} must be a table.")
    return _over(_leaves(table), _leaves(changed))


def _block(
    base: Point, values: dict[str, Any], changes: Point, where: str, *, tag: str | None
) -> list[_Origin]:
    axes = _axes(_table(values, "axes", where), f"{where} [axes]")
    window = None
    if "isoflop" in values:
        more, window = _isoflop(_table(values, "isoflop", where), f"{where} [isoflop]")
        axes += more
    keys: set[str] = set()
    for points in axes:
        here = {key for point in points for key in point}
        if twice := keys & here:
            raise ConfigError(f"{where}: {sorted(twice)[0]!r} is on two axes; keep one of them.")
        keys |= here
    if len(both := [key for key in _HORIZONS if key in keys]) > 1:
        raise ConfigError(f"{where}: {both[0]!r} and {both[1]!r} both set D; keep one of them.")
    if tag is not None and "tag" not in keys:
        base = {**base, "tag": tag}

    def section(key: str) -> str:
        if key in changes:
            return f"{where}, changes: {key}"
        if key == "flops" and "isoflop" in values:
            return f"{where} [isoflop]: C"
        return f"{where} [axes]: {key}" if key in keys else f"{where} [base]: {key}"

    number = math.prod(map(len, axes))
    if number > _MOST_RUNS:
        raise ConfigError(
            f"{where}: the axes make {number:.3g} runs; at most {_MOST_RUNS:g} can be."
        )
    runs, ratios = [], []
    for points in itertools.product(*axes):
        point = functools.reduce(operator.or_, points, {})
        whole = _over(base, point)
        run = _run(_over(whole, changes) if changes else whole, where, section)
        if window:
            ratios.append(run.D / count.parameters(run.model, run.data.vocab_size).N)
            if not window[0] <= ratios[-1] <= window[1]:
                continue
        C = point["flops"] if "isoflop" in values and not set(_HORIZONS) & changes.keys() else None
        runs.append(_Origin(run, where, point, C))
    if window and not runs:
        raise ConfigError(
            f"{where} [isoflop]: tokens_per_parameter={list(window)} leaves out every run: D / N goes "
            f"from {min(ratios):.3g} to {max(ratios):.3g}. Widen it, or change C or the models."
        )
    return runs


def _over(base: Point, changes: Point) -> Point:
    """`base` changed; any horizon among the changes takes the place of the base's."""
    if not changes.keys().isdisjoint(_HORIZONS):
        base = {key: value for key, value in base.items() if key not in _HORIZONS}
    return base | changes


def _run(values: Point, where: str, section: Callable[[str], str]) -> RunConfig:
    """The run of a point; `section` names a key's place in messages."""
    plain = {key: value for key, value in values.items() if key not in _HORIZONS[1:]}
    snap = {key for key, value in plain.items() if type(value) is _Spaced}
    D = _snap(plain, snap) if snap else None
    own = {key: plain.pop(key) for key in ("seed",) if key in plain}
    run = _like(tuple(plain.items()), where)
    N = count.parameters(run.model, run.data.vocab_size).N
    if N >= _MOST:
        sizes = ", ".join(
            f"{section(key).removeprefix(where).strip(' :')}={_plain(value)}"
            for key, value in values.items()
            if key.startswith("model.")
        )
        raise ConfigError(f"{where}: {sizes}: a model of more than 2^63 parameters.")
    horizon = "tokens"
    for key, of in (("tokens_per_parameter", N), ("flops", 1 / (6 * N))):
        if key in values:
            horizon, D = key, values[key] * of
    if max(D or 0, run.D) >= _MOST:
        value = values.get(horizon, run.tokens)
        raise ConfigError(
            f"{section(horizon)}={_plain(value)} gives more than 2^63 training tokens, with "
            f"batch_tokens={_plain(run.batch_tokens)} and N={_plain(N)}."
        )
    if D is not None:
        # Whole steps, so that equal runs have equal configs however D was arrived at.
        own["tokens"] = max(1, round(D / run.batch_tokens)) * run.batch_tokens
    try:
        return run.with_own(**own) if own else run
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _snap(plain: Point, snap: set[str]) -> float | None:
    """Round the values of log-spaced ranges, in place, to what their fields can be; takes `tokens`
    out where they are among them, and returns them."""
    plain.update({key: float(plain[key]) for key in snap})
    default = fields_of()
    for key, unit_key in (("model.d_model", "model.n_head"), ("batch_tokens", "model.n_ctx")):
        if key in snap:
            unit = plain.get(unit_key, default[unit_key][1])
            if isinstance(unit, int) and unit > 0:
                plain[key] = max(1, round(plain[key] / unit)) * unit
    for key in snap - {"model.d_model", "batch_tokens", "tokens"}:
        if _whole(key):
            plain[key] = _round(plain[key])
    return plain.pop("tokens") if "tokens" in snap else None


@functools.lru_cache(maxsize=1024)
def _like(values: tuple[tuple[str, Any], ...], where: str) -> RunConfig:
    """A run of these values; many of a grid differ in seed and horizon alone."""
    return from_dict(dict(values), where=where)


def _distinct(runs: list[_Origin], where: str) -> dict[str, RunConfig]:
    """{run_id: run}. ConfigError where two are the same run."""
    first: dict[str, _Origin] = {}
    for each in runs:
        run_id = each.run.run_id
        if run_id in first:
            raise ConfigError(
                f"{where}: two runs are the same run {run_id}: '{first[run_id].words(where)}' and "
                f"'{each.words(where)}'. Drop one of them, or let their seeds differ. (Sizes that are "
                "computed are rounded to whole steps.)"
            )
        first[run_id] = each
    return {run_id: each.run for run_id, each in first.items()}


# ------------------------------------------------------------------ tables to points


class _Spaced(float):
    """A value of a log-spaced range: to be rounded to what its field can be."""


def _axes(table: dict[str, Any], where: str) -> list[list[Point]]:
    """The axes of a grid, each a list of points."""
    axes = []
    for key, value in _leaves(table).items():
        if key == "zip" or key in _PARTS:
            prefix = "" if key == "zip" else f"{key}."
            axes.append(_tables(value, key, prefix, where))
            continue
        _field(key, where)
        values = _spaced(value, key, where) if _is_range(value) else value
        if not isinstance(values, list):
            raise ConfigError(
                f"{where}: {key}={value!r} is one value; give a list or {{ from, to, num }}, or move "
                "it to [base]."
            )
        if not values:
            raise ConfigError(f"{where}: {key}=[] is empty.")
        for item in values:
            _check({key: item}, where)
        axes.append([{key: item} for item in values])
    return axes


def _isoflop(
    table: dict[str, Any], where: str
) -> tuple[list[list[Point]], tuple[float, float] | None]:
    _known(table, ("C", "models", "tokens_per_parameter"), where)
    for key in ("C", "models"):
        if key not in table:
            raise ConfigError(f"{where}: {key!r} is missing.")
    budgets = table["C"]
    budgets = _spaced(budgets, "C", where) if _is_range(budgets) else budgets
    if not isinstance(budgets, list) or not budgets:
        raise ConfigError(
            f"{where}: C={table['C']!r} must be a list of FLOPs or {{ from, to, num }}."
        )
    for C in budgets:
        _number(C, f"{where}: C")
    window = table.get("tokens_per_parameter")
    if window is not None:
        numbers = isinstance(window, list) and all(isinstance(x, int | float) for x in window)
        if not (numbers and len(window) == 2 and 0 < window[0] < window[1]):
            raise ConfigError(
                f"{where}: tokens_per_parameter={window!r} must be [least, most], such as [2, 500]."
            )
        window = (window[0], window[1])
    models = _tables(table["models"], "models", "model.", where)
    return [[{"flops": C} for C in budgets], models], window


def _until(table: dict[str, Any], where: str) -> Until | None:
    """The [until] table: a table for each search, of numbers above 1 but for a width."""
    kinds = {"lr": LearningRate, "isoflop": IsoFlop, "interval": Interval}
    _known(table, tuple(kinds), where)
    searches: dict[str, Any] = {}
    for name in table:
        options = _table(table, name, where)
        hints = typing.get_type_hints(kinds[name])
        _known(options, tuple(hints), f"{where} {name}")
        for key, value in options.items():
            try:
                value = coerce(value, hints[key])
            except ConfigError as error:
                raise ConfigError(f"{where} {name}.{key}: {error}") from None
            least = 1 if key in ("within", "factor", "halving", "seeds") else 0
            if isinstance(value, int | float) and not least < value < _LARGEST:
                raise ConfigError(f"{where} {name}.{key}={value} must be above {least}.")
            options[key] = value
        if name == "interval" and "width" not in options:
            raise ConfigError(f"{where} interval: 'width' is missing.")
        if name == "interval" and "seeds" in options:
            options.setdefault("add", "seeds")
        searches[name] = kinds[name](**options)
    if searches.keys() >= {"lr", "interval"}:
        raise ConfigError(
            f"{where}: lr and interval do not go together: a law is fitted to runs at one learning "
            "rate each. Search for the rate first, then give it to a sweep of its own."
        )
    return Until(**searches) if searches else None


def _tables(value: Any, key: str, prefix: str, where: str) -> list[Point]:
    """Points of an axis given as a list of tables."""
    if not (isinstance(value, list) and value and all(isinstance(v, dict) for v in value)):
        raise ConfigError(
            f"{where}: {key} must be a list of tables, such as {key} = [{{ n_layer = 1, "
            f"d_model = 32 }}, ...]; it is {value!r}."
        )
    points = [{prefix + inner: v for inner, v in _leaves(item).items()} for item in value]
    for point in points:
        for inner in point:
            _field(inner, where)
        _check(point, where)
    return points


def _flat(table: dict[str, Any], where: str) -> Point:
    """A base section as a point, each of its keys and types checked."""
    flat = _leaves(table)
    for key, value in flat.items():
        if _is_range(value):
            raise ConfigError(f"{where}: {key} is a range; ranges belong in [axes].")
        _field(key, where)
    if len(both := [key for key in _HORIZONS if key in flat]) > 1:
        raise ConfigError(f"{where}: {both[0]!r} and {both[1]!r} both set D; keep one of them.")
    _check(flat, where)
    return flat


def _check(point: Point, where: str) -> None:
    """Types and values of the fields taken one by one; how they agree shows in the run."""
    for key, value in point.items():
        positive = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        # These must agree with each other, which only the whole run can show.
        mutual = key in _MUTUAL
        if key in _HORIZONS[1:]:
            _number(value, f"{where}: {key}")
        elif isinstance(value, _Spaced) or (mutual and positive and value < _LARGEST):
            continue
        elif isinstance(value, int | float) and abs(value) >= _LARGEST:
            raise ConfigError(f"{where}: {key}={_plain(value)} is too large.")
        else:
            from_dict({key: value}, where=where)


def _number(value: Any, said: str) -> None:
    """Raise ConfigError, which begins with `said`, for what is no positive number of a size that
    can be computed with."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not (good and 0 < value < _LARGEST):
        raise ConfigError(f"{said}={_plain(value)} must be a positive number, below {_LARGEST:g}.")


def _field(key: str, where: str) -> None:
    if key in fields_of() or key in _HORIZONS:
        return
    if key in _PARTS:
        names = [leaf.partition(".")[2] for leaf in fields_of() if leaf.startswith(f"{key}.")]
        raise ConfigError(
            f"{where}: {key} is a table of fields: {', '.join(names)}. Write it as {key} = "
            f"{{ {names[0]} = ... }}, or {key}.{names[0]} = ..."
        )
    near = difflib.get_close_matches(key, _HORIZONS[1:], n=1)
    said = f"no field {key!r}. Did you mean {near[0]!r}?" if near else unknown_key(key)
    raise ConfigError(f"{where}: {said}")


def _leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and not _is_range(value):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"from", "to", "num"})


def _spaced(value: dict[str, Any], key: str, where: str) -> list[float]:
    """A log-spaced range, both ends included."""
    _known(value, ("from", "to", "num"), f"{where} {key}")
    for name in ("from", "to", "num"):
        if name not in value:
            raise ConfigError(f"{where}: {key}={value} lacks {name!r}; give {{ from, to, num }}.")
    low, high, num = value["from"], value["to"], value["num"]
    for name, number in (("from", low), ("to", high)):
        _number(number, f"{where}: {key}.{name}")  # ranges are log-spaced
    if isinstance(num, bool) or not isinstance(num, int) or not 2 <= num <= _MOST_POINTS:
        raise ConfigError(
            f"{where}: {key}.num={_plain(num)} must be a whole number of at least 2, at most "
            f"{_MOST_POINTS}."
        )
    steps = [i / (num - 1) for i in range(num)]
    values = [math.exp(math.log(low) * (1 - x) + math.log(high) * x) for x in steps]
    return [_Spaced(f"{x:.6g}") for x in values]


def _whole(key: str) -> bool:
    hint = fields_of()[key][0]
    return hint is int or int in typing.get_args(hint)


def _round(value: float) -> int:
    """To three significant digits: what a person would have written."""
    return round(float(f"{value:.3g}"))


def _plain(value: Any) -> str:
    """A value as messages show it, however many digits it has."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return reprlib.repr(value) if isinstance(value, int) else repr(value)


def _table(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {key}={table!r} must be a table: [{key}].")
    return table


def _known(values: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(names)}."
            if key in {leaf.partition(".")[0] for leaf in fields_of()}:
                hint = "Fields of runs belong in [base] or [axes]."
            raise ConfigError(f"{where}: unknown key {key!r}. {hint}")
