"""``fasti3d::max_pool3d``: schemas, shapes for tracing, gradient, and the functions for users and plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fasti3d.ops import subjects
from fasti3d.ops.border import MAX_PADDING, check_clip, check_out, triple
from fasti3d.ops.max_pool3d_same.config import MAX_COLUMNS
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_backward, max_pool3d_reference
from fasti3d.ops.max_pool3d_same.window import covering, pool_size
from fasti3d.ops.registry import operator
from fasti3d.ops.tiling import Triple
from fasti3d.proof.guard import guarded
from fasti3d.proof.subject import Layout
from fasti3d.runtime import gpu


def _check(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> list[int]:
    """(T, H, W) of the output. ``padding`` None is SAME."""
    check_clip(x)
    triple("kernel must be", kernel, 1)
    triple("stride must be", stride, 1)
    size = x.shape[2:]
    if padding is None:
        if ceil_mode:
            raise ValueError("ceil_mode must be False with SAME padding, which covers all of x")
        return pool_size(size, kernel, stride, None)
    triple("padding must be", padding, 0, MAX_PADDING)
    if any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"padding must be at most half the kernel of {tuple(kernel)}, got {tuple(padding)}")
    if 0 in size:
        raise ValueError(f"x must have frames, rows and columns, got (N, C, T, H, W) {tuple(x.shape)}")
    lengths = pool_size(size, kernel, stride, padding, ceil_mode)
    if min(lengths) < 1:
        raise ValueError(
            f"x of (T, H, W) {tuple(size)} with padding {tuple(padding)} must fill the kernel of "
            f"{tuple(kernel)}: pad more, or give a larger clip"
        )
    return lengths


def _check_into(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | None,
    ceil_mode: bool,
    out: Tensor,
) -> None:
    size = _check(x, kernel, stride, padding, ceil_mode)
    check_out(out, (*x.shape[:2], *size), x.dtype, x=x)


def _pool_into(
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    ceil_mode: bool,
    out: Tensor,
) -> None:
    _check_into(x, kernel, stride, padding, ceil_mode, out)
    out.copy_(max_pool3d_reference(x, kernel, stride, padding, ceil_mode))


def _triton_into(
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    ceil_mode: bool,
    out: Tensor,
) -> None:
    if kernel[2] > MAX_COLUMNS or gpu.why_no_triton(x.device) is not None:
        _pool_into(x, kernel, stride, padding, ceil_mode, out)
        return
    _check_into(x, kernel, stride, padding, ceil_mode, out)
    if out.numel():
        # Here and not at the top: triton is slow to import, and absent where there is no GPU.
        from fasti3d.ops.max_pool3d_same.launch import max_pool3d as launch

        window = triple("kernel must be", covering(x.shape[2:], kernel, padding), 1)
        zeros = None if padding is None else triple("padding must be", padding, 0)
        launch(x, window, triple("stride must be", stride, 1), out, zeros, ceil_mode)


_COMPILED = operator(
    "max_pool3d_(Tensor x, int[] kernel, int[] stride, int[]? padding, bool ceil_mode, Tensor(a!) out) -> ()",
    _pool_into,
    fake=_check_into,
    # nvcc, which the compiled kernel needs, is rarer than triton, which comes with torch.
    cuda=_triton_into,
)


def _pool(
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    out = _fake(x, kernel, stride, padding, ceil_mode)
    torch.ops.fasti3d.max_pool3d_(x, kernel, stride, padding, ceil_mode, out)
    return out


def _fake(
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    shape = (*x.shape[:2], *_check(x, kernel, stride, padding, ceil_mode))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *window = inputs
    # The same operator with SAME padding has three arguments.
    ctx.window = window if len(window) > 2 else [*window, None]
    ctx.arguments = len(inputs)
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    return max_pool3d_backward(grad, x, *ctx.window), *[None] * (ctx.arguments - 1)


for _schema in (
    "max_pool3d(Tensor x, int[] kernel, int[] stride, int[]? padding, bool ceil_mode) -> Tensor",
    # By the name that exported networks know.
    "max_pool3d_same(Tensor x, int[] kernel, int[] stride) -> Tensor",
):
    operator(_schema, _pool, fake=_fake, setup_context=_setup_context, backward=_backward)


def max_pool3d(
    x: Tensor,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
) -> Tensor:
    """Max-pool clips with the semantics of ``torch.nn.MaxPool3d``.

    Args:
        x: (N, C, T, H, W), float32, bfloat16 or float16; any layout, fastest in channels_last_3d.
        kernel: window lengths (t, h, w) or one for all axes, at least 1 and less than 2**31.
        stride: window steps, likewise; None takes ``kernel``.
        padding: places on both sides of each axis that never win, 0 to half of ``kernel``.
        ceil_mode: whether a last window may end beyond the padding.

    Returns:
        (N, C, T', H', W') in x's dtype, channels_last_3d, T' = floor((T + 2 pt - kt) / st) + 1 and H', W'
        likewise; with ``ceil_mode`` rounded up, without windows that begin in the padding at the end. A NaN
        in a window wins. Differentiable: as in torch the gradient goes to the first maximum of a window.

    Raises:
        ValueError: x is not 5-dimensional, not floating or without pixels, a number is out of its range, or x
            with its padding does not fill the kernel.

    Example:
        >>> max_pool3d(torch.zeros(1, 64, 8, 112, 112), (1, 3, 3), (1, 2, 2), (0, 1, 1)).shape
        torch.Size([1, 64, 8, 56, 56])

    Source: torch.nn.MaxPool3d.
    """
    window = _on_each_axis(kernel)
    step = window if stride is None else _on_each_axis(stride)
    return _new(x, window, step, _on_each_axis(padding), bool(ceil_mode))


def max_pool3d_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Max-pool clips with TensorFlow's SAME padding.

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

    Example:
        >>> max_pool3d_same(torch.zeros(1, 64, 8, 112, 112), (1, 3, 3), (1, 2, 2)).shape
        torch.Size([1, 64, 8, 56, 56])

    Source: TensorFlow's SAME rule, as in the released I3D network (deepmind/kinetics-i3d).
    """
    return _new(x, kernel, stride, None, False)


def _on_each_axis(value: Any) -> Any:
    return (value, value, value) if isinstance(value, int) else value


def _new(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] | None, ceil_mode: bool
) -> Tensor:
    """A pool into a new clip, by the operator that is named after its padding."""
    _check(x, kernel, stride, padding, ceil_mode)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    window, step, zeros = list(kernel), list(stride), None if padding is None else list(padding)

    def run() -> Tensor:
        if zeros is None:
            return torch.ops.fasti3d.max_pool3d_same(x, window, step)
        return torch.ops.fasti3d.max_pool3d(x, window, step, zeros, ceil_mode)

    if not _is_compiled_for(x):
        return run()
    geometry = (window, step, zeros, ceil_mode)
    out = _fake(x.detach().to("meta"), *geometry)
    return _proved(x, *geometry, out, run, lambda: max_pool3d_reference(x, *geometry))


