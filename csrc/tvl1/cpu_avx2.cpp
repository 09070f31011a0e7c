// The rows of TV-L1: AVX2.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/target.h"
#include "median_network.h"
#include "rows.h"

#if defined(__x86_64__)
FASTI3D_TARGET_BEGIN("avx2")
FASTI3D_NO_CONTRACTION
namespace fasti3d::tvl1::avx2 {
constexpr int kLanes = 8;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
inline Vector root(Vector v) { return _mm256_sqrt_ps(v); }
inline __m128 weigh(const float* w, const Vector (&columns)[2]) {
  const Vector first{w[0], w[0], w[0], w[0], w[1], w[1], w[1], w[1]};
  const Vector second{w[2], w[2], w[2], w[2], w[3], w[3], w[3], w[3]};
  const __m256 sums = first * columns[0] + second * columns[1];
  return _mm256_castps256_ps128(sums) + _mm256_extractf128_ps(sums, 1);
}
#include "kernel.h"
}  // namespace fasti3d::tvl1::avx2
FASTI3D_TARGET_END
#endif
