"""A graph on plain PyTorch, differentiable: what plans and operators are checked against."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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
    Opaque,
    Pool,
    Relu,
    Softmax,
    Triple,
)
from fasti3d.ops.attention import attention
from fasti3d.same_padding import pad_same


def replay(graph: Graph, x: Tensor) -> dict[str, Any]:
    """The named values of a graph as a description or a trace gives it, for the clip x."""
    values: dict[int, Any] = {graph.input: x}
    for node in graph.nodes:
        values.update(zip(node.writes, _run(node, values), strict=True))
    return {name: values[value] for name, value in graph.names.items()}


def _run(node: Node, of: dict[int, Any]) -> tuple[Any, ...]:
    if isinstance(node, Conv):
        clip, padding = _padded(of[node.x], node.window, node.stride, node.padding, 0.0)
        y = F.conv3d(clip, node.weight, node.bias, node.stride, padding, node.dilation, node.groups)
        y = y if node.residual is None else y + of[node.residual]
        return (F.relu(y) if node.relu else y,)
    if isinstance(node, Norm):
        return (F.batch_norm(of[node.x], node.mean, node.var, node.weight, node.bias, False, 0.0, node.eps),)
    if isinstance(node, Relu):
        return (F.relu(of[node.x]),)
    if isinstance(node, Add):
        y = of[node.x] + of[node.y]
        return (F.relu(y) if node.relu else y,)
    if isinstance(node, Pool):
        clip, padding = _padded(of[node.x], node.kernel, node.stride, node.padding, float("-inf"))
        return (F.max_pool3d(clip, node.kernel, node.stride, padding),)
    if isinstance(node, Concat):
        return (torch.cat([of[x] for x in node.xs], dim=1),)
    if isinstance(node, Attention):
        return (attention(of[node.q], of[node.k], of[node.v], node.scale),)
    if isinstance(node, Head):
        return _head(node, of[node.x])
    if isinstance(node, Softmax):
        return (of[node.x].softmax(dim=1),)
    if isinstance(node, Opaque):
        return (node.call(*(of[x] for x in node.xs)),)
    raise TypeError(f"{type(node).__name__} is a node of a plan, not of a description")


def _padded(
    x: Tensor, kernel: Triple, stride: Triple, padding: Triple | None, value: float
) -> tuple[Tensor, Triple]:
    return (pad_same(x, kernel, stride, value), (0, 0, 0)) if padding is None else (x, padding)


def _head(node: Head, x: Tensor) -> tuple[Tensor, ...]:
    half = x.dtype in (torch.float16, torch.bfloat16)  # which torch does not pool on the CPU
    floats = x.float() if half else x
    pooled = (
        floats.mean(dim=(2, 3, 4), keepdim=True)
        if node.window is None
        else F.avg_pool3d(floats, node.window, stride=1)
    )
    pooled = pooled.to(x.dtype)
    features = pooled.mean(dim=(3, 4))
    if node.weight is None:
        return (features,)
    weight = node.weight.reshape(*node.weight.shape[:2], 1, 1, 1)
    scores = F.conv3d(pooled, weight, node.bias)
    return features, scores.mean(dim=(2, 3, 4))
