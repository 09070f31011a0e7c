// The solver in thread-block clusters, with fused operations.
#include "cuda_cluster.h"

namespace fasti3d::tvl1 {

template <>
Kernel cluster_kernel<Fast>(int components) {
  return components == 2 ? _tvl1_cluster_kernel<Fast, 2> : _tvl1_cluster_kernel<Fast, 3>;
}

}  // namespace fasti3d::tvl1
