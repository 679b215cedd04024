"""Blocks of steps: what the steps up to the next event need from the host, prepared at once.

An event is an evaluation, a branch, or another batch size. Between events, a pack trains in a loop
that does no work per member, other than the optimizers that take a call per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from scaling.data.windows import TrainTokens
from scaling.devices.device import send_each
from scaling.devices.ranks import Ranks
from scaling.training.member import Member, Trajectory
from scaling.training.stack import Inputs, Stack

_MOST_STEPS = 64
_MOST_SEQUENCES = 1 << 18
"""Largest number of steps of a block, and of sequences of all models in several steps."""

_READ_AT_ONCE = 64
"""Sequences of each model that are read at once where tokens stay on the CPU. A small step alone
would take longer to read than to train."""

MOST_TOKENS = 1 << 28
"""Largest training split, in tokens, that is kept on a GPU (1 GB)."""


class Source:
    """Makes windows of the training tokens. Those that are cut from the text are cut on a GPU if
    there are at most :data:`MOST_TOKENS`; otherwise the tokens stay in their file."""

    def __init__(self, tokens: TrainTokens, device: torch.device) -> None:
        self.tokens, self.device = tokens, device
        self.tokens_n: Tensor | None = None
        """The tokens on the GPU."""
        if device.type != "cpu" and tokens.are_cut and len(tokens.tokens) <= MOST_TOKENS:
            self.tokens_n = torch.from_numpy(tokens.tokens.astype(np.int32)).to(device)
            self.position_t = torch.arange(tokens.n_ctx + 1, device=device)

    def begin(self, members: Sequence[Member], steps: int, share: slice) -> None:
        """Set whose windows the next steps need, for a share of each step's sequences."""
        self.members = members
        self.numbers_nkb = np.stack([m.numbers_of_sequences(steps, share) for m in members], axis=1)
        if self.tokens.are_cut:
            self.starts_nkb = self._of_members(lambda m, n: m.tokens.starts_of(m.run.seed, n))
        if self.tokens_n is not None:
            self.starts = send_each(self.starts_nkb, self.device)
        self._read = range(0)

    def windows(self, step: int) -> Tensor:
        """Return the windows [K, b, T + 1] of a step, numbered from 0."""
        if self.tokens_n is not None:
            return self.tokens_n[self.starts[step][:, :, None] + self.position_t].long()
        if step not in self._read:
            steps = max(1, _READ_AT_ONCE // self.numbers_nkb.shape[2])
            self._read = range(step, step + steps)
            self._windows = send_each(self._made(slice(step, step + steps)), self.device)
        return self._windows[step - self._read.start]

    def _made(self, steps: slice) -> np.ndarray:
        """Return the windows [m, K, b, ...] of some steps, made on the CPU."""
        if self.tokens.are_cut:
            return self.tokens.windows(self.starts_nkb[steps])
        return self._of_members(lambda m, n: m.tokens.numbered(m.run.seed, n), steps)

    def _of_members(
        self, make: Callable[[Member, np.ndarray], np.ndarray], steps: slice = slice(None)
    ) -> np.ndarray:
        """Return what `make` gives for each member and the numbers of its sequences, stacked along
        the second dimension."""
        each = zip(self.members, self.numbers_nkb[steps].swapaxes(0, 1), strict=True)
        return np.stack([make(member, numbers) for member, numbers in each], axis=1)


class Block:
    """The next steps of a pack, up to its next event or as many as are prepared at once."""

    def __init__(
        self, trajectories: Sequence[Trajectory], stack: Stack, source: Source, ranks: Ranks
    ) -> None:
        self.trajectories, self.source = trajectories, source
        leaders = [trajectory.leader for trajectory in trajectories]
        self.sequences = leaders[0].next_sequences
        """Sequences per step of each model."""
        share = ranks.share(self.sequences)
        most = max(1, _MOST_SEQUENCES // (len(leaders) * self.sequences))
        n = min(_MOST_STEPS, most, steps_to_event(trajectories))
        self.steps = n
        self.done = self.counted = 0
        """Steps trained, and those that the members have counted."""
        source.begin(leaders, n, share)
        self.weight = (share.stop - share.start) / self.sequences
        self.lr_nk2 = np.stack([leader.next_rates(n) for leader in leaders], axis=1)
        self.rates = stack.optimizer.rates(self.lr_nk2)
        before_nk = np.arange(n)[:, None] + np.array([leader.step for leader in leaders])
        self.mean_weights = stack.mean_weights(before_nk)
        self.measured = [k for k, t in enumerate(trajectories) if t.update_is_measured(n)]
        """Rows whose update in the last step is recorded."""

    @property
    def over(self) -> bool:
        return self.done == self.steps

    @property
    def rows_measured(self) -> list[int]:
        """Rows whose update in the next step is recorded."""
        return self.measured if self.done == self.steps - 1 else []

    def next(self) -> Inputs:
        """Return the inputs of the next step."""
        i = self.done
        self.done += 1
        return Inputs(
            windows_kbt=self.source.windows(i),
            weight=self.weight,
            rates=self.rates[i],
            mean_weight_k1=None if self.mean_weights is None else self.mean_weights[i],
        )

    def count(self) -> None:
        """Let the members count the steps done since the last call."""
        steps, self.counted = self.done - self.counted, self.done
        tokens = steps * self.sequences * self.source.tokens.n_ctx
        for trajectory in self.trajectories:
            for member in trajectory.members:
                member.step += steps
                member.work += tokens / len(trajectory.members)


def steps_to_event(trajectories: Sequence[Trajectory]) -> int:
    """Return the number of steps until the next event, at most :data:`_MOST_STEPS`."""
    ahead = [_MOST_STEPS]
    for trajectory in trajectories:
        ahead += [steps for m in trajectory.members if (steps := m.next_event()) is not None]
        # A member whose branch begins here already leaves after the next step.
        ahead += [max(1, member.branch_step - member.step) for member in trajectory.members[1:]]
    leader = trajectories[0].leader
    if leader.run.optim.batch_warmup_tokens is not None:
        ahead.append(leader.steps_of_this_batch(min(ahead)))
    return min(ahead)