def max_pool3d_into(
    out: Tensor, x: Tensor, kernel: Triple, stride: Triple, padding: Triple | None, ceil_mode: bool = False
) -> Tensor:
    """``max_pool3d`` of a channels-last clip into ``out``, channels-last memory of the right shape.

    ``padding`` None is SAME. Meta tensors only give shapes, as a plan is measured before every pass.
    """
    if x.is_meta:
        return out
    geometry = (kernel, stride, padding, ceil_mode)
    if not _is_compiled_for(x):
        torch.ops.fasti3d.max_pool3d_(x, *geometry, out)
        return out

    def run() -> Tensor:
        max_pool3d_compiled(x, *geometry, out)
        return out

    return _proved(x, *geometry, out, run, lambda: out.copy_(max_pool3d_reference(x, *geometry)))


def max_pool3d_compiled(
    x: Tensor, kernel: Triple, stride: Triple, padding: Triple | None, ceil_mode: bool, out: Tensor
) -> None:
    """Launches what was compiled, proved or not."""
    torch.ops.fasti3d.max_pool3d_(x, kernel, stride, padding, ceil_mode, out)


def _is_compiled_for(x: Tensor) -> bool:
    """Whether the kernel that nvcc compiled runs, which the operator itself launches unproved."""
    return _COMPILED and x.is_cuda and type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


def _proved(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | None,
    ceil_mode: bool,
    out: Tensor,
    run: Callable[[], Tensor],
    plain: Callable[[], Tensor],
) -> Tensor:
    window, step = triple("kernel must be", kernel, 1), triple("stride must be", stride, 1)
    zeros = None if padding is None else triple("padding must be", padding, 0)
    geometry = (window, step, zeros, ceil_mode)
    result: Tensor = guarded(
        x.device,
        ("max_pool3d", None, Layout.of(x), *geometry, Layout.of(out)),
        lambda: subjects.max_pool3d(None, x, *geometry, out),
        run,
        plain,
        compiles=False,
    )
    return result
