"""The network in the hands of tracers and exporters that know nothing of its operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from i3d_making import random_clip, randomise
from torch import Tensor, fx, nn

import fasti3d
from fasti3d import I3D, compat, reference

pytestmark = [
    pytest.mark.usefixtures("narrow"),
    pytest.mark.filterwarnings("ignore:.*(torch.jit|legacy TorchScript-based|opset|dynamo)"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

# Where sizes are odd on the way down, and the smallest that the head takes.
CLIP = (1, 3, 9, 193, 193)
KINDS: dict[str, Callable[[], nn.Module]] = {
    "I3D": lambda: I3D(5),
    "reference.I3D": lambda: reference.I3D(5),
    "InceptionI3d": lambda: compat.InceptionI3d(5),
    "compat.I3D": lambda: compat.I3D(5),
}


def make(kind: str) -> Any:
    model = KINDS[kind]()
    randomise(model)
    return model.eval()


def as_tuple(y: Any) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("kind", KINDS)
def test_symbolic_traces_are_the_network(kind: str) -> None:
    model, x = make(kind).requires_grad_(False), random_clip(*CLIP)
    graph = fx.symbolic_trace(model)
    assert {"call_module"} <= {node.op for node in graph.graph.nodes}
    x.requires_grad_()  # so that the network runs as it is written
    for actual, expected in zip(as_tuple(graph(x)), as_tuple(model(x)), strict=True):
        assert torch.equal(actual, expected)
    norms = [node for node in graph.graph.nodes if str(node.target).endswith(("bn", "batch3d"))]
    assert all(node.op == "call_module" for node in norms)
    assert len(norms) == 3 + 9 * 6


def test_symbolic_traces_train_as_the_network() -> None:
    models = [make("I3D").train().double() for _ in range(2)]  # exact, whatever the order of sums
    graph = fx.symbolic_trace(models[1])
    for model, call in zip(models, (models[0], graph), strict=True):
        model.dropout.p = 0.0
        call(random_clip(2, *CLIP[1:]).double()).square().mean().backward()
    for mine, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-9)
    assert models[1].Mixed_3b.b0.bn.num_batches_tracked == 1
    moved = [model.Mixed_3b.b0.bn.running_var for model in models]
    torch.testing.assert_close(*moved, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_scripting_says_what_to_use(kind: str) -> None:
    for module in (make(kind), nn.Sequential(make(kind))):
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace\(model, clip\)"):
            torch.jit.script(module)


def test_jit_traces_follow_the_size_of_the_clip() -> None:
    model = make("I3D")
    traced = torch.jit.trace(model, random_clip(*CLIP), check_trace=False)
    with torch.no_grad():
        for shape in (CLIP, (2, 3, 10, 193, 200)):
            x = random_clip(*shape)
            expected = reference.I3D.forward_endpoints(model, x, ["Logits"])["Logits"]
            torch.testing.assert_close(traced(x), expected, rtol=1e-4, atol=1e-5)


def run_onnx(path: Path, x: Tensor) -> list[Any]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx(kind: str, dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, x, path = make(kind), random_clip(*CLIP), tmp_path / "network.onnx"
    torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False)
    with torch.no_grad():
        for actual, expected in zip(run_onnx(path, x), as_tuple(model(x)), strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-5)


def test_onnx_of_a_fused_network(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    layers = [nn.Conv3d(3, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 1)]
    fused = fasti3d.fuse(nn.Sequential(*layers).eval())
    x, path = random_clip(1, 3, 4, 9, 10), tmp_path / "fused.onnx"
    torch.onnx.export(fused, (x,), path, verbose=False)
    (actual,) = run_onnx(path, x)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), fused(x), rtol=1e-4, atol=1e-5)
