"""The names of tasks and what each is about; light, so that specs and help can use it."""

from __future__ import annotations

from collections.abc import Iterable

from scaling.errors import ConfigError, did_you_mean

SUM, PER_BYTE, PER_TOKEN, PMI, EXACT = (
    "accuracy_sum",
    "accuracy_per_byte",
    "accuracy_per_token",
    "accuracy_pmi",
    "exact_match",
)
"""Accuracy by what ranks the choices: their summed log-probability, that per byte or per token, or
that minus the log-probability without the context (pointwise mutual information; Brown et al. 2020,
section 2.4). An answer matches exactly if each of its tokens is the most likely one."""

TEXT_TASKS: dict[str, str] = {
    "agree": "is or are, was or were, has or have",
    "swap": "the words of a passage in order, or two neighbours swapped",
    "case": "he or him, she or her, they or them, we or us, I or me",
    "article": "a or an",
    "this_these": "this or these, that or those",
    "last_word": "the last word of a passage, or one of three words as frequent",
    "last_word_context": "the last word of a passage, or one of three words of the passage",
    "next_sentence": "the next sentence, or one of three others of the same document",
    "next_sentence_pair": "the next sentence, or a random one (the question of BERT)",
}
FEW_SHOT_TASKS: dict[str, str] = {
    "copy": "copy a word",
    "reverse": "reverse three letters",
    "addition": "add two digits",
    "plurals": "the plural of a noun",
    "capitals": "a word with a capital letter",
}
IN_CONTEXT_TASKS: dict[str, str] = {
    "repeat": "the loss of a passage that came before; shots are how often",
    "in_context": "the loss late in a context minus that early in it",
}
TASKS = TEXT_TASKS | FEW_SHOT_TASKS | IN_CONTEXT_TASKS
"""{name: what it is about} of every task that needs no file."""

MAIN: dict[str, str] = {
    **dict.fromkeys(TEXT_TASKS, SUM),
    **dict.fromkeys(FEW_SHOT_TASKS, PMI),  # the answers differ in length and frequency
    "next_sentence": PMI,
    "next_sentence_pair": PMI,
    "repeat": "bits_per_byte",
    "in_context": "gain",
}
"""The main metric of each task, fixed in advance."""


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is no task."""
    for name in names:
        if name not in TASKS:
            raise ConfigError(
                f"there is no task {name!r}.{did_you_mean(name, TASKS)} Tasks: {', '.join(TASKS)}; "
                "--file adds tasks of your own."
            )
