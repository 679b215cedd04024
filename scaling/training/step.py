"""One optimiser step: micro-batches, their accumulated gradient, and the update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scaling.config import RunConfig
from scaling.devices.compilation import compiled
from scaling.devices.device import precision
from scaling.devices.ranks import Ranks
from scaling.errors import ConfigError, one_line, out_of_memory
from scaling.execution import Execution
from scaling.model import Model
from scaling.models.decoder import Decoder
from scaling.models.output_loss import most_fused
from scaling.training import optim
from scaling.training.fsdp import Sharding
from scaling.training.noise import StepNoise
from scaling.training.optim import Rates, StackedAdamW
from scaling.training.stack import Inputs, Stack


class TrainingStep:
    """Trains the rows of a stack on given windows, in as many micro-batches as needed."""

    def __init__(
        self,
        model: Model,
        run: RunConfig,
        execution: Execution,
        *,
        device: torch.device,
        ranks: Ranks,
        sharding: Sharding | None,
    ) -> None:
        self.model, self.device, self.ranks = model, device, ranks
        self.bfloat16 = run.precision == "bfloat16"
        micro_tokens = execution.micro_tokens
        if micro_tokens is None and execution.compile and device.type != "cpu":
            # Compiled code has a copy of the output layer for every chunk of the logits.
            micro_tokens = max(run.model.n_ctx, most_fused(device) // model.vocab_size)
        self.micro_batches = micro_batches(run, micro_tokens, ranks)
        self.may_split = execution.micro_tokens is None and ranks.size == 1
        """Whether the micro-batches may be halved when memory runs out."""
        self.mean_loss = (sharding or model).mean_loss
        self.compiled = execution.compile
        self.one_graph: Callable[..., tuple[Tensor, Tensor]] | None = None
        """The whole step compiled as one graph, if that is possible."""
        if self.compiled:
            self._compile(run, sharding)

    def _compile(self, run: RunConfig, sharding: Sharding | None) -> None:
        model, device = self.model, self.device
        P = model.P if sharding is None else sharding.layout.P
        with torch.no_grad():  # A first call may cache tensors; not within a graph.
            tokens_kbt = torch.zeros(1, 1, model.model.n_ctx, dtype=torch.long, device=device)
            model.logits(torch.zeros(1, P, device=device), tokens_kbt)
        if sharding is None:
            self.mean_loss = compiled(model.mean_loss, device)
        elif isinstance(model, Decoder):  # one graph of all blocks would keep what was gathered
            model.block = compiled(model.block, device)
        alone = self.ranks.size == 1 and not model.recompute
        if alone and run.batch_tokens * model.vocab_size <= most_fused(device):
            step = step_function(model, self.bfloat16)
            self.one_graph = compiled(step, device, fullgraph=True)

    def train(self, stack: Stack, inputs: Inputs) -> None:
        """Train each row for one step, in place."""
        loss_k, norm_k = self.update(stack, inputs.windows_kbt, inputs.weight, inputs.rates)
        stack.add_step(loss_k, norm_k, inputs.mean_weight_k1)

    def update(
        self, stack: Stack, windows_kbt: Tensor, weight: float, rates: Rates | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Train each row on this rank's windows [K, b, T + 1] of a step; `weight` is their fraction
        of the step's windows. Returns losses and gradient norms [K]."""
        whole = self.one_graph if self.micro_batches == 1 and stack.noise is None else None
        if whole is not None and isinstance(stack.optimizer, StackedAdamW):
            from torch._dynamo.exc import TorchDynamoException  # takes a second to import

            torch._dynamo.maybe_mark_dynamic(windows_kbt, 0)
            lack = ""
            try:
                return stack.optimizer.apply(partial(whole, windows_kbt), rates)
            except TorchDynamoException:  # a family whose code does not compile into one graph
                self.one_graph = None
            except (MemoryError, RuntimeError) as error:
                lack = _lack_of_memory(error)
            if lack:
                self._split_further(windows_kbt, lack)
        loss_k, grad_kp = self.gradient(stack, windows_kbt, weight)
        return loss_k, stack.optimizer.step(grad_kp, rates)

    def gradient(
        self, stack: Stack, windows_kbt: Tensor, weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss [K] and its gradient over the whole step, in the form that the
        optimizer takes. Arguments are those of :meth:`update`. Adds the step to the noise scale, if
        that is measured."""
        while True:
            try:
                return self._gradient(stack, windows_kbt, weight)
            except (MemoryError, RuntimeError) as error:
                lack = _lack_of_memory(error)
            self._split_further(windows_kbt, lack)

    def _gradient(self, stack: Stack, windows_kbt: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        ranks, sequences = self.ranks, windows_kbt.shape[1]
        # While the batch grows, it may have fewer sequences than the number of micro-batches
        # wanted.
        micro = smallest_divisor(sequences, min(self.micro_batches, sequences))
        if stack.noise is None:
            loss_k, grad_kp = self._accumulate(stack.flat_kp, windows_kbt, micro)
            return ranks.mean(loss_k, weight), ranks.mean_gradient(grad_kp, weight)
        norms = StepNoise(
            self.model, stack.flat_kp, micro_batches=micro, sequences=sequences, ranks=ranks
        )
        loss_k, grad_kp = self._accumulate(stack.flat_kp, windows_kbt, micro, norms)
        loss_k = norms.exchange(loss_k, weight)
        grad_kp = ranks.mean_gradient(grad_kp, weight)
        norms.update(stack.noise, grad_kp)
        return loss_k, grad_kp

    def _accumulate(
        self, flat_kp: Tensor, windows_kbt: Tensor, micro: int, norms: StepNoise | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss [K] and gradient of this rank's windows, in `micro` equal
        micro-batches."""
        if micro == 1 and norms is None:
            loss_k, (grad_kp,) = self._backward(flat_kp, windows_kbt, {})
            return loss_k, grad_kp
        loss_k = flat_kp.new_zeros(len(flat_kp))
        grad_kp = torch.zeros_like(flat_kp, requires_grad=False)
        for micro_kbt in windows_kbt.split(windows_kbt.shape[1] // micro, dim=1):
            gains = {} if norms is None else norms.gains_per_sequence()
            micro_loss_k, (micro_kp, *gain_grads) = self._backward(flat_kp, micro_kbt, gains)
            loss_k += micro_loss_k / micro
            grad_kp.add_(micro_kp, alpha=1 / micro)
            if norms is not None:
                norms.add(micro_kp, gain_grads)
        return loss_k, grad_kp

    def _backward(
        self, flat_kp: Tensor, windows_kbt: Tensor, instead: dict[str, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return losses [K], and gradients with respect to the parameters and to each tensor in
        `instead`, which replaces the parameter of its name."""
        if self.compiled:  # one graph for packs of every size
            for tensor in (flat_kp, windows_kbt):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        with precision(self.device, self.bfloat16):
            loss_k = self.mean_loss(flat_kp, windows_kbt, instead)
        grads = torch.autograd.grad(loss_k.sum(), [flat_kp, *instead.values()])
        return loss_k.detach(), list(grads)

    def _split_further(self, windows_kbt: Tensor, lack: str) -> None:
        """Double the micro-batches from this step on, because memory has run out.

        Raises MemoryError if they have one sequence each, or if the user has fixed their size. Call
        this outside the `except` block: the exception keeps the step's tensors alive.
        """
        (K, sequences), n_ctx = windows_kbt.shape[:2], self.model.model.n_ctx
        micro = smallest_divisor(sequences, min(self.micro_batches, sequences))
        tokens = sequences // micro * n_ctx
        if not self.may_split or micro == sequences:
            smaller = f"execution.micro_tokens={max(1, tokens // n_ctx // 2) * n_ctx} or less, or "
            raise MemoryError(
                f"a step of {tokens} tokens for each of {K} runs does not fit into memory: {lack} "
                f"Use {'' if micro == sequences else smaller}execution.recompute"
                f"{', or train fewer runs at a time' if K > 1 else ''}."
            )
        self.micro_batches = smallest_divisor(sequences, min(2 * micro, sequences))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"a step of {tokens} tokens does not fit into memory ({lack}): it is done in "
            f"{self.micro_batches} micro-batches.",
            stacklevel=2,
        )


def _lack_of_memory(error: Exception) -> str:
    """Return the message of an out-of-memory error; raise any other error again."""
    if not out_of_memory(error):
        raise error
    return one_line(error)


def step_function(model: Model, bfloat16: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a whole step as one function, to be compiled into one graph.

    The function takes windows [K, B, T + 1] and the arguments of :func:`optim.adamw` after the
    gradient, updates the parameters in place, and returns losses and gradient norms [K]. With
    several graphs, small models would spend most of a step between them.
    """

    def step(windows_kbt: Tensor, flat_kp: Tensor, *adamw: Any) -> tuple[Tensor, Tensor]:
        def loss(flat_kp: Tensor) -> tuple[Tensor, Tensor]:
            with precision(flat_kp.device, bfloat16):  # the forward pass only
                loss_k = model.mean_loss(flat_kp, windows_kbt)
            return loss_k.sum(), loss_k

        grad_kp, loss_k = torch.func.grad(loss, has_aux=True)(flat_kp)
        return loss_k, optim.adamw(grad_kp, flat_kp, *adamw)

    return step


def micro_batches(run: RunConfig, micro_tokens: int | None, ranks: Ranks) -> int:
    """Return the number of equal micro-batches in a rank's share of a step: enough for the noise
    scale, and for at most `micro_tokens` tokens each."""
    sequences = run.batch_tokens // run.model.n_ctx // ranks.size
    least = -(-(run.eval.noise_parts or 1) // ranks.replicas)
    if micro_tokens is not None:
        if micro_tokens < run.model.n_ctx:
            raise ConfigError(
                f"execution.micro_tokens={micro_tokens} is less than one context of "
                f"model.n_ctx={run.model.n_ctx}."
            )
        least = max(least, -(-sequences // (micro_tokens // run.model.n_ctx)))
    return smallest_divisor(sequences, least)


def smallest_divisor(number: int, at_least: int) -> int:
    """Return the smallest divisor of `number` that is at least `at_least` (at most `number`
    itself)."""
    return next(d for d in range(at_least, number + 1) if number % d == 0)
