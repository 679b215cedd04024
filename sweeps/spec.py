"""The TOML file of a sweep, and the runs that it defines.

    name = "example"
    description = "what it is to show"
    tasks = ["agree", "swap"]               # optional: what `scaling eval` evaluates the runs on

    [base]                                  # fields of RunConfig that all runs share
    data.corpus = "prose"
    optim.lr = "0.05 N^-0.25"               # a number or a rule

    [axes]                                  # every combination of these is a run
    seed = [0, 1]
    batch_tokens = { from = 1024, to = 65536, num = 7 }      # log-spaced
    model = [{ n_layer = 1, d_model = 32 }, { n_layer = 2, d_model = 64 }]  # keys that go together
    tokens_per_parameter = [5, 20, 80]      # D = r N; or `tokens` for D, or `flops` for C = 6 N D

    [isoflop]                               # D = C / (6 N) for every budget and every model
    C = [1e12, 1e13]                        # FLOPs
    models = [{ n_layer = 1, d_model = 32 }, { n_layer = 2, d_model = 64 }]
    tokens_per_parameter = [2, 500]         # optional: leave out what lies outside

    [[sets]]                                # more runs: own base on top of the shared one, own axes
    name = "critical-batch"                 # also the tag of its runs
    base.optim.lr = 1e-3
    axes.batch_tokens = [1024, 4096]

    [scale.gpu]                             # `--scale gpu`: the same experiment elsewhere. These
    base.precision = "bfloat16"             # values replace those above, key by key (sets by
    axes.tokens_per_parameter = [20, 40]    # name); the results folder is example-gpu

    [execution]                             # this does not change which runs these are:
    keep_weights = true                     # keep the weights of finished runs, in their folders
    micro_tokens = 32768                    # and save memory: as --micro-tokens
    recompute = true                        # and --recompute

    [until]                                 # add runs as results come in (sweeps/adaptive)
    lr = { within = 1.25, factor = 4 }      # the best learning rate of every run, by golden
                                            # section; halving = 2 stops the worse half early
    isoflop = { within = 1.5 }              # sizes, until the best one of each budget is bracketed
    interval = { law = "chinchilla", parameter = "alpha", width = 0.05 }    # designed runs, in
                                            # rounds; with add = "seeds", the whole grid again
    forecast = { N = 3e6, D = 2e7, width = 0.05 }   # stop runs whose end is known well enough
                                            # for the loss of a run of this size

    [runner]                                # a command trains the runs instead of our own trainer
    command = "python train.py --lr {lr}"   # (sweeps/runner/parse.py); keys are the command's own

`zip = [{...}, ...]` among the axes ties any keys together, written from the top (`model.n_layer`).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.abilities.names import check_names
from scaling.command_run import CommandRun, Run
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.fields import coerce
from scaling.files import EncodingError, read_text
from sweeps.adaptive.candidates import check_same_settings
from sweeps.adaptive.families import configs_of
from sweeps.adaptive.forecast import Forecast
from sweeps.adaptive.grow import Searches, grow
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.halving import rungs
from sweeps.adaptive.interval import Round, Width
from sweeps.filters import condition
from sweeps.result import Row
from sweeps.runner.identity import Identity, Recorded
from sweeps.runner.parse import Definition
from sweeps.runner.runner import Runner
from sweeps.runner.searches import check_searches
from sweeps.runner.trainer import trainer_of
from sweeps.spec_code import check_trust, code_files
from sweeps.spec_runs import all_runs, at_scale, by_run_id
from sweeps.spec_until import searches_of
from sweeps.spec_values import Point, check_keys, flattened, leaves, refuse_huge, subtable

SPECS = Path(__file__).parent / "specs"
"""Folder of the bundled specs, which are found by name."""

_SECTIONS = (
    "name", "description", "tasks", "base", "axes", "isoflop", "sets", "execution", "until",
    "scale", "runner",
)  # fmt: skip
_EXECUTION = ("keep_weights", "micro_tokens", "recompute")
"""Fields of Execution that a spec may set; the rest depend on the machine."""


@dataclass(frozen=True)
class Spec:
    """A named set of runs."""

    name: str
    by_id: dict[str, Run] = field(hash=False)
    """The runs by id, in the order of the file."""
    description: str = ""
    path: Path | None = None
    text: str = ""
    """The TOML text that it was read from."""

    changes: Point = field(default_factory=dict, hash=False)
    """Changes {dotted key: value} to every run, on top of the TOML."""

    searches: Searches | None = None
    """The searches of [until], which add runs as results come in."""

    budgets: dict[str, float] = field(default_factory=dict, hash=False)
    """FLOPs C of the runs of [isoflop], by run id."""

    selection: tuple[str, ...] = ()
    """Arguments of `scaling sweep` that select these runs among those of the TOML; empty for
    all."""

    allowed: tuple[str, ...] = ()
    """Files of code outside the spec's folder that may be executed."""

    keep_weights: bool = False
    """Whether finished runs keep their weights (scaling/weights.py)."""

    micro_tokens: int | None = None
    """Largest number of tokens of a run in one pass of a device, unless the options give one."""

    recompute: bool = False
    """Whether activations are recomputed in the backward pass."""

    tasks: tuple[str, ...] = ()
    """Tasks to evaluate the finished runs on (scaling/abilities/names.py)."""

    runner: Runner | None = None
    """How the command of [runner] trains the runs; None if our own trainer does."""

    recorded: Recorded = field(default_factory=Recorded)
    """Hashes of the code that identifies the runs, and the sizes that `count` printed."""

    same_code: bool = False
    """Whether the hashes are those of the results folder instead of those of the files now."""

    notes: tuple[str, ...] = ()
    """Remarks about the spec, one line each."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in the order of the file."""
        return tuple(self.by_id.values())

    def select(self, filters: Sequence[str] = (), tag: str | None = None) -> Spec:
        """Return the spec with only the runs that have the tag `tag` and meet all `filters`.

        A filter is KEY OP VALUE, such as 'model.n_layer=2', 'D<1e6' or 'seed!=0': a field of
        RunConfig or a key of the command, N, D, C or B, and one of = != < <= > >=. Raises
        ConfigError if a filter is not of this form, and if no run is left.
        """
        words = [word for text in filters for word in ("--filter", text)]
        words += ["--tag", tag] if tag is not None else []
        commands = [run for run in self.runs if isinstance(run, CommandRun)]
        conditions = [condition(text, commands) for text in filters]
        by_id = {
            run_id: run
            for run_id, run in self.by_id.items()
            if tag in (None, run.tag) and all(holds(run) for holds in conditions)
        }
        if not by_id:
            tags = ", ".join(sorted({repr(run.tag) for run in self.runs if run.tag})) or "none"
            raise ConfigError(
                f"{self.name}: none of {len(self.by_id)} runs matches {shlex.join(words)}; tags "
                f"are {tags}."
            )
        budgets = {run_id: C for run_id, C in self.budgets.items() if run_id in by_id}
        searches = self.searches
        if searches and self.by_design:  # Rounds are designed for all runs together.
            searches = dataclasses.replace(searches, interval=None)
        return dataclasses.replace(
            self,
            by_id=by_id,
            budgets=budgets,
            searches=searches,
            selection=(*self.selection, *words),
        )

    def designed(
        self,
        rows: Mapping[str, Row],
        width: Width | None = None,
        rounds: Sequence[Round] = (),
    ) -> Growth:
        """Return the runs of the TOML and those that [until] adds, given the results `rows` by run
        id (:func:`sweeps.adaptive.grow.grow`)."""
        return grow(self.by_id, self.budgets, self.searches, rows, width, rounds)

    def executed(self, execution: Execution) -> Execution:
        """Return how the runs are executed, given the `execution` of a call's options."""
        return dataclasses.replace(
            execution,
            keep_weights=self.keep_weights,
            micro_tokens=execution.micro_tokens or self.micro_tokens,
            recompute=execution.recompute or self.recompute,
        )

    @property
    def by_design(self) -> bool:
        """Whether [until] adds rounds of designed runs."""
        interval = self.searches.interval if self.searches else None
        return interval is not None and interval.add == "designed"

    @property
    def halving(self) -> float | None:
        """Factor by which the number of arms is reduced at each rung
        (:mod:`sweeps.adaptive.halving`); None if no run is stopped early."""
        return self.searches.halving if self.searches else None

    @property
    def forecast(self) -> Forecast | None:
        """The question for which runs are stopped once their ends are known well enough; None if no
        run is stopped on forecasts."""
        return self.searches.forecast if self.searches else None

    @property
    def stops_early(self) -> bool:
        """Whether runs may be stopped before their end."""
        return self.searches is not None and self.searches.stop_early

    @classmethod
    def from_toml(
        cls,
        path_or_name: str | Path,
        changes: Point | None = None,
        *,
        allow_code: Sequence[str | Path] = (),
        on_code: Callable[[Path], None] = lambda file: None,
        same_code: bool = False,
        recorded: Callable[[str], Recorded] = lambda name: Recorded(),
    ) -> Spec:
        """Read a spec from a file, or a bundled one by its name.

        `changes` apply to fields of every run; a 'name' among them renames the sweep, and a 'scale'
        selects one of its scales. A spec may name files with the code of a model family or a law.
        They are executed if they lie in the spec's folder or are listed in `allow_code`, after
        `on_code` has been called with each. So are the commands of a spec in the current folder, or
        one that `allow_code` lists.

        `recorded` returns what the results folder of a sweep, given by its name, says about a
        command. With `same_code`, the hashes of its code are those recorded. Raises ConfigError,
        naming the file and the section, for an invalid spec and for code that is not allowed.
        """
        path = find(path_or_name)
        try:
            text = read_text(path)
        except (OSError, EncodingError) as error:
            raise ConfigError(f"{path} cannot be read: {error}.") from None
        allowed = tuple(map(str, allow_code))
        for file in code_files(text, path, changes or {}, allowed):
            on_code(file)

        def identity(name: str, definition: Definition) -> Identity:
            if check_trust(definition, path, SPECS, allowed):
                on_code(path)
            return Identity(recorded=recorded(name), same_code=same_code, executes=True)

        spec = cls.from_text(text, path=path, changes=changes, identity=identity)
        return dataclasses.replace(spec, allowed=allowed)

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        path: Path | None = None,
        changes: Point | None = None,
        identity: Callable[[str, Definition], Identity] = lambda name, definition: Identity(),
    ) -> Spec:
        """Read a spec from TOML text. Raises ConfigError.

        `path` is the file in messages; the files of a command are relative to its folder. Given the
        name of the sweep and its [runner], `identity` returns where the identity of a command comes
        from; by default nothing is recorded, and no `count` is executed.
        """
        changes = dict(changes or {})
        where = str(path) if path else "spec"
        values = _parsed(text, where)
        refuse_huge({"": values, "changes": changes}, where)
        check_keys(values, _SECTIONS, where)
        values = at_scale(values, changes.get("scale"), where)
        name = _name(values, changes, where, default=path.stem if path else "")
        description = values.get("description", "")
        if not isinstance(description, str):
            raise ConfigError(f"{where}: description={description!r} must be text.")
        own = ("name", "scale")
        fields = {key: value for key, value in leaves(changes).items() if key not in own}
        setting = _taken(fields, "execution.")
        trainer = trainer_of(values, _taken(fields, "runner."), name, path, identity, where)
        if setting and trainer.runner:
            raise ConfigError(f"{where}: {next(iter(setting))} does not go with [runner].")
        fields = flattened(fields, trainer.keys, f"{where}, changes")
        runs = all_runs(values, fields, where, trainer.keys)
        if not runs:
            raise ConfigError(
                f"{where}: no runs. Give [axes], [isoflop] or [[sets]]; for the base run alone, "
                "[axes] seed = [0]."
            )
        spec = cls(
            name=name,
            by_id=by_run_id(runs, where),
            description=description,
            path=path,
            text=text,
            changes=changes,
            searches=searches_of(subtable(values, "until", where), f"{where} [until]"),
            budgets={each.run.run_id: each.C for each in runs if each.C is not None},
            tasks=_tasks(values.get("tasks", []), where),
            runner=trainer.runner,
            recorded=trainer.recorded,
            same_code=trainer.same_code,
            notes=trainer.notes,
            **_execution(subtable(values, "execution", where), setting, where),
        )
        _check_searches(spec, f"{where} [until]")
        return spec


