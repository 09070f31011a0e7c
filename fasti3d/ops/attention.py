"""Attention of every place of a map to the places of another, as non-local blocks have it.

Source: Wang, Girshick, Gupta & He, "Non-local Neural Networks", CVPR 2018 (arXiv 1711.07971). Scores are
never kept for all queries at once: at 32x224x224 those of one block would take as much memory as its map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the scores that exist at a time: what stays in a CPU's L2 cache, and enough work for a GPU.
_PIECE_BYTES = {"cpu": 1 << 20}
_GPU_PIECE_BYTES = 64 << 20


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """Attend from each place of ``q`` to all places of ``k``; differentiable.

    Args:
        q: queries (N, D, T, H, W).
        k: keys (N, D, T', H', W').
        v: values (N, C, T', H', W').
        scale: that scores are multiplied by before the softmax; None takes no softmax, and divides by the
            number of keys.

    Returns:
        (N, C, T, H, W) in the dtype of ``v``. Scores and sums are float32 at least.
    """
    n, _, *size = q.shape
    y = _product(places(q), places(k), places(v), scale)
    return y.transpose(1, 2).reshape(n, v.shape[1], *size)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, out: Tensor) -> None:
    """The same over places (N, L, channels), in pieces of the queries, into ``out``, without gradients."""
    if scale is None:
        out.copy_(_product(q, k, v, scale))
        return
    limit = _PIECE_BYTES.get(q.device.type, _GPU_PIECE_BYTES)
    rows = max(limit // (4 * max(k.shape[1], 1)), 1)
    for i in range(len(q)):
        for first in range(0, q.shape[1], rows):
            piece = q[i : i + 1, first : first + rows]
            out[i : i + 1, first : first + rows] = _product(piece, k[i : i + 1], v[i : i + 1], scale)


def places(x: Tensor) -> Tensor:
    """(N, C, T, H, W) as (N, T * H * W, C): of a channels-last map no copy."""
    return x.permute(0, 2, 3, 4, 1).flatten(1, 3)


def _product(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    if scale is not None:
        # One head; half precision is summed in float32.
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)[:, 0]
    wide = torch.promote_types(q.dtype, torch.float32)
    # Keys times values first: a matrix of channels, whatever the number of places.
    mixed = k.to(wide).transpose(1, 2) @ v.to(wide) / k.shape[1]
    return (q.to(wide) @ mixed).to(v.dtype)
