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
from scaling.data.windows import held_out_windows
from scaling.devices.device import precision
from scaling.devices.ranks import ALONE, Ranks
from scaling.model import Model

_CHUNK_TOKENS = 16_384
"""Tokens per forward pass, which bounds the memory of the activations."""

_CHUNK_ELEMENTS = 1 << 26
"""On a GPU, elements of the widest activation of all models in a forward pass."""


@dataclass(frozen=True)
class HeldOut:
    """Test loss of one model."""

    L: float
    """Mean over all target tokens [nats/token]."""
    L_stderr: float
    """Standard error of L, with contexts taken as independent [nats/token]."""
    bits_per_byte: float
    """Bits per byte of the text; end-of-text targets are excluded."""
    L_position: list[float]
    """Mean at each of the T positions in the context [nats/token]."""


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
    bytes_bt = token_bytes_v[windows_bt[:, 1:]].double()
    models = 1  # on a CPU, a chunk of one model already fills the cache
    if flat_kp.device.type != "cpu" and not ranks.sharded:
        models = len(flat_kp)
        tokens = _CHUNK_ELEMENTS // max(model.model.ff_width, model.model.d_model) // models
        chunk = max(1, tokens // windows_bt.shape[1])
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
        measured.append(summary(ranks.add(loss_mbt), bytes_bt))
    rows = torch.cat(measured).tolist()  # one copy from the device, which waits for it
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
            corpus.check_unchanged(corpus.hashes(run.data, files, self.others), texts)
        windows = held_out_windows(files.test, run.eval.test_tokens, run.model.n_ctx)
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
        n_ctx = self.model.model.n_ctx
        windows = held_out_windows(self.others[name], test_tokens, n_ctx, at_most=True)
        (found,) = self._evaluate(flat_1p, torch.from_numpy(windows).to(self.device))
        return found, len(windows) * n_ctx

    def _evaluate(self, flat_kp: Tensor, windows_bt: Tensor) -> list[HeldOut]:
        with precision(self.device, self.bfloat16):
            return evaluate(self.model, flat_kp, windows_bt, self.token_bytes_v, self.ranks)
