"""Runs the Triton kernel of the head. Imports triton: to be imported where it is first used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fasti3d.network import HEAD_POOL
from fasti3d.ops.i3d_head.triton_kernels import _i3d_head_kernel

# Channels of a program: 32 programs a clip of the network's 1024, each of which reads whole cache lines.
_BLOCK_C = 32
# Windows, one a warp, and pixels, which a warp sums among its threads, of a step; and steps in a row: all
# of a clip of 64 frames of 224x224.
_BLOCK_T, _BLOCK_P, _STEPS = 8, 8, 7
# Classes of a step, and programs whose shares are added up in one.
_BLOCK_K, _BLOCK_J = 128, 32
_VECTOR = 8
_WARPS = 8
# Left to itself ptxas makes do with 64, for which it spills on some chips and lets loads wait for each other.
_REGISTERS = 128


def head(
    x: Tensor, weight: Tensor, bias: Tensor, *, empty: Callable[..., Tensor] = torch.empty
) -> tuple[Tensor, Tensor]:
    """Features and logits, as ``fasti3d.ops.i3d_head.op.i3d_head`` says; x in half precision. ``empty`` makes
    the memory that they are written to.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    n, channels, frames, height, width = x.shape
    classes, chunks = len(bias), -(-channels // _BLOCK_C)
    vector = _VECTOR if channels % _VECTOR == 0 else 1

    shapes = (n, channels, frames - HEAD_POOL[0] + 1), (n, classes), (n, chunks, classes)
    # The parts are of this call alone, as calls may overlap on several streams.
    features, logits, parts = (empty(shape, dtype=torch.float32, device=x.device) for shape in shapes)
    done = torch.zeros(n, dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        _i3d_head_kernel[(n * chunks,)](
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
            vector,
            HEAD_POOL[1],
            _BLOCK_C,
            _BLOCK_T,
            _BLOCK_P,
            _STEPS,
            _BLOCK_K,
            _BLOCK_J,
            num_warps=_WARPS,
            maxnreg=_REGISTERS,
            enable_fp_fusion=False,
        )
    return features, logits
