// conv3d's inner loops: AVX-512, 14 pixels x 32 channels in 28 of 32 registers.
#include "../common/target.h"
#include "winograd.h"

#if defined(__x86_64__)
// prefetchw does nothing where a CPU does not have it.
FASTI3D_TARGET_512_BEGIN("prfchw,avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace fasti3d::avx512 {
constexpr int kLanes = 16, kRows = 14, kMaxPanels = 2;
#include "kernel.h"
}  // namespace fasti3d::avx512
FASTI3D_TARGET_END
#endif
