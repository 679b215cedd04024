"""Train one run: RunConfig -> row of the results table and learning curve."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling import corpus, count, table
from scaling.config import ConfigError, Execution, RunConfig, canonical, flatten
from scaling.evaluate import HeldOut, evaluate
from scaling.model import Decoder
from scaling.optim import AdamW, peaks, schedule
from scaling.tokens import TrainTokens, held_out_windows

CHECKPOINT = "checkpoint.pt"

_PROGRESS_SECONDS = 0.5
# A model that knows nothing has loss ln V; well above it, the run has blown up.
_EXPLODED_ABOVE = 2.0


class Interrupted(Exception):
    """Training stopped because it was asked to; its checkpoint is written."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    D: int
    L: float | None
    """Last held-out loss [nats/token]."""
    L_train: float | None
    """Mean training loss since the last evaluation [nats/token]."""
    tokens_per_second: float


@dataclass(frozen=True)
class Result:
    """A finished run."""

    config: RunConfig
    row: dict[str, Any]
    """One row of the results table; keys are names of scaling.table.COLUMNS."""
    curve: list[dict[str, Any]]
    """One entry an evaluation; keys are names of scaling.table.CURVE_COLUMNS."""

    @property
    def status(self) -> str:
        return self.row["status"]


def evaluation_steps(S: int, points: int) -> list[int]:
    """The steps (1 to S) after which the held-out loss is measured: log-spaced from S / 100, the
    last step always among them."""
    if points == 1:
        return [S]
    spaced = np.geomspace(max(1.0, S / 100), S, points)
    return sorted({int(step) for step in np.round(spaced)})


def train(
    run: RunConfig,
    *,
    execution: Execution | None = None,
    folder: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train `run` and measure it.

    With a `folder`, a checkpoint is kept there and an existing one is resumed exactly: an interrupted
    run ends with the numbers of an undisturbed one, bit for bit on the CPU. A loss that is no longer
    finite, or explodes, ends the run with status 'diverged'. `should_stop` is asked after every
    step; True writes the checkpoint and raises Interrupted. Raises ConfigError (CorpusError) for
    a run that cannot be trained as asked.
    """
    execution = execution or Execution()
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    trainer = Trainer(run, execution, folder)
    return trainer.run_to_end(on_progress, should_stop)


def device_of(name: str) -> torch.device:
    """The torch device of Execution.device; 'auto' is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name!r} is not a device; use auto, cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name!r}, but torch finds no CUDA GPU here; use cpu or auto.")
    return device


