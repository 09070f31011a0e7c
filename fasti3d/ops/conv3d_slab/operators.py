"""``fasti3d::conv3d_slab_or_triton_``: a convolution by whichever kernel is the faster, as plans call it."""

from __future__ import annotations

from torch import Tensor

from fasti3d.ops.border import MAX_PADDING, triple
from fasti3d.ops.conv3d_bn_relu.checks import check_triton
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.registry import operator


def _conv3d(
    x: Tensor,
    weight: Tensor,
    slab_weight: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    window, step = triple("kernel must be", kernel, 1), triple("stride must be", stride, 1)
    zeros = None if padding is None else triple("padding must be", padding, 0, MAX_PADDING)
    geometry = Geometry(window, step, zeros, relu)
    frames, *pixels = geometry.output_size(x.shape[2:])
    if start < 0 or start + out.shape[2] > frames:
        raise ValueError(f"out must hold frames from {start} on of {frames}, got {out.shape[2]}")
    check_triton(x, weight, bias, (out.shape[2], *pixels), out, residual=residual)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.conv3d_slab.launch import conv3d

    conv3d(x, weight, slab_weight, bias, geometry, out, start, residual)


operator(
    "conv3d_slab_or_triton_(Tensor x, Tensor weight, Tensor slab_weight, Tensor bias, int[] kernel, "
    "int[] stride, int[]? padding, bool relu, Tensor(a!) out, int start, Tensor? residual=None) -> ()",
    _conv3d,
)
