"""What is to be proved of a call of a Triton kernel: the same configuration and channels on a few tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fasti3d.ops.tiling import Box, Triple
from fasti3d.proof.subject import Layout, Subject, few_tiles

if TYPE_CHECKING:
    from fasti3d.inputs import Scaling
    from fasti3d.ops.batch_norm_relu import config as batch_norm
    from fasti3d.ops.conv3d_bn_relu import config as conv
    from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
    from fasti3d.ops.conv3d_slab import config as slab
    from fasti3d.ops.max_pool3d_same import config as pool
    from fasti3d.ops.pooled_conv3d import config as pooled
    from fasti3d.ops.pooled_conv3d_slab import config as pooled_slab

# Frames, rows and columns beyond the head's window: as many as take more than one step.
_HEAD_MORE = 9, 2, 2


def conv3d(
    config: conv.Config,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> Subject:
    """Of ``launch.conv3d``: a piece from within a clip stays one."""
    return Subject.of(
        "conv3d",
        f"conv3d of {_name(x)}, {x.shape[1]} to {out.shape[1]} channels, kernel {_times(geometry.kernel)}, "
        f"stride {_times(geometry.stride)}{'' if residual is None else ', residual'}: {config.short}",
        weight=Layout.of(weight),
        config=asdict(config),
        **_few_convolved(config.box, x, geometry, out, start, residual),
    )


def _few_convolved(
    box: Box, x: Tensor, geometry: Geometry, out: Tensor, start: int, residual: Tensor | None
) -> dict[str, Any]:
    """A convolution into a few tiles of ``box``; a piece from within a clip stays one."""
    clips, *size = few_tiles((out.shape[0], *out.shape[2:]), box)
    whole = geometry.output_size(x.shape[2:])
    first, after = min(start, 1), whole[0] > start + out.shape[2]
    few = (first + size[0] + after, *size[1:])
    lengths = [n - (w - f) * s for n, w, f, s in zip(x.shape[2:], whole, few, geometry.stride, strict=True)]
    return {
        "x": Layout.of(x).smaller((clips, x.shape[1], *lengths)),
        "out": Layout.of(out).smaller((clips, out.shape[1], *size)),
        "geometry": geometry._asdict(),
        "start": first,
        "residual": residual
        if residual is None
        else Layout.of(residual).smaller((clips, out.shape[1], *size)),
    }


def conv3d_slab(
    config: slab.Config,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> Subject:
    """Of a convolution over slabs, by the kernel that nvcc compiled."""
    its = _few_convolved((1, *config.block), x, geometry, out, start, residual)
    return Subject.of(
        "conv3d_slab",
        f"conv3d of {_name(x)}, {x.shape[1]} to {out.shape[1]} channels, kernel {_times(geometry.kernel)}, "
        f"stride {_times(geometry.stride)}{'' if residual is None else ', residual'}: {config.short}",
        dtype=_name(weight),
        config=asdict(config),
        **its,
    )


def conv3d_fold(x: Tensor, geometry: Geometry, cells: Tensor, scaling: Scaling | None) -> Subject:
    """Of ``fold.fold``: two clips of a few cells, with padding on every side."""
    whole = geometry.output_size(x.shape[2:])
    few = [min(n, 3) for n in whole]
    lengths = [n - (w - f) * s for n, w, f, s in zip(x.shape[2:], whole, few, geometry.stride, strict=True)]
    clips = min(len(x), 2)
    size = [n - (w - f) for n, w, f in zip(cells.shape[1:4], whole, few, strict=True)]
    return Subject.of(
        "conv3d_fold",
        f"cells of {_name(x)}, {x.shape[1]} channels, kernel {_times(geometry.kernel)}, stride "
        f"{_times(geometry.stride)}",
        scaling=scaling,
        x=Layout.of(x).smaller((clips, x.shape[1], *lengths)),
        cells=Layout.of(cells).smaller((clips, *size, cells.shape[4])),
        geometry=geometry._asdict(),
    )


def conv3d_stats(config: conv.Config, x: Tensor, weight: Tensor, geometry: Geometry, out: Tensor) -> Subject:
    """Of the convolution that finds statistics."""
    clips, *size = few_tiles((out.shape[0], *out.shape[2:]), config.box)
    whole = geometry.output_size(x.shape[2:])
    lengths = [n - (w - f) * s for n, w, f, s in zip(x.shape[2:], whole, size, geometry.stride, strict=True)]
    return Subject.of(
        "conv3d_stats",
        f"conv3d with statistics of {_name(x)}, {x.shape[1]} to {out.shape[1]} channels, kernel "
        f"{_times(geometry.kernel)}, stride {_times(geometry.stride)}: {config.short}",
        x=Layout.of(x).smaller((clips, x.shape[1], *lengths)),
        weight=Layout.of(weight),
        out=Layout.of(out).smaller((clips, out.shape[1], *size)),
        kernel=geometry.kernel,
        stride=geometry.stride,
        config=asdict(config),
    )


def conv3d_split(
    config: conv.Config, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, second: Tensor
) -> Subject:
    """Of ``launch.conv3d_split``."""
    clips, *size = few_tiles((x.shape[0], *x.shape[2:]), config.box)
    x_few, *outs = (Layout.of(y).smaller((clips, y.shape[1], *size)) for y in (x, out, second))
    return Subject.of(
        "conv3d_split",
        f"conv3d of {_name(x)}, {x.shape[1]} to {out.shape[1]} and {second.shape[1]} channels, kernel 1x1x1: "
        f"{config.short}",
        x=x_few,
        weight=Layout.of(weight),
        outs=outs,
        relu=relu,
        config=asdict(config),
    )


def pooled_conv3d(
    config: pooled.Config, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor
) -> Subject:
    """Of ``launch.pooled_conv3d``."""
    clips, *size = few_tiles((x.shape[0], *x.shape[2:]), config.box)
    return Subject.of(
        "pooled_conv3d",
        f"max_pool3d and conv3d of {_name(x)}, {x.shape[1]} to {out.shape[1]} channels: {_times(config.box)} "
        f"by {config.block_n}, {config.block_k} deep{config.precision.note}",
        x=Layout.of(x).smaller((clips, x.shape[1], *size)),
        weight=Layout.of(weight),
        out=Layout.of(out).smaller((clips, out.shape[1], *size)),
        relu=relu,
        config=asdict(config),
    )


def pooled_conv3d_slab(config: pooled_slab.Config, x: Tensor, relu: bool, out: Tensor) -> Subject:
    """Of a pool and convolution over slabs, by the kernel that nvcc compiled."""
    clips, *size = few_tiles((x.shape[0], *x.shape[2:]), (1, *config.block))
    return Subject.of(
        "pooled_conv3d_slab",
        f"max_pool3d and conv3d of {_name(x)}, {x.shape[1]} to {out.shape[1]} channels: {config.short}",
        x=Layout.of(x).smaller((clips, x.shape[1], *size)),
        out=Layout.of(out).smaller((clips, out.shape[1], *size)),
        relu=relu,
        config=asdict(config),
    )


def max_pool3d(
    config: pool.Config | None,
    x: Tensor,
    kernel: Triple,
    stride: Triple,
    padding: Triple | None,
    ceil_mode: bool,
    out: Tensor,
) -> Subject:
    """Of ``launch.max_pool3d``, and without a configuration of the compiled kernel."""
    clips, *size = few_tiles((x.shape[0], *out.shape[2:]), config.box if config else (1, 2, 2, 2))
    lengths = [n - (m - f) * s for n, m, f, s in zip(x.shape[2:], out.shape[2:], size, stride, strict=True)]
    return Subject.of(
        "max_pool3d",
        f"max_pool3d of {_name(x)}, {x.shape[1]} channels, kernel {_times(kernel)}, stride {_times(stride)}: "
        + (f"{_times(config.box)} by {config.block_c}" if config else "compiled by nvcc"),
        x=Layout.of(x).smaller((clips, x.shape[1], *lengths)),
        out=Layout.of(out).smaller((clips, x.shape[1], *size)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        config=config and asdict(config),
    )


def max_pool3d_taps(
    config: pool.Config, x: Tensor, kernel: Triple, stride: Triple, out: Tensor, taps: Tensor
) -> Subject:
    """Of the max-pool with taps."""
    clips, *size = few_tiles((len(x), *out.shape[2:]), config.box)
    lengths = [n - (m - f) * s for n, m, f, s in zip(x.shape[2:], out.shape[2:], size, stride, strict=True)]
    return Subject.of(
        "max_pool3d_taps",
        f"max_pool3d with taps of {_name(x)}, {x.shape[1]} channels, kernel {_times(kernel)}, stride "
        f"{_times(stride)}: {_times(config.box)} by {config.block_c}",
        x=Layout.of(x).smaller((clips, x.shape[1], *lengths)),
        written=[Layout.of(it).smaller((clips, x.shape[1], *size)) for it in (out, taps)],
        kernel=kernel,
        stride=stride,
        config=asdict(config),
    )


def max_pool3d_taps_backward(
    config: pool.Config, grad: Tensor, taps: Tensor, kernel: Triple, stride: Triple, out: Tensor
) -> Subject:
    """Of its gradient."""
    clips, *size = few_tiles((len(out), *out.shape[2:]), config.box)
    less = [n - f for n, f in zip(out.shape[2:], size, strict=True)]
    # As many windows less as keep the padding.
    size = [n - d + d % s for n, d, s in zip(out.shape[2:], less, stride, strict=True)]
    windows = [m - d // s for m, d, s in zip(grad.shape[2:], less, stride, strict=True)]
    return Subject.of(
        "max_pool3d_taps_backward",
        f"gradient of max_pool3d of {_name(grad)}, {grad.shape[1]} channels, kernel {_times(kernel)}, stride "
        f"{_times(stride)}: {_times(config.box)} by {config.block_c}",
        read=[Layout.of(it).smaller((clips, grad.shape[1], *windows)) for it in (grad, taps)],
        out=Layout.of(out).smaller((clips, grad.shape[1], *size)),
        kernel=kernel,
        stride=stride,
        config=asdict(config),
    )


def batch_norm_relu(name: str, config: batch_norm.Config, maps: Sequence[Tensor]) -> Subject:
    """Of a pass of a batch norm over rows of channels: two tiles and a part of one."""
    few = replace(config, steps=min(config.steps, 2))
    size = min(len(maps[0]), 2 * few.tile_rows + 1), maps[0].shape[1]
    return Subject.of(
        "batch_norm_relu",
        f"{name} of {_name(maps[0])}, {size[1]} channels: {config.block_m} by {config.block_c}",
        name=name,
        maps=[Layout.of(it).smaller(size) for it in maps],
        config=asdict(few),
    )


def head(x: Tensor, weight: Tensor, window: Triple) -> Subject:
    """Of ``launch.head``."""
    n, channels, *size = x.shape
    few = [min(length, w + more) for length, w, more in zip(size, window, _HEAD_MORE, strict=True)]
    return Subject.of(
        "average_head",
        f"the head of {_name(x)}, {channels} channels, window {_times(window)}, {len(weight)} classes",
        x=Layout.of(x).smaller((min(n, 2), channels, *few)),
        classes=len(weight),
        window=window,
    )


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _times(lengths: tuple[int, ...]) -> str:
    return "x".join(map(str, lengths))
