// The depthwise convolution for AVX-512.
#include "../common/target.h"
#include "depthwise.h"

#if defined(__x86_64__)
FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")
namespace fasti3d::avx512 {
constexpr int kLanes = 16, kMaxPixels = 8;
#include "../common/lanes.h"
#include "kernel.h"
}  // namespace fasti3d::avx512
FASTI3D_TARGET_END
#endif
