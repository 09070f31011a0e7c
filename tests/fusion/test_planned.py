"""Fused networks as one plan: what is taken, that the network's own order of reading and writing holds, and
when calls run one by one.
"""

from __future__ import annotations

import copy
import operator
import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

import fasti3d
from benchmarks.residual import r2plus1d, r3d, randomise
from fasti3d.engine.graph import Add, Concat, Conv, ConvPool, Head, Norm, Opaque, Pool, Relu
from fasti3d.engine.replay import replay
from fasti3d.fusion.planned import Planned, graph_of
from fasti3d.fusion.runs import Run
from fasti3d.runtime import extension

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="plans need the compiled extension")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clip(seed: int = 0, channels: int = 16) -> Tensor:
    return random(2, channels, 3, 6, 5, seed=seed)


class Wired(nn.Module):
    """Layers that are called as ``wire`` says."""

    def __init__(self, wire: Callable[[Any, Tensor], Any], channels: int = 16) -> None:
        super().__init__()
        self.wire = wire
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv3d(channels if i == 0 else 16, 16, 3, padding=1))
        self.bn, self.relu = nn.BatchNorm3d(16), nn.ReLU()
        self.relu_ = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv3d(16, 16, 3, padding=1, groups=16, bias=False)
        self.pool = nn.MaxPool3d(3, 2, 1)
        self.act, self.drop = nn.SiLU(inplace=True), nn.Dropout3d()
        self.fc, self.mean = nn.Linear(16, 7), nn.AdaptiveAvgPool3d(1)

    def forward(self, x: Tensor) -> Any:
        return self.wire(self, x)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The plans that ran."""
    found: list[Run] = []
    original = Run.__call__

    def noted(self: Run, x: Tensor) -> Any:
        found.append(self)
        return original(self, x)

    monkeypatch.setattr(Run, "__call__", noted)
    return found


def run(module: nn.Module, x: Any) -> Any:
    with torch.no_grad():
        return module(x)


def kinds(made: Run) -> Counter[type]:
    return Counter(type(placed.step.node) for placed in made.layout.steps)


def assert_same(found: Any, expected: Any) -> None:
    """The same structure of tensors in float32, within the rounding of other orders of summation."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        if expected.is_floating_point():
            assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
        else:
            assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == expected


def set_first(x: Tensor) -> Tensor:
    x[:, :1] = 0
    return x


