"""Laws that take a loss to another loss or to an accuracy, and compute to an accuracy.

An accuracy is a share between 0 and 1, in the column `accuracy`.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.forms import COEFFICIENT, EXPONENT
from analysis.laws.law import Range, law

_FLOOR = Range(0.05, 8)
"""Starting region of the irreducible loss of any text: code has less than one nat per token."""


@law(K=Range(0.05, 20), kappa=Range(0.2, 3), E_0=_FLOOR, E_1=_FLOOR)
def loss_to_loss(L_0, *, K, kappa, E_0, E_1):
    """L(L_0) = K (L_0 - E_0)^kappa + E_1.

    L_0 is the loss of a run on one text, or of a model trained on one data set; L that of the same
    run on another text, or of a model of the same size and number of tokens trained on another. E_0
    and E_1 are their irreducible losses, all in nats per token. Hold E_0 and E_1 at the floors of
    two fits of `kaplan_floor` to determine K and kappa well; :func:`analysis.relate_losses` does
    both.

    Source: Brandfonbrener et al. 2024 (arXiv 2411.12925)
    """
    return K * np.maximum(L_0 - E_0, 1e-12) ** kappa + E_1


@law(
    "accuracy",
    floor=Range(0.01, 0.5),
    ceiling=Range(0.3, 1),
    k=Range(0.3, 30),
    L_half=Range(0.5, 1.5, of="L"),
)
def accuracy_of_loss(L, *, floor, ceiling, k, L_half):
    """accuracy(L) = floor + (ceiling - floor) / (1 + exp(k (L - L_half))).

    floor is the accuracy of guessing (hold it if you know it), ceiling that at no loss; halfway
    between the two, at L_half nats per token, the curve falls by k (ceiling - floor) / 4 per nat. L
    is best the loss on the right answers of the task.

    Source: Bhagia et al. 2024 (arXiv 2412.04403), step 2
    """
    return floor + (ceiling - floor) / (1 + np.exp(k * (L - L_half)))


@law("accuracy", A=COEFFICIENT, alpha=EXPONENT)
def accuracy_C(C, *, A, alpha):
    """accuracy(C) = exp(-A / C^alpha).

    The logarithm of the accuracy is a power law of training compute C, in FLOPs, at a fixed number
    of tokens per parameter. It tends to 1, and to 0 far below the data, so it describes tasks that
    are above chance.

    Source: Krajewski et al. 2025 (arXiv 2512.08894), -log Q = A C^-alpha
    """
    return np.exp(-A * C**-alpha)


@law("accuracy", A=COEFFICIENT, B=COEFFICIENT, alpha=EXPONENT, beta=EXPONENT)
def accuracy_ND(N, D, *, A, B, alpha, beta):
    """accuracy(N, D) = exp(-A / N^alpha - B / D^beta).

    The law `accuracy_C` at any number of tokens per parameter; N is in parameters, D in tokens.

    Source: Krajewski et al. 2025 (arXiv 2512.08894), -log Q = A N^-alpha + B D^-beta
    """
    return np.exp(-A * N**-alpha - B * D**-beta)
