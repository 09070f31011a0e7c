"""The convolution in graphs of compilers and exporters: one operator, whose packed weights are kept."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, fx, nn

from fasti3d.ops import conv3d_bn_relu
from fasti3d.ops.conv3d_bn_relu import PackedConv3d, graph
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference

OPERATOR = torch.ops.fasti3d.conv3d_bn_relu.default
Triple = tuple[int, int, int]

pytestmark = pytest.mark.usefixtures("no_graphs")


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtype of every packing."""
    seen: list[torch.dtype] = []
    pack = PackedConv3d.pack

    def recorded(*arguments: Any, **options: Any) -> PackedConv3d:
        seen.append(options["dtype"])
        return pack(*arguments, **options)

    monkeypatch.setattr(PackedConv3d, "pack", recorded)
    return seen


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(dtype: torch.dtype = torch.float32, channels: int = 17) -> tuple[Tensor, Tensor, Tensor]:
    weight = random(24, channels, 3, 3, 2, seed=1) / 10
    return random(2, channels, 5, 6, 7).to(dtype), weight.to(dtype), random(24, seed=2).to(dtype)


def test_operator_contract() -> None:
    x, weight, bias = case(channels=5)
    shapes = ("test_schema", "test_faketensor")
    torch.library.opcheck(OPERATOR, (x, weight, None, (1, 1, 1), (1, 0, 2), False), test_utils=shapes)
    tensors = (t.requires_grad_() for t in (x, weight, bias))
    torch.library.opcheck(OPERATOR, (*tensors, (1, 2, 1), None, True))


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [3, 17])
def test_a_compiled_call_gives_what_an_eager_one_gives(channels: int, dtype: torch.dtype) -> None:
    x, weight, bias = case(dtype, channels)
    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.new_zeros(2, 30, 5, 3, 7).contiguous(memory_format=torch.channels_last_3d)
        conv3d_bn_relu(x, weight, None, (1, 2, 1), out=wide[:, 2:26])
        return wide, conv3d_bn_relu(x, weight, bias, relu=False, padding=(0, 1, 1))

    with torch.no_grad():
        for y, expected in zip(torch.compile(both, fullgraph=True, backend=keep)(x), both(x), strict=True):
            assert torch.equal(y, expected)
            assert y.stride() == expected.stride()
    calls = [node.target for node in graphs[0].graph.nodes]
    assert calls.count(torch.ops.fasti3d.conv3d_bn_relu) == 2


def test_sizes_that_change() -> None:
    _, weight, bias = case()

    def chain(x: Tensor) -> Tensor:
        return conv3d_bn_relu(2 * x, weight, bias, (2, 1, 1)).amax(dim=(3, 4)) + 1

    compiled = torch.compile(chain, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for shape in ((2, 17, 5, 6, 7), (3, 17, 8, 9, 5)):
            x = random(*shape)
            assert_close("conv3d", compiled(x), chain(x))


@pytest.mark.parametrize("padding", [None, (1, 0, 2)])
@pytest.mark.parametrize("relu", [True, False])
def test_gradients_are_those_of_the_reference(padding: Triple | None, relu: bool) -> None:
    tensors = [t.requires_grad_() for t in case()]
    x, weight, bias = tensors
    y = OPERATOR(x, weight, bias, (2, 1, 1), padding, relu)
    expected = conv3d_bn_relu_reference(x, weight, bias, (2, 1, 1), relu, padding)
    assert_close("conv3d", y.detach(), expected.detach())
    grad = random(*y.shape, seed=3)
    # Where rounding decides which side of zero a value is on, both are right.
    before = conv3d_bn_relu_reference(x, weight, bias, (2, 1, 1), False, padding)
    grad[before.detach().abs() < 1e-5] = 0
    gradients = [torch.autograd.grad(result, tensors, grad) for result in (y, expected)]
    for actual, exact in zip(*gradients, strict=True):
        assert_close("conv3d_gradient", actual, exact)


def test_gradients_through_a_compiled_call_run_as_plain_pytorch() -> None:
    x, weight, bias = (t.requires_grad_() for t in case())
    y = torch.compile(conv3d_bn_relu, fullgraph=True, backend="aot_eager")(x, weight, bias)
    grad = random(*y.shape, seed=3)
    actual = torch.autograd.grad(y, (x, weight, bias), grad)
    expected = torch.autograd.grad(conv3d_bn_relu(x, weight, bias), (x, weight, bias), grad)
    for a, b in zip(actual, expected, strict=True):
        assert_close("conv3d_gradient", a, b)


def test_vmap_inside_a_compiled_function() -> None:
    x, weight, bias = case()
    mapped = torch.compile(
        torch.vmap(lambda weight: conv3d_bn_relu(x, weight, bias)), fullgraph=True, backend="eager"
    )
    with torch.no_grad():
        y = mapped(torch.stack([weight, 2 * weight]))
        assert_close("conv3d", y[1], conv3d_bn_relu(x, 2 * weight, bias))


def test_weights_are_packed_once_and_again_after_an_edit(packs: list[torch.dtype]) -> None:
    x, weight, bias = case()
    for edit in (lambda: None, lambda: weight.data.mul_(2), lambda: bias.numpy().__iadd__(1)):
        edit()
        expected = conv3d_bn_relu(x, weight, bias)
        packs.clear()
        for _ in range(2):
            assert torch.equal(OPERATOR(x, weight, bias, (1, 1, 1), None, True), expected)
        assert packs == [torch.float32]


def test_what_is_packed_goes_with_the_weight() -> None:
    x, weight, bias = case()
    gc.collect()
    before = len(graph._packed)
    OPERATOR(x, weight, bias, (1, 1, 1), None, True)
    assert len(graph._packed) == before + 1
    del weight
    gc.collect()
    assert len(graph._packed) == before


def test_exports_with_gradients() -> None:
    _, weight, bias = case()

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x: Tensor) -> Tensor:
            return conv3d_bn_relu(x, self.weight, bias)

    x = random(2, 17, 5, 6, 7)
    layer = Layer()
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [OPERATOR]
    module, clips = program.module(), random(3, 17, 5, 6, 7)
    for run in (module, layer):
        run(clips).square().sum().backward()
    assert_close("conv3d_gradient", module.weight.grad, layer.weight.grad)
