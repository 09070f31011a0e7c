"""Inputs that a node's backward pass needs again: kept, or computed again from what their own node keeps.

A ReLU's output is one pass over the convolution's output, which the node that made it keeps in any case.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def keep_input(ctx: Any, x: Tensor, wanted: bool, recompute: bool) -> Tensor | None:
    """What to save of a node's input: nothing where it is not wanted, or another node computes it again."""
    ctx.maker = x.grad_fn if recompute and hasattr(x.grad_fn, "output") else None
    return x if wanted and ctx.maker is None else None


def input_again(ctx: Any, saved: Tensor | None) -> Tensor:
    """The input of which ``keep_input`` kept ``saved``."""
    if saved is not None:
        return saved
    again: Tensor = ctx.maker.output(ctx.maker)
    return again
