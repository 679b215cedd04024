"""The encoder: the decoder's blocks with attention to both sides, which predicts masked tokens
(BERT: Devlin et al. 2019, arXiv 1810.04805). Shape suffixes as in scaling/model.py.

Its windows [K, B, 2 T] hold the corrupted inputs and then the targets, which are negative at the
positions that are not predicted (scaling/data/masks.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scaling.data.masks import NEXT
from scaling.model import family
from scaling.models.decoder import Decoder


@family
class Encoder(Decoder):
    """Pre-norm transformer in which every position attends to every other.

    Its token embedding has a row for each of the special tokens after those of the vocabulary; its
    output layer has none. The next-sentence objective reads the final state of [CLS].
    """

    causal = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        pairs = {"next_embedding": (2, self.model.d_model)} if self.model.next_sentence else {}
        return super().tensors() | pairs

    def inputs(self, windows: Tensor) -> Tensor:
        return windows[..., : windows.shape[-1] // 2]

    def targets(self, windows: Tensor) -> Tensor:
        return windows[..., windows.shape[-1] // 2 :]

    def output(self, p: Mapping[str, Tensor], x_knd: Tensor) -> tuple[Tensor, Tensor]:
        x_knd, head_kvd = super().output(p, x_knd)
        return x_knd, head_kvd[:, : self.vocab_size]

    def predicted(self, x_knd: Tensor, targets_kbt: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states and targets of the predicted positions, which are equally many in
        each sequence."""
        (k, b, t), d = targets_kbt.shape, x_knd.shape[2]
        at_kbm = self._places(targets_kbt)
        row_b1 = torch.arange(b, device=x_knd.device)[:, None] * t
        at_kn1 = (row_b1 + at_kbm).reshape(k, -1, 1)
        return x_knd.gather(1, at_kn1.expand(-1, -1, d)), targets_kbt.gather(2, at_kbm).flatten(1)

    def _places(self, targets_kbt: Tensor) -> Tensor:
        """Return the predicted positions [K, B, M] of each sequence, in order."""
        absent_kbt = (targets_kbt < 0).to(torch.int32)
        return absent_kbt.argsort(dim=2, stable=True)[:, :, : self.model.predicted]

    @torch.no_grad()
    def losses(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        """Return the cross-entropy [nats] of every predicted token [K, B, T], without gradient; nan
        at other positions.

        Position 0, that of [CLS], has the loss of the next-sentence objective, if that is trained.
        """
        targets_kbt = self.targets(windows_kbt)
        p = self.named(flat_kp)
        x_knd = self.hidden(p, self.inputs(windows_kbt))
        loss_kn = self.token_losses(p, x_knd, targets_kbt)
        loss_kbt = torch.full(targets_kbt.shape, math.nan, device=loss_kn.device)
        at_kbm = self._places(targets_kbt)
        loss_kbt.scatter_(2, at_kbm, loss_kn.view(at_kbm.shape))
        if self.model.next_sentence:
            loss_kbt[:, :, 0] = self._next_losses(p, x_knd, targets_kbt)
        return loss_kbt

    def loss_of(self, p: Mapping[str, Tensor], x_knd: Tensor, targets_kbt: Tensor) -> Tensor:
        loss_k = super().loss_of(p, x_knd, targets_kbt)
        if self.model.next_sentence:
            loss_k = loss_k + self._next_losses(p, x_knd, targets_kbt).mean(1)
        return loss_k

    def _next_losses(self, p: Mapping[str, Tensor], x_knd: Tensor, targets_kbt: Tensor) -> Tensor:
        """Return the cross-entropy [K, B] of whether the second half of a context follows the
        first."""
        k, b, t = targets_kbt.shape
        first_kbd = x_knd.view(k, b, t, -1)[:, :, 0]
        logits_kb2 = torch.bmm(first_kbd, p["next_embedding"].transpose(1, 2)).float()
        label_kb1 = (targets_kbt[:, :, :1] == NEXT).long()
        return -logits_kb2.log_softmax(2).gather(2, label_kb1)[:, :, 0]
