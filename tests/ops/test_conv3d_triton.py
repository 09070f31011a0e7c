"""The Triton convolutions without a GPU: in Triton's interpreter, and compiled for every architecture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from fasti3d import network
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.config import shared_memory
from fasti3d.runtime.gpu import GpuTraits
from fasti3d.runtime.precision import Precision

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, DEVICES, IN_FULL, Built, Launch, Recorder, build
from kernel_processes import assert_passes_interpreted

from fasti3d.ops.conv3d_bn_relu import launch
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.same_padding import same_shape

Triple = tuple[int, int, int]

# Of the chips those whose builds in float32 are not only for the slow tests.
IN_FLOAT32 = CHIPS["H200"], CHIPS["A100"]
KERNELS = ("_conv3d_descriptor_kernel", "_conv3d_pointer_kernel", "_conv3d_fold_kernel")


def test_the_whole_plan_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_plan.py")


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_conv3d.py")


def convolutions() -> Iterator[tuple[int, int, Triple, Triple, Triple]]:
    """(input channels, output channels, input size, kernel, stride) of I3D's on 64 frames of 224x224."""
    channels, size = 3, (64, 224, 224)
    for part in network.TRUNK.values():
        if isinstance(part, network.Mixed):
            for out_channels in (part.b0, part.b1a, part.b2a, part.b3b):
                yield channels, out_channels, size, (1, 1, 1), (1, 1, 1)
            for between, out_channels in ((part.b1a, part.b1b), (part.b2a, part.b2b)):
                yield between, out_channels, size, (3, 3, 3), (1, 1, 1)
        elif isinstance(part, network.Conv):
            yield channels, part.out_channels, size, part.kernel, part.stride
        if not isinstance(part, network.Mixed):
            t, h, w = same_shape(size, part.stride)
            size = (t, h, w)
        if not isinstance(part, network.Pool):
            channels = part.out_channels


# Input channels, output channels, size and kernel of layers that add a residual, each in other tiles.
RESIDUALS: list[tuple[int, int, Triple, Triple]] = [
    (64, 256, (8, 56, 56), (1, 1, 1)),
    (512, 2048, (4, 7, 7), (1, 1, 1)),
    (64, 192, (32, 56, 56), (3, 3, 3)),
]


def blocks() -> Iterator[tuple[int, Triple, network.Mixed]]:
    """(input channels, size, channels of the convolutions) of I3D's Mixed blocks on 64 frames of 224x224."""
    channels, size = 192, (32, 28, 28)
    for name, part in network.TRUNK.items():
        if isinstance(part, network.Mixed):
            yield channels, size, part
            channels = part.out_channels
        elif name in ("MaxPool3d_4a_3x3", "MaxPool3d_5a_2x2"):
            t, h, w = same_shape(size, part.stride)
            size = (t, h, w)


