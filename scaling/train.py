"""Train runs: RunConfig -> row of the results table and learning curve.

K runs of one shape are trained as one stacked model (a pack); a single run is K = 1 through the same
code.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaling import corpus, count, table
from scaling.config import RECIPE, ConfigError, Execution, RunConfig, canonical, flatten
from scaling.evaluate import HeldOut, evaluate
from scaling.hardware import peak_flops, peak_memory, reset_peak_memory
from scaling.model import build
from scaling.optim import AdamW, peaks, schedule
from scaling.tokens import TrainTokens, held_out_windows

CHECKPOINT = "checkpoint.pt"

_PROGRESS_SECONDS = 0.5
# A model that knows nothing has loss ln V; well above it, the run has blown up.
_EXPLODED_ABOVE = 2.0
_FORMAT = 4  # of the checkpoint

SHARED = (
    *(f"model.{f.name}" for f in dataclasses.fields(RunConfig().model)),
    "data.corpus",
    "data.tokenizer",
    "data.max_bytes",
    "eval.test_tokens",
    "batch_tokens",
    "precision",
)
"""What the runs of one pack have in common; seeds, learning rates, horizons, subsets may differ."""


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
    tests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One entry a distribution that the finished model was measured on; keys are names of
    scaling.table.TEST_COLUMNS."""

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
    (result,) = train_pack(
        [run],
        execution=execution,
        folders=[folder],
        on_progress=on_progress and (lambda _, progress: on_progress(progress)),
        should_stop=should_stop,
    )
    return result