def _parsed(text: str, where: str) -> dict[str, Any]:
    """Return the values in TOML text."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: its values are nested too deeply.") from None
    except ValueError as error:  # TOMLDecodeError, or a number with more digits than Python reads
        line = re.search(r"line (\d+)", str(error))
        at = f"{where}:{line[1]}" if line else where
        raise ConfigError(f"{at}: not valid TOML: {error}.") from None


def _taken(changes: Point, prefix: str) -> Point:
    """Remove the changes whose keys begin with `prefix`, and return them."""
    return {key: changes.pop(key) for key in list(changes) if key.startswith(prefix)}


def _name(values: dict[str, Any], changes: Point, where: str, *, default: str) -> str:
    """Return the name of the sweep, which also names its results folder."""
    name, scale = values.get("name", default), changes.get("scale")
    name = changes.get("name", name if scale is None else f"{name}-{scale}")
    if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) and name.strip(".")):
        raise ConfigError(
            f"{where}: name={name!r} must be a word of letters, digits, '-', '_' and '.': it "
            "names the results folder."
        )
    return name


def _execution(table: dict[str, Any], changes: Point, where: str) -> dict[str, Any]:
    """Return the settings of [execution], as changed by `changes` {dotted key: value}."""
    settings = {f"execution.{key}": value for key, value in leaves(table).items()} | changes
    hints = typing.get_type_hints(Execution)
    found = {}
    for key, value in settings.items():
        name = key.removeprefix("execution.")
        if name not in _EXECUTION:
            raise ConfigError(
                f"{where}: a spec cannot set {key}, only "
                f"{', '.join(f'execution.{name}' for name in _EXECUTION)}; the rest are options of "
                "the command, such as --threads."
            )
        if hints[name] is bool and not isinstance(value, bool):
            raise ConfigError(f"{where}: {key}={value!r} must be true or false.")
        try:
            found[name] = coerce(value, hints[name])
        except ConfigError as error:
            raise ConfigError(f"{where}: {key}: {error}") from None
    try:
        Execution(**found)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return found


def _tasks(names: object, where: str) -> tuple[str, ...]:
    """Return the names of tasks, checked."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: tasks={names!r} must be a list of names.")
    try:
        check_names(names)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return tuple(names)


