// fasti3d::max_pool3d_same on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../common/allocate.h"
#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/overlap.h"
#include "../common/parallel.h"
#include "pool.h"

namespace fasti3d {
namespace {

PoolRows choose() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::pool_rows_any;
  if (isa() >= Isa::kAvx2) return avx2::pool_rows_any;
#endif
  return baseline::pool_rows_any;
}

void max_pool3d_same_(Tensor x, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                      Tensor out) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "x must be float32, bfloat16 or float16");
  check(out.scalar_type() == type, "out must have x's dtype");
  const ClipView in = channels_last_view(x, "x");
  const ClipView result = channels_last_view(out, "out");
  const Window window = same_window(in, kernel, stride);
  check_written(out, {{"x", x}});
  check(result.n == in.n && result.c == in.c && result.t == window.t.out &&
            result.h == window.h.out && result.w == window.w.out,
        "out must be (", in.n, ", ", in.c, ", ", window.t.out, ", ", window.h.out, ", ",
        window.w.out, "), got (", result.n, ", ", result.c, ", ", result.t, ", ", result.h, ", ",
        result.w, ")");
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), result.span() * out.element_size());
  const PoolArgs args{x.const_data_ptr(), out.mutable_data_ptr(), type, in, result, window};
  const PoolRows pool_rows = choose();
  const int64_t rows = in.n * window.t.out * window.h.out;
  const int64_t row_bytes = product({in.w, in.c, static_cast<int64_t>(x.element_size())});
  // A thread should have some tens of kilobytes to read before it is worth waking.
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, row_bytes));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<char> scratch(row_bytes);
    pool_rows(args, begin, end, scratch.data());
  });
}

Tensor max_pool3d_same(Tensor x, std::vector<int64_t> kernel, std::vector<int64_t> stride) {
  const ClipView in = clip_view(x, "x");
  const Window window = same_window(in, kernel, stride);
  Tensor out = allocate("max_pool3d_same", {in.n, in.c, window.t.out, window.h.out, window.w.out},
                        x.scalar_type(), x, torch::headeronly::MemoryFormat::ChannelsLast3d);
  max_pool3d_same_(x, kernel, stride, out);
  return out;
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("max_pool3d_same", TORCH_BOX(&fasti3d::max_pool3d_same));
  m.impl("max_pool3d_same_", TORCH_BOX(&fasti3d::max_pool3d_same_));
}
