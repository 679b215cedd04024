"""Tokens per step from a batch that is split over devices and micro-batches."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from scaling.column_words import meaning
from scaling.mapping import in_expression, option


def _named(words: str) -> re.Pattern[str]:
    """Return the pattern of a setting's name, with or without what a tracker writes before it."""
    return re.compile(rf"(?:.*[./])?(?:{words})", re.I)


_ACCUMULATED = _named(r"(?:gradient|grad)_acc\w*")
_WORLD = _named(
    r"(?:ddp_|dist_)?world_?size|(?:n|num)_?(?:gpus?|devices|processes|replicas)"
    r"|data_parallel_size|dp_size"
)
_NODES = _named(r"(?:n|num|number_of)?_?nodes")
_PER_NODE = _named(r"(?:(?:n|num)_?)?(?:gpus|devices|n?_?procs?|processes)_?per_?node")
_PER_DEVICE = _named(
    r"(?:per_?device|per_?gpu|micro|device|local)_?(?:train_?)?batch_?size"
    r"|(?:train_?)?(?:micro_?)?batch_?size_per_(?:gpu|device)|micro_?batch"
)
_WHOLE = re.compile(r"global|effective|total", re.I)
_SEQUENCES = _named(
    r"(?:(?:consumed|seen|processed|num|n|total|train)_?(?:train_?)?)?"
    r"(?:samples|sequences|examples)(?:_?(?:seen|consumed|processed))?"
)
_TOKENS_AT_LEAST = 2**14
"""A batch size from which on it is taken in tokens, as in any table."""


class Reading(NamedTuple):
    """One way to read the settings of a batch."""

    expression: str
    """Tokens per step as a product of settings."""
    note: str = ""
    """What the names do not show."""


def is_of_a_batch(name: str) -> bool:
    """Return whether a setting tells how large a batch is or how it is split, or is the width, by
    whose name nanoGPT is known."""
    if any(p.fullmatch(name) for p in (_ACCUMULATED, _WORLD, _NODES, _PER_NODE, _PER_DEVICE)):
        return True
    what = meaning(name)
    return what is not None and what.symbol in ("sequences", "n_ctx", "d_model")


def tokens_per_step(settings: Mapping[str, np.ndarray]) -> list[Reading]:
    """Return the ways to read tokens per step as a product that the size of the batch alone does
    not give: none if no setting says that a batch is split, and two if settings leave that open.

    settings: {name: (n,) numbers}, nan where there is none.
    """
    used = {name: v for name, v in settings.items() if (np.nan_to_num(v) > 0).any()}
    device = [name for name in used if _PER_DEVICE.fullmatch(name)]
    plain = [
        name for name in _meant(used, "sequences")
        if name not in device and np.nanmedian(used[name]) < _TOKENS_AT_LEAST
    ]  # fmt: skip
    context = _meant(used, "n_ctx")
    several = [name for name, values in used.items() if (np.nan_to_num(values) > 1).any()]
    counted = any(_WORLD.fullmatch(name) for name in used)
    devices = (_WORLD,) if counted else (_NODES, _PER_NODE)
    parts = [next((n for n in several if p.fullmatch(n)), "") for p in (_ACCUMULATED, *devices)]
    parts = [name for name in parts if name]
    if len(context) != 1 or any(_WHOLE.search(name) for name in plain):
        return []
    if len(device) == 1 and not plain:
        counted = counted or any(_PER_NODE.fullmatch(name) for name in used)
        note = f"{device[0]!r} is taken as that of one device: no setting counts them"
        return [_product(device[0], *parts, context[0], note="" if counted else note)]
    if len(plain) != 1 or not (parts or device):
        return []
    if len(device) == 1 and (left := _left(used, plain[0], device[0], parts)) is not None:
        return [_product(plain[0], *left, context[0])] if left else []
    if not parts:
        return []
    words = {name.rpartition(".")[2] for name in used}
    if {"block_size", "n_embd", "gradient_accumulation_steps"} <= words:
        accumulated = [name for name in parts if _ACCUMULATED.fullmatch(name)]
        note = f"{plain[0]!r} is that of a micro-batch, as nanoGPT counts"
        return [_product(plain[0], *accumulated, context[0], note=note)]
    return [_product(plain[0], context[0]), _product(plain[0], *parts, context[0])]


def which(readings: Collection[Reading], size: str) -> str:
    """Return the question which of two readings is meant."""
    whole, product = (each.expression for each in readings)
    return (
        f"tokens per step may be {whole}, or {product} if {size!r} is that of one device or "
        f"micro-batch. Say which: {option({whole: 'B'})} or {option({product: 'B'})}."
    )


def size_of(reading: Reading, names: Collection[str]) -> str:
    """Return the setting that is the first factor of a reading."""
    return next(n for n in names if reading.expression.startswith(f"{in_expression(n)}*"))


def counts_of_sequences(names: Collection[str]) -> list[str]:
    """Return the names of columns that count the sequences of the training."""
    return [name for name in names if _SEQUENCES.fullmatch(name)]


def in_tokens(counted: str, names: Collection[str]) -> str:
    """Return the advice to multiply a count of sequences by their length."""
    context = _meant(names, "n_ctx")
    length = in_expression(context[0]) if len(context) == 1 else "LENGTH"
    way = option({f"{in_expression(counted)}*{length}": "D"})
    return f"and no column counts tokens. Multiply it by their length: {way}."


def _meant(names: Collection[str], symbol: str) -> list[str]:
    known = {name: meaning(name) for name in sorted(names)}
    return [name for name, what in known.items() if what is not None and what.symbol == symbol]


def _product(*names: str, note: str = "") -> Reading:
    return Reading("*".join(map(in_expression, names)), note)


def _left(
    used: Mapping[str, np.ndarray], plain: str, device: str, parts: list[str]
) -> list[str] | None:
    """Return the factors that a batch size does not hold yet, by that of one device; None if the
    values do not tell."""
    for number in range(len(parts), -1, -1):
        for held in combinations(parts, number):
            product = math.prod([used[name] for name in held], start=used[device])
            if np.allclose(used[plain], product, equal_nan=True):
                return [name for name in parts if name not in held]
    return None
