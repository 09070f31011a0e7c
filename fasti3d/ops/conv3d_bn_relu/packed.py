"""Convolutions with their weights packed: one class per back end, and the choice between them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import fasti3d.ops.conv3d_bn_relu.triton_operators
import fasti3d.ops.conv3d_slab.operators  # noqa: F401 - these register what the GPU's classes call
from fasti3d.inputs import Scaling, table_of_bytes
from fasti3d.ops.border import check_in_place
from fasti3d.ops.conv3d_bn_relu.cpu_operators import PANEL
from fasti3d.ops.conv3d_bn_relu.forms import choose_form, tile_name
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.reference import conv3d_bn_relu_reference
from fasti3d.ops.conv3d_bn_relu.space_to_depth import (
    cells_shape,
    fold_weight,
    folded_kernel,
    is_folded,
    windows,
)
from fasti3d.ops.conv3d_bn_relu.tiles import pack_tiles
from fasti3d.ops.conv3d_bn_relu.winograd import Transform, minimal_filter
from fasti3d.ops.conv3d_slab import describe as slabs
from fasti3d.ops.tiling import Triple
from fasti3d.runtime.extension import has_amx_bf16
from fasti3d.runtime.route import has_kernel


@dataclass(frozen=True)
class PackedConv3d(ABC):
    """A convolution ready to run: weights in the layout that its kernel reads, bias, window and ReLU.

    Clips of fewer than FEW_CHANNELS channels may have any layout, others must be channels-last.
    """

    weight: Tensor
    bias: Tensor
    out_channels: int
    geometry: Geometry

    # Whether a kernel of this library runs, which computes the frames that it is asked for and no others.
    fused: ClassVar[bool] = True
    # Whether values that are not finite may reach more outputs than those whose windows they are in.
    spreads: ClassVar[bool] = False

    def of_bytes(self, scaling: Scaling | None, channels: int) -> PackedConv3d:
        """The same for clips of bytes too, of so many channels, where its kernel reads those; else itself."""
        return self

    @property
    def reads_bytes(self) -> bool:
        """Whether clips may be uint8."""
        return False

    @property
    def form(self) -> str:
        """Its form in a word or two, as ``fasti3d plan`` prints it."""
        return "direct"

    @property
    def tile_frames(self) -> int:
        """Output frames that are computed together: others than whole tiles of them cost a whole one."""
        return 1

    @property
    def kernel(self) -> Triple:
        return self.geometry.kernel

    @property
    def stride(self) -> Triple:
        return self.geometry.stride

    @property
    def padding(self) -> Triple | None:
        """Zeros on both sides of each axis; None is SAME."""
        return self.geometry.padding

    @property
    def relu(self) -> bool:
        return self.geometry.relu

    @property
    def nbytes(self) -> int:
        """What it keeps in memory, in bytes."""
        return self.weight.nbytes + self.bias.nbytes

    @staticmethod
    def pack(
        weight: Tensor,
        bias: Tensor,
        stride: Triple,
        *,
        relu: bool,
        dtype: torch.dtype,
        padding: Triple | None = None,
        winograd: bool = True,
    ) -> PackedConv3d:
        """Chooses the back end, and packs float32 weights (Cout, Cin, kt, kh, kw) and bias (Cout,) for it.

        ``dtype`` is the clips'. ``padding`` is zeros on both sides of each axis; None is SAME. ``winograd``:
        whether a back end may be chosen that ``spreads``.
        """
        geometry = Geometry((weight.shape[2], weight.shape[3], weight.shape[4]), stride, padding, relu)
        channels = weight.shape[1]
        if not has_kernel(weight.device, dtype):
            return ReferenceConv3d.of(weight, bias, geometry, dtype)
        if slabs.takes_slabs(weight.device, dtype, channels, len(weight), geometry):
            return SlabConv3d.of(weight, bias, geometry, dtype)
        if weight.device.type == "cuda":
            return TritonConv3d.of(weight, bias, geometry, dtype)
        if dtype == torch.bfloat16 and has_amx_bf16():
            return TilesConv3d.of(weight, bias, geometry)
        form = choose_form(channels, len(weight), geometry, dtype)
        if winograd and not form.direct:
            return WinogradConv3d.of(weight, bias, geometry, form.outputs, form.dtype)
        return DirectConv3d.of(weight, bias, geometry, dtype)

    def __call__(
        self, x: Tensor, out: Tensor | None = None, start: int = 0, residual: Tensor | None = None
    ) -> Tensor:
        """Convolves x into ``out``, which may be a channel slice of a wider clip, or into a new clip.

        With ``out`` it computes as many output frames as that holds, from frame ``start`` on. ``residual``,
        channels-last and of the result's shape and dtype, is added before the ReLU; it may be ``out``. Meta
        tensors are taken for their shapes alone.
        """
        if out is None:
            shape = (x.shape[0], self.out_channels, *self.geometry.output_size(x.shape[2:]))
            out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        elif x.is_meta:
            return out
        self._convolve(x, out, start, residual)
        return out

    @abstractmethod
    def _convolve(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        """Writes the frames of ``out``."""

    def spread(self, y: Tensor) -> bool:
        """Whether a value that is not finite may have reached more of the result ``y`` than it should."""
        return False


class ReferenceConv3d(PackedConv3d):
    """torch's own convolution, where it is the fastest or the only one."""

    fused = False

    @property
    def form(self) -> str:
        return "torch"

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, geometry: Geometry, dtype: torch.dtype) -> ReferenceConv3d:
        packed = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        return cls(packed, bias, len(weight), geometry)

    def __call__(
        self, x: Tensor, out: Tensor | None = None, start: int = 0, residual: Tensor | None = None
    ) -> Tensor:
        if out is not None:
            return super().__call__(x, out, start, residual)
        return self._whole(x, residual)

    def _convolve(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        check_in_place(out, residual)
        end = start + out.shape[2]
        if residual is not None:
            # The whole output is computed: zeros for the frames that are not in out.
            frames = self.geometry.output_size(x.shape[2:])[0]
            residual = F.pad(residual, [0, 0, 0, 0, start, frames - end])
        out.copy_(self._whole(x, residual)[:, :, start:end])

    def _whole(self, x: Tensor, residual: Tensor | None) -> Tensor:
        _, stride, padding, relu = self.geometry
        return conv3d_bn_relu_reference(x, self.weight, self.bias, stride, relu, padding, residual)


@dataclass(frozen=True)
class CpuConv3d(PackedConv3d):
    """One of the CPU's kernels; ``bytes`` is what bytes of a clip stand for, (channels, 256), or None.

    Zeros of the padding are zeros after the scaling.
    """

    bytes: Tensor | None = field(default=None, kw_only=True)

    def of_bytes(self, scaling: Scaling | None, channels: int) -> CpuConv3d:
        return replace(self, bytes=table_of_bytes(scaling, channels))

    @property
    def reads_bytes(self) -> bool:
        return self.bytes is not None


class DirectConv3d(CpuConv3d):
    """The CPU's kernel of one product per tap, channel and output."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, geometry: Geometry, dtype: torch.dtype) -> DirectConv3d:
        packed = torch.ops.fasti3d.conv3d_pack(weight, dtype, [])
        return cls(packed, _whole_panels(bias), len(weight), geometry)

    def _convolve(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        torch.ops.fasti3d.conv3d_packed_(
            x, self.weight, self.bias, *self.geometry, out, start, residual, self.bytes
        )


class TilesConv3d(CpuConv3d):
    """The same in bfloat16 on the CPU's matrix tiles."""

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, geometry: Geometry) -> TilesConv3d:
        return cls(pack_tiles(weight), _whole_panels(bias), len(weight), geometry)

    def _convolve(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        torch.ops.fasti3d.conv3d_tiles_(
            x, self.weight, self.bias, *self.geometry, out, start, residual, self.bytes
        )


@dataclass(frozen=True)
class WinogradConv3d(CpuConv3d):
    """The CPU's kernel of minimal filtering, in tiles of a few outputs along t, h and w."""

    transforms: tuple[Transform, Transform, Transform]
    spreads = True

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor, geometry: Geometry, outputs: Triple, dtype: torch.dtype
    ) -> WinogradConv3d:
        """With so many outputs per tile along each axis and weights in ``dtype``: what a ``Form`` has."""
        t, h, w = map(minimal_filter, outputs, geometry.kernel, geometry.stride)
        packed = torch.ops.fasti3d.conv3d_pack(weight, dtype, [t.filters, h.filters, w.filters])
        return cls(packed, _whole_panels(bias), len(weight), geometry, (t, h, w))

    @property
    def form(self) -> str:
        return tile_name(self.outputs)

    @property
    def tile_frames(self) -> int:
        return self.outputs[0]

    @property
    def outputs(self) -> Triple:
        """Of a tile along each axis."""
        t, h, w = (len(transform.outputs) for transform in self.transforms)
        return t, h, w

    def _convolve(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        inputs = [transform.inputs for transform in self.transforms]
        outputs = [transform.outputs for transform in self.transforms]
        torch.ops.fasti3d.conv3d_winograd_(
            x, self.weight, self.bias, inputs, outputs, *self.geometry, out, start, residual, self.bytes
        )

    def spread(self, y: Tensor) -> bool:
        # Where one of a tile's inputs is not finite, all its outputs of all channels are NaN.
        t, h, w = self.outputs
        firsts = y[:, :1, ::t, ::h, ::w]
        return bool(y.numel()) and not math.isfinite(firsts.sum(dtype=torch.float32).item())


@dataclass(frozen=True)
class TritonConv3d(PackedConv3d):
    """The GPU's kernels.

    It takes uint8 clips too where it folds them (see space_to_depth.py), with ``out`` given; where
    ``scaling`` is None it scales 0 to 255 to [-1, 1].
    """

    scaling: Scaling | None = field(default=None, kw_only=True)

    def of_bytes(self, scaling: Scaling | None, channels: int) -> TritonConv3d:
        return replace(self, scaling=scaling)

    @property
    def reads_bytes(self) -> bool:
        return True

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, geometry: Geometry, dtype: torch.dtype) -> TritonConv3d:
        return cls(pack_triton(weight, geometry.stride, dtype), bias.contiguous(), len(weight), geometry)

    def _convolve(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        if x.dtype != torch.uint8 or self.scaling is None:
            self._launch(x, out, start, residual)
            return
        cells = self.new_cells(x)
        self.fold(x, cells)
        self.over_cells()._launch(self.windows(cells), out, start, residual)

    def _launch(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        torch.ops.fasti3d.conv3d_triton_(x, self.weight, self.bias, *self.geometry, out, start, residual)

    def over_cells(self) -> TritonConv3d:
        """Where clips are folded, the same convolution of the ``windows`` of their cells."""
        t, h, _ = folded_kernel(self.kernel, self.stride)
        return replace(self, geometry=Geometry((t, h, 1), (1, 1, 1), (0, 0, 0), self.relu))

    def new_cells(self, x: Tensor) -> Tensor:
        """Memory for the cells of clips like x."""
        size = self.geometry.output_size(x.shape[2:])
        shape = cells_shape(x.shape[0], x.shape[1], self.kernel, self.stride, size)
        return torch.empty(shape, dtype=self.weight.dtype, device=x.device)

    def windows(self, cells: Tensor) -> Tensor:
        """Cells as what the convolution over them reads."""
        return windows(cells, self.kernel, self.stride)

    def fold(self, x: Tensor, cells: Tensor) -> None:
        """Writes the cells of x, which may be uint8."""
        # Here and not at the top: triton is slow to import, and absent where there is no GPU.
        from fasti3d.ops.conv3d_bn_relu.fold import fold

        fold(x, self.geometry, cells, self.scaling)

    def into_two(self, x: Tensor, out: Tensor, second: Tensor) -> None:
        """Convolves x, of which ``out`` takes as many channels as it has and ``second`` the others.

        Several 1x1x1 convolutions of one clip, packed as one, then read it once.
        """
        if not x.is_meta:
            torch.ops.fasti3d.conv3d_split_triton_(x, self.weight, self.bias, self.relu, out, second)


@dataclass(frozen=True)
class SlabConv3d(TritonConv3d):
    """The same, or a kernel that reads clips less often, where that is proved and faster."""

    slab_weight: Tensor

    @property
    def form(self) -> str:
        return "direct/slab"

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.slab_weight.nbytes

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, geometry: Geometry, dtype: torch.dtype) -> SlabConv3d:
        its = TritonConv3d.of(weight, bias, geometry, dtype)
        slab_weight = slabs.pack(weight, geometry, dtype)
        return cls(its.weight, its.bias, its.out_channels, geometry, slab_weight)

    def _launch(self, x: Tensor, out: Tensor, start: int, residual: Tensor | None) -> None:
        torch.ops.fasti3d.conv3d_slab_or_triton_(
            x, self.weight, self.slab_weight, self.bias, *self.geometry, out, start, residual
        )


def pack_triton(weight: Tensor, stride: Triple, dtype: torch.dtype) -> Tensor:
    """(Cout, Cin, kt, kh, kw) to (Cout, taps, Cin), or window rows for taps where clips are folded.

    In memory one tap lies after another, of all output channels each, so that a box of weights ends with its
    tap's input channels.
    """
    if is_folded(weight.shape[1], (weight.shape[2], weight.shape[3], weight.shape[4])):
        return tap_after_tap(fold_weight(weight, stride).to(dtype))
    return tap_after_tap(weight.to(dtype).flatten(2).transpose(1, 2))


def tap_after_tap(weight: Tensor) -> Tensor:
    """(Cout, taps, Cin) with the memory of (taps, Cout, Cin)."""
    return weight.transpose(0, 1).contiguous().transpose(0, 1)


def _whole_panels(bias: Tensor) -> Tensor:
    return F.pad(bias, (0, -len(bias) % PANEL)).contiguous()
