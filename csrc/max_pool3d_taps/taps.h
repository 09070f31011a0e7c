// Max-pools that keep which tap of each window won: what every instruction set's kernels are given.
// Tap (a * kernel_h + b) * kernel_w + c of a window lies at its frame a, row b, column c.
#pragma once

#include "../common/clip.h"

namespace fasti3d {

constexpr int64_t kMaxTaps = 256;

struct TapsArgs {
  const void* values;  // x, or the gradient of the result
  void* out;           // the result, or the gradient of x
  uint8_t* taps;
  ScalarType type;
  ClipView in, out_view, taps_view;
  Window window;
};

// Rows [begin, end) of what is written, counted over clips, frames and rows.
using TapsRows = void (*)(const TapsArgs&, int64_t begin, int64_t end);

struct TapsKernels {
  TapsRows pool, backward;
};

namespace baseline {
TapsKernels taps_kernels(ScalarType type);
}
#if defined(__x86_64__)
namespace avx2 {
TapsKernels taps_kernels(ScalarType type);
}
namespace avx512 {
TapsKernels taps_kernels(ScalarType type);
}
#elif defined(__aarch64__)
namespace neon {
TapsKernels taps_kernels(ScalarType type);
}
#endif

}  // namespace fasti3d
