"""What operators for users make of empty axes, shared memory and numbers beyond all sense."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import fuse, tvl1
from fasti3d.flow import TVL1Params
from fasti3d.ops import border, conv3d_bn_relu, max_pool3d_same
from fasti3d.ops.i3d_head.op import i3d_head
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_same_reference
from fasti3d.runtime import extension

TESTS = Path(__file__).resolve().parents[1]
LAST = torch.channels_last_3d


def clip(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).contiguous(memory_format=LAST)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("size", [(0, 5, 5), (4, 0, 5), (4, 5, 0), (0, 0, 0)])
def test_convolutions_of_clips_without_pixels_are_as_in_torch(
    size: tuple[int, ...], channels: int, device: str
) -> None:
    x, weight = (
        torch.randn(1, channels, *size, device=device),
        torch.randn(16, channels, 3, 3, 3, device=device),
    )
    shown = re.escape(str(tuple(x.shape)))
    for padding in ("same", (2, 2, 2)):
        with pytest.raises(ValueError, match=f"x must have frames, rows and columns, got .*{shown}"):
            conv3d_bn_relu(x, weight, padding=padding)
    with pytest.raises(RuntimeError):
        F.conv3d(torch.randn(1, channels, *size), torch.randn(16, channels, 3, 3, 3), padding=2)
    # Of no clips at all torch makes none.
    x = x[:0]
    assert conv3d_bn_relu(x, weight, padding=(2, 2, 2)).shape == (0, 16, *(n + 2 for n in size))
    with pytest.raises(ValueError, match="x must have frames"):
        conv3d_bn_relu(x, weight)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_fused_networks_refuse_clips_without_pixels(axis: int) -> None:
    network = fuse(nn.Sequential(nn.Conv3d(16, 16, 3, padding=2), nn.BatchNorm3d(16), nn.ReLU()).eval())
    x = clip(1, 16, 4, 5, 5).narrow(axis, 0, 0)
    with torch.no_grad(), pytest.raises(ValueError, match="x must have frames, rows and columns"):
        network(x)


def aliases() -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor, str]]:
    """x, weight, bias, an ``out`` that shares memory with one of them, and which."""
    x, weight, bias = clip(2, 16, 4, 5, 6), torch.randn(16, 16, 3, 3, 3), torch.randn(16)
    wide = clip(2, 40, 4, 5, 6)
    long = clip(3, 16, 4, 5, 6)
    memory = torch.zeros(weight.numel() + x.numel())
    inside, after = memory[: weight.numel()].view(weight.shape), memory[weight.numel() - 1 : -1]
    return {
        "x": (x, weight, bias, x, "x"),
        "x, shifted": (long[:2], weight, bias, long[1:], "x"),
        "a channel of x": (wide[:, :16], weight, bias, wide[:, 15:31], "x"),
        "weight": (x, inside, bias, after.view(2, 4, 5, 6, 16).permute(0, 4, 1, 2, 3), "weight"),
        "bias": (
            x,
            weight,
            memory[:16],
            memory[: x.numel()].view(2, 4, 5, 6, 16).permute(0, 4, 1, 2, 3),
            "bias",
        ),
    }


@pytest.mark.parametrize("name", aliases())
def test_out_that_shares_memory_with_what_is_read_is_refused(name: str) -> None:
    x, weight, bias, out, named = aliases()[name]
    with pytest.raises(ValueError, match=f"unsupported operation: some elements of {named} and out refer to"):
        conv3d_bn_relu(x, weight, bias, out=out)


def test_out_may_lie_between_the_pixels_that_are_read() -> None:
    """As in densely connected networks, which append their channels."""
    wide, weight = clip(2, 48, 4, 5, 6), torch.randn(16, 32, 3, 3, 3)
    expected = conv3d_bn_relu(wide[:, :32], weight)
    before = wide[:, :32].clone()
    assert torch.equal(conv3d_bn_relu(wide[:, :32], weight, out=wide[:, 32:]), expected)
    assert torch.equal(wide[:, :32], before)
    frames = clip(1, 16, 8, 5, 6)
    expected = conv3d_bn_relu(frames[:, :, ::2], weight[:, :16])
    assert torch.equal(conv3d_bn_relu(frames[:, :, ::2], weight[:, :16], out=frames[:, :, 1::2]), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1, 1, 1, 1, 1).expand(2, 16, 4, 5, 6),
        lambda: clip(1, 16, 4, 5, 6).expand(2, -1, -1, -1, -1),
        lambda: clip(2, 16, 4, 1, 6).expand(-1, -1, -1, 5, -1),
        # Overlapping windows, which torch does not find.
        lambda: torch.zeros(9000).as_strided((2, 16, 4, 5, 6), (1920, 1, 480, 80, 16)),
    ],
    ids=["one value", "one clip", "one row", "rows that overlap"],
)
def test_out_that_is_written_twice_is_refused(make: Callable[[], Tensor]) -> None:
    x, weight, out = clip(2, 16, 4, 5, 6), torch.randn(16, 16, 3, 3, 3), make()
    message = "channels-last|more than one element of out refers to a single memory location"
    with pytest.raises(ValueError, match=message):
        conv3d_bn_relu(x, weight, out=out)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fasti3d.max_pool3d_(x, [3, 3, 3], [1, 1, 1], None, False, out)


def test_shared_memory_is_found_by_trying_every_element() -> None:
    generator = torch.Generator().manual_seed(3)

    def some(*limits: int) -> list[int]:
        return [int(torch.randint(1, limit, (), generator=generator)) for limit in limits]

    memory = torch.arange(400)
    found = set()
    for _ in range(600):
        a, b = (memory.as_strided(some(4, 4, 4), some(9, 25, 60), some(90)[0]) for _ in range(2))
        shared = bool(set(a.flatten().tolist()) & set(b.flatten().tolist()))
        assert border._share_memory(a, b) == shared, (a.shape, a.stride(), b.shape, b.stride())
        found.add(shared)
        if border._is_written_once(a):  # which errs on the safe side
            assert len(set(a.flatten().tolist())) == a.numel()
    assert found == {False, True}


def test_strides_beyond_the_clip_take_its_first_window() -> None:
    far = 2**31 - 1
    x, weight = clip(1, 16, 4, 5, 6), torch.randn(16, 16, 3, 3, 3)
    y = conv3d_bn_relu(x, weight, None, (far, far, far), False, padding=(1, 1, 1))
    assert_close("conv3d", y, F.conv3d(x.double(), weight.double(), padding=1)[:, :, :1, :1, :1])
    assert torch.equal(
        max_pool3d_same(x, (far, far, far), (1, 1, 1)), x.amax((2, 3, 4), True).expand(x.shape)
    )
    for stride in (far + 1, 2**63 - 1, 2**64):
        with pytest.raises(ValueError, match=f"stride must .*{stride}"):
            conv3d_bn_relu(x, weight, None, (stride, 1, 1))
        with pytest.raises(ValueError, match=f"stride must .*{stride}"):
            max_pool3d_same(x, (1, 1, 1), (1, 1, stride))


def test_pools_of_kernels_beyond_the_clip_have_gradients() -> None:
    x = clip(1, 2, 3, 4, 5).requires_grad_()
    max_pool3d_same(x, (2**30, 2**30, 2**30), (2**30, 1, 1)).sum().backward()
    assert x.grad.sum() == 2 * 4 * 5
    empty = torch.zeros(1, 2, 3, 0, 5, requires_grad=True)
    max_pool3d_same(empty, (3, 3, 3), (1, 1, 1)).sum().backward()
    assert empty.grad.shape == empty.shape
    for stride in ((1, 1, 1), (2, 3, 2)):
        y = max_pool3d_same(x, (50, 7, 11), stride)
        assert torch.equal(y, max_pool3d_same_reference(x, [50, 7, 11], list(stride)))


@pytest.mark.parametrize("shape", [(1, 0, 4, 8, 8), (0, 4, 4, 8, 8), (0, 0, 2, 7, 7)])
def test_heads_of_nothing_give_the_bias(shape: tuple[int, ...]) -> None:
    bias = torch.randn(3)
    features, logits = i3d_head(torch.randn(shape), torch.randn(3, shape[1]), bias)
    assert features.shape == (*shape[:2], shape[2] - 1)
    assert torch.equal(logits, bias.expand(shape[0], 3))


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_lack_of_memory_in_a_thread_is_what_it_is() -> None:
    row = torch.zeros(1, 16, 1, 1, 1).contiguous(memory_format=LAST).expand(1, 16, 1, 1, 2**40)
    with pytest.raises(MemoryError):
        torch.ops.fasti3d.max_pool3d_same(row, [1, 1, 1], [1, 1, 2**30])
    # What it would take does not fit into 64 bits: neither does it wrap to a little.
    row = torch.zeros(1, 3, 1, 1, 1).expand(1, 3, 2**20, 2**20, 2**21)
    packed = torch.ops.fasti3d.conv3d_pack(torch.ones(16, 3, 1, 1, 1), torch.float32, [])
    geometry = ([1, 1, 1], [2**20, 2**20, 2**21], None, True, clip(1, 16, 1, 1, 1), 0)
    with pytest.raises(RuntimeError, match="sizes must fit into 64 bits"):
        torch.ops.fasti3d.conv3d_packed_(row, packed, torch.zeros(16), *geometry)


HALF = torch.float16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 16, 4, 5, dtype=HALF)}, "x must be"),
        ({"x": torch.zeros(2, 16, 4, 5, 0, dtype=HALF)}, "none of them empty"),
        ({"x": torch.zeros(2, 16, 4, 5, 6)}, "x must be torch.float16"),
        ({"weight": torch.zeros(8, 0, 16, dtype=HALF)}, "none of them empty"),
        ({"bias": torch.zeros(9)}, "none of them empty, got"),
        ({"out": torch.zeros(2, 9, 4, 5, 6, dtype=HALF)}, "out must have 8 channels"),
        ({"out": torch.zeros(2, 8, 4, 5, 7, dtype=HALF)}, "out must be torch.float16 of shape"),
        (
            {
                "out": torch.zeros(2, 8, 4, 1, 6, dtype=HALF)
                .contiguous(memory_format=LAST)
                .expand(-1, -1, -1, 5, -1)
            },
            "single",
        ),
    ],
)
def test_operators_of_gpus_check_before_they_launch(change: dict[str, Tensor], message: str) -> None:
    given: dict[str, Any] = {
        "x": torch.zeros(2, 16, 4, 5, 6, dtype=HALF), "weight": torch.zeros(8, 1, 16, dtype=HALF),
        "bias": torch.zeros(8), "out": torch.zeros(2, 8, 4, 5, 6, dtype=HALF).contiguous(memory_format=LAST),
    }  # fmt: skip
    x, weight, bias, out = (given | change).values()
    ops = torch.ops.fasti3d
    with pytest.raises(RuntimeError, match=message):
        ops.pooled_conv3d_triton_(x, weight, bias, True, out)
    with pytest.raises(RuntimeError, match=message):
        ops.conv3d_split_triton_(x, weight, bias, True, out[:, :3], out[:, 3:])
    if x.dim() == 5:
        with pytest.raises(RuntimeError, match=message + "|out must hold"):
            ops.conv3d_triton_(x, weight, bias, [1, 1, 1], [1, 1, 1], None, True, out, 0)


@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_flow_is_finite_to_the_ends_of_what_may_be_asked_for(mode: str) -> None:
    frames = torch.randint(0, 256, (2, 24, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    short = {
        "mode": mode,
        "nscales": 2,
        "warps": 2,
        "inner_iterations": 10,
        "outer_iterations": 3,
        "epsilon": 0.0,
    }
    start = torch.full((2, 24, 30), 1e9)
    start[:, ::2] = -1e9
    for ends in (
        {"tau": 1e12, "theta": 1e6, "lambda_": 1.0, "gamma": 1e6},
        {"tau": 1e6, "theta": 1.0, "lambda_": 1e6, "gamma": 1e6},
        {"tau": 1e-300, "theta": 1e-306, "lambda_": 5e-324, "gamma": 1e-300},
        {"warps": 0},
    ):
        flow = tvl1(*frames, params=TVL1Params(**(short | ends)), initial_flow=start)
        assert flow.isfinite().all()
    with pytest.raises(ValueError, match="initial_flow must be at most 1e"):
        tvl1(*frames, initial_flow=start * 1.1)


@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_without_warps_the_flow_is_where_it_starts(mode: str) -> None:
    params = TVL1Params(mode=mode, warps=0, nscales=1)
    frames, start = torch.zeros(2, 20, 20, dtype=torch.uint8), torch.randn(2, 20, 20)
    assert not tvl1(*frames, params=params).any()
    assert torch.equal(tvl1(*frames, params=params, initial_flow=start), start)


_WITHOUT = """
import sys
sys.modules["fasti3d._C"] = None  # as if it had not been built
from campaign import run
from hostile import EVERY, refuse
import torch
compiled = "conv3d_packed_", "conv3d_tiles_", "conv3d_winograd_", "conv3d_pack", "conv3d_grad_weight"
for name, make, change in EVERY:
    if name not in compiled:
        refuse(name, make, change)
"""


def test_references_refuse_what_kernels_refuse() -> None:
    path = [TESTS / "campaign", TESTS / "ops", TESTS, TESTS.parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
