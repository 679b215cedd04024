"""Laws: their definition, the published forms, and lookup by name."""

from typing import TYPE_CHECKING, Any

from analysis.laws.forms import (
    LAWS,
    batch_size,
    bottleneck,
    broken,
    broken_D,
    broken_N,
    chinchilla,
    critical_batch,
    downstream_error,
    floor,
    floor_C,
    floor_D,
    floor_N,
    gadre,
    kaplan_C,
    kaplan_D,
    kaplan_N,
    kaplan_ND,
    kaplan_NS,
    learning_rate,
    logarithm,
    mccandlish,
    muennighoff,
    power,
    routed,
    shared_exponent,
)
from analysis.laws.law import Law, LawError, Range, law
from analysis.laws.lookup import not_found, resolve, table

__all__ = [
    "LAWS",
    "Law",
    "LawError",
    "Range",
    "batch_size",
    "bottleneck",
    "broken",
    "broken_D",
    "broken_N",
    "chinchilla",
    "critical_batch",
    "downstream_error",
    "floor",
    "floor_C",
    "floor_D",
    "floor_N",
    "gadre",
    "kaplan_C",
    "kaplan_D",
    "kaplan_N",
    "kaplan_ND",
    "kaplan_NS",
    "law",
    "learning_rate",
    "logarithm",
    "mccandlish",
    "muennighoff",
    "power",
    "resolve",
    "routed",
    "shared_exponent",
    "table",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # type checkers know the names

    def __getattr__(name: str) -> Any:
        raise AttributeError(f"module 'analysis.laws' has no attribute {name!r}. {not_found(name)}")
