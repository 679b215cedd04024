"""Columns that tell how runs ended, in the words of any tracker.

W&B, MLflow, Optuna, Ray Tune, ClearML, SLURM and others each have their own words. They become the
column `status`, whose words are those of :data:`scaling.columns.STATUSES`; only 'ok' rows count.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping

import pandas as pd

from scaling.columns import STATUSES
from scaling.errors import TableError

RUNNING = "running"
"""Status of runs that have not ended; their rows are removed."""
NO_STATE = "without a state"

_WORDS = {
    "ok": "ok finished finish completed complete done success succeeded successful passed closed "
    "published",
    "diverged": "diverged divergent nan inf exploded",
    "stopped": "stopped pruned earlystopped halted",
    "failed": "failed fail failure crashed crash killed error errored exception preempted canceled "
    "cancelled aborted abort interrupted timeout timedout oom oomkilled outofmemory nodefail "
    "bootfail deadline evicted lost dead unknown invalid crashloopbackoff",
    RUNNING: "running pending queued preempting scheduled waiting inprogress starting started "
    "created paused suspended requeued initializing initialising preparing provisioning submitted "
    "notstarted stopping cancelling canceling completing finalizing active new resuming "
    "restarting configuring",
}
"""Words for each status."""
_STATUS_OF = {word: status for status, words in _WORDS.items() for word in words.split()}
"""Status of each word, without underscores."""
_UNLESS_OTHERS = ("terminated", "inactive", "ended", "exited", "stop")
"""Words that mean 'finished' to some trackers, unless the column has another word for it."""
_QUESTIONS = (
    "finished", "complete", "completed", "done", "success", "succeeded", "successful", "ok",
    "crashed", "failed", "diverged", "killed", "preempted", "pruned", "aborted", "cancelled",
    "canceled", "running",
)  # fmt: skip
"""Names of columns that answer with yes or no."""
_YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""Their answers."""
_SHOWN = 6
"""Number of words that a message lists."""


def with_statuses(table: pd.DataFrame, where: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return the table with the column `status`, and the word of each row that does not count.

    The status of runs that have not ended is RUNNING; the word of rows that count is ''. A table
    without a column of states is returned as it is. Raises TableError if the column has no word for
    a finished run but words that nobody knows.
    """
    if not len(table):
        return table, pd.Series("", table.index, dtype=object)
    name = _column(table)
    if name is None:  # a column `status` is empty then
        return _from_answers(table.drop(columns="status", errors="ignore"))
    words = table[name].map(_word).where(table[name].notna(), "")
    statuses = words.map(_meanings(words))
    _check_words(words, statuses, name, where)
    reasons = words.replace("", NO_STATE)
    reasons = reasons.where(statuses.isin((*STATUSES, RUNNING)), reasons + " (unknown)")
    return table.assign(status=statuses), reasons.mask(statuses.eq("ok"), "")


def _column(table: pd.DataFrame) -> str | None:
    """Return the column that tells how runs ended, if there is one.

    A column whose last word is status or state is one if it has a word for it; `status` always is.
    """
    ranked = sorted(
        (name for name in table.columns if _last_word(name) in ("status", "state")),
        key=lambda name: (str(name) != "status", str(name).lower() not in ("status", "state")),
    )
    for name in ranked:
        words = set(table[name].dropna().map(_word))
        if words & {*_STATUS_OF, *_UNLESS_OTHERS}:
            return name
    if "status" in table.columns and len(table["status"].dropna()):
        return "status"
    for name in ranked:
        if str(name).lower() == "state" and len(words := list(table[name].dropna().unique())):
            warnings.warn(
                f"column {name!r} holds {_listed(map(repr, words))}, which are no states of runs: "
                "every row counts.",
                stacklevel=4,
            )
    return None


def _last_word(name: object) -> str:
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(name))
    return parts[-1].lower() if parts else ""


def _word(value: object) -> str:
    """Return a state in lower case, without the prefixes and suffixes that trackers add.

    'TrialState.COMPLETE', 'JOB_STATE_SUCCEEDED' and 'CANCELLED by 1000' become 'complete',
    'succeeded' and 'cancelled'.
    """
    text = re.sub(r"[^a-z0-9.]+", "_", str(value).strip().lower()).strip("_")
    text = re.sub(r"^(?:[a-z]+_)?(?:state|status)_", "", text.rpartition(".")[2])
    whole, first = text.replace("_", ""), text.partition("_")[0]
    if whole not in _STATUS_OF and _STATUS_OF.get(first, "ok") != "ok":
        return first
    return whole if whole in _STATUS_OF else text


def _meanings(words: pd.Series) -> Mapping[str, str | None]:
    """Return {word: status}, with unknown words as they are; '' (no state) is 'failed'."""
    found: dict[str, str] = {word: _STATUS_OF.get(word, word) for word in map(str, words.unique())}
    found[""] = "failed"
    if "ok" not in found.values():
        found |= {word: "ok" for word in found if word in _UNLESS_OTHERS}
    return found | {word: "failed" for word in found if found[word] in _UNLESS_OTHERS}


def _check_words(words: pd.Series, statuses: pd.Series, name: str, where: str) -> None:
    """Raise TableError if no word means 'finished' but some are unknown or missing."""
    clear = statuses.isin((*STATUSES, RUNNING)) & words.ne("")
    if clear.all() or statuses.eq("ok").any():
        return
    counts = words.replace("", NO_STATE).value_counts()
    found = _listed(f"{n} {word!r}" for word, n in counts.items())
    raise TableError(
        f"{where}: {name} is {found}, and no word that means finished (such as finished, "
        f"completed or ok). If the column tells something else, rename it and every row "
        f"counts: --map {name}=note; then select with --where \"note == '...'\"."
    )


def _listed(words: Iterable[str]) -> str:
    found = list(words)
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _from_answers(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return `with_statuses` of a table with columns such as finished=True or crashed=False."""
    reasons = pd.Series("", table.index)
    statuses = pd.Series("ok", table.index)
    for name in table.columns:
        word = re.sub(r"^(?:is|has|was)_", "", _word(name))
        answers = table[name].map(lambda value: _YES.get(str(value).strip().lower()))
        if word not in _QUESTIONS or answers.isna().any():
            continue
        out, reason = answers.astype(bool), word
        if _STATUS_OF[word] == "ok":
            out, reason = ~out, f"not {word}"
        status = {"ok": "failed"}.get(_STATUS_OF[word], _STATUS_OF[word])
        first = out & reasons.eq("")
        reasons, statuses = reasons.mask(first, reason), statuses.mask(first, status)
    if reasons.eq("").all():
        return table, reasons
    return table.assign(status=statuses), reasons
