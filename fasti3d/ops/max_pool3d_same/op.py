"""``fasti3d::max_pool3d_same``: schema, shapes for tracing, gradient, and the function for users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fasti3d import gpu
from fasti3d.network import same_shape
from fasti3d.ops import subjects
from fasti3d.ops.max_pool3d_same.config import MOST_COLUMNS
from fasti3d.ops.max_pool3d_same.reference import (
    max_pool3d_same_backward,
    max_pool3d_same_into_reference,
    max_pool3d_same_reference,
)
from fasti3d.ops.registry import has_cuda_kernel, register, register_cuda
from fasti3d.ops.tiling import Triple
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout

register("max_pool3d_same", "(Tensor x, int[] kernel, int[] stride) -> Tensor", max_pool3d_same_reference)
register(
    "max_pool3d_same_",
    "(Tensor x, int[] kernel, int[] stride, Tensor(a!) out) -> ()",
    max_pool3d_same_into_reference,
)


def _pool_on_gpu(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    if not _has_triton_kernel(x, kernel):
        return max_pool3d_same_reference(x, kernel, stride)
    out = _fake(x, kernel, stride)
    _pool_on_gpu_into(x, kernel, stride, out)
    return out


def _pool_on_gpu_into(x: Tensor, kernel: list[int], stride: list[int], out: Tensor) -> None:
    if not _has_triton_kernel(x, kernel):
        out.copy_(max_pool3d_same_reference(x, kernel, stride))
        return
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.max_pool3d_same.launch import max_pool3d

    max_pool3d(x, (kernel[0], kernel[1], kernel[2]), (stride[0], stride[1], stride[2]), out)


def _has_triton_kernel(x: Tensor, kernel: list[int]) -> bool:
    return kernel[2] <= MOST_COLUMNS and gpu.why_no_triton(x.device) is None


_COMPILED = has_cuda_kernel("max_pool3d_same_")
# nvcc, which the compiled kernel needs, is rarer than triton, which comes with torch.
register_cuda("max_pool3d_same", _pool_on_gpu)
register_cuda("max_pool3d_same_", _pool_on_gpu_into)


@torch.library.register_fake("fasti3d::max_pool3d_same_")
def _fake_into(x: Tensor, kernel: list[int], stride: list[int], out: Tensor) -> None:
    return None


@torch.library.register_fake("fasti3d::max_pool3d_same")
def _fake(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    shape = (*x.shape[:2], *same_shape(x.shape[2:], stride))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _setup_context(ctx: Any, inputs: tuple[Tensor, list[int], list[int]], output: Tensor) -> None:
    x, ctx.kernel, ctx.stride = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (x,) = ctx.saved_tensors
    return max_pool3d_same_backward(grad, x, ctx.kernel, ctx.stride), None, None


torch.library.register_autograd("fasti3d::max_pool3d_same", _backward, setup_context=_setup_context)


def max_pool3d_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Max-pool of clips with TensorFlow SAME padding.

    Args:
        x: (N, C, T, H, W), float32, bfloat16 or float16; any layout, fastest in channels_last_3d.
        kernel: window lengths (t, h, w), at least 1.
        stride: window steps (t, h, w), at least 1.

    Returns:
        (N, C, ceil(T/st), ceil(H/sh), ceil(W/sw)) in x's dtype, channels_last_3d. Padding never
        wins; a NaN in the window does. Differentiable: as in torch the gradient goes to the first
        maximum of a window.

    Raises:
        ValueError: x is not 5-dimensional or not floating, kernel or stride are not 3 positive numbers.

    Source: TensorFlow's SAME rule, as in the released I3D network (deepmind/kinetics-i3d).
    """
    if x.dim() != 5:
        raise ValueError(f"x must be (N, C, T, H, W), got shape {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"x must be float32, bfloat16 or float16, got {x.dtype}")
    for name, value in (("kernel", kernel), ("stride", stride)):
        if len(value) != 3 or min(value) < 1:
            raise ValueError(f"{name} must be 3 positive lengths (t, h, w), got {tuple(value)}")
    channels_last = x.contiguous(memory_format=torch.channels_last_3d)
    window, step = list(kernel), list(stride)

    def run() -> Tensor:
        return torch.ops.fasti3d.max_pool3d_same(channels_last, window, step)

    if not _is_compiled_for(x):
        return run()
    out = _fake(channels_last.detach().to("meta"), window, step)
    return _proved(channels_last, window, step, out, run, max_pool3d_same_reference)


def max_pool3d_same_into(
    out: Tensor, x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Tensor:
    """``max_pool3d_same`` of a channels-last clip into ``out``, channels-last memory of the right shape."""
    if not _is_compiled_for(x):
        torch.ops.fasti3d.max_pool3d_same_(x, kernel, stride, out)
        return out

    def run() -> Tensor:
        max_pool3d_compiled(x, kernel, stride, out)
        return out

    def plain(*call: Any) -> Tensor:
        return out.copy_(max_pool3d_same_reference(*call))

    return _proved(x, list(kernel), list(stride), out, run, plain)


def max_pool3d_compiled(x: Tensor, kernel: Triple, stride: Triple, out: Tensor) -> None:
    """Launches what was compiled, proved or not."""
    torch.ops.fasti3d.max_pool3d_same_(x, kernel, stride, out)


def _is_compiled_for(x: Tensor) -> bool:
    """Whether the kernel that nvcc compiled runs, which the operator itself launches unproved."""
    return _COMPILED and x.is_cuda and type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def _proved(
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    out: Tensor,
    run: Callable[[], Tensor],
    plain: Callable[[Tensor, list[int], list[int]], Tensor],
) -> Tensor:
    window, step = (kernel[0], kernel[1], kernel[2]), (stride[0], stride[1], stride[2])
    result: Tensor = guarded(
        x.device,
        ("max_pool3d", None, Layout.of(x), window, step, Layout.of(out)),
        lambda: subjects.max_pool3d(None, x, window, step, out),
        run,
        lambda: plain(x, kernel, stride),
        compiles=False,
    )
    return result