class Trainer:
    """The state of one run in training; :func:`train` drives it."""

    def __init__(self, run: RunConfig, execution: Execution, folder: Path | None) -> None:
        self.run = run
        self.folder = folder
        self.checkpoint_seconds = execution.checkpoint_seconds
        self.device = device_of(execution.device)
        self.files = corpus.prepare(run.data)
        self.tokens = TrainTokens(self.files, run.data, run.model.n_ctx)
        windows = held_out_windows(self.files.test, run.eval.test_tokens, run.model.n_ctx)
        self.windows_bt = torch.from_numpy(windows).to(self.device)
        self.token_bytes_v = torch.from_numpy(self.files.token_bytes()).to(self.device)
        self.decoder = Decoder(run.model, self.files.vocab_size)
        self.flat_kp = self.decoder.init([run.seed]).to(self.device).requires_grad_()
        self.adamw = AdamW(self.flat_kp, self.decoder.P_decayed, [run.optim])
        self.lr_peaks = peaks(run)
        self.mean_loss = self.decoder.mean_loss
        if execution.compile:
            self.mean_loss = torch.compile(self.decoder.mean_loss)
        self.eval_steps = set(evaluation_steps(run.S, run.eval.points))
        self.bfloat16 = run.precision == "bfloat16"
        # What a checkpoint holds besides weights and optimiser.
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self.held_out: HeldOut | None = None
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.loss_steps = 0
        self.train_seconds = 0.0
        self.eval_seconds = 0.0

    # ---------------------------------------------------------------- the loop

    def run_to_end(
        self,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> Result:
        self._resume()
        run, error = self.run, ""
        clock = last_progress = last_checkpoint = time.perf_counter()
        while self.step < run.S:
            lr = self.steps(1)
            evaluating = self.step in self.eval_steps
            if evaluating:
                error = self._measure(lr, clock)
                clock = time.perf_counter()
                if error:
                    break
            now = time.perf_counter()
            if on_progress and (evaluating or now - last_progress > _PROGRESS_SECONDS):
                on_progress(self._progress(now - clock))
                last_progress = now
            stop = should_stop is not None and self.step < run.S and should_stop()
            if self.folder and (stop or now - last_checkpoint > self.checkpoint_seconds):
                self.train_seconds += time.perf_counter() - clock
                self._save()
                clock = last_checkpoint = time.perf_counter()
            if stop:
                raise Interrupted(f"run {run.run_id} stopped at step {self.step} of {run.S}")
        return self._result(error)

    def steps(self, n: int) -> float:
        """Train n steps, without evaluation or host synchronisation; the last learning rate."""
        run, lr = self.run, 0.0
        sequences = run.batch_tokens // run.model.n_ctx
        for _ in range(n):
            windows_kbt = torch.from_numpy(self.tokens.batch(run.seed, self.step, sequences))[None]
            if self.device.type == "cuda":
                windows_kbt = windows_kbt.pin_memory().to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                (loss,) = self.mean_loss(self.flat_kp, windows_kbt)
            (grad_kp,) = torch.autograd.grad(loss, self.flat_kp)
            scale = schedule(run, self.step)
            lr = self.lr_peaks[0] * scale
            self.adamw.step(grad_kp, [(lr, self.lr_peaks[1] * scale)])
            self.loss_sum += loss.detach()
            self.loss_steps += 1
            self.step += 1
        return lr

    def _measure(self, lr: float, clock: float) -> str:
        """Evaluate, add a row to the curve; says what went wrong, or ''."""
        L_train = self.loss_sum.item() / self.loss_steps
        start = time.perf_counter()
        self.train_seconds += start - clock
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            self.held_out = evaluate(
                self.decoder, self.flat_kp.detach(), self.windows_bt, self.token_bytes_v
            )[0]
        self.eval_seconds += time.perf_counter() - start
        self.loss_sum.zero_()
        self.loss_steps = 0
        N = count.parameters(self.run.model, self.files.vocab_size).N
        D = self.step * self.run.batch_tokens
        L = self.held_out.L
        self.curve.append(
            {"run_id": self.run.run_id, "S": self.step, "D": D, "C": 6.0 * N * D}
            | {"L": L, "L_train": L_train, "lr": lr}
        )
        at = f"at step {self.step} of {self.run.S}"
        if not (math.isfinite(L) and math.isfinite(L_train)):
            return f"loss not finite {at} (test {L}, train {L_train}); lower optim.lr"
        limit = math.log(self.files.vocab_size) + _EXPLODED_ABOVE
        if limit < L:
            return f"test loss {L:.3f} {at} exceeds ln V + {_EXPLODED_ABOVE:g}; lower optim.lr"
        return ""

    def _progress(self, seconds: float) -> Progress:
        tokens = self.step * self.run.batch_tokens
        return Progress(
            step=self.step,
            steps=self.run.S,
            D=tokens,
            L=self.held_out.L if self.held_out else None,
            L_train=self.loss_sum.item() / self.loss_steps if self.loss_steps else None,
            tokens_per_second=tokens / max(1e-9, self.train_seconds + seconds),
        )

    def _result(self, error: str) -> Result:
        run, held_out = self.run, self.held_out
        assert held_out is not None  # the last step is always evaluated
        n = count.parameters(run.model, self.files.vocab_size)
        D = self.step * run.batch_tokens
        flops = {
            name: count.flops_per_token(run.model, self.files.vocab_size, name) * D
            for name in count.CONVENTIONS
        }
        measured = {
            "run_id": run.run_id,
            "status": "diverged" if error else "ok",
            "N": n.N,
            "N_total": n.N_total,
            "D": D,
            "D_unique": min(D, self.tokens.unique),
            "C": flops["6N"],
            "C_kaplan": flops["kaplan"],
            "C_chinchilla": flops["chinchilla"],
            "C_matmul": flops["matmul"],
            "B": run.batch_tokens,
            "S": self.step,
            **asdict(held_out),
            "lr_peak": self.lr_peaks[0],
            "vocab_size": self.files.vocab_size,
            "corpus_hash": self.files.hash[:16],
            "seconds": self.train_seconds + self.eval_seconds,
            "tokens_per_second": D / self.train_seconds,
            "device": self._device_name(),
            "error": error,
        }
        return Result(run, table.config_row(flatten(run)) | measured, self.curve)

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu x{torch.get_num_threads()}"

    # ---------------------------------------------------------------- checkpoints

    _SAVED = ("step", "curve", "held_out", "loss_steps", "train_seconds", "eval_seconds")

    def _save(self) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {name: getattr(self, name) for name in self._SAVED}
        state["held_out"] = asdict(self.held_out) if self.held_out else None
        state |= {
            "config": canonical(self.run),
            "corpus_hash": self.files.hash,
            "loss_sum": self.loss_sum.item(),
            "flat_kp": self.flat_kp.detach(),
            "adamw": self.adamw.state(),
        }
        path = self.folder / CHECKPOINT
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT if self.folder else None
        if path is None or not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            same = state["config"], state["corpus_hash"]
        except Exception as error:  # torch raises many types for a damaged file
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}); set aside as {aside.name}, the run "
                "starts anew.",
                stacklevel=3,
            )
            return
        if same[0] != canonical(self.run):
            raise ConfigError(
                f"{path} belongs to another config ({same[0]}, not {canonical(self.run)}); use "
                "another folder."
            )
        if same[1] != self.files.hash:
            raise ConfigError(
                f"{path} was trained on other token files (hash {same[1][:12]}, now "
                f"{self.files.hash[:12]}); the text or the tokenizer changed. Delete it to start anew."
            )
        for name in self._SAVED:
            setattr(self, name, state[name])
        self.held_out = HeldOut(**state["held_out"]) if state["held_out"] else None
        self.loss_sum.fill_(state["loss_sum"])
        self.flat_kp.detach().copy_(state["flat_kp"])
        self.adamw.load(state["adamw"])
