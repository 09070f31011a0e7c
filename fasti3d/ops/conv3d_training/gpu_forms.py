"""The three passes on a GPU in other forms than torch's."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.packed import pack_triton

_ONE = (1, 1, 1)


def grad_input(grad: Tensor, weight: Tensor, out: Tensor) -> None:
    """Writes the gradient of the input of a convolution of stride 1 and odd windows, for which that is a
    convolution, too: with channels exchanged and taps in reverse.
    """
    packed = pack_triton(weight.flip(2, 3, 4).transpose(0, 1), _ONE, grad.dtype)
    no_bias = torch.zeros(out.shape[1], device=grad.device)
    window = list(weight.shape[2:])
    torch.ops.fasti3d.conv3d_triton_(grad, packed, no_bias, window, list(_ONE), None, False, out, 0)
