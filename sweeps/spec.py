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

import dataclasses
import difflib
import re
import shlex
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling import files as scaling_files
from scaling import size
from scaling.config import RunConfig
from scaling.errors import ConfigError
from scaling.fields import coerce
from scaling.files import EncodingError, read_text
from sweeps.adaptive.grow import Until, grow
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.halving import rungs
from sweeps.adaptive.interval import Interval, Round, Width, alike
from sweeps.adaptive.isoflop import IsoFlop
from sweeps.adaptive.learning_rate import LearningRate
from sweeps.filters import condition
from sweeps.result import Row
from sweeps.spec_runs import all_runs, at_scale, by_run_id
from sweeps.spec_values import LARGEST, Point, check_keys, flattened, refuse_huge, subtable

SPECS = Path(__file__).parent / "specs"
"""The bundled specs, found by their bare names."""

_SECTIONS = ("name", "description", "base", "axes", "isoflop", "sets", "until", "scale")


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
        tests = [condition(text) for text in filters]
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
        refuse_huge({"": values, "changes": changes}, where)
        check_keys(values, _SECTIONS, where)
        fields = {key: value for key, value in changes.items() if key not in ("name", "scale")}
        fields = flattened(fields, f"{where}, changes")
        name = values.get("name", path.stem if path else "")
        scale = changes.get("scale")
        values = at_scale(values, scale, where)
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
        runs = all_runs(values, fields, where)
        if not runs:
            raise ConfigError(
                f"{where}: no runs. Give [axes], [isoflop] or [[sets]]; for the base run alone, "
                "[axes] seed = [0]."
            )
        by_id = by_run_id(runs, where)
        budgets = {each.run.run_id: each.C for each in runs if each.C is not None}
        until = _until(subtable(values, "until", where), f"{where} [until]")
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
    good = {scaling_files.code_file(file) for file in allowed}
    files = []
    for reference in named:
        file = scaling_files.code_file(reference)
        if not (file in good or file.is_relative_to(path.parent.resolve())):
            raise ConfigError(
                f"{path}, or a change to it, names code outside its own folder: {reference!r} is {file}. "
                f"Read that file; to allow it, add --allow-code {shlex.quote(str(file))}."
            )
        size.allow(reference)
        files.append(file)
    return list(dict.fromkeys(files))


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


def _until(table: dict[str, Any], where: str) -> Until | None:
    """The [until] table: a table for each search, of numbers above 1 but for a width."""
    kinds = {"lr": LearningRate, "isoflop": IsoFlop, "interval": Interval}
    check_keys(table, tuple(kinds), where)
    searches: dict[str, Any] = {}
    for name in table:
        options = subtable(table, name, where)
        hints = typing.get_type_hints(kinds[name])
        check_keys(options, tuple(hints), f"{where} {name}")
        for key, value in options.items():
            try:
                value = coerce(value, hints[key])
            except ConfigError as error:
                raise ConfigError(f"{where} {name}.{key}: {error}") from None
            least = 1 if key in ("within", "factor", "halving", "seeds") else 0
            if isinstance(value, int | float) and not least < value < LARGEST:
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
