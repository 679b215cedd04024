"""A CUDA device that computes nothing, so that a machine without one sees where tensors lie, how
many operations a step dispatches, and when the host would wait.

Torch's fake tensors have shapes and devices but no numbers. A build for CPUs runs forward passes on
fake CUDA tensors, but no backward pass: autograd asks CUDA for its streams. A small library, loaded
before torch, answers that there is one device with one stream. It would change what torch thinks of
the machine, so all of this happens in a child process: :func:`answers` starts it, and
tests/fake_cuda_checks.py is what runs in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

SOURCE = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;

struct Guard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device one() noexcept { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return one(); }
  Device getDevice() const override { return one(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, one()); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, one()); }
  Stream exchangeStream(Stream) const noexcept override {
    return Stream(Stream::DEFAULT, one());
  }
};
static impl::DeviceGuardImplRegistrar guard(DeviceType::CUDA, new Guard());

// Torch finds its hooks by the name of this class.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks);
"""

HERE = Path(__file__).parent


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def build(folder: Path) -> str:
    """Compile the library into `folder`; return why that is impossible, or ''."""
    if (compiler := shutil.which("g++")) is None:
        return "no g++"
    (folder / "fake_cuda.cpp").write_text(SOURCE)
    torch = torch_folder()
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{torch / 'include'}"]
    command += ["fake_cuda.cpp", "-o", "fake_cuda.so", f"-L{torch / 'lib'}"]
    command += ["-lc10", "-ltorch_cpu"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return answer.stderr[:300] if answer.returncode else ""


def answers(folder: Path, *arguments: str) -> dict[str, Any]:
    """{check: its answer, or {"error": text}} of tests/fake_cuda_checks.py, in a child process."""
    command = [sys.executable, __file__, str(folder / "fake_cuda.so"), *arguments]
    child = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


# ------------------------------------------------------------------ within the child process

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")
"""Operations of CUDA tensors for whose result the host waits."""


@contextlib.contextmanager
def device() -> Iterator[Counter[str]]:
    """Make fake CUDA tensors within the block; count calls of what would need a real device."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    calls: Counter[str] = Counter()

    def counted(name: str, value: Any = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return value

        return call

    def numbers(self: torch.Tensor) -> Any:
        """Stands for a copy to the host: zeros of the same shape."""
        if not isinstance(self, FakeTensor):
            return plain_tolist(self)
        if self.device.type == "cuda":
            calls["copies"] += 1
            for operations in Operations.active:
                operations.waits.append("item or tolist")

        def zeros(shape: torch.Size) -> Any:
            return [zeros(shape[1:]) for _ in range(shape[0])] if len(shape) else 1.0

        return zeros(self.shape)

    def tensor(data: Any, *, dtype: Any = None, device: Any = None) -> torch.Tensor:
        """As torch.tensor, which would copy to the device without asking the mode."""
        like = plain_tensor(data, dtype=dtype)  # its numbers are known, and would be computed with
        return torch.empty(like.shape, dtype=like.dtype).to(device)

    def from_numpy(array: Any) -> torch.Tensor:
        like = plain_from_numpy(array)  # one number alone would be known, as above
        return torch.empty(like.shape, dtype=like.dtype)

    def new_tensor(self: torch.Tensor, data: Any, dtype: Any = None) -> torch.Tensor:
        return tensor(data, dtype=dtype or self.dtype, device=self.device)

    FakeTensor.tolist = numbers  # type: ignore[assignment,method-assign]
    plain_tensor, plain_tolist = torch.tensor, torch.Tensor.tolist
    plain_from_numpy = torch.from_numpy
    torch.tensor, torch.from_numpy = tensor, from_numpy  # type: ignore[assignment]
    torch.Tensor.new_tensor = new_tensor  # type: ignore[assignment,method-assign]
    torch.Tensor.tolist = torch.Tensor.item = numbers  # type: ignore[assignment,method-assign]
    torch.Tensor.pin_memory = lambda self: self  # type: ignore[assignment,method-assign]
    functions = {"is_available": True, "device_count": 8, "get_device_name": "Fake 100"}
    functions |= {"max_memory_allocated": 7, "init": None, "synchronize": None}
    functions |= {"reset_peak_memory_stats": None, "empty_cache": None}
    functions |= {"is_initialized": True, "current_device": 0}
    for name, value in functions.items():
        setattr(torch.cuda, name, counted(name, value))
    torch.get_autocast_dtype("cuda")
    torch.amp.autocast_mode.torch.cuda.is_bf16_supported = counted("is_bf16_supported", True)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.amp.autocast_mode.amp_definitely_not_available = lambda: False  # type: ignore
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield calls


class Operations:
    """Counts the operations that are dispatched within the block, and those the host waits for."""

    active: ClassVar[list[Operations]] = []

    def __enter__(self) -> Operations:
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        self.names: Counter[str] = Counter()
        self.waits: list[str] = []
        outer = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                outer.note(func, args, kwargs or {}, result)
                return result

        self.torch, self.mode = torch, Mode()
        self.mode.__enter__()
        self.active.append(self)
        return self

    def __exit__(self, *raised: Any) -> None:
        self.active.remove(self)
        self.mode.__exit__(*raised)

    @property
    def number(self) -> int:
        return self.names.total()

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func.__name__.partition(".")[0]
        flat = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else (arg,))]
        of = next((x.device.type for x in flat if isinstance(x, self.torch.Tensor)), "")
        to = result.device.type if isinstance(result, self.torch.Tensor) else of
        launches = not func.is_view and name not in ("device", "_unsafe_view")
        if "cuda" in (of, to) and launches:
            self.names[name] += 1
        copy = name in ("_to_copy", "copy_", "_pin_memory")
        if name == "copy_":
            of, to = args[1].device.type, args[0].device.type
        blocking = not kwargs.get("non_blocking") and not (name == "copy_" and len(args) > 2)
        if (copy and of != to and blocking) or (of == "cuda" and name in WAITS):
            self.waits.append(f"{name} {of} {to}")
        if name == "index" and any(x is not None and x.dtype == self.torch.bool for x in args[1]):
            self.waits.append("index by a mask")


def main() -> None:
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder() / "lib" / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(sys.argv[1])
    sys.path[:0] = [str(HERE.parent)]
    import fake_cuda_checks

    print(json.dumps(fake_cuda_checks.run(sys.argv[2:])))


if __name__ == "__main__":
    main()
