"""Names of fitted numbers, as they are printed and drawn: one number per name.

A parameter is named within its law, where its name is unique. If laws of the same quantity share a
symbol but are fitted to different things, such as alpha_N of L(N) and of L(N, D), the name has a
superscript that tells them apart.
"""

from __future__ import annotations

import re

from analysis.laws.law import Law

ENVELOPE = "alpha_C^env"
"""Exponent of L(C) along the envelope of the learning curves."""

MEANINGS = {
    "alpha_N": "exponent of L(N), fitted to the best run at each N",
    "alpha_D": "exponent of L(D), fitted to the best run at each D",
    "alpha_C": "exponent of L(C), fitted to the best run at each C",
    "alpha_C^env": "exponent of L(C) along the envelope of the learning curves",
    "alpha_N^ND": "exponent of N in L(N, D) of Kaplan et al. 2020, eq. 1.5, fitted to all runs",
    "alpha_D^ND": "exponent of D in the same fit",
    "alpha_N^NS": "exponent of N in L(N, S) of Kaplan et al. 2020, eq. 1.6, fitted to the curves",
    "alpha_S": "exponent of S in the same fit",
}
"""Meanings of the exponents that are easily confused."""

_SUPERSCRIPTS = {
    "kaplan_ND": ("ND", ("N_c", "D_c", "alpha_N", "alpha_D")),
    "kaplan_NS": ("NS", ("N_c", "alpha_N")),
}


def name(law: Law, parameter: str) -> str:
    """Return the name under which a parameter of a law is printed."""
    superscript, parameters = _SUPERSCRIPTS.get(law.name, ("", ()))
    return f"{parameter}^{superscript}" if parameter in parameters else parameter


def tex(name: str) -> str:
    """Return a name in math mode, without dollars: alpha_C^env -> \\alpha_C^\\mathrm{env}."""
    head, _, superscript = name.partition("^")
    head = re.sub(r"^(alpha|beta|gamma|kappa|eta|eps)\b|^(alpha|beta)(?=_)", r"\\\g<0>", head)
    return rf"{head}^\mathrm{{{superscript}}}" if superscript else head
