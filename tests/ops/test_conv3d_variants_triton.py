"""The benchmarks' variants of convolutions without a GPU: interpreted, and compiled at full size."""

from __future__ import annotations

import pytest
import torch

from fasti3d.inspect.layers import layers
from fasti3d.ops.conv3d_bn_relu.model import shared_memory

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, Launch, Recorder, build
from kernel_processes import assert_passes_interpreted

from benchmarks import conv3d_variants
from benchmarks.conv3d_variants import LATER, QUESTIONS
from fasti3d.ops.conv3d_bn_relu import fold, launch
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton

LAYERS = {layer.name: layer for layer in layers(3, (64, 224, 224))}


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_variants.py")


def launches(question: str, monkeypatch: pytest.MonkeyPatch) -> dict[Launch, str]:
    """What the variants launch on an H200, by name."""
    found: set[Launch] = set()
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["H200"])
    for module in (fold, launch, conv3d_variants):
        for name in vars(module):
            if name.startswith(("_conv3d", "_stem")) and name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Recorder(getattr(module, name), found))
    named: dict[Launch, str] = {}
    for name in QUESTIONS[question].layers:
        layer = LAYERS[name]
        for batch in QUESTIONS[question].batches:
            options = {"dtype": torch.float16, "device": "meta"}
            x, out = (
                torch.empty((batch, *size, c), **options).permute(0, 4, 1, 2, 3)
                for size, c in ((layer.in_size, layer.in_channels), (layer.out_size, layer.out_channels))
            )
            shape = (layer.out_channels, layer.in_channels, *layer.spec.kernel)
            weight = pack_triton(torch.empty(shape, **options), layer.spec.stride, x.dtype)
            bias = torch.empty(layer.out_channels, device="meta")
            geometry = Geometry(layer.spec.kernel, layer.spec.stride, None, True)
            work = launch.prepare(x, weight, bias, geometry, out, 0)
            for variant, make in QUESTIONS[question].variants.items():
                before = set(found)
                make(work)()
                named |= dict.fromkeys(found - before, f"{variant}, {name}, batch {batch}")
    return named


# nvcc compiles slabs: test_conv3d_slab_build.py.
@pytest.mark.parametrize(
    "question",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LATER else name
        for name in QUESTIONS
        if name != "slabs"
    ],
)
def test_every_variant_compiles_for_an_h200(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS["H200"]
    found = launches(question, monkeypatch)
    assert len(found) >= len(QUESTIONS[question].variants)
    for one, name in found.items():
        if one.kernel.__name__ == "_conv3d_fold_kernel":
            continue
        built = build(one, chip.capability)
        assert (built.stack, built.local) == (0, 0), name
        assert built.shared <= shared_memory(chip.capability), name
        assert "wgmma.mma_async" in built.ptx, name
        if one.kernel.__name__ != "_conv3d_pointer_kernel":
            assert "cp.async.bulk.tensor.5d" in built.ptx, name
            # Activations on the left of a product may go through registers.
            assert "activations left" in name or "convert_layout" not in built.main_loop, name
