"""Runs the Triton kernels of conv3d + bias + ReLU. Imports triton: to be imported where it is first used."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fasti3d.ops import subjects
from fasti3d.ops.channels_last import channels_last, vector
from fasti3d.ops.conv3d_bn_relu import plain
from fasti3d.ops.conv3d_bn_relu.config import Config, Form, Problem, choose
from fasti3d.ops.conv3d_bn_relu.fold import launch_fold
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import cells_shape, folded_kernel, is_folded, windows
from fasti3d.ops.conv3d_bn_relu.tables import tuned
from fasti3d.ops.conv3d_bn_relu.triton_kernels import (
    _conv3d_descriptor_kernel,
    _conv3d_pointer_kernel,
)
from fasti3d.ops.dependent_launch.launch import in_turn_options
from fasti3d.ops.tiling import Triple, count
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime.gpu import gpu_traits
from fasti3d.runtime.precision import precision_of

# What descriptors want addresses and strides to be multiples of.
_VECTOR_BYTES = 16
# Layouts of tensors that are remembered.
_LAYOUTS = 4096
# A product and a sum are left as they are written: what triton does by default depends on its release.
_OPTIONS = {"enable_fp_fusion": False}


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    """Writes the output frames from ``start`` on, as many as ``out`` holds.

    Args:
        x: (N, Cin, T, H, W), float32, float16 or bfloat16; or uint8 where it is folded, 0 to 255 for -1 to 1.
        weight: what ``pack_triton`` made, in the dtype of ``out``, which is x's unless that is uint8.
        bias: (Cout,), float32.
        geometry: window and ReLU.
        out: (N, Cout, T', H', W'), channels adjacent, e.g. a channel slice of a wider clip.
        start: the first output frame.
        residual: what is added before the ReLU, of ``out``'s shape and dtype, channels adjacent, or ``out``.
    """
    if out.numel() == 0:
        return
    with torch.cuda.device_of(x):
        call = (x, weight, bias, geometry, out, start, residual)
        work = outline(*call)
        config = tuned(x.device).get(work.problem) or choose(work.problem)
        guarded(
            x.device,
            _key("conv3d", config, call),
            lambda: subjects.conv3d(config, *call),
            lambda: run(config, prepare(*call) if is_folded(x.shape[1], geometry.kernel) else work),
            lambda: plain.conv3d_into(*call),
        )


class Prepared(NamedTuple):
    """A convolution over x as its kernel reads it; ``pad`` is zeros before each axis, negative to skip."""

    problem: Problem
    x: Tensor
    weight: Tensor
    bias: Tensor
    kernel: Triple
    stride: Triple
    pad: Triple
    relu: bool
    out: Tensor
    second: Tensor | None = None
    residual: Tensor | None = None
    # (tiles of pixels, 3, Cout), float32: what tiles add to statistics; then there is neither bias nor ReLU.
    part: Tensor | None = None

    @property
    def clips(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, out, second and residual as (N, T, H, W, C); ``out`` stands for one that is None."""
        others = (self.out if it is None else it for it in (self.second, self.residual))
        second, residual = map(channels_last, others)
        return channels_last(self.x), channels_last(self.out), second, residual

    def channel_tiles(self, config: Config) -> tuple[int, int]:
        """Tiles of channels, and those of them over the first output's."""
        return self.problem.channel_tiles(config.block_n + config.block_n_rest)

    def pixel_tiles(self, config: Config) -> int:
        """Tiles of pixels."""
        size = channels_last(self.out).shape[:4]
        if config.form == Form.DESCRIPTOR:
            return math.prod(map(count, size, config.box))
        return count(math.prod(size), config.block_m)


def prepare(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> Prepared:
    """Folds what has few channels and merges axes where that may be; takes what ``conv3d`` takes."""
    return _prepare(_fold, x, weight, bias, geometry, out, start, residual)


def outline(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> Prepared:
    """The same with nothing launched yet, not even what folds the clip."""
    return _prepare(_cells, x, weight, bias, geometry, out, start, residual)


def folded(x: Tensor, geometry: Geometry, out: Tensor, start: int) -> Tensor:
    """A clip of few channels as ``windows`` of its cells, as far as the frames of ``out`` read it."""
    pads = [before for before, _ in geometry.pads(x.shape[2:])]
    pad = (pads[0] - start * geometry.stride[0], pads[1], pads[2])
    return _fold(x, geometry.kernel, geometry.stride, pad, out)[0]


def _prepare(
    fold: Callable[[Tensor, Triple, Triple, Triple, Tensor], tuple[Tensor, Triple]],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None,
) -> Prepared:
    kernel, stride, _, relu = geometry
    pad_t, pad_h, pad_w = (before for before, _ in geometry.pads(x.shape[2:]))
    pad = (pad_t - start * stride[0], pad_h, pad_w)
    pointwise = geometry.pointwise
    if is_folded(x.shape[1], kernel):
        x, kernel = fold(x, kernel, stride, pad, out)
        stride, pad, start = (1, 1, 1), (0, 0, 0), 0
        pointwise = kernel == (1, 1, 1)
    elif x.stride(1) != 1:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    if pointwise:
        given = x[:, :, start : start + out.shape[2]], out
        if residual is None:
            x, out = _as_matrices(*given)
        else:
            x, out, residual = _as_matrices(*given, residual)
        pad = (0, 0, 0)
    problem = describe(x, weight, kernel, stride, out, residual=residual)
    return Prepared(problem, x, weight, bias, kernel, stride, pad, relu, out, residual=residual)


def run(config: Config, work: Prepared) -> None:
    """Launches one of the candidates; the current device must be x's."""
    launch = _run_descriptors if config.form == Form.DESCRIPTOR else _run_pointers
    launch(config, work)


def conv3d_split(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, second: Tensor) -> None:
    """1x1x1 convolutions of one clip as one product, their channels written to two clips.

    Args:
        x: (N, Cin, T, H, W), float32, float16 or bfloat16.
        weight: what ``pack_triton`` made of (Cout, Cin, 1, 1, 1), in x's dtype.
        bias: (Cout,), float32.
        relu: whether to zero what is negative.
        out: (N, C, T, H, W) for the first C channels, channels adjacent.
        second: (N, Cout - C, T, H, W) for the others, channels adjacent.
    """
    if out.numel() == 0:
        return
    with torch.cuda.device_of(x):
        work = prepare_split(x, weight, bias, relu, out, second)
        config = tuned(x.device).get(work.problem) or choose(work.problem)
        call = (x, weight, bias, relu, out, second)
        guarded(
            x.device,
            _key("conv3d_split", config, call),
            lambda: subjects.conv3d_split(config, *call),
            lambda: run(config, work),
            lambda: plain.conv3d_split_into(*call),
        )


def _key(operator: str, config: Config, call: tuple[object, ...]) -> Hashable:
    """What of a call decides how its kernel is compiled and launched."""
    return operator, config, *(Layout.of(it) if isinstance(it, Tensor) else it for it in call)


def prepare_split(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, second: Tensor
) -> Prepared:
    """As ``prepare``; takes what ``conv3d_split`` takes."""
    if x.stride(1) != 1:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    x, out, second = _as_matrices(x, out, second)
    one = (1, 1, 1)
    problem = describe(x, weight, one, one, out, second)
    return Prepared(problem, x, weight, bias, one, one, (0, 0, 0), relu, out, second)


def describe(
    x: Tensor,
    weight: Tensor,
    kernel: Triple,
    stride: Triple,
    out: Tensor,
    second: Tensor | None = None,
    residual: Tensor | None = None,
) -> Problem:
    """The convolution as ``choose`` wants it."""
    clips = [channels_last(it) for it in (x, out, second, residual) if it is not None]
    describable = all(map(_is_describable, (_matrix(weight), *clips)))
    n, channels, (t, h, w) = x.shape[0], weight.shape[0], out.shape[2:]
    split = 0 if second is None else out.shape[1]
    where, precision = gpu_traits(x.device), precision_of(out.dtype)
    return Problem(n, x.shape[1], channels, (t, h, w), kernel, stride, *where, describable, split, precision)


def _run_descriptors(config: Config, work: Prepared) -> None:
    x, out, weight = channels_last(work.x), channels_last(work.out), _matrix(work.weight)
    second, residual = (it if it is None else channels_last(it) for it in (work.second, work.residual))
    tiles = work.channel_tiles(config)
    tiles_b, tiles_t, tiles_h, tiles_w = map(count, out.shape[:4], config.box)
    # Triton makes a tensor map of each descriptor at every launch: there is none that a launch does not use.
    channels = (config.block_n, config.block_n_rest)
    outs = (
        None if clip is None or n == 0 else _descriptor(clip, (*config.box, n))
        for clip in (out, second, residual)
        for n in channels
    )
    _conv3d_descriptor_kernel[(tiles[0] * tiles_w * tiles_h * tiles_t * tiles_b,)](
        _descriptor(x, (*config.box, config.block_k)),
        *(_descriptor(weight, (n, config.block_k)) if n else None for n in channels),
        work.bias,
        *outs,
        work.bias if work.part is None else work.part,
        x.shape[4],
        work.weight.shape[0],
        out.shape[4],
        count(x.shape[4], config.block_k),
        *tiles,
        tiles_w,
        tiles_h,
        tiles_t,
        *out.shape[:4],
        *work.pad,
        *work.kernel,
        work.relu,
        work.second is not None,
        work.residual is not None,
        work.part is not None,
        config.precision.products,
        *config.box,
        config.block_n,
        config.block_n_rest,
        config.block_k,
        num_warps=config.warps,
        num_stages=config.stages,
        **_OPTIONS,
        **in_turn_options(x.device),
    )


def _run_pointers(config: Config, work: Prepared) -> None:
    x, out, second, residual = work.clips
    tiles = work.channel_tiles(config)
    vector_x, vector_y = vector(x), min(map(vector, (out, second, residual)))
    _conv3d_pointer_kernel[(work.pixel_tiles(config) * tiles[0],)](
        x,
        _matrix(work.weight),
        work.bias,
        out,
        second,
        residual,
        work.bias if work.part is None else work.part,
        math.prod(out.shape[:4]),
        *x.shape[1:4],
        x.shape[4] // vector_x,
        *out.shape[1:4],
        work.weight.shape[0] // vector_y,
        out.shape[4] // vector_y,
        *(s // vector_x for s in x.stride()[:4]),
        *(s // vector_y for s in out.stride()[:4]),
        *(s // vector_y for s in second.stride()[:4]),
        *(s // vector_y for s in residual.stride()[:4]),
        count(x.shape[4], config.block_k),
        *tiles,
        *work.pad,
        *work.kernel,
        *work.stride,
        work.relu,
        work.second is not None,
        work.residual is not None,
        work.part is not None,
        config.precision.products,
        vector_x,
        vector_y,
        config.block_m,
        config.block_n,
        config.block_k,
        num_warps=config.warps,
        num_stages=config.stages,
        **_OPTIONS,
        **in_turn_options(x.device),
    )


def _cells(x: Tensor, kernel: Triple, stride: Triple, pad: Triple, out: Tensor) -> tuple[Tensor, Triple]:
    """Memory for the clip that a window of one column steps over, and that window."""
    shape = cells_shape(x.shape[0], x.shape[1], kernel, stride, out.shape[2:])
    cells = torch.empty(shape, dtype=out.dtype, device=x.device)
    t, h, _ = folded_kernel(kernel, stride)
    return windows(cells, kernel, stride), (t, h, 1)


def _fold(x: Tensor, kernel: Triple, stride: Triple, pad: Triple, out: Tensor) -> tuple[Tensor, Triple]:
    """The same with the cells written."""
    view, window = _cells(x, kernel, stride, pad, out)
    shape = cells_shape(x.shape[0], x.shape[1], kernel, stride, out.shape[2:])
    launch_fold(x, stride, pad, view, shape)
    return view, window


def _as_matrices(*clips: Tensor) -> tuple[Tensor, ...]:
    """All of them as one long row of pixels, which no tile fits badly, where their memory allows it."""
    try:
        return tuple(
            channels_last(clip).view(1, 1, 1, -1, clip.shape[1]).permute(0, 4, 1, 2, 3) for clip in clips
        )
    except RuntimeError:
        return clips


def _matrix(weight: Tensor) -> Tensor:
    """Packed weights as (taps * Cout, Cin): a view of what ``pack_triton`` made."""
    return weight.transpose(0, 1).flatten(0, 1)


def _is_describable(x: Tensor) -> bool:
    """Whether a descriptor can tell where x lies: aligned, and each axis in steps of whole inner ones."""
    return x.data_ptr() % _VECTOR_BYTES == 0 and _is_nested(x.shape, x.stride(), x.element_size())


def _descriptor(x: Tensor, block: tuple[int, ...]) -> TensorDescriptor:
    """x in boxes: what was checked of a layout before, over x's own memory."""
    described = object.__new__(TensorDescriptor)
    vars(described).update(_layout(x.shape, x.stride(), x.dtype, block), base=x)
    return described


# Of layouts, of which a model has few, and not of tensors: what they keep refers to no memory.
@lru_cache(_LAYOUTS)
def _layout(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, block: tuple[int, ...]
) -> dict[str, Any]:
    """A descriptor's fields, of any tensor that lies so."""
    base = torch.empty(0, dtype=dtype, device="meta")
    return vars(TensorDescriptor(base, list(shape), _strides(shape, strides, dtype.itemsize), list(block)))


@lru_cache(_LAYOUTS)
def _is_nested(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether each axis takes steps of whole inner ones, and of 16 bytes.

    Source: CUDA driver API, cuTensorMapEncodeTiled.
    """
    steps = _strides(shape, strides, itemsize)
    inner = 1
    for length, step in zip(reversed(shape), reversed(steps), strict=True):
        if step < inner:
            return False  # repeated or overlapping
        inner = length * step
    return (
        steps[-1] == 1
        and all(s * itemsize % _VECTOR_BYTES == 0 for s in steps[:-1])
        and all(s % t == 0 for s, t in pairwise(steps))
    )


def _strides(shape: tuple[int, ...], given: tuple[int, ...], itemsize: int) -> list[int]:
    """Strides, with those of axes of length 1, which mean nothing, as of the axis around them."""
    strides = list(given)
    longer = [axis for axis in range(len(shape) - 1) if shape[axis] > 1]
    values = _VECTOR_BYTES // itemsize
    around = strides[longer[0]] * shape[longer[0]] if longer else -(-shape[-1] // values) * values
    for axis in range(len(shape) - 1):
        if axis in longer:
            around = strides[axis]
        strides[axis] = around
    return strides
