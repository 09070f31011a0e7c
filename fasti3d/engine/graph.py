"""A network as data: nodes over numbered values, each with the tensors that it computes with.

A graph says what is computed, not how: rewrites turn one graph into another that computes the same, and a
plan runs one. Tensors are held by reference. Values are numbers, written once; maps are (N, C, T, H, W).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from fasti3d.inputs import Scaling
from fasti3d.ops.conv3d_bn_relu.geometry import output_size

Triple: TypeAlias = tuple[int, int, int]
Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = dict[int, Shape]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. ``name`` says where in the network it is."""

    out: int
    name: str = field(default="", kw_only=True)

    # The fields that are values, or tuples of them.
    READS: ClassVar[tuple[str, ...]] = ("x",)

    @property
    def reads(self) -> tuple[int, ...]:
        found: list[int] = []
        for name in self.READS:
            value = getattr(self, name)
            found += value if isinstance(value, tuple) else () if value is None else (value,)
        return tuple(found)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.out,)

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        """Of what it writes, where those of what it reads are known."""
        raise NotImplementedError

    def _check_window(self, shape: Shape, kernel: Triple, padding: Triple | None) -> None:
        """ValueError for a map that does not fill the window even once."""
        size = shape[2:]
        # Of a size that is only known when an exported program runs nothing can be said.
        if padding is not None and any(
            isinstance(n, int) and n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)
        ):
            raise ValueError(
                f"the map before {self.name or type(self).__name__}, (T, H, W) {tuple(size)} with padding "
                f"{padding}, does not fill its window {kernel}: give a larger clip"
            )


@dataclass(frozen=True, eq=False)
class Conv(Node):
    """relu(conv(x) + bias + residual), of which bias, residual and ReLU may be missing."""

    x: int
    weight: Tensor
    bias: Tensor | None
    stride: Triple
    padding: Triple | None
    relu: bool = False
    residual: int | None = None
    groups: int = 1
    dilation: Triple = (1, 1, 1)

    READS = ("x", "residual")

    @property
    def kernel(self) -> Triple:
        t, h, w = self.weight.shape[2:]
        return t, h, w

    @property
    def window(self) -> Triple:
        """What the kernel spans of its input."""
        t, h, w = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return t, h, w

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        n, channels, *size = of[self.x]
        if channels != self.weight.shape[1] * self.groups:
            raise ValueError(
                f"{self.name or 'a convolution'} takes {self.weight.shape[1] * self.groups} channels, "
                f"got {channels}"
            )
        self._check_window(of[self.x], self.window, self.padding)
        yield (n, self.weight.shape[0], *output_size(size, self.window, self.stride, self.padding))


@dataclass(frozen=True, eq=False)
class Norm(Node):
    """Batch norm by running statistics."""

    x: int
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        yield of[self.x]


@dataclass(frozen=True, eq=False)
class Relu(Node):
    """max(x, 0)."""

    x: int

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        yield of[self.x]


@dataclass(frozen=True, eq=False)
class Add(Node):
    """x + y, of one shape; then ReLU if asked for."""

    x: int
    y: int
    relu: bool = False

    READS = ("x", "y")

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        if of[self.x] != of[self.y]:
            raise ValueError(f"{self.name or 'a sum'} adds {of[self.x]} and {of[self.y]}")
        yield of[self.x]


