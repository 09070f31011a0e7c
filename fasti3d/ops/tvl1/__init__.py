"""TV-L1 optical flow as an operator; ``fasti3d.tvl1`` is the function for users."""

from fasti3d.ops.tvl1.op import SCHEMA, has_kernel

__all__ = ["SCHEMA", "has_kernel"]
