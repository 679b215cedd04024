"""Sequence classification: which labelled texts a run is trained on. Imports nothing heavy."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

from scaling.errors import ConfigError, did_you_mean
from scaling.fields import IdentifyingPart, check_positive

OF_DOCUMENTS = ("author", "period", "decade")
"""Labels that the names of a corpus's documents give."""

LABEL_FILES = (".tsv", ".jsonl")
"""Endings of files of labels and texts."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(IdentifyingPart):
    """Sequence classification (GPT-1: Radford et al. 2018; BERT: Devlin et al. 2019)."""

    prefix = "classify."

    labels: str = ""
    """Classify excerpts of n_ctx tokens instead of predicting text: by 'author', 'period' (half a
    century) or 'decade' of the documents of data.corpus, or by a file of labels and texts (.tsv or
    .jsonl). L is then the loss per excerpt. Default: train a language model."""
    examples: int | None = None
    """Number of labelled excerpts to train on, as many of each class; they are repeated. Default:
    as many as the rarest class allows."""
    lm_weight: float = 0.0
    """Weight of the language-model loss that is added to that of classification (0.5 in GPT-1).
    Decoders only."""

    def check(self) -> None:
        check_positive(self, "examples")
        if not 0 <= self.lm_weight < 1e6:
            raise ConfigError(f"classify.lm_weight={self.lm_weight} must be 0 or positive.")
        labels = self.labels
        if labels and labels not in OF_DOCUMENTS and not labels.endswith(LABEL_FILES):
            raise ConfigError(
                f"classify.labels={labels!r} is unknown.{did_you_mean(labels, OF_DOCUMENTS)} Use "
                f"{', '.join(OF_DOCUMENTS)}, or a file of labels and texts that ends in "
                f"{' or '.join(LABEL_FILES)}."
            )

    def identity(self) -> dict[str, Any]:
        if not self.labels:
            return {}
        values = super().identity()
        if self.is_file:
            values["labels"] = posixpath.normpath(values["labels"])
        return values

    @property
    def is_file(self) -> bool:
        """Whether the labels are those of a file."""
        return bool(self.labels) and self.labels not in OF_DOCUMENTS
