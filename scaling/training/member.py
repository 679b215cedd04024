"""The members of a pack: what belongs to each run, and which runs share a trajectory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scaling import size
from scaling.columns import config_row
from scaling.config import RunConfig, flatten
from scaling.data.corpus import TokenFiles
from scaling.data.labels import LabelledExcerpts
from scaling.data.masks import train_tokens
from scaling.errors import ConfigError
from scaling.training.evaluate import HeldOut
from scaling.training.pack_key import branch_step
from scaling.training.result import Progress, Result
from scaling.training.schedule import evaluation_steps, optimizer_columns, peaks, schedule_of
from scaling.training.state import State

_EXPLODED_ABOVE = 2.0
"""A loss this far above ln V, that of a uniform prediction, has exploded [nats/token]."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware facts in a row of the results table."""

    device: str
    peak_flops: float
    """Total over all devices [FLOP/s]."""
    memory: int
    """Peak memory [bytes]."""


class Member:
    """One run of a pack: everything about it except its row of the stacked tensors."""

    SAVED: ClassVar[dict[str, type]] = {
        "step": int,
        "curve": list,
        "loss_before": float,
        "norm_before": float,
        "loss_from": int,
        "best": dict,
        "worse": int,
        "train_seconds": float,
        "eval_seconds": float,
        "pack": int,
        "shared_steps": int,
        "work": float,
        "tests": list,
    }
    """Attributes that a checkpoint stores, with their types."""

    def __init__(self, run: RunConfig, files: TokenFiles, folder: Path | None) -> None:
        self.run = run
        self.folder = folder
        self.tokens = train_tokens(files, run)
        sequences = run.batch_tokens // run.model.n_ctx
        if sequences * run.model.n_ctx > self.tokens.unique:
            raise ConfigError(
                f"a step of batch_tokens={run.batch_tokens} is more than the {self.tokens.unique} "
                f"training tokens of data.corpus={run.data.corpus!r}"
                + (" that classify.examples leaves" if run.classify.examples else "")
                + (" that data.unique_tokens leaves" if run.data.unique_tokens else "")
                + "; use a smaller batch or more text."
            )
        self.lr_peaks = peaks(run)
        self.schedule = schedule_of(run)
        self.eval_steps = set(evaluation_steps(run.S, run.eval.points))
        self.branch_step = branch_step(run)
        self.step = 0
        """Steps done."""
        self.stored_step = 0
        """Steps done at the last checkpoint."""
        self.curve: list[dict[str, Any]] = []
        self.tests: list[dict[str, Any]] = []
        self.loss_before, self.loss_from = 0.0, 0
        """Sum of the training losses up to the last evaluation, and its step."""
        self.norm_before = 0.0
        """Sum of the gradient norms up to the last evaluation."""
        self.best: dict[str, Any] = {}
        """The evaluation that counts: the least loss with eval.patience, otherwise the last."""
        self.worse = 0
        """Evaluations since the one that counts."""
        self.pack = 1
        """Largest number of models that trained at once in its stack, itself included."""
        self.shared_steps = 0
        """Steps shared with members that trained on."""
        self.work = 0.0
        """Tokens trained; the tokens of shared steps are divided among the members that share
        them."""
        self.train_seconds = 0.0
        self.eval_seconds = 0.0
        self.origin: dict[str, Any] = {}
        """Columns of its row about the weights of another run that it began from."""
        self.error = ""
        """Why it diverged."""
        self.stopped = ""
        """Why it was stopped early."""

    @property
    def finished(self) -> bool:
        patience = self.run.eval.patience
        if self.error or self.stopped or self.step >= self.run.S:
            return True
        return patience is not None and self.worse >= patience

    @property
    def next_sequences(self) -> int:
        """Sequences in the next step."""
        before, after = (self.run.tokens_at(step) for step in (self.step, self.step + 1))
        return (after - before) // self.run.model.n_ctx

    def numbers_of_sequences(self, steps: int, share: slice) -> np.ndarray:
        """Return the numbers [steps, b] of the sequences of the next steps, for a share of each
        step's sequences. All these steps have the same number of them."""
        first = self.run.tokens_at(self.step) // self.run.model.n_ctx
        step_n1 = np.arange(steps)[:, None]
        return first + step_n1 * self.next_sequences + np.arange(share.start, share.stop)

    def next_rates(self, steps: int) -> np.ndarray:
        """Return the learning rates [steps, 2] of the next steps, for matrices and all else."""
        scales = [self.schedule(step) for step in range(self.step, self.step + steps)]
        return np.array(scales)[:, None] * np.array(self.lr_peaks)

    def steps_of_this_batch(self, most: int) -> int:
        """Return the number of next steps with as many tokens as the next one, at most `most`."""
        tokens = [self.run.tokens_at(step) for step in range(self.step, self.step + most + 1)]
        sizes = np.diff(tokens)
        return int((sizes == sizes[0]).cumprod().sum())

    def next_event(self) -> int | None:
        """Return the number of steps until the next evaluation; None after the last one."""
        return min((step - self.step for step in self.eval_steps if step > self.step), default=None)

    @property
    def held_out(self) -> HeldOut | None:
        """Test loss at the evaluation that counts."""
        return HeldOut(**self.best["held_out"]) if self.best else None

    def add_evaluation(
        self, held_out: HeldOut, L_train: float, diagnostics: dict[str, float]
    ) -> None:
        """Add a point to the curve, and note whether the run has diverged."""
        run = self.run
        D = run.tokens_at(self.step)
        C = size.flops_per_token_of(run) * D
        L = held_out.L
        self.curve.append(
            {"run_id": run.run_id, "S": self.step, "D": D, "C": C}
            | {"L": L, "L_train": L_train}
            | diagnostics
        )
        at = f"at step {self.step} of {run.S}"
        if not (math.isfinite(L) and math.isfinite(L_train)):
            self.error = f"loss not finite {at} (test {L}, train {L_train}); lower optim.lr"
        elif math.log(run.data.vocab_size) + _EXPLODED_ABOVE < L:
            self.error = (
                f"test loss {L:.3f} {at} exceeds ln V + {_EXPLODED_ABOVE:g}; lower optim.lr"
            )
        least = self.best["held_out"]["L"] if self.best else math.inf
        if least > L or self.error or run.eval.patience is None:
            self.best, self.worse = {"step": self.step, "held_out": asdict(held_out)}, 0
        else:
            self.worse += 1

    @property
    def is_result(self) -> bool:
        """Whether the model just evaluated is, so far, the run's result."""
        if self.error:
            return False
        return self.worse == 0 if self.run.eval.patience is not None else self.finished

    def add_test(self, corpus: str, tokens: int, held_out: HeldOut) -> None:
        """Record the model's loss on a distribution."""
        at = {"run_id": self.run.run_id, "corpus": corpus, "tokens": tokens}
        names = ("L", "L_stderr", "bits_per_byte", "L_position")
        self.tests.append(at | {name: getattr(held_out, name) for name in names})

    def mean_loss(self, loss_sum: float) -> float | None:
        """Return the mean training loss since the last evaluation; None right after one."""
        steps = self.step - self.loss_from
        return (loss_sum - self.loss_before) / steps if steps else None

    def progress(self, loss_sum: float, seconds: float) -> Progress:
        """Return the run's progress; `seconds` is training time not yet in `train_seconds`."""
        return Progress(
            step=self.step,
            steps=self.run.S,
            D=self.run.tokens_at(self.step),
            L=self.held_out.L if self.held_out else None,
            L_train=self.mean_loss(loss_sum),
            tokens_per_second=self.work / max(1e-9, self.train_seconds + seconds),
            stored=self.run.tokens_at(self.stored_step),
            curve=[(point["S"], point["L"], point.get("lr")) for point in self.curve],
        )

    def row(self, files: TokenFiles) -> dict[str, Any]:
        """Return the run's row of the results table, without what depends on the machine."""
        run, held_out = self.run, self.held_out
        assert held_out is not None  # the last step is always evaluated
        sizes = size.size_columns(run, self.best["step"])
        measured = sizes | {
            "run_id": run.run_id,
            "status": "diverged" if self.error else "stopped" if self.stopped else "ok",
            "D_unique": min(sizes["D"], self.tokens.unique),
            "D_shared": run.tokens_at(self.shared_steps),
            "L": held_out.L,
            "L_stderr": held_out.L_stderr,
            "bits_per_byte": held_out.bits_per_byte,
            "L_next": held_out.L_next,
            "next_accuracy": held_out.next_accuracy,
            "lr_peak": self.lr_peaks[0],
            "corpus_hash": files.hash[:16],
        }
        if isinstance(self.tokens, LabelledExcerpts):
            classes = len(self.tokens.classes)
            measured |= {"accuracy": held_out.accuracy, "classes": classes}
        if run.init:
            measured |= self.origin | {"D_transfer": sizes["D"]}
        return config_row(flatten(run)) | optimizer_columns(run) | measured

    def result(self, files: TokenFiles, machine: Machine) -> Result:
        """Return the finished run, with its row of the results table."""
        row = self.row(files)
        D = row["D"]
        rate = self.work / self.train_seconds
        measured = {
            "seconds": self.train_seconds + self.eval_seconds,
            "tokens_per_second": rate,
            "step_seconds": D / row["S"] / rate,
            "mfu": row["C_matmul"] / D * rate / machine.peak_flops,
            "peak_flops": machine.peak_flops,
            "memory": machine.memory,
            "pack": self.pack,
            "device": machine.device,
            "error": self.error or self.stopped,
        }
        return Result(self.run, row | measured, self.curve, self.tests)


@dataclass
class Trajectory:
    """Members with the same parameters so far, ordered by where they branch off, last first.

    A member that shares its parameters with no other has its own trajectory.
    """

    members: list[Member]
    state: State | None = None
    """The state to continue from, while it waits for a slot; None starts from the seed."""
    on_disk: bool = False
    """Whether `state` is the same as in the checkpoint."""

    @property
    def leader(self) -> Member:
        """The member whose config decides the next step: the last one to branch off."""
        return self.members[0]

    def update_is_measured(self, steps: int) -> bool:
        """Whether the last of the next steps is followed by an evaluation that records its
        update."""
        return any(m.run.eval.update_ratio and m.step + steps in m.eval_steps for m in self.members)
