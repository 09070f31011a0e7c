// The max-pool kernel compiled for baseline.
#include "../common/target.h"
#include "pool.h"

namespace fasti3d::baseline {
#include "kernel.h"
}  // namespace fasti3d::baseline
