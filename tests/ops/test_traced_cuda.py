"""The network's and the convolution's operators on a GPU: compiled, exported, after edits of the weights."""

from __future__ import annotations

import pytest
import torch
from i3d_making import WITH_HEAD, make_i3d, random_clip

from fasti3d.ops import conv3d_bn_relu

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_graphs")]


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_compiled_network_follows_its_weights(dtype: torch.dtype, mode: str) -> None:
    """Also where torch captures CUDA graphs, which would replay old ones."""
    model = make_i3d().to("cuda", dtype)
    x = random_clip(*WITH_HEAD).to("cuda", dtype)
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        for _ in range(3):
            for _ in range(3):
                y = compiled(x).clone()
                assert torch.equal(y, model(x))
            assert not any(torch.equal(y, other) for other in seen)
            seen.append(y)
            model.Mixed_3b.b1b.conv3d.weight.mul_(1.5)


def test_an_exported_network() -> None:
    model = make_i3d().to("cuda", torch.float16)
    x = random_clip(*WITH_HEAD).to("cuda", torch.float16)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_compiled_convolution(layout: torch.memory_format) -> None:
    x = torch.randn(2, 16, 5, 6, 7, device="cuda", dtype=torch.float16)
    weight = torch.randn(24, 16, 3, 3, 3, device="cuda", dtype=torch.float16).to(memory_format=layout)
    compiled = torch.compile(conv3d_bn_relu, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(compiled(x, weight), conv3d_bn_relu(x, weight))
            weight.mul_(2)
