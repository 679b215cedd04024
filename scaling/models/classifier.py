"""Sequence classification with the blocks of any family. Shape suffixes as in scaling/model.py.

A head on the final state of the last token (GPT-1: Radford et al. 2018), or of an encoder's [CLS]
(BERT: Devlin et al. 2019), scores C classes. Windows [K, B, T + 1] hold the excerpt and its class.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scaling.config import RunConfig
from scaling.data.corpus import TokenFiles
from scaling.data.labels import excerpts
from scaling.model import Model, build
from scaling.model_config import ModelConfig

HEAD = "class_embedding"
"""Name of the head. It counts among the embeddings, so that N is that of the pre-trained model."""


class Classifier(Model):
    """What a classifier adds to the family that it is derived from (:func:`classifier`)."""

    def __init__(
        self, model: ModelConfig, vocab_size: int, classes: int, lm_weight: float = 0.0
    ) -> None:
        self.classes = classes
        self.lm_weight = lm_weight
        """Weight of the language-model loss."""
        super().__init__(model, vocab_size)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        return super().tensors() | {HEAD: (self.classes, self.model.d_model)}

    def inputs(self, windows: Tensor) -> Tensor:
        return windows[..., :-1]

    def targets(self, windows: Tensor) -> Tensor:
        """Return the next tokens [..., T], of which the last is the class."""
        return windows[..., 1:]

    def loss_of(self, p: Mapping[str, Tensor], x_knd: Tensor, targets_kbt: Tensor) -> Tensor:
        x_kbtd = x_knd.view(*targets_kbt.shape, -1)
        label_kb = targets_kbt[:, :, -1].contiguous()
        loss_k = self.mean_cross_entropy(self._state(x_kbtd), p[HEAD], label_kb)
        if self.lm_weight:
            before_knd = x_kbtd[:, :, :-1].flatten(1, 2)
            lm_k = super().loss_of(p, before_knd, targets_kbt[:, :, :-1])
            loss_k = loss_k + self.lm_weight * lm_k
        return loss_k

    @torch.no_grad()
    def losses(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        """Return [K, B, T]: at the last position, the cross-entropy [nats] of the class; at the
        first, 1 if the class of the highest score is right, and 0 if not; nan elsewhere."""
        targets_kbt = self.targets(windows_kbt)
        p = self.named(flat_kp)
        x_knd = self.hidden(p, self.inputs(windows_kbt))
        state_kbd = self._state(x_knd.view(*targets_kbt.shape, -1))
        logits_kbc = torch.bmm(state_kbd, p[HEAD].transpose(1, 2)).float()
        label_kb = targets_kbt[:, :, -1]
        found = torch.full(targets_kbt.shape, math.nan, device=logits_kbc.device)
        found[:, :, -1] = -logits_kbc.log_softmax(2).gather(2, label_kb[..., None])[:, :, 0]
        found[:, :, 0] = (logits_kbc.argmax(2) == label_kb).float()
        return found

    def _state(self, x_kbtd: Tensor) -> Tensor:
        """Return the final states [K, B, D] that the head reads."""
        state_kbd = x_kbtd[:, :, 0 if self.model.masked else -1].contiguous()
        if self.model.mup_base_width is not None:
            state_kbd = state_kbd / self.model.width_multiplier
        return state_kbd


def classifier(
    model: ModelConfig, vocab_size: int, classes: int, lm_weight: float = 0.0
) -> Classifier:
    """Return the classifier of a model's family. Raises ConfigError as :func:`build` does."""
    family = type(build(model, vocab_size))
    return _derived(family)(model, vocab_size, classes, lm_weight)


def model_of(run: RunConfig, files: TokenFiles) -> Model:
    """Return the model of a run: that of its family, or a classifier with the same blocks."""
    if not run.classify.labels:
        return build(run.model, files.vocab_size)
    classes = len(excerpts(files, run).classes)
    return classifier(run.model, files.vocab_size, classes, run.classify.lm_weight)


@functools.cache
def _derived(family: type[Model]) -> type[Classifier]:
    return type(f"{family.__name__}Classifier", (Classifier, family), {})
