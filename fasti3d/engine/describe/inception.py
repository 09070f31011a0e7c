"""I3D (Inception-v1 inflated), its ports and what users made of it, as a graph."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import nn

from fasti3d import network
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
from fasti3d.engine.graph import Graph
from fasti3d.forms import MixedForm, PoolForm, Size, UnitForm, form_of, stated_form

Spec: TypeAlias = network.Conv | network.Pool | network.Mixed
_ONE, _THREE = (1, 1, 1), (3, 3, 3)


def describe(model: nn.Module, names: tuple[str, ...]) -> Description:
    """What the fused path needs to know of an eval-mode model whose trunk consists of ``names``.

    Raises:
        MismatchError: a part of the trunk is not exactly as the network's table has it, or a batch norm or
            the dropout is in training mode. A head that is not known is left out instead.
    """
    if not names or names != tuple(network.TRUNK)[: len(names)]:
        raise MismatchError("the trunk is not I3D's, or the beginning of it")
    check_torch()
    trunk = _Builder()
    values: dict[str, int] = {}
    value, channels = 0, None  # of any clip's channels, which are checked by themselves
    for name in names:
        part = getattr(model, name, None)
        value, channels = trunk.part(part, network.TRUNK[name], value, channels, name)
        values[name] = value
    first = trunk.code.tensors[0]
    check_dtypes(trunk.code.tensors, first, "the trunk")
    dropout, logits = getattr(model, "dropout", None), getattr(model, "logits", None)
    if dropout is not None and any(module.training for module in dropout.modules()):
        raise MismatchError("dropout is in training mode")
    try:
        leaf(dropout, DROPOUTS, "dropout")
        conv = known_conv(logits, _ONE, _ONE, channels, "logits", classifier=True)
        check_dtypes([t for t in (conv.weight, conv.bias) if t is not None], first, "the classifier")
    except MismatchError as mismatch:
        return Description(trunk.code, values, network.HEAD_POOL, None, str(mismatch))
    return Description(trunk.code, values, network.HEAD_POOL, (conv.weight, conv.bias), "")


def graph_of(model: nn.Module) -> Graph:
    """The graph of an I3D in eval mode; MismatchError if it is not exactly one."""
    return describe(model, tuple(network.TRUNK)).graph()


def watch(model: nn.Module, names: tuple[str, ...]) -> Watch:
    """Watches everything that ``describe`` looks at."""
    names = (*names, "dropout", "logits")
    parts = [getattr(model, name, None) for name in names]
    return Watch(model, names, [inner for part in parts if part is not None for inner in part.modules()])


class _Builder:
    """The code of parts as they are found.

    Each method gives the value and the channels of a part's output for an input of ``channels``, of which
    None stands for any; MismatchError where the part is not exactly as the network's table has it.
    """

    def __init__(self) -> None:
        self.code = Code.empty()

    def part(
        self, part: nn.Module | None, spec: Spec, x: int, channels: int | None, path: str
    ) -> tuple[int, int]:
        if isinstance(spec, network.Conv):
            return self.unit(part, spec.kernel, spec.stride, x, channels, path)
        if isinstance(spec, network.Pool):
            if channels is None:
                raise MismatchError(f"{path} has no convolution before it")
            return self.pool(part, spec.kernel, spec.stride, x, path), channels
        block = form(part, MixedForm, path)

        def unit(name: str, kernel: Size, value: int, width: int | None) -> tuple[int, int]:
            return self.unit(getattr(block, name), kernel, _ONE, value, width, f"{path}.{name}")

        b0 = unit("b0", _ONE, x, channels)
        b1 = unit("b1b", _THREE, *unit("b1a", _ONE, x, channels))
        b2 = unit("b2b", _THREE, *unit("b2a", _ONE, x, channels))
        b3 = unit("b3b", _ONE, self.pool(block.b3a, _THREE, _ONE, x, f"{path}.b3a"), channels)
        values, widths = zip(b0, b1, b2, b3, strict=True)
        return self.code.concat(values, path), sum(widths)

    def pool(self, pool: nn.Module | None, kernel: Any, stride: Any, x: int, path: str) -> int:
        check_pool(pool, kernel, stride, path)
        return self.code.pool(x, kernel, stride, None, path)

    def unit(
        self, unit: nn.Module | None, kernel: Any, stride: Any, x: int, channels: int | None, path: str
    ) -> tuple[int, int]:
        """A convolution with its batch norm and ReLU."""
        conv = known_conv(unit, kernel, stride, channels, path)
        bn = known_norm(unit, conv.out_channels, path)
        if bn.training:
            raise MismatchError(f"the batch norm of {path} is in training mode")
        y = self.code.conv(x, conv.weight, conv.bias, stride, None, path)
        y = self.code.norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps, path)
        return self.code.relu(y, path), conv.out_channels


def check_pool(pool: nn.Module | None, kernel: Size, stride: Size, path: str) -> None:
    """MismatchError unless a part is the max-pool that belongs there."""
    found = form(pool, PoolForm, path)
    if (found.kernel, found.stride) != (kernel, stride):
        raise MismatchError(
            f"{path} is a pool of {found.kernel} at stride {found.stride}, not {kernel} at {stride}"
        )


def known_conv(
    unit: nn.Module | None,
    kernel: Size,
    stride: Size,
    channels: int | None,
    path: str,
    *,
    classifier: bool = False,
) -> Any:
    """The convolution of a unit, which has batch norm and ReLU unless it is the classifier."""
    found = form(unit, UnitForm, path)
    leaf(found.conv, (nn.Conv3d,), f"the convolution of {path}")
    conv: Any = found.conv
    weight, bias, width = conv.weight, conv.bias, conv.out_channels
    if not (
        found.kernel == conv.kernel_size == kernel
        and found.stride == conv.stride == stride
        and conv.padding == found.padding
        and (conv.padding_mode, conv.dilation, conv.groups) == ("zeros", (1, 1, 1), 1)
        and weight.shape == (width, conv.in_channels if channels is None else channels, *kernel)
        and (bias is None or (bias.shape == (width,) and bias.dtype == weight.dtype))
    ):
        taken = "any" if channels is None else channels
        raise MismatchError(
            f"{path} is not a convolution of {taken} channels, window {kernel}, stride {stride}"
        )
    if classifier and (found.bn is not None or found.relu):
        raise MismatchError(f"{path} has a batch norm or a ReLU")
    if not classifier and not found.relu:
        raise MismatchError(f"{path} has no ReLU")
    return conv


def known_norm(unit: nn.Module | None, width: int, path: str) -> Any:
    """The batch norm of a unit, with weights and statistics of ``width`` channels."""
    bn: Any = form(unit, UnitForm, path).bn
    leaf(bn, NORMS, f"the batch norm of {path}")
    norm = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
    if not bn.affine or any(t is None or t.shape != (width,) for t in norm):
        raise MismatchError(f"the batch norm of {path} lacks weights or statistics of {width} channels")
    return bn


def known_stem(model: nn.Module) -> nn.Conv3d | None:
    """The convolution that a model's clips go to, as they are; None where the stem may be anything."""
    found = form_of(getattr(model, "Conv3d_1a_7x7", None))
    conv = found.conv if isinstance(found, UnitForm) else None
    return conv if isinstance(conv, nn.Conv3d) and is_leaf(conv, (nn.Conv3d,)) else None


