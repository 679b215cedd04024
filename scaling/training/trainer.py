"""The training loop of a pack: slots, steps, evaluations, checkpoints and results."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scaling import weights
from scaling.config import RunConfig
from scaling.data import corpus
from scaling.devices.device import choose_products, device_of, rows, synchronize
from scaling.devices.hardware import keep_memory, peak_flops, peak_memory, reset_peak_memory
from scaling.devices.ranks import ALONE, Ranks
from scaling.execution import Execution
from scaling.init_from import initial_weights
from scaling.models.classifier import model_of
from scaling.training.blocks import Block, Source
from scaling.training.checkpoint import Checkpoints, make_folder
from scaling.training.evaluate import Evaluator, HeldOut
from scaling.training.fsdp import Sharding
from scaling.training.graphs import CudaRecorder, GraphedStep
from scaling.training.member import Machine, Member, Trajectory
from scaling.training.result import Callbacks, GiveUp, Interrupted, Progress, Result
from scaling.training.schedule import optimizer_settings
from scaling.training.stack import Stack
from scaling.training.state import State
from scaling.training.step import TrainingStep

_PROGRESS_SECONDS = 0.5


class Trainer:
    """Trains a pack: each of up to `slots` trajectories is a row of stacked tensors.

    :func:`scaling.training.train.train_pack` checks the runs and then calls :meth:`run_to_end`.
    """

    def __init__(
        self,
        runs: Sequence[RunConfig],
        execution: Execution,
        folders: Sequence[Path | None],
        *,
        slots: int | None = None,
        ranks: Ranks = ALONE,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        shared = runs[0]
        self.ranks = ranks
        self.execution = execution
        # All rows of a stack have batches of the same size.
        growing = any(run.optim.batch_warmup_tokens is not None for run in runs)
        self.slots = 1 if growing else slots or len(runs)
        self.device = device_of(execution.device, execution.devices // execution.nodes, ranks.local)
        choose_products(self.device, shared.precision)
        recorder = CudaRecorder(self.device) if execution.cuda_graphs else None
        keep_memory()
        reset_peak_memory(self.device)
        self._peak_memory = 0
        self.bfloat16 = shared.precision == "bfloat16"
        self.measure_noise = shared.eval.noise_parts is not None
        self.files = corpus.prepare(shared.data)
        self.model = model_of(shared, self.files)
        self.model.recompute = execution.recompute
        self.model.z_loss = shared.optim.z_loss
        others = {name for run in runs for name in run.eval.other_corpora} - {shared.data.corpus}
        self.evaluator = Evaluator(
            self.model,
            self.files,
            shared,
            other_corpora=others,
            texts=texts,
            device=self.device,
            ranks=ranks,
        )
        self.sharding = Sharding(self.model, ranks) if ranks.sharded else None
        self.layout = self.model if self.sharding is None else self.sharding.layout
        """Layout of the tensors in this rank's rows."""
        self.training_step = TrainingStep(
            self.model, shared, execution, device=self.device, ranks=ranks, sharding=self.sharding
        )
        self.step = GraphedStep(self.training_step, recorder) if recorder else self.training_step
        for folder in folders:
            if folder is not None and ranks.rank == 0:
                make_folder(folder)
        self.trajectories: list[Trajectory] = []
        """Trajectories that train now; trajectory k is row k of the stack."""
        self.stack: Stack
        """The stack of their tensors, once the first trajectory has started."""
        self.block: Block | None = None
        """The steps that are prepared."""
        self.lr: list[float] = []
        """Learning rate of the matrices at each row's last step."""
        self.updates: dict[int, Tensor] = {}
        """{row: norm of the last update of the matrices over their norm}, for rows that measure
        it."""
        self.order = [run.run_id for run in runs]
        members = [Member(run, self.files, f) for run, f in zip(runs, folders, strict=True)]
        self.checkpoints = Checkpoints(
            self.files.hash, self.model.P, ranks=ranks, sharding=self.sharding
        )
        self.source = Source(members[0].tokens, self.device)
        self.waiting = self.checkpoints.resume(members)
        self._fill_slots()

    # ---------------------------------------------------------------- slots

    def _fill_slots(self) -> None:
        """Drop finished members, let members branch off, and start trajectories in free slots."""
        self.block = None
        stay, branches = [], []
        for k, trajectory in enumerate(self.trajectories):
            trajectory.members = [m for m in trajectory.members if not m.finished]
            for member in trajectory.members[1:]:
                if member.step >= member.branch_step:
                    member.shared_steps = member.step
                    trajectory.members.remove(member)
                    branches.append(Trajectory([member], self.stack.state(k).on_cpu()))
            if trajectory.members:
                stay.append(k)
        self.waiting[:0] = branches  # these first, since their state is only in memory
        free = self.slots - len(stay)
        entering, self.waiting = self.waiting[:free], self.waiting[free:]
        if len(stay) == len(self.trajectories) and not entering:
            return
        states = [self.stack.state(k) for k in stay] + [self._start(t) for t in entering]
        self.lr = [self.lr[k] for k in stay] + [0.0] * len(entering)
        self.trajectories = [self.trajectories[k] for k in stay] + entering
        if not self.trajectories:
            return
        self.stack = Stack(
            states,
            [optimizer_settings(trajectory.leader.run) for trajectory in self.trajectories],
            model=self.model,
            sharding=self.sharding,
            compiled=self.execution.compile,
            graphed=self.execution.cuda_graphs,
            measure_noise=self.measure_noise,
        )
        for member in self._members():
            member.pack = max(member.pack, len(self.trajectories))

    def _start(self, trajectory: Trajectory) -> State:
        """Return the state with which a trajectory enters its slot."""
        state, trajectory.state = trajectory.state, None
        if state is None:
            seed, sharding = trajectory.leader.run.seed, self.sharding
            if trajectory.leader.run.init:
                flat_p = self._begin_from(trajectory)
            else:
                flat_p = sharding.init(seed) if sharding else self.model.init([seed])[0]
            state = State(flat_p=flat_p, adamw={})
        tensors = {name: x for name, x in vars(state).items() if isinstance(x, Tensor)}
        return dataclasses.replace(state, **{n: x.to(self.device) for n, x in tensors.items()})

    def _begin_from(self, trajectory: Trajectory) -> Tensor:
        """Return the weights of another run that a trajectory begins from, after measuring their
        loss."""
        start = time.perf_counter()
        flat_p, origin = initial_weights(trajectory.leader.run, self.files, self.model)
        own_p = self.sharding.own([flat_p]) if self.sharding else flat_p
        (found,) = self.evaluator.held_out(own_p[None].to(self.device))
        seconds = (time.perf_counter() - start) / len(trajectory.members)
        for member in trajectory.members:
            member.origin = origin | {"L_init": found.L}
            member.eval_seconds += seconds
        return own_p

    def _members(self) -> list[Member]:
        """Return the members that train now."""
        return [member for trajectory in self.trajectories for member in trajectory.members]

    # ---------------------------------------------------------------- the loop

    def run_to_end(self, callbacks: Callbacks) -> list[Result]:
        """Train all members to their ends and return the results in the order of the runs.

        Raises Interrupted when `should_stop` asks for it.
        """
        results: dict[str, Result] = {}
        self._hand_in_results(results, callbacks.on_result)
        self._clock = self._last_progress = self._last_checkpoint = time.perf_counter()
        if any(m.stored_step for t in (*self.trajectories, *self.waiting) for m in t.members):
            self._report(callbacks.on_progress, waiting=True)  # where they resume
        while self.trajectories:
            self.steps(1)
            event = self.block is None or self.block.over
            if event:
                self._count()
            due = self._due_for_evaluation() if event else {}
            if due:
                with self._not_training():
                    self._evaluate(due)
                    self._ask_give_up(due, callbacks.give_up)
            report, stop, save = self._agree(callbacks.should_stop)
            if report or stop or save:
                self._count()
            lost = self._find_lost() if due or report else {}
            if lost:
                with self._not_training():
                    self._evaluate(lost)
            if due or report:
                self._report(callbacks.on_progress)
            if due or lost or (event and self._branches()):
                with self._not_training():
                    self._hand_in_results(results, callbacks.on_result)
            if self.trajectories and (stop or save):
                with self._not_training():
                    self._save()
                self._last_checkpoint = self._clock
                self._report(callbacks.on_progress, waiting=True)
            if self.trajectories and stop:
                places = (f"{m.run.run_id} at {m.step} of {m.run.S}" for m in self._members())
                raise Interrupted(f"stopped at a step: {', '.join(places)}")
        return [results[run_id] for run_id in self.order]

    def steps(self, n: int) -> None:
        """Train all trajectories for n steps, without evaluation or host synchronisation.

        Members have counted these steps after :meth:`_count`.
        """
        for _ in range(n):
            if self.block is None or self.block.over:
                self._count()
                self.block = Block(self.trajectories, self.stack, self.source, self.ranks)
            self.updates = {}
            if not (measured := self.block.rows_measured):
                self.step.train(self.stack, self.block.next())
                continue
            matrices_kp = self.stack.flat_kp.detach()[:, : self.layout.ends["matrix"]]
            before = rows(matrices_kp, measured)
            self.step.train(self.stack, self.block.next())
            moved = rows(matrices_kp, measured) - before
            ratios = (self.ranks.square(moved) / self.ranks.square(before)).sqrt()
            self.updates = dict(zip(measured, ratios, strict=True))

    def _count(self) -> None:
        """Let all members count the steps that they have done."""
        if self.block is not None and self.block.done > self.block.counted:
            self.block.count()
            self.lr = self.block.lr_nk2[self.block.done - 1, :, 0].tolist()

    def _agree(self, should_stop: Callable[[], bool] | None) -> tuple[bool, bool, bool]:
        """Return whether to report progress, to stop, and to write checkpoints, as rank 0
        decides."""
        now = time.perf_counter()
        report, stop, save = self.ranks.agreed(
            now - self._last_progress > _PROGRESS_SECONDS,
            should_stop is not None and should_stop(),
            now - self._last_checkpoint > self.execution.checkpoint_seconds,
        )
        return bool(report), bool(stop), bool(save)

    def _report(
        self,
        on_progress: Callable[[RunConfig, Progress], None] | None,
        *,
        waiting: bool = False,
    ) -> None:
        """Report the progress of members; with `waiting`, also of those that wait for a slot."""
        self._last_progress = time.perf_counter()
        if on_progress is None:
            return
        sums = self.stack.loss_sum_k.tolist()  # waits for a GPU, so that the clock is right
        self._last_progress = now = time.perf_counter()
        seconds = (now - self._clock) / len(self.trajectories)
        for trajectory, loss_sum in zip(self.trajectories, sums, strict=True):
            share = seconds / len(trajectory.members)
            for member in trajectory.members:
                on_progress(member.run, member.progress(loss_sum, share))
        for trajectory in self.waiting if waiting else ():
            if trajectory.state is not None:
                for member in trajectory.members:
                    on_progress(member.run, member.progress(trajectory.state.loss_sum, 0.0))

    @contextlib.contextmanager
    def _not_training(self) -> Iterator[None]:
        """Book the training time so far, and exclude that of the block.

        The time is divided equally among trajectories, and within each among its members. Work that
        is queued on a GPU belongs to what queued it.
        """
        synchronize(self.device)
        seconds = (time.perf_counter() - self._clock) / len(self.trajectories)
        for trajectory in self.trajectories:
            for member in trajectory.members:
                member.train_seconds += seconds / len(trajectory.members)
        yield
        synchronize(self.device)
        self._clock = time.perf_counter()

    # ---------------------------------------------------------------- evaluation

    def _branches(self) -> bool:
        """Return whether members leave their trajectory after the last step."""
        return any(m.step >= m.branch_step for t in self.trajectories for m in t.members[1:])

    def _due_for_evaluation(self) -> dict[int, list[Member]]:
        """Return {row: members to be evaluated after the last step}."""
        due = {
            k: [member for member in trajectory.members if member.step in member.eval_steps]
            for k, trajectory in enumerate(self.trajectories)
        }
        return {k: members for k, members in due.items() if members}

    def _find_lost(self) -> dict[int, list[Member]]:
        """Return {row: members whose training loss is no longer finite}, to be evaluated and ended.

        Reading the sums is the loop's only synchronisation with the device.
        """
        lost = {
            k: [member for member in self.trajectories[k].members if not member.error]
            for k, loss_sum in enumerate(self.stack.loss_sum_k.tolist())
            if not math.isfinite(loss_sum)
        }
        return {k: members for k, members in lost.items() if members}

    def _evaluate(self, due: dict[int, list[Member]]) -> None:
        """Measure the held-out loss of {row: members}."""
        start = time.perf_counter()
        held_out = self.evaluator.held_out(rows(self.stack.evaluated_kp, list(due)))
        losses, norms = self.stack.loss_sum_k.tolist(), self.stack.norm_sum_k.tolist()
        noise = [(math.nan, math.nan)] * len(self.trajectories)
        if self.stack.noise is not None:
            noise = torch.stack(self.stack.noise.scales(), dim=1).tolist()
        seconds = (time.perf_counter() - start) / sum(map(len, due.values()))
        for (k, members), found in zip(due.items(), held_out, strict=True):
            for member in members:
                member.eval_seconds += seconds
                L_train = member.mean_loss(losses[k])
                if L_train is not None:  # None if it was evaluated at this step already, and lost
                    # No update is measured where a lost member is evaluated out of turn.
                    has_update = member.run.eval.update_ratio and k in self.updates
                    diagnostics = {
                        "lr": self.lr[k],
                        "grad_norm": (norms[k] - member.norm_before)
                        / (member.step - member.loss_from),
                        "update_norm": float(self.updates[k]) if has_update else math.nan,
                        "B_noise": noise[k][0],
                        "B_noise_norm": noise[k][1],
                    }
                    member.add_evaluation(found, L_train, diagnostics)
                    if member.is_result:
                        self._test(k, member, found)
                        self._keep_weights(k, member)
                member.loss_before, member.loss_from = losses[k], member.step
                member.norm_before = norms[k]

    def _test(self, k: int, member: Member, found: HeldOut) -> None:
        """Measure a member of row k, finished or at its best so far, on every distribution in its
        config."""
        run = member.run
        member.tests = []
        member.add_test(run.data.corpus, self.evaluator.test_tokens, found)
        for name in run.eval.other_corpora:
            if name != run.data.corpus:
                flat_1p = self.stack.evaluated_kp[k : k + 1]
                other, tokens = self.evaluator.held_out_on(name, flat_1p, run.eval.test_tokens)
                member.add_test(name, tokens, other)

    def _keep_weights(self, k: int, member: Member) -> None:
        """Write the parameters of row k that were just measured into the member's folder."""
        if not self.execution.keep_weights:
            return
        flat_p = self.stack.evaluated_kp[k]
        if self.sharding is not None:
            flat_p = self.sharding.whole([flat_p])
        if self.ranks.rank > 0 or member.folder is None:
            return
        row = member.row(self.files)
        del row["D_shared"]  # known only once the run has ended
        weights.save(
            member.folder,
            run=member.run,
            model=self.model,
            flat_p=flat_p,
            tokenizer=self.files.tokenizer,
            row=row,
            mean=member.run.optim.ema is not None,
        )

    def _ask_give_up(self, due: dict[int, list[Member]], give_up: GiveUp | None) -> None:
        """Stop the evaluated members that `give_up` names on rank 0."""
        members = [m for evaluated in due.values() for m in evaluated if not m.finished]
        if not members:
            return
        reasons = give_up([(m.run, m.curve) for m in members]) if give_up else {}
        stopped = self.ranks.agreed(*(m.run.run_id in reasons for m in members))
        for member, ends in zip(members, stopped, strict=True):
            member.stopped = reasons.get(member.run.run_id, "given up") if ends else ""

    # ---------------------------------------------------------------- results and checkpoints

    def _hand_in_results(
        self, results: dict[str, Result], on_result: Callable[[Result], None] | None
    ) -> None:
        """Collect the results of finished members, then fill their slots."""
        finished = True
        while finished:  # one that enters may already be finished, according to its checkpoint
            finished = [member for member in self._members() if member.finished]
            for trajectory in self.trajectories:
                # Steps count as shared for all members but the one that trains on to its end.
                longest = next((m for m in trajectory.members if not m.finished), trajectory.leader)
                for member in trajectory.members:
                    if member.finished and member is not longest:
                        member.shared_steps = member.step
            for member in finished:
                result = member.result(self.files, self._machine())
                results[member.run.run_id] = result
                if member.folder is not None and self.ranks.rank == 0:
                    step = member.best["step"] if result.status == "ok" else None
                    weights.discard_unless(member.folder, step)
                if on_result:
                    on_result(result)
            self._fill_slots()

    def _machine(self) -> Machine:
        ranks = self.ranks.size
        # The matrices that measure the peak FLOP/s do not belong to the run.
        self._peak_memory = max(self._peak_memory, peak_memory(self.device))
        one = self.execution.peak_flops
        if one is None:
            dtype = torch.bfloat16 if self.bfloat16 else torch.float32
            one = peak_flops(self.device, dtype, torch.get_num_threads())
        on_gpu = self.device.type == "cuda"
        threads = torch.get_num_threads()
        name = torch.cuda.get_device_name(self.device) if on_gpu else f"cpu x{threads}"
        return Machine(
            device=f"{ranks} x {name}" if ranks > 1 else name,
            peak_flops=ranks * one,
            memory=self._peak_memory,
        )

    def _save(self) -> None:
        """Write checkpoints of all trajectories that have a state."""
        for k, trajectory in enumerate(self.trajectories):
            self.checkpoints.save(trajectory.members, self.stack.state(k))
        for trajectory in self.waiting:
            if trajectory.state is not None and not trajectory.on_disk:
                self.checkpoints.save(trajectory.members, trajectory.state)
                trajectory.on_disk = True
