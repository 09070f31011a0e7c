// The solver in groups of blocks, with fused operations.
#include "cuda_groups.h"

namespace fasti3d::tvl1 {

template <>
Kernel group_kernel<Fast>(int components) {
  return components == 2 ? _tvl1_kernel<Fast, 2> : _tvl1_kernel<Fast, 3>;
}

}  // namespace fasti3d::tvl1
