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

constexpr int64_t kMaxAxis = int64_t(1) << 48;

inline ClipView clip_view(const Tensor& x, const char* name) {
  check(x.dim() == 5, name, " must have 5 dimensions (N, C, T, H, W), got ", x.dim());
  const auto size = x.sizes();
  const auto stride = x.strides();
  // Without elements any axis may have any length.
  for (const int64_t n : size) {
    check(n <= kMaxAxis, name, " must have axes of at most ", kMaxAxis, ", got ", n);
  }
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

// Of a window, as of torch's own pools: no product of two of them overflows. The largest padding is
// less, for clips of few channels are copied with it.
constexpr int64_t kMaxLength = 0x7fffffff, kMaxPadding = 0x7fff;

inline void check_triple(const char* name, const std::vector<int64_t>& values, int64_t low,
                         int64_t high) {
  check(values.size() == 3, name, " must have 3 values (t, h, w), got ", values.size());
  for (const int64_t value : values) {
    check(value >= low && value <= high, name, " must be ", low, " to ", high,
          " on every axis, got ", value);
  }
}

inline void check_window(const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride) {
  check_triple("kernel", kernel, 1, kMaxLength);
  check_triple("stride", stride, 1, kMaxLength);
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
  check_triple("padding", padding, 0, kMaxPadding);
  const auto axis = [&](int64_t in, size_t i) {
    check(in + 2 * padding[i] >= kernel[i], "x with its padding must fill the kernel of ",
          kernel[i], ", got ", in, " and twice ", padding[i]);
    return Axis(in, kernel[i], stride[i], padding[i]);
  };
  return {axis(x.t, 0), axis(x.h, 1), axis(x.w, 2)};
}

}  // namespace fasti3d
