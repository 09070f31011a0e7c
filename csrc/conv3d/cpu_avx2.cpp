// conv3d's inner loops: AVX2, 6 pixels x 16 channels in 12 of 16 registers.
#include "../common/target.h"
#include "winograd.h"

#if defined(__x86_64__)
// prefetchw does nothing where a CPU does not have it.
FASTI3D_TARGET_BEGIN("prfchw,avx2,fma")
namespace fasti3d::avx2 {
constexpr int kLanes = 8, kRows = 6, kMaxPanels = 1;
#include "kernel.h"
}  // namespace fasti3d::avx2
FASTI3D_TARGET_END
#endif
