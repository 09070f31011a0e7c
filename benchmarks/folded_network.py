"""The network as a careful user of plain PyTorch would run it: batch norm folded, few padded copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d import reference
from fasti3d.engine.batch_norm import fold
from fasti3d.reference import MaxPool3dSame, Unit3D
from fasti3d.same_padding import pad_same, same_output, same_padding

Triple = tuple[int, int, int]
# (x, weight, bias, stride, padding) to what a convolution with ReLU gives.
Convolve = Callable[[Tensor, Tensor, Tensor, Triple, Triple], Tensor]


def convolve_then_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """ReLU in place, over the convolution's result."""
    return F.conv3d(x, weight, bias, stride, padding).relu_()


def convolve_with_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: Triple, padding: Triple) -> Tensor:
    """cuDNN's convolution with bias and ReLU in its epilogue, where it has a kernel that does so."""
    return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, (1, 1, 1), 1)


class FoldedConv(nn.Module):
    """A unit with its batch norm folded in, in float32."""

    weight: Tensor
    bias: Tensor

    def __init__(self, unit: Unit3D, convolve: Convolve) -> None:
        super().__init__()
        weight, bias = fold(unit.conv3d, unit.bn)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.kernel = unit.kernel
        self.stride = unit.stride
        self.convolve = F.conv3d if unit.bn is None else convolve  # the classifier has no ReLU

    def forward(self, x: Tensor) -> Tensor:
        x, padding = same_padded(x, self.kernel, self.stride)
        return self.convolve(x, self.weight, self.bias, self.stride, padding)


class FoldedPool(nn.Module):
    """A max-pool with SAME padding, where it can be without a copy."""

    def __init__(self, pool: MaxPool3dSame) -> None:
        super().__init__()
        self.kernel = pool.kernel
        self.stride = pool.stride

    def forward(self, x: Tensor) -> Tensor:
        pads = _same_pads(x, self.kernel, self.stride)
        if all(front == back for front, back in pads):
            front, _ = zip(*pads, strict=True)
            return F.max_pool3d(x, self.kernel, self.stride, front)
        ceiled = [-(-(n - k) // s) + 1 for n, k, s in self._axes(x)]
        if ceiled == [same_output(n, s) for n, _, s in self._axes(x)] and not any(f for f, _ in pads):
            # The last window may hang over the edge.
            return F.max_pool3d(x, self.kernel, self.stride, ceil_mode=True)
        return F.max_pool3d(pad_same(x, self.kernel, self.stride, float("-inf")), self.kernel, self.stride)

    def _axes(self, x: Tensor) -> list[tuple[int, int, int]]:
        return list(zip(x.shape[2:], self.kernel, self.stride, strict=True))


def _same_pads(x: Tensor, kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    return [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]


def same_padded(x: Tensor, kernel: Triple, stride: Triple) -> tuple[Tensor, Triple]:
    """The convolution's own padding where both ends get as much, else a padded copy."""
    pads = _same_pads(x, kernel, stride)
    if all(front == back for front, back in pads):
        return x, tuple(front for front, _ in pads)  # type: ignore[return-value]
    return pad_same(x, kernel, stride), (0, 0, 0)


def folded(model: reference.I3D, convolve: Convolve = convolve_then_relu) -> reference.I3D:
    """The model, with its units and pools replaced."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, Unit3D):
                setattr(parent, name, FoldedConv(module, convolve))
            elif isinstance(module, MaxPool3dSame):
                setattr(parent, name, FoldedPool(module))
    return model
