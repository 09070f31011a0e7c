"""Batch norm with ReLU in training mode: statistics, the normalized map, and both passes of the gradient."""

from fasti3d.ops.batch_norm_relu.op import (
    batch_norm_relu_backward_,
    batch_norm_relu_sums,
    batch_norm_stats,
    scale_shift_relu_,
)

__all__ = ["batch_norm_relu_backward_", "batch_norm_relu_sums", "batch_norm_stats", "scale_shift_relu_"]
