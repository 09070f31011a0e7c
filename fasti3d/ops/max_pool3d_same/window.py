"""The windows of a max-pool: pure functions of its sizes, printable.

>>> pool_size((13, 91, 91), (1, 3, 3), (1, 2, 2), (0, 1, 1))
[13, 46, 46]
"""

from __future__ import annotations

from collections.abc import Sequence

from fasti3d.same_padding import same_padding, same_shape


def pool_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | None,
    ceil_mode: bool = False,
) -> list[int]:
    """(T, H, W) of a max-pool's output. ``padding`` None is SAME; ``ceil_mode`` is torch.nn.MaxPool3d's."""
    if padding is None:
        return same_shape(size, stride)
    lengths = []
    for n, k, s, p in zip(size, kernel, stride, padding, strict=True):
        length = (n + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        # The last window begins inside the input or the padding before it.
        beyond = ceil_mode and (length - 1) * s >= n + p
        lengths.append(length - 1 if beyond else length)
    return lengths


def front_padding(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] | None
) -> list[int]:
    """Places (t, h, w) of the first window that lie before the input."""
    if padding is not None:
        return list(padding)
    return [same_padding(n, k, s)[0] for n, k, s in zip(size, kernel, stride, strict=True)]


def covering(size: Sequence[int], kernel: Sequence[int], padding: Sequence[int] | None) -> list[int]:
    """A kernel with the same results that is not longer than needed: with SAME padding, one of twice an axis
    covers all of it, wherever it lies.
    """
    if padding is not None:
        return list(kernel)
    return [min(k, 2 * n) for k, n in zip(kernel, size, strict=True)]
