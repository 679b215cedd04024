"""The members of a pack: what each run has of its own, and which of them share a row."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from scaling import count, schema, size
from scaling.config import RunConfig, flatten
from scaling.data import corpus
from scaling.data.windows import TrainTokens
from scaling.errors import ConfigError
from scaling.training.evaluate import HeldOut
from scaling.training.pack_key import parts_at
from scaling.training.result import Progress, Result
from scaling.training.schedule import evaluation_steps, peaks, schedule
from scaling.training.state import State

# A model that knows nothing has loss ln V; well above it, the run has blown up.
_EXPLODED_ABOVE = 2.0


class Member:
    """One run of a pack: what is its own, apart from its row of the stacked tensors."""

    # What a checkpoint holds besides the row.
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

    def __init__(self, run: RunConfig, files: corpus.TokenFiles, folder: Path | None) -> None:
        self.run = run
        self.folder = folder
        self.tokens = TrainTokens(files, run.data, run.model.n_ctx)
        sequences = run.batch_tokens // run.model.n_ctx
        if sequences * run.model.n_ctx > self.tokens.unique:
            raise ConfigError(
                f"a step of batch_tokens={run.batch_tokens} is more than the {self.tokens.unique} "
                f"training tokens of data.corpus={run.data.corpus!r}"
                + (" that data.unique_tokens leaves" if run.data.unique_tokens else "")
                + "; use a smaller batch or more text."
            )
        self.lr_peaks = peaks(run)
        self.eval_steps = set(evaluation_steps(run.S, run.eval.points))
        self.parts_at = parts_at(run)
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self.tests: list[dict[str, Any]] = []
        self.loss_before, self.loss_from = 0.0, 0
        """Sum of the training losses, and the step, at the last evaluation."""
        self.norm_before = 0.0
        """Sum of the gradient norms at the last evaluation."""
        self.best: dict[str, Any] = {}
        """The evaluation that counts: with eval.patience the one of least loss, else the last."""
        self.worse = 0
        """Evaluations since then."""
        self.pack = 1
        self.shared_steps = 0
        self.work = 0.0
        """Tokens trained, those that several members share split among them."""
        self.train_seconds = 0.0
        self.eval_seconds = 0.0
        self.error = ""
        self.stopped = ""
        """Why it was given up."""

    @property
    def over(self) -> bool:
        patience = self.run.eval.patience
        lost = bool(self.error or self.stopped)
        return lost or (patience is not None and self.worse >= patience) or self.step >= self.run.S

    @property
    def sequences(self) -> int:
        """Of the next step."""
        first, after = (self.run.tokens_at(s) for s in (self.step, self.step + 1))
        return (after - first) // self.run.model.n_ctx

    def window(self, share: slice) -> np.ndarray:
        """Windows [b, n_ctx + 1] of a share of the next step's sequences."""
        first = self.run.tokens_at(self.step) // self.run.model.n_ctx
        return self.tokens.batch(self.run.seed, first + share.start, share.stop - share.start)

    def rates(self) -> tuple[float, float]:
        """Learning rates of the next step, of (matrices, all else)."""
        scale = schedule(self.run, self.step)
        return self.lr_peaks[0] * scale, self.lr_peaks[1] * scale

    @property
    def held_out(self) -> HeldOut | None:
        """Of the evaluation that counts."""
        return HeldOut(**self.best["held_out"]) if self.best else None

    def measured(self, held_out: HeldOut, L_train: float, along: dict[str, float]) -> None:
        """Add a point to the curve, with what else was measured `along` the way there; note what went
        wrong, if something did."""
        run = self.run
        D = run.tokens_at(self.step)
        C = size.flops_per_token(run.model, run.data.vocab_size) * D
        L = held_out.L
        self.curve.append(
            {"run_id": run.run_id, "S": self.step, "D": D, "C": C}
            | {"L": L, "L_train": L_train}
            | along
        )
        at = f"at step {self.step} of {run.S}"
        limit = math.log(run.data.vocab_size) + _EXPLODED_ABOVE
        if not (math.isfinite(L) and math.isfinite(L_train)):
            self.error = f"loss not finite {at} (test {L}, train {L_train}); lower optim.lr"
        elif limit < L:
            self.error = (
                f"test loss {L:.3f} {at} exceeds ln V + {_EXPLODED_ABOVE:g}; lower optim.lr"
            )
        least = self.best["held_out"]["L"] if self.best else math.inf
        if least > L or self.error or run.eval.patience is None:
            self.best, self.worse = {"step": self.step, "held_out": asdict(held_out)}, 0
        else:
            self.worse += 1

    def tested(self, corpus: str, tokens: int, held_out: HeldOut) -> None:
        """Note the finished model's loss on a distribution."""
        at = {"run_id": self.run.run_id, "corpus": corpus, "tokens": tokens}
        self.tests.append(at | asdict(held_out))

    def mean_loss(self, loss_sum: float) -> float | None:
        """Mean training loss since the last evaluation; None right after it."""
        steps = self.step - self.loss_from
        return (loss_sum - self.loss_before) / steps if steps else None

    def progress(self, loss_sum: float, seconds: float) -> Progress:
        return Progress(
            step=self.step,
            steps=self.run.S,
            D=self.run.tokens_at(self.step),
            L=self.held_out.L if self.held_out else None,
            L_train=self.mean_loss(loss_sum),
            tokens_per_second=self.work / max(1e-9, self.train_seconds + seconds),
        )

    def result(self, files: corpus.TokenFiles, device: str, peak: float, memory: int) -> Result:
        """`peak` is the hardware's [FLOP/s], `memory` what was used at most [bytes]."""
        run, held_out = self.run, self.held_out
        assert held_out is not None  # the last step is always evaluated
        n = size.parameters(run.model, files.vocab_size)
        step = self.best["step"]
        D = run.tokens_at(step)
        rate = self.work / self.train_seconds
        flops = {
            name: size.flops_per_token(run.model, files.vocab_size, name) * D
            for name in count.CONVENTIONS
        }
        measured = {
            "run_id": run.run_id,
            "status": "diverged" if self.error else "stopped" if self.stopped else "ok",
            "N": n.N,
            "N_total": n.N_total,
            "D": D,
            "D_unique": min(D, self.tokens.unique),
            "D_shared": run.tokens_at(self.shared_steps),
            "C": flops["6N"],
            "C_kaplan": flops["kaplan"],
            "C_chinchilla": flops["chinchilla"],
            "C_matmul": flops["matmul"],
            "B": run.batch_tokens,
            "S": step,
            "L": held_out.L,
            "L_stderr": held_out.L_stderr,
            "bits_per_byte": held_out.bits_per_byte,
            "lr_peak": self.lr_peaks[0],
            "vocab_size": files.vocab_size,
            "corpus_hash": files.hash[:16],
            "seconds": self.train_seconds + self.eval_seconds,
            "tokens_per_second": rate,
            "step_seconds": D / step / rate,
            "mfu": flops["matmul"] / D * rate / peak,
            "peak_flops": peak,
            "memory": memory,
            "pack": self.pack,
            "device": device,
            "error": self.error or self.stopped,
        }
        return Result(run, schema.config_row(flatten(run)) | measured, self.curve, self.tests)


@dataclass
class Row:
    """Members with one and the same state, the last to part first; alone, a member has one too."""

    members: list[Member]
    state: State | None = None
    """While it waits for a place; None where it starts from its seed."""
    on_disk: bool = False
    """The state that waits is that of the checkpoint."""

    @property
    def leader(self) -> Member:
        return self.members[0]

    @property
    def update_is_asked(self) -> bool:
        """The next step is one before an evaluation that has its update measured."""
        return any(m.run.eval.update_ratio and m.step + 1 in m.eval_steps for m in self.members)
