"""torch's conv3d where its output has a single column, which oneDNN gets wrong in bfloat16 on AMX."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn
from waiting import PATIENCE

from fasti3d.fusion.fuse import FoldedConv3d
from fasti3d.ops.conv3d_bn_relu.torch_conv3d import conv3d, conv3d_backward

Triple = tuple[int, int, int]

# Columns of the clip, kernel, stride, padding: windows over zeros, over all of the clip, and over part of it.
COLUMNS: list[tuple[int, Triple, Triple, Triple]] = [
    (1, (3, 3, 3), (1, 1, 2), (1, 1, 1)),
    (3, (3, 3, 3), (2, 2, 2), (0, 0, 0)),
    (4, (3, 3, 3), (1, 1, 2), (0, 0, 0)),
    (2, (1, 1, 1), (1, 2, 3), (0, 0, 0)),
    (1, (2, 3, 3), (1, 2, 3), (0, 1, 2)),
]


def clip_and_weight(width: int, kernel: Triple, groups: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 5, 7, width, generator=generator).bfloat16()
    weight = torch.randn(32, 16 // groups, *kernel, generator=generator) / 12
    bias = torch.randn(32, generator=generator)
    return x.contiguous(memory_format=torch.channels_last_3d), weight.bfloat16(), bias.bfloat16()


@pytest.mark.parametrize(("groups", "dilation"), [(1, (1, 1, 1)), (2, (1, 1, 1)), (4, (2, 1, 2))])
@pytest.mark.parametrize(("width", "kernel", "stride", "padding"), COLUMNS)
def test_forward(
    width: int, kernel: Triple, stride: Triple, padding: Triple, groups: int, dilation: Triple
) -> None:
    if dilation[2] > 1:
        width += kernel[2] - 1
    x, weight, bias = clip_and_weight(width, kernel, groups)
    doubles = x.double(), weight.double(), bias.double()
    exact = F.conv3d(*doubles, stride, padding, dilation, groups)
    assert exact.shape[4] == 1
    y = conv3d(x, weight, bias, stride, padding, dilation, groups)
    assert_close("conv3d", y, exact)
    layer = nn.Conv3d(16, 32, kernel, stride, padding, dilation, groups).bfloat16()
    layer.load_state_dict({"weight": weight, "bias": bias})
    with torch.no_grad():
        assert_close("conv3d", FoldedConv3d(layer, None, True)(x), exact.relu())


@pytest.mark.parametrize(("width", "kernel", "stride", "padding"), COLUMNS)
def test_gradients(width: int, kernel: Triple, stride: Triple, padding: Triple) -> None:
    x, weight, bias = clip_and_weight(width, kernel)
    doubles = [t.double().requires_grad_() for t in (x, weight, bias)]
    y = F.conv3d(*doubles, stride, padding)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = torch.autograd.grad(y, doubles, grad.double())
    actual = conv3d_backward(grad, x, weight, stride, padding, (True, True, True))
    for mine, exact in zip(actual, expected, strict=True):
        assert mine is not None
        assert_close("conv3d", mine, exact)
    only = conv3d_backward(grad, x, weight, stride, padding, (False, True, False))
    assert [gradient is None for gradient in only] == [True, False, True]
    assert torch.equal(only[1], actual[1])


# In a process of its own: what never ends cannot be interrupted.
_ENDS = """
import torch
from fasti3d.ops.conv3d_bn_relu.torch_conv3d import conv3d_backward
torch.set_num_threads(2)
x, grad = (torch.randn(1, n, 5, 49, 49).bfloat16() for n in (64, 192))
x, grad = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, grad))
weight = torch.zeros(192, 64, 3, 3, 3, dtype=torch.bfloat16)
conv3d_backward(grad, x, weight, (1, 1, 1), (1, 1, 1), (False, True, False))
"""


def test_gradient_of_weights_ends_on_two_threads() -> None:
    subprocess.run([sys.executable, "-c", _ENDS], check=True, timeout=PATIENCE)
