"""The library's operators: each runs its fastest kernel, or its reference where there is none."""

from fasti3d.ops.conv3d_bn_relu import conv3d_bn_relu
from fasti3d.ops.max_pool3d_same import max_pool3d_same

__all__ = ["conv3d_bn_relu", "max_pool3d_same"]
