// The kernel of the solver in thread-block clusters, and how their blocks exchange what they need.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda_block.h"
#include "cuda_kernels.h"
#include "cuda_plan.h"
#include "cuda_resident.h"
#include "cuda_solver.h"

namespace fasti3d::tvl1 {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// Blocks of a cluster are beside each other, and reach each other's shared memory.
class ClusterBlock : public DeviceBlock<kResidentThreads> {
 public:
  // Of the block, in shared memory: one for every exchange that may be under way.
  using Barriers = uint64_t[kExchanges];

  __device__ ClusterBlock(Queue* queue, GroupState* groups, Barriers& barriers)
      : DeviceBlock(queue, groups), barriers_(shared_address(barriers)) {
    if (threadIdx.x > 0) return;
    for (unsigned i = 0; i < kExchanges; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier(i)) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }

  // The other blocks know of the barriers from the first meeting on, in next_pair().
  __device__ void meet() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
  }

  __device__ int64_t next_pair() {
    if (index() == 0 && threadIdx.x == 0) state_->pair = atomicAdd(&queue_->next, 1ull);
    meet();
    return static_cast<int64_t>(state_->pair);
  }

  // Calls f on every thread, as threads() does, but without a barrier.
  template <class T, class F>
  __device__ __forceinline__ void step(Registers<T>& registers, F f) const {
    f(static_cast<int>(threadIdx.x), registers.own);
  }
  // Calls f on every thread, and result(warp, sum of what f returned) once per warp.
  template <class T, class F, class Result>
  __device__ __forceinline__ void sums(Registers<T>& registers, F f, Result result) const {
    const double sum = sum_of_warp(f(static_cast<int>(threadIdx.x), registers.own));
    if (threadIdx.x % kWarpSize == 0) result(static_cast<int>(threadIdx.x / kWarpSize), sum);
  }
  // The sum of term(0) to term(n - 1), n <= 32, for every thread of a warp, which must be whole.
  template <class Term>
  __device__ __forceinline__ double sum(int n, Term term) const {
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    return sum_of_warp(lane < n ? term(lane) : 0.0);
  }

  // Writes a value of 8 or 16 bytes to a block's copy of a place in shared memory.
  template <class T>
  __device__ __forceinline__ void send(int rank, T* to, T value) const {
    static_assert(sizeof(T) == 8 || sizeof(T) == 16);
    if (rank == index()) {
      *to = value;
      return;
    }
    const unsigned place = beside(shared_address(*to), rank), told = beside(barrier(turn()), rank);
    unsigned long long words[sizeof(T) / 8];
    memcpy(words, &value, sizeof(T));
    if constexpr (sizeof(T) == 8) {
      asm volatile(
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(place),
          "l"(words[0]), "r"(told)
          : "memory");
    } else {
      asm volatile(
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%0], {%1, %2}, [%3];" ::
              "r"(place),
          "l"(words[0]), "l"(words[1]), "r"(told)
          : "memory");
    }
  }

  // Waits for the block's threads, and for so many bytes from other blocks.
  __device__ __forceinline__ void exchange(int bytes) {
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier(turn())),
                   "r"(bytes)
                   : "memory");
    }
    __syncthreads();
    const unsigned parity = exchanges_ / kExchanges % 2;
    unsigned done;
    do {
      asm volatile(
          "{\n"
          ".reg .pred done;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n"
          "}"
          : "=r"(done)
          : "r"(barrier(turn())), "r"(parity)
          : "memory");
    } while (!done);
    ++exchanges_;
  }
  // Which of the exchanges under way the next one is.
  __device__ int turn() const { return static_cast<int>(exchanges_ % kExchanges); }

 private:
  template <class T>
  __device__ static unsigned shared_address(T& place) {
    return static_cast<unsigned>(__cvta_generic_to_shared(&place));
  }
  __device__ static unsigned beside(unsigned address, int rank) {
    unsigned result;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(result) : "r"(address), "r"(rank));
    return result;
  }
  __device__ unsigned barrier(unsigned i) const { return barriers_ + i * 8; }

  // In an order that depends on nothing.
  __device__ static double sum_of_warp(double value) {
#pragma unroll
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(~0u, value, distance);
    }
    return value;
  }

  const unsigned barriers_;
  unsigned exchanges_ = 0;
};

#endif

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
