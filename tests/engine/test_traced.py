"""The network in graphs of torch.compile and torch.export: one operator, which runs the fused path."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from i3d_making import SMALL, WITH_HEAD, assert_maps_close, make_i3d, ordinary, random_clip
from tolerances import assert_close
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.func import functional_call

from fasti3d import I3D, compat, network
from fasti3d.engine import graph_op
from fasti3d.engine.describe.inception import describe
from fasti3d.engine.plan import Plan

FEATURES = "Mixed_5c"
OPERATOR = torch.ops.fasti3d.planned.default

pytestmark = pytest.mark.usefixtures("short", "no_graphs")


@pytest.fixture
def graphs() -> list[fx.GraphModule]:
    """What ``compiled`` compiles to."""
    return []


@pytest.fixture
def compiled(graphs: list[fx.GraphModule]) -> Callable[..., Any]:
    """torch.compile, which fails where more than one graph is needed, and runs the graph as it is."""

    def keep(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    return lambda function, **options: torch.compile(function, fullgraph=True, backend=keep, **options)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The compute dtype of every plan that is made."""
    made: list[torch.dtype] = []
    make = Plan.__init__

    def recorded(self: Plan, graph: Any, dtype: torch.dtype, device: torch.device) -> None:
        made.append(dtype)
        make(self, graph, dtype, device)

    monkeypatch.setattr(Plan, "__init__", recorded)
    return made


class Maps(nn.Module):
    """Some endpoints of a network, as a module for torch.export."""

    def __init__(self, model: I3D, *names: str) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.model.forward_endpoints(x, self.names)


def operators(graph: fx.GraphModule) -> list[Any]:
    """What a graph calls with its values, without the reading of lists."""
    calls = [node.target for node in graph.graph.nodes if node.op in ("call_function", "call_method")]
    return [target for target in calls if target is not getitem]


def holds_operator(graph: fx.GraphModule) -> bool:
    return any(str(target).startswith("fasti3d.planned") for target in operators(graph))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_compiled_network_is_one_operator(
    model: I3D, mode: Callable[[], Any], compiled: Callable[..., Any], graphs: list[Any], runs: list[Any]
) -> None:
    x = random_clip(*WITH_HEAD)
    network = compiled(model)
    with mode():
        expected = model(x)
        runs.clear()
        y = network(x)
        assert runs == [torch.float32]
    (graph,) = graphs
    assert list(map(str, operators(graph))) == ["fasti3d.planned"]
    assert torch.equal(y, expected)


def test_inductor_runs_it_with_the_results_and_layouts_of_eager_mode(model: I3D, runs: list[Any]) -> None:
    names = ("Conv3d_1a_7x7", "MaxPool3d_3a_3x3", "Mixed_4b", FEATURES)
    x = random_clip(*SMALL)
    network = Maps(model, *names)
    with torch.no_grad():
        expected = network(x)
        runs.clear()
        maps = torch.compile(network, fullgraph=True)(x)
    assert len(runs) == 1
    assert list(maps) == list(names)
    for name in names:
        assert torch.equal(maps[name], expected[name])
        assert maps[name].stride() == expected[name].stride()


def test_sizes_may_change_without_a_new_graph(
    model: I3D, compiled: Callable[..., Any], graphs: list[Any]
) -> None:
    features = compiled(model.forward_features, dynamic=True)
    with torch.no_grad():
        for shape in ((2, 3, 9, 33, 40), (3, 3, 20, 41, 65)):
            x = random_clip(*shape)
            assert torch.equal(features(x), model.forward_features(x))
    assert len(graphs) == 1


def test_edits_are_followed_and_plans_kept(
    compiled: Callable[..., Any], graphs: list[Any], plans: list[torch.dtype]
) -> None:
    model = make_i3d()
    x = random_clip(*SMALL)
    features = compiled(model.forward_features)
    seen: list[Tensor] = []
    edits: list[Callable[[], object]] = [
        lambda: None,
        lambda: model.Mixed_3b.b1b.conv3d.weight.data.mul_(1.5),
        lambda: model.Conv3d_1a_7x7.bn.running_var.mul_(2),
        lambda: model.Mixed_5c.b3b.bn.bias.detach().numpy().__iadd__(1),
        lambda: model.load_state_dict(make_i3d(seed=1).state_dict()),
    ]
    with torch.no_grad():
        for edit in edits:
            edit()
            y = features(x)
            assert_close("i3d", y, ordinary(model, x, FEATURES)[FEATURES])
            assert torch.equal(features(x), y)
            assert not any(torch.equal(y, other) for other in seen)
            seen.append(y)
    assert len(plans) == len(edits)
    assert len(graphs) == 1


