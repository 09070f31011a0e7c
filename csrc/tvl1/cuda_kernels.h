// The kernels of the CUDA solver. nvcc takes long for each, so that every design and arithmetic is
// a unit of its own, cuda_<design>_<arithmetic>.cu, and they compile side by side.
#pragma once

#include "cuda_block.h"
#include "cuda_state.h"
#include "cuda_value.h"

namespace fasti3d::tvl1 {

using Kernel = void (*)(Task, Queue*, GroupState*);

// For 2 components of the flow, or 3 with the illumination.
template <class V>
Kernel group_kernel(int components);
template <>
Kernel group_kernel<Exact>(int components);
template <>
Kernel group_kernel<Fast>(int components);

template <class V>
Kernel cluster_kernel(int components);
template <>
Kernel cluster_kernel<Exact>(int components);
template <>
Kernel cluster_kernel<Fast>(int components);

}  // namespace fasti3d::tvl1