@dataclass(frozen=True, eq=False)
class Pool(Node):
    """Max-pool, whose padding never wins."""

    x: int
    kernel: Triple
    stride: Triple
    padding: Triple | None

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        self._check_window(of[self.x], self.kernel, self.padding)
        n, c, *size = of[self.x]
        yield (n, c, *output_size(size, self.kernel, self.stride, self.padding))


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Maps side by side, over channels."""

    xs: tuple[int, ...]

    READS = ("xs",)

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        n, _, *size = of[self.xs[0]]
        if any((of[x][0], *of[x][2:]) != (n, *size) for x in self.xs):
            raise ValueError(
                f"{self.name or 'a concatenation'} takes maps of one size, got {[of[x] for x in self.xs]}"
            )
        yield (n, sum(of[x][1] for x in self.xs), *size)


@dataclass(frozen=True, eq=False)
class Attention(Node):
    """softmax(scale * q k^T) v over the places of maps, or, without a scale, q k^T v over the number of keys.

    ``q`` is (N, D, T, H, W), ``k`` (N, D, ...) and ``v`` (N, C, ...) of one size. Sums are float32 at least.
    """

    q: int
    k: int
    v: int
    scale: float | None

    READS = ("q", "k", "v")

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        (n, width, *size), (_, keys, *places), (_, channels, *others) = (of[x] for x in self.reads)
        if width != keys or places != others:
            raise ValueError(
                f"{self.name or 'attention'} takes queries and keys of one width and keys and values of one "
                f"size, got {[of[x] for x in self.reads]}"
            )
        yield (n, channels, *size)


@dataclass(frozen=True, eq=False)
class Head(Node):
    """Averages over a window at stride 1 without padding, or over the whole map, and a linear classifier.

    ``out`` are the features (N, C, T'), averaged over the window's places in a frame; ``scores`` the
    classifier's outputs (N, classes), averaged over all places. Without a classifier there are none.
    """

    x: int
    window: Triple | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    scores: int | None = None

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.out,) if self.scores is None else (self.out, self.scores)

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        n, c, *size = of[self.x]
        if self.window is not None:
            self._check_window(of[self.x], self.window, (0, 0, 0))
        yield (n, c, 1 if self.window is None else size[0] - self.window[0] + 1)
        if self.weight is not None:
            yield (n, self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Softmax(Node):
    """Softmax over axis 1."""

    x: int

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        yield of[self.x]


@dataclass(frozen=True, eq=False)
class Opaque(Node):
    """What torch runs: ``call`` on the values of ``xs``, whose result may share memory with them."""

    xs: tuple[int, ...]
    call: Callable[..., Any]

    READS = ("xs",)


@dataclass(frozen=True, eq=False)
class Siblings(Node):
    """Convolutions 1x1x1 of one map as one product: the first writes ``out``, the others ``rest``, side by
    side in the map ``second``. ``weight`` and ``bias`` are those of all.
    """

    x: int
    second: int
    rest: tuple[int, ...]
    widths: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    relu: bool

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.out, self.second, *self.rest)

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        n, _, *size = of[self.x]
        first, *others = self.widths
        return [(n, width, *size) for width in (first, sum(others), *others)]


@dataclass(frozen=True, eq=False)
class ConvPool(Node):
    """A convolution and the max-pool over space that alone reads it, piece by piece."""

    conv: Conv
    pool: Pool

    @property
    def reads(self) -> tuple[int, ...]:
        return self.conv.reads

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        (between,) = self.conv.shapes(of)
        return self.pool.shapes(of | {self.pool.x: between})


@dataclass(frozen=True, eq=False)
class PoolConv(Node):
    """A max-pool at stride 1 and the convolution 1x1x1 that alone reads it, piece by piece."""

    pool: Pool
    conv: Conv

    @property
    def reads(self) -> tuple[int, ...]:
        return self.pool.reads

    def shapes(self, of: Shapes) -> Iterable[Shape]:
        (between,) = self.pool.shapes(of)
        return self.conv.shapes(of | {self.conv.x: between})


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        nodes: each reads the clip or what nodes before it wrote.
        names: the values that can be asked for, by name, in order of computation.
        input: the value of the clip.
        scaling: of clips of bytes; None makes -1 to 1 of them.
    """

    nodes: tuple[Node, ...]
    names: Mapping[str, int]
    input: int = 0
    scaling: Scaling | None = None

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        return replace(self, nodes=tuple(nodes))

    @property
    def writers(self) -> dict[int, Node]:
        """The node that writes each value."""
        return {value: node for node in self.nodes for value in node.writes}

    @property
    def readers(self) -> Counter[int]:
        """How often each value is read, by nodes or under a name."""
        return Counter(value for node in self.nodes for value in node.reads) + Counter(self.names.values())

    def only(self, names: Iterable[str]) -> Graph:
        """The graph of some of the names: without the nodes that these do not need."""
        kept = {name: value for name, value in self.names.items() if name in names}
        needed = set(kept.values())
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.writes):
                needed.update(node.reads)
                nodes.append(node)
        return replace(self, nodes=tuple(reversed(nodes)), names=kept)

    @property
    def fresh(self) -> int:
        """A number that no value has, nor one that was left out: below 0, where rewrites count downwards."""
        return min([0, *(value for node in self.nodes for value in node.writes)]) - 1


def without_values(graph: Graph) -> Graph:
    """The same graph with meta tensors."""

    def changed(node: Node) -> Node:
        tensors: dict[str, Any] = {
            name: t.detach().to("meta") for name, t in vars(node).items() if isinstance(t, Tensor)
        }
        return replace(node, **tensors) if tensors else node

    return graph.with_nodes(map(changed, graph.nodes))


def shapes(graph: Graph, shape: Sequence[int], opaque: Mapping[int, Shape] | None = None) -> Shapes:
    """The shape of every value for a clip of ``shape``; ``opaque`` has those of what torch computes.

    Raises:
        ValueError: maps that do not fill a window, or do not fit together.
    """
    found: Shapes = {graph.input: tuple(shape), **(opaque or {})}
    for node in graph.nodes:
        if isinstance(node, Opaque):
            continue
        found.update(zip(node.writes, node.shapes(found), strict=True))
    return found
