"""Max-pools of clips, with explicit padding or TensorFlow's SAME, without a padded copy."""

from fasti3d.ops.max_pool3d_same.op import max_pool3d, max_pool3d_same

__all__ = ["max_pool3d", "max_pool3d_same"]