# What torch is left with, of a network that runs as one plan.
WIRES: dict[str, tuple[Callable[[Any, Tensor], Any], dict[type, int]]] = {
    "residual": (lambda m, x: m.relu_(m.bn(m.conv1(y := m.conv0(x))) + y), {}),
    "residual first": (lambda m, x: F.relu((y := m.conv0(x)) + m.bn(m.conv1(y))), {}),
    "both fresh": (lambda m, x: torch.relu(m.conv1(x) + m.conv2(x)), {}),
    "x + conv(x)": (lambda m, x: x + m.conv1(m.conv0(x)), {}),
    "in place": (lambda m, x: m.conv1(y := m.conv0(x)).add_(y).relu_(), {}),
    "three terms": (lambda m, x: m.conv1(x) + m.conv2(x) + m.conv3(x), {}),
    "operator.iadd": (lambda m, x: operator.iadd(m.conv1(x), m.conv2(x)), {}),
    "torch.add": (lambda m, x: torch.add(m.conv1(x), m.conv2(x), alpha=1), {}),
    "a result read twice": (lambda m, x: m.relu(y := m.conv1(x)) + y, {Relu: 1, Add: 1}),
    "a sum read twice": (lambda m, x: m.conv2(y := m.conv0(x) + m.conv1(x)) + y, {}),
    "x + x": (lambda m, x: (y := m.conv1(x)) + m.conv2(y + y), {Add: 1}),
    "one layer twice": (lambda m, x: m.conv1(m.conv1(x)), {}),
    "shared weights": (lambda m, x: m.relu(m.conv1(x)) + m.conv1(m.conv0(x)), {}),
    "relu before and after": (lambda m, x: F.relu(m.relu(m.conv1(x)) + m.relu(m.conv2(x))), {Add: 1}),
    "relu of the clip": (lambda m, x: m.conv1(m.relu(x)) + x, {Relu: 1}),
    "batch norm of the clip": (lambda m, x: m.conv1(m.bn(x)), {Norm: 1}),
    "alpha": (lambda m, x: torch.add(m.conv1(x), m.conv2(x), alpha=2), {Opaque: 1}),
    "a broadcast": (lambda m, x: m.conv1(x) + m.conv2(x).mean(dim=2, keepdim=True), {Opaque: 2}),
    "a number": (lambda m, x: m.conv2(m.conv1(x) + 1), {Opaque: 2}),
    "pools": (lambda m, x: F.max_pool3d(m.pool(m.conv0(x)), (1, 2, 2), padding=(0, 1, 1)), {}),
    "depthwise": (lambda m, x: m.relu(m.bn(m.depthwise(m.conv0(x)))) + x, {Add: 1}),
    "a sum after depthwise": (lambda m, x: F.relu(m.bn(m.depthwise(y := m.conv0(x))) + y), {Add: 1}),
    "ceil mode": (lambda m, x: F.max_pool3d(m.conv1(m.conv0(x)), 2, ceil_mode=True), {Opaque: 1}),
    "concatenation": (lambda m, x: m.conv2(torch.cat((m.conv0(x), x), 1)[:, 8:24]), {Concat: 1, Opaque: 2}),
    "one map twice": (lambda m, x: torch.cat([y := m.conv1(x), y, m.conv2(y)], dim=1), {Concat: 1}),
    "concatenation over time": (lambda m, x: m.conv2(torch.cat([m.conv0(x), x], dim=2)), {Opaque: 2}),
    "dropout": (lambda m, x: m.relu(m.drop(m.conv1(F.dropout(x, 0.5, m.training)))), {}),
    "a head": (lambda m, x: m.fc(m.drop(m.mean(m.relu(m.conv1(x)))).flatten(1)), {Head: 1}),
    "a head of its own shape": (
        lambda m, x: m.fc(m.conv1(x).mean([-1, -2, -3]).view(x.size(0), -1)),
        {Head: 1},
    ),
    "a head over its window": (
        lambda m, x: m.fc(F.avg_pool3d(m.conv1(m.conv0(x)), (3, 6, 5), 1).squeeze(4).flatten(1)),
        {Head: 1},
    ),
    "features and scores": (
        lambda m, x: (m.fc(y := F.adaptive_avg_pool3d(m.conv1(m.conv0(x)), 1).flatten(1)), y),
        {Head: 2, Opaque: 2},
    ),
    "scores read again": (lambda m, x: m.fc(m.mean(m.conv1(x) + x).flatten(1)).relu_(), {Head: 1, Opaque: 1}),
    "averages of a part": (
        lambda m, x: m.fc(F.avg_pool3d(m.conv1(x) + x, (2, 6, 5)).flatten(1)),
        {Opaque: 3},
    ),
    "averages transposed": (
        lambda m, x: m.fc(m.mean(m.conv1(x) + x).flatten(1).t().t()),
        {Head: 1, Opaque: 5},
    ),
    "squeeze and excite": (
        lambda m, x: (y := m.conv1(m.conv0(x))) * torch.sigmoid(y.mean((2, 3, 4), keepdim=True)),
        {Head: 1, Opaque: 3},
    ),
    "another activation in place": (lambda m, x: m.conv1(m.act(m.conv0(x))), {Opaque: 2}),
    "a slice set": (lambda m, x: m.conv1(set_first(m.conv0(x))), {Opaque: 2}),
    "multiplied in place": (lambda m, x: m.conv1(m.conv0(x).mul_(0.5)) + 0 * x, {Opaque: 4}),
    "another's view": (lambda m, x: m.conv1(m.conv0(x)).flatten(2), {Opaque: 1}),
    "many results": (
        lambda m, x: {"a": (y := m.conv0(x)), "b": [m.conv1(y), y.shape[2], None], "c": (y[:, :1], x)},
        {Opaque: 3},
    ),
}


@pytest.mark.parametrize("name", WIRES)
def test_what_is_planned_is_what_the_network_computes(name: str, runs: list[Run]) -> None:
    wire, left = WIRES[name]
    module = randomise(Wired(wire))
    fused, x = fasti3d.fuse(module), clip()
    before = x.clone()
    found = run(fused, x)
    assert len(runs) == 1
    assert_same(found, run(module, x))
    assert torch.equal(x, before)
    counts = kinds(runs[0])
    assert {kind: n for kind, n in counts.items() if kind not in (Conv, ConvPool, Pool)} == left
    assert_same(run(fused, x), found)


# In which order things are written and read matters here: calls run one by one.
ORDERED: dict[str, Callable[[Any, Tensor], Any]] = {
    "the clip": lambda m, x: m.conv1(m.relu_(x)),
    "the clip by another name": lambda m, x: m.conv1(m.conv0(m.drop(x).add_(1))),
    "a view of the clip": lambda m, x: m.conv1(m.conv0(x)) + x[:, :, :].mul_(2),
    "a map through its view": lambda m, x: ((y := m.conv0(x))[:, :1].zero_(), m.conv1(y))[1],
    "a map whose view is read": lambda m, x: ((y := m.conv0(x)), v := y[:, :1], m.relu_(y), m.conv1(y) + v)[
        3
    ],
    "a weight": lambda m, x: m.conv1(m.conv0(x)) + m.bn.weight.mul_(2)[0],
}


