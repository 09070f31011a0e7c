"""The head on the CPU."""

from __future__ import annotations

import pytest
import torch
from i3d_head_making import MAPS, assert_is_head, head_arguments
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fasti3d.ops.i3d_head.op import i3d_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_maps(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias = head_arguments(shape, 5, dtype)
    assert_is_head(i3d_head(x, weight, bias), x, weight, bias)
    assert_is_head(i3d_head(x.contiguous(), weight, bias), x, weight, bias)


@pytest.mark.parametrize("classes", [0, 1, 1000])
def test_classes(classes: int) -> None:
    x, weight, bias = head_arguments((2, 48, 4, 8, 7), classes)
    assert_is_head(i3d_head(x, weight, bias), x, weight, bias)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.fasti3d.i3d_head.default, head_arguments((2, 8, 3, 7, 8), 5))


def test_traces_as_one_operator() -> None:
    arguments = head_arguments((2, 8, 3, 7, 8), 5)
    expected = i3d_head(*arguments)
    with FakeTensorMode() as mode:
        fake = i3d_head(*map(mode.from_tensor, arguments))
    for made, real in zip(fake, expected, strict=True):
        assert (made.shape, made.dtype, made.stride()) == (real.shape, real.dtype, real.stride())
    compiled = torch.compile(i3d_head, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*arguments), expected))


@pytest.mark.parametrize(
    ("x", "classes", "message"),
    [
        (torch.zeros(1, 8, 1, 7, 7), 3, r"x must be .* at least \(2, 7, 7\) a clip, got \(1, 8, 1, 7, 7\)"),
        (torch.zeros(1, 8, 2, 7, 6), 3, r"x must be .*got \(1, 8, 2, 7, 6\)"),
        (torch.zeros(8, 2, 7, 7), 3, r"x must be \(N, C, T, H, W\).*got \(8, 2, 7, 7\)"),
        (torch.zeros(1, 9, 2, 7, 7), 3, r"weight must be \(3, 9\) for bias and x, got \(3, 8\)"),
        (torch.zeros(1, 8, 2, 7, 7), 4, r"weight must be \(4, 8\) for bias and x, got \(3, 8\)"),
    ],
)
def test_errors_name_the_argument_and_its_value(x: Tensor, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        i3d_head(x, torch.zeros(3, 8), torch.zeros(classes))


def test_it_is_for_inference_alone() -> None:
    x, weight, bias = head_arguments((1, 8, 2, 7, 7), 3)
    weight.requires_grad_()
    with pytest.raises(ValueError, match=r"no gradient: call it under torch\.no_grad"):
        i3d_head(x, weight, bias)
    with torch.no_grad():
        assert not i3d_head(x, weight, bias)[1].requires_grad
