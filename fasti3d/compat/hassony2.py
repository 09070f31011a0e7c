"""``I3D`` with the interface of hassony2/kinetics_i3d_pytorch, on fasti3d's network.

Change ``from src.i3dpt import I3D`` to ``from fasti3d.compat.hassony2 import I3D``. The port's other
classes are here too, with its arguments and attributes: ``Unit3Dpy``, ``MaxPool3dTFPadding``, ``Mixed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.utils import _triple

from fasti3d import i3d, network, reference
from fasti3d.compat.head import pooled_features
from fasti3d.forms import MixedForm, PoolForm, UnitForm, is_altered, states_form
from fasti3d.same_padding import pad_same

if TYPE_CHECKING:
    from fasti3d.weights import Spec

# That port keeps torch's default, a hundred times the paper's.
BN_MOMENTUM = 0.1
MODALITIES = {"rgb": 3, "flow": 2}
_ONE = (1, 1, 1)

fx.wrap("pad_same")


def get_padding_shape(filter_shape: Sequence[int], stride: Sequence[int], mod: int = 0) -> Any:
    """Return the padding (front, back) of height, width and time for ``mod`` frames modulo the stride."""
    sides = []
    for axis, (kernel, step) in enumerate(zip(filter_shape, stride, strict=True)):
        total = max(kernel - (mod if axis == 0 and mod else step), 0)
        sides.append((total // 2, total - total // 2))
    time, height, width = sides
    return (*height, *width, *time)


class _Aliased(nn.Module):
    """A module that registers its children under the port's names and answers to fasti3d's too.

    State dicts, ``named_parameters`` and hooks are then the port's, while everything that walks
    the network by fasti3d's names (the fused plan, ``forward_endpoints``) finds the same modules.
    """

    aliases: ClassVar[dict[str, str]]

    def __getattr__(self, name: str) -> Any:
        path = self.aliases.get(name)
        return super().__getattr__(name) if path is None else reduce(getattr, path.split("."), self)

    def __setattr__(self, name: str, value: Any) -> None:
        *parents, own = self.aliases.get(name, name).split(".")
        if parents:
            setattr(reduce(getattr, parents, self), own, value)
        else:
            super().__setattr__(own, value)

    def __delattr__(self, name: str) -> None:
        *parents, own = self.aliases.get(name, name).split(".")
        if parents:
            delattr(reduce(getattr, parents, self), own)
        else:
            super().__delattr__(own)


@states_form
class Unit3Dpy(_Aliased, reference.Unit3D):
    """conv3d with SAME or VALID padding, then, where asked for, batch norm and ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        activation: ``"relu"`` or None.
        padding: ``"SAME"`` or ``"VALID"``.
        use_bias: whether the convolution has a bias.
        use_bn: whether batch norm follows.

    Raises:
        ValueError: another ``padding``.
    """

    aliases: ClassVar[dict[str, str]] = {"bn": "batch3d"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int] = _ONE,
        stride: tuple[int, int, int] = _ONE,
        activation: str | None = "relu",
        padding: str = "SAME",
        use_bias: bool = False,
        use_bn: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding should be in [VALID|SAME] but got {padding}")
        self.padding = padding
        self.activation = F.relu if activation == "relu" else activation
        self.use_bn = use_bn
        self.kernel = kernel_size
        self.stride = stride
        own = 0
        if padding == "SAME":
            same = get_padding_shape(kernel_size, stride)
            # Where all sides are padded alike, the convolution does it.
            self.simplify_pad = len(set(same)) == 1
            own = same[0] if self.simplify_pad else 0
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel_size, stride, own, bias=use_bias)
        self.batch3d = (
            reference.BatchNorm3d(out_channels, eps=network.BN_EPS, momentum=BN_MOMENTUM) if use_bn else None
        )

    @property
    def pads(self) -> list[nn.ConstantPad3d]:
        """The port's padding, by the remainder of the frames by the stride; it does not run here."""
        steps = range(self.stride[0])
        return [nn.ConstantPad3d(get_padding_shape(self.kernel, self.stride, mod), 0) for mod in steps]

    def forward(self, x: Tensor) -> Tensor:
        if self.padding == "SAME" and not self.simplify_pad:
            x = pad_same(x, self.kernel, self.stride)
        x = self.conv3d(x)
        if self.use_bn:
            x = self.batch3d(x)  # type: ignore[misc]
        return x if self.activation is None else F.relu(x)

    def stated_form(self) -> UnitForm | None:
        """What this unit computes, for the fused path; None: only ``forward`` says."""
        if self.padding != "SAME" or (self.simplify_pad and self.stride != _ONE):
            return None
        own = get_padding_shape(self.kernel, self.stride)[0] if self.simplify_pad else 0
        bn = self.batch3d if self.use_bn else None
        relu = self.activation is not None
        return UnitForm(self.conv3d, bn, self.kernel, self.stride, relu=relu, padding=(own, own, own))