@pytest.mark.parametrize("name", ORDERED)
def test_what_writes_where_others_read_runs_one_by_one(name: str, runs: list[Run]) -> None:
    module = randomise(Wired(ORDERED[name]))
    fused, x, y = fasti3d.fuse(module), clip(), clip()
    expected = run(module, x)
    assert_same(run(fused, y), expected)
    assert runs == []
    assert torch.equal(x, y)  # written by both


def test_what_is_written_is_seen_by_all_its_names(runs: list[Run]) -> None:
    def wire(m: Any, x: Tensor) -> Any:
        y = m.conv0(x)
        z = m.drop(y)  # the same tensor
        m.relu_(z)
        first = m.conv1(y)
        z += first
        return y, m.conv2(z)

    module = randomise(Wired(wire))
    assert_same(run(fasti3d.fuse(module), clip()), run(module, clip()))
    assert len(runs) == 1


@pytest.mark.parametrize("make", [r3d, r2plus1d])
def test_nothing_is_left_of_a_residual_network(make: Any, runs: list[Run]) -> None:
    module = randomise(make((16, 24, 32, 48), 10))
    fused, x = fasti3d.fuse(module), random(1, 3, 8, 32, 32)
    expected = run(module, x)
    run(fused, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = run(fused, x)
    names = {event.key for event in profile.key_averages()}
    assert names.isdisjoint(
        f"aten::{name}" for name in ("add", "add_", "relu", "relu_", "clamp_min", "batch_norm")
    )
    assert len(runs) == 2
    assert set(kinds(runs[0])) == {Conv, Head}
    assert_close("fused_network", found, expected)


def test_clips_of_other_shapes_and_layouts(runs: list[Run]) -> None:
    module = randomise(Wired(lambda m, x: m.relu(m.conv1(y := m.conv0(x)) + y).flatten(1).sum(1)))
    fused = fasti3d.fuse(module)
    layout = torch.channels_last_3d
    for x in (clip(), random(1, 16, 4, 5, 7), clip().contiguous(memory_format=layout), clip()[:, :, ::2]):
        assert_same(run(fused, x), run(module, x))
    assert len({id(made.plan) for made in runs}) == 1
    assert len(runs) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    wire = WIRES["squeeze and excite"][0]
    module = randomise(Wired(lambda m, x: (y := wire(m, x), m.relu(m.conv3(y) + y), y.argmax(1)))).to(dtype)
    x = clip().to(dtype)
    first, second, third = run(fasti3d.fuse(module), x)
    assert (first.dtype, second.dtype, third.dtype) == (dtype, dtype, torch.int64)
    wide = copy.deepcopy(module).double()
    expected = run(wide, x.double())
    assert_close("fused_network", first, expected[0])
    assert_close("fused_network", second, expected[1])


def residual() -> Wired:
    return randomise(Wired(lambda m, x: m.relu(m.conv1(y := m.conv0(x)) + y)))


def test_weights_that_change_are_followed(runs: list[Run]) -> None:
    fused, x = fasti3d.fuse(residual()), clip()
    run(fused, x)
    with torch.no_grad():
        fused.conv1.folded_weight.mul_(0.5)
    assert_same(run(fused, x), type(fused).forward(fused, x))
    fused.conv0.folded_bias = torch.ones(16)
    assert_same(run(fused, x), type(fused).forward(fused, x))
    fused.load_state_dict(fasti3d.fuse(randomise(residual(), 1)).state_dict())
    assert_same(run(fused, x), type(fused).forward(fused, x))
    assert len(runs) == 4
    half = fused.bfloat16()
    assert run(half, x.bfloat16()).dtype == torch.bfloat16


def test_what_torch_runs_reads_its_weights_as_they_are(runs: list[Run]) -> None:
    module = randomise(Wired(lambda m, x: m.fc(m.conv1(m.conv0(x)).mean((2, 3, 4))) + m.fc.bias))
    fused, x = fasti3d.fuse(module), clip()
    run(fused, x)
    for network in (module, fused):
        network.fc.weight.mul_(2)
        network.fc.bias = nn.Parameter(torch.ones(7), requires_grad=False)
    assert_same(run(fused, x), run(module, x))
    assert len(runs) == 2


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a hook": lambda m: m.conv1.register_forward_hook(lambda module, args, y: y + 1),
    "a hook of what torch runs": lambda m: m.act.register_forward_pre_hook(
        lambda module, args: (args[0] + 1,)
    ),
    "another layer": lambda m: setattr(m, "relu", nn.Tanh()),
    "no layer": lambda m: setattr(m, "conv0", nn.Identity()),
    "a forward": lambda m: setattr(m.relu, "forward", torch.tanh),
    "an attribute": lambda m: setattr(m, "steps", 2),
    "inside a list": lambda m: m.scales.append(3.0),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("when", ["fused", "run", "copied"])
def test_a_network_that_changed_runs_as_it_is(name: str, when: str) -> None:
    def wire(m: Any, x: Tensor) -> Tensor:
        for _ in range(m.steps):
            x = m.relu(m.conv1(y := m.conv0(x)) + y)
        return m.act(x) * sum(m.scales)

    module = Wired(wire)
    module.steps, module.scales = 1, [1.0]
    fused, x = fasti3d.fuse(randomise(module)), clip()
    if when != "fused":
        run(fused, x)
    if when == "copied":
        fused = pickle_or_copy(fused)
    CHANGES[name](fused)
    assert_same(run(fused, x), type(fused).forward(fused, x))


def pickle_or_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)


