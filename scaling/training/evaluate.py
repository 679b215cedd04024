"""Held-out loss on fixed test windows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.config import RunConfig
from scaling.data import corpus
from scaling.data.corpus import TokenFiles
from scaling.data.labels import excerpts, labels_hash
from scaling.data.masks import test_windows
from scaling.devices.device import precision
from scaling.devices.ranks import ALONE, Ranks
from scaling.model import Model
from scaling.models.classifier import Classifier

_CHUNK_TOKENS = 16_384
"""Tokens per forward pass, which bounds the memory of the activations."""

_CHUNK_ELEMENTS = 1 << 26
"""On a GPU, elements of the widest activation of all models in a forward pass."""


@dataclass(frozen=True)
class HeldOut:
    """Test loss of one model."""

    L: float
    """Mean over all target tokens; of an encoder, over the masked ones [nats/token]."""
    L_stderr: float
    """Standard error of L, with contexts taken as independent [nats/token]."""
    bits_per_byte: float
    """Bits per byte of the text; end-of-text targets are excluded. NaN for an encoder: its losses
    are no likelihood of the text."""
    L_position: list[float]
    """Mean at each of the T positions in the context [nats/token]; NaN where none is predicted."""
    L_next: float = math.nan
    """Mean loss of the next-sentence objective [nats/pair]; NaN without it."""
    next_accuracy: float = math.nan
    """Share of pairs that the next-sentence objective decides rightly."""
    accuracy: float = math.nan
    """Share of the test excerpts that a classifier assigns to their class; NaN for others."""


@torch.inference_mode()
def evaluate(
    model: Model,
    flat_kp: Tensor,
    windows_bt: Tensor,
    token_bytes_v: Tensor,
    ranks: Ranks = ALONE,
) -> list[HeldOut]:
    """Return the test loss of each of K models on windows [B, T + 1].

    The ranks share the windows. `token_bytes_v` is the length of every token in bytes, 0 for
    end-of-text.
    """
    chunk = max(1, _CHUNK_TOKENS // windows_bt.shape[1])
    targets_bt = model.targets(windows_bt)
    bytes_bt = token_bytes_v[targets_bt.clamp(0, len(token_bytes_v) - 1)].double()
    models = 1  # on a CPU, a chunk of one model already fills the cache
    if flat_kp.device.type != "cpu" and not ranks.sharded:
        models = len(flat_kp)
        tokens = _CHUNK_ELEMENTS // max(model.model.ff_width, model.model.d_model) // models
        chunk = max(1, tokens // windows_bt.shape[1])
    masked, classifies = model.model.masked, isinstance(model, Classifier)
    measured = []
    for flat_mp in flat_kp.split(models):
        loss_mbt = bytes_bt.new_zeros(len(flat_mp), *bytes_bt.shape)
        share = ranks.share(len(windows_bt))
        own_bt, own_loss_mbt = windows_bt[share], loss_mbt[:, share]
        chunks = list(zip(own_bt.split(chunk), own_loss_mbt.split(chunk, dim=1), strict=True))
        if ranks.sharded:  # all ranks gather parameters together, so each needs the same chunks
            longest_share = -(-len(windows_bt) // ranks.size)
            spare = windows_bt[:1], torch.empty_like(loss_mbt[:, :1])
            chunks += [spare] * (-(-longest_share // chunk) - len(chunks))
        for chunk_bt, chunk_loss_mbt in chunks:
            if len(chunk_bt):
                windows_mbt = chunk_bt.expand(len(flat_mp), -1, -1)
                chunk_loss_mbt.copy_(model.losses(flat_mp, windows_mbt))
        whole_mbt = ranks.add(loss_mbt)
        if classifies:
            measured.append(classified_summary(whole_mbt))
        else:
            measured.append(masked_summary(whole_mbt) if masked else summary(whole_mbt, bytes_bt))
    rows = torch.cat(measured).tolist()  # one copy from the device, which waits for it
    if classifies:
        return [HeldOut(row[0], row[1], math.nan, row[3:], accuracy=row[2]) for row in rows]
    if masked:
        return [HeldOut(row[0], row[1], math.nan, row[4:], row[2], row[3]) for row in rows]
    return [HeldOut(*row[:3], L_position=row[3:]) for row in rows]


def summary(loss_kbt: Tensor, bytes_bt: Tensor) -> Tensor:
    """Return [K, 3 + T]: L, its standard error, bits per byte, and L at each position."""
    k, n = loss_kbt.shape[:2]
    context_kb = loss_kbt.mean(2)
    if n == 1:
        stderr_k = torch.full_like(context_kb[:, 0], math.nan)
    else:  # torch sums a whole vector in another order than each of several rows
        std_k = context_kb.std(1) if k > 1 else context_kb.std()[None]
        stderr_k = std_k / math.sqrt(n)
    nats_k = (loss_kbt * (bytes_bt > 0)).sum((1, 2))
    bits_k = nats_k / (math.log(2) * bytes_bt.sum())
    means = torch.stack([context_kb.mean(1), stderr_k, bits_k], dim=1)
    return torch.cat([means, loss_kbt.mean(1)], dim=1)


def masked_summary(loss_kbt: Tensor) -> Tensor:
    """Return [K, 4 + T] for an encoder: L, its standard error, the loss and the accuracy of the
    next-sentence objective, and L at each position.

    Positions that are not predicted have the loss nan. Position 0 has that of the next-sentence
    objective, which decides between two.
    """
    pair_kb, token_kbt = loss_kbt[:, :, 0], loss_kbt[:, :, 1:]
    context_kb = token_kbt.nanmean(2)
    stderr_k = torch.full_like(pair_kb[:, 0], math.nan)
    if context_kb.shape[1] > 1:
        stderr_k = torch.stack([row_b.std() for row_b in context_kb]) / math.sqrt(
            len(context_kb[0])
        )
    pair_k = pair_kb.mean(1)
    right_k = torch.where(pair_k.isnan(), math.nan, (pair_kb < math.log(2)).double().mean(1))
    means = torch.stack([context_kb.mean(1), stderr_k, pair_k, right_k], dim=1)
    no_cls_k1 = torch.full_like(means[:, :1], math.nan)
    return torch.cat([means, no_cls_k1, token_kbt.nanmean(1)], dim=1)


def classified_summary(loss_kbt: Tensor) -> Tensor:
    """Return [K, 3 + T] for a classifier: L, its standard error, the accuracy, and L at the last
    position. Losses are those of :meth:`Classifier.losses`."""
    loss_kb, right_kb = loss_kbt[:, :, -1].contiguous(), loss_kbt[:, :, 0].contiguous()
    rows = []
    for loss_b, right_b, at_bt in zip(loss_kb, right_kb, loss_kbt, strict=True):
        stderr = loss_b.std() / math.sqrt(len(loss_b))
        at_t = torch.full_like(at_bt[0], math.nan)
        at_t[-1] = loss_b.mean()
        rows.append(torch.cat([torch.stack([at_t[-1], stderr, right_b.mean()]), at_t]))
    return torch.stack(rows)


class Evaluator:
    """Evaluates the models of a pack on the test splits of their own and of other corpora."""

    def __init__(
        self,
        model: Model,
        files: TokenFiles,
        run: RunConfig,
        *,
        other_corpora: Collection[str],
        texts: Mapping[str, str] | None,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.model, self.ranks, self.device = model, ranks, device
        self.bfloat16 = run.precision == "bfloat16"
        # Prepare them now: an unreadable corpus must fail before training, not after it.
        self.others = {name: files.test_of(name) for name in sorted(other_corpora)}
        if texts is not None:
            labels = {run.classify.labels: labels_hash(run.classify)}
            labels = labels if run.classify.is_file else {}
            found = corpus.hashes(run.data, files, self.others, labels)
            corpus.check_unchanged(found, texts)
        self.files = files
        if run.classify.labels:
            windows = excerpts(files, run).test_bt
        else:
            windows = test_windows(files.test, run.eval.test_tokens, run.model, files)
        self.windows_bt = torch.from_numpy(windows).to(device)
        self.token_bytes_v = torch.from_numpy(files.token_bytes()).to(device)

    @property
    def test_tokens(self) -> int:
        return self.windows_bt.shape[0] * self.model.model.n_ctx

    def held_out(self, flat_kp: Tensor) -> list[HeldOut]:
        """Return the test loss of each model on its own corpus."""
        return self._evaluate(flat_kp, self.windows_bt)

    def held_out_on(self, name: str, flat_1p: Tensor, test_tokens: int) -> tuple[HeldOut, int]:
        """Return the test loss of one model on another corpus, and the number of tokens
        measured."""
        model = self.model.model
        windows = test_windows(self.others[name], test_tokens, model, self.files, at_most=True)
        (found,) = self._evaluate(flat_1p, torch.from_numpy(windows).to(self.device))
        return found, len(windows) * model.n_ctx

    def _evaluate(self, flat_kp: Tensor, windows_bt: Tensor) -> list[HeldOut]:
        with precision(self.device, self.bfloat16):
            return evaluate(self.model, flat_kp, windows_bt, self.token_bytes_v, self.ranks)
