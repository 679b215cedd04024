"""Published forms of scaling laws, each with its source."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.laws.law import Law, LawError, Range, law

EXPONENT = Range(0.05, 1.5)
"""Starting region of loss exponents."""
FLOOR = Range(0.1, 5)
"""Starting region of the irreducible loss in nats per token."""
COEFFICIENT = Range(1e-2, 1e12)
_SCALE = Range(1e3, 1e24)
"""N_c, D_c, C_c ...: the size at which a pure power law would reach one nat."""

# --- One variable ---------------------------------------------------------------------------------


@law(N_c=_SCALE, alpha_N=EXPONENT)
def kaplan_N(N, *, N_c, alpha_N):
    """L(N) = (N_c / N)^alpha_N.

    N is the number of non-embedding parameters of models trained to convergence on enough data; N_c
    is in parameters.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.1
    """
    return (N_c / N) ** alpha_N


@law(D_c=_SCALE, alpha_D=EXPONENT)
def kaplan_D(D, *, D_c, alpha_D):
    """L(D) = (D_c / D)^alpha_D.

    D is the number of tokens in the data set of a large model, with early stopping; D_c is in
    tokens.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.2
    """
    return (D_c / D) ** alpha_D


@law(C_c=Range(1e8, 1e40), alpha_C=EXPONENT)
def kaplan_C(C, *, C_c, alpha_C):
    """L(C) = (C_c / C)^alpha_C.

    C is training compute along the compute-optimal frontier; C_c is in FLOPs (PF-days in the
    paper).

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.3
    """
    return (C_c / C) ** alpha_C


def floor(x: str) -> Law:
    """Return E + A / x^alpha in the column `x`: a power law above the irreducible loss E."""
    made = law(E=FLOOR, A=COEFFICIENT, alpha=EXPONENT)(_one_input(_floor, x, f"floor_{x}"))
    return replace(made, origin=(floor, (x,)))


def power(x: str) -> Law:
    """Return A / x^alpha in the column `x`: a straight line on log-log axes."""
    made = law(A=COEFFICIENT, alpha=EXPONENT)(_one_input(_power, x, f"power_{x}"))
    return replace(made, origin=(power, (x,)))


def logarithm(x: str) -> Law:
    """Return k ln(x_0 / x) in the column `x`: L is linear in ln x, the rival of a power law."""
    made = law(k=Range(1e-2, 2), x_0=Range(1e3, 1e12, of=x))(
        _one_input(_logarithm, x, f"logarithm_{x}")
    )
    return replace(made, origin=(logarithm, (x,)))


def _floor(x, *, E, A, alpha):
    """L(x) = E + A / x^alpha.

    E is the irreducible loss.

    Source: Henighan et al. 2020 (arXiv 2010.14701), eq. 1.1; Rosenfeld et al. 2020 (1909.12673)
    """
    return E + A * x**-alpha


def _power(x, *, A, alpha):
    """L(x) = A / x^alpha.

    Source: Hestness et al. 2017 (arXiv 1712.00409), section 3
    """
    return A * x**-alpha


def _logarithm(x, *, k, x_0):
    """L(x) = k ln(x_0 / x).

    Source: Kaplan et al. 2020 (arXiv 2001.08361), Fig. 23
    """
    return k * np.log(x_0 / x)


def _one_input(function: Callable[..., Any], x: str, name: str) -> Callable[..., Any]:
    """Return `function` with its input named after a column."""
    if not x.isidentifier():
        raise LawError(f"{x!r} cannot name an input: rename the column to a plain word.")
    signature = inspect.signature(function)
    first, *rest = signature.parameters.values()

    def renamed(values, **params):
        return function(values, **params)

    renamed.__name__ = name
    renamed.__doc__ = (function.__doc__ or "").replace("(x)", f"({x})").replace("x^", f"{x}^")
    renamed.__signature__ = signature.replace(  # pyright: ignore[reportFunctionMemberAccess]
        parameters=[first.replace(name=x), *rest]
    )
    return renamed


floor_N, floor_D, floor_C = floor("N"), floor("D"), floor("C")


def broken(x: str, breaks: int = 1) -> Law:
    """Return a smoothly broken power law with `breaks` breaks (0 or more) in the column `x`.

    E + A x^-c0 prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i): c0 is the first slope on log-log axes,
    c_i the change of slope at d_i, f_i the sharpness of that break (small is sharp).
    """
    if breaks < 0:
        raise LawError(f"broken: breaks={breaks} must be 0 or more.")
    triples = [(f"c_{i}", f"d_{i}", f"f_{i}") for i in range(1, breaks + 1)]
    names = ["E", "A", "c_0", *(name for triple in triples for name in triple)]

    def function(x, *, E, A, c_0, **b):
        y = A * x**-c_0
        for c, d, f in triples:
            # log(1 + (x/d)^(1/f)) without overflow if a break is sharp
            y = y * np.exp(-b[c] * b[f] * np.logaddexp(0, np.log(x / b[d]) / b[f]))
        return E + y

    product = "".join(f" (1 + ({x}/{d})^(1/{f}))^(-{c} {f})" for c, d, f in triples)
    function.__name__ = f"broken_{x}" + (f"_{breaks}" if breaks != 1 else "")
    function.__doc__ = (
        f"L({x}) = E + A {x}^-c_0{product}.\n\n"
        "Source: Caballero et al. 2023 (arXiv 2210.14891), eq. 1"
    )
    function.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [inspect.Parameter(x, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    ranges: dict[str, Any] = {"E": FLOOR, "A": COEFFICIENT, "c_0": Range(0.02, 1.5)}
    for c, d, f in triples:
        ranges |= {c: Range(-0.5, 1), d: Range(1, 1, of=x), f: Range(0.05, 1)}
    made = law(exchangeable=tuple((d, c, f) for c, d, f in triples), **ranges)(function)
    return replace(made, origin=(broken, (x, breaks)))


broken_N, broken_D = broken("N"), broken("D")

# --- Parameters and data --------------------------------------------------------------------------


@law(
    N_c=_SCALE,
    D_c=_SCALE,
    alpha_N=EXPONENT,
    alpha_D=EXPONENT,
    derived={"data_exponent": "alpha_N / alpha_D"},
)
def kaplan_ND(N, D, *, N_c, D_c, alpha_N, alpha_D):
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D.

    To keep overfitting constant, D must grow as N^(alpha_N / alpha_D): the paper's N^0.74.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.5
    """
    return ((N_c / N) ** (alpha_N / alpha_D) + D_c / D) ** alpha_D


