"""Attention of every place of a map to the places of another, as non-local blocks have it.

Source: Wang, Girshick, Gupta & He, "Non-local Neural Networks", CVPR 2018 (arXiv 1711.07971). Scores are
never kept for all queries at once: at 32x224x224 those of one block would take as much memory as its map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the scores that exist at a time: enough rows for a product of matrices on a CPU, and work for a GPU.
_PIECE_BYTES = {"cpu": 4 << 20}
_GPU_PIECE_BYTES = 64 << 20
# Below the best score of its row: e^-60 is nothing beside 1, but a normal number. Products of subnormal ones
# take a hundred times as long, and without a scale most scores of a row are that far below.
_DEEPEST = 60


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


def piece_rows(queries: int, keys: int, device: torch.device) -> int:
    """Queries whose scores exist at a time, in as few pieces as their limit allows, of one length."""
    rows = max(_PIECE_BYTES.get(device.type, _GPU_PIECE_BYTES) // (4 * max(keys, 1)), 1)
    return -(-queries // -(-queries // rows)) if queries else 1


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, out: Tensor, scores: Tensor | None = None
) -> None:
    """The same over places (N, L, channels), in pieces of the queries, into ``out``, without gradients.

    ``scores``: memory (rows, keys) for those of a piece, in float32, where that is what q, k and v are: in
    two products of matrices that takes 0.7 to 0.9 times as long as torch's own attention, and a tenth where
    that one's weights are subnormal.
    """
    if scale is None:
        out.copy_(_product(q, k, v, scale))
        return
    rows = piece_rows(q.shape[1], k.shape[1], q.device)
    for i in range(len(q)):
        for first in range(0, q.shape[1], rows):
            piece, target = q[i, first : first + rows], out[i, first : first + rows]
            if scores is None:
                target.copy_(_product(piece[None], k[i : i + 1], v[i : i + 1], scale)[0])
                continue
            its = scores[: len(piece)]
            torch.addmm(its, piece, k[i].t(), beta=0, alpha=scale, out=its)
            torch.clamp_min(its, its.amax(dim=1, keepdim=True).sub_(_DEEPEST), out=its)
            torch.softmax(its, dim=1, out=its)
            torch.mm(its, v[i], out=target)


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
