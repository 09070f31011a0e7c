"""A network's head: average pool, linear classifier and mean over time in one pass."""

from fasti3d.ops.i3d_head.op import average_head

__all__ = ["average_head"]
