"""``FastI3D``, a backbone for mmaction2, registered on import, where mmengine is installed.

In a configuration of mmaction2::

    custom_imports = dict(imports=["fasti3d.compat.mmaction"])
    model = dict(
        type="Recognizer3D",
        backbone=dict(type="FastI3D", pretrained="kinetics400-rgb", norm_eval=True),
        cls_head=dict(type="I3DHead", num_classes=51, in_channels=1024),
        data_preprocessor=dict(
            type="ActionDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, format_shape="NCTHW"
        ),
    )

The registry is mmaction2's; without mmaction2 it is mmengine's, ``mmengine.registry.MODELS``.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from fasti3d.i3d import I3D

try:
    from mmengine.model import BaseModule
except ImportError as error:
    raise ImportError(
        "fasti3d.compat.mmaction needs mmengine, which mmaction2 brings: pip install mmengine"
    ) from error
try:
    from mmaction.registry import MODELS
except ModuleNotFoundError:
    from mmengine.registry import MODELS

# Stem, then the parts between two halvings of the map's size, as the stages of a ResNet there.
STAGES = 5


@MODELS.register_module()
class FastI3D(I3D, BaseModule):
    """I3D's trunk as a backbone: clips (N, in_channels, T, H, W) -> feature map (N, 1024, T', H', W').

    T' is T / 8, and H' and W' are H / 32 and W / 32, rounded up; any size is taken. Clips are in [-1, 1]:
    mean and std 127.5 in the ``data_preprocessor``. It trains and evaluates as ``fasti3d.I3D`` does,
    without a classifier; its state dict has pytorch-i3d's names.

    Args:
        in_channels: 3 for RGB, 2 for optical flow.
        pretrained: what ``init_weights`` loads: a name from ``fasti3d.weights.registry()``, the path of a
            checkpoint, or a folder with one; None keeps the random weights. A classifier in it is left out.
        frozen_stages: the last stage that is not trained: -1 none, 0 the stem (Conv3d_1a), 1 up to Conv3d_2c,
            2 to 4 up to the Mixed blocks 3c, 4f and 5c. Their batch norms keep their statistics.
        norm_eval: whether all batch norms keep their statistics in training.
        init_cfg: as for mmengine's ``BaseModule``.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> from mmengine.registry import MODELS
        >>> import fasti3d.compat.mmaction
        >>> backbone = MODELS.build(dict(type="FastI3D", frozen_stages=1))
        >>> backbone(torch.zeros(1, 3, 16, 64, 64)).shape[2:]
        torch.Size([2, 2, 2])
    """

    def __init__(
        self,
        in_channels: int = 3,
        pretrained: Any = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if not -1 <= frozen_stages < STAGES:
            raise ValueError(f"frozen_stages must be -1 (none) to {STAGES - 1}, got {frozen_stages}")
        super().__init__(1, in_channels)
        # The head is another module, and a parameter that gets no gradient would stop DDP.
        del self.dropout
        self.logits = None  # type: ignore[assignment]
        self.init_cfg = copy.deepcopy(init_cfg)
        self.pretrained = pretrained
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self._freeze()

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says, then load ``pretrained``.

        Raises:
            fasti3d.weights.WeightsError: ``pretrained`` cannot be downloaded or read, or does not fit.
        """
        super().init_weights()
        if self.pretrained is None:
            return
        from fasti3d.weights import WeightsError, load_partial

        found = load_partial(self.pretrained)
        trunk = {name: tensor for name, tensor in found.items() if not name.startswith("logits.")}
        try:
            self.load_state_dict(trunk)
        except RuntimeError as error:
            raise WeightsError(
                f"pretrained {self.pretrained!r} does not fit a trunk of {self.in_channels} input channels; "
                f"give others, or another in_channels: {error}"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) in [-1, 1] -> (N, 1024, ceil(T/8), ceil(H/32), ceil(W/32))."""
        return self.forward_features(x)

    def train(self, mode: bool = True) -> FastI3D:
        """Set the mode of what is not frozen; frozen stages stay in eval mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self

    def _freeze(self) -> None:
        for name in self._trunk():
            # Names count the stages from 1: Conv3d_1a_7x7, ..., Mixed_5c.
            if int(name.split("_")[1][0]) - 1 <= self.frozen_stages:
                part = getattr(self, name)
                part.eval()
                part.requires_grad_(False)
