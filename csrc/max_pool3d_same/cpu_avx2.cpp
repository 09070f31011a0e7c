// The max-pool kernel compiled for avx2.
#include "../common/target.h"
#include "pool.h"

#if defined(__x86_64__)
FASTI3D_TARGET_BEGIN("avx2,fma")
namespace fasti3d::avx2 {
using Single = int32_t;
#include "kernel.h"
}  // namespace fasti3d::avx2
FASTI3D_TARGET_END
#endif
