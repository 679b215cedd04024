"""Published laws as data.

Each constant cites its equation or table. A :class:`PublishedLaw` predicts like a fit:
``published.hoffmann2022.approach3.predict(N=7e10, D=1.4e12)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.laws import Law
from scaling.units import PF_DAY


@dataclass(frozen=True)
class PublishedLaw:
    """A law with the constants of a paper."""

    law: Law
    params: Mapping[str, float]
    source: str

    def predict(self, **columns: Any) -> np.ndarray:
        """Evaluate the law at `columns`, as FitResult.predict does."""
        return self.law.predict(self.params, **columns)


def _kaplan(law: Law, where: str, **params: float) -> PublishedLaw:
    return PublishedLaw(law, params, f"Kaplan et al. 2020 (arXiv 2001.08361), {where}")


kaplan2020 = SimpleNamespace(
    L_N=_kaplan(laws.kaplan_N, "eq. 1.1", N_c=8.8e13, alpha_N=0.076),
    L_D=_kaplan(laws.kaplan_D, "eq. 1.2", D_c=5.4e13, alpha_D=0.095),
    L_C_min=_kaplan(laws.kaplan_C, "eq. 1.3", C_c=3.1e8 * PF_DAY, alpha_C=0.050),
    L_C=_kaplan(laws.kaplan_C, "Table 5", C_c=1.6e7 * PF_DAY, alpha_C=0.057),
    L_ND=_kaplan(
        laws.kaplan_ND, "eq. 1.5, Table 2", N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103
    ),
    L_NS=_kaplan(
        laws.kaplan_NS, "eq. 1.6, Table 3", N_c=6.5e13, S_c=2.1e3, alpha_N=0.077, alpha_S=0.76
    ),
    B_crit=_kaplan(
        laws.critical_batch,
        "Table 5, tokens (eq. 1.4 rounds it to 2e8)",
        B_star=2.1e8,
        alpha_B=0.21,
    ),
)
"""Kaplan et al. 2020. Compute is in FLOPs (the paper uses PF-days)."""

brown2020 = SimpleNamespace(
    L_C=PublishedLaw(
        laws.kaplan_C,
        {"C_c": 2.57 ** (1 / 0.048) * PF_DAY, "alpha_C": 0.048},
        "Brown et al. 2020 (arXiv 2005.14165), Fig. 3.1: L = 2.57 C^-0.048, C in PF-days",
    ),
    models=pd.DataFrame(
        [
            ("125M", 12, 768, 12, 0.5e6, 6.0e-4, 125e6, 300e9, 2.60),
            ("350M", 24, 1024, 16, 0.5e6, 3.0e-4, 356e6, 300e9, 7.42),
            ("760M", 24, 1536, 16, 0.5e6, 2.5e-4, 760e6, 300e9, 15.8),
            ("1.3B", 24, 2048, 16, 1e6, 2.0e-4, 1320e6, 300e9, 27.5),
            ("2.7B", 32, 2560, 32, 1e6, 1.6e-4, 2650e6, 300e9, 55.2),
            ("6.7B", 32, 4096, 32, 2e6, 1.2e-4, 6660e6, 300e9, 139.0),
            ("13B", 40, 5120, 40, 2e6, 1.0e-4, 12850e6, 300e9, 268.0),
            ("175B", 96, 12288, 96, 3.2e6, 0.6e-4, 174600e6, 300e9, 3640.0),
        ],
        columns=["name", "n_layer", "d_model", "n_head", "B", "lr_peak", "N_total", "D", "PF_days"],
    ),
)
"""GPT-3: the compute law, and the eight models of Tables 2.1 and D.1 (2048 tokens of context, 50257
of vocabulary, tied). Two values are corrected here: Table 2.1 prints 24 heads for 1.3B, which do
not divide its width, and a width of 5140 for 13B, which contradicts its 40 heads of 128 and its
parameters."""

hoffmann2022 = SimpleNamespace(
    approach3=PublishedLaw(
        laws.chinchilla,
        {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
        "Hoffmann et al. 2022 (arXiv 2203.15556), eq. 10",
    ),
    approach3_unrounded=PublishedLaw(
        laws.chinchilla,
        {
            "E": float(np.exp(0.5267228)),
            "A": float(np.exp(6.0073404)),
            "B": float(np.exp(6.0179186)),
            "alpha": 0.33917084,
            "beta": 0.2849083,
        },
        "Hoffmann et al. 2022 (arXiv 2203.15556), TeX source, cited by Besiroglu et al. 2024",
    ),
)
"""Hoffmann et al. 2022, Chinchilla."""

besiroglu2024 = PublishedLaw(
    laws.chinchilla,
    {"E": 1.81686, "A": 482.00572, "B": 2085.43420, "alpha": 0.34781, "beta": 0.36585},
    "Besiroglu et al. 2024 (arXiv 2404.10102), notebook",
)
"""A refit of Chinchilla's runs by least absolute deviations, though stated as Huber(1e-3)."""

