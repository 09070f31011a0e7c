"""``fasti3d::pooled_conv3d_slab_``: schema, and the checks of its reference.

x: (N, Cin, T, H, W), float16 or bfloat16, channels adjacent. weight: what ``pack_slab`` made of (Cout, Cin,
1, 1, 1), in x's dtype. bias: (Cout,) float32. out: (N, Cout, T, H, W), channels adjacent. tile: a
``Config``'s numbers, which change nothing of the result.

The pool's padding is zeros: it is torch's max_pool3d where x is nowhere negative. A NaN makes all results of
the pixels around it NaN, as torch's does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.border import check_map, check_out
from fasti3d.ops.conv3d_slab.config import packed_shape
from fasti3d.ops.pooled_conv3d_slab.reference import pooled_conv3d_slab_reference
from fasti3d.ops.registry import operator


def _pooled_conv3d_slab(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, tile: list[int]
) -> None:
    check_map(x)
    if bias.dim() != 1 or bias.dtype != torch.float32:
        raise ValueError(f"bias must be float32 of one axis, got {bias.dtype} of {tuple(bias.shape)}")
    check_out(out, (len(x), len(bias), *x.shape[2:]), x.dtype, x=x, weight=weight, bias=bias)
    wanted = packed_shape(len(bias), x.shape[1], (1, 1, 1))
    if weight.shape != wanted or weight.dtype != x.dtype:
        raise ValueError(
            f"weight must be what pack_slab makes, {x.dtype} of {wanted}, got {weight.dtype} of "
            f"{tuple(weight.shape)}"
        )
    pooled_conv3d_slab_reference(x, weight, bias, relu, out)


# Whether nvcc compiled the kernel: there is no other for GPUs.
COMPILED = operator(
    "pooled_conv3d_slab_(Tensor x, Tensor weight, Tensor bias, bool relu, Tensor(a!) out, int[] tile) -> ()",
    _pooled_conv3d_slab,
)
