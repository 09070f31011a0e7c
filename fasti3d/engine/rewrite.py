"""Passes from graph to graph: each computes the same in fewer steps, or in less memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fasti3d.engine.batch_norm import fold_tensors
from fasti3d.engine.graph import (
    Add,
    Concat,
    Conv,
    ConvPool,
    Graph,
    Node,
    Norm,
    Pool,
    PoolConv,
    Relu,
    Siblings,
)

_ONE = (1, 1, 1)


def fold_norms(graph: Graph) -> Graph:
    """Folds each batch norm into the convolution that it alone reads."""

    def folded(node: Node, conv: Conv) -> Node | None:
        if not isinstance(node, Norm) or conv.relu or conv.residual is not None:
            return None
        weight, bias = fold_tensors(
            conv.weight, conv.bias, node.mean, node.var, node.weight, node.bias, node.eps
        )
        return replace(conv, out=node.out, weight=weight, bias=bias)

    return _absorbed(graph, folded)


def absorb_relus(graph: Graph) -> Graph:
    """Lets each ReLU happen in the convolution or the sum that it alone reads."""

    def with_relu(node: Node, before: Conv | Add) -> Node | None:
        return replace(before, out=node.out, relu=True) if isinstance(node, Relu) else None

    return _absorbed(graph, with_relu, (Conv, Add))


def absorb_adds(graph: Graph) -> Graph:
    """Lets each sum, and its ReLU, happen in a convolution that it alone reads: in the later one of two."""
    writers, readers = graph.writers, graph.readers
    place = {value: i for i, node in enumerate(graph.nodes) for value in node.writes}
    taken: dict[int, Node] = {}
    gone: set[int] = set()
    for node in graph.nodes:
        if not isinstance(node, Add):
            continue
        for value in sorted((node.x, node.y), key=lambda v: place.get(v, -1), reverse=True):
            conv = writers.get(value)
            if (
                isinstance(conv, Conv)
                and readers[value] == 1
                and not conv.relu
                and conv.residual is None
                and conv.groups == 1
                and value not in gone
            ):
                other = node.x if value == node.y else node.y
                taken[node.out] = replace(conv, out=node.out, residual=other, relu=node.relu)
                gone.add(value)
                break
    return graph.with_nodes(taken.get(node.out, node) for node in graph.nodes if node.out not in gone)


def pool_branches(graph: Graph) -> Graph:
    """Pools the maps of a concatenation before it in place of the whole, which then never exists."""
    writers, readers = graph.writers, graph.readers
    fresh = graph.fresh
    after: dict[int, list[Node]] = {}  # by the value that they are to follow
    changed: dict[int, Node] = {}
    gone: set[int] = set()
    for node in graph.nodes:
        whole = writers.get(node.x) if isinstance(node, Pool) else None
        if not (isinstance(node, Pool) and isinstance(whole, Concat) and readers[node.x] == 1):
            continue
        if any(x not in writers for x in whole.xs):
            continue
        pooled = []
        for x in whole.xs:
            after.setdefault(x, []).append(replace(node, out=fresh, x=x))
            pooled.append(fresh)
            fresh -= 1
        changed[node.out] = replace(whole, out=node.out, xs=tuple(pooled), name=node.name)
        gone.add(whole.out)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.out not in gone:
            nodes.append(changed.get(node.out, node))
        for value in node.writes:
            nodes += after.get(value, ())
    return graph.with_nodes(nodes)


def join_pools(graph: Graph, in_pieces: Callable[[Conv], bool]) -> Graph:
    """Joins a pool over space to the convolution before it, and a convolution 1x1x1 to the pool before it.

    ``in_pieces``: whether a convolution can compute some frames of its result without the others.
    """
    writers, readers = graph.writers, graph.readers

    def joined(node: Node, before: Node) -> Node | None:
        if isinstance(node, Pool) and isinstance(before, Conv):
            only_over_space = node.kernel[0] == node.stride[0] == 1 and not (node.padding and node.padding[0])
            return (
                ConvPool(node.out, before, node, name=_both(before, node))
                if (only_over_space and in_pieces(before))
                else None
            )
        if isinstance(node, Conv) and isinstance(before, Pool) and node.residual != before.out:
            return PoolConv(node.out, before, node, name=_both(before, node)) if _fit(before, node) else None
        return None

    gone: set[int] = set()
    changed: dict[int, Node] = {}
    for node in graph.nodes:
        if not isinstance(node, Conv | Pool):
            continue
        before = writers.get(node.x)
        if before is None or readers[node.x] != 1 or before.out in gone or before.out in changed:
            continue
        found = joined(node, before)
        if found is not None:
            changed[node.out] = found
            gone.add(before.out)
    return graph.with_nodes(changed.get(node.out, node) for node in graph.nodes if node.out not in gone)


def behind_pools(graph: Graph) -> dict[int, int]:
    """The results of convolutions that ``join_pools`` may join to pools before them, and what those read."""
    writers = graph.writers
    found = {}
    for node in graph.nodes:
        if isinstance(node, Conv) and isinstance(pool := writers.get(node.x), Pool) and _fit(pool, node):
            found[node.out] = pool.x
    return found


def _fit(pool: Pool, conv: Conv) -> bool:
    """Whether a pool and the convolution of it can be one: 3x3x3 at stride 1, and 1x1x1."""
    keeps_size = pool.kernel == (3, 3, 3) and pool.stride == _ONE and pool.padding in (None, _ONE)
    return keeps_size and _is_pointwise(conv)


def skip_frames(graph: Graph) -> Graph:
    """Leaves out the frames of a convolution that the pool which alone reads it steps over."""
    writers, readers = graph.writers, graph.readers
    changed: dict[int, Node] = {}
    for pool in graph.nodes:
        if not (isinstance(pool, Pool) and pool.kernel[0] == 1 < pool.stride[0]) or readers[pool.x] != 1:
            continue
        conv = writers.get(pool.x)
        # SAME pads by the stride.
        if not isinstance(conv, Conv) or conv.padding is None or pool.padding is None or pool.padding[0]:
            continue
        if conv.groups == 1 and conv.residual is None:
            (step, *_), (by, h, w) = conv.stride, pool.stride
            changed[conv.out] = replace(conv, stride=(step * by, *conv.stride[1:]))
            changed[pool.out] = replace(pool, stride=(1, h, w))
    return graph.with_nodes(changed.get(node.out, node) for node in graph.nodes)


def join_siblings(graph: Graph) -> Graph:
    """Makes one product of convolutions 1x1x1 of one map."""
    groups: dict[tuple[int, bool], list[Conv]] = {}
    for node in graph.nodes:
        if isinstance(node, Conv) and _is_pointwise(node):
            groups.setdefault((node.x, node.relu), []).append(node)
    fresh = graph.fresh
    joined: dict[int, Node] = {}
    gone: set[int] = set()
    for (x, relu), convs in groups.items():
        if len(convs) < 2:
            continue
        first, *others = convs
        biases = [conv.bias if conv.bias is not None else _zeros(conv) for conv in convs]
        joined[first.out] = Siblings(
            first.out,
            x,
            fresh,
            tuple(conv.out for conv in others),
            tuple(conv.weight.shape[0] for conv in convs),
            torch.cat([conv.weight for conv in convs]),
            torch.cat(biases),
            relu,
            name=" + ".join(dict.fromkeys(conv.name for conv in convs)),
        )
        gone.update(conv.out for conv in others)
        fresh -= 1
    return graph.with_nodes(joined.get(node.out, node) for node in graph.nodes if node.out not in gone)


def _zeros(conv: Conv) -> Tensor:
    return conv.weight.new_zeros(conv.weight.shape[0])


def _is_pointwise(conv: Conv) -> bool:
    return (
        conv.kernel == conv.stride == _ONE
        and conv.padding in (None, (0, 0, 0))
        and conv.groups == 1
        and conv.residual is None
    )


def _both(first: Node, second: Node) -> str:
    return " + ".join(dict.fromkeys(name for name in (first.name, second.name) if name))


def _absorbed(
    graph: Graph, absorb: Callable[..., Node | None], kinds: tuple[type[Node], ...] = (Conv,)
) -> Graph:
    """The graph in which nodes take in a node of some kinds whose result they alone read."""
    readers = graph.readers
    nodes: dict[int, Node] = {}
    for node in graph.nodes:
        before = nodes.get(node.reads[0]) if len(node.reads) == 1 else None
        found = None
        if isinstance(before, kinds) and readers[before.out] == 1:
            found = absorb(node, before)
        if found is not None and before is not None:
            del nodes[before.out]
        nodes[node.out] = found or node
    return graph.with_nodes(nodes.values())
