"""Every launch of the plan at the network's full size, none of which is made: what a GPU would refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fasti3d import I3D
from fasti3d.engine import steps
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.plan import Plan
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.runtime import gpu

pytest.importorskip("triton", reason="triton is not installed")

from interpreting import CHIPS, pack
from triton.tools.tensor_descriptor import TensorDescriptor

from fasti3d.ops.conv3d_bn_relu import fold as fold_launch
from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.i3d_head import launch as head_launch
from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.pooled_conv3d import launch as pooled_conv_launch

Triple = tuple[int, int, int]

KERNELS = {
    conv_launch: ("_conv3d_descriptor_kernel", "_conv3d_pointer_kernel"),
    fold_launch: ("_conv3d_fold_kernel",),
    pool_launch: ("_max_pool3d_same_kernel",),
    pooled_conv_launch: ("_pooled_conv3d_kernel",),
    head_launch: ("_average_head_kernel",),
}


class Probe:
    """Stands where a launcher has its kernel, and looks at what is launched."""

    def __init__(self, kernel: Any, seen: list[str]) -> None:
        self.kernel = kernel
        self.seen = seen

    def __getitem__(self, grid: tuple[int, ...]) -> Probe:
        x, *others = grid
        # Triton multiplies the lengths of a grid as int, and launches nothing where that is not above 0.
        assert 0 < x < 2**31
        assert all(0 < n < 2**16 for n in others)
        assert x * (others[0] if others else 1) < 2**31
        return self

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.seen.append(self.kernel.__name__)
        named = {name: value for name, value in options.items() if name in self.kernel.arg_names}
        for name, value in self.kernel.signature.bind(*arguments, **named).arguments.items():
            if isinstance(value, TensorDescriptor):
                check_tensor_map(name, value)
            elif value is not None and not isinstance(value, Tensor):
                assert -(2**31) <= value < 2**31, f"{name} is {value}, which asks for another build"


def check_tensor_map(name: str, descriptor: TensorDescriptor) -> None:
    """Source: CUDA driver API, cuTensorMapEncodeTiled."""
    x, shape, strides = descriptor.base, descriptor.shape, descriptor.strides
    box, itemsize = descriptor.block_shape, descriptor.base.element_size()
    assert len(shape) == len(strides) == len(box) <= 5, name
    address = x.data_ptr()
    assert address % 16 == 0, name
    assert all(0 < n <= 2**32 for n in shape), f"{name}: {shape}"
    steps_between = [s * itemsize for s in strides[:-1]]
    assert all(0 < s < 2**40 and s % 16 == 0 for s in steps_between), f"{name}: {strides}"
    assert strides[-1] == 1, name
    assert all(0 < n <= 256 for n in box), f"{name}: {box}"
    assert box[-1] * itemsize % 16 == 0, f"{name}: {box}"
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    end = (x.storage_offset() + last + 1) * itemsize
    there = x.untyped_storage().nbytes()
    assert end <= there, f"{name} ends behind its memory"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were launched, on what is an H200 to a plan on the CPU."""
    found: list[str] = []
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, Probe(getattr(module, name), found))
    for module in (gpu, conv_launch, pool_launch, pooled_conv_launch):
        monkeypatch.setattr(module, "gpu_traits", lambda device: CHIPS["descriptor"])
    monkeypatch.setattr(steps, "piece_bytes", lambda device: 45 << 20)

    def pack_for_gpu(
        weight: Tensor, bias: Tensor, stride: Triple, *, relu: bool, dtype: torch.dtype, padding: Any = None
    ) -> PackedConv3d:
        return pack(weight, bias, stride, relu, dtype)

    def pool(out: Tensor, x: Tensor, kernel: Triple, stride: Triple, padding: Triple | None) -> Tensor:
        if not x.is_meta:
            pool_launch.max_pool3d(x, kernel, stride, out, padding)
        return out

    monkeypatch.setattr(PackedConv3d, "pack", pack_for_gpu)
    monkeypatch.setattr(steps, "max_pool3d_into", pool)
    monkeypatch.setattr(steps, "average_head", head_launch.head)
    return found


def test_nothing_is_beyond_the_limits(seen: list[str]) -> None:
    """The maps are memory that nobody touches, of which a batch of 32 takes none."""
    plan = Plan(graph_of(I3D().eval()), torch.float16, torch.device("cpu"))
    for clips in (1, 3, 8, 32):
        for frames in (64, 63, 16):
            x = torch.empty((clips, 3, frames, 224, 224), dtype=torch.float16)
            seen.clear()
            with torch.no_grad():
                plan.compute(x, {"Logits"}, x.dtype)
            assert set(seen) >= {"_conv3d_descriptor_kernel", "_conv3d_fold_kernel", "_average_head_kernel"}
            # 2b, 2c, and three of each Mixed block.
            assert seen.count("_conv3d_descriptor_kernel") >= 2 + 3 * 9
