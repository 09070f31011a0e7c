"""Which tiles the Triton max-pool with taps and its gradient take: pure functions, printable.

Half of the max-pool's, as a thread keeps two numbers for each value.

>>> choose_backward(8, 192, (32, 56, 56), (1, 3, 3), (1, 2, 2), 2, 132)
Config(box=(1, 1, 4, 16), block_c=64)
"""

from __future__ import annotations

from fasti3d.ops.max_pool3d_same.config import MAX_COLUMNS, Config, Problem
from fasti3d.ops.max_pool3d_same.config import choose as choose_pool
from fasti3d.ops.tiling import Triple, count


def has_kernel(kernel: Triple) -> bool:
    """Whether there are kernels for a window: a row of its taps is unrolled."""
    return kernel[2] <= MAX_COLUMNS


def choose(
    batch: int, channels: int, size: Triple, kernel: Triple, itemsize: int, multiprocessors: int
) -> Config:
    """The tile of output pixels; ``size`` is the output's (T, H, W), ``itemsize`` bytes of a value."""
    return choose_pool(Problem(batch, channels, size, kernel, 2 * itemsize, multiprocessors))


def choose_backward(
    batch: int,
    channels: int,
    size: Triple,
    kernel: Triple,
    stride: Triple,
    itemsize: int,
    multiprocessors: int,
) -> Config:
    """The tile of input pixels, each of which is in a box of windows; ``size`` is the input's (T, H, W)."""
    t, h, w = map(count, kernel, stride)
    return choose_pool(Problem(batch, channels, size, (t, h, w), 2 * itemsize, multiprocessors))