@states_form
class MaxPool3dTFPadding(reference.MaxPool3dSame):
    """Max-pool with SAME padding, as the children ``pad`` and ``pool``.

    Unmodified, the padding follows from the clip's size and never exceeds a real value. Once either child
    was changed, they run one after the other.

    Args:
        kernel_size, stride: of the pool.
        padding: ``"SAME"``, or anything else for none.
    """

    def __init__(
        self, kernel_size: tuple[int, ...], stride: tuple[int, ...] | None = None, padding: str = "SAME"
    ) -> None:
        nn.Module.__init__(self)
        same = (0,) * 6
        if padding == "SAME":
            same = self.padding_shape = get_padding_shape(kernel_size, stride or kernel_size)
        self.pad = nn.ConstantPad3d(same, 0)
        self.pool = nn.MaxPool3d(kernel_size, stride, ceil_mode=True)

    @property
    def kernel(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the window, as (t, h, w)."""
        return _triple(self.pool.kernel_size)

    @property
    def stride(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the window, as (t, h, w)."""
        return _triple(self.pool.stride)

    def forward(self, x: Tensor) -> Tensor:
        if self._pads_same():
            return self.pool(pad_same(x, self.kernel, self.stride, float("-inf")))
        return self.pool(self.pad(x))

    def _pads_same(self) -> bool:
        """Whether the padding is still SAME for this pool."""
        pad, pool = self.pad, self.pool
        return (
            type(pad) is nn.ConstantPad3d
            and type(pool) is nn.MaxPool3d
            and not is_altered(pad)
            and hasattr(self, "padding_shape")
            and self.padding_shape == tuple(pad.padding) == get_padding_shape(self.kernel, self.stride)
            and pad.value == 0
            and (_triple(pool.padding), _triple(pool.dilation)) == ((0, 0, 0), _ONE)
        )

    def stated_form(self) -> PoolForm | None:
        """What this pool computes, for the fused path; None: only ``forward`` says."""
        if not self._pads_same() or is_altered(self.pool) or self.pool.return_indices:
            return None
        return PoolForm(self.kernel, self.stride, (self.pad, self.pool))

    def extra_repr(self) -> str:
        return ""


@states_form
class Mixed(_Aliased, reference.Mixed):
    """Inception block: four branches over one input, concatenated over channels.

    Args:
        in_channels: of the input.
        out_channels: of its six convolutions, branch by branch.
    """

    aliases: ClassVar[dict[str, str]] = {
        "b0": "branch_0",
        "b1a": "branch_1.0",
        "b1b": "branch_1.1",
        "b2a": "branch_2.0",
        "b2b": "branch_2.1",
        "b3a": "branch_3.0",
        "b3b": "branch_3.1",
    }

    def __init__(self, in_channels: int, out_channels: Sequence[int]) -> None:
        nn.Module.__init__(self)
        b0, b1a, b1b, b2a, b2b, b3b = out_channels
        three = (3, 3, 3)
        self.branch_0 = Unit3Dpy(in_channels, b0)
        self.branch_1 = nn.Sequential(Unit3Dpy(in_channels, b1a), Unit3Dpy(b1a, b1b, three))
        self.branch_2 = nn.Sequential(Unit3Dpy(in_channels, b2a), Unit3Dpy(b2a, b2b, three))
        self.branch_3 = nn.Sequential(MaxPool3dTFPadding(three, _ONE), Unit3Dpy(in_channels, b3b))

    def forward(self, x: Tensor) -> Tensor:
        # Through the port's own containers, so that hooks on them fire.
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)

    def stated_form(self) -> MixedForm | None:
        """What this block computes, for the fused path; None: only ``forward`` says."""
        containers = (self.branch_1, self.branch_2, self.branch_3)
        for container in containers:
            if type(container) is not nn.Sequential or tuple(container._modules) != ("0", "1"):
                return None
            if is_altered(container):
                return None
        (b1a, b1b), (b2a, b2b), (b3a, b3b) = containers
        return MixedForm(self.branch_0, b1a, b1b, b2a, b2b, b3a, b3b, (self.branch_0, *containers))


