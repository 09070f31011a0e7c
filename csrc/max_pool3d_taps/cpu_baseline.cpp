// The max-pool's kernels with taps compiled for baseline.
#include <algorithm>

#include "../common/target.h"
#include "taps.h"

namespace fasti3d::baseline {
constexpr int kLanes = 4;
#include "../common/lanes.h"
#include "kernel.h"
}  // namespace fasti3d::baseline
