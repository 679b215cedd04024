"""The rules that a suite compares: which laws are fitted, how, and which of them predicts.

A new rule is one line in RULES.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from analysis.fitting.fit import fit
from scaling.errors import ConfigError, did_you_mean

Selection = Literal["single", "aicc", "aicc_weights", "held_out", "median", "stacking"]

LAWS = ("chinchilla", "kaplan_ND", "bottleneck", "shared_exponent")


@dataclass(frozen=True, kw_only=True)
class How:
    """How laws are fitted: options of :func:`analysis.fit`."""

    objective: str = "auto"
    delta: float | None = None
    on: str = "log"
    weights: str | None = None
    prior: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that differ from the defaults."""
        default = asdict(How())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to predict larger runs from smaller ones."""

    name: str
    laws: tuple[str, ...]
    how: How = How()
    selection: Selection = "single"

    @property
    def available(self) -> bool:
        """Whether this version can follow the rule."""
        if "auto" in self.laws:
            return importlib.util.find_spec("analysis.fitting.combination") is not None
        return self.how.prior is None or "prior" in inspect.signature(fit).parameters


WAYS: dict[str, How] = {
    "": How(),
    ":huber1e-3": How(objective="huber", delta=1e-3),
    ":ls": How(objective="ls"),
    ":lad": How(objective="lad"),
    ":raw": How(on="raw"),
    ":C": How(weights="C"),
    ":prior": How(prior="field"),
    ":prior+C": How(prior="field", weights="C"),
}
"""Fit rules by the ending that they give to a rule's name; '' is the default of `fit`."""

RULES: tuple[Rule, ...] = (
    Rule(name="power_C", laws=("power_C",)),
    *(Rule(name=law + end, laws=(law,), how=how) for end, how in WAYS.items() for law in LAWS),
    *(
        Rule(name=selection + end, laws=LAWS, how=WAYS[end], selection=selection)
        for end in ("", ":C", ":prior", ":prior+C")
        for selection in ("aicc", "aicc_weights", "held_out", "median", "stacking")
    ),
    Rule(name="auto", laws=("auto",)),
)
"""The rules by which defaults are chosen. `held_out` is the law that predicts the larger of the
runs fitted best, among those that the runs determine."""

BASELINE = "held_out"
"""The rule to which others are compared unless another is asked for."""


def rules_named(patterns: Sequence[str]) -> tuple[Rule, ...]:
    """Return the available rules whose names match one of the patterns, such as 'bottleneck*'.

    Raises ConfigError for a pattern that no rule matches.
    """
    known = [rule for rule in RULES if rule.available]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(rule.name, pattern) for rule in known):
            names = [rule.name for rule in known]
            raise ConfigError(
                f"no rule is called {pattern!r}.{did_you_mean(pattern, names)} "
                f"The rules: {', '.join(names)}."
            )
    return tuple(
        rule
        for rule in known
        if not patterns or any(fnmatch.fnmatchcase(rule.name, pattern) for pattern in patterns)
    )
