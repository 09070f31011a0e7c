"""The compiled operator of csrc/conv3d_grad_weight: schema, and what it returns, for tracing."""

from __future__ import annotations

from torch import Tensor

from fasti3d.ops.registry import operator


def _weight(
    grad: Tensor,
    x: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    filters: Tensor,
    kernel: list[int],
    stride: list[int],
) -> Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], *kernel)


# inputs, outputs and filters are a Transform's (fasti3d/ops/conv3d_bn_relu/winograd.py).
operator(
    "conv3d_grad_weight(Tensor grad, Tensor x, Tensor inputs, Tensor outputs, Tensor filters, int[] kernel, "
    "int[] stride) -> Tensor",
    None,
    fake=_weight,
)
