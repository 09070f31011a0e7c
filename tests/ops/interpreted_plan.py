"""The GPU's plan of the whole network in Triton's interpreter: run by test_conv3d_triton.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from i3d_making import NARROW, random_clip, randomise
from interpreting import CHIPS, pack, tensor_cores
from tolerances import assert_close
from torch import Tensor

from fasti3d import I3D, network, reference
from fasti3d.engine import layout, steps
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.plan import InGraph, Plan
from fasti3d.inputs import as_floats
from fasti3d.inspect import plan_report
from fasti3d.ops.conv3d_bn_relu import config
from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.ops.i3d_head import op as head_op
from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.pooled_conv3d import launch as pooled_conv_launch
from fasti3d.proof.guard import collected
from fasti3d.runtime import gpu

Triple = tuple[int, int, int]


_tensor_cores = pytest.fixture(autouse=True)(tensor_cores)


def planned(model: I3D, dtype: torch.dtype = torch.float16) -> Plan:
    return Plan(graph_of(model), dtype, torch.device("cpu"))


@pytest.fixture(params=CHIPS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network for a GPU with descriptors or without, whose every kernel is Triton's."""
    # One multiprocessor takes the largest tiles, which the interpreter is fastest with.
    few = CHIPS[request.param]._replace(sms=1)
    for module in (gpu, conv_launch, pool_launch, pooled_conv_launch):
        monkeypatch.setattr(module, "gpu_traits", lambda device: few)
    monkeypatch.setattr(network, "TRUNK", NARROW)
    monkeypatch.setattr(network, "FEATURE_CHANNELS", 96)
    for module in (network, head_op):
        monkeypatch.setattr(module, "HEAD_POOL", (2, 1, 1))

    def pack_for_gpu(
        weight: Tensor, bias: Tensor, stride: Triple, *, relu: bool, dtype: torch.dtype, padding: Any = None
    ) -> PackedConv3d:
        return pack(weight, bias, stride, relu, dtype)

    monkeypatch.setattr(PackedConv3d, "pack", pack_for_gpu)

    def pool(out: Tensor, x: Tensor, kernel: Triple, stride: Triple, padding: Triple | None) -> Tensor:
        if not x.is_meta:
            pool_launch.max_pool3d(x, kernel, stride, out, padding)
        return out

    monkeypatch.setattr(steps, "max_pool3d_into", pool)
    run = layout.Layout.run

    def poisoned(self: layout.Layout, maps: Any, block: Tensor, *rest: Any, **options: Any) -> Any:
        """Memory that is not a number until it is written."""
        return run(self, maps, block.fill_(torch.nan), *rest, **options)

    monkeypatch.setattr(layout.Layout, "run", poisoned)
    return request.param


@pytest.fixture
def model(form: str) -> I3D:
    model = I3D(5).eval()
    randomise(model)
    with torch.no_grad():
        model.logits.conv3d.weight *= 0.1  # a softmax of larger logits amplifies their errors
    return model


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms of the convolutions that were run, and "pooled" for each with a pool in it."""
    found: list[str] = []
    choose, pool = conv_launch.choose, pooled_conv_launch.choose
    monkeypatch.setattr(conv_launch, "choose", lambda p: found.append(choose(p).form) or choose(p))
    monkeypatch.setattr(pooled_conv_launch, "choose", lambda p: found.append("pooled") or pool(p))
    return found


def test_every_endpoint(form: str, model: I3D, seen: list[str]) -> None:
    x = random_clip(1, 3, 16, 32, 32)
    names = list(network.OUTPUTS)
    with torch.no_grad():
        expected = reference.I3D.forward_endpoints(model, x, names)
        actual = planned(model).run(x.half(), set(names), torch.float16)
    assert list(actual) == names
    for name in names:
        assert_close("i3d_half", actual[name], expected[name])
    assert set(seen) == {"pointer", form, "pooled"}
    assert 0 < seen.count("pooled") < 9  # where it pays


@pytest.mark.parametrize("form", ["descriptor"], indirect=True)
def test_every_endpoint_in_float32(
    form: str, model: I3D, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what tensor cores read of a value, three products are as exact as the reference."""
    # Registers do not matter here, and the interpreter is fastest with the largest tiles.
    monkeypatch.setattr(config, "SMALL_DESCRIPTOR_TILES", config.DESCRIPTOR_TILES)
    monkeypatch.setattr(config, "SMALL_POINTER_TILES", config.POINTER_TILES)
    config.choose.cache_clear()
    x = random_clip(1, 3, 9, 32, 32)
    names = list(network.OUTPUTS)
    try:
        with torch.no_grad():
            expected = reference.I3D.forward_endpoints(model, x, names)
            actual = planned(model, torch.float32).run(x, set(names), torch.float32)
    finally:
        config.choose.cache_clear()
    for name in names:
        assert_close("i3d", actual[name], expected[name])
    assert set(seen) == {"pointer", "descriptor", "pooled"}


