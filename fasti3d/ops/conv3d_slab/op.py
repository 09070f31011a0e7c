"""``fasti3d::conv3d_slab_``: schema, and the checks of its reference.

x: (N, Cin, T, H, W), float16 or bfloat16, channels adjacent. weight: what ``pack_slab`` made, in x's dtype.
bias: (Cout,) float32. kernel, before: (t, h, w) of the window, and the zeros before each axis, negative to
skip places. out: (N, Cout, T', H', W'), channels adjacent, with as many zeros after each axis as it asks for.
tile: a ``Config``'s numbers, which change nothing of the result. residual: what is added before the ReLU, or
``out``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.border import MAX_LENGTH, check_map, check_out, check_residual, triple
from fasti3d.ops.conv3d_slab.config import MAX_KERNEL, packed_shape
from fasti3d.ops.conv3d_slab.reference import conv3d_slab_reference
from fasti3d.ops.registry import operator


def _conv3d_slab(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    kernel: list[int],
    before: list[int],
    relu: bool,
    out: Tensor,
    tile: list[int],
    residual: Tensor | None = None,
) -> None:
    window = triple("kernel must be", kernel, 1, MAX_KERNEL)
    zeros = triple("before must be", before, -MAX_LENGTH, MAX_KERNEL)
    check_map(x)
    if bias.dim() != 1 or bias.dtype != torch.float32:
        raise ValueError(f"bias must be float32 of one axis, got {bias.dtype} of {tuple(bias.shape)}")
    check_out(
        out, (len(x), len(bias), *out.shape[2:]), x.dtype, residual=residual, x=x, weight=weight, bias=bias
    )
    check_residual(residual, out.shape, x)
    wanted = packed_shape(out.shape[1], x.shape[1], window)
    if weight.shape != wanted or weight.dtype != x.dtype:
        raise ValueError(
            f"weight must be what pack_slab makes, {x.dtype} of {wanted}, got {weight.dtype} of "
            f"{tuple(weight.shape)}"
        )
    conv3d_slab_reference(x, weight, bias, window, zeros, relu, out, residual)


# Whether nvcc compiled the kernel: there is no other for GPUs.
COMPILED = operator(
    "conv3d_slab_(Tensor x, Tensor weight, Tensor bias, int[] kernel, int[] before, bool relu, "
    "Tensor(a!) out, int[] tile, Tensor? residual=None) -> ()",
    _conv3d_slab,
)
