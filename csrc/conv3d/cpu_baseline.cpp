// conv3d's inner loops: 4 lanes, which SSE2 and NEON have, 2 pixels x 16 channels in 8 registers.
#include "../common/target.h"
#include "winograd.h"

namespace fasti3d::baseline {
constexpr int kLanes = 4, kRows = 2, kMaxPanels = 1;
#include "kernel.h"
}  // namespace fasti3d::baseline
