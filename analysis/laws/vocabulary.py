"""A law of the vocabulary size, for the unigram-normalised loss."""

from __future__ import annotations

from analysis.laws.forms import COEFFICIENT, EXPONENT
from analysis.laws.law import Range, law


@law(
    "L_u",
    E=Range(0.3, 30),
    A_1=COEFFICIENT,
    A_2=COEFFICIENT,
    B=COEFFICIENT,
    alpha_1=EXPONENT,
    alpha_2=EXPONENT,
    beta=EXPONENT,
)
def vocabulary(N_nv, N_v, D, *, E, A_1, A_2, B, alpha_1, alpha_2, beta):
    """L_u(N_nv, N_v, D) = -E + A_1 / N_nv^alpha_1 + A_2 / N_v^alpha_2 + B / D^beta."""
    return -E + A_1 * N_nv**-alpha_1 + A_2 * N_v**-alpha_2 + B * D**-beta