def test_without_its_kernels_pytorch_s_own_give_the_same(form: str, model: I3D) -> None:
    """All that would be proved first, of a network none of whose kernels is right."""
    x = random_clip(2, 3, 16, 32, 32)
    names = ["Conv3d_1a_7x7", "Mixed_4b", "Logits"]
    with torch.no_grad(), collected() as found:
        expected = reference.I3D.forward_endpoints(model, x, names)
        actual = planned(model).run(x.half(), set(names), torch.float16)
    for name in names:
        assert_close("i3d_half", actual[name], expected[name])
    assert {its.operator for its in found.values()} == {
        "conv3d",
        "conv3d_split",
        "max_pool3d",
        "pooled_conv3d",
    }


def test_bytes_go_to_the_stem(form: str, model: I3D, monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[torch.dtype] = []
    fold = conv_launch._fold
    monkeypatch.setattr(conv_launch, "_fold", lambda x, *rest: folded.append(x.dtype) or fold(x, *rest))
    plan = planned(model)
    x = torch.arange(3 * 3 * 5 * 6).reshape(1, 3, 5, 6, 3).to(torch.uint8).permute(0, 4, 1, 2, 3)
    actual, expected = (
        plan.run(clip, {"Conv3d_1a_7x7"}, torch.float16)["Conv3d_1a_7x7"]
        for clip in (x, as_floats(x, torch.float16))
    )
    assert folded == [torch.uint8, torch.float16]
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(("kind", "wanted"), [("half", "MaxPool3d_2a_3x3"), ("bytes", "Conv3d_1a_7x7")])
def test_what_a_graph_begins_with_is_the_clip_folded(
    form: str, kind: str, wanted: str, model: I3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one launch for all pieces, of a clip that lies in any order; the bits are the same."""
    monkeypatch.setattr(steps, "_GPU_PIECE_BYTES", 1)
    monkeypatch.setattr(steps, "_PIECE_BYTES", 1)
    plan = planned(model)
    x = torch.arange(2 * 9 * 5 * 6 * 3).reshape(2, 9, 5, 6, 3).to(torch.uint8).permute(0, 4, 1, 2, 3)
    if kind == "half":
        x = as_floats(x, torch.float16)[..., 1:]
    expected = plan.compute(x, {wanted}, torch.float16)[wanted]
    inside = InGraph(plan)
    memory = inside.memory(x).fill_(torch.nan)
    inside.enter(x, memory, torch.float16)
    assert memory.isfinite().all()
    monkeypatch.delattr(conv_launch, "_fold")
    found = inside.compute(memory, x.shape, {wanted}, torch.float16, layout.ONE_LANE)[wanted]
    assert torch.equal(found, expected)


def test_joint_steps(form: str, model: I3D, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions and blocks with the pool after them, piece by piece; inside them in one form."""
    pays = form == "pointer"
    monkeypatch.setattr(steps, "pool_pays", lambda *_: pays)
    monkeypatch.setattr(steps, "_PIECE_BYTES", 1)
    x = random_clip(2, 3, 9, 9, 16)
    with torch.no_grad():
        expected = reference.I3D.forward_endpoints(model, x, ["MaxPool3d_4a_3x3"])
        plan = planned(model)
        actual = plan.run(x.half(), {"MaxPool3d_4a_3x3"}, torch.float16)
    assert_close("i3d_half", actual["MaxPool3d_4a_3x3"], expected["MaxPool3d_4a_3x3"])
    parts = [names for names, _ in plan.segments("MaxPool3d_4a_3x3")]
    assert parts[-2:] == [["Mixed_3b"], ["Mixed_3c", "MaxPool3d_4a_3x3"]]
    assert seen.count("pooled") == (2 if pays else 0)


def test_what_the_report_says_of_a_block(form: str, model: I3D, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input is read by one product and one pool, and weights are counted once."""
    report = plan_report.report_plan((2, 3, 16, 200, 200), torch.float16, torch.device("cpu"), 5)
    step = next(step for step in report.steps if step.name == "Mixed_4b")
    assert step.shape == (2, 96, 4, 13, 13)
    read, written = 96 + 24 + 8 + 96, 16 + 24 + 40 + 8 + 16 + 24
    filters = 96 * (16 + 24 + 8 + 24) + 27 * (24 * 40 + 8 * 16)
    assert step.values == 2 * 4 * 13 * 13 * (read + written) + filters
    convs = [conv for name, conv in planned(model).convs().items() if name.startswith("Mixed_4b")]
    assert len(convs) == 4
    biases = 16 + 24 + 40 + 8 + 16 + 24
    assert sum(conv.nbytes for conv in convs) == 2 * filters + 4 * biases
