"""Laws: their definition, the published forms, and lookup by name."""

from typing import TYPE_CHECKING, Any

from analysis.laws.downstream import accuracy_C, accuracy_ND, accuracy_of_loss, loss_to_loss
from analysis.laws.experts import joint_experts
from analysis.laws.finetuning import rectified
from analysis.laws.forms import (
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
    kaplan_floor,
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
from analysis.laws.registry import LAWS
from analysis.laws.repeated import bryant, lovelace, overfitting
from analysis.laws.vocabulary import vocabulary

__all__ = [
    "LAWS",
    "Law",
    "LawError",
    "Range",
    "accuracy_C",
    "accuracy_ND",
    "accuracy_of_loss",
    "batch_size",
    "bottleneck",
    "broken",
    "broken_D",
    "broken_N",
    "bryant",
    "chinchilla",
    "critical_batch",
    "downstream_error",
    "floor",
    "floor_C",
    "floor_D",
    "floor_N",
    "gadre",
    "joint_experts",
    "kaplan_C",
    "kaplan_D",
    "kaplan_N",
    "kaplan_ND",
    "kaplan_NS",
    "kaplan_floor",
    "law",
    "learning_rate",
    "logarithm",
    "loss_to_loss",
    "lovelace",
    "mccandlish",
    "muennighoff",
    "overfitting",
    "power",
    "rectified",
    "resolve",
    "routed",
    "shared_exponent",
    "table",
    "vocabulary",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # type checkers know the names

    def __getattr__(name: str) -> Any:
        raise AttributeError(f"module 'analysis.laws' has no attribute {name!r}. {not_found(name)}")
