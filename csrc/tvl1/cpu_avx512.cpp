// The rows of TV-L1: AVX-512.
#if defined(__x86_64__)
// GCC 12 warns of its own intrinsics' undefined operands (GCC PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
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
typedef int32_t Whole __attribute__((vector_size(kLanes * sizeof(int32_t))));
inline Vector root(Vector v) { return _mm512_sqrt_ps(v); }
inline unsigned lanes(Whole mask) { return _mm512_movepi32_mask((__m512i)mask); }
#include "kernel.h"
}  // namespace fasti3d::tvl1::avx512
FASTI3D_TARGET_END
#endif
