"""conv3d + bias + ReLU over channels-last clips, with weights packed once and used many times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.border import (
    MAX_PADDING,
    Triple,
    check_clip,
    check_in_place,
    check_out,
    check_residual,
    is_same_place,
    triple,
)
from fasti3d.ops.conv3d_bn_relu.folding import FEW_CHANNELS, fold_weight, is_folded
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference
from fasti3d.ops.conv3d_bn_relu.winograd import Transform, minimal_filter
from fasti3d.ops.registry import (
    define,
    needs_ordinary_path,
    register_shapes,
    takes_gradients,
    takes_operators,
)
from fasti3d.runtime.route import compute_dtype, has_kernel
from fasti3d.same_padding import same_shape

# Output channels a panel of packed weights (csrc/conv3d/conv.h).
_PANEL = 16


define(
    "conv3d_triton_",
    "(Tensor x, Tensor weight, Tensor bias, int[] kernel, int[] stride, int[]? padding, bool relu, "
    "Tensor(a!) out, int start, Tensor? residual=None) -> ()",
)


def check_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    size: Sequence[int],
    *outs: Tensor,
    residual: Tensor | None = None,
) -> None:
    """ValueError unless ``outs`` together hold a convolution's channels, and (T, H, W) of ``size``.

    Packed weights show no more than their channels; out has their dtype, as x has unless it is bytes.
    """
    if (
        x.dim() != 5
        or weight.dim() != 3
        or bias.shape != weight.shape[:1]
        or 0 in (*weight.shape, *x.shape[1:])
    ):
        raise ValueError(
            "x must be (N, Cin, T, H, W), weight packed and bias (Cout,), none of them empty, got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if x.dtype not in (weight.dtype, torch.uint8) or bias.dtype != torch.float32:
        raise ValueError(
            f"x must be {weight.dtype}, as weight, and bias torch.float32, got {x.dtype} and {bias.dtype}"
        )
    if any(tensor.device != x.device for tensor in (weight, bias, *outs)):
        raise ValueError(f"weight, bias and out must be on {x.device}, where x is")
    if any(out.dim() != 5 for out in outs) or sum(out.shape[1] for out in outs) != len(bias):
        got = ", ".join(str(tuple(out.shape)) for out in outs)
        raise ValueError(f"out must have {len(bias)} channels, as bias, got {got}")
    for out in outs:
        shape = (x.shape[0], out.shape[1], *size)
        check_residual(residual, shape, out)
        check_out(out, shape, weight.dtype, residual=residual, x=x, weight=weight, bias=bias)


@torch.library.impl("fasti3d::conv3d_triton_", "default")
def _conv3d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int] | None,
    relu: bool,
    out: Tensor,
    start: int,
    residual: Tensor | None = None,
) -> None:
    window, step = triple("kernel must be", kernel, 1), triple("stride must be", stride, 1)
    zeros = None if padding is None else triple("padding must be", padding, 0, MAX_PADDING)
    frames, *pixels = output_size(x.shape[2:], window, step, zeros)
    if start < 0 or start + out.shape[2] > frames:
        raise ValueError(f"out must hold frames from {start} on of {frames}, got {out.shape[2]}")
    check_triton(x, weight, bias, (out.shape[2], *pixels), out, residual=residual)
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from fasti3d.ops.conv3d_bn_relu.launch import conv3d

    conv3d(x, weight, bias, window, step, zeros, relu, out, start, residual)


define(
    "conv3d_split_triton_",
    "(Tensor x, Tensor weight, Tensor bias, bool relu, Tensor(a!) out, Tensor(b!) second) -> ()",
)


@torch.library.impl("fasti3d::conv3d_split_triton_", "default")
def _conv3d_split_triton(
    x: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, second: Tensor
) -> None:
    check_triton(x, weight, bias, x.shape[2:], out, second)
    from fasti3d.ops.conv3d_bn_relu.launch import conv3d_split

    conv3d_split(x, weight, bias, relu, out, second)


def _packed_shape(weight: Tensor, dtype: torch.dtype, filters: Tensor | None = None) -> Tensor:
    """As csrc/conv3d/cpu.cpp lays weights out."""
    outputs, channels, *kernel = weight.shape
    pairs = dtype == torch.bfloat16
    merged = channels < FEW_CHANNELS or (pairs and channels % 2 != 0)
    run = kernel[2] * channels if merged else channels
    plane = kernel[1] * (1 if merged else kernel[2])
    # In the direct form every frame of the window is a phase of its own.
    phases = kernel[0] if filters is None else filters.shape[1]
    shape = (-(-outputs // _PANEL), phases * plane, run + run % 2 if pairs else run, _PANEL)
    return weight.new_empty(shape if filters is None else (filters.shape[0], *shape), dtype=dtype)


register_shapes("conv3d_pack", _packed_shape)
register_shapes("conv3d_packed_", lambda *arguments: None)
register_shapes("conv3d_winograd_", lambda *arguments: None)


@torch.library.register_fake("fasti3d::conv3d_split_triton_")
@torch.library.register_fake("fasti3d::conv3d_triton_")
def _fake(*arguments: object) -> None:
    return None


def winograd_form(
    in_channels: int, kernel: tuple[int, int, int], stride: tuple[int, int, int], dtype: torch.dtype
) -> tuple[int, torch.dtype] | None:
    """Output frames of a time tile and dtype of the weights in the Winograd form; None: the direct form runs.

    Four outputs a tile halve the products, and in float32 the error stays that of the direct form. In
    bfloat16 the transformed values are rounded once more, which four outputs amplify five times and
    two outputs twice: two, for a third fewer products, which do not pay for the transform where a frame has
    a single tap. A bfloat16 stem is transformed in float32, where half the products take less time than all
    of them in bfloat16. At stride 2, where every other frame is transformed apart, three taps save only a
    quarter.
    """
    if kernel[0] not in {1: (3,), 2: (4, 5, 6, 7)}.get(stride[0], ()):
        return None
    if dtype == torch.float32 or in_channels < FEW_CHANNELS:
        return 4, torch.float32
    return (2, dtype) if kernel[0] == 3 and kernel[1] * kernel[2] > 1 and in_channels % 2 == 0 else None


def _rows(clip: Tensor) -> Tensor:
    """(C, T, H, W) as T clips of H frames, one row each."""
    return clip.transpose(0, 1).unsqueeze(3)


def _by_rows(triple: Triple) -> Triple:
    """(t, h, w) as (h, t, w)."""
    t, h, w = triple
    return h, t, w


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] | None
) -> list[int]:
    """(T, H, W) of a convolution's output; ``padding`` None is SAME."""
    if padding is None:
        return same_shape(size, stride)
    axes = zip(size, kernel, stride, padding, strict=True)
    return [(n + 2 * p - k) // s + 1 for n, k, s, p in axes]


def check_fills(shape: Sequence[int], kernel: Sequence[int], padding: Sequence[int] | None) -> None:
    """ValueError for clips (N, C, T, H, W) without pixels, or that do not fill the kernel even once.

    As in torch, only a batch of no clips may be of zeros alone.
    """
    clips, _, *size = shape
    if (clips or padding is None) and 0 in size:
        raise ValueError(f"x must have frames, rows and columns, got (N, C, T, H, W) {tuple(shape)}")
    if padding is None or all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    raise ValueError(
        f"x of (T, H, W) {tuple(size)} with padding {tuple(padding)} must fill the kernel of "
        f"{tuple(kernel)}: pad more, or give a larger clip"
    )


def check_fits(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Literal["same"] | Sequence[int] | None,
    residual: Tensor | None = None,
) -> Triple | None:
    """The padding, None for SAME, of a clip, weights, a geometry and a residual that fit together."""
    check_clip(x, "Cin")
    if weight.dim() != 5 or weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"weight must be (Cout, {x.shape[1]}, kt, kh, kw), none of them 0, got shape "
            f"{tuple(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, but x on {x.device}: move one to the other")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    triple("stride must be", stride, 1)
    zeros = None
    if padding is not None and not (isinstance(padding, str) and padding == "same"):
        zeros = triple('padding must be "same" or', padding, 0, MAX_PADDING)
    check_fills(x.shape, weight.shape[2:], zeros)
    if residual is not None:
        size = output_size(x.shape[2:], weight.shape[2:], stride, zeros)
        check_residual(residual, (x.shape[0], weight.shape[0], *size), x)
    return zeros


