"""Which calls average a whole map, and which classify the averages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fasti3d.engine.graph import Shape, Triple
from fasti3d.forms import is_altered
from fasti3d.fusion.program import Call, Ref
from fasti3d.fusion.rules import triple

_ALL: Triple = (0, 0, 0)
_SPACE = ({2, 3, 4}, {-3, -2, -1})
# Of one value for each channel, these change the shape and not the order.
_VIEWS = (torch.flatten, torch.squeeze, torch.reshape, "flatten", "squeeze", "reshape", "view")


def is_average(call: Call, module: nn.Module | None, shape: Shape) -> bool:
    """Whether a call averages all of a map of ``shape``, the first that it reads."""
    arguments, kwargs = call.args, call.kwargs
    average: Any = _AVERAGES.get(call.target)
    if module is not None:
        m: Any = module
        average = None if is_altered(module) else _MODULES.get(type(module))
        if type(module) is nn.AdaptiveAvgPool3d:
            arguments = (*arguments, m.output_size)
        elif type(module) is nn.AvgPool3d:
            arguments = (*arguments, m.kernel_size, m.stride, m.padding, m.ceil_mode)
            kwargs = kwargs | {"divisor_override": m.divisor_override}
    try:
        window = None if average is None else average(*arguments, **kwargs)
    except TypeError:  # another overload
        return False
    return window == _ALL or window == shape[2:]


def is_view(call: Call, module: nn.Module | None) -> bool:
    """Whether a call gives the values of what it reads first in another shape, and in their order."""
    if module is not None:
        return type(module) is nn.Flatten and not is_altered(module)
    return call.target in _VIEWS


def classifier(call: Call, module: nn.Module | None) -> nn.Linear | None:
    """The layer that a call of one value is of."""
    if not isinstance(module, nn.Linear) or type(module) is not nn.Linear or is_altered(module):
        return None
    return module if len(call.args) == 1 and isinstance(call.args[0], Ref) else None


def _adaptive(input: Any, output_size: Any) -> Triple | None:
    return _ALL if triple(output_size) == (1, 1, 1) else None


def _windowed(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: Any = None,
) -> Triple | None:
    plain = triple(padding) == (0, 0, 0) and ceil_mode is False and divisor_override is None
    return triple(kernel_size) if plain else None


def _mean(input: Any, dim: Any = None, keepdim: Any = False) -> Triple | None:
    return _ALL if isinstance(dim, tuple | list) and set(dim) in _SPACE and len(dim) == 3 else None


_AVERAGES: dict[Any, Any] = {
    F.adaptive_avg_pool3d: _adaptive,
    F.avg_pool3d: _windowed,
    torch.mean: _mean,
    "mean": _mean,
}
_MODULES: dict[Any, Any] = {nn.AdaptiveAvgPool3d: _adaptive, nn.AvgPool3d: _windowed}
