"""Extrapolation tasks of SLDBench at its own splits: shipped laws, shipped fits.

The law and objective of each were chosen on the training rows alone. The thresholds are the scores
of the laws that people published for these tasks (Lin et al. 2025, arXiv 2507.21184).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit


@pytest.fixture
def sldbench(published) -> Path:
    folder = published / "sldbench"
    if not folder.is_dir():
        pytest.skip(f"no tables at {folder}")
    return folder


def r_squared(measured: pd.Series, predicted: np.ndarray) -> float:
    off, spread = measured - predicted, measured - measured.mean()
    return float(1 - (off @ off) / (spread @ spread))


def test_repeated_data_is_extrapolated_to_larger_models_and_more_tokens(sldbench):
    table = pd.read_csv(sldbench / "data_constrained.csv")
    # The names of the two token columns are swapped in this table.
    runs = table.rename(
        columns={"params": "N", "unique_tokens": "D", "tokens": "D_unique", "loss": "L"}
    )
    unseen = (runs["D"] >= 6e11) | (runs["N"] >= 4.2465e9)
    assert unseen.sum() == 21
    law = fit("overfitting", runs[~unseen], objective="huber", bootstrap=0, cluster=None)
    predicted = law.predict(**{c: runs.loc[unseen, c].to_numpy() for c in ("N", "D", "D_unique")})
    assert r_squared(runs.loc[unseen, "L"], predicted) >= 0.911


def test_the_vocabulary_is_extrapolated_to_a_larger_one(sldbench):
    table = pd.read_csv(sldbench / "vocab.csv")
    N_v = table["vocab_size"] * table["embed_dim"]
    runs = pd.DataFrame(
        {
            "N_nv": table["Non_vocab_parameters"],
            "N_v": N_v,
            "D": table["FLOPs"] / (6 * (table["Non_vocab_parameters"] + N_v)),
            "L_u": table["Lossu"],
        }
    )
    unseen = table["vocab_size"] == 96256
    assert unseen.sum() == 120
    law = fit("vocabulary", runs[~unseen], on="raw", objective="ls", bootstrap=0, cluster=None)
    predicted = law.predict(**{c: runs.loc[unseen, c].to_numpy() for c in ("N_nv", "N_v", "D")})
    assert r_squared(runs.loc[unseen, "L_u"], predicted) >= 0.966


def test_fine_tuning_is_extrapolated_to_twice_the_examples(sldbench):
    scores = []
    for name in ("flan", "gigaword", "wikiword"):
        table = pd.read_csv(sldbench / f"sft_{name}.csv").set_index("model").drop(columns="0")
        table.columns = table.columns.astype(float)
        predicted = []
        for losses in table.drop(columns=819200.0).itertuples(index=False):
            runs = pd.DataFrame({"D": table.columns[:-1], "L": losses})
            law = fit("rectified", runs, objective="ls", bootstrap=0, cluster=None)
            predicted.append(float(law.predict(D=819200.0)))
        scores.append(r_squared(table[819200.0], np.array(predicted)))
    assert len(scores) == 3 and np.mean(scores) >= 0.957
