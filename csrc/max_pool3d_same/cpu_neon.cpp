// The max-pool kernel for NEON, whose maximum of floats is torch's: a NaN wins, and 0 over -0.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <algorithm>

#include "pool.h"

#if defined(__aarch64__)
namespace fasti3d::neon {
using Single = float;

inline float larger(float a, float b) {
  return vget_lane_f32(vmax_f32(vdup_n_f32(a), vdup_n_f32(b)), 0);
}

inline void first_keys(const float* source, int64_t count, float, float* target) {
  std::copy_n(source, count, target);
}

inline void more_keys(const float* source, int64_t count, float, float* target) {
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + 4 <= count; i += 4) {
    vst1q_f32(target + i, vmaxq_f32(vld1q_f32(target + i), vld1q_f32(source + i)));
  }
  for (; i < count; ++i) target[i] = larger(target[i], source[i]);
}

template <int kTaps>
inline void pool_pixels(const float* keys, int64_t channels, int64_t taps, float* out) {
  const int64_t count = kTaps ? kTaps : taps;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    float32x4_t best = vld1q_f32(keys + c);
    for (int64_t k = 1; k < count; ++k) best = vmaxq_f32(best, vld1q_f32(keys + c + k * channels));
    vst1q_f32(out + c, best);
  }
  for (; c < channels; ++c) {
    float best = keys[c];
    for (int64_t k = 1; k < count; ++k) best = larger(best, keys[c + k * channels]);
    out[c] = best;
  }
}

#include "kernel.h"
}  // namespace fasti3d::neon
#endif
