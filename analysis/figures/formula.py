"""Laws and intervals as formulas, for legends and titles."""

from __future__ import annotations

import numpy as np

from analysis import laws
from analysis.fitting.result import FitResult
from analysis.in_words import interval, typeset
from analysis.laws.symbols import name, tex

_EXPONENTS = ("alpha", "beta")
"""How names of exponents begin."""
_FORMULAS = {
    "kaplan_N": "L = (N/{N_c})^{{-{alpha_N}}}",
    "kaplan_D": "L = (D/{D_c})^{{-{alpha_D}}}",
    "kaplan_C": "L = (C/{C_c})^{{-{alpha_C}}}",
    "floor_N": "L = {E} + {A}\\,N^{{-{alpha}}}",
    "floor_D": "L = {E} + {A}\\,D^{{-{alpha}}}",
    "floor_C": "L = {E} + {A}\\,C^{{-{alpha}}}",
    "logarithm_N": "L = -{k}\\,\\ln(N/{x_0})",
    "logarithm_D": "L = -{k}\\,\\ln(D/{x_0})",
    "logarithm_C": "L = -{k}\\,\\ln(C/{x_0})",
    "chinchilla": "L = {E} + {A}\\,N^{{-{alpha}}} + {B}\\,D^{{-{beta}}}",
    "bottleneck": (
        "L = {E} + [({A}\\,N^{{-{alpha}}})^{{{k}}} + ({B}\\,D^{{-{beta}}})^{{{k}}}]^{{1/{k}}}"
    ),
    "shared_exponent": "L = {E} + {A}\\,(1/N + {kappa}/D)^{{{alpha}}}",
    "kaplan_NS": "L = (N/{N_c})^{{-{alpha_N}}} + (S/{S_c})^{{-{alpha_S}}}",
    "kaplan_ND": "L = [(N/{N_c})^{{-{alpha_N}/{alpha_D}}} + {D_c}/D]^{{{alpha_D}}}",
}


def with_interval(result: FitResult) -> str:
    """Return the formula and, if the law has one exponent, its interval on a second line."""
    exponents = [each for each in result.law.params if each.startswith("alpha")]
    if len(exponents) != 1:
        return formula(result)
    row = result.interval().loc[exponents[0]]
    symbol = name(result.law, exponents[0])
    return f"{formula(result)}\n{between(symbol, row['low'], row['high'])}"


def between(symbol: str, low: float, high: float) -> str:
    """Return the interval of an exponent as a formula."""
    if not np.isfinite([low, high]).all():
        return f"${tex(symbol)}$ {spread(low, high, '.3f')}"
    return rf"${tex(symbol)} \in [{low:.3f}, {high:.3f}]$"


def spread(low: float, high: float, form: str) -> str:
    """Return an interval in brackets with typographic minus signs, or in words."""
    return typeset(interval(low, high, form))


def formula(result: FitResult) -> str:
    """Return the law with its fitted numbers for a legend; its name if it has no short form."""
    pattern = _FORMULAS.get(result.law.name)
    if pattern is None or result.law != laws.resolve(result.law.name):
        return result.law.name
    floor = 1e-6 * float(result.runs[result.law.target].min())
    numbers = {k: "0" if k == "E" and v < floor else latex(v) for k, v in result.params.items()}
    numbers |= {k: _exponent(v) for k, v in result.params.items() if k.startswith(_EXPONENTS)}
    return f"${pattern.format(**numbers)}$"


def _exponent(value: float) -> str:
    """Return a number that stands as a power: small ones have no power of ten themselves."""
    return f"{value:.4f}" if 0.0005 <= abs(value) < 0.01 else latex(value)


def latex(value: float) -> str:
    """Return a number for math mode: three digits below 100, powers of ten above."""
    if value == 0 or np.isinf(value):
        return "0" if value == 0 else r"\infty"
    if 0.01 <= abs(value) < 1:
        return f"{value:.3f}"
    if 1 <= abs(value) < 100:
        return f"{value:.3g}"
    mantissa, _, power = f"{value:.1e}".partition("e")
    return rf"{mantissa}\cdot 10^{{{int(power)}}}"
