"""Every kernel that the convolutions of I3D-ResNets launch on an H200 compiles without spills."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, Launch, Recorder, build

import fasti3d
from fasti3d.engine.graph import Conv, Graph, Shapes, shapes
from fasti3d.engine.rewrite import absorb_adds, absorb_relus, fold_norms
from fasti3d.ops.conv3d_bn_relu import fold, launch
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton

# Of each kind of stem, of pools that leave odd sizes, and of non-local blocks.
NETWORKS = [
    ("pytorchvideo-8x8", "dot_product", 8),
    ("caffe2-32x2", "embedded_gaussian", 32),
    ("mmaction2-heavy", "gaussian", 8),
    ("slow-8x8", None, 8),
]
KERNELS = ("_conv3d_descriptor_kernel", "_conv3d_pointer_kernel", "_conv3d_fold_kernel")


def convolutions() -> Iterator[tuple[Conv, Shapes]]:
    """As plans have them, with the shapes of their maps."""
    for variant, mode, frames in NETWORKS:
        with torch.device("meta"):
            graph: Graph = fasti3d.I3DResNet(variant, non_local=mode).eval().graph()
        graph = reduce(lambda g, rewrite: rewrite(g), (fold_norms, absorb_relus, absorb_adds), graph)
        of = shapes(graph, (1, 3, frames, 224, 224))
        yield from ((node, of) for node in graph.nodes if isinstance(node, Conv))


def launches(monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """What is launched where nothing was measured, on clips of float16 and of bytes."""
    found: set[Launch] = set()
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["H200"])
    for name in KERNELS:
        module: Any = fold if name == "_conv3d_fold_kernel" else launch
        monkeypatch.setattr(module, name, Recorder(getattr(module, name), found))
    for node, of in convolutions():
        x, out = (
            torch.empty((n, *size, c), dtype=torch.float16, device="meta").permute(0, 4, 1, 2, 3)
            for n, c, *size in (of[node.x], of[node.out])
        )
        weight = pack_triton(x.new_empty(tuple(node.weight.shape)), node.stride, x.dtype)
        bias = torch.empty(out.shape[1], device="meta")
        geometry = Geometry(node.kernel, node.stride, node.padding, node.relu)
        residual = None if node.residual is None else torch.empty_like(out)
        work = launch.prepare(x, weight, bias, geometry, out, 0, residual)
        launch.run(candidates(work.problem)[0], work)
        if x.shape[1] == 3:
            launch.prepare(x.to(torch.uint8), weight, bias, geometry, out, 0)
    return found


def test_every_layer_compiles_without_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(monkeypatch)
    assert {one.kernel.__name__ for one in found} == set(KERNELS)
    for one in found:
        built = build(one, CHIPS["H200"].capability)
        described = f"{one.kernel.__name__} {one.constants} {one.options}"
        assert built.local == 0, described
        if one.kernel.__name__ == "_conv3d_fold_kernel":
            assert built.stack <= 8, described  # a frame that ptxas makes for cells of 16 values
        else:
            assert built.stack == 0, described
            assert "wgmma.mma_async" in built.ptx, described


def test_there_are_layers_of_every_kind() -> None:
    """Or the test above would compile less than it says."""
    its = list(convolutions())
    windows = {(node.kernel, node.stride) for node, _ in its}
    assert windows >= {
        ((5, 7, 7), (1, 2, 2)),
        ((5, 7, 7), (2, 2, 2)),
        ((1, 7, 7), (1, 2, 2)),
        ((3, 1, 1), (1, 1, 1)),
        ((1, 3, 3), (1, 2, 2)),
        ((1, 1, 1), (1, 2, 2)),
    }
    added = [(node.relu, node.residual is not None) for node, _ in its]
    assert {(True, True), (False, True), (True, False), (False, False)} == set(added)
