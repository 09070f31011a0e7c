// The batch norm's kernels compiled for baseline.
#include <algorithm>

#include "../common/target.h"
#include "norm.h"

namespace fasti3d::baseline {
#include "kernel.h"
}  // namespace fasti3d::baseline
