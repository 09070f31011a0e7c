"""What the nodes of the training step answer to a gradient of their gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fasti3d.inputs import without_autocast

_MESSAGE = (
    "the training step of fasti3d.I3D has no second derivatives: compute what is differentiated twice "
    "with the ordinary network, which has the same parameters: "
    'fasti3d.reference.I3D.forward_endpoints(model, clip, ["Logits"])["Logits"]'
)


class _Refused(Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(_MESSAGE)


def _refused(grad: Tensor | None) -> Tensor | None:
    refused: Tensor | None = None if grad is None else _Refused.apply(grad.detach().requires_grad_())
    return refused


def first_order(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A node's backward pass without autocast, whose results raise where they are differentiated."""

    @wraps(backward)
    def run(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        with torch.no_grad(), without_autocast(grad.device):
            grads = backward(ctx, grad)
        return tuple(map(_refused, grads)) if torch.is_grad_enabled() else grads

    return run
