"""torch.compile, configured for training many shapes with little overhead between kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from scaling.errors import ConfigError

R = TypeVar("R")


def compiled(
    function: Callable[..., R], device: torch.device, *, fullgraph: bool = False
) -> Callable[..., R]:
    """Compile `function` for tensors on `device`.

    With `fullgraph`, the result is one graph; if that is impossible, calling it raises a
    TorchDynamoException. Raises ConfigError if there is no C++ compiler.

    On a CPU the wrapper code that calls the kernels is C++ too; in Python it would take up to a
    sixth of a small model's step.
    """
    import torch._functorch.config as functorch  # slow to import, as is the whole compiler

    dynamo = torch._dynamo.config
    # By default torch stops compiling after eight shapes.
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = 1024
    # By default, a second shape makes the sizes symbolic, which slows the code for all shapes.
    dynamo.automatic_dynamic_shapes = False
    # Our autograd functions depend on nothing outside the graph that keys the cache. Loading them
    # from the cache halves the startup time.
    if hasattr(functorch, "autograd_cache_allow_custom_autograd_functions"):  # not in older torch
        functorch.autograd_cache_allow_custom_autograd_functions = True
    if device.type != "cpu":
        return torch.compile(function, fullgraph=fullgraph)
    _check_compiler()
    return torch.compile(function, fullgraph=fullgraph, options={"cpp_wrapper": True})


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(
            "execution.compile needs a C++ compiler, and none was found. Install one (such as "
            "g++), name it in the environment variable CXX, or train without execution.compile."
        ) from None
