"""The Triton passes of a batch norm with ReLU without a GPU: in Triton's interpreter, and compiled for every
architecture; and the pure choice of their tiles.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fasti3d.ops.batch_norm_relu.config import Config, Problem, choose

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, Launch, Recorder, build
from kernel_processes import assert_passes_interpreted

from fasti3d.ops.batch_norm_relu import launch
from fasti3d.runtime.gpu import GpuTraits

KERNELS = [name for name in vars(launch) if name.startswith("_") and name.endswith("_kernel")]
# Channels and (T, H, W) of maps of the network on 64 frames of 224x224, each in another tile.
MAPS = [(64, (32, 112, 112)), (96, (32, 28, 28)), (208, (16, 14, 14)), (16, (32, 28, 28)), (384, (8, 7, 7))]


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_batch_norm_relu.py")


def launches(chip: GpuTraits, dtypes: list[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """What the passes launch over maps of the network, and slices of wider ones."""
    found: set[Launch] = set()
    monkeypatch.setattr(launch, "gpu_traits", lambda device: chip)
    for name in KERNELS:
        monkeypatch.setattr(launch, name, Recorder(getattr(launch, name), found))
    for dtype in dtypes:
        for channels, size in MAPS:
            wide = torch.empty((16, *size, channels + 64), dtype=dtype, device="meta").permute(0, 4, 1, 2, 3)
            x, part = wide[:, :channels].contiguous(memory_format=torch.channels_last_3d), wide[:, 64:]
            vectors: list[Tensor] = [torch.empty(channels, device="meta") for _ in range(5)]
            launch.batch_norm_stats(x, *vectors[:2])
            launch.scale_shift_relu(x, *vectors[:2], part)
            launch.batch_norm_relu_sums(part, x, *vectors)
            launch.batch_norm_relu_backward(part, x, *vectors, x)
    return found


def check(chip: GpuTraits, found: set[Launch]) -> None:
    """Nothing is spilled, and values move 16 bytes at a time."""
    assert {one.kernel.__name__ for one in found} == set(KERNELS)
    for one in found:
        built = build(one, chip.capability)
        what = f"{one.kernel.__name__} {one.signature[0]} {one.constants}"
        assert (built.stack, built.local) == (0, 0), what
        assert built.shared <= 48 << 10, what
        if "join" not in one.kernel.__name__:
            assert "ld.global.v4" in built.ptx, what


def test_compiles_to_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS["H200"]
    monkeypatch.setattr("test_batch_norm_relu_triton.MAPS", MAPS[:1])
    check(chip, launches(chip, [torch.bfloat16], monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("device", CHIPS)
def test_every_tile_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS[device]
    check(chip, launches(chip, [torch.bfloat16, torch.float16, torch.float32], monkeypatch))


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("channels", [1, 24, 64, 96, 832])
def test_tiles(channels: int, itemsize: int, maps: int) -> None:
    for rows in (1, 5, 8 * 7 * 7, 16 * 32 * 112 * 112):
        config = choose(Problem(rows, channels, itemsize, maps, 132))
        assert config.block_m * config.block_c * itemsize * maps in (4096, 8192)
        tiles = -(-rows // config.tile_rows)
        programs = tiles * -(-channels // config.block_c)
        assert tiles >= 1
        # Enough for the GPU where there is as much, and no more sums than that takes.
        assert programs <= 2 * 4 * 132 + channels
        assert config.steps == 1 or programs > 2 * 132
    assert eval(str(config), {"Config": Config}) == config
