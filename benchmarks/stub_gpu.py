"""Stands in for a machine with an H200: all of fasti3d runs as there, except the GPU's own work.

Kernels are compiled and launched by Triton's own code, up to the driver's call. What is left of a call of the
network is what its Python costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from fasti3d import fused
from fasti3d.engine import cuda_graphs, plan, steps
from fasti3d.engine.cuda_graphs import Captured, Cuda, Graphs
from fasti3d.engine.layout import ONE_LANE
from fasti3d.inputs import range_is_known
from fasti3d.ops.conv3d_bn_relu import fold as fold_launch
from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d
from fasti3d.ops.dependent_launch import launch as dependent_launch
from fasti3d.ops.fingerprint import traces
from fasti3d.ops.i3d_head import launch as head_launch
from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.pooled_conv3d import launch as pooled_conv_launch
from fasti3d.proof import guard
from fasti3d.runtime import gpu

H200 = gpu.GpuTraits((9, 0), 132)
PIECE_BYTES = 45 << 20
LAUNCHERS = (fold_launch, conv_launch, pool_launch, pooled_conv_launch, head_launch)
_SHARED_MEMORY = 227 << 10


class Driver:
    """What Triton asks of a driver."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (None, None, 0, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": _SHARED_MEMORY},
        )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 10 * H200.capability[0] + H200.capability[1], 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """A launcher, which notes the kernel's name."""
        name = metadata.name
        return lambda *arguments: self.launched.append(name)


class Machine(Cuda):
    """Graphs of which nothing is recorded but what they allocate."""

    def device_of(self, x: Tensor) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.device_of(x)

    def serves(self, x: Tensor) -> bool:
        return True

    def is_short_of_memory(self, device: torch.device) -> bool:
        return False

    def new_event(self) -> Any:
        return SimpleNamespace(wait=lambda: None, record=lambda: None)

    def new_stream(self, device: torch.device) -> Any:
        return None

    def new_pool(self) -> Any:
        return 0, 0

    def record(self, memory: Any, work: Any, streams: Any, pool: Any) -> Captured:
        own = memory()
        return Captured(own, work(own, ONE_LANE), lambda: None)


def _pack(
    weight: Tensor, bias: Tensor, stride: Any, *, relu: bool, dtype: torch.dtype, padding: Any = None
) -> PackedConv3d:
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    return TritonConv3d.of(weight, bias, Geometry(kernel, stride, padding, relu), dtype)


def _pool(out: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any) -> Tensor:
    if not x.is_meta:
        pool_launch.max_pool3d(x, kernel, stride, out, padding)
    return out


@contextlib.contextmanager
def h200() -> Iterator[Driver]:
    """The CPU as that machine, for clips and networks in half precision."""
    driver = Driver()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context

        def put(place: Any, name: str, value: Any) -> None:
            patch(mock.patch.object(place, name, value))

        for module in (gpu, conv_launch, pool_launch, pooled_conv_launch):
            put(module, "gpu_traits", lambda device: H200)
        put(dependent_launch, "overlaps", lambda device: True)
        put(steps, "piece_bytes", lambda device: PIECE_BYTES)
        put(plan, "_sms", lambda device: H200.sms)
        put(PackedConv3d, "pack", staticmethod(_pack))
        put(steps, "max_pool3d_into", _pool)
        put(steps, "average_head", head_launch.head)
        put(fused, "fingerprint", traces)
        put(fused, "compute_dtype", lambda device, dtype: dtype)
        put(plan, "Graphs", lambda: Graphs(Machine()))
        put(cuda_graphs, "_agree", lambda maps, expected: True)
        # As for kernels that were proved.
        put(guard, "concerns", lambda device: not guard.is_off())
        put(guard, "guard_of", lambda device: SimpleNamespace(allows=lambda key, subject: True))
        put(triton.runtime.driver, "_active", driver)
        patch(range_is_known())  # whose values are not inspected on a GPU
        yield driver
