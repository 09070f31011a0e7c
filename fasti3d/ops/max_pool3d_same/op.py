"""``fasti3d::max_pool3d_same``: schema, shapes for tracing, gradient, and the function for users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fasti3d.ops import subjects
from fasti3d.ops.border import check_clip, check_out, triple
from fasti3d.ops.max_pool3d_same.config import MOST_COLUMNS
from fasti3d.ops.max_pool3d_same.reference import (
    covering,
    max_pool3d_same_backward,
    max_pool3d_same_reference,
)
from fasti3d.ops.registry import has_cuda_kernel, register, register_cuda
from fasti3d.ops.tiling import Triple
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime import gpu
from fasti3d.same_padding import same_shape


def _check(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> None:
    check_clip(x)
    triple("kernel must be", kernel, 1)
    triple("stride must be", stride, 1)


def _check_into(x: Tensor, kernel: Sequence[int], stride: Sequence[int], out: Tensor) -> None:
    _check(x, kernel, stride)
    check_out(out, (*x.shape[:2], *same_shape(x.shape[2:], stride)), x.dtype, x=x)


def _pool(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    _check(x, kernel, stride)
    return max_pool3d_same_reference(x, kernel, stride)


def _pool_into(x: Tensor, kernel: list[int], stride: list[int], out: Tensor) -> None:
    _check_into(x, kernel, stride, out)
    out.copy_(torch.ops.fasti3d.max_pool3d_same(x, kernel, stride))


register("max_pool3d_same", "(Tensor x, int[] kernel, int[] stride) -> Tensor", _pool)
register("max_pool3d_same_", "(Tensor x, int[] kernel, int[] stride, Tensor(a!) out) -> ()", _pool_into)


def _pool_on_gpu(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    if not _has_triton_kernel(x, kernel):
        return _pool(x, kernel, stride)
    out = _fake(x, kernel, stride)
    _pool_on_gpu_into(x, kernel, stride, out)
    return out


def _pool_on_gpu_into(x: Tensor, kernel: list[int], stride: list[int], out: Tensor) -> None:
    _check_into(x, kernel, stride, out)
    if not _has_triton_kernel(x, kernel):
        out.copy_(max_pool3d_same_reference(x, kernel, stride))
        return
    if out.numel():
        # Here and not at the top: triton is slow to import, and absent where there is no GPU.
        from fasti3d.ops.max_pool3d_same.launch import max_pool3d

        max_pool3d(
            x, triple("kernel must be", covering(x, kernel), 1), triple("stride must be", stride, 1), out
        )


def _has_triton_kernel(x: Tensor, kernel: list[int]) -> bool:
    return kernel[2] <= MOST_COLUMNS and gpu.why_no_triton(x.device) is None


_COMPILED = has_cuda_kernel("max_pool3d_same_")
# nvcc, which the compiled kernel needs, is rarer than triton, which comes with torch.
register_cuda("max_pool3d_same", _pool_on_gpu)
register_cuda("max_pool3d_same_", _pool_on_gpu_into)


@torch.library.register_fake("fasti3d::max_pool3d_same_")
def _fake_into(x: Tensor, kernel: list[int], stride: list[int], out: Tensor) -> None:
    _check_into(x, kernel, stride, out)


@torch.library.register_fake("fasti3d::max_pool3d_same")
def _fake(x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
    _check(x, kernel, stride)
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
        kernel: window lengths (t, h, w), at least 1 and less than 2**31.
        stride: window steps (t, h, w), at least 1 and less than 2**31.

    Returns:
        (N, C, ceil(T/st), ceil(H/sh), ceil(W/sw)) in x's dtype, channels_last_3d; of an empty clip an empty
        one. Padding never wins; a NaN in the window does. Differentiable: as in torch the gradient goes to
        the first maximum of a window.

    Raises:
        ValueError: x is not 5-dimensional or not floating, kernel or stride are not 3 positive numbers.

    Source: TensorFlow's SAME rule, as in the released I3D network (deepmind/kinetics-i3d).
    """
    _check(x, kernel, stride)
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
    """``max_pool3d_same`` of a channels-last clip into ``out``, channels-last memory of the right shape.

    Meta tensors are taken for their shapes alone, as a plan is measured before every pass.
    """
    if x.is_meta:
        return out
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
