"""Checks the images that users give to the solver, and converts them to the form of the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensor

from fasti3d.flow.arrays import as_tensor
from fasti3d.tvl1_limits import MAX_FLOW, MAX_SIDE, MIN_SIDE, ROUNDING

_FLOATS = ("float16", "bfloat16", "float32", "float64")
# A last axis of 3 or 4 under two longer ones is color, hardly the width of images.
_COLORS = (3, 4)
_SURELY_PIXELS = 16


def dtype_name(array: NDArray[Any] | Tensor) -> str:
    return str(array.dtype).removeprefix("torch.") if isinstance(array, Tensor) else array.dtype.name


def as_images(name: str, array: NDArray[Any] | Tensor, *, any_range: bool = False) -> Tensor:
    """(H, W), (N, H, W) or (N, 1, H, W) as a contiguous (N, H, W), uint8 or float32.

    Raises:
        TypeError: neither a NumPy array nor a tensor.
        ValueError: another shape or dtype, a side under 3, float values that are not finite or, unless
            ``any_range``, not 0 to 1, or a tensor that wants a gradient.
    """
    tensor = _as_tensor(name, array, ("uint8", *_FLOATS), "uint8 (0 to 255) or floating point (0 to 1)")
    shape = tuple(tensor.shape)
    color = shape[-1:] in [(n,) for n in _COLORS]
    if tensor.ndim == 2:
        images = tensor.unsqueeze(0)
    elif tensor.ndim == 4 and shape[1] == 1:
        images = tensor.squeeze(1)
    elif tensor.ndim == 3 and not (color and min(shape[:2]) >= _SURELY_PIXELS):
        images = tensor
    else:
        color = color or (tensor.ndim == 4 and shape[1] in _COLORS)
        hint = ": convert color images with fasti3d.flow.to_grey" if color else ""
        raise ValueError(f"{name} must be (H, W), (N, H, W) or (N, 1, H, W), got {shape}{hint}")
    height, width = images.shape[1:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{name} must be at least {MIN_SIDE}x{MIN_SIDE} pixels, got {height}x{width} (shape {shape}): "
            "enlarge it"
        )
    if max(height, width) > MAX_SIDE:
        raise ValueError(
            f"{name} must have sides of at most {MAX_SIDE} pixels, got {height}x{width}: cut it up"
        )
    if images.dtype != torch.uint8:
        images = images.to(torch.float32)
        _check_range(name, images, any_range)
    return images.contiguous()


def as_start(name: str, array: NDArray[Any] | Tensor, shape: tuple[int, ...]) -> Tensor:
    """A flow of this shape, (2, H, W) or (N, 2, H, W), as a contiguous float32 (N, 2, H, W).

    Raises:
        TypeError: neither a NumPy array nor a tensor.
        ValueError: another shape or dtype, values that are not finite, or a tensor that wants a gradient.
    """
    flow = _as_tensor(name, array, _FLOATS, "floating point").to(torch.float32)
    if tuple(flow.shape) != shape:
        raise ValueError(f"{name} must be {shape} to go with the frames, got {tuple(flow.shape)}")
    if flow.numel() and can_inspect_values(flow):
        if not torch.isfinite(flow).all():
            raise ValueError(f"{name} must be finite: replace what is NaN or infinite, for example by 0")
        if flow.abs().max() > MAX_FLOW:
            raise ValueError(
                f"{name} must be at most {MAX_FLOW:g} pixels long, got {flow.abs().max():.4g}: clamp it"
            )
    return flow.reshape(-1, *shape[-3:]).contiguous()


def check_alike(
    name0: str,
    array0: NDArray[Any] | Tensor,
    name1: str,
    array1: NDArray[Any] | Tensor,
    *,
    flow: bool = False,
) -> None:
    """Raises unless both are of one kind, device and, but for a ``flow`` beside frames, dtype and shape.

    Raises:
        TypeError: one is NumPy's and the other torch's.
        ValueError: they differ in anything else.
    """
    if isinstance(array0, Tensor) != isinstance(array1, Tensor):
        raise TypeError(
            f"{name0} and {name1} must both be NumPy arrays or both tensors, got {type(array0).__name__} and "
            f"{type(array1).__name__}: convert one with torch.from_numpy or .numpy()"
        )
    if isinstance(array0, Tensor) and isinstance(array1, Tensor) and array0.device != array1.device:
        raise ValueError(
            f"{name0} and {name1} must be on one device, got {array0.device} and {array1.device}: move one"
        )
    if flow:
        return
    if dtype_name(array0) != dtype_name(array1):
        raise ValueError(
            f"{name0} and {name1} must have one dtype, got {dtype_name(array0)} and {dtype_name(array1)}: "
            "convert one, bearing in mind that uint8 is 0 to 255 and floating point 0 to 1"
        )
    if array0.shape != array1.shape:
        raise ValueError(
            f"{name0} and {name1} must have one shape, got {tuple(array0.shape)} and {tuple(array1.shape)}: "
            "resize or crop one"
        )


def _as_tensor(name: str, array: NDArray[Any] | Tensor, dtypes: tuple[str, ...], wanted: str) -> Tensor:
    if isinstance(array, Tensor | np.ndarray) and dtype_name(array) not in dtypes:
        raise ValueError(f"{name} must be {wanted}, got {dtype_name(array)}: convert it")
    if isinstance(array, Tensor) and array.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, but TV-L1 has none: pass {name}.detach(), or call it under "
            "torch.no_grad()"
        )
    return as_tensor(name, array)


def can_inspect_values(tensor: Tensor) -> bool:
    """Whether values can be read: not while tracing or capturing a CUDA graph, when there are none."""
    if torch.compiler.is_compiling() or tensor.is_meta or isinstance(tensor, FakeTensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _check_range(name: str, images: Tensor, any_range: bool) -> None:
    if not images.numel() or not can_inspect_values(images):
        return
    extremes = torch.stack(torch.aminmax(images.flatten(1), dim=1), dim=1).tolist()
    for index, (low, high) in enumerate(extremes):
        where = name if len(extremes) == 1 else f"{name}[{index}]"
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise ValueError(
                f"{where} must be finite, but has values from {low} to {high}: check where they come from"
            )
        if not any_range and (low < -ROUNDING or high > 1.0 + ROUNDING):
            raise ValueError(
                f"{where} must lie in 0 to 1, being floating point, but has values from {low:.4g} to "
                f"{high:.4g}: divide values of 0 to 255 by 255 or pass uint8; clamp what a filter overshot"
            )
