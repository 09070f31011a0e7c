"""A graph as numbers and tensors: what an operator takes, and what compilers can see being made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fasti3d.engine.graph import (
    Add,
    Attention,
    Concat,
    Conv,
    Graph,
    Head,
    Node,
    Norm,
    Pool,
    Relu,
    Softmax,
    Triple,
)
from fasti3d.inputs import Scaling

# Each node is a record of numbers: its kind, what it writes, and its fields. Tensors and floats are indices.
_CONV, _NORM, _RELU, _ADD, _POOL, _CONCAT, _HEAD, _SOFTMAX, _ATTENTION, _SCALING = range(10)
_NONE = -1
_SAME = (-1, -1, -1)


class Code(NamedTuple):
    """Records of nodes in order, the tensors and floats that they name, and a path for each.

    The methods append a node and return what it writes.
    """

    numbers: list[int]
    tensors: list[Tensor]
    floats: list[float]
    paths: list[str]

    @staticmethod
    def empty() -> Code:
        return Code([], [], [], [])

    def copy(self) -> Code:
        return Code(list(self.numbers), list(self.tensors), list(self.floats), list(self.paths))

    def scaling(self, scaling: Scaling) -> None:
        """Of clips of bytes: no node."""
        self._add("", _SCALING, [len(self.floats), len(scaling.mean)])
        self.floats.extend([*scaling.mean, *scaling.std])

    def conv(
        self,
        x: int,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int] | None,
        path: str,
    ) -> int:
        held = [self._index(weight), self._index(bias)]
        return self._add(path, _CONV, [x, *held, *stride, *(_SAME if padding is None else padding)])

    def norm(
        self, x: int, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, path: str
    ) -> int:
        held = [self._index(t) for t in (mean, var, weight, bias)]
        self.floats.append(eps)
        return self._add(path, _NORM, [x, *held, len(self.floats) - 1])

    def relu(self, x: int, path: str) -> int:
        return self._add(path, _RELU, [x])

    def add(self, x: int, y: int, path: str) -> int:
        return self._add(path, _ADD, [x, y])

    def pool(
        self, x: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] | None, path: str
    ) -> int:
        return self._add(path, _POOL, [x, *kernel, *stride, *(_SAME if padding is None else padding)])

    def concat(self, xs: Sequence[int], path: str) -> int:
        return self._add(path, _CONCAT, [len(xs), *xs])

    def attention(self, q: int, k: int, v: int, scale: float | None, path: str) -> int:
        if scale is not None:
            self.floats.append(scale)
        return self._add(path, _ATTENTION, [q, k, v, _NONE if scale is None else len(self.floats) - 1])

    def head(
        self, x: int, window: Sequence[int] | None, weight: Tensor | None, bias: Tensor | None, path: str
    ) -> tuple[int, int]:
        """Features, and the scores where there is a classifier."""
        held = [self._index(weight), self._index(bias)]
        out = self._add(path, _HEAD, [x, *(window or (0, 0, 0)), *held])
        return out, out + 1

    def softmax(self, x: int, path: str) -> int:
        return self._add(path, _SOFTMAX, [x])

    def _add(self, path: str, kind: int, fields: list[int]) -> int:
        # A head may write two values.
        out = 2 * len(self.paths) + 1
        self.numbers.extend([kind, out, *fields])
        self.paths.append(path)
        return out

    def _index(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return _NONE
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def decode(
    numbers: Sequence[int],
    tensors: Sequence[Tensor],
    floats: Sequence[float],
    names: Mapping[str, int],
    paths: Sequence[str] = (),
) -> Graph:
    """The graph of a code; value 0 is the clip."""
    read = iter(numbers)
    path = iter(paths)

    def tensor() -> Tensor | None:
        index = next(read)
        return None if index == _NONE else tensors[index]

    def triple() -> Triple:
        return next(read), next(read), next(read)

    def padding() -> Triple | None:
        found = triple()
        return None if found == _SAME else found

    nodes: list[Node] = []
    scaling = None
    for kind in read:
        out, x, name = next(read), next(read), next(path, "")
        if kind == _SCALING:
            channels = next(read)
            middle, end = x + channels, x + 2 * channels
            scaling = Scaling(tuple(floats[x:middle]), tuple(floats[middle:end]))
        elif kind == _CONV:
            weight, bias = tensor(), tensor()
            assert weight is not None
            nodes.append(Conv(out, x, weight, bias, triple(), padding(), name=name))
        elif kind == _NORM:
            mean, var, weight, bias = tensor(), tensor(), tensor(), tensor()
            assert mean is not None
            assert var is not None
            nodes.append(Norm(out, x, mean, var, weight, bias, floats[next(read)], name=name))
        elif kind == _RELU:
            nodes.append(Relu(out, x, name=name))
        elif kind == _ADD:
            nodes.append(Add(out, x, next(read), name=name))
        elif kind == _POOL:
            nodes.append(Pool(out, x, triple(), triple(), padding(), name=name))
        elif kind == _CONCAT:
            nodes.append(Concat(out, tuple(next(read) for _ in range(x)), name=name))
        elif kind == _ATTENTION:
            k, v, scale = next(read), next(read), next(read)
            nodes.append(Attention(out, x, k, v, None if scale == _NONE else floats[scale], name=name))
        elif kind == _HEAD:
            window: Triple | None = triple()
            window = None if window == (0, 0, 0) else window
            weight, bias = tensor(), tensor()
            nodes.append(Head(out, x, window, weight, bias, None if weight is None else out + 1, name=name))
        else:
            nodes.append(Softmax(out, x, name=name))
    return Graph(tuple(nodes), names, scaling=scaling)
