"""Laws of repeated data, in which another epoch can raise the loss.

:data:`analysis.laws.forms.muennighoff` lets the worth of repeated tokens fall to zero; these laws
let it fall below. All of them take D, the tokens processed, and D_unique, the distinct tokens among
them; D / D_unique is the number of epochs. Less than one epoch repeats nothing.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.forms import COEFFICIENT, EXPONENT, FLOOR
from analysis.laws.law import Range, law

_NO_REPETITION = 1e-100
"""Stands for no repetition: 0^delta has no derivative with respect to delta."""


@law(
    E=FLOOR,
    A=COEFFICIENT,
    B=COEFFICIENT,
    alpha=EXPONENT,
    beta=EXPONENT,
    P=Range(1e-5, 10),
    delta=Range(0.1, 3),
    kappa=Range(0.1, 3),
)
def lovelace(N, D, D_unique, *, E, A, B, alpha, beta, P, delta, kappa):
    """L(N, D, U) = E + A / N^alpha + B / D^beta + P R^delta (N / U)^kappa, R = D / U - 1.

    U = D_unique tokens are repeated R times. The last term is the penalty of overfitting, in nats
    per token: it grows with repetition and with parameters per unique token, and is 0 without
    repetition, which leaves `chinchilla`. P is the penalty at two epochs of one token per
    parameter; strong weight decay lowers it.

    Source: Lovelace et al. 2026 (arXiv 2605.01640), as restated in Weng 2026, "Scaling Laws,
    Carefully"
    """
    R = np.maximum(D / np.minimum(D, D_unique) - 1, _NO_REPETITION)
    penalty = P * R**delta * (N / np.minimum(D, D_unique)) ** kappa
    return E + A * N**-alpha + B * D**-beta + penalty


@law(
    E=FLOOR,
    L_max=Range(5, 20),
    a=COEFFICIENT,
    b=COEFFICIENT,
    c=Range(1e-8, 1e4),
    alpha=EXPONENT,
    beta=EXPONENT,
    gamma=EXPONENT,
    delta=EXPONENT,
)
def bryant(N, D, D_unique, *, E, L_max, a, b, c, alpha, beta, gamma, delta):
    """L(N, D, U) = E + (L_max - E) h / (1 + h), h = a / N^alpha + b / D^beta + c N^gamma / U^delta.

    The terms of h are undercapacity, undertraining, and overfitting of N parameters to U = D_unique
    tokens. The loss stays between E and L_max, in nats per token: L_max is that of a model that
    knows nothing, at most the logarithm of the vocabulary size; hold it if you know it. For small h
    and ample data the law is `chinchilla`. A larger model can be worse; another epoch of the same
    tokens is not.

    Source: Bryant and Liu 2026 (arXiv 2605.09189), abstract and published summaries of the form
    """
    U = np.minimum(D, D_unique)
    h = a * N**-alpha + b * D**-beta + c * N**gamma * U**-delta
    return E + (L_max - E) * h / (1 + h)


@law(
    E=FLOOR,
    A=COEFFICIENT,
    B=COEFFICIENT,
    alpha=EXPONENT,
    beta=EXPONENT,
    R_D=Range(0.1, 1e3),
    P=Range(1e-5, 10),
    kappa=Range(0.1, 3),
)
def overfitting(N, D, D_unique, *, E, A, B, alpha, beta, R_D, P, kappa):
    """L(N, D, U) = E + A / N^alpha + B / (U + U R_D s)^beta + P s (N / U)^kappa, s saturates in D.

    s = 1 - exp(-(D / U - 1) / R_D) rises from 0 for one epoch of U = D_unique tokens to 1 for many.
    Repeated tokens lose their worth as in `muennighoff`, and as they do, N parameters overfit to U
    tokens: by P nats per token in the end if there is one token per parameter. Another epoch
    raises the loss if that outweighs the worth that is left. Without repetition the law is
    `chinchilla`. Of the laws of repeated data it predicts held-out runs best (182 runs of
    Muennighoff et al. 2023).

    Source: this package; the worth of repeated tokens of Muennighoff et al. 2023 (arXiv
    2305.16264) with the capacity penalty of Lovelace et al. 2026 (arXiv 2605.01640)
    """
    U = np.minimum(D, D_unique)
    s = -np.expm1(-(D / U - 1) / R_D)
    return E + A * N**-alpha + B * (U + U * R_D * s) ** -beta + P * s * (N / U) ** kappa
