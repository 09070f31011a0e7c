"""``fasti3d::pooled_conv3d_slab_or_triton_``: a pool and convolution by whichever kernel is the faster, as
plans call it of maps that are nowhere negative.
"""

from __future__ import annotations

from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.checks import check_triton
from fasti3d.ops.registry import operator


def _pooled_conv3d(
    x: Tensor, weight: Tensor, slab_weight: Tensor, bias: Tensor, relu: bool, out: Tensor
) -> None:
    check_triton(x, weight, bias, x.shape[2:], out)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.pooled_conv3d_slab.launch import pooled_conv3d

    pooled_conv3d(x, weight, slab_weight, bias, relu, out)


operator(
    "pooled_conv3d_slab_or_triton_(Tensor x, Tensor weight, Tensor slab_weight, Tensor bias, bool relu, "
    "Tensor(a!) out) -> ()",
    _pooled_conv3d,
)
