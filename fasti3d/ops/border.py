"""What operators check of their arguments, as csrc/common/clip.h and overlap.h do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

# Of a window. The limit of padding is lower, as clips of few channels are copied with it.
MAX_LENGTH = 2**31 - 1
MAX_PADDING = 2**15 - 1

# Steps of the search for a place that two tensors share, before they are taken to share one.
_BUDGET = 10_000

Triple = tuple[int, int, int]


def triple(must_be: str, values: Any, low: int, high: int = MAX_LENGTH) -> Triple:
    """Three whole numbers (t, h, w) in a range; else a ValueError that begins with ``must_be``."""
    whole = isinstance(values, Sequence) and all(isinstance(value, Integral) for value in values)
    if not whole or len(values) != 3 or min(values) < low or max(values) > high:
        shown = tuple(values) if isinstance(values, list | tuple) else repr(values)
        raise ValueError(f"{must_be} 3 whole numbers (t, h, w) of {low} to {high}, got {shown}")
    return int(values[0]), int(values[1]), int(values[2])


def check_clip(x: Tensor, channels: str = "C") -> None:
    """ValueError for anything but a clip of one of the dtypes that operators compute."""
    if x.dim() != 5:
        raise ValueError(f"x must be (N, {channels}, T, H, W), got shape {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"x must be float32, bfloat16 or float16, got {x.dtype}")


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and sums of a map: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def check_map(x: Tensor, name: str = "x") -> None:
    """ValueError for anything but a floating map with adjacent channels, or a channel slice of one."""
    if x.dim() != 5:
        raise ValueError(f"{name} must be (N, C, T, H, W), got shape {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"{name} must be float32, bfloat16, float16 or float64, got {x.dtype}")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ValueError(
            f"{name} must be channels-last (channel stride 1), got channel stride {x.stride(1)}: "
            "call .contiguous(memory_format=torch.channels_last_3d)"
        )


def check_vectors(x: Tensor, **vectors: Tensor) -> None:
    """ValueError unless each has a number for every channel of x, in the dtype of x's sums."""
    dtype = sum_dtype(x.dtype)
    for name, vector in vectors.items():
        if vector.shape != x.shape[1:2] or vector.dtype != dtype or not vector.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous {dtype} of shape ({x.shape[1]},), a number per channel of x, got "
                f"{vector.dtype} of {tuple(vector.shape)}"
            )
        if vector.device != x.device:
            raise ValueError(f"{name} is on {vector.device}, but x on {x.device}: move one to the other")


def check_apart(written: Mapping[str, Tensor], **inputs: Tensor) -> None:
    """ValueError if dense tensors that are written share memory with inputs, or with each other."""
    read = dict(inputs)
    for name, tensor in written.items():
        for other, against in read.items():
            if _has_memory(tensor) and _has_memory(against) and _share_memory(tensor, against):
                raise ValueError(
                    f"unsupported operation: some elements of {other} and {name} refer to a single memory "
                    "location: clone one of them"
                )
        read[name] = tensor


def check_out(
    out: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
    name: str = "out",
    /,
    *,
    residual: Tensor | None = None,
    **inputs: Tensor | None,
) -> None:
    """ValueError unless ``out`` is a channels-last clip of this shape and dtype, in memory of its own, which
    a ``residual`` may share only as a whole.
    """
    if tuple(out.shape) != tuple(shape) or out.dtype != dtype:
        raise ValueError(
            f"{name} must be {dtype} of shape {tuple(shape)}, got {out.dtype} of {tuple(out.shape)}"
        )
    if out.shape[1] > 1 and out.stride(1) != 1:
        raise ValueError(
            f"{name} must be channels-last (channel stride 1), got strides {out.stride()}: allocate it with "
            "memory_format=torch.channels_last_3d"
        )
    if not _has_memory(out):
        return
    if not _is_written_once(out):
        raise ValueError(
            f"unsupported operation: more than one element of {name} refers to a single memory location: "
            f"pass memory of its own for each, for example {name}.clone()"
        )
    for other, tensor in inputs.items():
        if tensor is not None and _has_memory(tensor) and _share_memory(out, tensor):
            raise ValueError(
                f"unsupported operation: some elements of {other} and {name} refer to a single memory "
                "location: clone one of them"
            )
    check_in_place(out, residual)


