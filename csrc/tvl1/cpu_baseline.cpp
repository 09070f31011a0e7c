// The rows of TV-L1: 4 lanes, which SSE2 and NEON have.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/target.h"
#include "median_network.h"
#include "rows.h"

static_assert(fasti3d::tvl1::network_finds_medians());

FASTI3D_NO_CONTRACTION
namespace fasti3d::tvl1::baseline {
constexpr int kLanes = 4;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Whole __attribute__((vector_size(kLanes * sizeof(int32_t))));
inline Vector root(Vector v) {
#if defined(__x86_64__)
  return _mm_sqrt_ps(v);
#endif
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
inline unsigned lanes(Whole mask) {
#if defined(__x86_64__)
  return _mm_movemask_ps((__m128)mask);
#endif
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= mask[i] != 0 ? 1u << i : 0;
  return bits;
}
#include "kernel.h"
}  // namespace fasti3d::tvl1::baseline
