// The rows of TV-L1: 4 lanes, which SSE2 and NEON have.
#include "../common/target.h"
#include "rows.h"

FASTI3D_NO_CONTRACTION
namespace fasti3d::tvl1::baseline {
constexpr int kLanes = 4;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
inline Vector root(Vector v) {
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
#include "kernel.h"
}  // namespace fasti3d::tvl1::baseline
