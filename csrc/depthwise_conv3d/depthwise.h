// Depthwise conv3d + bias + ReLU on channels-last clips: what every instruction set's kernel is
// given. Weights are [tap][channel], taps in the order t, h, w.
#pragma once

#include "../common/clip.h"

namespace fasti3d {

struct DepthwiseArgs {
  const void* x;
  void* out;
  ScalarType type;  // of x and out: float32 or bfloat16
  ClipView in, result;
  Window window;
  const float* weights;
  const float* bias;
  bool relu;
  int64_t start;  // output frame that `out` begins with
  int64_t band;   // output rows that are computed for all frames before the next ones
};

// Output rows [begin, end), counted over clips, bands, frames and rows of a band.
using DepthwiseRows = void (*)(const DepthwiseArgs&, int64_t begin, int64_t end);

namespace baseline {
void depthwise_rows_any(const DepthwiseArgs&, int64_t, int64_t);
}
#if defined(__x86_64__)
namespace avx2 {
void depthwise_rows_any(const DepthwiseArgs&, int64_t, int64_t);
}
namespace avx512 {
void depthwise_rows_any(const DepthwiseArgs&, int64_t, int64_t);
}
#elif defined(__aarch64__)
namespace neon {
void depthwise_rows_any(const DepthwiseArgs&, int64_t, int64_t);
}
#endif

}  // namespace fasti3d
