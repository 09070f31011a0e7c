// fasti3d::max_pool3d_same on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../common/isa.h"
#include "../common/memory.h"
#include "pool.h"

namespace fasti3d {
namespace {

PoolRows choose() {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::kAvx512: return avx512::pool_rows_any;
    case Isa::kAvx2: return avx2::pool_rows_any;
    default: break;
  }
#endif
  return baseline::pool_rows_any;
}

Tensor max_pool3d_same(Tensor x, std::vector<int64_t> kernel, std::vector<int64_t> stride) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "x must be float32, bfloat16 or float16");
  const ClipView in = channels_last_view(x, "x");
  const Window window = same_window(in, kernel, stride);
  const std::vector<int64_t> size{in.n, in.c, window.t.out, window.h.out, window.w.out};
  Tensor out = torch::stable::empty(size, type, std::nullopt, x.device(), std::nullopt,
                                    torch::headeronly::MemoryFormat::ChannelsLast3d);
  if (out.numel() == 0) return out;
  advise_huge_pages(out.mutable_data_ptr(), out.numel() * out.element_size());
  const PoolArgs args{x.const_data_ptr(), out.mutable_data_ptr(), type, in,
                      channels_last_view(out, "out"), window};
  const PoolRows pool_rows = choose();
  const int64_t rows = in.n * window.t.out * window.h.out;
  const int64_t row_bytes = in.w * in.c * static_cast<int64_t>(x.element_size());
  // A thread should have some tens of kilobytes to read before it is worth waking.
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, row_bytes));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<char> scratch(row_bytes);
    pool_rows(args, begin, end, scratch.data());
  });
  return out;
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("max_pool3d_same", TORCH_BOX(&fasti3d::max_pool3d_same));
}