def keeps_grid(model: nn.Module) -> bool:
    """Whether the maps of a model have the sizes of ``network.TRUNK``, so that a clip's size tells theirs."""
    return all(_has_grid(form_of(getattr(model, name, None)), spec) for name, spec in network.TRUNK.items())


def _has_grid(found: Any, spec: Spec) -> bool:
    if isinstance(spec, network.Mixed):
        return isinstance(found, MixedForm)
    if isinstance(found, UnitForm):
        conv = found.conv
        return isinstance(conv, nn.Conv3d) and found.stride == conv.stride == spec.stride
    return isinstance(found, PoolForm) and found.stride == spec.stride


def has_windows(part: nn.Module | None, spec: Spec) -> bool:
    """Whether each step of a part of the trunk depends on the steps that ``network`` says, whatever is
    computed from them and whatever watches.
    """
    found = stated_form(part)
    if isinstance(spec, network.Pool):
        return isinstance(found, PoolForm) and (found.kernel, found.stride) == (spec.kernel, spec.stride)
    if isinstance(spec, network.Mixed):
        one, three, pool = network.Conv(0, _ONE), network.Conv(0, _THREE), network.Pool(_THREE, _ONE)
        specs: tuple[Spec, ...] = (one, one, three, one, three, pool, one)
        return isinstance(found, MixedForm) and all(
            has_windows(inner, inner_spec) for inner, inner_spec in zip(found[:7], specs, strict=True)
        )
    if not (isinstance(found, UnitForm) and isinstance(found.conv, nn.Conv3d)):
        return False
    conv = found.conv
    return (found.kernel, found.stride, found.padding, (1, 1, 1)) == (
        spec.kernel,
        spec.stride,
        conv.padding,
        conv.dilation,
    ) and (conv.kernel_size, conv.stride) == (spec.kernel, spec.stride)
