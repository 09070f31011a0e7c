// A thread block on the GPU, as cuda_solver.h asks for it, but for how it meets others: see
// cuda_groups.h and cuda_cluster.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda_plan.h"
#include "cuda_state.h"

namespace fasti3d::tvl1 {

// In device memory: what the blocks of a group share, and what all groups share.
struct alignas(128) GroupState {
  unsigned arrivals;  // at meetings, of all blocks together
  unsigned long long pair;
};
struct alignas(128) Queue {
  unsigned long long next;
};

// What does not depend on how blocks meet. The grid is (blocks of a group, groups).
template <int kBlockThreads>
class DeviceBlock {
 public:
  template <class T>
  struct Registers {
    T own;
  };

  __device__ int group() const { return blockIdx.y; }
  __device__ int index() const { return blockIdx.x; }
  __device__ int count() const { return gridDim.x; }

  template <class F>
  __device__ __forceinline__ void each(int n, F f) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += kBlockThreads) f(i);
    __syncthreads();
  }
  template <class F>
  __device__ __forceinline__ void share(int n, F f) const {
    const unsigned step = count() * kBlockThreads;
#pragma unroll 1
    for (unsigned i = index() * kBlockThreads + threadIdx.x; i < n; i += step) {
      f(static_cast<int>(i));
    }
  }
  // What get finds in the registers of the thread to the left or right in the warp; the outermost
  // thread gets its own. The whole warp must call it.
  template <class T, class F>
  __device__ __forceinline__ auto from_left(Registers<T>& registers, int, F get) const {
    auto value = get(registers.own);
    value.value = __shfl_up_sync(~0u, value.value, 1);
    return value;
  }
  template <class T, class F>
  __device__ __forceinline__ auto from_right(Registers<T>& registers, int, F get) const {
    auto value = get(registers.own);
    value.value = __shfl_down_sync(~0u, value.value, 1);
    return value;
  }
  // Bypasses the L1 cache: a sweep reads these values once.
  __device__ __forceinline__ Two load(const Two* from) const {
    const float2 value = __ldcg(reinterpret_cast<const float2*>(from));
    return {value.x, value.y};
  }

 protected:
  __device__ DeviceBlock(Queue* queue, GroupState* groups)
      : queue_(queue), state_(groups + blockIdx.y) {}

  Queue* const queue_;
  GroupState* const state_;
};

}  // namespace fasti3d::tvl1
