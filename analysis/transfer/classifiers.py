"""Classifiers from trained weights and from scratch, each at its best learning rate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.tables.objectives import begun_from_weights
from analysis.transfer.arms import at_best_rate
from scaling.errors import TableError

CELL = ["labels", "examples", "family", "arm", "lm_weight", "N"]
"""Columns that tell the cells of :func:`best_classifiers` apart."""


def best_classifiers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell: labels, examples, family, arm ('pretrained' or 'scratch'), lm_weight
    and N.

    Of the learning rates, the one with the lowest mean L over seeds counts. `accuracy` and `L` are
    means over seeds; `stderr` is the standard error of the accuracy, over seeds or over the test
    excerpts, whichever is larger. `at_end` says whether the rate is the lowest or highest that was
    tried. Raises TableError if the table has no classifier.
    """
    if not {"labels", "accuracy", "classes"} <= set(runs.columns):
        raise TableError(
            "no columns labels, accuracy and classes tell classifiers; `scaling sweep classify` "
            "trains some."
        )
    ok = runs[runs["status"] == "ok"] if "status" in runs else runs
    used = ok[ok["accuracy"].notna() & ok["labels"].astype(object).fillna("").astype(bool)]
    if used.empty:
        raise TableError("no finished run is a classifier (column accuracy).")
    used = used.assign(
        arm=np.where(begun_from_weights(used), "pretrained", "scratch"),
        examples=pd.to_numeric(used["examples"]).fillna(0),
        lm_weight=pd.to_numeric(used["lm_weight"]).fillna(0.0),
        n_test=used["test_tokens"] // used["n_ctx"] // used["classes"] * used["classes"],
    )
    best = (
        at_best_rate(used, CELL)
        .groupby(CELL, as_index=False)
        .agg(
            L=("L", "mean"),
            accuracy=("accuracy", "mean"),
            spread=("accuracy", "std"),
            seeds=("seed", "nunique"),
            classes=("classes", "first"),
            n_test=("n_test", "first"),
            L_pretrain=("L_pretrain", "first"),
            lr_peak=("lr_peak", "first"),
            lr_embedding=("lr_embedding", "first"),
            at_end=("at_end", "first"),
        )
    )
    by_seed = (best["spread"] / np.sqrt(best["seeds"])).fillna(0.0)
    by_item = np.sqrt(best["accuracy"] * (1 - best["accuracy"]) / best["n_test"])
    return best.assign(stderr=np.maximum(by_seed, by_item)).drop(columns="spread")
