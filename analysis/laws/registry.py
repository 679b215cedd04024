"""Every published law by name, from the modules that define them."""

from __future__ import annotations

from analysis.laws import downstream, experts, finetuning, forms, repeated, vocabulary
from analysis.laws.law import Law

LAWS: dict[str, Law] = {
    each.name: each
    for module in (forms, repeated, vocabulary, experts, finetuning, downstream)
    for each in vars(module).values()
    if isinstance(each, Law)
}
"""Every law of this package by name."""