def _optimal_size_of_kaplan_floor(C, *, E, A, B, alpha, beta):
    """Return the N that minimises kaplan_floor at C = 6 N D; nan without one."""
    known = np.all([np.asarray(x) > 0 for x in (A, B, alpha, beta)], axis=0)
    with np.errstate(all="ignore"):
        r = alpha / beta
        return np.where(known, (r * A**r * C / (6 * B)) ** (1 / (r + 1)), np.nan)


@law(
    E=FLOOR,
    A=_SCALE,
    B=_SCALE,
    alpha=EXPONENT,
    beta=EXPONENT,
    derived={"a": "beta / (alpha + beta)", "b": "alpha / (alpha + beta)"},
    optimum=_optimal_size_of_kaplan_floor,
)
def kaplan_floor(N, D, *, E, A, B, alpha, beta):
    """L(N, D) = E + ((A / N)^(alpha / beta) + B / D)^beta.

    It is `kaplan_ND` above the irreducible loss E, in nats per token. A is in parameters and B in
    tokens: the size and the data at which their shortage alone costs one nat. With ample data the
    law falls to E as N^-alpha, with an ample model as D^-beta.

    Source: Brandfonbrener et al. 2024 (arXiv 2411.12925); Kaplan et al. 2020, eq. 1.5
    """
    return E + ((A / N) ** (alpha / beta) + B / D) ** beta


@law(N_c=_SCALE, S_c=Range(1, 1e12), alpha_N=EXPONENT, alpha_S=EXPONENT)
def kaplan_NS(N, S, *, N_c, S_c, alpha_N, alpha_S):
    """L(N, S) = (N_c / N)^alpha_N + (S_c / S)^alpha_S.

    S is S_min, the number of steps that training far above the critical batch size would take.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.6
    """
    return (N_c / N) ** alpha_N + (S_c / S) ** alpha_S


