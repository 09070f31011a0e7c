"""``fasti3d::pooled_conv3d_triton_``: schema, and the functions for the plan."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.checks import check_triton
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.ops.pooled_conv3d.config import Problem, pays
from fasti3d.ops.registry import operator
from fasti3d.runtime import gpu


def _pooled_conv3d_triton(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor) -> None:
    check_triton(x, weight, bias, x.shape[2:], out)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.pooled_conv3d.launch import pooled_conv3d

    pooled_conv3d(x, weight, bias, relu, out)


operator(
    "pooled_conv3d_triton_(Tensor x, Tensor weight, Tensor bias, bool relu, Tensor(a!) out) -> ()",
    _pooled_conv3d_triton,
)


def pool_pays(conv: PackedConv3d, x: Tensor, device: torch.device) -> bool:
    """Whether ``pool_and_convolve`` is expected to beat two kernels for clips like x, which may be meta."""
    n, channels, t, h, w = x.shape
    return pays(Problem(n, channels, conv.out_channels, (t, h, w), gpu.gpu_traits(device).sms))


def pool_and_convolve(conv: PackedConv3d, x: Tensor, out: Tensor) -> None:
    """Max-pool 3x3x3 (stride 1, SAME) of x, then a 1x1x1 `TritonConv3d`, into ``out``.

    Meta tensors only give shapes.
    """
    if not x.is_meta:
        torch.ops.fasti3d.pooled_conv3d_triton_(x, conv.weight, conv.bias, conv.relu, out)
