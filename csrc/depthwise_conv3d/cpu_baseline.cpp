// The depthwise convolution for 4 lanes, which SSE2 and NEON have.
#include "../common/target.h"
#include "depthwise.h"

namespace fasti3d::baseline {
constexpr int kLanes = 4, kMaxPixels = 4;
#include "../common/lanes.h"
#include "kernel.h"
}  // namespace fasti3d::baseline
