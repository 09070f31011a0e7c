// The kernel of the solver in groups of blocks.
#pragma once

#include "cuda_block.h"
#include "cuda_kernels.h"
#include "cuda_plan.h"
#include "cuda_solver.h"
#include "cuda_sweep.h"

namespace fasti3d::tvl1 {

// Two blocks per SM, of different groups where there are several: one computes while the
// other waits. With the illumination term the registers only suffice for one.
template <class V, int kComponents>
__global__ void __launch_bounds__(kThreads, kComponents == 2 ? 2 : 1)
    _tvl1_kernel(const __grid_constant__ Task task, Queue* queue, GroupState* groups) {
  using GroupSolver = Solver<Sweeper, GroupBlock, V, kComponents>;
  __shared__ typename GroupSolver::Shared shared;
  GroupBlock block(queue, groups);
  GroupSolver(block, shared, task).run();
}

}  // namespace fasti3d::tvl1
