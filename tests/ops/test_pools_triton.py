"""The Triton pools without a GPU: in Triton's interpreter, and compiled for every architecture; and the pure
choices of their configurations.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fasti3d import network
from fasti3d.inspect.layers import layers
from fasti3d.ops.dependent_launch import launch as dependent_launch
from fasti3d.ops.max_pool3d_same import config as pool_config
from fasti3d.ops.pooled_conv3d import config as conv_config
from fasti3d.runtime.gpu import GpuTraits

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, DEVICES, IN_FULL, Launch, Recorder, build, check_turn
from kernel_processes import assert_passes_interpreted

from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.pooled_conv3d import launch as conv_launch

Triple = tuple[int, int, int]

LAYERS = list(layers(3, (64, 224, 224)))
POOLS = [layer for layer in LAYERS if isinstance(layer.spec, network.Pool)]
POOLED = [layer for layer in LAYERS if layer.name.endswith(".b3b")]


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_pools.py")


def meta(batch: int, channels: int, size: Triple, dtype: torch.dtype) -> Tensor:
    return torch.empty((batch, *size, channels), dtype=dtype, device="meta").permute(0, 4, 1, 2, 3)


def launches(chip: GpuTraits, every: bool, monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """What the network's pools launch on a chip, alone and in front of a convolution; without ``every``, of a
    large batch, and in front of a convolution in float16, in all dtypes and every layer on an H200.
    """
    found: set[Launch] = set()
    monkeypatch.setattr(dependent_launch, "overlaps", lambda device: chip.capability >= (9, 0))
    for module, name in ((pool_launch, "_max_pool3d_same_kernel"), (conv_launch, "_pooled_conv3d_kernel")):
        monkeypatch.setattr(module, "gpu_traits", lambda device: chip)
        monkeypatch.setattr(module, name, Recorder(getattr(module, name), found))
    batches = (1, 8) if every else (8,)
    halves = (torch.float16, torch.bfloat16) if every else (torch.float16,)
    # Tiles are the same in every dtype but float32, of which half as many values fit one.
    others = (torch.float32, torch.bfloat16) if every or chip is CHIPS["H200"] else ()
    float16 = itertools.product(batches, POOLS, [torch.float16])
    for batch, layer, dtype in (*float16, *itertools.product([8], POOLS, others)):
        x = meta(batch, layer.in_channels, layer.in_size, dtype)
        out = meta(batch, layer.in_channels, layer.out_size, dtype)
        pool_launch.max_pool3d(x, layer.spec.kernel, layer.spec.stride, out)
    float32 = itertools.product([8], POOLED if every else POOLED[:1], [torch.float32])
    for batch, layer, dtype in (*itertools.product(batches, POOLED, halves), *float32):
        x, out = (meta(batch, n, layer.in_size, dtype) for n in (layer.in_channels, layer.out_channels))
        weight = torch.empty((layer.out_channels, 1, layer.in_channels), dtype=dtype, device="meta")
        bias = torch.empty(layer.out_channels, device="meta")
        conv_launch.pooled_conv3d(x, weight, bias, True, out)
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_every_configuration_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is spilled, values move 16 bytes at a time, and products run on the matrix units."""
    chip = CHIPS[device]
    product = {9: "wgmma.mma_async", 10: "tcgen05.mma"}.get(chip.capability[0], "mma.sync")
    found = launches(chip, IN_FULL, monkeypatch)
    assert len({one.kernel for one in found}) == 2
    for one in found:
        built = build(one, chip.capability)
        what = f"{one.kernel.__name__} {one.signature[0]} {one.constants}"
        assert (built.stack, built.local) == (0, 0), what
        assert built.shared <= 48 << 10, what
        assert "ld.global.v4" in built.ptx, what
        assert "max.NaN" in built.ptx, what
        check_turn(one, built.ptx, chip.capability)
        if one.kernel.__name__ == "_pooled_conv3d_kernel":
            assert product in built.ptx, what


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("channels", [1, 24, 64, 192, 832])
def test_tiles_of_a_pool(channels: int, itemsize: int) -> None:
    for batch, size in itertools.product((1, 8), ((1, 1, 1), (8, 7, 7), (32, 28, 28))):
        config = pool_config.choose(pool_config.Problem(batch, channels, size, (3, 3, 3), itemsize, 132))
        tile = config.block_m * config.block_c * itemsize
        assert 2048 <= tile <= 8192
        tiles = math.prod(-(-n // b) for n, b in zip((batch, *size), config.box, strict=True))
        tiles *= -(-channels // config.block_c)
        assert tile == 2048 or tiles >= 4 * 132
    assert eval(str(config), {"Config": pool_config.Config}) == config


def problem(name: str, batch: int, multiprocessors: int = 132) -> conv_config.Problem:
    layer: Any = next(layer for layer in POOLED if layer.name == f"Mixed_{name}.b3b")
    return conv_config.Problem(batch, layer.in_channels, layer.out_channels, layer.in_size, multiprocessors)


def test_pooling_in_the_convolution_needs_tiles_for_the_whole_gpu() -> None:
    """The batches that the docstring of ``pays`` names."""
    for name, least in {"3b": 1, "3c": 1, "4b": 6, "4f": 6, "5b": 41, "5c": 41}.items():
        paying = [batch for batch in range(1, 65) if conv_config.pays(problem(name, batch))]
        assert paying == list(range(least, 65)), name
    assert not conv_config.pays(conv_config.Problem(8, 64, 136, (32, 28, 28), 132))


def test_all_output_channels_are_in_one_tile() -> None:
    for layer in POOLED:
        config = conv_config.choose(problem(layer.name[6:8], 8))
        assert layer.out_channels <= config.block_n <= conv_config.MAX_CHANNELS
        assert math.prod(config.box) == 64
        assert config.block_k == 64
    assert eval(str(config), {"Config": conv_config.Config}) == config