def train_pack(
    runs: Sequence[RunConfig],
    *,
    execution: Execution | None = None,
    folders: Sequence[Path | None] | None = None,
    on_progress: Callable[[RunConfig, Progress], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Result]:
    """Train runs of one shape as one stacked model; the results, in the order of `runs`.

    Each member has its own seed, data, learning rates, horizon and checkpoint, is measured at its own
    steps, and leaves when it ends or diverges, without a trace on the others. Its losses are those of
    the run trained alone, but for the order of floating-point sums. `on_result` is called as each
    member ends. The `seconds` of a row are the member's share of the wall clock. Raises ConfigError
    where the runs differ in one of :data:`SHARED`, else as :func:`train`.
    """
    if not runs:
        return []
    first = flatten(runs[0])
    for run in runs[1:]:
        other = flatten(run)
        for key in SHARED:
            if other[key] != first[key]:
                raise ConfigError(
                    f"runs of one pack differ in {key} ({first[key]!r} in {runs[0].run_id}, "
                    f"{other[key]!r} in {run.run_id}); train them apart."
                )
    execution = execution or Execution()
    torch.set_num_threads(execution.threads)
    trainer = Trainer(runs, execution, folders or [None] * len(runs))
    return trainer.run_to_end(on_progress, on_result, should_stop)


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


def _make(folder: Path) -> None:
    """Make a folder for checkpoints now, not when the first one is due. ConfigError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{CHECKPOINT}.probe").touch()
        (folder / f"{CHECKPOINT}.probe").unlink()
    except OSError as error:
        raise ConfigError(
            f"folder={str(folder)!r} cannot hold checkpoints: {error.strerror}; use another one."
        ) from None


class Member:
    """One run of a pack: what is its own, apart from its row of the stacked tensors."""

    # What a checkpoint holds besides the row.
    SAVED = ("step", "curve", "loss_steps", "train_seconds", "eval_seconds")

    def __init__(self, run: RunConfig, files: corpus.TokenFiles, folder: Path | None) -> None:
        self.run = run
        self.folder = folder
        self.tokens = TrainTokens(files, run.data, run.model.n_ctx)
        self.lr_peaks = peaks(run)
        self.eval_steps = set(evaluation_steps(run.S, run.eval.points))
        self.step = 0
        self.curve: list[dict[str, Any]] = []
        self.held_out: HeldOut | None = None
        self.tests: list[dict[str, Any]] = []
        self.loss_steps = 0
        self.train_seconds = 0.0
        self.eval_seconds = 0.0
        self.error = ""

    @property
    def over(self) -> bool:
        return bool(self.error) or self.step >= self.run.S

    def window(self) -> np.ndarray:
        """Windows [b, n_ctx + 1] of the next step."""
        return self.tokens.batch(
            self.run.seed, self.step, self.run.batch_tokens // self.run.model.n_ctx
        )

    def rates(self) -> tuple[float, float]:
        """Learning rates of the next step, of (matrices, all else)."""
        scale = schedule(self.run, self.step)
        return self.lr_peaks[0] * scale, self.lr_peaks[1] * scale

    def measured(self, held_out: HeldOut, L_train: float, lr: float) -> None:
        """Add a point to the curve; note what went wrong, if something did."""
        run = self.run
        self.held_out = held_out
        D = self.step * run.batch_tokens
        C = count.flops_per_token(run.model, run.data.vocab_size) * D
        L = held_out.L
        self.curve.append(
            {"run_id": run.run_id, "S": self.step, "D": D, "C": C}
            | {"L": L, "L_train": L_train, "lr": lr}
        )
        at = f"at step {self.step} of {run.S}"
        limit = math.log(run.data.vocab_size) + _EXPLODED_ABOVE
        if not (math.isfinite(L) and math.isfinite(L_train)):
            self.error = f"loss not finite {at} (test {L}, train {L_train}); lower optim.lr"
        elif limit < L:
            self.error = (
                f"test loss {L:.3f} {at} exceeds ln V + {_EXPLODED_ABOVE:g}; lower optim.lr"
            )

    def tested(self, corpus: str, tokens: int, held_out: HeldOut) -> None:
        """Note the finished model's loss on a distribution."""
        at = {"run_id": self.run.run_id, "corpus": corpus, "tokens": tokens}
        self.tests.append(at | asdict(held_out))

    def progress(self, loss_sum: float, seconds: float) -> Progress:
        tokens = self.step * self.run.batch_tokens
        return Progress(
            step=self.step,
            steps=self.run.S,
            D=tokens,
            L=self.held_out.L if self.held_out else None,
            L_train=loss_sum / self.loss_steps if self.loss_steps else None,
            tokens_per_second=tokens / max(1e-9, self.train_seconds + seconds),
        )

    def result(self, files: corpus.TokenFiles, device: str, peak: float, memory: int) -> Result:
        """`peak` is the hardware's [FLOP/s], `memory` what was used at most [bytes]."""
        run, held_out = self.run, self.held_out
        assert held_out is not None  # the last step is always evaluated
        n = count.parameters(run.model, files.vocab_size)
        D = self.step * run.batch_tokens
        flops = {
            name: count.flops_per_token(run.model, files.vocab_size, name) * D
            for name in count.CONVENTIONS
        }
        measured = {
            "run_id": run.run_id,
            "status": "diverged" if self.error else "ok",
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
            "L": held_out.L,
            "L_stderr": held_out.L_stderr,
            "bits_per_byte": held_out.bits_per_byte,
            "lr_peak": self.lr_peaks[0],
            "vocab_size": files.vocab_size,
            "corpus_hash": files.hash[:16],
            "seconds": self.train_seconds + self.eval_seconds,
            "tokens_per_second": D / self.train_seconds,
            "step_seconds": self.train_seconds / self.step,
            "mfu": flops["matmul"] / self.train_seconds / peak,
            "peak_flops": peak,
            "memory": memory,
            "device": device,
            "error": self.error,
        }
        return Result(run, table.config_row(flatten(run)) | measured, self.curve, self.tests)


class Trainer:
    """Members in training, as rows of stacked tensors; :func:`train_pack` drives it."""

    def __init__(
        self, runs: Sequence[RunConfig], execution: Execution, folders: Sequence[Path | None]
    ) -> None:
        shared = runs[0]
        self.checkpoint_seconds = execution.checkpoint_seconds
        self.peak_flops = execution.peak_flops
        self.device = device_of(execution.device)
        reset_peak_memory(self.device)
        self.bfloat16 = shared.precision == "bfloat16"
        self.files = corpus.prepare(shared.data)
        windows = held_out_windows(self.files.test, shared.eval.test_tokens, shared.model.n_ctx)
        self.windows_bt = torch.from_numpy(windows).to(self.device)
        self.token_bytes_v = torch.from_numpy(self.files.token_bytes()).to(self.device)
        self.decoder = build(shared.model, self.files.vocab_size)
        self.mean_loss = self.decoder.mean_loss
        if execution.compile:
            self.mean_loss = torch.compile(self.decoder.mean_loss)
        for name in {name for run in runs for name in run.eval.other_corpora}:
            self.files.test_of(name)  # what cannot be had is known now, not after the last step
        for folder in folders:
            if folder is not None:
                _make(folder)
        self.members = [
            Member(run, self.files, folder) for run, folder in zip(runs, folders, strict=True)
        ]
        self._stack(self.decoder.init([run.seed for run in runs]).to(self.device))
        self.lr = [0.0] * len(runs)

    def _stack(self, flat_kp: Tensor) -> None:
        """Make `flat_kp` the members' parameters, with a new optimiser."""
        self.flat_kp = flat_kp.requires_grad_()
        self.adamw = AdamW(
            self.flat_kp, self.decoder.P_decayed, [member.run.optim for member in self.members]
        )
        self.loss_sum_k = torch.zeros(len(flat_kp), dtype=torch.float64, device=self.device)

    # ---------------------------------------------------------------- the loop

    def run_to_end(
        self,
        on_progress: Callable[[RunConfig, Progress], None] | None,
        on_result: Callable[[Result], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> list[Result]:
        self._resume()
        results: dict[str, Result] = {}
        order = [member.run.run_id for member in self.members]
        self._leave(results, on_result)
        clock = last_progress = last_checkpoint = time.perf_counter()
        while self.members:
            self.steps(1)
            due = [k for k, m in enumerate(self.members) if m.step in m.eval_steps]
            if due:
                self._spend(clock)
                self._measure(due)
                clock = time.perf_counter()
            now = time.perf_counter()
            if due or now - last_progress > _PROGRESS_SECONDS:
                # The one host synchronisation; a loss that is lost is seen here, not at the end.
                sums = self.loss_sum_k.tolist()
                lost = [k for k, value in enumerate(sums) if not math.isfinite(value)]
                if lost:
                    self._spend(clock)
                    self._measure(lost)
                    clock = now = time.perf_counter()
                    due += lost
                if on_progress:
                    share = (now - clock) / len(self.members)
                    for member, loss_sum in zip(self.members, sums, strict=True):
                        on_progress(member.run, member.progress(loss_sum, share))
                last_progress = now
            if due:
                self._leave(results, on_result)
            stop = bool(self.members) and should_stop is not None and should_stop()
            if self.members and (stop or now - last_checkpoint > self.checkpoint_seconds):
                self._spend(clock)
                for k in range(len(self.members)):
                    self._save(k)
                clock = last_checkpoint = time.perf_counter()
            if stop:
                at = ", ".join(f"{m.run.run_id} at {m.step} of {m.run.S}" for m in self.members)
                raise Interrupted(f"stopped at a step: {at}")
        return [results[run_id] for run_id in order]

    def steps(self, n: int) -> None:
        """Train all members n steps, without evaluation or host synchronisation."""
        for _ in range(n):
            windows_kbt = torch.from_numpy(np.stack([m.window() for m in self.members]))
            if self.device.type == "cuda":
                windows_kbt = windows_kbt.pin_memory().to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                loss_k = self.mean_loss(self.flat_kp, windows_kbt)
            (grad_kp,) = torch.autograd.grad(loss_k.sum(), self.flat_kp)
            rates = [member.rates() for member in self.members]
            self.adamw.step(grad_kp, rates)
            self.loss_sum_k += loss_k.detach()
            self.lr = [matrices for matrices, _ in rates]
            for member in self.members:
                member.step += 1
                member.loss_steps += 1

    def _spend(self, since: float) -> None:
        """Book training time, each member its share."""
        share = (time.perf_counter() - since) / len(self.members)
        for member in self.members:
            member.train_seconds += share

    def _measure(self, due: list[int]) -> None:
        """Evaluate the members at the indices `due`."""
        start = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            held_out = evaluate(
                self.decoder, self.flat_kp.detach()[due], self.windows_bt, self.token_bytes_v
            )
        losses = self.loss_sum_k[due].tolist()
        share = (time.perf_counter() - start) / len(self.members)
        for member in self.members:
            member.eval_seconds += share
        for k, found, loss in zip(due, held_out, losses, strict=True):
            member = self.members[k]
            member.measured(found, loss / member.loss_steps, self.lr[k])
            member.loss_steps = 0
            if member.over and not member.error:
                self._test(k, found)
        self.loss_sum_k[due] = 0

    def _test(self, k: int, found: HeldOut) -> None:
        """Measure a finished member on the other distributions that its config names."""
        member, n_ctx = self.members[k], self.decoder.model.n_ctx
        run = member.run
        member.tested(run.data.corpus, len(self.windows_bt) * n_ctx, found)
        for name in run.eval.other_corpora:
            if name == run.data.corpus:
                continue
            windows = held_out_windows(
                self.files.test_of(name), run.eval.test_tokens, n_ctx, at_most=True
            )
            windows_bt = torch.from_numpy(windows).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                row_1p = self.flat_kp.detach()[k : k + 1]
                (other,) = evaluate(self.decoder, row_1p, windows_bt, self.token_bytes_v)
            member.tested(name, len(windows_bt) * n_ctx, other)

    def _leave(
        self, results: dict[str, Result], on_result: Callable[[Result], None] | None
    ) -> None:
        """Members that are over hand in their results and give up their rows."""
        stay = [k for k, member in enumerate(self.members) if not member.over]
        if len(stay) == len(self.members):
            return
        for member in self.members:
            if member.over:
                result = member.result(
                    self.files, self._device_name(), self._peak_flops(), peak_memory(self.device)
                )
                results[member.run.run_id] = result
                if on_result:
                    on_result(result)
        rows = [self.adamw.row(k) for k in stay]
        loss_sum_k = self.loss_sum_k[stay]
        self.members = [self.members[k] for k in stay]
        self.lr = [self.lr[k] for k in stay]
        if stay:
            self._stack(self.flat_kp.detach()[stay])
            self.loss_sum_k = loss_sum_k
            for k, row in enumerate(rows):
                self.adamw.load_row(k, row)

    def _peak_flops(self) -> float:
        if self.peak_flops is not None:
            return self.peak_flops
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        return peak_flops(self.device, dtype, torch.get_num_threads())

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu x{torch.get_num_threads()}"

    # ---------------------------------------------------------------- checkpoints

    def _save(self, k: int) -> None:
        member = self.members[k]
        if member.folder is None:
            return
        state = {name: getattr(member, name) for name in Member.SAVED}
        state |= {
            "format": _FORMAT,
            "recipe": RECIPE,
            "config": canonical(member.run),
            "corpus_hash": self.files.hash,
            "held_out": asdict(member.held_out) if member.held_out else None,
            "loss_sum": self.loss_sum_k[k].item(),
            "flat": self.flat_kp.detach()[k].clone(),
            "adamw": {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in self.adamw.row(k).items()
            },
        }
        path = member.folder / CHECKPOINT
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _resume(self) -> None:
        for k, member in enumerate(self.members):
            state = self._read(member)
            if state is None:
                continue
            for name in Member.SAVED:
                setattr(member, name, state[name])
            member.held_out = HeldOut(**state["held_out"]) if state["held_out"] else None
            self.loss_sum_k[k] = state["loss_sum"]
            self.flat_kp.detach()[k].copy_(state["flat"])
            self.adamw.load_row(k, state["adamw"])

    def _read(self, member: Member) -> dict[str, Any] | None:
        """The checkpoint of a member; None where there is none, or none that can be used."""
        path = member.folder / CHECKPOINT if member.folder else None
        if path is None or not path.exists():
            return None
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            made_by = state["format"], state["recipe"]
            if made_by != (_FORMAT, RECIPE):
                raise ValueError(f"format and recipe {made_by}, not {(_FORMAT, RECIPE)}")
            config, corpus_hash = state["config"], state["corpus_hash"]
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # torch raises many types for a damaged file
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}: {error}); set aside as "
                f"{aside.name}, the run starts anew.",
                stacklevel=6,
            )
            return None
        if config != canonical(member.run):
            raise ConfigError(
                f"{path} belongs to another config ({config}, not {canonical(member.run)}); use "
                "another folder."
            )
        if corpus_hash != self.files.hash:
            raise ConfigError(
                f"{path} was trained on other token files (hash {corpus_hash[:12]}, now "
                f"{self.files.hash[:12]}); the text or the tokenizer changed. Delete it to start anew."
            )
        return state
