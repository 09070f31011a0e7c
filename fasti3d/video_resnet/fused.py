"""torchvision's video ResNets on the engine."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from fasti3d.backbone import VIDEO_RESNET_ENDPOINTS, Backbone
from fasti3d.fusion.fuse import fuse
from fasti3d.network import check_endpoints
from fasti3d.video_resnet.reference import VideoResNet


class FusedVideoResNet(nn.Module):
    """A ``VideoResNet`` for inference, put on the engine by ``fuse``: map, features and logits in one plan.

    Args:
        model: in eval mode; it is not changed.
        labels: class names in logit order, where they are known.
    """

    in_channels = 3

    def __init__(self, model: VideoResNet, labels: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.network = model.network
        self.num_classes = model.fc.out_features
        self.labels = labels
        self.outputs = fuse(_Outputs(model).eval())
        self.preprocessing = Backbone(model.network).preprocessing
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W), normalized -> logits (N, num_classes)."""
        return self.forward_endpoints(x, ("Logits",))["Logits"]

    def extract_features(self, x: Tensor) -> Tensor:
        """The averages of the last map, (N, 512, 1)."""
        features: Tensor = self.outputs(x)[1]
        return features[:, :, None]

    def forward_endpoints(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The outputs of ``VIDEO_RESNET_ENDPOINTS`` that are asked for."""
        wanted = check_endpoints(names, VIDEO_RESNET_ENDPOINTS)
        last_map, _, logits = self.outputs(x)
        found = {"layer4": last_map, "Logits": logits}
        if "Predictions" in wanted:
            found["Predictions"] = logits.float().softmax(dim=1).to(logits.dtype)
        return {name: found[name] for name in VIDEO_RESNET_ENDPOINTS if name in wanted}


class _Outputs(nn.Module):
    """All outputs of a network as what its ``forward`` returns, which is what ``fuse`` looks at."""

    def __init__(self, model: VideoResNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.outputs(x)
