// The solver in thread-block clusters, with every operation rounded.
#include "cuda_cluster.h"

namespace fasti3d::tvl1 {

template <>
Kernel cluster_kernel<Exact>(int components) {
  return components == 2 ? _tvl1_cluster_kernel<Exact, 2> : _tvl1_cluster_kernel<Exact, 3>;
}

}  // namespace fasti3d::tvl1
