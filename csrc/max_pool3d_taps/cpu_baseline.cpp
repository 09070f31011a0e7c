// The max-pool's kernels with taps compiled for baseline.
#include <algorithm>

#include "../common/target.h"
#include "taps.h"

namespace fasti3d::baseline {
constexpr int kWidth = 4;
#include "kernel.h"
}  // namespace fasti3d::baseline
