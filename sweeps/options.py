"""The options of one call of a sweep, which are the same in Python and on the command line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from scaling.errors import ConfigError
from scaling.execution import Execution


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a sweep trains what is missing. The options do not change which runs it consists of.

    The fields are the keywords of :meth:`sweeps.Sweep.run` and, with dashes for underscores, the
    options of `scaling sweep`, whose help shows their docstrings.
    """

    workers: int = 2
    """Number of jobs to run in parallel, each in its own process."""
    threads: int = 1
    """CPU threads per process; results are bit-identical only for the same number."""
    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu' or 'cuda'."""
    devices: int = 1
    """Number of devices that train each run together: GPUs or, on a CPU, processes."""
    nodes: int = 1
    """Number of Ray nodes to spread the devices of a run over, evenly."""
    micro_tokens: int | None = None
    """Largest number of tokens of a run in one forward and backward pass of a device, for steps
    that do not fit into memory. Default: halve a step each time that memory runs out."""
    recompute: bool = False
    """Keep no activations within blocks; recompute them in the backward pass (less memory, a third
    more time)."""
    cuda_graphs: bool = False
    """Replay training steps on a GPU as CUDA graphs, which helps small models and packs."""
    shard: bool = False
    """Shard parameters, gradients and optimizer state over the devices (FSDP)."""
    retries: int = 2
    """How often to retry a run whose worker died."""
    packs: bool = field(
        default=True,
        metadata={
            "off": "Train each run alone, as a check or to save memory. By default, runs of the "
            "same architecture train together if a benchmark shows that this is faster, and steps "
            "that runs share are trained once. The results are the same."
        },
    )
    """Train runs of the same architecture together if a benchmark shows that this is faster, and
    train steps that runs share once. The results are the same."""
    compile: bool = False
    """Use torch.compile for architectures with minutes of training left, if a benchmark shows that
    it is faster. Changes the last digits of the results."""
    address: str | None = None
    """Address of a running Ray cluster to join from one of its machines: host:port, or auto.
    Default: start Ray on this machine."""
    in_process: bool = False
    """Train one run after another in this process, without Ray."""
    join: bool = False
    """Share the results folder with other processes that were started with --join, in other
    terminals or on other machines that see the folder. Each trains the runs that no other has
    taken."""
    retry_failed: bool = False
    """Train failed runs again."""
    reuse: tuple[str, ...] = ()
    """Take finished runs from this results folder instead of training them again."""
    budget_flops: float | None = None
    """Start no run that would bring the total of this command above this many FLOPs (6 N D).
    Default: no limit."""
    budget_hours: float | None = None
    """Start no run after this many hours. If a budget leaves runs untrained, the exit code is 3 and
    the same command continues with them. Default: no limit."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints of a run."""
    export: Literal["tensorboard", "wandb", "mlflow"] | None = None
    """Tracker to export each run to as it finishes; `scaling export` does so afterwards. Default:
    none."""

    def __post_init__(self) -> None:
        if isinstance(self.reuse, str):
            raise ConfigError(f"reuse={self.reuse!r} must be a list of results folders.")
        object.__setattr__(self, "reuse", tuple(map(str, self.reuse)))

    @classmethod
    def of(cls, options: SweepOptions | None, changes: Mapping[str, Any]) -> SweepOptions:
        """Return `options`, by default the defaults, with `changes`. Raises TypeError for unknown
        options."""
        options = cls() if options is None else options
        if not isinstance(options, SweepOptions):
            raise TypeError(f"options={options!r} must be SweepOptions; give workers=... by name.")
        names = [option.name for option in fields(cls)]
        for name in changes:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Options are {', '.join(names)}."
                raise TypeError(f"a sweep has no option {name!r}. {hint}")
        return dataclasses.replace(options, **changes)

    @property
    def execution(self) -> Execution:
        """How each worker executes its runs. Raises ConfigError for impossible values."""
        ours = {f.name for f in fields(self)}
        shared = [f.name for f in fields(Execution) if f.name in ours]
        return Execution(**{name: getattr(self, name) for name in shared})

    def arguments(self) -> list[str]:
        """Return the arguments of `scaling sweep` for options that differ from their defaults."""
        words: list[str] = []
        for option in fields(self):
            value, name = getattr(self, option.name), option.name.replace("_", "-")
            if value == option.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            elif isinstance(value, tuple):
                words += [word for item in value for word in (f"--{name}", item)]
            else:
                words += [f"--{name}", str(value)]
        return words
