"""torch.compile, configured for training many shapes with little overhead between kernels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from scaling.errors import ConfigError

R = TypeVar("R")


def compiled(
    function: Callable[..., R], device: torch.device, *, fullgraph: bool = False
) -> Callable[..., R]:
    """Compile `function` for tensors on `device`.

    With `fullgraph`, the result is one graph; if that is impossible, calling it raises a
    TorchDynamoException. Raises ConfigError as :func:`check_compiler` does.

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
    check_compiler(device)
    if device.type != "cpu":
        return torch.compile(function, fullgraph=fullgraph)
    return torch.compile(function, fullgraph=fullgraph, options={"cpp_wrapper": True})


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError if this machine lacks what torch.compile needs for a device: a C++ compiler
    on a CPU; on a GPU Triton, and a C compiler and Python's headers, with which Triton builds the
    code that launches kernels."""
    lacking = _lacking_for_gpu(device) if device.type == "cuda" else _lacking_for_cpu()
    if lacking:
        raise ConfigError(f"execution.compile needs {lacking}, or train without execution.compile.")


def _lacking_for_cpu() -> str:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return (
            "a C++ compiler, and none was found. Install one (such as g++), name it in the "
            "environment variable CXX"
        )
    return ""


def _lacking_for_gpu(device: torch.device) -> str:
    if importlib.util.find_spec("triton") is None:
        return (
            f"Triton on a GPU, and it is not installed. Install the version that torch "
            f"{torch.__version__} was built with"
        )
    major, minor = torch.cuda.get_device_capability(device)
    if major < 7:  # of Triton's NVIDIA backend
        return f"a GPU of compute capability 7.0 or more, and this one has {major}.{minor}. Use one"
    if not any(map(shutil.which, [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"])):
        return (
            "a C compiler on a GPU, and none was found. Install one (such as gcc), name it in the "
            "environment variable CC"
        )
    folders = {sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")}
    if not any(Path(folder, "Python.h").exists() for folder in folders):
        return (
            f"Python's headers on a GPU, and there is no Python.h in {' or '.join(folders)}. "
            "Install them (such as python3-dev)"
        )
    return ""
