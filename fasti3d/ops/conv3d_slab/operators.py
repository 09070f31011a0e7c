"""``fasti3d::conv3d_slab_or_triton_``: a convolution by whichever kernel is the faster, as plans call it."""

from __future__ import annotations

from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.triton_operators import checked
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
    geometry = checked(x, weight, bias, kernel, stride, padding, relu, out, start, residual)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.conv3d_slab.launch import conv3d

    conv3d(x, weight, slab_weight, bias, geometry, out, start, residual)


operator(
    "conv3d_slab_or_triton_(Tensor x, Tensor weight, Tensor slab_weight, Tensor bias, int[] kernel, "
    "int[] stride, int[]? padding, bool relu, Tensor(a!) out, int start, Tensor? residual=None) -> ()",
    _conv3d,
)