muennighoff2023 = PublishedLaw(
    laws.muennighoff,
    {
        "E": float(np.exp(0.6254804)),
        "A": float(np.exp(6.255414)),
        "B": float(np.exp(7.3049974)),
        "alpha": 0.3526596,
        "beta": 0.3526596,
        "R_N": 5.309743,
        "R_D": 15.387756,
    },
    "Muennighoff et al. 2023 (arXiv 2305.16264), parametric_fit.ipynb",
)
"""Repeated data. R_N and R_D are a local optimum of their own objective."""

gadre2024 = SimpleNamespace(
    **{
        name: PublishedLaw(
            laws.gadre,
            {"E": E, "a": a, "b": b, "eta": eta},
            "Gadre et al. 2024 (arXiv 2403.08540), scaling-law table",
        )
        for name, E, a, b, eta in (
            ("c4", 1.51, 141.0, 190.0, 0.121),
            ("redpajama", 1.84, 212.0, 367.0, 0.136),
            ("refinedweb", 1.73, 157.0, 246.0, 0.127),
        )
    }
)
"""Over-training: C4 validation loss of models trained on each data set."""

brandfonbrener2024 = SimpleNamespace(
    **{
        name: PublishedLaw(
            laws.kaplan_floor,
            {"E": E, "A": A, "B": B, "alpha": alpha, "beta": beta},
            "Brandfonbrener et al. 2024 (arXiv 2411.12925), data/opt_params_data.csv",
        )
        for name, E, A, B, alpha, beta in (
            ("fineweb", 2.1700144, 67873108.5, 931025251.0, 0.41072325, 0.45308761),
            ("proof_pile", 1.3191056, 21399832.7, 329014140.0, 0.45268445, 0.45522633),
            ("starcoder", 0.8452475, 22270138.3, 377544368.0, 0.45126812, 0.47156526),
        )
    },
    fineweb_to_starcoder=PublishedLaw(
        laws.loss_to_loss,
        {"K": 0.6230308, "kappa": 1.0904141, "E_0": 2.1700144, "E_1": 0.8452475},
        "Brandfonbrener et al. 2024 (arXiv 2411.12925), loss_relationships.ipynb",
    ),
)
"""Loss on the text of the training set, for three of six training sets, and one pair of them."""

tao2024 = PublishedLaw(
    laws.vocabulary,
    {
        "E": 5.5327846803337435,
        "A_1": 1.8313851559554126 * 1e6**0.44660634152009615,
        "A_2": 0.19584238398665638 * 1e6**0.6707374679896795,
        "B": 2.1241123120064955 * 1e9**0.44660634152009615,
        "alpha_1": 0.44660634152009615,
        "alpha_2": 0.6707374679896795,
        "beta": 0.44660634152009615,
    },
    "Tao et al. 2024 (arXiv 2407.13623), optimal_Nv_predict.py: approach 3, in millions of "
    "parameters and billions of tokens",
)
"""Vocabulary: unigram-normalised loss, with alpha_1 = beta."""

ludziejewski2025 = PublishedLaw(
    laws.joint_experts,
    {
        "a": 35.91, "delta": -0.2285, "alpha": -0.1889, "gamma": 0.0098,
        "b": 35.98, "omega": 0.5529, "beta": -0.1775, "zeta": -0.0259,
        "c": 1.3637, "E_start": 1.0, "E_max": 1e6,
    },
    "Ludziejewski et al. 2025 (arXiv 2502.05172), from a public transcription of the fit",
)  # fmt: skip
"""Mixtures of experts: active parameters, tokens, experts. The transcription gives the exponents as
those of denominators; with these signs more experts lower the loss, as the paper reports. E_start
and E_max are not in it: these values leave the number of experts as it is."""