def test_copies_and_pickles_are_planned_too(runs: list[Run]) -> None:
    fused, x = fasti3d.fuse(randomise(r3d((16, 24), 10))), random(1, 3, 4, 16, 16)
    empty = len(pickle.dumps(fused))
    expected = run(fused, x)
    assert len(pickle.dumps(fused)) == empty
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(run(other, x), expected)
        assert runs[-1].plan is not runs[0].plan
        other.stem[0].folded_bias.add_(1)
        assert not torch.equal(run(other, x), expected)
    assert torch.equal(run(fused, x), expected)
    assert len(runs) == 6


def test_the_rest_of_a_network_is_planned_where_a_part_cannot_be(runs: list[Run]) -> None:
    fused = fasti3d.fuse(randomise(r3d((16, 24), 10)))
    x, seen = random(1, 3, 4, 16, 16), []
    expected = run(fused, x)
    assert vars(fused)["forward"].why_not() == ""
    fused.stages[1].register_forward_hook(lambda module, args, y: seen.append(y.shape))
    assert_same(run(fused, x), expected)
    assert len(seen) == 1
    assert "hooks" in vars(fused)["forward"].why_not()
    assert len(runs) == 3  # all, and then each stage


@pytest.mark.parametrize("gradients", ["clip", "layer"])
def test_gradients_are_taken(gradients: str, runs: list[Run]) -> None:
    module = randomise(Wired(lambda m, x: m.fc(m.conv1(m.conv0(x)).mean((2, 3, 4)))))
    fused, x = fasti3d.fuse(module), clip()
    asked = x if gradients == "clip" else fused.fc.weight
    asked.requires_grad_()
    fused(x).square().sum().backward()
    assert asked.grad is not None
    assert runs == []
    assert not run(fused, x).requires_grad
    assert len(runs) == 1


def test_values_that_are_not_finite_spread_no_further_than_in_torch() -> None:
    """Nor where what torch runs hides them."""
    module = randomise(Wired(lambda m, x: torch.nan_to_num(m.relu(m.conv1(y := m.conv0(x)) + y), nan=-1)))
    fused, x = fasti3d.fuse(module), random(1, 16, 13, 9, 9)
    x[0, 2, 4, 3, 3] = float("nan")
    expected = run(module, x)
    assert 0 < (expected == -1).sum() < expected.numel() / 4
    assert torch.equal(run(fused, x) == -1, expected == -1)
    assert_close("conv3d", run(fused, x), expected)


@pytest.mark.usefixtures("no_graphs")
def test_compilers_exporters_and_transformations_see_operators() -> None:
    module = residual()
    fused, x = fasti3d.fuse(module), clip()
    expected = run(fused, x)
    with torch.no_grad():
        assert_same(torch.compile(fused, backend="eager", fullgraph=True)(x), expected)
        assert_same(torch.export.export(fused, (x,)).module()(x), expected)
        assert_same(torch.vmap(fused)(x[None])[0], expected)
        assert_same(torch.jit.trace(fused, x)(x), expected)
    with torch.inference_mode():
        assert_same(fused(x), expected)
        assert_same(fused(x=x), expected)


