"""How many channels modules take and give, read from the layers that are there."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

_LAZY = (UninitializedBuffer, UninitializedParameter)
_OUT = ("out_channels", "out_features")
_Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def in_width(module: nn.Module | None) -> int | None:
    """The input channels of a module's first layer, None where no layer states them."""
    for layer in () if module is None else module.modules():
        weight = _weight(layer)
        if weight is not None:
            return weight.shape[1] * getattr(layer, "groups", 1)
        if (width := _stated(layer, "in_channels", "in_features")) is not None:
            return width
    return None


def out_width(module: nn.Module | None) -> int | None:
    """The output channels of a module's last layer, None where no layer states them."""
    layer = last_layer(module)
    if layer is None:
        return None
    weight = _weight(layer)
    return _stated(layer, *_OUT) if weight is None else weight.shape[0]


def last_layer(module: nn.Module | None) -> nn.Module | None:
    """The last registered layer that states its output channels."""
    layers = [] if module is None else list(module.modules())
    stated = (
        layer for layer in reversed(layers) if _stated(layer, "out_channels", "out_features") is not None
    )
    return next(stated, None)


def _weight(layer: nn.Module) -> Tensor | None:
    """The weight (out, in, ...) of a plain layer, which is right where an attribute may be out of date."""
    weight = layer.weight if isinstance(layer, _Weighted) else None
    return weight if isinstance(weight, Tensor) and not isinstance(weight, _LAZY) else None


def _stated(layer: nn.Module, *names: str) -> int | None:
    values = (getattr(layer, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)  # 0: not known yet
