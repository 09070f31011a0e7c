"""Convolutions of clips of bytes: scaled as they are read, and zero beyond the border after that."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fasti3d.inputs import Scaling, as_floats
from fasti3d.ops.conv3d_bn_relu.forms import choose_form
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import CpuConv3d, DirectConv3d, TilesConv3d, WinogradConv3d
from fasti3d.runtime import extension

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")

SCALING = Scaling((110.0, 120.0, 130.0), (58.395, 57.12, 57.375))
# The stems of the I3D-ResNets, and one with uneven padding as TensorFlow has it.
STEMS = {
    "5x7x7": Geometry((5, 7, 7), (1, 2, 2), (2, 3, 3), False),
    "5x7x7, strided frames": Geometry((5, 7, 7), (2, 2, 2), (2, 3, 3), False),
    "1x7x7": Geometry((1, 7, 7), (1, 2, 2), (0, 3, 3), False),
    "7x7x7, SAME": Geometry((7, 7, 7), (2, 2, 2), None, False),
}


def frames() -> Tensor:
    return torch.arange(2 * 6 * 17 * 14 * 3).reshape(2, 6, 17, 14, 3).mul(7).to(torch.uint8)


def stem(name: str, form: str, scaling: Scaling | None) -> CpuConv3d:
    generator = torch.Generator().manual_seed(0)
    geometry = STEMS[name]
    weight = torch.randn(24, 3, *geometry.kernel, generator=generator) / 20
    bias = torch.randn(24, generator=generator)
    if form == "tiles":
        return TilesConv3d.of(weight, bias, geometry).of_bytes(scaling, 3)
    if form == "direct":
        return DirectConv3d.of(weight, bias, geometry, torch.float32).of_bytes(scaling, 3)
    outputs = choose_form(3, 24, geometry, torch.float32).outputs
    return WinogradConv3d.of(weight, bias, geometry, outputs, torch.float32).of_bytes(scaling, 3)


def result(conv: CpuConv3d, x: Tensor, dtype: torch.dtype) -> Tensor:
    shape = (len(x), conv.out_channels, *conv.geometry.output_size(x.shape[2:]))
    out = torch.empty(shape, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    return conv(x, out)


@pytest.mark.parametrize("scaling", [SCALING, None], ids=["mean and std", "unit"])
@pytest.mark.parametrize("form", ["direct", "filtered", "tiles"])
@pytest.mark.parametrize("name", STEMS)
def test_bytes_are_their_floats_to_the_bit(isa: str, name: str, form: str, scaling: Scaling | None) -> None:
    conv, dtype = stem(name, form, scaling), torch.bfloat16 if form == "tiles" else torch.float32
    decoded = frames().permute(0, 4, 1, 2, 3)
    expected = result(conv, as_floats(decoded, dtype, scaling), dtype)
    flipped = decoded.transpose(2, 4).contiguous().transpose(2, 4)
    apart = decoded.repeat_interleave(2, dim=3)[:, :, :, ::2]
    for x in (decoded, decoded.contiguous(), flipped, apart):
        assert torch.equal(result(conv, x, dtype), expected)


@pytest.mark.parametrize("form", ["direct", "filtered", "tiles"])
@pytest.mark.parametrize("name", STEMS)
def test_a_clip_of_the_mean_is_nothing_up_to_its_border(isa: str, name: str, form: str) -> None:
    """Were the mean folded into the bias, pixels of zeros around the clip would be black."""
    conv, dtype = stem(name, form, SCALING), torch.bfloat16 if form == "tiles" else torch.float32
    x = torch.tensor(SCALING.mean).view(1, 3, 1, 1, 1).expand(2, 3, 5, 15, 16).to(torch.uint8)
    y = result(conv, x, dtype)
    assert torch.equal(y, conv.bias[:24].to(dtype).view(24, 1, 1, 1).expand_as(y))


def test_what_bytes_stand_for_is_needed_and_checked() -> None:
    conv = stem("1x7x7", "direct", None)
    x = frames().permute(0, 4, 1, 2, 3)
    out = torch.empty(2, 24, 6, 9, 7).contiguous(memory_format=torch.channels_last_3d)

    def run(x: Tensor, table: Tensor | None) -> None:
        torch.ops.fasti3d.conv3d_packed_(x, conv.weight, conv.bias, *conv.geometry, out, 0, None, table)

    with pytest.raises(RuntimeError, match="or uint8 with what its bytes stand for"):
        run(x, None)
    for table in (torch.zeros(2, 256), torch.zeros(3, 255), torch.zeros(3, 256).double()):
        with pytest.raises(RuntimeError, match=r"bytes must be float32 \(3, 256\)"):
            run(x, table)