def check_in_place(out: Tensor, residual: Tensor | None) -> None:
    """ValueError if ``residual`` shares memory with ``out``, of whose shape it is, and is not ``out``."""
    if residual is None or is_same_place(residual, out) or not (_has_memory(out) and _has_memory(residual)):
        return
    if _share_memory(out, residual):
        raise ValueError(
            "unsupported operation: some elements of residual and out refer to a single memory location: "
            "pass out itself as residual, or clone one of them"
        )


def check_residual(residual: Tensor | None, shape: Sequence[int], x: Tensor) -> None:
    """ValueError unless ``residual`` can be added to a result of this shape, of x's dtype and device."""
    if residual is None:
        return
    if tuple(residual.shape) != tuple(shape) or residual.dtype != x.dtype:
        raise ValueError(
            f"residual must be {x.dtype} of the result's shape {tuple(shape)}, got {residual.dtype} of "
            f"{tuple(residual.shape)}"
        )
    if residual.device != x.device:
        raise ValueError(f"residual is on {residual.device}, but x on {x.device}: move one to the other")


def is_same_place(a: Tensor, b: Tensor) -> bool:
    """Whether tensors of one shape and dtype have each element at the same address."""
    if not (_has_memory(a) and _has_memory(b)):
        return a is b
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return a.data_ptr() == b.data_ptr() and all(n < 2 or s == t for n, s, t in strides)


def _has_memory(x: Tensor) -> bool:
    """Whether a tensor has addresses to compare: not while compiling, not if it is meta or empty."""
    known = type(x) in (Tensor, nn.Parameter) and not x.is_meta and not torch.compiler.is_compiling()
    return known and x.numel() > 0


def _axes(x: Tensor) -> list[tuple[int, int]]:
    """(step in bytes, places) of the axes of more than one place, and of an element's bytes."""
    size = x.element_size()
    axes = [(1, size), *((step * size, places) for step, places in zip(x.stride(), x.shape, strict=True))]
    return [axis for axis in axes if axis[1] > 1]


def _is_written_once(x: Tensor) -> bool:
    """Whether each axis steps over all that the axes of smaller steps reach."""
    reach = 0
    for step, places in sorted(_axes(x)):
        if step <= reach:
            return False
        reach += step * (places - 1)
    return True


def _share_memory(a: Tensor, b: Tensor) -> bool:
    axes = [*_axes(a), *_axes(b)]
    rest = sum(step * (places - 1) for step, places in axes)
    # From a's first byte to b's last: b's axes are counted backwards, so that all steps are forwards.
    distance = b.data_ptr() - a.data_ptr() + sum(step * (places - 1) for step, places in _axes(b))
    if not 0 <= distance <= rest:
        return False
    steps: Counter[int] = Counter()
    for step, places in axes:
        if step:
            steps[step] += places - 1
    return _reaches(sorted(steps.items(), reverse=True), distance, rest, [_BUDGET])


def _reaches(axes: list[tuple[int, int]], distance: int, rest: int, budget: list[int]) -> bool:
    """Whether steps, each taken at most as often as it says, largest first, can add up to ``distance``."""
    if not 0 <= distance <= rest:
        return False
    budget[0] -= 1
    if not axes or budget[0] < 0:
        return True
    (step, count), *smaller = axes
    rest -= step * count
    for taken in range(min(distance // step, count), -1, -1):
        if distance - taken * step > rest:
            return False
        if _reaches(smaller, distance - taken * step, rest, budget):
            return True
    return False
