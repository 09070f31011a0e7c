"""``fasti3d::conv3d_stats_triton_``: a convolution in training, and the statistics of what it makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d.ops.batch_norm_relu import batch_norm_stats
from fasti3d.ops.border import check_apart, check_vectors, triple
from fasti3d.ops.conv3d_bn_relu.checks import check_fits, check_triton
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.ops.conv3d_training.op import forward
from fasti3d.ops.registry import operator
from fasti3d.runtime.route import has_kernel


def _conv3d_stats(
    x: Tensor,
    weight: Tensor,
    kernel: list[int],
    stride: list[int],
    out: Tensor,
    mean: Tensor,
    var: Tensor,
) -> None:
    window, step = triple("kernel must be", kernel, 1), triple("stride must be", stride, 1)
    geometry = Geometry(window, step, None, False)
    check_triton(x, weight, mean, geometry.output_size(x.shape[2:]), out)
    check_vectors(out, mean=mean, var=var)
    check_apart({"mean": mean, "var": var}, x=x, weight=weight, out=out)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.conv3d_training.launch import conv3d_stats

    conv3d_stats(x, weight, geometry, out, mean, var)


operator(
    "conv3d_stats_triton_(Tensor x, Tensor weight, int[] kernel, int[] stride, Tensor(a!) out, "
    "Tensor(b!) mean, Tensor(c!) var) -> ()",
    _conv3d_stats,
)


def finds_statistics(x: Tensor) -> bool:
    """Whether ``conv3d_with_stats`` of a map finds statistics while it convolves.

    In float32 training is torch's own, with the products that its switches allow.
    """
    if x.device.type != "cuda" or x.dtype == torch.float32:
        return False
    return x.numel() > 0 and has_kernel(x.device, x.dtype)


def conv3d_with_stats(
    x: Tensor, weight: Tensor, stride: Sequence[int] = (1, 1, 1)
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve a map, SAME-padded, without a bias, and compute mean and biased variance of each channel.

    Where a GPU's kernel convolves (float16, bfloat16), statistics are of its float32 sums; elsewhere they are
    ``batch_norm_stats`` of the result.

    Args:
        x: (N, Cin, T, H, W) of at least one pixel, channels_last_3d or a channel slice of one for speed.
        weight: (Cout, Cin, kt, kh, kw), in x's dtype or float32.
        stride: steps (t, h, w).

    Returns:
        y: (N, Cout, ceil(T / st), ceil(H / sh), ceil(W / sw)) in x's dtype, channels-last. It records no
            gradient.
        mean, var: (Cout,), float32, float64 of a float64 map; bit-equal from run to run.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.

    Example:
        >>> y, mean, var = conv3d_with_stats(x, weight, (2, 2, 2))
    """
    if not finds_statistics(x):
        y = forward(x, weight, stride)
        return y, *batch_norm_stats(y)
    check_fits(x, weight, None, stride, None)
    step, kernel = triple("stride must be", stride, 1), list(weight.shape[2:])
    packed = pack_triton(weight.detach(), step, x.dtype)
    shape = (len(x), len(weight), *Geometry((1, 1, 1), step, None, False).output_size(x.shape[2:]))
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    both = torch.empty(2, len(weight), dtype=torch.float32, device=x.device)
    with torch.no_grad():
        torch.ops.fasti3d.conv3d_stats_triton_(x, packed, kernel, list(step), y, both[0], both[1])
    return y, both[0], both[1]