def _check_searches(spec: Spec, where: str) -> None:
    """Raise ConfigError if the runs of the spec do not suit its searches."""
    if spec.searches is None:
        return
    if spec.runner is not None:
        commands = [run for run in spec.runs if isinstance(run, CommandRun)]
        check_searches(spec.searches, commands, where)
        return
    if spec.searches.isoflop and not spec.budgets:
        raise ConfigError(f"{where}: isoflop needs an [isoflop] section with budgets.")
    if spec.by_design:
        try:
            check_same_settings(configs_of(spec.by_id).values())
        except ConfigError as error:
            raise ConfigError(f"{where} interval: {error}") from None
    if spec.halving is None:
        return
    for run in configs_of(spec.by_id).values():
        if not rungs(run):
            raise ConfigError(
                f"{where}: lr.halving={spec.halving:g} compares runs between a quarter of their "
                f"steps and the end, but with eval.points={run.eval.points} run {run.run_id}, of "
                f"{run.S} steps, is not measured in between once its warm-up is over. Give more "
                "eval.points, or leave halving out."
            )


def bundled() -> list[str]:
    """Return the names of the bundled specs."""
    return sorted(path.stem for path in SPECS.glob("*.toml"))


def find(path_or_name: str | Path) -> Path:
    """Return the file of a spec given by path or by name. Raises ConfigError if there is none."""
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
