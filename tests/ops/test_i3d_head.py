"""The head on the CPU."""

from __future__ import annotations

import pytest
import torch
from i3d_head_making import MAPS, WINDOWS, assert_is_head, head_arguments
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from fasti3d.ops import average_head
from fasti3d.ops.i3d_head.op import i3d_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_maps(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias = head_arguments(shape, 5, dtype)
    assert_is_head(i3d_head(x, weight, bias), x, weight, bias)
    assert_is_head(i3d_head(x.contiguous(), weight, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "window"), WINDOWS, ids=str)
def test_windows(shape: tuple[int, ...], window: tuple[int, int, int] | None, dtype: torch.dtype) -> None:
    x, weight, bias = head_arguments(shape, 5, dtype)
    features, logits = average_head(x, weight, bias, window)
    assert_is_head((features, logits), x, weight, bias, window or shape[2:])
    # In float32 whatever the dtype of x, as torch's modules on the same rounded values.
    layers = nn.Sequential(nn.AvgPool3d(window, 1) if window else nn.AdaptiveAvgPool3d(1), nn.Conv3d(1, 1, 1))
    layers[1].weight, layers[1].bias = (
        nn.Parameter(weight[..., None, None, None]),
        nn.Parameter(bias),
    )
    torch.testing.assert_close(logits, layers(x.float()).mean(dim=(2, 3, 4)))


@pytest.mark.parametrize("classes", [0, 1, 1000])
def test_classes(classes: int) -> None:
    x, weight, bias = head_arguments((2, 48, 4, 8, 7), classes)
    assert_is_head(i3d_head(x, weight, bias), x, weight, bias)


def test_opcheck() -> None:
    for window in ([2, 3, 7], None):
        arguments = (*head_arguments((2, 8, 3, 7, 8), 5), window)
        torch.library.opcheck(torch.ops.fasti3d.average_head.default, arguments)


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
        (torch.zeros(1, 8, 1, 7, 7), 3, r"x must be .* at least \(2, 7, 7\), got \(1, 8, 1, 7, 7\)"),
        (torch.zeros(1, 8, 2, 7, 6), 3, r"x must be .*got \(1, 8, 2, 7, 6\)"),
        (torch.zeros(8, 2, 7, 7), 3, r"x must be \(N, C, T, H, W\).*got \(8, 2, 7, 7\)"),
        (torch.zeros(1, 9, 2, 7, 7), 3, r"weight must be \(3, 9\) for bias and x, got \(3, 8\)"),
        (torch.zeros(1, 8, 2, 7, 7), 4, r"weight must be \(4, 8\) for bias and x, got \(3, 8\)"),
    ],
)
def test_errors_name_the_argument_and_its_value(x: Tensor, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        i3d_head(x, torch.zeros(3, 8), torch.zeros(classes))


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((1, 1), r"window must be None or 3 whole numbers .*\(1, 1\)"),
        ((0, 1, 1), "window must be None or 3 whole numbers"),
        ((3, 1, 1), r"\(T, H, W\) of at least \(3, 1, 1\), got .* or a smaller window"),
    ],
)
def test_windows_that_do_not_fit(window: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_head(torch.zeros(1, 8, 2, 7, 6), torch.zeros(3, 8), torch.zeros(3), window)
    with pytest.raises(ValueError, match=r"of at least \(1, 1, 1\), got \(1, 8, 0, 7, 6\)"):
        average_head(torch.zeros(1, 8, 0, 7, 6), torch.zeros(3, 8), torch.zeros(3))


def test_it_is_for_inference_alone() -> None:
    x, weight, bias = head_arguments((1, 8, 2, 7, 7), 3)
    weight.requires_grad_()
    with pytest.raises(ValueError, match=r"no gradient: call it under torch\.no_grad"):
        i3d_head(x, weight, bias)
    with torch.no_grad():
        assert not i3d_head(x, weight, bias)[1].requires_grad
