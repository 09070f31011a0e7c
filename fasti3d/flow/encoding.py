"""Converts frames to what TV-L1 takes, and flow to what the network takes."""

from __future__ import annotations

import torch

from fasti3d.flow.arrays import Array, as_flow, as_tensor, like
from fasti3d.flow.checks import BOUND, check_bound
from fasti3d.flow.frames import can_inspect_values

# Motion is clipped to this, in pixels per frame: the range that the network was trained on.
LIMIT = 20.0

# The luma of Rec. 601, 0.299 R + 0.587 G + 0.114 B, in units of 2^-15; they add up to 1.
_WEIGHTS = (9798, 19235, 3735)
_SHIFT = 15

# No motion as a byte, and the levels to either side of it.
_CENTERED_ZERO, _CENTERED_STEPS = 128, 127


def to_grey(frames: Array) -> Array:
    """Convert RGB to grayscale, bit for bit as OpenCV's ``cvtColor(frame, COLOR_RGB2GRAY)`` (4 and later).

    Args:
        frames: uint8 (..., H, W, 3), NumPy or torch, on any device.

    Returns:
        uint8 (..., H, W), of the same kind and on the same device.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another dtype or shape.

    Source: Rec. 601, in the fixed-point numbers of OpenCV's 8-bit conversion (15 bits, rounded half up).

    Example:
        >>> to_grey(torch.tensor([[[255, 0, 0]]], dtype=torch.uint8)).tolist()
        [[76]]
    """
    rgb = as_tensor("frames", frames)
    if rgb.dtype != torch.uint8 or rgb.ndim < 3 or rgb.shape[-1] != 3:
        raise ValueError(
            f"frames must be uint8 of shape (..., H, W, 3), got {rgb.dtype} of shape {tuple(rgb.shape)}"
        )
    sums = torch.full(rgb.shape[:-1], 1 << (_SHIFT - 1), dtype=torch.int32, device=rgb.device)
    for channel, weight in zip(rgb.unbind(-1), _WEIGHTS, strict=True):
        sums.add_(channel, alpha=weight)
    return like(sums.bitwise_right_shift_(_SHIFT).to(torch.uint8), frames)


def encode_readme(flow: Array) -> Array:
    """Scale flow to the range of the network, as I3D's README says: clipped to 20 pixels, divided by 20.

    Args:
        flow: (..., 2, H, W) in pixels, finite; NumPy or torch, on any device.

    Returns:
        float32 of the same shape in [-1, 1], of the same kind and on the same device.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape.

    Source: github.com/deepmind/kinetics-i3d, README.md, "Sample data and preprocessing".

    Example:
        >>> encode_readme(torch.tensor([5.0, -30.0]).view(2, 1, 1)).flatten().tolist()
        [0.25, -1.0]
    """
    return like(as_flow("flow", flow).clamp(-LIMIT, LIMIT).div_(LIMIT), flow)


