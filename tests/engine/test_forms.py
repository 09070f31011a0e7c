"""Eager, compiled, exported and differentiable forms round alike, in each dtype and under autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product

import pytest
import torch
from i3d_making import SMALL, make_i3d, random_clip
from tolerances import assert_close
from torch import Tensor, nn

import fasti3d
from benchmarks.residual import randomise
from fasti3d.network import TRUNK
from fasti3d.ops import conv3d_bn_relu
from fasti3d.ops.i3d_head.op import i3d_head
from fasti3d.runtime import route as routing

pytestmark = [pytest.mark.isa, pytest.mark.usefixtures("no_graphs")]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)
# The dtype of the weights, and that of autocast.
MODES = [(dtype, autocast) for dtype, autocast in product(FLOATS, (None, *HALVES)) if dtype != autocast]
Forms = dict[str, Tensor]


def autocast_to(dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)


def forms(module: nn.Module, x: Tensor) -> tuple[Tensor, Forms, Tensor]:
    """What a module gives in eager mode, in graphs, and where a gradient is asked for in eager mode."""
    graphs: Forms = {}
    with torch.no_grad():
        eager = module(x)
        graphs["compiled"] = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
        graphs["exported"] = torch.export.export(module, (x,)).module()(x)
    with_gradients = x.clone().requires_grad_()
    plain = module(with_gradients)
    assert plain.requires_grad
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(with_gradients)
    graphs["compiled with gradients"] = compiled.detach()
    compiled.float().sum().backward()
    assert with_gradients.grad.dtype == x.dtype
    return eager, graphs, plain.detach()


def assert_one_rounding(results: tuple[Tensor, Forms, Tensor], dtype: torch.dtype) -> None:
    eager, graphs, plain = results
    assert eager.dtype == dtype
    for form, y in graphs.items():
        assert y.dtype == dtype, form
        assert torch.equal(y, eager), form
    assert plain.dtype == dtype
    assert_close("conv3d_forms", plain, eager)


@pytest.mark.parametrize(("dtype", "autocast"), MODES, ids=str)
@pytest.mark.parametrize("channels", [3, 24])
def test_fused_layers(channels: int, dtype: torch.dtype, autocast: torch.dtype | None) -> None:
    layers = nn.Sequential(nn.Conv3d(channels, 17, 3, padding=1), nn.BatchNorm3d(17), nn.ReLU())
    layer = fasti3d.fuse(randomise(layers).to(dtype))[0]
    x = random_clip(1, channels, 5, 6, 7).to(dtype)
    with autocast_to(autocast):
        results = forms(layer, x)
        assert_one_rounding(results, autocast or dtype)
        # As if the clip had been rounded before.
        assert torch.equal(layer(x.to(autocast or dtype)), results[0])


class Layer(nn.Module):
    """The function, with the weights as buffers."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return conv3d_bn_relu(x, self.weight, None, (2, 1, 1))


@pytest.mark.parametrize(("dtype", "autocast"), MODES, ids=str)
def test_the_function_returns_the_clip_s_dtype_whatever_autocast_says(
    dtype: torch.dtype, autocast: torch.dtype | None
) -> None:
    layer, x = Layer(random_clip(17, 16, 3, 3, 3) / 10), random_clip(1, 16, 5, 6, 7).to(dtype)
    expected = layer(x)
    with autocast_to(autocast):
        results = forms(layer, x)
    assert_one_rounding(results, dtype)
    assert torch.equal(results[0], expected)


class Stem(nn.Module):
    """The first parts of the network, which is quicker to make ready than all of it."""

    END = "Conv3d_2b_1x1"

    def __init__(self) -> None:
        super().__init__()
        self.model = make_i3d()
        for name in (*list(TRUNK)[list(TRUNK).index(self.END) + 1 :], "logits"):
            delattr(self.model, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_endpoints(x, (self.END,))[self.END]


@pytest.mark.parametrize(("dtype", "autocast"), MODES, ids=str)
def test_the_network(dtype: torch.dtype, autocast: torch.dtype | None) -> None:
    stem, x = Stem().to(dtype), random_clip(*SMALL).to(dtype)
    rounded = autocast or dtype
    with torch.no_grad(), autocast_to(autocast):
        eager = stem(x)
        assert eager.dtype == rounded
        assert torch.equal(torch.compile(stem, fullgraph=True, backend="aot_eager")(x), eager)
        assert torch.equal(torch.export.export(stem, (x,)).module()(x), eager)
        assert torch.equal(stem(x.to(rounded)), eager)


def test_the_head_is_float32_whatever_autocast_says() -> None:
    x, weight, bias = random_clip(1, 8, 2, 7, 7), random_clip(5, 8), random_clip(5)
    expected = i3d_head(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, i3d_head(x, weight, bias), expected))


def test_transformations_inside_and_outside_of_compiled_functions() -> None:
    layer = Layer(random_clip(17, 16, 3, 3, 3) / 10)
    clips = random_clip(2, 1, 16, 5, 6, 7).half()
    with torch.no_grad():
        expected = torch.stack([layer(x) for x in clips])
        for mapped in (torch.vmap(layer), torch.compile(torch.vmap(layer), fullgraph=True, backend="eager")):
            assert_close("conv3d_forms", mapped(clips), expected)


def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing.extension, "CORE", None)


def as_built(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize("build", [as_built, without_extension])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64], ids=str)
def test_one_place_decides(
    build: Callable[[pytest.MonkeyPatch], None], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(monkeypatch)
    cpu = torch.device("cpu")
    chosen = routing.route(cpu, dtype)
    assert routing.compute_dtype(cpu, dtype) == chosen.compute_dtype
    # What is computed in a dtype is computed in that one.
    assert routing.route(cpu, chosen.compute_dtype).compute_dtype == chosen.compute_dtype
    assert routing.has_kernel(cpu, chosen.compute_dtype) == (chosen.path != "reference")
    if dtype == torch.float16:
        assert chosen.compute_dtype == torch.float32
    if dtype not in FLOATS:
        return
    layer, x = Layer(random_clip(17, 16, 3, 3, 3) / 10), random_clip(1, 16, 5, 6, 7).to(dtype)
    with torch.no_grad():
        y = layer(x)
        exact = torch.relu(nn.functional.conv3d(x.double(), layer.weight.double(), None, (2, 1, 1), 1))
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x), y)
    assert_close("conv3d", y, exact)
