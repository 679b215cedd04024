"""Which searches of [until] work for the runs of a command."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.command_run import CommandRun
from scaling.errors import ConfigError
from sweeps.adaptive.grow import Searches


def check_searches(searches: Searches, runs: Sequence[CommandRun], where: str) -> None:
    """Raise ConfigError for a search that the runs of a command cannot follow."""
    if searches.isoflop:
        raise ConfigError(
            f"{where}: isoflop adds sizes between those of the spec, but only the command knows "
            "how its models are built. Give more [isoflop] models instead."
        )
    if searches.interval and searches.interval.add == "designed":
        raise ConfigError(
            f"{where}: interval designs runs of other sizes, but only the command knows how its "
            "models are built. Give add = 'seeds' to repeat the grid with other seeds."
        )
    if searches.forecast:
        raise ConfigError(
            f"{where}: forecast fits a law of curves to learning-rate schedules, which only our "
            "own trainer knows beforehand. lr.halving and lr.win stop runs of a command early."
        )
    for run in runs:
        if searches.interval:
            _check_key(run, run.seed_key, "seed", f"{where} interval")
        if searches.lr:
            _check_key(run, run.lr, "lr", f"{where} lr")
            if not run.keys[run.lr] > 0:  # type: ignore[operator]
                raise ConfigError(f"{where} lr: {run.lr}={run.keys[run.lr]} must be positive.")
        if searches.halving and (run.S or 0) < 2:
            raise ConfigError(
                f"{where}: lr.halving compares runs at a quarter and at half of their steps, which "
                f"needs the key batch_tokens (or [runner.roles] batch_tokens) and at least 2 "
                f"steps; run {run.run_id} has {run.S or 'an unknown number of'} steps."
            )


def _check_key(run: CommandRun, key: str, role: str, where: str) -> None:
    """Raise ConfigError unless a search can change this key."""
    value = run.keys.get(key)
    if isinstance(value, bool | str) or value is None:
        found = f"it is {value!r}" if value is not None else "it is not among the keys"
        hint = f"; [runner.roles] {role} names another" if key == role else ""
        raise ConfigError(f"{where} needs a number in the key {key!r}, but {found}{hint}.")
    if key in run.size_keys:
        raise ConfigError(f"{where}: N or D depends on the key {key!r}, so it cannot be searched.")
