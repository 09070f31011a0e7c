"""The networks by name: the one place where a name is registered.

Names are Python's, as those of ``hubconf.py``; weights have others, those of ``fasti3d.weights``.
Nothing here imports torch, so that names are listed at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from fasti3d.i3d import I3D
    from fasti3d.i3d_resnet import I3DResNet
    from fasti3d.two_stream import TwoStreamI3D
    from fasti3d.weights import Spec

# Names that an error proposes, and how alike they must be: "i3d" is to find all of its kind.
_PROPOSED, _ALIKE = 3, 0.35
_RGB = 3


class Network(NamedTuple):
    """A network that ``create_model`` builds.

    Attributes:
        channels: of its clips; None where it takes several clips.
        build: called with ``weights``, ``num_classes``, ``in_channels`` and further options.
    """

    channels: int | None
    build: Callable[..., nn.Module]


def list_models(pattern: str = "") -> list[str]:
    """List the names that ``create_model`` knows, sorted.

    Args:
        pattern: a part of the names to list, in which ``*`` and ``?`` stand for any characters and any one.

    Example:
        >>> fasti3d.list_models("flow")
        ['i3d_flow']
    """
    return sorted(name for name in NETWORKS if fnmatchcase(name, f"*{pattern}*"))


def create_model(
    name: str,
    *,
    weights: Any = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network by its name, in training mode as its class does.

    Args:
        name: one of ``list_models()``. ``i3d_rgb`` and ``i3d_flow`` are ``fasti3d.I3D`` for clips
            (N, 3, T, H, W) and (N, 2, T, H, W) in [-1, 1]; ``i3d_two_stream`` is ``fasti3d.TwoStreamI3D``,
            which takes one of each. ``i3d_resnet`` is ``fasti3d.I3DResNet``, whose ``variant`` has to be
            given. All give logits (N, num_classes).
        weights: a name from ``fasti3d.weights.registry()`` or anything else that ``fasti3d.I3D(weights=)``
            takes; for ``i3d_two_stream`` a pair of them, RGB and flow. None initializes at random.
        num_classes: classes of the classifier. Where the weights have other classes, their trunk is loaded
            and the classifier is new, for fine-tuning. None takes those of the weights, or 400.
        in_channels: channels of the clips; None takes the network's own.
        **options: further arguments of the class, such as ``dropout`` or ``variant``.

    Returns:
        The network, on the CPU in float32.

    Raises:
        ValueError: an unknown name, weights of another number of channels, or an argument out of range.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

    Example:
        >>> model = fasti3d.create_model("i3d_flow", num_classes=51)
        >>> model.num_classes, model.in_channels
        (51, 2)
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}: {_remedy(name)}")
    build = NETWORKS[name].build
    return build(weights=weights, num_classes=num_classes, in_channels=in_channels, **options)


def _remedy(name: str) -> str:
    from fasti3d.weights.published import registry

    if name in registry():
        its = registry()[name].backbone
        if its.family == "i3d-resnet":
            return (
                f"these are weights, so create_model('i3d_resnet', variant={its.variant!r}, weights={name!r})"
            )
        if its.family == "video-resnet":
            return f"these are weights of {its.network}, for fasti3d.extract and fasti3d.classify"
        network = f"i3d_{registry()[name].stream}"
        return f"these are weights, so create_model({network!r}, weights={name!r})"
    like = str(name).lower().replace("-", "_")
    close = difflib.get_close_matches(like, NETWORKS, n=_PROPOSED, cutoff=_ALIKE)
    proposed = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{proposed}fasti3d.list_models() lists the names"


def _i3d(
    channels: int, *, weights: Spec | None, num_classes: int | None, in_channels: int | None, **options: Any
) -> I3D:
    from fasti3d.i3d import I3D, checkpoint_of
    from fasti3d.weights import load_into

    if in_channels is not None:
        channels = in_channels
    if weights is None:
        return I3D(num_classes, channels, **options)
    checkpoint = checkpoint_of(weights)
    if checkpoint.in_channels != channels:
        fitting = [name for name, network in NETWORKS.items() if network.channels == checkpoint.in_channels]
        raise ValueError(
            f"weights must take {channels} channels as the network does, but those of {checkpoint.source} "
            f"take {checkpoint.in_channels}: "
            + (f"create {fitting[0]!r}" if fitting else f"say in_channels={checkpoint.in_channels}")
        )
    model = I3D(checkpoint.num_classes, channels, **options)
    load_into(model, checkpoint)
    if num_classes not in (None, checkpoint.num_classes):
        model.replace_logits(num_classes)
    return model


def _two_stream(
    *, weights: Any, num_classes: int | None, in_channels: int | None, **options: Any
) -> TwoStreamI3D:
    from fasti3d.two_stream import CHANNELS, TwoStreamI3D

    if in_channels is not None:
        raise ValueError(
            f"in_channels of i3d_two_stream are 3 and 2, one per stream, got {in_channels}: leave it out"
        )
    if weights is None:
        weights = (None, None)
    if not isinstance(weights, tuple | list) or len(weights) != 2:
        raise ValueError(
            f"weights of i3d_two_stream must be a pair, (rgb, flow), got {type(weights).__name__}: give both"
        )
    rgb, flow = (
        _i3d(channels, weights=spec, num_classes=num_classes, in_channels=None, **options)
        for channels, spec in zip(CHANNELS.values(), weights, strict=True)
    )
    return TwoStreamI3D(rgb, flow)


def _i3d_resnet(
    *,
    weights: Spec | None,
    num_classes: int | None,
    in_channels: int | None,
    variant: str | None = None,
    **options: Any,
) -> I3DResNet:
    from fasti3d.i3d_resnet import I3DResNet
    from fasti3d.resnet.variants import VARIANTS

    if variant is None:
        raise ValueError(f"i3d_resnet needs variant=, one of {', '.join(map(repr, VARIANTS))}")
    if in_channels not in (None, _RGB):
        raise ValueError(f"in_channels of i3d_resnet must be 3, got {in_channels}: leave it out")
    if weights is None:
        return I3DResNet(variant, num_classes=num_classes, **options)
    model = I3DResNet(variant, weights=weights, **options)
    if num_classes not in (None, model.num_classes):
        model.replace_logits(num_classes)
    return model


NETWORKS = {
    "i3d_rgb": Network(_RGB, partial(_i3d, _RGB)),
    "i3d_flow": Network(2, partial(_i3d, 2)),
    "i3d_two_stream": Network(None, _two_stream),
    "i3d_resnet": Network(_RGB, _i3d_resnet),
}
