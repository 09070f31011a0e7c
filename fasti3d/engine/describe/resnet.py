"""I3D-ResNet, of any variant and as users changed it, as a graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fasti3d.engine.code import Code
from fasti3d.engine.describe.description import Description
from fasti3d.engine.describe.parts import (
    DROPOUTS,
    NORMS,
    MismatchError,
    check_dtypes,
    check_torch,
    form,
    is_leaf,
    leaf,
)
from fasti3d.engine.describe.watch import Watch
from fasti3d.engine.graph import Triple
from fasti3d.forms import BottleneckForm, NonLocalForm, is_altered
from fasti3d.inputs import Scaling

# What of the network is not an endpoint's module.
_OTHERS = ("bn1", "avgpool", "dropout", "fc")
_REDUCTION = (1, 2, 2)


def describe(model: nn.Module, trunk: dict[str, str], scaling: Scaling) -> Description:
    """What the fused path needs to know of an eval-mode model.

    Args:
        trunk: the module of each endpoint before the head, in order.
        scaling: of clips of bytes.

    Raises:
        MismatchError: a part of the trunk is not one whose arithmetic is known, or a batch norm or the
            dropout is in training mode. A head that is not known is left out instead.
    """
    check_torch()
    builder = _Builder()
    builder.code.scaling(scaling)
    values: dict[str, int] = {}
    value = 0
    for name, path in trunk.items():
        part = getattr(model, path, None)
        if name == "conv1":
            value = builder.unit(part, getattr(model, "bn1", None), value, (path, "bn1"))
            value = builder.code.relu(value, path)
        elif name.startswith("pool"):
            value = builder.pool(part, value, path)
        else:
            value = builder.stage(part, value, path)
        values[name] = value
    first = builder.code.tensors[0]
    check_dtypes(builder.code.tensors, first, "the trunk")
    dropout = getattr(model, "dropout", None)
    if dropout is not None and any(module.training for module in dropout.modules()):
        raise MismatchError("dropout is in training mode")
    window = _window(getattr(model, "avgpool", None))
    try:
        leaf(dropout, DROPOUTS, "dropout")
        fc: Any = getattr(model, "fc", None)
        leaf(fc, (nn.Linear,), "fc")
        check_dtypes([t for t in (fc.weight, fc.bias) if t is not None], first, "the classifier")
    except MismatchError as mismatch:
        return Description(builder.code, values, window, None, str(mismatch))
    return Description(builder.code, values, window, (fc.weight, fc.bias), "")


def watch(model: nn.Module, trunk: dict[str, str]) -> Watch:
    """Watches everything that ``describe`` looks at."""
    names = (*trunk.values(), *_OTHERS)
    parts = [getattr(model, name, None) for name in names]
    return Watch(model, names, [inner for part in parts if part is not None for inner in part.modules()])


class _Builder:
    """The code of parts as they are found; MismatchError where it is not known what one computes."""

    def __init__(self) -> None:
        self.code = Code.empty()

    def stage(self, stage: nn.Module | None, x: int, path: str) -> int:
        """Bottlenecks one after another."""
        for name, block in _inner(stage, path):
            x = self.bottleneck(block, x, f"{path}.{name}")
        return x

    def bottleneck(self, block: nn.Module | None, x: int, path: str) -> int:
        its = form(block, BottleneckForm, path)
        y = x
        for i, (conv, bn) in enumerate(its.units, start=1):
            y = self.unit(conv, bn, y, (f"{path}.conv{i}", f"{path}.bn{i}"))
            if i < len(its.units):
                y = self.code.relu(y, f"{path}.conv{i}")
        shortcut = x
        if its.shortcut is not None:
            where = f"{path}.downsample"
            (_, conv), (_, bn) = _two(its.shortcut, where)
            shortcut = self.unit(conv, bn, x, (f"{where}.0", f"{where}.1"))
        y = self.code.relu(self.code.add(y, shortcut, path), path)
        return y if its.non_local is None else self.non_local(its.non_local, y, f"{path}.nl")

    def non_local(self, block: nn.Module, x: int, path: str) -> int:
        its = form(block, NonLocalForm, path)
        pooled = self.reduce(x, path) if its.pools_first else None
        theta = x if its.theta is None else self.conv(its.theta, x, f"{path}.theta")
        phi = self.reduced(its.phi, x, pooled, f"{path}.phi")
        g = self.reduced(its.g, x, pooled, f"{path}.g")
        y = self.code.attention(theta, phi, g, its.scale, path)
        y = self.unit(its.out, its.bn, y, (f"{path}.out", f"{path}.bn"))
        return self.code.add(y, x, path)

    def reduced(self, conv: nn.Module | None, x: int, pooled: int | None, path: str) -> int:
        """Keys or values."""
        if pooled is not None:
            return pooled if conv is None else self.conv(conv, pooled, path)
        return self.reduce(x if conv is None else self.conv(conv, x, path), path)

    def reduce(self, x: int, path: str) -> int:
        return self.code.pool(x, _REDUCTION, _REDUCTION, (0, 0, 0), path)

    def pool(self, pool: nn.Module | None, x: int, path: str) -> int:
        leaf(pool, (nn.MaxPool3d,), path)
        its: Any = pool
        kernel, stride, padding, dilation = map(
            _triple, (its.kernel_size, its.stride, its.padding, its.dilation)
        )
        if dilation != (1, 1, 1) or its.ceil_mode or its.return_indices:
            raise MismatchError(f"{path} has dilation, ceil_mode or return_indices")
        return self.code.pool(x, kernel, stride, padding, path)

    def unit(self, conv: nn.Module | None, bn: nn.Module | None, x: int, paths: tuple[str, str]) -> int:
        """A convolution with its batch norm."""
        y = self.conv(conv, x, paths[0])
        leaf(bn, NORMS, paths[1])
        its: Any = bn
        held: list[Tensor | None] = [its.running_mean, its.running_var, its.weight, its.bias]
        if any(t is None for t in held):
            raise MismatchError(f"{paths[1]} lacks weights or statistics")
        if its.training:
            raise MismatchError(f"{paths[1]} is in training mode")
        return self.code.norm(y, its.running_mean, its.running_var, its.weight, its.bias, its.eps, paths[0])

    def conv(self, conv: nn.Module | None, x: int, path: str) -> int:
        leaf(conv, (nn.Conv3d,), path)
        its: Any = conv
        if (its.padding_mode, its.dilation, its.groups) != ("zeros", (1, 1, 1), 1) or isinstance(
            its.padding, str
        ):
            raise MismatchError(f"{path} has groups, dilation or a padding other than zeros")
        return self.code.conv(x, its.weight, its.bias, its.stride, its.padding, path)


def known_stem(model: nn.Module) -> nn.Conv3d | None:
    """The convolution that a model's clips go to, as they are; None where the stem may be anything."""
    conv = getattr(model, "conv1", None)
    return conv if isinstance(conv, nn.Conv3d) and is_leaf(conv, (nn.Conv3d,)) else None


