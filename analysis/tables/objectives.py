"""Losses of different objectives do not compare: classifiers, encoders, models of the next
token."""

from __future__ import annotations

import pandas as pd

from analysis.tables.rows import used_rows
from scaling.errors import TableError

ENCODER = "encoder"
"""The model family that predicts masked tokens."""
_SAME_VOCABULARY = 1.02
"""Largest ratio of the sizes of one vocabulary, padded and not."""


def check_one_objective(
    table: pd.DataFrame, where: str = "the table", *, one_task: bool = False
) -> None:
    """Raise TableError if the finished runs differ in what they predict.

    An encoder's loss is that of masked tokens, whose neighbours on both sides it sees; that of a
    classifier is per excerpt. With `one_task`, all classifiers must have the same labels.
    """
    labels, encoder = _labels(table), _encoders(table)
    kinds = sorted(set(labels))
    if len(kinds) > 1 and (one_task or "" in kinds):
        one = next(kind for kind in kinds if kind)
        counts = ", ".join(
            f"{(labels == kind).sum()} {f'classify {kind!r}' if kind else 'are language models'}"
            for kind in kinds[:4]
        )
        raise TableError(
            f"{where}: of {len(labels)} runs, {counts}. The loss of a classifier is that of its "
            "labels, and losses of different labels do not compare, nor do they with those of "
            f"""language models. Keep one kind: --where "labels == '{one}'\""""
            + (' or --where "labels.isna()".' if "" in kinds else ".")
        )
    if encoder.any() and not encoder.all() and "" in kinds:
        raise TableError(
            f"{where}: {encoder.sum()} of {len(encoder)} runs are encoders, whose loss is that of "
            "masked tokens; the others predict the next token. Their losses do not compare. Keep "
            f"""one kind: --where "family == '{ENCODER}'" or --where "family != '{ENCODER}'"."""
        )


def check_one_start(table: pd.DataFrame, where: str = "the table") -> None:
    """Raise TableError if some finished runs began from trained weights and others from random
    ones: a loss after pre-training depends on more than N and D."""
    begun = begun_from_weights(used_rows(table))
    if begun.any() and not begun.all():
        raise TableError(
            f"{where}: {begun.sum()} of {len(begun)} runs began from the weights of other runs "
            "(init_run), so their losses depend on that pre-training too. Keep one kind: --where "
            '"init_run.isna()" or --where "init_run.notna()". `scaling transfer` compares the two.'
        )


def begun_from_weights(runs: pd.DataFrame) -> pd.Series:
    """Return which runs began from the weights of another run."""
    if "init_run" not in runs.columns:
        return pd.Series(False, runs.index)
    return runs["init_run"].astype(object).fillna("").astype(str) != ""


def check_one_vocabulary(table: pd.DataFrame, where: str) -> None:
    """Raise TableError if the finished runs have different vocabularies, or if a table has the
    losses of several test sets.

    Sizes within two percent are one vocabulary, padded or not. A loss per byte compares.
    """
    used = used_rows(table)
    if "test_set" in used.columns and used["test_set"].nunique() > 1:
        counts = used["test_set"].value_counts()
        sets = ", ".join(f"{name!r} ({n})" for name, n in counts.items())
        raise TableError(
            f"{where}: the rows are losses on several test sets: {sets}. A law is of one of them: "
            f"""--where "test_set == '{counts.index[0]}'"."""
        )
    if condition := of_one_vocabulary(table):
        counts = pd.to_numeric(used["vocab_size"], errors="coerce").value_counts()
        found = ", ".join(f"{size:.0f} ({n} runs)" for size, n in counts.items())
        raise TableError(
            f"{where}: the runs have vocabularies of different sizes: {found}. Their losses per "
            f'token do not compare. Keep one: --where "{condition}".'
        )


def of_one_vocabulary(table: pd.DataFrame) -> str:
    """Return the condition that keeps the most frequent vocabulary of the finished runs; "" if they
    have only one."""
    used = used_rows(table)
    if "vocab_size" not in used.columns:
        return ""
    sizes = pd.to_numeric(used["vocab_size"], errors="coerce").dropna()
    if not len(sizes) or sizes.max() <= _SAME_VOCABULARY * sizes.min():
        return ""
    return f"vocab_size == {sizes.value_counts().index[0]:.0f}"


def check_same_objective(tables: tuple[pd.DataFrame, pd.DataFrame], names: tuple[str, str]) -> None:
    """Raise TableError if two tables to compare differ in what their runs predict."""
    for name, table in zip(names, tables, strict=True):
        check_one_objective(table, name, one_task=True)
    labels = ["".join(sorted(set(_labels(table)))) for table in tables]
    if labels[0] != labels[1]:
        kinds = [f"classifiers of {each!r}" if each else "language models" for each in labels]
        raise TableError(
            f"{names[0]} has {kinds[0]} and {names[1]} has {kinds[1]}: their losses do not compare."
        )
    kinds = [bool(len(table)) and _encoders(table).all() for table in tables]
    if kinds[0] != kinds[1] and not labels[0]:
        of = names if kinds[0] else names[::-1]
        raise TableError(
            f"{of[0]} has encoders, whose loss is that of masked tokens, and {of[1]} has models of "
            "the next token: their losses do not compare. Compare encoders with encoders."
        )


def _encoders(table: pd.DataFrame) -> pd.Series:
    """Return which finished runs are encoders."""
    used = used_rows(table)
    if "family" not in used.columns:
        return pd.Series(False, used.index)
    return used["family"].astype(str).str.strip().str.lower() == ENCODER


def _labels(table: pd.DataFrame) -> pd.Series:
    """Return what each finished run classifies by; empty for language models.

    Only a table with a column `classes` is of this package's classifiers.
    """
    used = used_rows(table)
    if not {"labels", "classes"} <= set(used.columns):
        return pd.Series("", used.index)
    return used["labels"].astype(object).fillna("").astype(str).where(used["classes"].notna(), "")
