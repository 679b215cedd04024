"""A law of fine-tuning on D examples."""

from __future__ import annotations

from analysis.laws.forms import COEFFICIENT
from analysis.laws.law import Range, law


@law(E=Range(1e-3, 5), B=COEFFICIENT, D_l=COEFFICIENT, beta=Range(0.05, 1.5))
def rectified(D, *, E, B, D_l, beta):
    """L(D) = B / (D_l + D^beta) + E.

    D is the number of fine-tuning examples (or tokens) of one pre-trained model, L the test loss
    afterwards in nats per token. D_l, in the unit of D^beta, is what pre-training is worth: until
    D^beta reaches it, the loss hardly falls (the pre-power phase); far beyond it, the law is
    `floor_D`. Fit one model at a time, by least squares of the logarithm (objective='ls') if it has
    a dozen points.

    Source: Lin et al. 2024 (arXiv 2402.02314)
    """
    return E + B / (D_l + D**beta)
