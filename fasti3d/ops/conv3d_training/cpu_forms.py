"""The three passes on a CPU in other forms than torch's."""

from __future__ import annotations

import torch
from torch import Tensor

import fasti3d.ops.conv3d_training.cpu_operators  # noqa: F401 - registers what filtered_grad_weight calls
from fasti3d.ops.channels_last import channels_last
from fasti3d.ops.conv3d_bn_relu.cpu_operators import PANEL
from fasti3d.ops.conv3d_bn_relu.forms import MAX_AMPLIFICATION, choose_form
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.conv3d_bn_relu.winograd import amplification, minimal_filter
from fasti3d.ops.tiling import Triple


def _in_channels_last(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last_3d)


def _readable(x: Tensor) -> Tensor:
    """x as the kernels read it: few channels in any layout, more side by side."""
    return x if x.shape[1] < FEW_CHANNELS else _in_channels_last(x)


def _max_amplification(kernel: Triple) -> float:
    """Of rounding errors, which add up over the steps of a training: that of tiles of four frames alone."""
    return amplification(4, kernel[0], 1) if kernel[0] == 3 else MAX_AMPLIFICATION


def filtered(x: Tensor, weight: Tensor, stride: Triple, out: Tensor, *, gradient: bool = False) -> None:
    """Convolves x into ``out`` with minimal filters.

    ``gradient``: with channels exchanged and taps in reverse, which gives the gradient of the input.
    """
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    geometry = Geometry(kernel, stride, None, False)
    form = choose_form(
        x.shape[1], out.shape[1], geometry, torch.float32, max_amplification=_max_amplification(kernel)
    )
    inputs, filters, outputs = zip(*map(minimal_filter, form.outputs, kernel, stride), strict=True)
    packed = torch.ops.fasti3d.conv3d_pack(weight, torch.float32, filters, gradient)
    no_bias = torch.zeros(-(-out.shape[1] // PANEL) * PANEL)
    torch.ops.fasti3d.conv3d_winograd_(_readable(x), packed, no_bias, inputs, outputs, *geometry, out, 0)


def filtered_grad_weight(grad: Tensor, x: Tensor, stride: Triple, kernel: Triple, frames: int) -> Tensor:
    """(Cout, Cin, kt, kh, kw), by minimal filters of so many output frames."""
    inputs, filters, outputs = minimal_filter(frames, kernel[0], stride[0])
    return torch.ops.fasti3d.conv3d_grad_weight(
        _in_channels_last(grad), _readable(x), inputs, outputs, filters, kernel, stride
    )


def _rows(x: Tensor) -> Tensor:
    """(N, C, T, H, W) as rows of channels, a view of channels-last maps and slices of them."""
    return channels_last(x).reshape(-1, x.shape[1])


def multiplied(x: Tensor, matrix: Tensor, out: Tensor) -> None:
    """The rows of x times a matrix (C, Cout), into ``out``."""
    pixels = channels_last(out)
    try:
        target = pixels.view(-1, out.shape[1])
    except RuntimeError:  # pixels at uneven distances
        pixels.copy_((_rows(x) @ matrix).view(pixels.shape))
    else:
        torch.mm(_rows(x), matrix, out=target)


def multiplied_grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    """(Cout, Cin, 1, 1, 1)."""
    return (_rows(grad).t() @ _rows(x)).view(grad.shape[1], x.shape[1], 1, 1, 1)
