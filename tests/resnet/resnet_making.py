"""Networks of random weights whose batch norms do something, and clips that fit them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fasti3d
from fasti3d.resnet import reference
from fasti3d.resnet.variants import VARIANTS

_SHARPER = 20
# Every variant, and every kind of non-local block with one that has it.
NETWORKS = [
    *((variant, None) for variant in VARIANTS),
    ("caffe2-32x2", "embedded_gaussian"),
    ("pytorchvideo-8x8", "dot_product"),
    ("mmaction2-32x2", "embedded_gaussian"),
    ("mmaction2-32x2", "dot_product"),
    ("mmaction2-32x2", "gaussian"),
]


def make(variant: str, non_local: str | None = None, classes: int = 5, seed: int = 0) -> fasti3d.I3DResNet:
    """In eval mode, for clips of any size."""
    torch.manual_seed(seed)
    model = fasti3d.I3DResNet(variant, non_local=non_local, num_classes=classes)
    randomize(model)
    model.avgpool = nn.AdaptiveAvgPool3d(1)
    return model.eval()


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.3, 0.9)
            module.bias.normal_(0, 0.2)
        elif isinstance(module, reference.NonLocalBlock):
            # Scores that differ, so that every softmax has places that it prefers.
            for conv in (module.theta, module.phi):
                if conv is not None:
                    conv.weight.mul_(_SHARPER)


def plain(model: fasti3d.I3DResNet, dtype: torch.dtype = torch.float32) -> reference.I3DResNet:
    """The reference with a network's weights."""
    classes = model.fc.out_features
    twin = reference.I3DResNet(model.variant, model.depth, model.non_local, classes)
    twin.load_state_dict(model.state_dict())
    twin.avgpool = model.avgpool
    return twin.to(dtype).eval()


def clip(model: fasti3d.I3DResNet, size: int = 48, seed: int = 1) -> Tensor:
    """Of so many frames that res5 has at least two."""
    frames = 16 if model.table.stem_stride * model.table.pool.stride[0] > 1 else 4
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, frames, size, size - 8, generator=generator)
