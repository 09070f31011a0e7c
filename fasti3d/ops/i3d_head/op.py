"""``fasti3d::average_head``: from the last feature map of a network to its features and logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d.network import HEAD_POOL
from fasti3d.ops import subjects
from fasti3d.ops.border import check_clip, triple
from fasti3d.ops.i3d_head.reference import average_head_reference
from fasti3d.ops.registry import operator
from fasti3d.ops.tiling import Triple
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime import gpu


def _check(x: Tensor, weight: Tensor, bias: Tensor, window: Sequence[int] | None) -> Triple:
    """The window, which is all of the map if none is given."""
    least = (1, 1, 1) if window is None else triple("window must be None or", window, 1)
    if x.dim() != 5 or any(n < k for n, k in zip(x.shape[2:], least, strict=True)):
        raise ValueError(
            f"x must be (N, C, T, H, W) with (T, H, W) of at least {least}, got {tuple(x.shape)}: pass a "
            "larger feature map, or a smaller window"
        )
    check_clip(x)
    if bias.dim() != 1:
        raise ValueError(f"bias must be (classes,), got {tuple(bias.shape)}")
    if weight.shape != (len(bias), x.shape[1]):
        raise ValueError(
            f"weight must be ({len(bias)}, {x.shape[1]}) for bias and x, got {tuple(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.dtype != torch.float32 or tensor.device != x.device:
            kind = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} must be torch.float32 on {x.device}, where x is, got {kind}")
    return least if window is not None else (x.shape[2], x.shape[3], x.shape[4])


def _reference(x: Tensor, weight: Tensor, bias: Tensor, window: list[int] | None) -> tuple[Tensor, Tensor]:
    _check(x, weight, bias, window)
    return average_head_reference(x, weight, bias, window)


def _cuda(x: Tensor, weight: Tensor, bias: Tensor, window: list[int] | None) -> tuple[Tensor, Tensor]:
    lengths = _check(x, weight, bias, window)
    if gpu.why_not(x.device, x.dtype) or not x.numel():
        return average_head_reference(x, weight, bias, window)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.i3d_head.launch import head

    found: tuple[Tensor, Tensor] = guarded(
        x.device,
        ("average_head", Layout.of(x), len(weight), lengths),
        lambda: subjects.head(x, weight, lengths),
        lambda: head(x, weight, bias, lengths),
        lambda: average_head_reference(x, weight, bias, window),
    )
    return found


def _fake(x: Tensor, weight: Tensor, bias: Tensor, window: list[int] | None) -> tuple[Tensor, Tensor]:
    lengths = _check(x, weight, bias, window)
    n, channels, frames = x.shape[:3]
    features = x.new_empty((n, channels, frames - lengths[0] + 1), dtype=torch.float32)
    return features, x.new_empty((n, weight.shape[0]), dtype=torch.float32)


operator(
    "average_head(Tensor x, Tensor weight, Tensor bias, int[]? window) -> (Tensor features, Tensor logits)",
    _reference,
    fake=_fake,
    cuda=_cuda,
)


def average_head(
    x: Tensor, weight: Tensor, bias: Tensor, window: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Average-pool a feature map, classify each window, and average the logits, in one pass and in eval mode.

    Args:
        x: (N, C, T, H, W), float32, bfloat16 or float16; any layout, fastest in channels_last_3d.
        weight: (classes, C), float32, of the linear or 1x1x1 classifier; of no class where only features are
            wanted.
        bias: (classes,), float32.
        window: lengths (t, h, w) of the pool, with stride 1 and no padding; None averages all of the map.

    Returns:
        Features (N, C, T - t + 1): the average over each window, and over the windows' places in a frame
        where a frame has more than one; (N, C, 1) without ``window``. Logits (N, classes): the classifier's
        outputs, averaged over all windows. Both float32 with float32 sums, the same from run to run.

    Raises:
        ValueError: a map smaller than the window, arguments that do not fit together, or gradients asked for:
            it is for inference alone.

    Example:
        >>> x = torch.ones(2, 512, 4, 7, 7)
        >>> features, logits = average_head(x, torch.ones(400, 512), torch.zeros(400))
        >>> features.shape, logits.shape
        (torch.Size([2, 512, 1]), torch.Size([2, 400]))

    Source: torch.nn.AdaptiveAvgPool3d(1) and Linear, as in video ResNets; with a window, the head of I3D.
    """
    _check(x, weight, bias, window)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias)):
        raise ValueError("average_head has no gradient: call it under torch.no_grad()")
    lengths = None if window is None else list(window)
    features, logits = torch.ops.fasti3d.average_head(x, weight, bias, lengths)
    return features, logits


def i3d_head(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``average_head`` with I3D's window of 2x7x7.

    Source: deepmind/kinetics-i3d, i3d.py.
    """
    return average_head(x, weight, bias, HEAD_POOL)