def test_threads_share_plans_that_change(runs: list[Run]) -> None:
    fused = fasti3d.fuse(residual())
    clips = [random(1, 16, 3, 5, 5 + i, seed=i) for i in range(4)]
    expected = [run(copy.deepcopy(fused), x) for x in clips]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: torch.equal(run(fused, clips[i % 4]), expected[i % 4]), range(24)))
    assert len(runs) == 28


def test_results_are_the_callers_own() -> None:
    module = randomise(Wired(lambda m, x: (y := m.conv1(m.conv0(x)), y[:, :1], y.flatten(2), x[:, :1])))
    fused = fasti3d.fuse(module)
    first = run(fused, clip(0))
    kept = copy.deepcopy(first)
    run(fused, clip(1))
    assert_same(first, kept)
    assert all(y.untyped_storage().nbytes() <= 4 * clip().nbytes for y in first)


def test_side_effects_of_a_forward_are_kept(runs: list[Run]) -> None:
    def keeping(m: Any, x: Tensor) -> Tensor:
        m.kept = m.conv0(x)
        return m.conv1(m.kept)

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x)
            return x

    fused, x = fasti3d.fuse(randomise(Wired(keeping))), clip()
    run(fused, x)
    assert_same(fused.conv1(fused.kept), run(fused, x))
    module = Wired(lambda m, x: m.conv1(m.probe(m.conv0(x))))
    module.probe = Probe()
    fused = fasti3d.fuse(randomise(module))
    run(fused, x)
    assert len(fused.probe.seen) == 1
    assert_same(fused.probe.seen[0], fused.conv0(x))
    assert runs == []


def test_parts_that_branch_on_shapes_run_inside_a_plan(runs: list[Run]) -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sigmoid() if x.shape[2] > 3 else x.tanh()

    module = Wired(lambda m, x: m.conv1(m.gate(m.conv0(x))))
    module.gate = Gate()
    fused = fasti3d.fuse(randomise(module))
    for x in (clip(), random(1, 16, 5, 4, 4)):
        assert_same(run(fused, x), run(module, x))
    assert [kinds(made)[Opaque] for made in runs] == [2, 2]


def test_a_fused_part_in_a_new_network_is_planned_with_it(runs: list[Run]) -> None:
    inner = fasti3d.fuse(residual())
    assert isinstance(vars(inner)["forward"], Planned)
    module = nn.Sequential(inner, nn.Conv3d(16, 16, 1), nn.ReLU()).eval().requires_grad_(False)
    fused = fasti3d.fuse(module)
    assert_same(run(fused, clip()), run(module, clip()))
    assert [kinds(made)[Conv] for made in runs] == [3, 2]


@pytest.mark.parametrize("bad", [clip(channels=8), random(16, 3, 4, 4), clip().double(), clip().to("meta")])
def test_clips_that_do_not_fit_raise_what_the_layer_raises(bad: Tensor) -> None:
    fused = fasti3d.fuse(residual())
    with pytest.raises(ValueError) as expected:
        type(fused).forward(fused, bad)
    with pytest.raises(ValueError, match="x "):
        fused(bad)
    assert expected


def test_empty_batches_and_two_arguments(runs: list[Run]) -> None:
    fused = fasti3d.fuse(residual())
    assert run(fused, clip()[:0]).shape == (0, 16, 3, 6, 5)

    class Two(Wired):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return self.conv1(self.conv0(x)) + (x if y is None else y)

    two = fasti3d.fuse(randomise(Two(lambda m, x: x)))
    assert_same(run(two, clip()), two.conv1(two.conv0(clip())) + clip())
    assert_same(two(clip(), clip(1)), two.conv1(two.conv0(clip())) + clip(1))
    assert runs == []


@pytest.mark.parametrize("fused", [False, True])
def test_the_graph_of_a_network(fused: bool) -> None:
    module = randomise(r3d((16, 24), 10))
    lowered, why = graph_of(fasti3d.fuse(module) if fused else module, (1, 3, 4, 16, 16))
    assert why == ""
    assert lowered is not None
    counts = Counter(type(node) for node in lowered.graph.nodes)
    assert counts == {Conv: 10, Add: 4, Relu: 4, Head: 1} | ({} if fused else {Norm: 10, Relu: 9})
    assert [node.name for node in lowered.graph.nodes][:3] == (
        ["stem.0", "stages.0.0.conv1", "stages.0.0.conv2"] if fused else ["stem.0", "stem.1", "stem.2"]
    )
    x = random(1, 3, 4, 16, 16)
    (y,) = replay(lowered.graph, x).values()
    assert_close("fused_network", y, run(module, x))
    branching = Wired(lambda m, x: m.conv0(x) if x.sum() else x)
    assert graph_of(branching.eval(), (1, 16, 4, 4, 4)) == (None, mock.ANY)
