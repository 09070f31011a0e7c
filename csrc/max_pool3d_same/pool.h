// The windows of max-pools, and what every kernel is given.
#pragma once

#include <optional>
#include <vector>

#include "../common/clip.h"
#include "../common/overlap.h"

namespace fasti3d {

// One axis of torch.nn.MaxPool3d. In `ceil` mode the last window may end beyond the padding, but
// begins inside the input or the padding before it.
inline Axis pool_axis(int64_t in, int64_t kernel, int64_t stride, int64_t padding, bool ceil) {
  check(in > 0, "x must have frames, rows and columns, got an axis of ", in);
  check(padding <= kernel / 2, "padding must be at most half the kernel of ", kernel, ", got ",
        padding);
  const int64_t more = in + 2 * padding - kernel + (ceil ? stride - 1 : 0);
  check(more >= 0, "x with its padding must fill the kernel of ", kernel, ", got ", in,
        " and twice ", padding);
  Axis axis(in, kernel, stride, padding);
  axis.out = more / stride + 1;
  if (ceil && axis.start(axis.out - 1) >= in) axis.out -= 1;
  return axis;
}

// Without `padding` it is SAME.
inline Window pool_window(const ClipView& x, const std::vector<int64_t>& kernel,
                          const std::vector<int64_t>& stride,
                          const std::optional<std::vector<int64_t>>& padding, bool ceil) {
  if (!padding) {
    check(!ceil, "ceil_mode must be False with SAME padding, which covers all of x");
    return same_window(x, kernel, stride);
  }
  check_window(kernel, stride);
  check_triple("padding", *padding, 0, kMaxPadding);
  const auto axis = [&](int64_t in, size_t i) {
    return pool_axis(in, kernel[i], stride[i], (*padding)[i], ceil);
  };
  return {axis(x.t, 0), axis(x.h, 1), axis(x.w, 2)};
}

// What a max-pool into `out` checks, and its window.
inline Window checked_pool(const Tensor& x, const std::vector<int64_t>& kernel,
                           const std::vector<int64_t>& stride,
                           const std::optional<std::vector<int64_t>>& padding, bool ceil,
                           const Tensor& out) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "x must be float32, bfloat16 or float16");
  check(out.scalar_type() == type, "out must have x's dtype");
  const ClipView in = channels_last_view(x, "x");
  const ClipView result = channels_last_view(out, "out");
  const Window window = pool_window(in, kernel, stride, padding, ceil);
  check(result.n == in.n && result.c == in.c && result.t == window.t.out &&
            result.h == window.h.out && result.w == window.w.out,
        "out must be (", in.n, ", ", in.c, ", ", window.t.out, ", ", window.h.out, ", ",
        window.w.out, "), got (", result.n, ", ", result.c, ", ", result.t, ", ", result.h, ", ",
        result.w, ")");
  check_written(out, {{"x", x}});
  return window;
}

struct PoolArgs {
  const void* x;
  void* out;
  ScalarType type;
  ClipView in;
  ClipView result;
  Window window;
};

using PoolRows = void (*)(const PoolArgs&, int64_t row_begin, int64_t row_end, void* scratch);

namespace baseline {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
#if defined(__x86_64__)
namespace avx2 {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
namespace avx512 {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
#elif defined(__aarch64__)
namespace neon {
void pool_rows_any(const PoolArgs&, int64_t, int64_t, void*);
}
#endif

}  // namespace fasti3d
