"""A convolution's three passes in training: forward, and the gradients of its input and of its weights."""

from fasti3d.ops.conv3d_training.op import conv3d, forward, grad_input, grad_weight
from fasti3d.ops.conv3d_training.with_stats import conv3d_with_stats, finds_statistics

__all__ = ["conv3d", "conv3d_with_stats", "finds_statistics", "forward", "grad_input", "grad_weight"]