def test_plans_go_with_the_network(compiled: Callable[..., Any], graphs: list[Any]) -> None:
    model = make_i3d()
    gc.collect()
    before = len(graph_op._plans)
    program = torch.export.export(Maps(model, "Mixed_3b"), (random_clip(*SMALL),)).module()
    with torch.no_grad():
        program(random_clip(*SMALL))
    assert len(graph_op._plans) == before + 1
    del model, program
    gc.collect()
    assert len(graph_op._plans) == before


@pytest.mark.isa
def test_autocast(model: I3D, compiled: Callable[..., Any]) -> None:
    x = random_clip(*SMALL)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = compiled(model.forward_features)(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, model.forward_features(x))


@pytest.mark.isa
def test_half_precision(compiled: Callable[..., Any]) -> None:
    model, x = make_i3d().half(), random_clip(*SMALL).half()
    with torch.no_grad():
        assert torch.equal(compiled(model.forward_features)(x), model.forward_features(x))


def with_hook(model: I3D) -> None:
    model.Mixed_3b.b0.register_forward_hook(lambda *args: args[-1] * 0)


ORDINARY: dict[str, Callable[[I3D], object]] = {
    "gradients": lambda m: m.requires_grad_(),
    "a part in training mode": lambda m: m.dropout.train(),
    "a hook": with_hook,
    "a replaced part": lambda m: setattr(m, "MaxPool3d_2a_3x3", nn.Identity()),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_what_needs_the_ordinary_path_gets_it(
    what: str, compiled: Callable[..., Any], graphs: list[Any], runs: list[Any]
) -> None:
    model = make_i3d().requires_grad_(False)
    ORDINARY[what](model)
    x = random_clip(*SMALL)
    with torch.set_grad_enabled(what == "gradients"):
        y = compiled(Maps(model, "Mixed_3b"))(x)
    assert y["Mixed_3b"].requires_grad == (what == "gradients")
    assert_maps_close(y, ordinary(model, x, "Mixed_3b"))
    assert not holds_operator(graphs[0])
    assert runs == []


def test_function_transforms_inside_a_compiled_function(
    model: I3D, compiled: Callable[..., Any], runs: list[Any]
) -> None:
    """Over clips, and over the weights of two networks."""
    clips, stem = random_clip(2, *SMALL), Maps(model, "Conv3d_1a_7x7")
    weight = model.Conv3d_1a_7x7.conv3d.weight
    both = {"model.Conv3d_1a_7x7.conv3d.weight": torch.stack([weight, 2 * weight]).detach()}
    with torch.no_grad():
        maps = compiled(lambda x: torch.vmap(lambda x: model.forward_endpoints(x, ["Mixed_3b"]))(x))(clips)
        assert_maps_close({k: v[1] for k, v in maps.items()}, ordinary(model, clips[1], "Mixed_3b"))

        def ensemble(x: Tensor) -> dict[str, Tensor]:
            return torch.vmap(lambda weights: functional_call(stem, weights, (x,)))(both)

        assert_maps_close(compiled(ensemble)(clips[0]), ensemble(clips[0]))
    assert runs == []


def test_weights_that_the_graph_computes(compiled: Callable[..., Any], runs: list[Any]) -> None:
    """As an average of two networks does."""
    model, other = make_i3d(), make_i3d(seed=1)
    theirs = dict(other.named_parameters()) | dict(other.named_buffers())

    def average(x: Tensor, share: Tensor) -> Tensor:
        weights = dict(model.named_parameters()) | dict(model.named_buffers())
        mixed = {name: torch.lerp(weights[name].float(), theirs[name].float(), share) for name in weights}
        return functional_call(model, mixed, (x,))

    x = random_clip(*WITH_HEAD)
    compiled_average = compiled(average)
    with torch.no_grad():
        for share in (0.0, 0.5):
            y = compiled_average(x, torch.tensor(share))
            assert_close("i3d", y, average(x, torch.tensor(share)))
        assert_close("i3d", compiled_average(x, torch.tensor(1.0)), ordinary(other, x, "Logits")["Logits"])


def test_an_exported_network_is_one_operator(model: I3D, runs: list[Any]) -> None:
    """Also where gradients are on, as they are by default."""
    x = random_clip(*WITH_HEAD)
    program = torch.export.export(model, (x,))
    assert operators(program.graph_module) == [OPERATOR]
    with torch.no_grad():
        expected = model(x)
        for module in (program.module(), program.run_decompositions({}).module()):
            runs.clear()
            assert torch.equal(module(x), expected)
            assert runs == [torch.float32]


def test_exported_sizes_may_be_dynamic(model: I3D) -> None:
    x = random_clip(2, *WITH_HEAD[1:])
    sizes = {0: Dim("n"), 2: Dim("t", min=9), 3: Dim("h", min=193), 4: Dim("w", min=193)}
    program = torch.export.export(model, (x,), dynamic_shapes=({**sizes},))
    assert operators(program.graph_module) == [OPERATOR]
    module = program.module()
    with torch.no_grad():
        for shape in ((1, 3, 9, 193, 193), (3, 3, 17, 200, 225)):
            x = random_clip(*shape)
            assert torch.equal(module(x), model(x))


def test_an_exported_network_has_gradients() -> None:
    names = ("Conv3d_1a_7x7", "Mixed_3b")
    x = random_clip(*SMALL)
    results = []
    for exported in (False, True):
        model = make_i3d()
        model.Conv3d_2b_1x1.requires_grad_(False)
        network = Maps(model, *names)
        clip = x.clone().requires_grad_()
        maps = (torch.export.export(network, (x,)).module() if exported else network)(clip)
        sum(maps[name].square().mean() for name in names).backward()
        gradients = {name.removeprefix("model."): p.grad for name, p in network.named_parameters()}
        results.append({name: g for name, g in gradients.items() if g is not None} | {"x": clip.grad})
    assert list(results[0]) == list(results[1])
    assert len(results[0]) > 20
    for name, gradient in results[1].items():
        assert_close("conv3d_gradient", gradient, results[0][name])


def test_the_networks_of_other_ports_are_exported_too() -> None:
    x = random_clip(*WITH_HEAD)
    for port in (compat.I3D(7), compat.InceptionI3d(7), compat.InceptionI3d(7, final_endpoint="Mixed_3b")):
        program = torch.export.export(port.eval(), (x,))
        assert operators(program.graph_module)[0] == OPERATOR
        with torch.no_grad():
            for actual, expected in zip(program.module()(x), port(x), strict=True):
                assert torch.equal(actual, expected)


LOADING = """
import sys
import torch
import fasti3d

program, clip, result = sys.argv[1:]
with torch.no_grad():
    torch.save(torch.export.load(program).module()(torch.load(clip)), result)
"""


def test_a_saved_program_runs_where_fasti3d_is_imported(model: I3D, tmp_path: Path) -> None:
    x = random_clip(*WITH_HEAD)
    files = [tmp_path / name for name in ("program.pt2", "clip.pt", "result.pt")]
    torch.export.save(torch.export.export(model, (x,)), files[0])
    torch.save(x, files[1])
    subprocess.run([sys.executable, "-c", LOADING, *files], check=True)
    with torch.no_grad():
        assert torch.equal(torch.load(files[2]), model(x))


def test_on_other_devices_only_weights_of_modules_are_taken(
    compiled: Callable[..., Any], graphs: list[fx.GraphModule]
) -> None:
    """A graph's own tensors are overwritten with others, which only the CPU can look at."""
    with torch.device("meta"):
        model, x = I3D(7).eval(), torch.empty(SMALL)
    stem = Maps(model, "Conv3d_1a_7x7")

    def scaled(x: Tensor) -> dict[str, Tensor]:
        name = "model.Conv3d_1a_7x7.conv3d.weight"
        return functional_call(stem, {name: 2 * model.Conv3d_1a_7x7.conv3d.weight}, (x,))

    with torch.no_grad():
        for function in (stem, scaled):
            assert compiled(function)(x)["Conv3d_1a_7x7"].shape == (1, 24, 5, 17, 20)
    assert [holds_operator(graph) for graph in graphs] == [True, False]


def arguments(model: I3D, x: Tensor, *wanted: str) -> tuple[Any, ...]:
    trunk = tuple(name for name in network.TRUNK if hasattr(model, name))
    code, names = describe(model, trunk).coded()
    order = [list(names).index(name) for name in wanted]
    return x, code.tensors, code.numbers, code.floats, list(names.values()), order, torch.float32


def test_operator_contract() -> None:
    model = make_i3d().requires_grad_(False)
    calls = arguments(
        model, random_clip(*WITH_HEAD), "MaxPool3d_2a_3x3", "Mixed_4b", "Features", "Logits", "Predictions"
    )
    torch.library.opcheck(OPERATOR, calls, test_utils=("test_schema", "test_faketensor"))
    stem = nn.Module()
    stem.Conv3d_1a_7x7 = make_i3d().Conv3d_1a_7x7
    torch.library.opcheck(OPERATOR, arguments(stem, random_clip(1, 3, 2, 8, 9), "Conv3d_1a_7x7"))
