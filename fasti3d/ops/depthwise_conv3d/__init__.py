"""Depthwise convolution (one filter per channel), bias and ReLU of channels-last clips."""

from fasti3d.ops.depthwise_conv3d.op import DepthwiseConv3d, depthwise_conv3d, has_depthwise_kernel

__all__ = ["DepthwiseConv3d", "depthwise_conv3d", "has_depthwise_kernel"]
