"""How a run is executed on this machine: devices, memory, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.errors import ConfigError
from scaling.fields import Part, check_positive


@dataclass(frozen=True)
class Execution(Part):
    """How a run is executed on this machine. Never part of its identity."""

    device: str = "auto"
    """'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:1', ..."""
    threads: int = 1
    """CPU threads of each process. Sums depend on it in their last digits: bit-equal runs need the same
    number."""
    devices: int = 1
    """Devices that train a run together, each in a process of its own: so many GPUs, or on a CPU so
    many times `threads`. They share the sequences of each step; sums depend on it in their last
    digits."""
    nodes: int = 1
    """Machines that the devices are on, as many on each: under torchrun, or of a sweep's Ray cluster."""
    shard: bool = False
    """Share parameters, gradients and AdamW's state among the devices as well (FSDP), for models that
    do not fit on one; a tensor is whole only while the model computes with it."""
    compile: bool = False
    """Use torch.compile, which needs a C++ compiler; numbers differ from uncompiled ones in the last
    digits. A shape takes up to a minute or so the first time, then seconds, from torch's cache."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints (when a folder is given)."""
    micro_tokens: int | None = None
    """Most tokens of a run in one forward and backward pass of a device; its share of a step is done in
    equal parts. Where not given that is one part, and on one device halved once where memory runs
    out. Sums depend on it in their last digits."""
    recompute: bool = False
    """Keep no activations within blocks: compute them again in the backward pass (less memory, a
    third more time)."""
    peak_flops: float | None = None
    """FLOP/s of the hardware, for model FLOP utilisation: say, 989e12 for bfloat16 on an H100. Where
    not given, a large matrix product is timed."""

    def check(self) -> None:
        check_positive(self, "threads")
        check_positive(self, "devices")
        check_positive(self, "nodes")
        if self.devices % self.nodes:
            raise ConfigError(
                f"execution.nodes={self.nodes} cannot have equal parts of execution.devices="
                f"{self.devices}; give {self.nodes}, or a multiple of it, as devices."
            )
        if self.shard and self.devices == 1:
            raise ConfigError(
                "execution.shard has nothing to share with execution.devices=1; give 2 or more."
            )
        for name in ("peak_flops", "micro_tokens"):
            if getattr(self, name) is not None:
                check_positive(self, name)
        if self.checkpoint_seconds < 0:
            raise ConfigError(
                f"execution.checkpoint_seconds={self.checkpoint_seconds} must not be negative."
            )
