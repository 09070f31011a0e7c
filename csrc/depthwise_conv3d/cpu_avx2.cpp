// The depthwise convolution for AVX2.
#include "../common/target.h"
#include "depthwise.h"

#if defined(__x86_64__)
FASTI3D_TARGET_BEGIN("avx2,fma")
namespace fasti3d::avx2 {
constexpr int kLanes = 8, kMaxPixels = 4;
#include "../common/lanes.h"
#include "kernel.h"
}  // namespace fasti3d::avx2
FASTI3D_TARGET_END
#endif
