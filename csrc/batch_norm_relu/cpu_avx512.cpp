// The batch norm's kernels compiled for AVX-512.
#include <algorithm>

#include "../common/target.h"
#include "norm.h"

#if defined(__x86_64__)
FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")
namespace fasti3d::avx512 {
#include "kernel.h"
}  // namespace fasti3d::avx512
FASTI3D_TARGET_END
#endif
