"""One finding of an audit: a code, a sentence and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.in_words import times
from analysis.validation.audit_cost import Cost
from scaling.jsonable import finite


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a claim that its reader should know."""

    code: str
    """not_at_minimum, not_identified, rounding, units, convention_N, convention_C, trend, bias or
    held_out."""
    text: str
    cost: Cost
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind the sentence."""

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not known is None."""
        return finite(
            {
                "code": self.code,
                "text": self.text,
                "cost_nats": self.cost.nats,
                "cost_flops": self.cost.flops,
                "cost_at": self.cost.factor,
                **self.facts,
            }
        )

    def __str__(self) -> str:
        return f"{self.code.replace('_', ' ')}: {self.text} {self._price()}".rstrip()

    def _price(self) -> str:
        c = self.cost
        if c.nats is None:
            return ""
        where = f" at {c.factor:g} times the compute" if c.factor else ""
        text = f"Cost: {c.nats:.2g} nats{where}"
        if c.flops is not None and c.share is not None:
            more = (
                f"{100 * c.share:.2g} % more" if c.share < 1 else f"{times(1 + c.share)} times the"
            )
            return f"{text}, or {c.flops:.2g} FLOPs to make up ({more} compute)."
        return f"{text}."


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by cost, the most expensive first; those of unknown cost come last."""

    def price(each: Finding) -> float:
        return -1.0 if each.cost.nats is None else each.cost.nats

    return tuple(sorted(findings, key=price, reverse=True))


def constants(params: Mapping[str, float], names: Iterable[str], form: str = ".4g") -> str:
    """Return constants in words: 'E = 1.69, A = 406.4'."""
    return ", ".join(f"{name} = {params[name]:{form}}" for name in names)
