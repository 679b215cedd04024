"""A law of mixtures of experts in active parameters, tokens and experts."""

from __future__ import annotations

import numpy as np

from analysis.laws.forms import COEFFICIENT, FLOOR
from analysis.laws.law import Range, law


@law(
    c=FLOOR,
    a=COEFFICIENT,
    b=COEFFICIENT,
    alpha=Range(-1, -0.05),
    beta=Range(-1, -0.05),
    gamma=Range(-0.05, 0.05),
    zeta=Range(-0.05, 0.05),
    delta=Range(-0.5, 0.5),
    omega=Range(-1, 0.5),
    E_start=Range(1, 5),
    E_max=Range(20, 2e3),
)
def joint_experts(N, D, E, *, c, a, b, alpha, beta, gamma, zeta, delta, omega, E_start, E_max):
    """L(N, D, E) = a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E') + c.

    N is the number of active parameters, D of tokens and E of experts of equal size, of which each
    token uses one; E = 1 is a dense model, for which the law is `chinchilla` with exponents -alpha
    and -beta. E' saturates at both ends as in `routed`:
    1/E' = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max. c is the irreducible loss in nats per
    token. With few numbers of experts, hold E_start and E_max.

    Source: Ludziejewski et al. 2025 (arXiv 2502.05172); E' of Clark et al. 2022 (2202.01169)
    """
    start = 1 / (1 / E_start - 1 / E_max)
    log_experts = -np.log(1 / (E - 1 + start) + 1 / E_max)
    log_N, log_D = np.log(N), np.log(D)
    size = a * np.exp(delta * log_experts + (alpha + gamma * log_experts) * log_N)
    data = b * np.exp(omega * log_experts + (beta + zeta * log_experts) * log_D)
    return size + data + c
