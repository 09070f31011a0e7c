"""I3D (Inception-v1 inflated), its ports and what users made of it, as a graph."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from fasti3d import network
from fasti3d.engine.describe.parts import (
    DROPOUTS,
    NORMS,
    Mismatch,
    check_dtypes,
    check_torch,
    form,
    is_leaf,
    leaf,
)
from fasti3d.engine.describe.watch import Watch
from fasti3d.engine.graph import Concat, Conv, Graph, Head, Node, Norm, Pool, Relu, Softmax
from fasti3d.forms import MixedForm, PoolForm, Size, UnitForm, form_of, stated_form

Spec: TypeAlias = network.Conv | network.Pool | network.Mixed
_ONE, _THREE = (1, 1, 1), (3, 3, 3)


class Description(NamedTuple):
    """What the outputs of an eval-mode network depend on.

    Attributes:
        graph: with the endpoints of the trunk, and those of the head that the fused path knows.
        tensors: of the trunk.
        head_tensors: of the classifier, where the fused path knows all of the head.
        head_why: why it does not know all of it; empty if it does.
        watch: whether all this still holds.
    """

    graph: Graph
    tensors: list[Tensor]
    head_tensors: list[Tensor]
    head_why: str
    watch: Watch

    def without_classifier(self, why: str) -> Description:
        names = [name for name in self.graph.names if name not in network.SCORES]
        return self._replace(graph=self.graph.only(names), head_tensors=[], head_why=why)


def describe(model: nn.Module, names: tuple[str, ...]) -> Description:
    """What the fused path needs to know of an eval-mode model whose trunk consists of ``names``.

    Raises:
        Mismatch: a part of the trunk is not exactly as the network's table has it, or a batch norm or the
            dropout is in training mode. A head that is not known is left out instead.
    """
    if not names or names != tuple(network.TRUNK)[: len(names)]:
        raise Mismatch("the trunk is not I3D's, or the beginning of it")
    check_torch()
    parts = {name: getattr(model, name, None) for name in names}
    graph = _Builder()
    value, channels = 0, None  # of any clip's channels, which are checked by themselves
    for name, part in parts.items():
        value, channels = graph.part(part, network.TRUNK[name], value, channels, name)
        graph.names[name] = value
    first = graph.tensors[0]
    check_dtypes(graph.tensors, first, "the trunk")
    dropout, logits = getattr(model, "dropout", None), getattr(model, "logits", None)
    if dropout is not None and any(module.training for module in dropout.modules()):
        raise Mismatch("dropout is in training mode")
    trunk, graph.tensors = graph.tensors, []
    watched = [*parts.values(), dropout, logits]
    watch = Watch(
        model,
        (*names, "dropout", "logits"),
        [module for part in watched if part is not None for module in part.modules()],
    )
    why = ""
    try:
        leaf(dropout, DROPOUTS, "dropout")
        conv = graph.conv(logits, _ONE, _ONE, channels, "logits", classifier=True)
        check_dtypes(graph.tensors, first, "the classifier")
    except Mismatch as mismatch:
        why = str(mismatch)
        graph.head(value, None, None)
        return Description(graph.done(), trunk, [], why, watch)
    graph.head(value, conv.weight, conv.bias)
    return Description(graph.done(), trunk, graph.tensors, why, watch)


class _Builder:
    """Nodes and tensors of parts as they are found. Each method gives the value and the channels of a part's
    output for an input of ``channels``, of which None stands for any; Mismatch where the part is not exactly
    as the network's table has it.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.names: dict[str, int] = {}
        self.tensors: list[Tensor] = []
        self.last = 0

    def done(self) -> Graph:
        return Graph(tuple(self.nodes), self.names)

    def fresh(self) -> int:
        self.last += 1
        return self.last

    def part(
        self, part: nn.Module | None, spec: Spec, x: int, channels: int | None, path: str
    ) -> tuple[int, int]:
        if isinstance(spec, network.Conv):
            return self.unit(part, spec.kernel, spec.stride, x, channels, path)
        if isinstance(spec, network.Pool):
            if channels is None:
                raise Mismatch(f"{path} has no convolution before it")
            return self.pool(part, spec.kernel, spec.stride, x, path), channels
        block = form(part, MixedForm, path)

        def unit(name: str, kernel: Size, value: int, width: int | None) -> tuple[int, int]:
            return self.unit(getattr(block, name), kernel, _ONE, value, width, f"{path}.{name}")

        b0 = unit("b0", _ONE, x, channels)
        b1 = unit("b1b", _THREE, *unit("b1a", _ONE, x, channels))
        b2 = unit("b2b", _THREE, *unit("b2a", _ONE, x, channels))
        b3 = unit("b3b", _ONE, self.pool(block.b3a, _THREE, _ONE, x, f"{path}.b3a"), channels)
        values, widths = zip(b0, b1, b2, b3, strict=True)
        out = self.fresh()
        self.nodes.append(Concat(out, values, name=path))
        return out, sum(widths)

    def pool(self, pool: nn.Module | None, kernel: Any, stride: Any, x: int, path: str) -> int:
        found = form(pool, PoolForm, path)
        if (found.kernel, found.stride) != (kernel, stride):
            raise Mismatch(
                f"{path} is a pool of {found.kernel} at stride {found.stride}, not {kernel} at {stride}"
            )
        out = self.fresh()
        self.nodes.append(Pool(out, x, kernel, stride, None, name=path))
        return out

    def unit(
        self, unit: nn.Module | None, kernel: Any, stride: Any, x: int, channels: int | None, path: str
    ) -> tuple[int, int]:
        """A convolution with its batch norm and ReLU."""
        conv = self.conv(unit, kernel, stride, channels, path)
        bn: Any = form(unit, UnitForm, path).bn
        leaf(bn, NORMS, f"the batch norm of {path}")
        width = conv.out_channels
        norm = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        if not bn.affine or any(t is None or t.shape != (width,) for t in norm):
            raise Mismatch(f"the batch norm of {path} lacks weights or statistics of {width} channels")
        if bn.training:
            raise Mismatch(f"the batch norm of {path} is in training mode")
        self.tensors.extend(norm)
        convolved, normed, out = self.fresh(), self.fresh(), self.fresh()
        self.nodes += [
            Conv(convolved, x, conv.weight, conv.bias, conv.stride, None, name=path),
            Norm(normed, convolved, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps, name=path),
            Relu(out, normed, name=path),
        ]
        return out, width

    def conv(
        self,
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
            raise Mismatch(
                f"{path} is not a convolution of {taken} channels with a window of {kernel} at stride {stride}"
            )
        if classifier and (found.bn is not None or found.relu):
            raise Mismatch(f"{path} has a batch norm or a ReLU")
        if not classifier and not found.relu:
            raise Mismatch(f"{path} has no ReLU")
        self.tensors += [weight] if bias is None else [weight, bias]
        return conv

    def head(self, x: int, weight: Tensor | None, bias: Tensor | None) -> None:
        features = self.fresh()
        scores = None if weight is None else self.fresh()
        self.nodes.append(Head(features, x, network.HEAD_POOL, weight, bias, scores, name="Logits"))
        self.names["Features"] = features
        if scores is not None:
            predictions = self.fresh()
            self.nodes.append(Softmax(predictions, scores, name="Predictions"))
            self.names |= {"Logits": scores, "Predictions": predictions}


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
