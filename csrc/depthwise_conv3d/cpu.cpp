// fasti3d::depthwise_conv3d_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/overlap.h"
#include "../common/parallel.h"
#include "depthwise.h"

namespace fasti3d {
namespace {

// Input rows of a band in all frames of a window: a part of a core's L2 cache.
constexpr int64_t kBandBytes = 1 << 19;

DepthwiseRows choose() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::depthwise_rows_any;
  if (isa() >= Isa::kAvx2) return avx2::depthwise_rows_any;
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neon::depthwise_rows_any;
#endif
  return baseline::depthwise_rows_any;
}

// Output rows of a band: all of a frame unless windows share more frames than the cache holds. Even
// bands, for each reads the rows that it shares with the next once more.
int64_t band_rows(const ClipView& in, const Window& window, int64_t element) {
  const Axis t = window.t, h = window.h;
  if (t.kernel <= t.stride) return h.out;
  const int64_t row_bytes = product({in.w, in.c, element, std::min(t.kernel, in.t)});
  const int64_t rows = std::max(kBandBytes / row_bytes - h.kernel, int64_t{0}) / h.stride + 1;
  const int64_t bands = (h.out + rows - 1) / rows;
  return (h.out + bands - 1) / bands;
}

void depthwise_conv3d_(Tensor x, Tensor packed, Tensor bias, std::vector<int64_t> kernel,
                       std::vector<int64_t> stride, std::optional<std::vector<int64_t>> padding,
                       bool relu, Tensor out, int64_t start) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16, "x must be float32 or bfloat16");
  check(out.scalar_type() == type, "out must have x's dtype");
  const ClipView in = channels_last_view(x, "x"), result = channels_last_view(out, "out");
  const Window window =
      padding ? padded_window(in, kernel, stride, *padding) : same_window(in, kernel, stride);
  check(in.c > 0 && (in.n == 0 || (in.t > 0 && in.h > 0 && in.w > 0)),
        "x must have channels, frames, rows and columns, got (", in.n, ", ", in.c, ", ", in.t, ", ",
        in.h, ", ", in.w, ")");
  check(result.n == in.n && result.c == in.c && result.h == window.h.out &&
            result.w == window.w.out && start >= 0 && start <= window.t.out - result.t,
        "out must hold frames from ", start, " on of (", in.n, ", ", in.c, ", ", window.t.out, ", ",
        window.h.out, ", ", window.w.out, "), got (", result.n, ", ", result.c, ", ", result.t,
        ", ", result.h, ", ", result.w, ")");
  const int64_t taps = product({kernel[0], kernel[1], kernel[2]});
  check(packed.dim() == 2 && packed.is_contiguous() && packed.scalar_type() == ScalarType::Float &&
            packed.size(0) == taps && packed.size(1) == in.c,
        "packed must be contiguous float32 of (", taps, ", ", in.c, "): taps, channels");
  check(bias.dim() == 1 && bias.is_contiguous() && bias.scalar_type() == ScalarType::Float &&
            bias.size(0) == in.c,
        "bias must be float32 with ", in.c, " values");
  check_written(out, {{"x", x}, {"packed", packed}, {"bias", bias}});
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), result.span() * out.element_size());
  const int64_t element = static_cast<int64_t>(x.element_size());
  const DepthwiseArgs args{x.const_data_ptr(),
                           out.mutable_data_ptr(),
                           type,
                           in,
                           result,
                           window,
                           static_cast<const float*>(packed.const_data_ptr()),
                           static_cast<const float*>(bias.const_data_ptr()),
                           relu,
                           start,
                           band_rows(in, window, element)};
  const DepthwiseRows depthwise_rows = choose();
  // A thread should have some tens of kilobytes to read before it is worth waking.
  const int64_t grain =
      std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, product({in.w, in.c, element})));
  parallel_for(0, in.n * result.t * result.h, grain,
               [&](int64_t begin, int64_t end) { depthwise_rows(args, begin, end); });
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("depthwise_conv3d_", TORCH_BOX(&fasti3d::depthwise_conv3d_));
}
