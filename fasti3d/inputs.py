"""Checks of the clips users hand to the network: clear errors, and a warning for a wrong range."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from fasti3d import network

# Reading every eighth frame is enough to tell a range, and costs little beside the network.
_FRAME_STEP = 8
# Nearly every frame scaled to 0-1 has something darker; in [-1, 1] a clip whose darkest value lies between
# here and 0 is as good as never seen.
_DARK = 0.05
# No frame normalized by a mean and a standard deviation has values beyond.
_NORMALIZED = 10.0
_warned: set[str] = set()
_known: ContextVar[bool] = ContextVar("_known", default=False)

# Other clips of bytes, such as optical flow, are scaled in more than one way.
RGB_CHANNELS = 3


class Scaling(NamedTuple):
    """How bytes of 0 to 255 become floats: less the mean, divided by the standard deviation, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def as_floats(x: Tensor, dtype: torch.dtype, scaling: Scaling | None = None) -> Tensor:
    """A clip in ``dtype`` and its own memory layout. Bytes are scaled, in float32: where ``scaling`` is None
    0 becomes -1 and 255 1.
    """
    if x.dtype != torch.uint8:
        return x.to(dtype)
    floats = x.to(torch.float32)
    if scaling is None:
        return floats.div_(127.5).sub_(1.0).to(dtype)
    mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1, 1) for v in scaling)
    return floats.sub_(mean).div_(std).to(dtype)


def table_of_bytes(scaling: Scaling | None, channels: int) -> Tensor:
    """What each byte of each channel becomes: float32 (channels, 256)."""
    every = torch.arange(256, dtype=torch.uint8).expand(1, channels, 1, 1, 256)
    return as_floats(every, torch.float32, scaling).reshape(channels, 256)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast runs convolutions in on this device, or None where it is off."""
    # Which compilers cannot look at in torch 2.11; of the devices without autocast they know meta.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    if device.type == "meta" or not available or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off on this device, on any kind of which it may be asked for."""
    if autocast_dtype(device) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_clip(
    x: Tensor,
    in_channels: int | None,
    weight_dtype: torch.dtype | None,
    *,
    window: tuple[int, int, int] | None = None,
) -> None:
    """Raises a ValueError or TypeError for a clip the network cannot take.

    ``in_channels`` and ``weight_dtype``: those of the stem, None where any will do.
    ``window``: of the head's pool, where it will run: one of (2, 7, 7) needs 9 frames of 193x193 pixels.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor (N, C, T, H, W), got {type(x).__name__}")
    if x.dim() != 5:
        hint = " (add a batch axis with x[None])" if x.dim() == 4 else ""
        raise ValueError(f"x must be (N, C, T, H, W), got shape {tuple(x.shape)}{hint}")
    if in_channels is not None and x.shape[1] != in_channels:
        hint = ""
        if x.shape[-1] == in_channels:
            hint = "; x looks channels-last (N, T, H, W, C): use x.permute(0, 4, 1, 2, 3)"
        elif x.shape[2] == in_channels:
            hint = "; x looks like (N, T, C, H, W): use x.transpose(1, 2)"
        raise ValueError(
            f"x must have {in_channels} channels on axis 1, got {x.shape[1]} (shape {tuple(x.shape)}){hint}"
        )
    if 0 in x.shape:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        if x.shape[1] != RGB_CHANNELS:
            raise ValueError(
                f"x is uint8, which stands for RGB, but has {x.shape[1]} channels: scale it to [-1, 1] in "
                "floating point, as it was scaled when the weights were trained"
            )
    elif not x.is_floating_point():
        raise ValueError(
            f"x must be floating point in [-1, 1] or uint8 RGB, got {x.dtype}: for values of 0-255, "
            "x.float() / 127.5 - 1"
        )
    elif weight_dtype not in (None, x.dtype) and autocast_dtype(x.device) is None:
        raise ValueError(f"x is {x.dtype} but the weights are {weight_dtype}: cast one to the other")
    if window is not None:
        _check_size(x, window)


def _check_size(x: Tensor, window: tuple[int, int, int]) -> None:
    frames, height, width = x.shape[2:]
    least_frames, least_height, least_width = network.smallest_clip(window)
    if frames < least_frames:
        raise ValueError(
            f"x must have at least {least_frames} frames for the head, got {frames}: repeat frames, "
            "or use forward_features, which takes any length"
        )
    if height < least_height or width < least_width:
        raise ValueError(
            f"x must be at least {least_height}x{least_width} pixels for the head, got "
            f"{height}x{width}: enlarge it (the network was trained at 224x224), or use forward_features"
        )


def check_range(x: Tensor, *, normalized: bool = False) -> None:
    """Raises for non-finite values and warns, once a process and kind, for values outside the range: [-1, 1],
    or what frames have after mean and standard deviation.

    Only on the CPU, where looking is free; a GPU would have to stop for it.
    """
    if _known.get() or x.device.type != "cpu" or not x.is_floating_point():
        return
    low, high = (float(v) for v in torch.aminmax(x.detach()[:, :, ::_FRAME_STEP]))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(
            f"x must be finite, but has values from {low} to {high}: look at what came before the network"
        )
    if normalized:
        if high > _NORMALIZED or low < -_NORMALIZED:
            _warn_once(
                f"x has values from {low:.3g} to {high:.3g}; the network expects frames less its mean, "
                "divided by its standard deviation: give 0-255 as uint8, which is normalized here",
                "normalized",
            )
        return
    if high > 2.0 or low < -2.0:
        _warn_once(
            f"x has values from {low:.3g} to {high:.3g}; the network expects [-1, 1]: "
            "for values in 0-255, use x / 127.5 - 1",
            "wide",
        )
    elif 0.0 <= low < _DARK < high <= 1.0:
        _warn_once(
            f"x has values from {low:.3g} to {high:.3g}, which looks like 0-1; the network expects "
            "[-1, 1]: use 2 * x - 1",
            "unit",
        )


def warn_of_gradients() -> None:
    """Warns, once a process, that the fused path is given up for gradients that may not be wanted."""
    _warn_once(
        "the network is in eval mode, but gradients are on and all its parameters require them: it runs as "
        "an ordinary module, which is slower and keeps every map for a backward pass. For inference, call it "
        "under torch.no_grad() or torch.inference_mode(). (Where you do call backward(), as in fine-tuning "
        "with frozen batch norms, all is well: this is said once.)",
        "gradients",
    )


@contextmanager
def range_is_known() -> Iterator[None]:
    """In the block ``check_range`` is silent: its caller has asked for the clips' range, and checked it."""
    token = _known.set(True)
    try:
        yield
    finally:
        _known.reset(token)


def _warn_once(text: str, kind: str) -> None:
    if kind in _warned:
        return
    _warned.add(kind)
    # At the line that called the network, past this library's frames and torch's.
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in (
        "fasti3d",
        "torch",
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)
