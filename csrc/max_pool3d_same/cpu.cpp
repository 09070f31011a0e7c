// fasti3d::max_pool3d_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/parallel.h"
#include "pool.h"

namespace fasti3d {
namespace {

PoolRows choose() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::pool_rows_any;
  if (isa() >= Isa::kAvx2) return avx2::pool_rows_any;
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neon::pool_rows_any;
#endif
  return baseline::pool_rows_any;
}

void max_pool3d_(Tensor x, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                 std::optional<std::vector<int64_t>> padding, bool ceil, Tensor out) {
  const Window window = checked_pool(x, kernel, stride, padding, ceil, out);
  const ClipView in = channels_last_view(x, "x"), result = channels_last_view(out, "out");
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), result.span() * out.element_size());
  const PoolArgs args{
      x.const_data_ptr(), out.mutable_data_ptr(), x.scalar_type(), in, result, window};
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

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("max_pool3d_", TORCH_BOX(&fasti3d::max_pool3d_));
}