def encode_mediapipe(flow: Array) -> Array:
    """Encode flow as the bytes that the graph released with I3D stores: trunc((v + 20) / 40 * 255).

    Motion is clipped to 20 pixels; no motion is 127, slightly below the middle of the range.

    Args:
        flow: (..., 2, H, W) in pixels, finite; NumPy or torch, on any device.

    Returns:
        uint8 of the same shape, of the same kind and on the same device.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape.

    Source: MediaPipe's I3D feature graph, which runs TV-L1 on frames squashed to 224x224.

    Example:
        >>> encode_mediapipe(torch.tensor([0.0, 20.0]).view(2, 1, 1)).flatten().tolist()
        [127, 255]
    """
    shares = (as_flow("flow", flow).clamp(-LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
    return like((shares * 255).to(torch.uint8), flow)


def encode_denseflow(flow: Array, bound: float = BOUND) -> Array:
    """Encode flow as the bytes of denseflow's pictures: 127.5 + v * 127.5 / bound, rounded, ties to even.

    Motion is clipped to the bound: -bound is 0 and bound 255; no motion is 128, the even one of the two
    middle bytes. ``decode_denseflow`` is the inverse.

    Args:
        flow: (..., 2, H, W) in pixels, finite; NumPy or torch, on any device.
        bound: the maximum motion, in pixels.

    Returns:
        uint8 of the same shape, of the same kind and on the same device.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape, or a bound that is not above 0.

    Source: github.com/open-mmlab/denseflow, ``convertFlowToImage``, as in yjxiong/dense_flow before it.

    Example:
        >>> encode_denseflow(np.zeros((2, 1, 1), np.float32)).item(0)
        128
    """
    check_bound(bound)
    values = as_flow("flow", flow).double().clamp(-bound, bound) * (127.5 / bound) + 127.5
    return like(values.round().to(torch.uint8), flow)


def decode_denseflow(pictures: Array, bound: float = BOUND) -> Array:
    """Decode the bytes of denseflow's pictures to flow: (b - 127.5) * bound / 127.5, and 0 for 128.

    The result is the middle of the interval that ``encode_denseflow`` rounds to b, within half a step, which
    is bound / 255 pixels. 128 stands for 0 to one step and decodes to 0, so that no motion stays no motion.

    Args:
        pictures: uint8 (..., 2, H, W), x before y; NumPy or torch, on any device.
        bound: the bound that they were encoded with, in pixels.

    Returns:
        float32 of the same shape, in pixels, of the same kind and on the same device.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another dtype or shape, or a bound that is not above 0.

    Example:
        >>> decode_denseflow(np.full((2, 1, 1), 255, np.uint8)).item(0)
        20.0
    """
    check_bound(bound)
    stored = as_tensor("pictures", pictures)
    if stored.dtype != torch.uint8:
        raise ValueError(f"pictures must be uint8, got {stored.dtype}: round the values first")
    values = (as_flow("pictures", pictures) - 127.5) * (bound / 127.5)
    return like(values.masked_fill_(stored == 128, 0.0), pictures)


def encode_centered(flow: Array) -> Array:
    """Encode flow as bytes in which no motion is the level 128: 128 + v * 127 / 20, rounded.

    Motion is clipped to 20 pixels: -20 is 1 and 20 is 255.

    Args:
        flow: (..., 2, H, W) in pixels, finite; NumPy or torch, on any device.

    Returns:
        uint8 of the same shape, of the same kind and on the same device.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape.

    Example:
        >>> encode_centered(torch.tensor([0.0, 25.0]).view(2, 1, 1)).flatten().tolist()
        [128, 255]
    """
    steps = as_flow("flow", flow).clamp(-LIMIT, LIMIT) * (_CENTERED_STEPS / LIMIT)
    return like((steps.round_() + _CENTERED_ZERO).to(torch.uint8), flow)


def decode_centered(stored: Array) -> Array:
    """Scale the bytes of ``encode_centered`` to the range of the network, as ``encode_readme`` does flow.

    Args:
        stored: uint8 (..., 2, H, W); NumPy or torch, on any device.

    Returns:
        float32 of the same shape in [-1, 1]; multiplied by 20 it is in pixels.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape.

    Example:
        >>> decode_centered(torch.tensor([128, 255], dtype=torch.uint8).view(2, 1, 1)).flatten().tolist()
        [0.0, 1.0]
    """
    values = as_flow("stored", stored) - _CENTERED_ZERO
    return like(values.div_(_CENTERED_STEPS).clamp_(-1, 1), stored)


def to_flow_clip(encoded: Array) -> Array:
    """Convert encoded flow to the network's input: (T, 2, H, W) to float32 (2, T, H, W) in [-1, 1].

    Args:
        encoded: (..., T, 2, H, W), as ``encode_readme`` or ``encode_mediapipe`` returns it: floating point in
            [-1, 1], which is kept, or uint8, where b becomes b / 127.5 - 1. NumPy or torch, on any device.

    Returns:
        float32 (..., 2, T, H, W), of the same kind and on the same device. Add the batch axis, if there
        is none, with ``clip[None]``.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape, or values out of range (not checked on a GPU, where it would synchronize,
            or while compiling).

    Example:
        >>> to_flow_clip(torch.zeros(9, 2, 224, 224)).shape
        torch.Size([2, 9, 224, 224])
    """
    values = as_flow("encoded", encoded)
    if values.ndim < 4:
        raise ValueError(f"encoded must be of shape (..., T, 2, H, W), got {tuple(values.shape)}")
    if as_tensor("encoded", encoded).dtype == torch.uint8:
        values = values / 127.5 - 1
    elif values.device.type == "cpu" and can_inspect_values(values) and not (values.abs() <= 1).all():
        raise ValueError(
            "encoded must lie in [-1, 1], or be uint8: put flow in pixels through encode_readme or "
            "encode_mediapipe first"
        )
    return like(values.transpose(-4, -3), encoded)
