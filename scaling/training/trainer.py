"""The training loop: rows of stacked tensors, each trained for one or more members."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaling.config import RECIPE, RunConfig, canonical
from scaling.data import corpus
from scaling.data.windows import held_out_windows
from scaling.devices.compilation import compiled
from scaling.devices.device import device_of
from scaling.devices.hardware import keep_memory, peak_flops, peak_memory, reset_peak_memory
from scaling.devices.ranks import ALONE, Ranks
from scaling.errors import ConfigError, one_line, out_of_memory
from scaling.execution import Execution
from scaling.model import build
from scaling.models.decoder import Decoder
from scaling.training import checkpoint
from scaling.training.checkpoint import CHECKPOINT, make_folder
from scaling.training.evaluate import HeldOut, evaluate
from scaling.training.fsdp import ShardedAdamW, Sharding
from scaling.training.member import Member, Row
from scaling.training.noise import NoiseScale
from scaling.training.optim import CompiledAdamW, Optimizer
from scaling.training.pack_key import trunk
from scaling.training.result import GiveUp, Interrupted, Progress, Result
from scaling.training.state import State
from scaling.training.step import divisor_from, parts_of_step, precision, whole_step

_PROGRESS_SECONDS = 0.5


def _lack_of_memory(error: Exception) -> str:
    """What is said of a lack of memory; any other error is raised again."""
    if not out_of_memory(error):
        raise error
    return one_line(error)


class Trainer:
    """Members in training, as rows of stacked tensors; :func:`train_pack` drives it."""

    def __init__(
        self,
        runs: Sequence[RunConfig],
        execution: Execution,
        folders: Sequence[Path | None],
        slots: int | None = None,
        ranks: Ranks = ALONE,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        shared = runs[0]
        self.ranks = ranks
        self.checkpoint_seconds = execution.checkpoint_seconds
        self.peak_flops = execution.peak_flops
        # Rows of one stack have batches of one size.
        ramped = any(run.optim.batch_warmup_tokens is not None for run in runs)
        self.slots = 1 if ramped else slots or len(runs)
        self.device = device_of(execution.device, execution.devices // execution.nodes, ranks.local)
        keep_memory()
        reset_peak_memory(self.device)
        self.bfloat16 = shared.precision == "bfloat16"
        self.files = corpus.prepare(shared.data)
        # What cannot be had is known now, not after the last step.
        names = {name for run in runs for name in run.eval.other_corpora} - {shared.data.corpus}
        self.others = {name: self.files.test_of(name) for name in sorted(names)}
        if texts is not None:
            corpus.check_unchanged(corpus.hashes(shared.data, self.files, self.others), texts)
        windows = held_out_windows(self.files.test, shared.eval.test_tokens, shared.model.n_ctx)
        self.windows_bt = torch.from_numpy(windows).to(self.device)
        self.token_bytes_v = torch.from_numpy(self.files.token_bytes()).to(self.device)
        self.decoder = build(shared.model, self.files.vocab_size)
        self.decoder.recompute = execution.recompute
        self.decoder.z_loss = shared.optim.z_loss
        self.sharding = Sharding(self.decoder, ranks) if ranks.sharded else None
        self.layout = self.decoder if self.sharding is None else self.sharding.layout
        """Of this rank's rows."""
        self.parts = parts_of_step(shared, execution.micro_tokens, ranks)
        self.may_halve = execution.micro_tokens is None and ranks.size == 1
        self.mean_loss = (self.sharding or self.decoder).mean_loss
        self.compiled = execution.compile
        self.whole_step = None
        if self.compiled:
            with torch.no_grad():  # what a family remembers of its first call is not for a graph
                row_1p = torch.zeros(1, self.layout.P, device=self.device)
                self.decoder.logits(row_1p, self.windows_bt[None, :1, :-1])
            if self.sharding is None:
                self.mean_loss = compiled(self.decoder.mean_loss, self.device)
            elif isinstance(self.decoder, Decoder):  # a graph does not let go of what was gathered
                self.decoder.block = compiled(self.decoder.block, self.device)
            fused = self.decoder.fuses_loss(shared.batch_tokens)
            if fused and not (self.decoder.recompute or ranks.size > 1):
                self.whole_step = compiled(
                    whole_step(self.decoder, self.bfloat16), self.device, fullgraph=True
                )
        for folder in folders:
            if folder is not None and ranks.rank == 0:
                make_folder(folder)
        self.rows: list[Row] = []
        self.lr: list[float] = []
        self.updates: dict[int, Tensor] = {}
        """Of the rows that were asked: norm of the last update of the matrices over their norm."""
        self.order = [run.run_id for run in runs]
        self.waiting = self._resumed(
            [Member(run, self.files, folder) for run, folder in zip(runs, folders, strict=True)]
        )
        self._arrange()

    # ---------------------------------------------------------------- rows

    def _state(self, k: int) -> State:
        """Views of row k."""
        return State(
            self.flat_kp.detach()[k],
            self.adamw.row(k),
            self.loss_sum_k[k].item(),
            self.norm_sum_k[k].item(),
            None if self.noise is None else self.noise.state_km[k],
            None if self.mean_kp is None else self.mean_kp[k],
        )

    def _arrange(self) -> None:
        """Rows that are over give up their places, members that part from their row get one of their
        own, and those that wait take what is free."""
        stay, parted = [], []
        for k, row in enumerate(self.rows):
            row.members = [member for member in row.members if not member.over]
            for member in row.members[1:]:
                if member.step >= member.parts_at:
                    member.shared_steps = member.step
                    row.members.remove(member)
                    parted.append(Row([member], self._state(k).clone()))
            if row.members:
                stay.append(k)
        self.waiting[:0] = parted  # first those that have something to lose
        free = self.slots - len(stay)
        entering, self.waiting = self.waiting[:free], self.waiting[free:]
        if len(stay) == len(self.rows) and not entering:
            return
        states = [self._state(k) for k in stay] + [self._begin(row) for row in entering]
        self.lr = [self.lr[k] for k in stay] + [0.0] * len(entering)
        self.rows = [self.rows[k] for k in stay] + entering
        if not self.rows:
            return
        shared = self.rows[0].leader.run
        self.flat_kp = torch.stack([state.flat_p for state in states]).requires_grad_()
        configs = [row.leader.run.optim for row in self.rows]
        stacked = self.compiled and all(config.optimizer == "adamw" for config in configs)
        if self.sharding is not None:
            self.adamw = ShardedAdamW(self.flat_kp, self.sharding, configs)
        else:
            kind = CompiledAdamW if stacked else Optimizer
            self.adamw = kind(self.flat_kp, self.decoder, configs)
        for k, state in enumerate(states):
            if state.adamw:
                self.adamw.load_row(k, state.adamw)
        self.loss_sum_k, self.norm_sum_k = torch.tensor(
            [(state.loss_sum, state.norm_sum) for state in states],
            dtype=torch.float64,
            device=self.device,
        ).T
        self.noise = None
        if shared.eval.noise_parts is not None:
            fresh = torch.zeros(NoiseScale.SIZE, dtype=torch.float64, device=self.device)
            noise = [fresh if state.noise_m is None else state.noise_m for state in states]
            self.noise = NoiseScale(torch.stack(noise))
        self.mean_kp = None
        if any(row.leader.run.optim.ema is not None for row in self.rows):
            means = [state.flat_p if state.mean_p is None else state.mean_p for state in states]
            self.mean_kp = torch.stack(means).detach()
        for row in self.rows:
            for member in row.members:
                member.pack = max(member.pack, len(self.rows))

    def _begin(self, row: Row) -> State:
        """The state with which a row takes its place."""
        state, row.state = row.state, None
        if state is None:
            seed, sharding = row.leader.run.seed, self.sharding
            state = State(sharding.init(seed) if sharding else self.decoder.init([seed])[0], {})
        tensors = {name: x for name, x in vars(state).items() if isinstance(x, Tensor)}
        return dataclasses.replace(state, **{n: x.to(self.device) for n, x in tensors.items()})

    @property
    def _parting(self) -> bool:
        return any(m.step >= m.parts_at for row in self.rows for m in row.members[1:])

    # ---------------------------------------------------------------- the loop

    def run_to_end(
        self,
        on_progress: Callable[[RunConfig, Progress], None] | None,
        on_result: Callable[[Result], None] | None,
        should_stop: Callable[[], bool] | None,
        give_up: GiveUp | None,
    ) -> list[Result]:
        results: dict[str, Result] = {}
        self._leave(results, on_result)
        clock = last_progress = last_checkpoint = time.perf_counter()
        while self.rows:
            self.steps(1)
            due = {
                k: [m for m in row.members if m.step in m.eval_steps]
                for k, row in enumerate(self.rows)
            }
            due = {k: members for k, members in due.items() if members}
            if due:
                self._spend(clock)
                self._measure(due)
                self._ask([m for members in due.values() for m in members if not m.over], give_up)
                clock = time.perf_counter()
            now = time.perf_counter()
            look, stop, save = self.ranks.agreed(
                now - last_progress > _PROGRESS_SECONDS,
                should_stop is not None and should_stop(),
                now - last_checkpoint > self.checkpoint_seconds,
            )
            if due or look:
                # The one host synchronisation; a loss that is lost is seen here, not at the end.
                sums = self.loss_sum_k.tolist()
                lost = {
                    k: [m for m in self.rows[k].members if not m.error]
                    for k, value in enumerate(sums)
                    if not math.isfinite(value)
                }
                if lost:
                    self._spend(clock)
                    self._measure(lost)
                    clock = now = time.perf_counter()
                if on_progress:
                    share = (now - clock) / len(self.rows)
                    for row, loss_sum in zip(self.rows, sums, strict=True):
                        for m in row.members:
                            on_progress(m.run, m.progress(loss_sum, share / len(row.members)))
                last_progress = now
                due |= lost
            if due or self._parting:
                self._spend(clock)
                self._leave(results, on_result)
                clock = time.perf_counter()
            if self.rows and (stop or save):
                self._spend(clock)
                self._save()
                clock = last_checkpoint = time.perf_counter()
            if self.rows and stop:
                members = [member for row in self.rows for member in row.members]
                at = ", ".join(f"{m.run.run_id} at {m.step} of {m.run.S}" for m in members)
                raise Interrupted(f"stopped at a step: {at}")
        return [results[run_id] for run_id in self.order]

    def steps(self, n: int) -> None:
        """Train all rows n steps, without evaluation or host synchronisation."""
        for _ in range(n):
            sequences = self.rows[0].leader.sequences
            share = self.ranks.share(sequences)
            windows = [row.leader.window(share) for row in self.rows]
            windows_kbt = torch.from_numpy(np.stack(windows))
            if self.device.type == "cuda":
                windows_kbt = windows_kbt.pin_memory().to(self.device, non_blocking=True)
            rates = [row.leader.rates() for row in self.rows]
            due = [k for k, row in enumerate(self.rows) if row.update_is_asked]
            matrices_kp = self.flat_kp.detach()[:, : self.layout.ends["matrix"]]
            before = matrices_kp[due] if due else None  # a copy
            loss_k, norm_k = self._update(windows_kbt, windows_kbt.shape[1] / sequences, rates)
            self.norm_sum_k += norm_k
            self.updates = {}
            if before is not None:
                moved = matrices_kp[due] - before
                ratios = (self.ranks.square(moved) / self.ranks.square(before)).sqrt()
                self.updates = dict(zip(due, ratios, strict=True))
            self.loss_sum_k += loss_k
            if self.mean_kp is not None:
                keep = [row.leader.run.optim.ema or 0.0 for row in self.rows]
                t = [row.leader.step for row in self.rows]
                move = [1 - min(d, (1 + s) / (10 + s)) for d, s in zip(keep, t, strict=True)]
                self.mean_kp.lerp_(self.flat_kp.detach(), self.flat_kp.new_tensor(move)[:, None])
            self.lr = [matrices for matrices, _ in rates]
            tokens = sequences * self.decoder.model.n_ctx
            for row in self.rows:
                for member in row.members:
                    member.step += 1
                    member.work += tokens / len(row.members)

    def _update(
        self, windows_kbt: Tensor, weight: float, rates: list[tuple[float, float]]
    ) -> tuple[Tensor, Tensor]:
        """Train on windows that are this rank's share of a step, so much of the whole, at each row's
        learning rates of (matrices, all else). Losses and norms of the gradients [K]."""
        whole = self.whole_step if self.parts == 1 and self.noise is None else None
        if whole is not None and isinstance(self.adamw, CompiledAdamW):
            from torch._dynamo.exc import TorchDynamoException  # a second of import

            torch._dynamo.maybe_mark_dynamic(windows_kbt, 0)
            lack = None
            try:
                return self.adamw.within(partial(whole, windows_kbt), rates)
            except TorchDynamoException:  # a family whose code is not one graph
                self.whole_step = None
            except (MemoryError, RuntimeError) as error:
                lack = _lack_of_memory(error)
            if lack:
                self._halve(windows_kbt, lack)
        loss_k, grad_kp = self._gradient(windows_kbt, weight)
        return loss_k, self.adamw.step(grad_kp, rates)

    def _gradient(self, windows_kbt: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean loss [K] and its gradient, that which the optimiser takes, of a step of which these
        windows are this rank's share, so much of the whole."""
        while True:
            try:
                return self._gradient_in_parts(windows_kbt, weight)
            except (MemoryError, RuntimeError) as error:
                lack = _lack_of_memory(error)
            self._halve(windows_kbt, lack)

    def _halve(self, windows_kbt: Tensor, said: str) -> None:
        """Where memory ran out for the first time, cut the step in twice as many parts, now and from
        now on. Raises MemoryError for the second time. To be called when the exception is gone: it
        holds what the step had made."""
        sequences, n_ctx = windows_kbt.shape[1], self.decoder.model.n_ctx
        tokens = sequences // self.parts * n_ctx
        if not self.may_halve or self.parts == sequences:
            raise MemoryError(
                f"a step of {tokens} tokens of each of {len(self.rows)} runs does not fit: {said} "
                f"Give execution.micro_tokens={max(1, tokens // n_ctx // 2) * n_ctx} or less, or "
                "execution.recompute."
            )
        self.may_halve = False
        self.parts = divisor_from(sequences, 2 * self.parts)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"a step of {tokens} tokens does not fit into memory ({said}): it goes in "
            f"{self.parts} parts.",
            stacklevel=3,
        )

    def _gradient_in_parts(self, windows_kbt: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        def one(windows_kbt: Tensor, instead: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
            if self.compiled:  # once for packs of every size
                for tensor in (self.flat_kp, windows_kbt):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
            with precision(self.device, self.bfloat16):
                loss_k = self.mean_loss(self.flat_kp, windows_kbt, instead)
            by = [self.flat_kp, *instead.values()]
            return loss_k.detach(), list(torch.autograd.grad(loss_k.sum(), by))

        K, sequences = windows_kbt.shape[:2]
        parts = divisor_from(sequences, min(self.parts, sequences))  # of a batch still growing
        ranks = self.ranks
        if parts == 1 and (self.noise is None or ranks.apart == 1):
            loss_k, (grad_kp,) = one(windows_kbt, {})
            return ranks.mean(loss_k, weight), ranks.mean_gradient(grad_kp, weight)
        b = sequences // parts
        gains = self.decoder.gains if self.noise is not None else ()
        loss_k, small_k, sequence_k = self.flat_kp.new_zeros(3, K, requires_grad=False)
        grad_kp = torch.zeros_like(self.flat_kp, requires_grad=False)
        whole_gains: list[Tensor | int] = [0] * len(gains)
        for part_kbt in windows_kbt.split(b, dim=1):
            p = self.decoder.named(self.flat_kp) if gains else {}
            each = {name: p[name][:, None].expand(-1, b, -1).flatten(0, 1) for name in gains}
            part_loss_k, (part_kp, *part_gains) = one(part_kbt, each)
            loss_k += part_loss_k / parts
            grad_kp.add_(part_kp, alpha=1 / parts)
            if self.noise is not None:
                small_k += ranks.square(part_kp) / parts
                for i, gain in enumerate(part_gains):  # [K b, D], of the mean over b sequences
                    whole_gains[i] += gain.view(K, b, -1).sum(1) / parts
                    sequence_k += gain.mul_(b).square().sum(1).view(K, b).sum(1) / sequences
        if self.noise is None:  # as above: ranks whose shares differ may differ in their parts
            return ranks.mean(loss_k, weight), ranks.mean_gradient(grad_kp, weight)
        few = [loss_k[:, None], small_k[:, None], sequence_k[:, None], *whole_gains]
        if ranks.size > 1:  # in one exchange
            together_kx = ranks.mean(torch.cat(few, dim=1), weight)
            few = together_kx.split([x.shape[1] for x in few], dim=1)
        grad_kp = ranks.mean_gradient(grad_kp, weight)
        loss_k, small_k, sequence_k = (x[:, 0] for x in few[:3])
        n_ctx = self.decoder.model.n_ctx
        self.noise.update(
            (small_k, ranks.size // ranks.apart * b * n_ctx),
            (ranks.square(grad_kp), ranks.size * sequences * n_ctx),
            (sequence_k, n_ctx),
            sum((x.square().sum(1) for x in few[3:]), torch.zeros_like(sequence_k)),
        )
        return loss_k, grad_kp

    def _spend(self, since: float) -> None:
        """Book training time, each row its share, and of this each member its own."""
        share = (time.perf_counter() - since) / len(self.rows)
        for row in self.rows:
            for member in row.members:
                member.train_seconds += share / len(row.members)

    def _measure(self, due: dict[int, list[Member]]) -> None:
        """Evaluate {row: members}."""
        start = time.perf_counter()
        with precision(self.device, self.bfloat16):
            held_out = evaluate(
                self.decoder,
                self._weights()[list(due)],
                self.windows_bt,
                self.token_bytes_v,
                self.ranks,
            )
        sums, norms = self.loss_sum_k.tolist(), self.norm_sum_k.tolist()
        noise = [(math.nan, math.nan)] * len(self.rows)
        if self.noise is not None:
            noise = torch.stack(self.noise.scales(), dim=1).tolist()
        share = (time.perf_counter() - start) / sum(map(len, due.values()))
        for (k, members), found in zip(due.items(), held_out, strict=True):
            for member in members:
                member.eval_seconds += share
                L_train = member.mean_loss(sums[k])
                if L_train is not None:  # measured at this very step, and lost
                    steps = member.step - member.loss_from
                    # one that is lost is measured between its evaluations, where no update was
                    asked = member.run.eval.update_ratio and k in self.updates
                    along = {
                        "lr": self.lr[k],
                        "grad_norm": (norms[k] - member.norm_before) / steps,
                        "update_norm": float(self.updates[k]) if asked else math.nan,
                        "B_noise": noise[k][0],
                        "B_noise_norm": noise[k][1],
                    }
                    member.measured(found, L_train, along)
                    patient = member.run.eval.patience is not None
                    if not member.error and (member.worse == 0 if patient else member.over):
                        self._test(k, member, found)
                member.loss_before, member.loss_from = sums[k], member.step
                member.norm_before = norms[k]

    def _ask(self, members: list[Member], give_up: GiveUp | None) -> None:
        """Members that were measured are given up, or go on: what rank 0 is told holds for all."""
        if members:
            why = give_up([(m.run, m.curve) for m in members]) if give_up else {}
            told = self.ranks.agreed(*(m.run.run_id in why for m in members))
            for member, ends in zip(members, told, strict=True):
                member.stopped = why.get(member.run.run_id, "given up") if ends else ""

    def _weights(self) -> Tensor:
        """The parameters that are measured [K, P]."""
        return self.flat_kp.detach() if self.mean_kp is None else self.mean_kp

    def _test(self, k: int, member: Member, found: HeldOut) -> None:
        """Measure a member of row k, finished or at its best so far, on the other distributions that
        its config names."""
        run, n_ctx = member.run, self.decoder.model.n_ctx
        member.tests = []
        member.tested(run.data.corpus, len(self.windows_bt) * n_ctx, found)
        for name in run.eval.other_corpora:
            if name == run.data.corpus:
                continue
            windows = held_out_windows(self.others[name], run.eval.test_tokens, n_ctx, at_most=True)
            windows_bt = torch.from_numpy(windows).to(self.device)
            with precision(self.device, self.bfloat16):
                row_1p = self._weights()[k : k + 1]
                (other,) = evaluate(
                    self.decoder, row_1p, windows_bt, self.token_bytes_v, self.ranks
                )
            member.tested(name, len(windows_bt) * n_ctx, other)

    def _leave(
        self, results: dict[str, Result], on_result: Callable[[Result], None] | None
    ) -> None:
        """Members that are over hand in their results; then :meth:`_arrange`."""
        over = True
        while over:  # one that takes a place may be over as well, by its checkpoint
            over = [member for row in self.rows for member in row.members if member.over]
            for row in self.rows:
                longest = next((m for m in row.members if not m.over), row.leader)
                for member in row.members:
                    if member.over and member is not longest:
                        member.shared_steps = member.step
            for member in over:
                result = member.result(
                    self.files, self._device_name(), self._peak_flops(), peak_memory(self.device)
                )
                results[member.run.run_id] = result
                if on_result:
                    on_result(result)
            self._arrange()

    def _peak_flops(self) -> float:
        """Of all devices."""
        one = self.peak_flops
        if one is None:
            dtype = torch.bfloat16 if self.bfloat16 else torch.float32
            one = peak_flops(self.device, dtype, torch.get_num_threads())
        return self.ranks.size * one

    def _device_name(self) -> str:
        several = f"{self.ranks.size} x " if self.ranks.size > 1 else ""
        if self.device.type == "cuda":
            return several + torch.cuda.get_device_name(self.device)
        return f"{several}cpu x{torch.get_num_threads()}"

    # ---------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        """Write the checkpoints of all rows, and of those that wait with a state of their own."""
        for k, row in enumerate(self.rows):
            self._write(row, self._state(k).clone())
        for row in self.waiting:
            if row.state is not None and not row.on_disk:
                self._write(row, row.state)
                row.on_disk = True

    def _write(self, row: Row, state: State) -> None:
        """One file for all members of a row, linked into the folder of each: of whole rows, so that a
        run goes on with any number of ranks."""
        folders = [member.folder for member in row.members if member.folder is not None]
        if not folders:
            return
        if self.sharding is not None:
            state = self.sharding.whole_state(state, row.leader.run.optim)
        if self.ranks.rank > 0:
            return
        values = {
            "format": checkpoint.FORMAT,
            "recipe": RECIPE,
            "corpus_hash": self.files.hash,
            "state": vars(state),
            "members": {
                member.run.run_id: {
                    "config": canonical(member.run),
                    **{name: getattr(member, name) for name in Member.SAVED},
                }
                for member in row.members
            },
        }
        first = folders[0] / f"{CHECKPOINT}.new"
        first.unlink(missing_ok=True)  # that of a killed process, or whatever else it is
        with first.open("xb") as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        for folder in folders[1:]:
            partial = folder / f"{CHECKPOINT}.new"
            partial.unlink(missing_ok=True)
            try:
                os.link(first, partial)
            except OSError:  # a file system without links
                shutil.copyfile(first, partial)
        for folder in folders:
            os.replace(folder / f"{CHECKPOINT}.new", folder / CHECKPOINT)

    def _resumed(self, members: list[Member]) -> list[Row]:
        """Rows of the members, from their checkpoints where there are any."""
        rows: dict[Hashable, Row] = {}
        for member in sorted(members, key=lambda m: (-m.parts_at, -m.run.S)):
            saved = self._read(member)
            state = None
            if saved is not None:
                own = saved["members"][member.run.run_id]
                for name in Member.SAVED:
                    setattr(member, name, own[name])
                state = State(**saved["state"])
                if self.sharding is not None:
                    state = self.sharding.own_state(state, member.run.optim)
            together = member.step < member.parts_at
            key = (trunk(member.run), member.step) if together else member.run.run_id
            if key in rows:
                rows[key].members.append(member)
            else:
                rows[key] = Row([member], state, on_disk=state is not None)
        place = {member.run.run_id: i for i, member in enumerate(members)}
        first = {id(row): min(place[m.run.run_id] for m in row.members) for row in rows.values()}
        return sorted(rows.values(), key=lambda row: first[id(row)])

    def _read(self, member: Member) -> dict[str, Any] | None:
        """The checkpoint of a member; None where there is none, or none that can be used."""
        saved = self._load(member) if self.ranks.rank == 0 else None
        (usable,) = self.ranks.agreed(saved is not None)
        return self._load(member) if usable and saved is None else saved

    def _load(self, member: Member) -> dict[str, Any] | None:
        path = member.folder / CHECKPOINT if member.folder else None
        if path is None or not path.exists():
            return None
        try:
            # Of several devices one may not hold whole rows; what it reads is its own of them.
            some = self.ranks.sharded
            saved = checkpoint.read(
                path,
                device="cpu" if some else self.device,
                mmap=some,
                whole=self.ranks.rank == 0,
            )
            members, corpus_hash = saved["members"], saved["corpus_hash"]
            if (own := members.get(member.run.run_id)) is not None:
                checkpoint.check_member(own, Member.SAVED, member.run.S)
                checkpoint.check_state(saved["state"], self.decoder.P)
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # torch raises many types for a damaged file
            if out_of_memory(error):
                raise
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}: {error}); set aside as "
                f"{aside.name}, the run starts anew.",
                stacklevel=7,
            )
            return None
        if member.run.run_id not in members:
            other = next(iter(members.values()))["config"]
            raise ConfigError(
                f"{path} belongs to another config ({other}, not {canonical(member.run)}); use "
                "another folder."
            )
        if corpus_hash != self.files.hash:
            raise ConfigError(
                f"{path} was trained on other token files (hash {corpus_hash[:12]}, now "
                f"{self.files.hash[:12]}); the text or the tokenizer changed. Delete it to start anew."
            )
        return saved
