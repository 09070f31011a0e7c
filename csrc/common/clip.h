// Checked views of torch tensors as channels-last clips, and of int[3] arguments.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "check.h"
#include "window.h"

namespace fasti3d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sizes and strides (in elements) of an (N, C, T, H, W) tensor. Element (n, c, t, h, w) lies at
// n * stride_n + ... + c * stride_c; channels-last clips have stride_c == 1.
struct ClipView {
  int64_t n, c, t, h, w;
  int64_t stride_n, stride_c, stride_t, stride_h, stride_w;

  // Elements from the first to one past the last.
  int64_t span() const {
    return 1 + (n - 1) * stride_n + (c - 1) * stride_c + (t - 1) * stride_t + (h - 1) * stride_h +
           (w - 1) * stride_w;
  }

  FASTI3D_HOST_DEVICE int64_t pixel(int64_t in, int64_t it, int64_t ih, int64_t iw) const {
    return in * stride_n + it * stride_t + ih * stride_h + iw * stride_w;
  }
};

inline ClipView clip_view(const Tensor& x, const char* name) {
  check(x.dim() == 5, name, " must have 5 dimensions (N, C, T, H, W), got ", x.dim());
  const auto size = x.sizes();
  const auto stride = x.strides();
  return {size[0],   size[1],   size[2],   size[3],   size[4],
          stride[0], stride[1], stride[2], stride[3], stride[4]};
}

// A clip whose channels lie side by side: channels_last_3d, or a channel slice of such a tensor.
inline ClipView channels_last_view(const Tensor& x, const char* name) {
  const ClipView view = clip_view(x, name);
  check(view.c == 1 || view.stride_c == 1, name,
        " must be channels-last (channel stride 1), got channel stride ", view.stride_c,
        ": call .contiguous(memory_format=torch.channels_last_3d)");
  return view;
}

inline void check_window(const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride) {
  check(kernel.size() == 3, "kernel must have 3 lengths (t, h, w), got ", kernel.size());
  check(stride.size() == 3, "stride must have 3 steps (t, h, w), got ", stride.size());
  for (size_t axis = 0; axis < 3; ++axis) {
    check(kernel[axis] >= 1, "kernel must be at least 1 on every axis, got ", kernel[axis]);
    check(stride[axis] >= 1, "stride must be at least 1 on every axis, got ", stride[axis]);
  }
}

inline Window same_window(const ClipView& x, const std::vector<int64_t>& kernel,
                          const std::vector<int64_t>& stride) {
  check_window(kernel, stride);
  return {Axis(x.t, kernel[0], stride[0]), Axis(x.h, kernel[1], stride[1]),
          Axis(x.w, kernel[2], stride[2])};
}

// As many zeros before as after each axis.
inline Window padded_window(const ClipView& x, const std::vector<int64_t>& kernel,
                            const std::vector<int64_t>& stride,
                            const std::vector<int64_t>& padding) {
  check_window(kernel, stride);
  check(padding.size() == 3, "padding must have 3 lengths (t, h, w), got ", padding.size());
  const auto axis = [&](int64_t in, size_t i) {
    check(padding[i] >= 0, "padding must be at least 0 on every axis, got ", padding[i]);
    check(in + 2 * padding[i] >= kernel[i], "x with its padding must fill the kernel of ",
          kernel[i], ", got ", in, " and twice ", padding[i]);
    return Axis(in, kernel[i], stride[i], padding[i]);
  };
  return {axis(x.t, 0), axis(x.h, 1), axis(x.w, 2)};
}

}  // namespace fasti3d
