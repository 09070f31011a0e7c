// The kernel of the solver in groups of blocks, and how those meet.
#pragma once

#include <cstdint>
#include <cuda/atomic>

#include "cuda_block.h"
#include "cuda_kernels.h"
#include "cuda_plan.h"
#include "cuda_solver.h"
#include "cuda_sweep.h"

namespace fasti3d::tvl1 {

// Blocks of a group are anywhere on the GPU, all at the same time.
class GroupBlock : public DeviceBlock<kThreads> {
 public:
  __device__ GroupBlock(Queue* queue, GroupState* groups) : DeviceBlock(queue, groups) {}

  template <class T, class F>
  __device__ __forceinline__ void threads(Registers<T>& registers, F f) const {
    f(static_cast<int>(threadIdx.x), registers.own);
    __syncthreads();
  }

  // Waits for all blocks of the group, and makes what they wrote before visible after. Arrivals are
  // only ever counted up; all blocks come by equally often, so each knows what to wait for.
  __device__ void meet() {
    __syncthreads();
    expected_ += count();
    if (threadIdx.x == 0) {
      const cuda::atomic_ref<unsigned, cuda::thread_scope_device> arrivals(state_->arrivals);
      arrivals.fetch_add(1, cuda::memory_order_release);
      // The difference is right also where the counter has wrapped around. Waiting leaves the L1
      // cache to the other block on the SM; the fence empties it, once.
      while (static_cast<int>(arrivals.load(cuda::memory_order_relaxed) - expected_) < 0) {
      }
      cuda::atomic_thread_fence(cuda::memory_order_acquire, cuda::thread_scope_device);
    }
    __syncthreads();
  }

  // The next pair of the group; past the last when there are no more.
  __device__ int64_t next_pair() {
    if (index() == 0 && threadIdx.x == 0) state_->pair = atomicAdd(&queue_->next, 1ull);
    meet();
    return static_cast<int64_t>(state_->pair);
  }

 private:
  unsigned expected_ = 0;
};

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
