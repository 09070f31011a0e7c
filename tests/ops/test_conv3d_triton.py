"""The Triton convolutions without a GPU: in Triton's interpreter, and compiled for every architecture."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from fasti3d import network
from fasti3d.ops.conv3d_bn_relu import model
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.config import INSTRUCTIONS, REGISTERS, Config, Form
from fasti3d.ops.conv3d_bn_relu.model import shared_memory
from fasti3d.ops.dependent_launch import launch as dependent_launch
from fasti3d.runtime.gpu import GpuTraits
from fasti3d.runtime.precision import Precision

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, DEVICES, IN_FULL, Built, Launch, Recorder, build, check_turn
from kernel_processes import assert_passes_interpreted
from sass import main_loop
from triton.tools.tensor_descriptor import TensorDescriptor

from fasti3d.ops.conv3d_bn_relu import fold, launch
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
    monkeypatch.setattr(dependent_launch, "overlaps", lambda device: chip.capability >= (9, 0))
    for name in KERNELS:
        module = fold if name == "_conv3d_fold_kernel" else launch
        monkeypatch.setattr(module, name, Recorder(getattr(module, name), found))
    # The builds of other chips differ from an H200's in little but the assembler: of these a few.
    whole = every or chip is CHIPS["H200"]
    batches = (1, 8) if whole else (8,)
    float16 = itertools.product(batches, [torch.float16], convolutions())
    # The configurations do not depend on it: one build of each kind.
    bfloat16 = itertools.product([1] if whole else [], [torch.bfloat16], itertools.islice(convolutions(), 3))
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
    half = itertools.product([torch.float16], batches, blocks())
    float32 = itertools.product([torch.float32], [8], blocks() if every else [])
    for dtype, batch, (channels, size, part) in (*half, *float32):
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


# What a division of integers is made of.
DIVISION = ("I2F", "MUFU", "F2I")


def tiles_of(one: Launch) -> model.Tiles:
    """A launch's tile as the model sees it."""
    fields = dict(one.constants) | dict(one.options)
    form = Form.DESCRIPTOR if "BLOCK_W" in fields else Form.POINTER
    rest = fields.get("BLOCK_N_REST", 0)
    return model.Tiles(
        number=1,
        pixels=math.prod(fields[f"BLOCK_{axis}"] for axis in ("BTHW" if form == Form.DESCRIPTOR else "M")),
        channels=fields["BLOCK_N"] + rest,
        steps=math.prod(fields[name] for name in ("KT", "KH", "KW")),
        depth=fields["BLOCK_K"],
        stages=fields["num_stages"],
        warps=fields["num_warps"],
        instructions=INSTRUCTIONS[form][rest > 0],
        registers=REGISTERS[form],
        precision=precision_of(one),
    )


def precision_of(one: Launch) -> Precision:
    """What a launch multiplies."""
    if not any("fp32" in kind for name, kind in one.signature if name in ("x_desc", "x_ptr")):
        return Precision.HALF
    return Precision.TF32X3 if dict(one.constants)["PRODUCTS"] == 3 else Precision.TF32


def check_step(one: Launch, built: Built) -> None:
    """No division in a step, no more instructions than the model counts, and one barrier for all loads: one
    thread tells it what is to come, and all wait for it.
    """
    loop = main_loop(built.cubin, "HGMMA")
    assert not [it for it in loop if it.startswith(DIVISION)]
    assert len(loop) <= tiles_of(one).instructions, len(loop)
    expected = 2 if one.kernel.__name__ == "_conv3d_descriptor_kernel" else 0
    assert sum(it.startswith("SYNCS") for it in loop) == expected


def check(one: Launch, chip: GpuTraits, built: Built) -> None:
    """The gates: nothing spilled, shared memory that the chip has, its matrix and copy units in use, and on
    Hopper no more registers and shared memory than the model counts.
    """
    assert (built.stack, built.local) == (0, 0)
    assert built.shared <= shared_memory(chip.capability)
    name = one.kernel.__name__
    if name == "_conv3d_fold_kernel":
        return
    precision = precision_of(one)
    if chip.capability[0] == 9 and precision is Precision.HALF:
        assert built.shared <= model.shared(tiles_of(one)), built.shared
        # A residual takes more registers, after the loop.
        assert dict(one.constants)["ADD"] or built.registers <= model.registers(tiles_of(one)), (
            built.registers
        )
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
        assert built.main_loop.count("local_load") == (0 if precision.products == 1 else 2)


@pytest.mark.parametrize(("rest", "both", "added"), list(itertools.product((False, True), repeat=3)))
def test_tensor_maps_are_of_what_a_launch_uses(
    rest: bool, both: bool, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[Launch] = set()
    kernel = launch._conv3d_descriptor_kernel
    monkeypatch.setattr(launch, "_conv3d_descriptor_kernel", Recorder(kernel, found))
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["H200"])
    x, out = (
        torch.empty((1, 2, 4, 4, c), dtype=torch.float16, device="meta").permute(0, 4, 1, 2, 3)
        for c in (64, 128)
    )
    weight = pack_triton(x.new_empty((128, 64, 1, 1, 1)), (1, 1, 1), x.dtype)
    bias = torch.empty(128, device="meta")
    work = launch.prepare_split(x, weight, bias, True, out[:, :64], out[:, 64:])
    work = work._replace(second=work.second if both else None, residual=work.out if added else None)
    box, tile = (1, 1, 1, 64), (64, 64 if rest else 0, 64, 8, 2)
    launch.run(Config(Form.DESCRIPTOR, box, *tile), work)
    (one,) = found
    names = {name for name, type_ in one.signature if type_.startswith("tensordesc")}
    used = ["x", "w", "y", *(["z"] if both else []), *(["r"] if added else [])]
    expected = {f"{name}_desc" for name in used} | {f"{name}_rest_desc" for name in used[1:] if rest}
    assert names == expected
    assert {name for name, value in one.constants if value is None} == {
        f"{name}_desc" for name in ("w_rest", "y_rest", "z", "z_rest", "r", "r_rest")
    } - expected


def test_descriptors_of_one_layout_are_of_their_own_memory() -> None:
    first, second = (torch.zeros(3, 1, 16, dtype=torch.float16) for _ in range(2))
    for x in (first, second, first.bfloat16(), first[:, :, :8], first):
        found = launch._descriptor(x, (2, 1, 8))
        assert found.base is x
        strides = [16, 16, 1]
        assert found == TensorDescriptor(x, list(x.shape), strides, [2, 1, 8])
    kept = weakref.ref(second)
    del second, found, x
    assert kept() is None


@contextmanager
def naming(one: Launch) -> Iterator[None]:
    """Says in an error what was compiled."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{one.kernel.__name__} {one.constants} {one.options}: {error}") from error


@pytest.mark.parametrize("device", DEVICES)
def test_every_candidate_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = CHIPS[device]
    found = launches(chip, IN_FULL, monkeypatch)
    expected = KERNELS if chip.capability[0] in (9, 10) else KERNELS[1:]
    assert {one.kernel.__name__ for one in found} == set(expected)
    steps: dict[model.Tiles, tuple[Launch, Built]] = {}
    for one in found:
        built = build(one, chip.capability)
        with naming(one):
            check(one, chip, built)
            check_turn(one, built.ptx, chip.capability)
        if one.kernel.__name__ != "_conv3d_fold_kernel" and precision_of(one) is Precision.HALF:
            steps[tiles_of(one)._replace(stages=0)] = one, built
    # One of those that differ in little but what is outside of the loop: half a second each.
    for one, built in steps.values() if chip.capability[0] == 9 else ():
        with naming(one):
            check_step(one, built)
