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
    """L_u(N_nv, N_v, D) = -E + A_1 / N_nv^alpha_1 + A_2 / N_v^alpha_2 + B / D^beta.

    L_u is the unigram-normalised loss in nats per token, which vocabularies can be compared by: the
    loss minus that of a model that knows the frequencies of the tokens. It is negative, so fit it
    on its own scale: on='raw', objective='ls'. N_nv is the number of non-vocabulary parameters, N_v
    = V d that of the embedding of V tokens in d dimensions. D is in tokens; a table of characters
    or FLOPs gives it as C / (6 (N_nv + N_v)). A larger vocabulary packs a text into fewer tokens,
    which is the price of its parameters. The paper ties alpha_1 to beta.

    Source: Tao et al. 2024 (arXiv 2407.13623), approach 3
    """
    return -E + A_1 * N_nv**-alpha_1 + A_2 * N_v**-alpha_2 + B * D**-beta
