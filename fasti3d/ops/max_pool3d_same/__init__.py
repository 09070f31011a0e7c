"""Max-pool with TensorFlow SAME padding, without a padded copy."""

from fasti3d.ops.max_pool3d_same.op import max_pool3d_same

__all__ = ["max_pool3d_same"]
