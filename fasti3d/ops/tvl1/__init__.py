"""TV-L1 optical flow as an operator; ``fasti3d.tvl1`` is the function for users."""

from fasti3d.ops.tvl1.op import has_kernel

__all__ = ["has_kernel"]
