"""Every Triton kernel under CUDA's compute-sanitizer, on small clips that no tile fits."""

from __future__ import annotations

import pytest
import torch
from requiring import require
from sanitizing import assert_sanitized

from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

# After a line that says how many candidates of each convolution run.
PROGRAM = """
import torch
from fasti3d.ops.conv3d_bn_relu import PackedConv3d, launch
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.i3d_head.op import i3d_head
from fasti3d.ops.max_pool3d_same import launch as pools
from fasti3d.ops.pooled_conv3d.op import pool_and_convolve

def clip(channels, size=(3, 9, 11), dtype=torch.float16):
    return torch.ones((2, *size, channels), dtype=dtype, device="cuda").permute(0, 4, 1, 2, 3)

def packed(out_channels, channels, kernel, stride=(1, 1, 1)):
    weight = torch.ones((out_channels, channels, *kernel), device="cuda")
    bias = torch.ones(out_channels, device="cuda")
    return PackedConv3d.pack(weight, bias, stride, relu=True, dtype=torch.float16)

one, two, three, seven = ((n, n, n) for n in (1, 2, 3, 7))
for channels, kernel, stride in ((24, three, one), (48, one, one), (24, three, two), (3, seven, two)):
    conv, x = packed(72, channels, kernel, stride), clip(channels)
    out = torch.empty_like(conv(x))
    work = launch.prepare(x, conv.weight, conv.bias, Geometry(kernel, stride, None, True), out, 0)
    added = launch.prepare(x, conv.weight, conv.bias, Geometry(kernel, stride, None, True), out, 0, out)
    for config in candidates(work.problem)[:CANDIDATES]:
        launch.run(config, work)
        launch.run(config, added)
conv(clip(3, dtype=torch.uint8), out)
packed(88, 48, one).into_two(clip(48), clip(32), clip(56))
pool_and_convolve(packed(40, 48, one), clip(48), clip(40))
for kernel, stride in (((1, 3, 3), (1, 2, 2)), (three, two), (two, two), (three, one)):
    x = clip(24)
    size = [-(-n // s) for n, s in zip(x.shape[2:], stride)]
    pools.max_pool3d(x, kernel, stride, clip(24, size))
i3d_head(clip(72, (3, 8, 7)), torch.ones(5, 72, device="cuda"), torch.ones(5, device="cuda"))
torch.cuda.synchronize()
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    require(gpu.why_no_triton(torch.device("cuda")))
    assert_sanitized(tool, "CANDIDATES = None" + PROGRAM)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing_in_the_defaults(tool: str) -> None:
    require(gpu.why_no_triton(torch.device("cuda")))
    assert_sanitized(tool, "CANDIDATES = 1" + PROGRAM)
