"""Which values of a graph are never below zero, whatever the clip: a rule for each kind of node.

Of such a map a max-pool may take zeros for its padding, as a kernel finds them that reads a map through a
window of memory that ends beyond it. (NaN is neither above nor below zero.)
"""

from __future__ import annotations

from fasti3d.engine.graph import (
    Add,
    Concat,
    Conv,
    ConvPool,
    Graph,
    Head,
    Node,
    Pool,
    PoolConv,
    Relu,
    Siblings,
    Softmax,
)


def non_negative(graph: Graph) -> frozenset[int]:
    """The values that are never below zero. What torch runs is not known, nor is the clip."""
    found: set[int] = set()
    for node in graph.nodes:
        found.update(_written(node, found))
    return frozenset(found)


def _written(node: Node, known: set[int]) -> tuple[int, ...]:
    """The values of a node that are never below zero, where those before it are known."""
    if isinstance(node, ConvPool | PoolConv):
        return node.writes if node.conv.relu else ()  # a pool gives some of what it is given
    if isinstance(node, Relu | Softmax) or (isinstance(node, Conv | Siblings | Add) and node.relu):
        return node.writes
    if isinstance(node, Head):
        return (node.out,) if node.x in known else ()  # averages, but no scores
    if isinstance(node, Pool | Concat | Add) and known.issuperset(node.reads):
        return node.writes
    return ()
