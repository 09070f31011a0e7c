// The rows of TV-L1: AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/target.h"
#include "median_network.h"
#include "rows.h"

#if defined(__x86_64__)
FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")
FASTI3D_NO_CONTRACTION
namespace fasti3d::tvl1::avx512 {
constexpr int kLanes = 16;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
inline Vector root(Vector v) { return _mm512_sqrt_ps(v); }
inline __m128 weigh(const float* w, const Vector (&columns)[1]) {
  const Vector weights{w[0], w[0], w[0], w[0], w[1], w[1], w[1], w[1],
                       w[2], w[2], w[2], w[2], w[3], w[3], w[3], w[3]};
  const __m512 all = weights * columns[0];
  const __m256 sums = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
  return _mm256_castps256_ps128(sums) + _mm256_extractf128_ps(sums, 1);
}
#include "kernel.h"
}  // namespace fasti3d::tvl1::avx512
FASTI3D_TARGET_END
#endif
