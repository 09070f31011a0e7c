// The arithmetic of a 3-D window, padded as TensorFlow's SAME or by given amounts, shared by host
// and device code.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fasti3d {

// One axis of a window: output i covers the `kernel` inputs from i * stride - front on.
struct Axis {
  int64_t in, kernel, stride, out, front;

  // SAME.
  FASTI3D_HOST_DEVICE Axis(int64_t in_, int64_t kernel_, int64_t stride_)
      : in(in_), kernel(kernel_), stride(stride_), out((in_ + stride_ - 1) / stride_), front(0) {
    const int64_t total = (out - 1) * stride + kernel - in;
    front = total > 0 ? total / 2 : 0;
  }

  // `padding` on both sides; the padded input fills the kernel at least once.
  FASTI3D_HOST_DEVICE Axis(int64_t in_, int64_t kernel_, int64_t stride_, int64_t padding)
      : in(in_),
        kernel(kernel_),
        stride(stride_),
        out((in_ + 2 * padding - kernel_) / stride_ + 1),
        front(padding) {}

  FASTI3D_HOST_DEVICE int64_t start(int64_t i) const { return i * stride - front; }
  // The part of output i's window that lies inside the input.
  FASTI3D_HOST_DEVICE int64_t first(int64_t i) const { return start(i) > 0 ? start(i) : 0; }
  FASTI3D_HOST_DEVICE int64_t last(int64_t i) const {
    const int64_t end = start(i) + kernel;
    return end < in ? end : in;
  }
};

struct Window {
  Axis t, h, w;
};

}  // namespace fasti3d
