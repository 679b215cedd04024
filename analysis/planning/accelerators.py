"""The FLOPs that hardware and money buy, and the memory that a run needs."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.config import ModelConfig
from scaling.errors import ConfigError
from scaling.size import parameters

MFU = 0.4
"""Model FLOPs utilization (fraction of the peak) if it was not measured: PaLM 540B reached 46 %
(Chowdhery et al. 2022, Table 3), Llama 3 405B 38 to 43 % (Grattafiori et al. 2024, Table 4)."""
MEMORIES = ("rtx4090", "a100", "h200")
"""The GPUs whose number a plan states, by their memory."""
FREE = 0.1
"""Share of the memory that is kept free."""


@dataclass(frozen=True)
class Accelerator:
    """One device."""

    peak: Mapping[str, float]
    """Dense peak [FLOP/s] by precision."""
    memory: float
    """Memory [bytes]."""
    source: str
    """Where the numbers are from."""


def _device(memory: float, source: str, **peak: float) -> Accelerator:
    return Accelerator({name: 1e12 * tera for name, tera in peak.items()}, memory * 2**30, source)


GPUS = {
    "v100": _device(32, "NVIDIA V100 SXM2 datasheet", fp16=125, fp32=15.7),
    "a100": _device(80, "NVIDIA A100 SXM datasheet", bf16=312, fp16=312, tf32=156, fp32=19.5),
    "h100": _device(
        80, "NVIDIA H100 SXM datasheet, without sparsity",
        fp8=1979, bf16=989.5, fp16=989.5, tf32=494.5, fp32=67,
    ),
    "h100-pcie": _device(
        80, "NVIDIA H100 PCIe datasheet, without sparsity",
        fp8=1513, bf16=756.5, fp16=756.5, tf32=378, fp32=51,
    ),
    "h200": _device(
        141, "NVIDIA H200 SXM datasheet, without sparsity",
        fp8=1979, bf16=989.5, fp16=989.5, tf32=494.5, fp32=67,
    ),
    "b200": _device(
        180, "NVIDIA DGX B200 datasheet / 8, without sparsity", fp8=4500, bf16=2250, fp16=2250
    ),
    "l4": _device(24, "NVIDIA L4 datasheet, without sparsity", fp8=242.5, bf16=121, fp32=30.3),
    "rtx4090": _device(
        24, "NVIDIA Ada architecture whitepaper, 32-bit accumulation",
        fp8=330.3, bf16=165.2, fp16=165.2, fp32=82.6,
    ),
    "mi300x": _device(
        192, "AMD MI300X datasheet, without sparsity",
        fp8=2614.9, bf16=1307.4, fp16=1307.4, fp32=163.4,
    ),
    "tpu-v4": _device(32, "Google Cloud TPU v4 documentation", bf16=275),
    "tpu-v5e": _device(16, "Google Cloud TPU v5e documentation", bf16=197),
    "tpu-v5p": _device(95, "Google Cloud TPU v5p documentation", bf16=459),
}  # fmt: skip
"""Accelerators by name."""


_MAKERS = re.compile(r"nvidia|geforce|tesla|quadro|amd|instinct|google|cloud|gpus?$|[^a-z0-9]")
_DETAILS = re.compile(r"\b\d+ ?g(i?b)?\b|\b(sxm ?\d?|oam|hbm\d?e?)\b")
"""Forms and memory sizes that do not change the speed."""
_OTHER_NAMES = {
    "a100pcie": "a100", "4090": "rtx4090", "v4": "tpu-v4", "v5e": "tpu-v5e", "v5p": "tpu-v5p",
    "v5litepod": "tpu-v5e", "tpuv5litepod": "tpu-v5e",
}  # fmt: skip


def gpu_name(text: str) -> str:
    """Return the name in :data:`GPUS` of an accelerator as people write it: "H100 SXM", RTX-4090.

    Raises ConfigError, with the most similar names, if it is not known.
    """
    known = {_MAKERS.sub("", name): name for name in GPUS} | _OTHER_NAMES
    words = re.sub(r"[^a-z0-9]+", " ", text.lower())
    plain = _MAKERS.sub("", _DETAILS.sub("", words).strip())
    if plain in known:
        return known[plain]
    near = [known[name] for name in difflib.get_close_matches(plain, known, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    raise ConfigError(f"gpu={text!r} is not known.{hint} Known are {', '.join(GPUS)}.")


@dataclass(frozen=True)
class ComputeBudget:
    """Compute for one run."""

    C: float
    """FLOPs."""
    description: str
    """What it was computed from, including assumptions."""


def compute_budget(
    *,
    gpus: float | None = None,
    hours: float | None = None,
    gpu: str = "h100",
    mfu: float | None = None,
    precision: str = "bf16",
    dollars: float | None = None,
    dollars_per_hour: float | None = None,
) -> ComputeBudget:
    """Return the FLOPs of `gpus` for `hours`, or of `dollars` at `dollars_per_hour` per GPU.

    `mfu` is the measured model FLOPs utilization; by default 0.4 is assumed, as the description
    then says. Raises ConfigError for an unknown GPU or precision, and for numbers that are missing
    or not positive.
    """
    gpu = gpu_name(gpu)
    device = GPUS[gpu]
    if precision not in device.peak:
        raise ConfigError(
            f"precision={precision!r}: no peak of {gpu} is known for it; there are "
            f"{', '.join(device.peak)} ({device.source})."
        )
    given = {
        "gpus": gpus, "hours": hours, "mfu": mfu, "dollars": dollars,
        "dollars_per_hour": dollars_per_hour,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value} must be positive and finite.")
    utilization = MFU if mfu is None else mfu
    if utilization > 1:
        raise ConfigError(f"mfu={utilization:g} is a fraction of the peak: at most 1, such as 0.4.")
    if dollars is not None:
        if hours is not None:
            raise ConfigError("a budget is dollars, or GPUs and hours, not both.")
        if dollars_per_hour is None:
            raise ConfigError(
                f"dollars={dollars:g} needs dollars_per_hour, the price of one {gpu} per hour."
            )
        device_hours = dollars / dollars_per_hour
        text = f"${dollars:,.0f} at ${dollars_per_hour:g} per hour: {device_hours:,.0f} {gpu} hours"
    else:
        if gpus is None or hours is None:
            missing = "gpus" if gpus is None else "hours"
            raise ConfigError(f"a budget of GPUs and hours needs both; {missing} is missing.")
        device_hours = gpus * hours
        text = f"{gpus:g} {gpu} for {hours:g} hours"
    how = "assumed, not measured" if mfu is None else "as given"
    peak = device.peak[precision]
    text += (
        f", {precision} at {utilization:.0%} of {peak / 1e12:g} TFLOP/s "
        f"(MFU {how}; {device.source})"
    )
    return ComputeBudget(device_hours * 3600 * peak * utilization, text)


def memory(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """Return the bytes to train a decoder in mixed precision with AdamW, and the GPUs it needs.

    states        16 bytes per parameter: weights and gradients in 16 bits; master weights and two
                  moments in 32 bits (Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1).
    activations   for one sequence: 34 n_ctx d_model per layer, without recomputation and with
                  fused attention, that is eq. 1 of Korthikanti et al. 2022 (arXiv 2205.05198)
                  without its attention term; and 6 bytes per logit.
    gpus          {name: fewest GPUs that hold both, sharded, with a tenth kept free}.
    """
    states = 16.0 * parameters(model, vocab_size).N_total
    activations = (
        34.0 * model.n_ctx * model.d_model * model.n_layer + 6.0 * model.n_ctx * vocab_size
    )
    need = (states + activations) / (1 - FREE)
    fewest = {name: math.ceil(need / GPUS[name].memory) for name in MEMORIES}
    return {"states": states, "activations": activations, "gpus": fewest}
