// conv3d's inner loops: 4 lanes, which SSE2 and NEON have.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/target.h"
#include "conv.h"

namespace fasti3d::baseline {
constexpr int kLanes = 4, kRows = 4, kMaxPanels = 1;
#include "kernel.h"
}  // namespace fasti3d::baseline
