"""How a run is executed on this machine: devices, memory, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.errors import ConfigError
from scaling.fields import Part, check_positive


@dataclass(frozen=True, kw_only=True)
class Execution(Part):
    """How a run is executed on this machine. Never part of its identity."""

    prefix = "execution."

    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', ..."""
    threads: int = 1
    """CPU threads per process. The last digits of sums depend on it: runs are bit-equal only with
    the same number."""
    devices: int = 1
    """Number of devices that train a run together, with one process per device: GPUs or, on a CPU,
    processes of `threads` threads each. They share the sequences of each step; the last digits of
    sums depend on it."""
    nodes: int = 1
    """Number of nodes to spread the devices over, evenly: under torchrun, or in a sweep's Ray
    cluster."""
    shard: bool = False
    """Shard parameters, gradients and AdamW's state over the devices as well (FSDP), for models
    that do not fit on one device. A tensor is whole only while the model computes with it."""
    compile: bool = False
    """Use torch.compile, which needs a C++ compiler. Numbers differ from uncompiled ones in the
    last digits. Each model shape takes up to about a minute the first time, then seconds, from
    torch's cache."""
    cuda_graphs: bool = False
    """Record training steps as CUDA graphs and replay them, which takes one launch per step. For
    AdamW on a single GPU, and steps of one micro-batch without the noise scale; other steps train
    as usual, with a warning."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints (if a folder is given)."""
    micro_tokens: int | None = None
    """Largest number of tokens of a run in one forward and backward pass of a device; larger steps
    are split into equal parts. Default: one part, which a single device halves whenever memory runs
    out, down to single sequences. The last digits of sums depend on it."""
    recompute: bool = False
    """Keep no activations within blocks; recompute them in the backward pass (less memory, a third
    more time)."""
    peak_flops: float | None = None
    """FLOP/s of the hardware, for model FLOP utilisation: for example 989e12 for bfloat16 on an
    H100. Default: a large matrix product is timed."""

    keep_weights: bool = False
    """Write the weights of the finished run into its folder, as weights.safetensors with
    weights.json: the parameters that its loss was measured with."""

    def check(self) -> None:
        check_positive(self, "threads", "devices", "nodes")
        if self.devices % self.nodes:
            raise ConfigError(
                f"execution.devices={self.devices} cannot be spread evenly over execution.nodes="
                f"{self.nodes}; set execution.devices to {self.nodes} or a multiple of it."
            )
        if self.shard and self.devices == 1:
            raise ConfigError(
                "execution.shard=true needs several devices to shard over, and "
                "execution.devices=1; set execution.devices to 2 or more."
            )
        if self.cuda_graphs and self.devices > 1:
            raise ConfigError(
                f"execution.cuda_graphs=true needs a single device, and execution.devices="
                f"{self.devices}; leave one of them out."
            )
        check_positive(self, "peak_flops", "micro_tokens")
        if self.checkpoint_seconds < 0:
            raise ConfigError(
                f"execution.checkpoint_seconds={self.checkpoint_seconds} must not be negative."
            )
