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
typedef int32_t Whole __attribute__((vector_size(kLanes * sizeof(int32_t))));
inline Vector root(Vector v) { return _mm256_sqrt_ps(v); }
inline unsigned lanes(Whole mask) { return _mm256_movemask_ps((__m256)mask); }
#include "kernel.h"
}  // namespace fasti3d::tvl1::avx2
FASTI3D_TARGET_END
#endif
