"""The Triton max-pool with taps and its gradient without a GPU: in Triton's interpreter, and compiled for
every architecture.
"""

from __future__ import annotations

import pytest
import torch

from fasti3d import network
from fasti3d.inspect.layers import layers

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, Launch, Recorder, build
from kernel_processes import assert_passes_interpreted

from fasti3d.ops.max_pool3d_taps import launch
from fasti3d.runtime.gpu import GpuTraits

KERNELS = ("_max_pool3d_taps_kernel", "_max_pool3d_taps_backward_kernel")
POOLS = [layer for layer in layers(3, (64, 224, 224)) if isinstance(layer.spec, network.Pool)]


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_max_pool3d_taps.py")


def launches(
    chip: GpuTraits, pools: list[object], dtypes: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> set[Launch]:
    """What the network's pools launch on a chip, for a batch of 16."""
    found: set[Launch] = set()
    monkeypatch.setattr(launch, "gpu_traits", lambda device: chip)
    for name in KERNELS:
        monkeypatch.setattr(launch, name, Recorder(getattr(launch, name), found))
    for dtype in dtypes:
        for layer in pools:
            x, y = (
                torch.empty((16, *size, layer.in_channels), dtype=dtype, device="meta").permute(0, 4, 1, 2, 3)
                for size in (layer.in_size, layer.out_size)
            )
            taps = torch.empty_like(y, dtype=torch.uint8)
            window = list(layer.spec.kernel), list(layer.spec.stride)
            launch.max_pool3d_taps(x, *window, y, taps)
            launch.max_pool3d_taps_backward(y, taps, *window, x)
    return found


def check(chip: GpuTraits, found: set[Launch]) -> None:
    """Nothing is spilled, and values move 16 bytes at a time."""
    assert {one.kernel.__name__ for one in found} == set(KERNELS)
    for one in found:
        built = build(one, chip.capability)
        what = f"{one.kernel.__name__} {one.signature[0]} {one.constants}"
        assert (built.stack, built.local) == (0, 0), what
        assert built.shared <= 48 << 10, what
        assert "ld.global.v4" in built.ptx, what


def test_compiles_to_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS["H200"]
    last = [layer for layer in POOLS if layer.spec.kernel == (3, 3, 3)][-1:]
    check(chip, launches(chip, last, [torch.bfloat16], monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("device", CHIPS)
def test_every_pool_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS[device]
    check(chip, launches(chip, POOLS, [torch.bfloat16, torch.float16, torch.float32], monkeypatch))
