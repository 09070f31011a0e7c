"""conv3d with a folded batch norm's bias and ReLU, SAME padding without a padded copy."""

import fasti3d.ops.conv3d_bn_relu.graph  # noqa: F401 - registers the operator, which op.py calls
from fasti3d.ops.conv3d_bn_relu.op import PackedConv3d, conv3d_bn_relu

__all__ = ["PackedConv3d", "conv3d_bn_relu"]