def _optimal_size(C, *, E, A, B, alpha, beta):
    """Return the N that minimises E + A / N^alpha + B / D^beta at C = 6 N D; nan without one.

    Source: Hoffmann et al. 2022 (arXiv 2203.15556), eq. 4
    """
    known = np.all([np.asarray(x) > 0 for x in (A, B, alpha, beta)], axis=0)
    with np.errstate(all="ignore"):
        G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
        return np.where(known, G * (C / 6) ** (beta / (alpha + beta)), np.nan)


@law(
    E=FLOOR,
    A=COEFFICIENT,
    B=COEFFICIENT,
    alpha=EXPONENT,
    beta=EXPONENT,
    derived={"a": "beta / (alpha + beta)", "b": "alpha / (alpha + beta)"},
    optimum=_optimal_size,
)
def chinchilla(N, D, *, E, A, B, alpha, beta):
    """L(N, D) = E + A / N^alpha + B / D^beta.

    E is the entropy of text. At the optimum N grows as C^a and D as C^b, a = beta / (alpha + beta).

    Source: Hoffmann et al. 2022 (arXiv 2203.15556), eq. 2 (eq. 10 with C = 6 N D)
    """
    return E + A * N**-alpha + B * D**-beta


def _optimal_size_of_bottleneck(C, *, E, A, B, alpha, beta, k):
    """Return the N of least loss at C = 6 N D: that of A^k / N^(k alpha) + B^k / D^(k beta)."""
    known = np.all([np.asarray(x) > 0 for x in (A, B, alpha, beta, k)], axis=0)
    with np.errstate(all="ignore"):
        log_G = (np.log(alpha / beta) / k + np.log(A) - np.log(B)) / (alpha + beta)
        return np.where(known, np.exp(log_G) * (C / 6) ** (beta / (alpha + beta)), np.nan)


@law(
    E=FLOOR,
    A=COEFFICIENT,
    B=COEFFICIENT,
    alpha=EXPONENT,
    beta=EXPONENT,
    k=Range(0.3, 5),
    derived={"a": "beta / (alpha + beta)", "b": "alpha / (alpha + beta)"},
    optimum=_optimal_size_of_bottleneck,
)
def bottleneck(N, D, *, E, A, B, alpha, beta, k):
    """L(N, D) = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k).

    k = 1 adds the two terms (chinchilla); with a large k the larger one dominates.

    Source: generalises Hoffmann et al. 2022 (arXiv 2203.15556), eq. 2, and Kaplan et al. 2020, 1.5
    """
    of_N = k * (np.log(A) - alpha * np.log(N))
    of_D = k * (np.log(B) - beta * np.log(D))
    return E + np.exp(np.logaddexp(of_N, of_D) / k)  # the formula, without overflow if k is large


@law(E=FLOOR, A=COEFFICIENT, alpha=EXPONENT, kappa=Range(1e-3, 1e3))
def shared_exponent(N, D, *, E, A, alpha, kappa):
    """L(N, D) = E + A (1 / N + kappa / D)^alpha.

    One parameter counts as much as kappa tokens; the compute-optimal D / N is kappa at any budget.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.5 with alpha_N = alpha_D, and a floor
    """
    return E + A * (1 / N + kappa / D) ** alpha


@law(
    E=FLOOR,
    a=COEFFICIENT,
    b=COEFFICIENT,
    eta=Range(0.02, 0.8),
    derived={"tokens_per_parameter": "(b / a)**(1 / (2 * eta))"},
)
def gadre(N, D, *, E, a, b, eta):
    """L(N, D) = E + (a M^eta + b M^-eta) C^-eta, with M = D / N and C = 6 N D.

    Over-training by M shifts the law up without changing its slope.

    Source: Gadre et al. 2024 (arXiv 2403.08540), section 2
    """
    return E + a * (6 * N * N) ** -eta + b * (6 * D * D) ** -eta