def pack_triton(weight: Tensor, stride: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """(Cout, Cin, kt, kh, kw) to (Cout, taps, Cin), or window rows for taps where clips are folded."""
    if is_folded(weight.shape[1], (weight.shape[2], weight.shape[3], weight.shape[4])):
        return fold_weight(weight, stride).to(dtype).contiguous()
    return weight.to(dtype).flatten(2).transpose(1, 2).contiguous()


@dataclass(frozen=True)
class PackedConv3d:
    """A convolution made ready to run: weights in the layout its kernel reads, bias, geometry.

    ``padding`` None is SAME. ``form`` is the kernel: ``reference``, ``direct`` or ``winograd`` (CPU), or
    ``triton`` (GPU). The Winograd form works along time; where the window is one frame, ``by_rows``, it
    works along the rows of each frame instead. Clips of fewer than FEW_CHANNELS channels may have any layout,
    others must be channels-last. The ``triton`` form takes uint8 clips too where it folds them, with ``out``
    given, and scales 0 to 255 to [-1, 1].
    """

    weight: Tensor
    bias: Tensor
    out_channels: int
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int] | None
    relu: bool
    form: str
    transform: Transform | None = None
    by_rows: bool = False

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, in bytes."""
        return self.weight.nbytes + self.bias.nbytes

    @property
    def fused(self) -> bool:
        """Whether a kernel of this library runs, which computes the frames it is asked for and no others."""
        return self.form != "reference"

    @staticmethod
    def pack(
        weight: Tensor,
        bias: Tensor,
        stride: tuple[int, int, int],
        *,
        relu: bool,
        dtype: torch.dtype,
        padding: tuple[int, int, int] | None = None,
        winograd: bool = True,
    ) -> PackedConv3d:
        """Packs float32 weights (Cout, Cin, kt, kh, kw) and bias (Cout,) for clips of ``dtype``.

        ``padding`` is zeros on both sides of each axis; None is SAME. ``winograd``: whether that form may be
        chosen, which spreads a value that is not finite over its whole tile (see ``spread``).
        """
        out_channels = weight.shape[0]
        kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
        geometry = (out_channels, kernel, stride, padding, relu)
        if not has_kernel(weight.device, dtype, few_channels=weight.shape[1] < FEW_CHANNELS):
            packed = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
            return PackedConv3d(packed, bias, *geometry, "reference")
        if weight.device.type == "cuda":
            return PackedConv3d(pack_triton(weight, stride, dtype), bias.contiguous(), *geometry, "triton")
        bias = F.pad(bias, (0, -out_channels % _PANEL)).contiguous()
        tile = winograd_form(weight.shape[1], kernel, stride, dtype) if winograd else None
        by_rows = False
        if winograd and tile is None and kernel[0] == stride[0] == 1 and not (padding and padding[0]):
            tile = winograd_form(weight.shape[1], _by_rows(kernel), _by_rows(stride), dtype)
            by_rows = tile is not None
        if by_rows:
            weight, kernel, stride = weight.transpose(2, 3), _by_rows(kernel), _by_rows(stride)
        if tile is None:
            packed = torch.ops.fasti3d.conv3d_pack(weight.contiguous(), dtype)
            return PackedConv3d(packed, bias, *geometry, "direct")
        transform = minimal_filter(tile[0], kernel[0], stride[0])
        packed = torch.ops.fasti3d.conv3d_pack(weight.contiguous(), tile[1], transform.filters)
        return PackedConv3d(packed, bias, *geometry, "winograd", transform, by_rows)

    def __call__(
        self, x: Tensor, out: Tensor | None = None, start: int = 0, residual: Tensor | None = None
    ) -> Tensor:
        """Convolves x into ``out``, which may be a channel slice of a wider clip, or into a new clip.

        With ``out`` it computes as many output frames as that holds, from frame ``start`` on. ``residual``,
        of the result's shape and dtype and channels-last, is added before the ReLU; it may be ``out``. Meta
        tensors are taken for their shapes alone.
        """
        if x.is_meta and out is not None:
            return out
        if out is not None:
            check_in_place(out, residual)
        if not self.fused:
            if residual is not None and out is not None:
                # Of the frames beyond out's, which are computed in vain, nothing is known.
                frames = output_size(x.shape[2:], self.kernel, self.stride, self.padding)[0]
                after = frames - start - out.shape[2]
                residual = F.pad(residual, [0, 0, 0, 0, start, after])
            y = conv3d_bn_relu_reference(
                x, self.weight, self.bias, self.stride, self.relu, self.padding, residual
            )
            return y if out is None else out.copy_(y[:, :, start : start + out.shape[2]])
        if out is None:
            size = output_size(x.shape[2:], self.kernel, self.stride, self.padding)
            shape = (x.shape[0], self.out_channels, *size)
            out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        if not self.by_rows:
            self._run(x, out, start, residual, self.kernel, self.stride, self.padding)
            return out
        geometry = _by_rows(self.kernel), _by_rows(self.stride), self.padding and _by_rows(self.padding)
        residuals: Iterable[Tensor | None] = repeat(None, len(out)) if residual is None else residual
        for clip, target, added in zip(x[:, :, start : start + out.shape[2]], out, residuals, strict=True):
            self._run(_rows(clip), _rows(target), 0, None if added is None else _rows(added), *geometry)
        return out

    def spread(self, y: Tensor) -> bool:
        """Whether a value that is not finite may have reached more of the result ``y`` than it should have.

        The Winograd form makes tiles of output frames (of rows, with ``by_rows``) from the same sums: 4, in
        bfloat16 2. Where one of a tile's inputs is not finite, all its outputs of all channels are NaN: the
        first of one channel tells.
        """
        if self.transform is None or not y.numel():
            return False
        axis, tile = 3 if self.by_rows else 2, len(self.transform.outputs)
        firsts = y[:, :1].movedim(axis, 0)[::tile]
        return not math.isfinite(firsts.sum(dtype=torch.float32).item())

    def into_two(self, x: Tensor, out: Tensor, second: Tensor) -> None:
        """Convolves x, of which ``out`` takes as many channels as it has and ``second`` the others.

        Several 1x1x1 convolutions of one clip, packed as one, then read it once. For the form ``triton``.
        """
        if not x.is_meta:
            torch.ops.fasti3d.conv3d_split_triton_(x, self.weight, self.bias, self.relu, out, second)

    def _run(
        self,
        x: Tensor,
        out: Tensor,
        start: int,
        residual: Tensor | None,
        kernel: Triple,
        stride: Triple,
        padding: Triple | None,
    ) -> None:
        geometry = (kernel, stride, padding, self.relu, out, start, residual)
        if self.form == "triton":
            torch.ops.fasti3d.conv3d_triton_(x, self.weight, self.bias, *geometry)
        elif self.transform is None:
            torch.ops.fasti3d.conv3d_packed_(x, self.weight, self.bias, *geometry)
        else:
            torch.ops.fasti3d.conv3d_winograd_(
                x, self.weight, self.bias, self.transform.inputs, self.transform.outputs, *geometry
            )


def conv3d_bn_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    relu: bool = True,
    out: Tensor | None = None,
    padding: Literal["same"] | Sequence[int] = "same",
    residual: Tensor | None = None,
) -> Tensor:
    """conv3d plus bias and residual, then ReLU, in one pass over the clip and without a padded copy of it.

    A batch norm behind the convolution is folded by the caller: ``weight * gamma / sqrt(var + eps)``
    and ``beta - mean * gamma / sqrt(var + eps)``.

    Args:
        x: (N, Cin, T, H, W), float32, bfloat16 or float16, channels_last_3d for speed.
        weight: (Cout, Cin, kt, kh, kw) in x's dtype or float32.
        bias: (Cout,) or None for zeros.
        stride: steps (t, h, w), at least 1 and less than 2**31.
        relu: whether to zero what is negative.
        out: where to write, e.g. a channel slice of a wider channels_last_3d clip; x's dtype. It shares
            no element with x, weight or bias.
        padding: ``"same"`` for TensorFlow's SAME, which is uneven where a stride asks for it, or zeros
            (t, h, w) on both sides of each axis, as ``torch.nn.Conv3d`` takes them, less than 2**15.
        residual: (N, Cout, T', H', W') in x's dtype, added to the float32 sums before the ReLU, or None. It
            may be ``out``, else it shares no element with ``out``.

    Returns:
        (N, Cout, T', H', W') in x's dtype: ``out`` if given. Sums are float32. T' is ceil(T / st) with
        SAME, else floor((T + 2 pt - kt) / st) + 1; H' and W' likewise. Values that are not finite reach
        the outputs whose windows they are in, and no others.
        Where gradients are needed it runs as ordinary differentiable PyTorch (then ``out`` must be None).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; clips without frames, rows or
            columns; ``out`` with gradients, or one that shares memory with itself or with what is read.
    """
    zeros = _check(x, weight, bias, stride, out, padding, residual)
    step = (int(stride[0]), int(stride[1]), int(stride[2]))
    needs_grad = takes_gradients(*(t for t in (x, weight, bias, residual) if t is not None))
    if needs_grad and out is not None:
        raise ValueError("out cannot be given where gradients are needed: call under torch.no_grad()")
    if takes_operators(x):  # graph.py's
        y = torch.ops.fasti3d.conv3d_bn_relu(x, weight, bias, step, zeros, relu, residual)
        return y if out is None else out.copy_(y)
    if needs_grad or needs_ordinary_path(x):
        y = conv3d_bn_relu_reference(x, weight, bias, step, relu, zeros, residual)
        return y if out is None else out.copy_(y)
    dtype = compute_dtype(x.device, x.dtype)
    pack = partial(PackedConv3d.pack, *in_float32(weight, bias), step, relu=relu, dtype=dtype, padding=zeros)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    added = None if residual is None else _channels_last(residual.to(dtype))
    if dtype == x.dtype:
        return convolve(pack(), x, pack, out, added)
    y = convolve(pack(), x.to(dtype), pack, residual=added)
    return y.to(x.dtype) if out is None else out.copy_(y)


def convolve(
    packed: PackedConv3d,
    x: Tensor,
    pack: Callable[..., PackedConv3d],
    out: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolves x, once more by the direct form, which ``pack`` makes, where values are not finite."""
    if (
        packed.transform is not None
        and residual is not None
        and out is not None
        and is_same_place(residual, out)
    ):
        # The second time it is needed as it was.
        residual = residual.clone()
    y = packed(x, out, residual=residual)
    # A residual's own values that are not finite have spread no further.
    if packed.spread(y) and (residual is None or packed.spread(packed(x))):
        return pack(winograd=False)(x, out, residual=residual)
    return y


def _channels_last(x: Tensor) -> Tensor:
    """x, copied where its channels do not lie side by side."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last_3d)


def in_float32(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is packed: zeros where there is no bias."""
    return weight.float(), weight.new_zeros(weight.shape[0]).float() if bias is None else bias.float()


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    out: Tensor | None,
    padding: Literal["same"] | Sequence[int],
    residual: Tensor | None,
) -> Triple | None:
    """The padding, None for SAME, of arguments that fit together."""
    zeros = check_fits(x, weight, bias, stride, padding, residual)
    if weight.dtype not in (x.dtype, torch.float32):
        raise ValueError(f"weight must be {x.dtype}, like x, or torch.float32, got {weight.dtype}")
    if out is not None:
        if out.device != x.device:
            raise ValueError(f"out is on {out.device}, but x on {x.device}: move one to the other")
        shape = (x.shape[0], weight.shape[0], *output_size(x.shape[2:], weight.shape[2:], stride, zeros))
        check_out(out, shape, x.dtype, residual=residual, x=x, weight=weight, bias=bias)
    return zeros