def launches(chip: GpuTraits, every: bool, monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """What the network's convolutions may launch on a chip, each into a slice of a wider clip: ``every``
    candidate, or those that are chosen where none was measured.
    """
    found: set[Launch] = set()
    monkeypatch.setattr(launch, "gpu_traits", lambda device: chip)
    for name in KERNELS:
        monkeypatch.setattr(launch, name, Recorder(getattr(launch, name), found))
    float16 = itertools.product((1, 8), [torch.float16], convolutions())
    # The configurations do not depend on it: one build of each kind.
    bfloat16 = itertools.product([1], [torch.bfloat16], itertools.islice(convolutions(), 3))
    # The stem and the largest, with three products and one.
    few = list(convolutions()) if every else list(convolutions())[:3:2]
    float32 = itertools.product([8] if every or chip in IN_FLOAT32 else [], [torch.float32], few)
    for batch, dtype, (channels, out_channels, size, kernel, stride) in (*float16, *bfloat16, *float32):
        options: dict[str, Any] = {"dtype": dtype, "device": "meta"}
        x = torch.empty((batch, *size, channels), **options).permute(0, 4, 1, 2, 3)
        weight = pack_triton(torch.empty((out_channels, channels, *kernel), **options), stride, dtype)
        bias = torch.empty(out_channels, device="meta")
        wide = torch.empty((batch, *same_shape(size, stride), out_channels + 64), **options)
        out = wide.permute(0, 4, 1, 2, 3)[:, 32:-32]
        work = launch.prepare(x, weight, bias, Geometry(kernel, stride, None, True), out, 0)
        problems = [work.problem]
        if dtype == torch.float32:
            problems.append(replace(work.problem, precision=Precision.TF32))
        for problem in problems:
            for config in candidates(problem)[: None if every and dtype != torch.bfloat16 else 1]:
                launch.run(config, work)
        if channels == 3:
            launch.prepare(x.to(torch.uint8), weight, bias, Geometry(kernel, stride, None, True), out, 0)
    residuals = [(torch.float16, its) for its in RESIDUALS]
    if every or chip in IN_FLOAT32:
        residuals += [(torch.float32, its) for its in RESIDUALS[: None if every else 1]]
    for dtype, (channels, out_channels, size, kernel) in residuals:
        x, out = (
            torch.empty((1, *size, c), dtype=dtype, device="meta").permute(0, 4, 1, 2, 3)
            for c in (channels, out_channels)
        )
        weight = pack_triton(x.new_empty((out_channels, channels, *kernel)), (1, 1, 1), x.dtype)
        bias = torch.empty(out_channels, device="meta")
        work = launch.prepare(x, weight, bias, Geometry(kernel, (1, 1, 1), None, True), out, 0, out)
        for config in candidates(work.problem)[: None if every else 1]:
            launch.run(config, work)
    half = itertools.product([torch.float16], (1, 8), blocks())
    whole = itertools.product([torch.float32], [8], blocks() if every else [])
    for dtype, batch, (channels, size, part) in (*half, *whole):
        x, block, second = (
            torch.empty((batch, *size, c), dtype=dtype, device="meta").permute(0, 4, 1, 2, 3)
            for c in (channels, part.out_channels, part.b1a + part.b2a)
        )
        weight = torch.empty((part.b0 + part.b1a + part.b2a, 1, channels), dtype=x.dtype, device="meta")
        bias = torch.empty(len(weight), device="meta")
        work = launch.prepare_split(x, weight, bias, True, block[:, : part.b0], second)
        for config in candidates(work.problem)[: None if every else 1]:
            launch.run(config, work)
    return found


def check(name: str, chip: GpuTraits, built: Built, products: int = 1) -> None:
    """The gates: nothing spilled, shared memory that the chip has, its matrix and copy units in use."""
    assert (built.stack, built.local) == (0, 0)
    assert built.shared <= shared_memory(chip.capability)
    if name == "_conv3d_fold_kernel":
        return
    product = {9: "wgmma.mma_async", 10: "tcgen05.mma"}.get(chip.capability[0], "mma.sync")
    assert product in built.ptx
    if name == "_conv3d_pointer_kernel":
        assert "cp.async.cg.shared.global" in built.ptx, "copies of 16 bytes"
        return
    assert "cp.async.bulk.tensor.5d" in built.ptx
    assert built.main_loop
    if chip.capability[0] == 9:
        assert "wgmma" in built.main_loop or "warp_group_dot" in built.main_loop
        assert "convert_layout" not in built.main_loop
        # Values are cut into parts in registers, each of both operands once.
        assert built.main_loop.count("local_load") == (0 if products == 1 else 2)


@pytest.mark.parametrize("device", DEVICES)
def test_every_candidate_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS[device]
    found = launches(chip, IN_FULL, monkeypatch)
    expected = KERNELS if chip.capability[0] in (9, 10) else KERNELS[1:]
    assert {one.kernel.__name__ for one in found} == set(expected)
    for one in found:
        try:
            products = dict(one.constants).get("PRODUCTS", 1)
            check(one.kernel.__name__, chip, build(one, chip.capability), products)
        except AssertionError as error:
            raise AssertionError(f"{one.kernel.__name__} {one.constants} {one.options}: {error}") from error
