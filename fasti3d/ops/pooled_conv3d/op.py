"""``fasti3d::pooled_conv3d_triton_``: schema, and the functions for the plan."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

import fasti3d.ops.pooled_conv3d_slab.operators  # noqa: F401 - registers what is called here
from fasti3d.ops.conv3d_bn_relu.checks import check_triton
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d
from fasti3d.ops.conv3d_slab.config import CAPABILITY, GROUP
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d.config import MAX_CHANNELS, Problem, pays
from fasti3d.ops.pooled_conv3d_slab import config as slab
from fasti3d.ops.pooled_conv3d_slab.op import COMPILED
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


@dataclass(frozen=True)
class PoolSlabConv3d(TritonConv3d):
    """A convolution 1x1x1 behind a max-pool of a map that is nowhere negative, with weights for slabs too."""

    slab_weight: Tensor

    @property
    def form(self) -> str:
        return "direct/slab"

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.slab_weight.nbytes


def behind_pool(conv: PackedConv3d) -> PackedConv3d:
    """A convolution 1x1x1 that alone reads a max-pool 3x3x3 (stride 1, SAME) of a map that is nowhere
    negative, with the weights for slabs, if they may run.
    """
    if not (isinstance(conv, TritonConv3d) and takes_slabs(conv.weight, conv.out_channels)):
        return conv
    weight = pack_slab(conv.weight.reshape(conv.out_channels, -1, 1, 1, 1))
    its = {field.name: getattr(conv, field.name) for field in fields(TritonConv3d)}
    return PoolSlabConv3d(**its, slab_weight=weight)


def takes_slabs(weight: Tensor, out_channels: int) -> bool:
    """Whether the kernel may be chosen for packed weights: GPU, build, dtype and channels are right."""
    return (
        COMPILED
        and weight.device.type == "cuda"
        and weight.dtype in (torch.float16, torch.bfloat16)
        and gpu.gpu_traits(weight.device).capability == CAPABILITY
        and out_channels % GROUP == 0
        and out_channels <= MAX_CHANNELS
    )


def pool_pays(conv: PackedConv3d, x: Tensor, device: torch.device) -> bool:
    """Whether ``pool_and_convolve`` is expected to beat two kernels for clips like x, which may be meta."""
    n, channels, t, h, w = x.shape
    its = n, channels, conv.out_channels, (t, h, w), gpu.gpu_traits(device).sms
    over_slabs = isinstance(conv, PoolSlabConv3d) and slab.choose(slab.Problem(*its)) is not None
    return over_slabs or pays(Problem(*its))


def pool_and_convolve(conv: PackedConv3d, x: Tensor, out: Tensor) -> None:
    """Max-pool 3x3x3 (stride 1, SAME) of x, then a 1x1x1 `TritonConv3d`, into ``out``.

    Meta tensors only give shapes.
    """
    if x.is_meta:
        return
    if isinstance(conv, PoolSlabConv3d):
        torch.ops.fasti3d.pooled_conv3d_slab_or_triton_(
            x, conv.weight, conv.slab_weight, conv.bias, conv.relu, out
        )
    else:
        torch.ops.fasti3d.pooled_conv3d_triton_(x, conv.weight, conv.bias, conv.relu, out)
