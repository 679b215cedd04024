"""torch.compile as training wants it: for every shape anew, with little to do between kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from scaling.errors import ConfigError

R = TypeVar("R")


def compiled(
    function: Callable[..., R], device: torch.device, *, fullgraph: bool = False
) -> Callable[..., R]:
    """`function` compiled for tensors on `device`; with `fullgraph` as one graph, or a
    TorchDynamoException when it is called. ConfigError where there is nothing to compile with.

    On a CPU what calls the kernels is C++ too: Python takes up to a sixth of a small model's step.
    """
    import torch._functorch.config as functorch  # a second of import, as all of the compiler

    dynamo = torch._dynamo.config
    # Not, as torch gives up by itself, after eight shapes.
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = 1024
    # A second shape would make its sizes variables, and the code of all slower.
    dynamo.automatic_dynamic_shapes = False
    # What ours do is all in the graph that is the key: found again, it halves the start from a cache.
    if hasattr(functorch, "autograd_cache_allow_custom_autograd_functions"):  # not in older torch
        functorch.autograd_cache_allow_custom_autograd_functions = True
    if device.type != "cpu":
        return torch.compile(function, fullgraph=fullgraph)
    _look_for_a_compiler()
    return torch.compile(function, fullgraph=fullgraph, options={"cpp_wrapper": True})


def _look_for_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(
            "execution.compile needs a C++ compiler, and none is found (such as g++ in PATH, or what the "
            "environment variable CXX names); install one, or do without execution.compile."
        ) from None
