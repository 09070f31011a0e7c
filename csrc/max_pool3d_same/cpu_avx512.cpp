// The max-pool kernel compiled for AVX-512.
#include "../common/target.h"
#include "pool.h"

#if defined(__x86_64__)
FASTI3D_TARGET_512_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")
namespace fasti3d::avx512 {
using Single = int32_t;
#include "kernel.h"
}  // namespace fasti3d::avx512
FASTI3D_TARGET_END
#endif