@law(
    E=FLOOR,
    A=COEFFICIENT,
    B=COEFFICIENT,
    alpha=EXPONENT,
    beta=EXPONENT,
    R_N=Range(0.1, 1e3),
    R_D=Range(0.1, 1e3),
)
def muennighoff(N, D, D_unique, *, E, A, B, alpha, beta, R_N, R_D):
    """L(N, D, U) = E + A / N'^alpha + B / D'^beta, N' and D' what repetition leaves of N and D.

    D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)) for U = D_unique tokens, so an epoch's worth decays
    with scale R_D (R_D* in the paper). N' is the same for parameters beyond the N that is optimal
    for U tokens. If D is less than an epoch, U is D. Fix E, A, B, alpha and beta to fit only the
    two decay constants.

    Source: Muennighoff et al. 2023 (arXiv 2305.16264), section 3
    """
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    U = np.minimum(D, D_unique)
    U_N = np.minimum(N, (U * G) ** (beta / alpha) * G)
    D_eff = U * (1 + R_D * -np.expm1(-(D / U - 1) / R_D))
    N_eff = U_N * (1 + R_N * -np.expm1(-(N / U_N - 1) / R_N))
    return E + A * N_eff**-alpha + B * D_eff**-beta


@law(
    a=Range(-0.3, 0),
    b=Range(-0.4, 0),
    c=Range(-0.02, 0.03),
    d=Range(0.3, 2),
    E_start=Range(1, 5),
    E_max=Range(20, 2e3),
)
def routed(N, E, *, a, b, c, d, E_start, E_max):
    """log10 L(N, E) = a log10 N + b log10 E' + c log10 N log10 E' + d.

    N is the number of parameters of the dense base model, E the number of experts. E' saturates at
    both ends: 1/E' = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max.

    Source: Clark et al. 2022 (arXiv 2202.01169), section 4
    """
    start = 1 / (1 / E_start - 1 / E_max)
    log_experts = -np.log10(1 / (E - 1 + start) + 1 / E_max)
    log_N = np.log10(N)
    return 10 ** (a * log_N + b * log_experts + c * log_N * log_experts + d)


# --- Batch size and learning rate -----------------------------------------------------------------


@law("B_crit", B_star=Range(1e2, 1e12), alpha_B=Range(0.05, 1))
def critical_batch(L, *, B_star, alpha_B):
    """B_crit(L) = B_star / L^(1 / alpha_B).

    B_crit is the batch size in tokens at which training to loss L takes twice the minimum number of
    steps and twice the minimum number of examples.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.4 and 5.3
    """
    return B_star * L ** (-1 / alpha_B)


@law("S", S_min=Range(1, 1e9), E_min=Range(1e3, 1e15), derived={"B_crit": "E_min / S_min"})
def mccandlish(B, *, S_min, E_min):
    """S(B) = S_min + E_min / B, that is (S / S_min - 1)(E / E_min - 1) = 1 with E = B S.

    S and E are the steps and examples to reach one loss: S_min steps at infinite batch size, E_min
    examples at a vanishing one. E_min / S_min is the critical batch size.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), eq. 2.11
    """
    return S_min + E_min / B


@law("lr_peak", best_of=("N", "D"), c=Range(1e-6, 1e4), p=Range(-1, 0.5), q=Range(-1, 0.5))
def learning_rate(N, D, *, c, p, q):
    """lr(N, D) = c N^p D^q.

    It is fitted to the best run at each N and D, and gives the rule for further runs:

        rule = "{c} N^{p} D^{q}".format(**fit(laws.learning_rate, runs).params)  # for optim.lr

    Source: Li et al. 2025 (arXiv 2503.04715), eq. 1; Bjorck et al. 2024 (arXiv 2409.19913)
    """
    return c * N**p * D**q


@law("B", best_of=("N", "D"), c=Range(1e-6, 1e8), q=Range(0, 1))
def batch_size(D, *, c, q):
    """B(D) = c D^q.

    It is fitted to the best run at each N and D.

    Source: Li et al. 2025 (arXiv 2503.04715), eq. 1; Zhang et al. 2024 (arXiv 2410.21676)
    """
    return c * D**q


# --- Downstream -----------------------------------------------------------------------------------


@law("error", eps=Range(0.2, 2), k=Range(0.05, 50), gamma=Range(0.05, 5))
def downstream_error(L, *, eps, k, gamma):
    """error(L) = eps - k exp(-gamma L).

    It is the mean top-1 error over tasks as a function of the loss; eps is the error of guessing.

    Source: Gadre et al. 2024 (arXiv 2403.08540), section 2
    """
    return eps - k * np.exp(-gamma * L)
