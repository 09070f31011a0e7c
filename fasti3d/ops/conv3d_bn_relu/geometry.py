"""A convolution's window, and the size of what it makes of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fasti3d.ops.tiling import Triple
from fasti3d.same_padding import same_padding, same_shape


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] | None
) -> list[int]:
    """(T, H, W) of a convolution's output; ``padding`` None is SAME."""
    if padding is None:
        return same_shape(size, stride)
    axes = zip(size, kernel, stride, padding, strict=True)
    return [(n + 2 * p - k) // s + 1 for n, k, s, p in axes]


class Geometry(NamedTuple):
    """A convolution's window, (t, h, w) each, and whether a ReLU follows.

    ``padding`` is zeros on both sides of each axis; None is SAME.
    """

    kernel: Triple
    stride: Triple
    padding: Triple | None
    relu: bool

    def output_size(self, size: Sequence[int]) -> list[int]:
        """(T, H, W) of the output of clips of ``size``."""
        return output_size(size, self.kernel, self.stride, self.padding)

    def pads(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """Zeros before and after each axis of clips of ``size``."""
        if self.padding is not None:
            return [(p, p) for p in self.padding]
        return [same_padding(n, k, s) for n, k, s in zip(size, self.kernel, self.stride, strict=True)]

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel is made from the input pixel in its place."""
        return self.kernel == self.stride == (1, 1, 1) and not any(self.padding or ())
