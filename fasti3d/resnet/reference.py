"""I3D-ResNet in plain PyTorch: readable, slow, and the yardstick of the fused network.

Source: Wang, Girshick, Gupta & He, "Non-local Neural Networks", CVPR 2018 (arXiv 1711.07971), and the
implementations that ``fasti3d.resnet.variants`` names. Parameter names are those of the PyTorch port of the
caffe2 networks, Tushar-N/pytorch-resnet3d.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d.forms import BottleneckForm, NonLocalForm, states_form
from fasti3d.network import HEAD, SCORES, check_endpoints
from fasti3d.reference import BatchNorm3d
from fasti3d.resnet.variants import (
    BLOCKS,
    BN_EPS,
    EXPANSION,
    FEATURE_CHANNELS,
    STEM_CHANNELS,
    WIDTHS,
    NonLocal,
    Pool,
    Variant,
    check_network,
)

_STAGES = ("layer1", "layer2", "layer3", "layer4")
# What runs before the head: the endpoints of all variants, and their modules.
_TRUNK = {
    "conv1": "conv1",
    "pool1": "pool1",
    "res2": "layer1",
    "pool2": "pool2",
    "res3": "layer2",
    "res4": "layer3",
    "res5": "layer4",
}
# Stages of which blocks may be followed by non-local ones.
_WITH_NON_LOCAL = {"layer2": 0, "layer3": 1}


@states_form
class NonLocalBlock(nn.Module):
    """x + BN(out(attention(x))): every position of a map attends to every other, keys at half the size.

    Args:
        channels: of the map; queries, keys and values have half as many.
        mode: ``"embedded_gaussian"`` (softmax of scores), ``"dot_product"`` (scores divided by the number of
            keys) or ``"gaussian"`` (softmax of the map's own products, without embeddings).
        form: how the implementation does it.
    """

    def __init__(self, channels: int, mode: str, form: NonLocal) -> None:
        super().__init__()
        inner = channels // 2
        self.pools_first = form.pools_first
        embeds = mode != "gaussian"
        # Of the scores before the softmax; None divides them by the number of keys in its place.
        self.scale = None if mode == "dot_product" else inner**-0.5 if form.scaled else 1.0
        self.theta = nn.Conv3d(channels, inner, 1) if embeds else None
        self.phi = nn.Conv3d(channels, inner, 1) if embeds else None
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1, bias=form.out_bias)
        self.bn = BatchNorm3d(channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool3d(x, (1, 2, 2)) if self.pools_first else None
        theta = x if self.theta is None else self.theta(x)
        phi = self._reduced(self.phi, x, pooled)
        g = self._reduced(self.g, x, pooled)
        n, _, *size = theta.shape
        # (N, places, channels) each; sums in float32 at least.
        q, k, v = (y.flatten(2).transpose(1, 2) for y in (theta, phi, g))
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = q.to(wide) @ k.to(wide).transpose(1, 2)
        shares = scores / scores.shape[2] if self.scale is None else (scores * self.scale).softmax(dim=2)
        y = (shares @ v.to(wide)).to(q.dtype)
        y = y.transpose(1, 2).reshape(n, v.shape[2], *size)
        added: Tensor = x + self.bn(self.out(y))
        return added

    def stated_form(self) -> NonLocalForm | None:
        return NonLocalForm(self.theta, self.phi, self.g, self.out, self.bn, self.pools_first, self.scale)

    def _reduced(self, conv: nn.Conv3d | None, x: Tensor, pooled: Tensor | None) -> Tensor:
        """Keys or values: at half the height and width."""
        if pooled is not None:
            return pooled if conv is None else conv(pooled)
        return F.max_pool3d(x if conv is None else conv(x), (1, 2, 2))


@states_form
class Bottleneck(nn.Module):
    """conv (kt,1,1), conv 1x3x3 with the stride, conv 1x1x1; plus the shortcut, then ReLU."""

    def __init__(self, in_channels: int, width: int, taps: int, stride: int) -> None:
        super().__init__()
        channels = width * EXPANSION
        self.conv1 = nn.Conv3d(in_channels, width, (taps, 1, 1), padding=(taps // 2, 0, 0), bias=False)
        self.bn1 = BatchNorm3d(width, eps=BN_EPS)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn2 = BatchNorm3d(width, eps=BN_EPS)
        self.conv3 = nn.Conv3d(width, channels, 1, bias=False)
        self.bn3 = BatchNorm3d(channels, eps=BN_EPS)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            conv = nn.Conv3d(in_channels, channels, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(conv, BatchNorm3d(channels, eps=BN_EPS))
        self.nl: NonLocalBlock | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y = F.relu(y + (x if self.downsample is None else self.downsample(x)))
        return y if self.nl is None else self.nl(y)

    def stated_form(self) -> BottleneckForm | None:
        units = (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)
        return BottleneckForm(units, self.downsample, self.nl)


class I3DResNet(nn.Module):
    """I3D-ResNet as its implementation wrote it; see ``fasti3d.I3DResNet`` for the arguments."""

    def __init__(
        self,
        variant: str,
        depth: int = 50,
        non_local: str | None = None,
        num_classes: int = 400,
        *,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        table = check_network(variant, depth, non_local)
        self.variant, self.depth, self.non_local = variant, depth, non_local
        self.table: Variant = table
        t, h, w = table.stem
        self.conv1 = nn.Conv3d(
            3, STEM_CHANNELS, table.stem, (table.stem_stride, 2, 2), (t // 2, h // 2, w // 2), bias=False
        )
        self.bn1 = BatchNorm3d(STEM_CHANNELS, eps=BN_EPS)
        self.pool1 = _max_pool(table.pool)
        channels = STEM_CHANNELS
        for i, (stage, width, blocks) in enumerate(zip(_STAGES, WIDTHS, BLOCKS[depth], strict=True)):
            made = []
            for j, taps in enumerate(table.taps_of(i, blocks)):
                made.append(Bottleneck(channels, width, taps, 2 if j == 0 and i > 0 else 1))
                channels = width * EXPANSION
            if non_local is not None and stage in _WITH_NON_LOCAL and table.non_local is not None:
                for place in table.non_local.places[depth][_WITH_NON_LOCAL[stage]]:
                    made[place].nl = NonLocalBlock(channels, non_local, table.non_local)
            self.add_module(stage, nn.Sequential(*made))
            if i == 0 and table.pool2 is not None:
                self.pool2 = _max_pool(table.pool2)
        self.avgpool = nn.AdaptiveAvgPool3d(1) if table.head is None else nn.AvgPool3d(table.head, 1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(FEATURE_CHANNELS, num_classes)
        _initialize(self)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The names of all outputs, in order of computation."""
        return (*self._trunk(), *HEAD)

    def _trunk(self) -> dict[str, str]:
        """The module of each endpoint before the head, in order."""
        return {name: part for name, part in _TRUNK.items() if hasattr(self, part)}

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Runs no further than needed and returns the maps asked for.

        Args:
            x: (N, 3, T, H, W), normalized as the implementation does.
            names: any of ``endpoints``: maps (N, C, T', H', W'), ``Features`` what ``extract_features``
                returns, ``Logits`` (N, num_classes) averaged over the map, ``Predictions`` their softmax.

        Raises:
            ValueError: a name that is not an endpoint.
        """
        wanted = check_endpoints(names, self.endpoints)
        maps: dict[str, Tensor] = {}
        for name, part in self._trunk().items():
            if wanted.issubset(maps):
                break
            x = getattr(self, part)(x)
            if name == "conv1":
                x = F.relu(self.bn1(x))
            if name in wanted:
                maps[name] = x
        if wanted.intersection(HEAD):
            maps |= self._head(x, wanted)
        return {name: maps[name] for name in self.endpoints if name in wanted}

    def _head(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """What follows res5."""
        half = x.dtype in (torch.float16, torch.bfloat16)  # which torch does not pool on the CPU
        pooled = self.avgpool(x.float() if half else x).to(x.dtype)
        maps = {"Features": pooled.mean(dim=(3, 4))}
        if wanted.intersection(SCORES):
            places = self.dropout(pooled).flatten(2).transpose(1, 2)
            logits = self.fc(places).mean(dim=1)
            maps |= {"Logits": logits, "Predictions": logits.softmax(dim=1)}
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> logits (N, num_classes), averaged over the places of the head's pool."""
        return self.forward_endpoints(x, ("Logits",))["Logits"]

    def extract_features(self, x: Tensor) -> Tensor:
        """Features as the head sees them: (N, 2048, T'), of which the mean over T' gives the logits."""
        return self.forward_endpoints(x, ("Features",))["Features"]


def _max_pool(pool: Pool) -> nn.MaxPool3d:
    return nn.MaxPool3d(*pool)


def _initialize(model: nn.Module) -> None:
    """He et al.'s, and the paper's for non-local blocks, which begin as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for block in model.modules():
        if isinstance(block, NonLocalBlock):
            for conv in (block.theta, block.phi, block.g, block.out):
                if conv is not None:
                    nn.init.normal_(conv.weight, std=0.01)
                    if conv.bias is not None:
                        nn.init.zeros_(conv.bias)
            nn.init.zeros_(block.bn.weight)
