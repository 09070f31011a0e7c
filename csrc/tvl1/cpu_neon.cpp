// The rows of TV-L1: NEON.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../common/target.h"
#include "median_network.h"
#include "rows.h"

#if defined(__aarch64__)
FASTI3D_NO_CONTRACTION
namespace fasti3d::tvl1::neon {
constexpr int kLanes = 4;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Whole __attribute__((vector_size(kLanes * sizeof(int32_t))));
inline Vector root(Vector v) { return (Vector)vsqrtq_f32((float32x4_t)v); }
inline unsigned lanes(Whole mask) { return vaddvq_u32((uint32x4_t)mask & uint32x4_t{1, 2, 4, 8}); }
#include "kernel.h"
}  // namespace fasti3d::tvl1::neon
#endif
