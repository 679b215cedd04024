"""N from the config of a run that logged no count of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.shape_count import count_of_shapes


def count_from_shapes(config: Mapping[str, Any]) -> tuple[float, str] | None:
    """Return the non-embedding parameters N that a config describes, and the formula.

    N is exact, with biases, norms, gated layers and grouped heads, for the models of transformers
    that scaling/shape_families.py lists, nanoGPT, torchtitan and OLMo-core. For nanochat and other
    names it counts the matrices of the blocks; the text says so. The config may be nested, or flat
    with names such as model.n_layers. None if it does not tell, and for mixtures of experts.
    """
    found = count_of_shapes(config)
    return None if found is None else (found.N, found.text)
