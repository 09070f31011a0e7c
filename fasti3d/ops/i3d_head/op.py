"""``fasti3d::i3d_head``: from the last map of the network to its features and logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fasti3d.network import HEAD_POOL
from fasti3d.ops import subjects
from fasti3d.ops.border import check_clip
from fasti3d.ops.i3d_head.reference import i3d_head_reference
from fasti3d.ops.registry import define
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime import gpu

define("i3d_head", "(Tensor x, Tensor weight, Tensor bias) -> (Tensor features, Tensor logits)")


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.dim() != 5 or any(n < k for n, k in zip(x.shape[2:], HEAD_POOL, strict=True)):
        raise ValueError(f"x must be (N, C, T, H, W) of at least {HEAD_POOL} a clip, got {tuple(x.shape)}")
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


@torch.library.impl("fasti3d::i3d_head", "default")
def _reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, weight, bias)
    return i3d_head_reference(x, weight, bias)


@torch.library.impl("fasti3d::i3d_head", "cuda")
def _cuda(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, weight, bias)
    if gpu.why_not(x.device, x.dtype) or not x.numel():
        return i3d_head_reference(x, weight, bias)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.i3d_head.launch import head

    found: tuple[Tensor, Tensor] = guarded(
        x.device,
        ("i3d_head", Layout.of(x), len(weight)),
        lambda: subjects.head(x, weight),
        lambda: head(x, weight, bias),
        lambda: i3d_head_reference(x, weight, bias),
    )
    return found


@torch.library.register_fake("fasti3d::i3d_head")
def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, weight, bias)
    n, channels, frames = x.shape[:3]
    features = x.new_empty((n, channels, frames - HEAD_POOL[0] + 1), dtype=torch.float32)
    return features, x.new_empty((n, weight.shape[0]), dtype=torch.float32)


def i3d_head(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What I3D's head makes of its last map, in eval mode, where dropout does nothing.

    Args:
        x: (N, C, T, H, W), float32, bfloat16 or float16, at least 2x7x7; any layout, fastest in
            channels_last_3d.
        weight: (classes, C), float32, of the 1x1x1 classifier; of no class where only features are wanted.
        bias: (classes,), float32.

    Returns:
        Features (N, C, T - 1): the average over windows of 2x7x7, and over the windows' places in a frame
        where a frame has more than one. Logits (N, classes): the classifier's outputs, averaged over all
        windows. Both float32 with float32 sums, the same from run to run.

    Raises:
        ValueError: a map that does not fill a window, arguments that do not fit together, or gradients
            asked for: it is for inference alone.

    Source: deepmind/kinetics-i3d, i3d.py.
    """
    _check(x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias)):
        raise ValueError("i3d_head has no gradient: call it under torch.no_grad()")
    features, logits = torch.ops.fasti3d.i3d_head(x, weight, bias)
    return features, logits
