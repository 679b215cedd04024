"""Learning-rate rules: a number, 'kaplan', or a power law in N, D and B."""

from __future__ import annotations

import math
import re

from scaling.errors import ConfigError


def lr_rule(text: str, key: str = "optim.lr") -> tuple[float, dict[str, float]] | None:
    """Parse a learning-rate rule: None for 'kaplan', else (coefficient, {symbol: exponent}).

    Raises ConfigError for anything else than 'kaplan' or '<number> N^<p> D^<q> B^<r>'.
    """
    if text == "kaplan":
        return None
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    terms = text.replace("*", " ").split()
    good = bool(terms) and re.fullmatch(number, terms[0]) and float(terms[0]) > 0
    powers: dict[str, float] = {}
    for term in terms[1:]:
        match = re.fullmatch(rf"([NDB])\^\(?({number})\)?", term)
        if not match or match[1] in powers:
            good = False
            break
        powers[match[1]] = float(match[2])
    if not good:
        raise ConfigError(
            f"{key}={text!r} is neither a number, nor 'kaplan', nor a power law such as "
            "'0.05 N^-0.25 B^0.5' in N (non-embedding parameters), D and B (tokens)."
        )
    return float(terms[0]), powers


def peak_lr(rule: float | str, *, N: float, D: float, B: float) -> float:
    """Peak learning rate of a run with N non-embedding parameters, D tokens and B tokens a step.

    'kaplan' is eq. D.1 of Kaplan et al. 2020, LR(N) = 0.003239 - 0.0001395 ln N, which is not
    positive above N = 1.2e10: ConfigError there.
    """
    if not isinstance(rule, str):
        return float(rule)
    parsed = lr_rule(rule)
    if parsed is None:
        lr = 0.003239 - 0.0001395 * math.log(N)
        if lr <= 0:
            raise ConfigError(
                f"optim.lr='kaplan' (eq. D.1) gives {lr:.2g} at N={N:.3g}; the rule holds below "
                "N=1.2e10. Give a number or a power law instead."
            )
        return lr
    coefficient, powers = parsed
    values = {"N": N, "D": D, "B": B}
    return coefficient * math.prod(values[symbol] ** p for symbol, p in powers.items())


def spelled(rule: float | str | None) -> float | str | None:
    """A learning-rate rule in one spelling; a rule that is only a number is that number."""
    parsed = lr_rule(rule) if isinstance(rule, str) else None
    if parsed is None:
        return rule
    coefficient, powers = parsed
    used = {symbol: p for symbol, p in sorted(powers.items()) if p != 0}
    if not used:
        return coefficient
    return " ".join([repr(coefficient), *(f"{symbol}^{p!r}" for symbol, p in used.items())])
