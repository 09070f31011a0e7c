"""What the convolution's operators and functions check of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fasti3d.ops.border import MAX_PADDING, Triple, check_clip, check_out, check_residual, triple
from fasti3d.ops.conv3d_bn_relu.geometry import output_size


def check_fills(shape: Sequence[int], kernel: Sequence[int], padding: Sequence[int] | None) -> None:
    """ValueError for clips (N, C, T, H, W) without pixels, or that do not fill the kernel even once.

    As in torch, only a batch of no clips may be of zeros alone.
    """
    clips, _, *size = shape
    if (clips or padding is None) and 0 in size:
        raise ValueError(f"x must have frames, rows and columns, got (N, C, T, H, W) {tuple(shape)}")
    if padding is None or all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    raise ValueError(
        f"x of (T, H, W) {tuple(size)} with padding {tuple(padding)} must fill the kernel of "
        f"{tuple(kernel)}: pad more, or give a larger clip"
    )


def check_fits(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Literal["same"] | Sequence[int] | None,
    residual: Tensor | None = None,
) -> Triple | None:
    """The padding, None for SAME, of a clip, weights, a geometry and a residual that fit together."""
    check_clip(x, "Cin")
    if weight.dim() != 5 or weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"weight must be (Cout, {x.shape[1]}, kt, kh, kw), none of them 0, got shape "
            f"{tuple(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, but x on {x.device}: move one to the other")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    triple("stride must be", stride, 1)
    zeros = None
    if padding is not None and not (isinstance(padding, str) and padding == "same"):
        zeros = triple('padding must be "same" or', padding, 0, MAX_PADDING)
    check_fills(x.shape, weight.shape[2:], zeros)
    if residual is not None:
        size = output_size(x.shape[2:], weight.shape[2:], stride, zeros)
        check_residual(residual, (x.shape[0], weight.shape[0], *size), x)
    return zeros


def check_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    size: Sequence[int],
    *outs: Tensor,
    residual: Tensor | None = None,
) -> None:
    """ValueError unless ``outs`` together hold a convolution's channels, and (T, H, W) of ``size``.

    Of packed weights only the output channels can be checked. ``outs`` have the weights' dtype, and so has x
    unless it is uint8.
    """
    if (
        x.dim() != 5
        or weight.dim() != 3
        or bias.shape != weight.shape[:1]
        or 0 in (*weight.shape, *x.shape[1:])
    ):
        raise ValueError(
            "x must be (N, Cin, T, H, W), weight packed and bias (Cout,), none of them empty, got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if x.dtype not in (weight.dtype, torch.uint8) or bias.dtype != torch.float32:
        raise ValueError(
            f"x must be {weight.dtype}, as weight, and bias torch.float32, got {x.dtype} and {bias.dtype}"
        )
    if any(tensor.device != x.device for tensor in (weight, bias, *outs)):
        raise ValueError(f"weight, bias and out must be on {x.device}, where x is")
    if any(out.dim() != 5 for out in outs) or sum(out.shape[1] for out in outs) != len(bias):
        got = ", ".join(str(tuple(out.shape)) for out in outs)
        raise ValueError(f"out must have {len(bias)} channels, as bias, got {got}")
    for out in outs:
        shape = (x.shape[0], out.shape[1], *size)
        check_residual(residual, shape, out)
        check_out(out, shape, weight.dtype, residual=residual, x=x, weight=weight, bias=bias)
