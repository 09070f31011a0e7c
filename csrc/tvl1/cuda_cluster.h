// The kernel of the solver in thread-block clusters.
#pragma once

#include "cuda_block.h"
#include "cuda_kernels.h"
#include "cuda_plan.h"
#include "cuda_resident.h"
#include "cuda_solver.h"

namespace fasti3d::tvl1 {

// One block per SM.
template <class V, int kComponents>
__global__ void __launch_bounds__(kResidentThreads, 1)
    _tvl1_cluster_kernel(const __grid_constant__ Task task, Queue* queue, GroupState* groups) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using ClusterSolver = Solver<Resident, ClusterBlock, V, kComponents>;
  extern __shared__ __align__(16) char memory[];
  __shared__ ClusterBlock::Barriers barriers;
  ClusterBlock block(queue, groups, barriers);
  ClusterSolver(block, *reinterpret_cast<typename ClusterSolver::Shared*>(memory), task).run();
#endif
}

}  // namespace fasti3d::tvl1
