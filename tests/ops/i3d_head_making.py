"""Maps and classifiers for the tests of the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor

from fasti3d.network import HEAD_POOL

# Shapes and windows of other networks' heads, None for all of the map, and odd ones.
WINDOWS = [
    ((1, 512, 2, 7, 7), None),
    ((2, 40, 5, 3, 4), None),
    ((1, 33, 1, 1, 1), None),
    ((1, 72, 8, 7, 7), (4, 7, 7)),
    ((2, 16, 9, 5, 6), (3, 1, 4)),
    ((1, 8, 11, 6, 5), (1, 2, 5)),
    ((1, 8, 4, 12, 13), (4, 3, 3)),
]
# Odd sizes, the least of each axis, more than a step of windows, pixels and channels.
MAPS = [
    (1, 1024, 2, 7, 7),
    (2, 40, 3, 7, 8),
    (3, 33, 9, 10, 7),
    (1, 8, 19, 9, 9),
    (2, 24, 10, 7, 17),
]


def head_arguments(
    shape: tuple[int, ...], classes: int, dtype: torch.dtype = torch.float16, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """A channels-last map, and the weight and bias of a classifier of its channels."""
    n, channels, *size = shape
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    x = random(n, *size, channels).to(dtype).permute(0, 4, 1, 2, 3)
    return x, random(classes, channels), random(classes)


def assert_is_head(
    actual: tuple[Tensor, Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    window: Sequence[int] = HEAD_POOL,
) -> None:
    """Features and logits against the pool and the classifier, one after the other, in float64."""
    pooled = F.avg_pool3d(x.double(), tuple(window), stride=1)
    logits = torch.einsum("ncthw,kc->nkthw", pooled, weight.double()) + bias.double()[:, None, None, None]
    for result, exact in zip(actual, (pooled.mean(dim=(3, 4)), logits.mean(dim=(2, 3, 4))), strict=True):
        assert result.dtype == torch.float32
        assert_close("i3d_head", result, exact)
