"""A law of fine-tuning on D examples."""

from __future__ import annotations

from analysis.laws.forms import COEFFICIENT
from analysis.laws.law import Range, law


@law(E=Range(1e-3, 5), B=COEFFICIENT, D_l=COEFFICIENT, beta=Range(0.05, 1.5))
def rectified(D, *, E, B, D_l, beta):
    """L(D) = B / (D_l + D^beta) + E."""
    return E + B / (D_l + D**beta)
