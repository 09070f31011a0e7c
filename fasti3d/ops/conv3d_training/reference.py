"""The three passes by torch: cuDNN or oneDNN where there are, and what every other form is measured against.

At stride 1 padding that is even on every axis goes to torch as a number, without a padded copy. Not at other
strides: oneDNN's gradient of few channels' float32 weights is then wrong for few frames (torch 2.13; 7 frames
of 3 channels, 7x7x7 at stride 2).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fasti3d.ops.conv3d_bn_relu import torch_conv3d
from fasti3d.ops.tiling import Triple
from fasti3d.same_padding import pad_same, same_padding


def _even_padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> Triple | None:
    """Zeros on both sides of each axis, if the stride is 1 and SAME's are as many before as after."""
    pads = [same_padding(n, k, s) for n, k, s in zip(size, kernel, stride, strict=True)]
    uneven = max(stride) > 1 or any(front != back for front, back in pads)
    return None if uneven else (pads[0][0], pads[1][0], pads[2][0])


def _padded(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, Triple]:
    """x and what torch is to pad it with."""
    padding = _even_padding(x.shape[2:], kernel, stride)
    return (pad_same(x, kernel, stride), (0, 0, 0)) if padding is None else (x, padding)


def _like(x: Tensor, weight: Tensor) -> Tensor:
    """A map of fewer values than the weights in their layout, to which torch else brings the weights."""
    dense = x.device.type == "cpu" and weight.is_contiguous() and x.numel() < weight.numel()
    return x.contiguous() if dense else x


def forward(x: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    """(N, Cout, T', H', W'), SAME."""
    clip, padding = _padded(_like(x, weight), weight.shape[2:], stride)
    return torch_conv3d.conv3d(clip, weight.to(x.dtype), None, stride, padding)


def grad_input(grad: Tensor, weight: Tensor, stride: Sequence[int], input_size: Sequence[int]) -> Tensor:
    """(N, Cin, T, H, W) of ``input_size`` (T, H, W)."""
    kernel = weight.shape[2:]
    # Of which only the shape is read.
    x = grad.new_zeros(1).expand(grad.shape[0], weight.shape[1], *input_size)
    clip, padding = _padded(x, kernel, stride)
    needed = (True, False, False)
    y, _, _ = torch_conv3d.conv3d_backward(grad, clip, weight.to(grad.dtype), stride, padding, needed)
    assert y is not None
    for axis, (padded, size) in enumerate(zip(clip.shape[2:], input_size, strict=True), start=2):
        if padded != size:
            y = y.narrow(axis, same_padding(size, kernel[axis - 2], stride[axis - 2])[0], size)
    return y


def grad_weight(grad: Tensor, x: Tensor, stride: Sequence[int], kernel: Sequence[int]) -> Tensor:
    """(Cout, Cin, kt, kh, kw)."""
    clip, padding = _padded(x, kernel, stride)
    # Of which only the shape is read.
    weight = grad.new_zeros(1).expand(grad.shape[1], x.shape[1], *kernel)
    _, y, _ = torch_conv3d.conv3d_backward(grad, clip, weight, stride, padding, (False, True, False))
    assert y is not None
    return y
