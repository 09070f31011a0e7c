// conv3d's inner loops: 4 lanes, which SSE2 (16 registers) and NEON (32) have.
#include "../common/target.h"
#include "winograd.h"

namespace fasti3d::baseline {
#if defined(__aarch64__)
constexpr int kLanes = 4, kRows = 6, kMaxPanels = 1;
#else
constexpr int kLanes = 4, kRows = 2, kMaxPanels = 1;
#endif
#include "kernel.h"
}  // namespace fasti3d::baseline
