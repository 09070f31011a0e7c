// conv3d's inner loops: NEON, 6 pixels x 16 channels in 24 of 32 registers.
#include "../common/target.h"
#include "winograd.h"

#if defined(__aarch64__)
FASTI3D_NO_SCHEDULING
namespace fasti3d::neon {
constexpr int kLanes = 4, kRows = 6, kMaxPanels = 1;
#include "kernel.h"
}  // namespace fasti3d::neon
#endif
