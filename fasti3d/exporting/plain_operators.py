"""The library's operators in torch's own: what a graph needs to run where fasti3d is not installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fasti3d.ops  # noqa: F401 - registers the operators
from fasti3d.engine.graph_op import planned_reference
from fasti3d.ops.depthwise_conv3d.reference import depthwise_conv3d_reference
from fasti3d.ops.i3d_head.reference import average_head_reference
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_reference, max_pool3d_same_reference
from fasti3d.same_padding import pad_same


def decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return a decomposition of each operator that a network of this library puts into an exported graph.

    Returns:
        What ``ExportedProgram.run_decompositions`` takes: torch's own operators stay as they are. The result
        can be saved and loaded without fasti3d, and ``torch.onnx.export`` takes it.

    Example:
        >>> model = fasti3d.I3D(num_classes=5).eval()
        >>> program = torch.export.export(model, (torch.zeros(2, 3, 16, 224, 224),))
        >>> plain = program.run_decompositions(decompositions())
        >>> any("fasti3d" in str(node.target) for node in plain.graph.nodes)
        False
    """
    names = torch.ops.fasti3d
    return {
        names.planned.default: planned_reference,
        names.conv3d_bn_relu.default: _conv3d,
        names.depthwise_conv3d.default: depthwise_conv3d_reference,
        names.max_pool3d.default: max_pool3d_reference,
        names.max_pool3d_same.default: max_pool3d_same_reference,
        names.average_head.default: average_head_reference,
    }


def _conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | None,
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    """In x's dtype whatever this machine would compute it in, which the graph is not to depend on."""
    if padding is None:
        x, padding = pad_same(x, weight.shape[2:], stride), (0, 0, 0)
    y = F.conv3d(x, weight, bias, tuple(stride), tuple(padding))
    y = y if residual is None else y + residual
    return F.relu(y) if relu else y
