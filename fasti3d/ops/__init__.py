"""The library's operators: each runs its fastest kernel, or its reference where there is none."""

import fasti3d.ops.conv3d_training
import fasti3d.ops.tvl1  # noqa: F401 - registers the operator, which fasti3d.tvl1 calls
from fasti3d.ops.conv3d_bn_relu import conv3d_bn_relu
from fasti3d.ops.depthwise_conv3d import depthwise_conv3d
from fasti3d.ops.i3d_head import average_head
from fasti3d.ops.max_pool3d_same import max_pool3d, max_pool3d_same

__all__ = ["average_head", "conv3d_bn_relu", "depthwise_conv3d", "max_pool3d", "max_pool3d_same"]
