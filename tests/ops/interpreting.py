"""What the tests in Triton's interpreter share: chips, clips, packed convolutions, and tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton import language as tl
from triton.runtime import interpreter

from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import TritonConv3d
from fasti3d.runtime.gpu import GpuTraits

Triple = tuple[int, int, int]

SENTINEL = 1234.0
CHIPS = {"descriptor": GpuTraits((9, 0), 132), "pointer": GpuTraits((8, 0), 108)}


def check_sums(wanted: bool) -> None:
    """Whether a sum, difference or product of integers that overflows is an error."""
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=wanted)


def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture: products read what tensor cores read of a value. The interpreter keeps bfloat16 as bits, and
    multiplies those; and of float32 it reads all bits.
    """
    dot = interpreter.InterpreterBuilder.create_dot

    def like(value: Any, data: Any) -> interpreter.TensorHandle:
        return interpreter.TensorHandle(data, value.dtype.scalar)

    def as_float32(value: interpreter.TensorHandle) -> interpreter.TensorHandle:
        if value.dtype.scalar != tl.bfloat16:
            return value
        return interpreter.TensorHandle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(builder: object, a: Any, b: Any, *rest: Any) -> interpreter.TensorHandle:
        if a.dtype.scalar == tl.float32:
            a, b = (like(value, tf32(value.data)) for value in (a, b))
        return dot(builder, as_float32(a), as_float32(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def tf32(data: Any) -> Any:
    """float32 with the bits of the mantissa that tensor cores read."""
    return (np.ascontiguousarray(data).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def clip(
    batch: int, channels: int, size: Triple, dtype: torch.dtype = torch.float16, seed: int = 0
) -> Tensor:
    x = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d)


def weights(out_channels: int, channels: int, kernel: Triple) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out_channels, channels, *kernel, generator=generator)
    return weight / weight[0].numel() ** 0.5, torch.randn(out_channels, generator=generator)


def pack(
    weight: Tensor,
    bias: Tensor,
    stride: Triple,
    relu: bool,
    dtype: torch.dtype,
    padding: Triple | None = None,
) -> TritonConv3d:
    """As ``PackedConv3d.pack`` does for tensors on a GPU."""
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    return TritonConv3d.of(weight, bias, Geometry(kernel, stride, padding, relu), dtype)
