"""``InceptionI3d`` with the interface of piergiaj/pytorch-i3d, on fasti3d's network.

Change ``from pytorch_i3d import InceptionI3d`` to ``from fasti3d.compat.pytorch_i3d import InceptionI3d``.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from fasti3d import network
from fasti3d.compat.head import pooled_features
from fasti3d.i3d import I3D

# That port's running statistics move ten times faster than the paper's.
BN_MOMENTUM = 0.01


class InceptionI3d(I3D):
    """I3D whose logits keep their time axis, as pytorch-i3d's ``InceptionI3d``.

    Args:
        num_classes: classes of the head.
        spatial_squeeze: drop the logits' spatial axes where they have length 1.
        final_endpoint: the last part to build. ``Logits`` and ``Predictions`` both build the whole
            network, whose output is logits. Anything earlier leaves the rest out, ``logits`` is None,
            and the output is that endpoint's map (the port itself fails in ``forward`` then).
        name: accepted and not used.
        in_channels: 3 for RGB, 2 for flow.
        dropout_keep_prob: despite its name the probability of *dropping* a feature, as in the port.

    Clips are ``(N, in_channels, T, H, W)`` in [-1, 1]. State dicts of the port load with
    ``strict=True``, and the other way round.

    Raises:
        ValueError: ``final_endpoint`` is none of ``VALID_ENDPOINTS``.
    """

    VALID_ENDPOINTS: ClassVar[tuple[str, ...]] = network.ENDPOINTS

    def __init__(
        self,
        num_classes: int = 400,
        spatial_squeeze: bool = True,
        final_endpoint: str = "Logits",
        name: str = "inception_i3d",
        in_channels: int = 3,
        dropout_keep_prob: float = 0.5,
    ) -> None:
        if final_endpoint not in self.VALID_ENDPOINTS:
            raise ValueError(f"Unknown final endpoint {final_endpoint}")
        super().__init__(num_classes, in_channels, dropout=dropout_keep_prob)
        self._num_classes = num_classes
        self._spatial_squeeze = spatial_squeeze
        self._final_endpoint = final_endpoint
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = BN_MOMENTUM
        trunk = {name: getattr(self, name) for name in network.TRUNK}
        for name in trunk:
            delattr(self, name)
        built = self.VALID_ENDPOINTS[: self.VALID_ENDPOINTS.index(final_endpoint) + 1]
        self.end_points = {name: module for name, module in trunk.items() if name in built}
        if final_endpoint in trunk:
            del self.dropout
            self.logits = None  # type: ignore[assignment]
        else:
            self.avg_pool = nn.AvgPool3d(network.HEAD_POOL, stride=1)
        # After the classifier, as in the port: saved optimizer states number parameters in this order.
        self.build()

    def build(self) -> None:
        """Registers the modules of ``end_points``, for callers who exchanged some of them there."""
        for name, module in self.end_points.items():
            self.add_module(name, module)

    def replace_logits(self, num_classes: int) -> None:
        """Puts a freshly initialised classifier of ``num_classes`` in place."""
        super().replace_logits(num_classes)
        self._num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) in [-1, 1] -> logits per time step (N, num_classes, ceil(T/8) - 1).

        The logits are (N, num_classes, ceil(T/8) - 1, H', W') without ``spatial_squeeze`` or where
        Mixed_5c is larger than 7x7.
        """
        if self._final_endpoint in network.TRUNK:
            return self.forward_endpoints(x, (self._final_endpoint,))[self._final_endpoint]
        x = self.logits(self.dropout(self.extract_features(x)))
        return x.squeeze(3).squeeze(3) if self._spatial_squeeze else x

    def extract_features(self, x: Tensor) -> Tensor:
        """Features as the head sees them: (N, 1024, ceil(T/8) - 1, H', W').

        H' and W' are 1 for clips of up to 224x224, whose Mixed_5c is 7x7.
        """
        return pooled_features(self, self.avg_pool, x)
