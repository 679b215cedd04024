"""torch.compile as training wants it: for every shape anew, with little to do between kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from scaling.config import ConfigError

R = TypeVar("R")


def compiled(
    function: Callable[..., R], device: torch.device, *, one_graph: bool = False
) -> Callable[..., R]:
    """`function` compiled for tensors on `device`; with `one_graph` as a single one, or a
    TorchDynamoException when it is called. ConfigError where there is nothing to compile with.

    What calls the kernels is Python no more, which would be a fifth of a small model's step: on a CPU it
    is C++ as well, and on a GPU a single graph is a CUDA graph, which sets them off at once.
    """
    import torch._functorch.config as autograd  # a second of import, as all of the compiler

    dynamo = torch._dynamo.config
    # Not, as torch gives up by itself, after eight shapes.
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = 1024
    # A second shape would make its sizes variables, and the code of all slower.
    dynamo.automatic_dynamic_shapes = False
    # What ours do is all in the graph that is the key: found again, it halves the start from a cache.
    if hasattr(autograd, "autograd_cache_allow_custom_autograd_functions"):  # not in older torch
        autograd.autograd_cache_allow_custom_autograd_functions = True
    options: dict[str, str | int | bool | Callable] = {}
    if device.type == "cpu":
        _look_for_a_compiler()
        options["cpp_wrapper"] = True
    elif device.type == "cuda":
        options["triton.cudagraphs"] = one_graph
    return torch.compile(function, fullgraph=one_graph, options=options)


def _look_for_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(
            "execution.compile needs a C++ compiler, and there is none here (no g++, and none that the "
            "environment variable CXX names); install one, or do without execution.compile."
        ) from None
