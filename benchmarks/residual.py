"""Residual video networks as others write them: what ``fasti3d.fuse`` is tested and timed on.

Shapes after Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition"
(CVPR 2018): R3D-18 with 3x3x3 convolutions, and R(2+1)D-18 with each factored into space and time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Convolution = Callable[[int, int, int], nn.Module]


def full(in_channels: int, out_channels: int, stride: int) -> nn.Conv3d:
    """3x3x3."""
    return nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def factored(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """1x3x3, then 3x1x1, with as many channels between as make the weights of a 3x3x3."""
    between = in_channels * out_channels * 27 // (in_channels * 9 + out_channels * 3)
    return nn.Sequential(
        nn.Conv3d(in_channels, between, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        nn.Conv3d(between, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class BasicBlock(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, convolution: Convolution, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = convolution(out_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm3d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            narrow = nn.Conv3d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(narrow, nn.BatchNorm3d(out_channels))
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


def stem(out_channels: int) -> nn.Sequential:
    """3x7x7, stride 2 over space."""
    return nn.Sequential(
        nn.Conv3d(3, out_channels, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def factored_stem(out_channels: int) -> nn.Sequential:
    """1x7x7, stride 2 over space, then 3x1x1."""
    between = 45 * out_channels // 64
    return nn.Sequential(
        nn.Conv3d(3, between, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        nn.Conv3d(between, out_channels, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


class ResidualNetwork(nn.Module):
    """A stem, stages of two blocks each that halve every axis but in the first, a mean and a classifier."""

    def __init__(
        self,
        stem: nn.Module,
        convolution: Convolution,
        channels: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 400,
    ) -> None:
        super().__init__()
        self.stem = stem
        stages = []
        before = channels[0]
        for i, width in enumerate(channels):
            first = BasicBlock(convolution, before, width, 2 if i else 1)
            stages.append(nn.Sequential(first, BasicBlock(convolution, width, width, 1)))
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


def r3d(channels: Sequence[int] = (64, 128, 256, 512), num_classes: int = 400) -> ResidualNetwork:
    """An R3D-18 at the default widths."""
    return ResidualNetwork(stem(channels[0]), full, channels, num_classes)


def r2plus1d(channels: Sequence[int] = (64, 128, 256, 512), num_classes: int = 400) -> ResidualNetwork:
    """An R(2+1)D-18 at the default widths."""
    return ResidualNetwork(factored_stem(channels[0]), factored, channels, num_classes)


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode, with weights that keep the maps' scale and batch norms far from identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
                nn.init.normal_(module.bias, std=0.1, generator=generator)
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, std=0.1, generator=generator)
                nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return network.eval().requires_grad_(False)
