"""Max-pools that keep in a byte which tap of a window won, and their gradient, which gathers."""

from fasti3d.ops.max_pool3d_taps.op import MAX_TAPS, max_pool3d_taps, max_pool3d_taps_backward

__all__ = ["MAX_TAPS", "max_pool3d_taps", "max_pool3d_taps_backward"]
