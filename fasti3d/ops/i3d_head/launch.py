"""Runs the Triton kernel of the head. Imports triton: to be imported where it is first used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fasti3d.ops.dependent_launch.launch import in_turn_options
from fasti3d.ops.i3d_head.triton_kernels import _average_head_kernel
from fasti3d.ops.tiling import Triple

# Channels of a program: 32 programs per clip of I3D's 1024, each of which reads whole cache lines.
_BLOCK_C = 32
# Classes of a step, and programs whose shares are added up in one.
_BLOCK_K, _BLOCK_J = 128, 32
_VECTOR_BYTES = 16
_WARPS = 8
# Left to itself ptxas makes do with 64, for which it spills on some chips and lets loads wait for each other.
_REGISTERS = 128


def tile(steps: int) -> tuple[int, int, int]:
    """Windows, one per warp, and pixels, which a warp sums among its threads, of a step; and steps in a row.

    A clip of one window, as of a global average, gives each of the warps pixels of it.
    """
    return (8, 8, 7) if steps > 1 else (1, 64, 1)


def head(
    x: Tensor, weight: Tensor, bias: Tensor, window: Triple, *, empty: Callable[..., Tensor] = torch.empty
) -> tuple[Tensor, Tensor]:
    """Features and logits, as ``fasti3d.ops.average_head`` says. ``empty`` allocates the memory that they are
    written to.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    n, channels, frames, height, width = x.shape
    classes, chunks = len(bias), -(-channels // _BLOCK_C)
    values = _VECTOR_BYTES // x.element_size()
    vector = values if channels % values == 0 else 1

    steps = frames - window[0] + 1
    shapes = (n, channels, steps), (n, classes), (n, chunks, classes)
    # The parts are of this call alone, as calls may overlap on several streams.
    features, logits, parts = (empty(shape, dtype=torch.float32, device=x.device) for shape in shapes)
    done = torch.zeros(n, dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        _average_head_kernel[(n * chunks,)](
            x,
            weight.contiguous(),
            bias.contiguous(),
            features,
            logits,
            parts,
            done,
            frames,
            height,
            width,
            channels // vector,
            classes,
            chunks,
            *window,
            vector,
            # As many bytes in flight in every dtype: registers hold no more.
            2 if window[0] % 2 == 0 and x.element_size() == 2 else 1,
            _BLOCK_C,
            *tile(steps),
            _BLOCK_K,
            _BLOCK_J,
            num_warps=_WARPS,
            maxnreg=_REGISTERS,
            enable_fp_fusion=False,
            **in_turn_options(x.device),
        )
    return features, logits