class I3D(_Aliased, i3d.I3D):
    """I3D that returns probabilities and logits, as hassony2's.

    Args:
        num_classes: classes of the head.
        modality: ``"rgb"`` (3 channels) or ``"flow"`` (2).
        dropout_prob: probability of dropping a feature before the classifier, in training mode.
        name: kept as an attribute only.
        weights: as for ``fasti3d.I3D``.

    Clips are ``(N, 3 or 2, T, H, W)`` in [-1, 1]. State dicts of the port load with
    ``strict=True``, and the other way round. Where an intermediate size is odd, the port
    pads and pools off the original network's grid; this class follows the original.

    Raises:
        ValueError: an unknown ``modality``.
        fasti3d.weights.WeightsError: as ``fasti3d.I3D``.

    Example:
        >>> import torch
        >>> from fasti3d.compat import I3D
        >>> model = I3D(400, modality="flow").eval()
        >>> model.conv3d_1a_7x7.conv3d.in_channels
        2
    """

    aliases: ClassVar[dict[str, str]] = {
        **{name: name[0].lower() + name[1:] for name in network.TRUNK},
        "logits": "conv3d_0c_1x1",
    }

    def __init__(
        self,
        num_classes: int,
        modality: str = "rgb",
        dropout_prob: float = 0,
        name: str = "inception",
        *,
        weights: Spec | None = None,
    ) -> None:
        if modality not in MODALITIES:
            raise ValueError(f"{modality} not among known modalities [rgb|flow]")
        super().__init__(num_classes, MODALITIES[modality], dropout=dropout_prob)
        self.name = name
        self.modality = modality
        self.avg_pool = nn.AvgPool3d(network.HEAD_POOL, _ONE)
        self.softmax = nn.Softmax(1)
        if weights is not None:
            self._load(i3d.checkpoint_of(weights))

    @classmethod
    def _of_sizes(cls, num_classes: int, in_channels: int, **options: Any) -> I3D:
        modality = next((name for name, n in MODALITIES.items() if n == in_channels), str(in_channels))
        return cls(num_classes, modality, **options)

    def _make_part(
        self, name: str, in_channels: int, spec: network.Conv | network.Pool | network.Mixed
    ) -> nn.Module:
        if isinstance(spec, network.Conv):
            return Unit3Dpy(in_channels, spec.out_channels, spec.kernel, spec.stride)
        if isinstance(spec, network.Pool):
            return MaxPool3dTFPadding(spec.kernel, spec.stride)
        return Mixed(in_channels, spec)

    def _make_logits(self, num_classes: int) -> Unit3Dpy:
        return Unit3Dpy(network.FEATURE_CHANNELS, num_classes, activation=None, use_bias=True, use_bn=False)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(self.aliases.get(name, name), module)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Compute probabilities and time-averaged logits, both (N, num_classes), of clips (N, C, T, H, W).

        If Mixed_5c is larger than 7x7, the head's H'xW' positions are kept: (N, num_classes, H', W').
        """
        logits = self.conv3d_0c_1x1(self.dropout(pooled_features(self, self.avg_pool, x)))
        logits = logits.squeeze(3).squeeze(3).mean(2)
        return self.softmax(logits), logits

    def load_tf_weights(self, sess: Any) -> None:
        """Raise an error: this library does not read TensorFlow sessions.

        Raises:
            NotImplementedError: always; the message names the alternative.
        """
        raise NotImplementedError(
            "load_tf_weights reads a TensorFlow session, which fasti3d does not support: save the variables "
            "by name with numpy.savez and load them with I3D(..., weights='variables.npz')"
        )
