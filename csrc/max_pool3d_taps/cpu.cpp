// fasti3d::max_pool3d_taps_ and max_pool3d_taps_backward_ on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../common/isa.h"
#include "../common/memory.h"
#include "../common/overlap.h"
#include "../common/parallel.h"
#include "taps.h"

namespace fasti3d {
namespace {

TapsKernels choose(ScalarType type) {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return avx512::taps_kernels(type);
  if (isa() >= Isa::kAvx2) return avx2::taps_kernels(type);
#elif defined(__aarch64__)
  if (isa() >= Isa::kNeon) return neon::taps_kernels(type);
#endif
  return baseline::taps_kernels(type);
}

void check_dtype(const Tensor& x, const char* name) {
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16, name,
        " must be float32 or bfloat16");
}

// SAME, of taps that a byte counts.
Window checked_window(const ClipView& x, const std::vector<int64_t>& kernel,
                      const std::vector<int64_t>& stride) {
  const Window window = same_window(x, kernel, stride);
  check(product({kernel[0], kernel[1], kernel[2]}) <= kMaxTaps, "kernel must have at most ",
        kMaxTaps, " taps, which a byte counts, got (", kernel[0], ", ", kernel[1], ", ", kernel[2],
        ")");
  return window;
}

void check_taps(const ClipView& taps, const Tensor& tensor, const ClipView& like) {
  check(tensor.scalar_type() == ScalarType::Byte, "taps must be uint8");
  check(taps.n == like.n && taps.c == like.c && taps.t == like.t && taps.h == like.h &&
            taps.w == like.w,
        "taps must be (", like.n, ", ", like.c, ", ", like.t, ", ", like.h, ", ", like.w,
        "), got (", taps.n, ", ", taps.c, ", ", taps.t, ", ", taps.h, ", ", taps.w, ")");
}

void run(TapsRows rows, const TapsArgs& args, int64_t reads) {
  const ClipView& out = args.out_view;
  const int64_t width = std::max<int64_t>(1, product({out.w, out.c, reads}));
  // A thread should have some ten thousand values to read before it is worth waking.
  parallel_for(0, out.n * out.t * out.h, std::max<int64_t>(1, (1 << 14) / width),
               [&](int64_t begin, int64_t end) { rows(args, begin, end); });
}

void max_pool3d_taps_(Tensor x, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                      Tensor out, Tensor taps) {
  check_dtype(x, "x");
  const ClipView in = channels_last_view(x, "x"), result = channels_last_view(out, "out");
  const ClipView winners = channels_last_view(taps, "taps");
  const Window window = checked_window(in, kernel, stride);
  check(out.scalar_type() == x.scalar_type(), "out must have x's dtype");
  check(result.n == in.n && result.c == in.c && result.t == window.t.out &&
            result.h == window.h.out && result.w == window.w.out,
        "out must be (", in.n, ", ", in.c, ", ", window.t.out, ", ", window.h.out, ", ",
        window.w.out, "), got (", result.n, ", ", result.c, ", ", result.t, ", ", result.h, ", ",
        result.w, ")");
  check_taps(winners, taps, result);
  check_written(out, {{"x", x}});
  check(is_written_once(taps),
        "unsupported operation: more than one element of taps refers to a single memory location: "
        "pass memory of its own for each, for example taps.clone()");
  for (const Input& other : {Input{"x", x}, Input{"out", out}}) {
    check(!share_memory(taps, other.tensor), "unsupported operation: some elements of ", other.name,
          " and taps refer to a single memory location: clone one of them");
  }
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), result.span() * out.element_size());
  const TapsArgs args{x.const_data_ptr(),
                      out.mutable_data_ptr(),
                      static_cast<uint8_t*>(taps.mutable_data_ptr()),
                      x.scalar_type(),
                      in,
                      result,
                      winners,
                      window};
  run(choose(args.type).pool, args, kernel[0] * kernel[1] * kernel[2]);
}

void max_pool3d_taps_backward_(Tensor grad, Tensor taps, std::vector<int64_t> kernel,
                               std::vector<int64_t> stride, Tensor out) {
  check_dtype(grad, "grad");
  const ClipView in = channels_last_view(grad, "grad"), result = channels_last_view(out, "out");
  const ClipView winners = channels_last_view(taps, "taps");
  const Window window = checked_window(result, kernel, stride);
  check_taps(winners, taps, in);
  check(out.scalar_type() == grad.scalar_type(), "out must have grad's dtype");
  check(result.n == in.n && result.c == in.c && in.t == window.t.out && in.h == window.h.out &&
            in.w == window.w.out,
        "out must be (", in.n, ", ", in.c, ", T, H, W) of which the stride makes grad's (", in.t,
        ", ", in.h, ", ", in.w, "), got (", result.n, ", ", result.c, ", ", result.t, ", ",
        result.h, ", ", result.w, ")");
  check_written(out, {{"grad", grad}, {"taps", taps}});
  if (out.numel() == 0) return;
  advise_huge_pages(out.mutable_data_ptr(), result.span() * out.element_size());
  const TapsArgs args{grad.const_data_ptr(),
                      out.mutable_data_ptr(),
                      static_cast<uint8_t*>(const_cast<void*>(taps.const_data_ptr())),
                      grad.scalar_type(),
                      in,
                      result,
                      winners,
                      window};
  run(choose(args.type).backward, args, 1);
}

}  // namespace
}  // namespace fasti3d

STABLE_TORCH_LIBRARY_IMPL(fasti3d, CPU, m) {
  m.impl("max_pool3d_taps_", TORCH_BOX(&fasti3d::max_pool3d_taps_));
  m.impl("max_pool3d_taps_backward_", TORCH_BOX(&fasti3d::max_pool3d_taps_backward_));
}
