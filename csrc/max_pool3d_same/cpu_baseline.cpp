// The max-pool kernel compiled for baseline.
#include "../common/target.h"
#include "pool.h"

namespace fasti3d::baseline {
using Single = int32_t;
#include "kernel.h"
}  // namespace fasti3d::baseline
