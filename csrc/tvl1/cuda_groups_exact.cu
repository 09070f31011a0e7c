// The solver in groups of blocks, with every operation rounded.
#include "cuda_groups.h"

namespace fasti3d::tvl1 {

template <>
Kernel group_kernel<Exact>(int components) {
  return components == 2 ? _tvl1_kernel<Exact, 2> : _tvl1_kernel<Exact, 3>;
}

}  // namespace fasti3d::tvl1
