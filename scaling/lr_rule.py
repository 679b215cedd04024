"""Learning-rate rules: a number, 'kaplan', or a power law in N, D and B."""

from __future__ import annotations

import math
import re

from scaling.errors import ConfigError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def lr_rule(text: str, key: str = "optim.lr") -> tuple[float, dict[str, float]] | None:
    """Parse a learning-rate rule: None for 'kaplan', else (coefficient, {symbol: exponent}).

    Raises ConfigError for anything but 'kaplan' and '<number> N^<p> D^<q> B^<r>'; `key` is the
    config key of the rule.
    """
    if text == "kaplan":
        return None
    terms = text.replace("*", " ").split()
    good = bool(terms) and re.fullmatch(_NUMBER, terms[0]) and float(terms[0]) > 0
    exponents: dict[str, float] = {}
    for term in terms[1:]:
        match = re.fullmatch(rf"([NDB])\^\(?({_NUMBER})\)?", term)
        if not match or match[1] in exponents:
            good = False
            break
        exponents[match[1]] = float(match[2])
    if not good:
        raise ConfigError(
            f"{key}={text!r} is neither a number, nor 'kaplan', nor a power law such as "
            "'0.05 N^-0.25 B^0.5' in N (non-embedding parameters), D and B (tokens)."
        )
    return float(terms[0]), exponents


def peak_lr(rule: float | str, *, N: float, D: float, B: float) -> float:
    """Return the peak learning rate for N non-embedding parameters, D tokens and B tokens per step.

    'kaplan' is eq. D.1 of Kaplan et al. 2020, LR(N) = 0.003239 - 0.0001395 ln N. Raises ConfigError
    above N = 1.2e10, where it is not positive.
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
    coefficient, exponents = parsed
    values = {"N": N, "D": D, "B": B}
    return coefficient * math.prod(values[symbol] ** p for symbol, p in exponents.items())


def spelled(rule: float | str | None) -> float | str | None:
    """Return a learning-rate rule in its canonical spelling; a constant rule becomes a number."""
    parsed = lr_rule(rule) if isinstance(rule, str) else None
    if parsed is None:
        return rule
    coefficient, exponents = parsed
    used = {symbol: p for symbol, p in sorted(exponents.items()) if p != 0}
    if not used:
        return coefficient
    return " ".join([repr(coefficient), *(f"{symbol}^{p!r}" for symbol, p in used.items())])
