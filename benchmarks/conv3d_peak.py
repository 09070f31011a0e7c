"""Executed products of the largest 3x3x3 layers against the peak of FMA instructions, on one thread.

``python -m benchmarks.conv3d_peak``, for AVX2 after ``FASTI3D_ISA=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2``. The
peak is that of torch's product of matrices that fit the L2 cache, in the same minute. Products are those of
the layer's minimal filters; its time has transforms, bias and ReLU in it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from fasti3d.ops.conv3d_bn_relu.forms import choose_form
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d
from fasti3d.runtime.extension import instruction_set

# (name, input channels, output channels, frames, rows, columns)
LAYERS = (("Conv3d_2c_3x3", 64, 192, 32, 56, 56), ("Mixed_3c.b1b", 128, 192, 32, 28, 28))
# Rows and columns of the matrices.
_SIZE, _CALLS = 384, 20
_ROUNDS = 7


def least_seconds(call: Callable[[], object], calls: int = 1) -> float:
    """Of ``_ROUNDS``, per call; the first is not timed."""
    call()
    found = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - start) / calls)
    return min(found)


def packed(in_channels: int, out_channels: int, kernel: int) -> PackedConv3d:
    weight = torch.randn(out_channels, in_channels, kernel, kernel, kernel) / (in_channels * kernel**3) ** 0.5
    return PackedConv3d.pack(weight, torch.randn(out_channels), (1, 1, 1), relu=True, dtype=torch.float32)


def clip(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)


def peak() -> float:
    """Products per second."""
    a, b = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    out = torch.empty(_SIZE, _SIZE)
    return _SIZE**3 / least_seconds(lambda: torch.mm(a, b, out=out), _CALLS)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    best = peak()
    print(f"{instruction_set()}, one thread: {best / 1e9:.1f} G products/s at the peak")
    for name, channels, outputs, *size in LAYERS:
        conv, x = packed(channels, outputs, 3), clip(1, channels, *size)
        out = conv(x)
        form = choose_form(channels, outputs, conv.geometry, torch.float32)
        products = form.products * channels * outputs * prod(size)
        rate = products / least_seconds(functools.partial(conv, x, out))
        print(f"{name}, {form}: {rate / 1e9:.1f} G products/s, {rate / best:.0%}")


if __name__ == "__main__":
    main()
