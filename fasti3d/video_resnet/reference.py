"""torchvision's R3D-18, MC3-18 and R(2+1)D-18 (Tran et al., "A Closer Look at Spatiotemporal Convolutions for
Action Recognition", CVPR 2018) in plain PyTorch. torchvision is not needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasti3d.backbone import VIDEO_RESNET_CHANNELS

_WIDTHS = (64, 128, 256, VIDEO_RESNET_CHANNELS)
_STEM_CHANNELS = 64
_BLOCKS = 2


class Factorized(nn.Sequential):
    """A 1x3x3 convolution, batch norm, ReLU and a 3x1x1 convolution, of about the weights of a 3x3x3 one."""

    def __init__(self, in_channels: int, channels: int, middle: int, stride: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(),
            nn.Conv3d(middle, channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


class Block(nn.Module):
    """Two convolutions with batch norm, plus the shortcut, then ReLU.

    Args:
        in_channels, channels: of its input and its output.
        form: of its convolutions: ``"3d"``, 3x3x3; ``"2d"``, 1x3x3; or ``"2+1d"``, factorized.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, form: str, stride: int) -> None:
        super().__init__()
        # The same for both convolutions, by the widths of the first.
        middle = (in_channels * channels * 27) // (in_channels * 9 + 3 * channels)
        self.conv1 = nn.Sequential(
            _conv(in_channels, channels, middle, form, stride), nn.BatchNorm3d(channels), nn.ReLU()
        )
        self.conv2 = nn.Sequential(_conv(channels, channels, middle, form, 1), nn.BatchNorm3d(channels))
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_channels != channels:
            steps = (1 if form == "2d" else stride, stride, stride)
            conv = nn.Conv3d(in_channels, channels, 1, steps, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        found: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return found


class VideoResNet(nn.Module):
    """A ResNet of 18 layers for clips; parameter names are torchvision's.

    Args:
        network: ``"r3d-18"``, ``"mc3-18"`` or ``"r2plus1d-18"``.
        num_classes: classes of the head.
    """

    def __init__(self, network: str, num_classes: int = 400) -> None:
        super().__init__()
        self.network = network
        self.stem = _factorized_stem() if network == "r2plus1d-18" else _stem()
        channels = _STEM_CHANNELS
        stages = []
        for i, (width, form) in enumerate(zip(_WIDTHS, _FORMS[network], strict=True), start=1):
            blocks = []
            for j in range(_BLOCKS):
                blocks.append(Block(channels, width, form, 2 if i > 1 and j == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W), normalized -> logits (N, num_classes)."""
        return self.outputs(x)[2]

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last map (N, 512, T', H', W'), its average (N, 512), and the logits."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        pooled = self.avgpool(x).flatten(1)
        logits: Tensor = self.fc(pooled)
        return x, pooled, logits


# The form of the convolutions in each stage.
_FORMS = {
    "r3d-18": ("3d",) * 4,
    "mc3-18": ("3d", "2d", "2d", "2d"),
    "r2plus1d-18": ("2+1d",) * 4,
}


def _conv(in_channels: int, channels: int, middle: int, form: str, stride: int) -> nn.Module:
    if form == "2+1d":
        return Factorized(in_channels, channels, middle, stride)
    if form == "2d":
        return nn.Conv3d(in_channels, channels, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
    return nn.Conv3d(in_channels, channels, 3, stride, 1, bias=False)


def _stem() -> nn.Sequential:
    conv = nn.Conv3d(3, _STEM_CHANNELS, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(_STEM_CHANNELS), nn.ReLU())


def _factorized_stem() -> nn.Sequential:
    middle = 45
    return nn.Sequential(
        nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, _STEM_CHANNELS, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(_STEM_CHANNELS),
        nn.ReLU(),
    )


def on_meta(network: str, num_classes: int) -> VideoResNet:
    """The network without values, which takes no memory."""
    with torch.device("meta"):
        return VideoResNet(network, num_classes)
