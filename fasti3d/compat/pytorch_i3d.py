"""``InceptionI3d`` with the interface of piergiaj/pytorch-i3d, on fasti3d's network.

Change ``from pytorch_i3d import InceptionI3d`` to ``from fasti3d.compat.pytorch_i3d import InceptionI3d``.
The port's other classes are here too, with its arguments and attributes: ``Unit3D``, ``InceptionModule`` and
``MaxPool3dSamePadding``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.utils import _triple

from fasti3d import network, reference
from fasti3d.compat.head import pooled_features
from fasti3d.forms import PoolForm, UnitForm, states_form
from fasti3d.i3d import I3D, checkpoint_of
from fasti3d.same_padding import pad_same

if TYPE_CHECKING:
    from fasti3d.weights import Spec

# Ten times the paper's momentum.
BN_MOMENTUM = 0.01

fx.wrap("pad_same")


class _Padded:
    """The port's rule for SAME padding, which subclasses may override."""

    kernel: tuple[int, ...]
    stride: Any

    def compute_pad(self, dim: int, s: int) -> int:
        """Return the padding of an axis of length ``s``, both sides together."""
        stride = _triple(self.stride)[dim]
        return max(self.kernel[dim] - (s % stride or stride), 0)

    def _has_own_rule(self) -> bool:
        return type(self).compute_pad is not _Padded.compute_pad or "compute_pad" in self.__dict__

    def _pad(self, x: Tensor, value: float = 0.0) -> Tensor:
        if not self._has_own_rule():
            return pad_same(x, self.kernel, _triple(self.stride), value)
        pads: list[int] = []
        for dim, size in enumerate(x.shape[2:]):
            total = int(self.compute_pad(dim, size))
            pads = [total // 2, total - total // 2, *pads]  # F.pad wants the last axis first
        return F.pad(x, pads, value=value)


@states_form
class MaxPool3dSamePadding(_Padded, reference.MaxPool3dSame, nn.MaxPool3d):
    """An ``nn.MaxPool3d`` with TensorFlow SAME padding, which never exceeds a real value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.MaxPool3d.__init__(self, *args, **kwargs)

    @property
    def kernel(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the window, as (t, h, w)."""
        return _triple(self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return nn.MaxPool3d.forward(self, self._pad(x, float("-inf")))

    def stated_form(self) -> PoolForm | None:
        """What this pool computes, for the fused path; None: only ``forward`` says."""
        plain = (_triple(self.padding), _triple(self.dilation)) == ((0, 0, 0), (1, 1, 1))
        if self.return_indices or self.ceil_mode or self._has_own_rule() or not plain:
            return None
        return PoolForm(self.kernel, _triple(self.stride))

    def extra_repr(self) -> str:
        return nn.MaxPool3d.extra_repr(self)


@states_form
class Unit3D(_Padded, reference.Unit3D):
    """conv3d with SAME padding, then, where asked for, batch norm and an activation.

    Args:
        in_channels, output_channels, kernel_shape, stride: of the convolution.
        padding: kept as an attribute; the padding follows from the clip's size.
        activation_fn: what follows, or None.
        use_batch_norm: whether batch norm does.
        use_bias: whether the convolution has a bias.
        name: kept as an attribute.
    """

    def __init__(
        self,
        in_channels: int,
        output_channels: int,
        kernel_shape: Sequence[int] = (1, 1, 1),
        stride: Sequence[int] = (1, 1, 1),
        padding: int | Sequence[int] = 0,
        activation_fn: Callable[[Tensor], Tensor] | None = F.relu,
        use_batch_norm: bool = True,
        use_bias: bool = False,
        name: str = "unit_3d",
    ) -> None:
        nn.Module.__init__(self)
        self._output_channels = output_channels
        self._kernel_shape = kernel_shape
        self._stride = stride
        self._use_batch_norm = use_batch_norm
        self._activation_fn = activation_fn
        self._use_bias = use_bias
        self.name = name
        self.padding = padding
        self.conv3d = nn.Conv3d(
            in_channels, output_channels, _triple(kernel_shape), _triple(stride), bias=use_bias
        )
        self.bn = (
            reference.BatchNorm3d(output_channels, eps=network.BN_EPS, momentum=BN_MOMENTUM)
            if use_batch_norm
            else None
        )

    @property
    def kernel(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the window, as (t, h, w)."""
        return _triple(self._kernel_shape)

    @property
    def stride(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the window, as (t, h, w)."""
        return _triple(self._stride)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(self._pad(x))
        if self._use_batch_norm:
            x = self.bn(x)  # type: ignore[misc]
        return x if self._activation_fn is None else self._activation_fn(x)

    def stated_form(self) -> UnitForm | None:
        """What this unit computes, for the fused path; None: only ``forward`` says."""
        if self._activation_fn not in (None, F.relu) or self._has_own_rule():
            return None
        bn = self.bn if self._use_batch_norm else None
        return UnitForm(self.conv3d, bn, self.kernel, self.stride, relu=self._activation_fn is not None)


@states_form
class InceptionModule(reference.Mixed):
    """Inception block: four branches over one input, concatenated over channels.

    Args:
        in_channels: of the input.
        out_channels: of its six convolutions, in the order b0, b1a, b1b, b2a, b2b, b3b.
        name: kept as an attribute, and how its parts' names begin.
    """

    def __init__(self, in_channels: int, out_channels: Sequence[int], name: str) -> None:
        nn.Module.__init__(self)
        b0, b1a, b1b, b2a, b2b, b3b = out_channels
        three = [3, 3, 3]
        self.b0 = Unit3D(in_channels, b0, [1, 1, 1], name=f"{name}/Branch_0/Conv3d_0a_1x1")
        self.b1a = Unit3D(in_channels, b1a, [1, 1, 1], name=f"{name}/Branch_1/Conv3d_0a_1x1")
        self.b1b = Unit3D(b1a, b1b, three, name=f"{name}/Branch_1/Conv3d_0b_3x3")
        self.b2a = Unit3D(in_channels, b2a, [1, 1, 1], name=f"{name}/Branch_2/Conv3d_0a_1x1")
        self.b2b = Unit3D(b2a, b2b, three, name=f"{name}/Branch_2/Conv3d_0b_3x3")
        self.b3a = MaxPool3dSamePadding(kernel_size=three, stride=(1, 1, 1), padding=0)
        self.b3b = Unit3D(in_channels, b3b, [1, 1, 1], name=f"{name}/Branch_3/Conv3d_0b_1x1")
        self.name = name


class InceptionI3d(I3D):
    """I3D whose logits keep their time axis, as pytorch-i3d's ``InceptionI3d``.

    Args:
        num_classes: classes of the head.
        spatial_squeeze: drop the logits' spatial axes where they have length 1.
        final_endpoint: the last part to build. ``Logits`` and ``Predictions`` both build the whole
            network, whose output is logits. For an earlier one ``logits`` is None and the output is that
            endpoint's feature map (the port itself fails in ``forward`` then).
        name: the prefix of the parts' names.
        in_channels: 3 for RGB, 2 for flow.
        dropout_keep_prob: despite its name the probability of *dropping* a feature, as in the port.
        weights: as for ``fasti3d.I3D``; needs the whole network.

    Clips are ``(N, in_channels, T, H, W)`` in [-1, 1]. State dicts of the port load with
    ``strict=True``, and the other way round.

    Raises:
        ValueError: ``final_endpoint`` is not one of ``VALID_ENDPOINTS``.
        fasti3d.weights.WeightsError: as ``fasti3d.I3D``.

    Example:
        >>> import torch
        >>> from fasti3d.compat import InceptionI3d
        >>> i3d = InceptionI3d(400)
        >>> i3d.replace_logits(157)
        >>> i3d._num_classes
        157
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
        *,
        weights: Spec | None = None,
    ) -> None:
        if final_endpoint not in self.VALID_ENDPOINTS:
            raise ValueError(f"Unknown final endpoint {final_endpoint}")
        self._prefix = name
        super().__init__(num_classes, in_channels, dropout=dropout_keep_prob)
        self._spatial_squeeze = spatial_squeeze
        self._final_endpoint = final_endpoint
        trunk = {name: getattr(self, name) for name in network.TRUNK}
        for part in trunk:
            delattr(self, part)
        built = self.VALID_ENDPOINTS[: self.VALID_ENDPOINTS.index(final_endpoint) + 1]
        self.end_points = {name: module for name, module in trunk.items() if name in built}
        if final_endpoint in trunk:
            del self.dropout
            self.logits = None  # type: ignore[assignment]
        else:
            self.avg_pool = nn.AvgPool3d(list(network.HEAD_POOL), stride=(1, 1, 1))  # type: ignore[arg-type]
        # After the classifier, as in the port: saved optimizer states number parameters in this order.
        self.build()
        if weights is not None:
            self._load(checkpoint_of(weights))

    def _make_part(
        self, name: str, in_channels: int, spec: network.Conv | network.Pool | network.Mixed
    ) -> nn.Module:
        if isinstance(spec, network.Pool):
            return MaxPool3dSamePadding(kernel_size=list(spec.kernel), stride=spec.stride, padding=0)
        if isinstance(spec, network.Mixed):
            return InceptionModule(in_channels, list(spec), self._prefix + name)
        padding = {(1, 1, 1): 0, (3, 3, 3): 1}.get(spec.kernel, (3, 3, 3))
        return Unit3D(
            in_channels,
            spec.out_channels,
            list(spec.kernel),
            spec.stride,
            padding,
            name=self._prefix + name,
        )

    def _make_logits(self, num_classes: int) -> Unit3D:
        return Unit3D(
            network.FEATURE_CHANNELS,
            num_classes,
            [1, 1, 1],
            activation_fn=None,
            use_batch_norm=False,
            use_bias=True,
            name="logits",
        )

    @property
    def _num_classes(self) -> int | None:
        return self.num_classes

    @_num_classes.setter
    def _num_classes(self, value: int) -> None:
        self.num_classes = value

    def build(self) -> None:
        """Register the modules of ``end_points``, after a caller has replaced some of them."""
        for name, module in self.end_points.items():
            self.add_module(name, module)

    def _trunk(self) -> Iterable[str]:
        # As in the port, a name removed from end_points is skipped.
        return [name for name in network.TRUNK if name in self.end_points]

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits per time step (N, num_classes, ceil(T/8) - 1) of clips (N, in_channels, T, H, W).

        The logits are (N, num_classes, ceil(T/8) - 1, H', W') without ``spatial_squeeze``, or if Mixed_5c is
        larger than 7x7.
        """
        if self._final_endpoint in network.TRUNK:
            return self.forward_endpoints(x, (self._final_endpoint,))[self._final_endpoint]
        x = self.logits(self.dropout(self.extract_features(x)))
        return x.squeeze(3).squeeze(3) if self._spatial_squeeze else x

    def extract_features(self, x: Tensor) -> Tensor:
        """Return the input of the head: (N, 1024, ceil(T/8) - 1, H', W').

        H' and W' are 1 for clips of up to 224x224, whose Mixed_5c is 7x7.
        """
        return pooled_features(self, self.avg_pool, x)
