// The batch norm's kernels compiled for AVX2.
#include <algorithm>

#include "../common/target.h"
#include "norm.h"

#if defined(__x86_64__)
FASTI3D_TARGET_BEGIN("avx2,fma")
namespace fasti3d::avx2 {
#include "kernel.h"
}  // namespace fasti3d::avx2
FASTI3D_TARGET_END
#endif
