"""``fasti3d::conv3d_triton_`` and ``fasti3d::conv3d_split_triton_``: schemas and checks."""

from __future__ import annotations

from torch import Tensor

from fasti3d.ops.border import MAX_PADDING, triple
from fasti3d.ops.conv3d_bn_relu.checks import check_triton
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.registry import operator


def checked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    out: Tensor,
    start: int,
    residual: Tensor | None,
) -> Geometry:
    """The window of a convolution whose arguments are right; ValueError if they are not."""
    window, step = triple("kernel must be", kernel, 1), triple("stride must be", stride, 1)
    zeros = None if padding is None else triple("padding must be", padding, 0, MAX_PADDING)
    geometry = Geometry(window, step, zeros, relu)
    frames, *pixels = geometry.output_size(x.shape[2:])
    if start < 0 or start + out.shape[2] > frames:
        raise ValueError(f"out must hold frames from {start} on of {frames}, got {out.shape[2]}")
    check_triton(x, weight, bias, (out.shape[2], *pixels), out, residual=residual)
    return geometry


def _conv3d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    geometry = checked(x, weight, bias, kernel, stride, padding, relu, out, start, residual)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.conv3d_bn_relu.launch import conv3d

    conv3d(x, weight, bias, geometry, out, start, residual)


def _conv3d_split_triton(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, second: Tensor
) -> None:
    check_triton(x, weight, bias, x.shape[2:], out, second)
    from fasti3d.ops.conv3d_bn_relu.launch import conv3d_split

    conv3d_split(x, weight, bias, relu, out, second)


operator(
    "conv3d_triton_(Tensor x, Tensor weight, Tensor bias, int[] kernel, int[] stride, int[]? padding, "
    "bool relu, Tensor(a!) out, int start, Tensor? residual=None) -> ()",
    _conv3d_triton,
)
operator(
    "conv3d_split_triton_(Tensor x, Tensor weight, Tensor bias, bool relu, Tensor(a!) out, "
    "Tensor(b!) second) -> ()",
    _conv3d_split_triton,
)
