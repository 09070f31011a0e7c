"""The Triton convolution that finds statistics without a GPU: in Triton's interpreter, and compiled for every
architecture.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from fasti3d import network
from fasti3d.inspect.layers import layers
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.model import shared_memory
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.runtime.gpu import GpuTraits

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, Launch, Recorder, build
from kernel_processes import assert_passes_interpreted

from fasti3d.ops.conv3d_bn_relu import fold as fold_launch
from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.conv3d_training import launch

KERNELS = ("_conv3d_descriptor_kernel", "_conv3d_pointer_kernel")
# Not the head, which has no batch norm.
CONVOLUTIONS = [layer for layer in layers(3, (64, 224, 224)) if isinstance(layer.spec, network.Conv)][:-1]


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_conv3d_stats.py")


def launches(
    chip: GpuTraits,
    names: Sequence[str] | None,
    batches: Sequence[int],
    dtypes: Sequence[torch.dtype],
    monkeypatch: pytest.MonkeyPatch,
) -> set[Launch]:
    """What the convolutions of these names, or all, may launch on a chip with statistics."""
    found: set[Launch] = set()
    monkeypatch.setattr(conv_launch, "gpu_traits", lambda device: chip)
    for name in KERNELS:
        monkeypatch.setattr(conv_launch, name, Recorder(getattr(conv_launch, name), found))
    fold = fold_launch._conv3d_fold_kernel
    monkeypatch.setattr(fold_launch, "_conv3d_fold_kernel", Recorder(fold, found))
    monkeypatch.setattr(launch, "join_stats", lambda part, mean, var: None)
    for layer in CONVOLUTIONS:
        if names is not None and layer.name not in names:
            continue
        kernel, stride = layer.spec.kernel, layer.spec.stride
        for batch in batches:
            for dtype in dtypes:
                x, out = (
                    torch.empty((batch, *size, channels), dtype=dtype, device="meta").permute(0, 4, 1, 2, 3)
                    for size, channels in (
                        (layer.in_size, layer.in_channels),
                        (layer.out_size, layer.out_channels),
                    )
                )
                weight = x.new_empty((layer.out_channels, layer.in_channels, *kernel))
                mean, var = torch.empty((2, layer.out_channels), device="meta").unbind()
                packed, geometry = pack_triton(weight, stride, dtype), Geometry(kernel, stride, None, False)
                problem = conv_launch.outline(x, packed, mean, geometry, out, 0).problem
                for config in candidates(problem)[: None if names is None else 1]:
                    launch.run(config, x, packed, geometry, out, mean, var)
    return {one for one in found if one.kernel.__name__ in KERNELS}


def check(chip: GpuTraits, found: set[Launch]) -> None:
    """Nothing spilled, shared memory that the chip has, and the statistics are there."""
    for one in found:
        built = build(one, chip.capability)
        what = f"{one.kernel.__name__} {one.constants} {one.options}"
        assert dict(one.constants)["STATS"] is True
        assert (built.stack, built.local) == (0, 0), what
        assert built.shared <= shared_memory(chip.capability), what


def test_compiles_to_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles of channels over the same pixels, which take the most registers, and the stem."""
    names = ("Conv3d_2c_3x3", "Conv3d_1a_7x7")
    found = launches(CHIPS["H200"], names, [16], [torch.bfloat16, torch.float32], monkeypatch)
    assert {one.kernel.__name__ for one in found} == set(KERNELS)
    assert any(dict(one.constants).get("BLOCK_N_REST") for one in found)
    check(CHIPS["H200"], found)


@pytest.mark.slow
@pytest.mark.parametrize("device", CHIPS)
def test_every_candidate_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS[device]
    check(chip, launches(chip, None, [1, 16], [torch.bfloat16, torch.float16, torch.float32], monkeypatch))
