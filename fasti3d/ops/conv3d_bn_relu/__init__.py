"""conv3d with a folded batch norm's bias and ReLU, SAME padding without a padded copy."""

from fasti3d.ops.conv3d_bn_relu.op import PackedConv3d, conv3d_bn_relu

__all__ = ["PackedConv3d", "conv3d_bn_relu"]
