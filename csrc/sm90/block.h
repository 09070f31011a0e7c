// Barriers and copies of a block of threads, as its warps use them.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace fasti3d::sm90 {

class Warp {
 public:
  // `memory`: of the block, aligned as tensor maps want it.
  __device__ Warp(const CUtensorMap& map, char* memory)
      : map_(map),
        memory_(memory),
        address_(static_cast<uint32_t>(__cvta_generic_to_shared(memory))) {}

  __device__ uint32_t address(int offset) const { return address_ + offset; }

  __device__ __forceinline__ void start(int barrier, int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(arrivals)
                 : "memory");
  }

  // Until a phase of this parity is over. Threads hand nothing that they wrote over to each other
  // at barriers, only memory that copies write and products read: that takes no fence across the
  // cluster.
  __device__ __forceinline__ void wait(int barrier, unsigned parity) const {
    unsigned done;
    do {
      asm volatile(
          "{\n"
          ".reg .pred done;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n"
          "}"
          : "=r"(done)
          : "r"(address(barrier)), "r"(parity)
          : "memory");
    } while (!done);
  }

  __device__ __forceinline__ void expect(int barrier, int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)),
                 "r"(bytes)
                 : "memory");
  }

  __device__ __forceinline__ void load_box(int full, int to, int, int c, int w, int h, int t,
                                           int n) const {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(address(to)),
        "l"(&map_), "r"(c), "r"(w), "r"(h), "r"(t), "r"(n), "r"(address(full))
        : "memory");
  }

  // Of a warp.
  __device__ __forceinline__ void arrive(int barrier) const {
    if (threadIdx.x % 32 != 0) return;
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
  }

 protected:
  const CUtensorMap& map_;
  char* const memory_;
  const uint32_t address_;
};

// Products, and copies, come past the caches that threads write through: what was written is theirs
// after this and a barrier.
__device__ __forceinline__ void hand_over_memory() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The warpgroups that multiply meet by themselves.
__device__ __forceinline__ void meet_warpgroup(int consumer) {
  asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");
}

}  // namespace fasti3d::sm90