def _window(pool: nn.Module | None) -> Triple | None:
    """Of the head's average pool; None for all of the map."""
    its: Any = pool
    if is_leaf(pool, (nn.AdaptiveAvgPool3d,)) and its.output_size in (1, (1, 1, 1)):
        return None
    leaf(pool, (nn.AvgPool3d,), "avgpool")
    options = (_triple(its.stride), _triple(its.padding), its.ceil_mode, its.divisor_override)
    if options != ((1, 1, 1), (0, 0, 0), False, None):
        raise MismatchError("avgpool has a stride, a padding, ceil_mode or a divisor of its own")
    return _triple(its.kernel_size)


def _inner(container: nn.Module | None, path: str) -> list[tuple[str, nn.Module | None]]:
    """The modules of a plain nn.Sequential."""
    if type(container) is not nn.Sequential or is_altered(container):
        raise MismatchError(f"{path} ({type(container).__name__}) is not a plain nn.Sequential, or has hooks")
    return list(container._modules.items())


def _two(container: nn.Module, path: str) -> list[tuple[str, nn.Module | None]]:
    parts = _inner(container, path)
    if len(parts) != 2:
        raise MismatchError(f"{path} holds {len(parts)} modules, not a convolution and a batch norm")
    return parts


def _triple(value: Any) -> Triple:
    t, h, w = value if isinstance(value, tuple) else (value,) * 3
    return t, h, w
