"""Networks of fuse over clips that come in pieces: the same as whole clips, however they are cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fasti3d
from fasti3d.dense import FrameCountError, dense_clip, dense_stream


class Residual(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv3d(16, 8, (3, 1, 1), padding=(1, 0, 0))
        self.bn = nn.BatchNorm3d(8)
        self.b = nn.Conv3d(8, 16, 3, (stride, 1, 1), padding=1)
        self.shortcut = nn.Conv3d(16, 16, 1, (stride, 1, 1))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.bn(self.a(x)))) + self.shortcut(x))


class Trunk(nn.Module):
    """Windows of every kind in time: strides that skip, pools, branches of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, (5, 7, 7), (2, 2, 2), padding=(2, 3, 3))
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.first, self.second = Residual(1), Residual(2)
        self.halved = nn.MaxPool3d((2, 1, 1), (2, 1, 1))
        self.wide = nn.Conv3d(16, 4, (5, 1, 1), padding=(2, 0, 0))
        self.narrow = nn.Conv3d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halved(self.second(self.first(self.pool(self.stem(x)))))
        return torch.cat([self.wide(x), self.narrow(x)], 1)


class Skewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(3, 8, (2, 1, 1), (2, 1, 1))
        self.b = nn.Conv3d(3, 8, (7, 1, 1), padding=(3, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)[:, :, : x.shape[2] // 2]


def fused(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return fasti3d.fuse(network.eval())


@pytest.mark.parametrize("frames", [9, 40, 43])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_pieces_give_what_the_whole_gives(frames: int, chunk: int) -> None:
    network = fused(Trunk())
    x = torch.randn(2, 3, frames, 20, 24, generator=torch.Generator().manual_seed(frames))
    with torch.no_grad():
        whole = network(x)
    found = list(dense_stream(network, x.split(chunk, dim=2), frames))
    assert [first for first, _ in found] == [sum(y.shape[2] for _, y in found[:i]) for i in range(len(found))]
    torch.testing.assert_close(torch.cat([y for _, y in found], 2), whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(dense_clip(network, x, chunk=chunk), torch.cat([y for _, y in found], 2))


class Averaged(Trunk):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3, 4))


class Gated(Trunk):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * y.mean((2, 3, 4), keepdim=True).sigmoid()


@pytest.mark.parametrize(
    ("network", "call", "said"),
    [
        (Averaged, dense_clip, "reads all frames at once"),
        (Gated, dense_clip, "reads all frames at once"),
        (Skewed, dense_clip, "reads all frames at once"),
        (Trunk, lambda m, x: dense_clip(m, x, features="pooled"), "leave them out, got 'pooled'"),
        (Trunk, lambda m, x: dense_clip(m, x[0]), "pieces must be clips"),
        (Trunk, lambda m, x: list(dense_stream(m, [x, x], 24)), "there are more"),
        (Trunk, lambda m, x: list(dense_stream(m, [x], 25)), "but there are 24"),
        (Trunk, lambda m, x: list(dense_stream(m, [x, x[..., 1:]], 48)), "of one (N, C, H, W)"),
    ],
)
def test_what_cannot_be_given_in_pieces(
    network: Callable[[], nn.Module], call: Callable[..., object], said: str
) -> None:
    with pytest.raises((ValueError, FrameCountError)) as caught:
        call(fused(network()), torch.randn(1, 3, 24, 20, 24))
    assert said in str(caught.value)


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match=r"or a network of fasti3d\.fuse, got Trunk"):
        dense_clip(Trunk().eval(), torch.randn(1, 3, 9, 20, 24))  # type: ignore[arg-type]
