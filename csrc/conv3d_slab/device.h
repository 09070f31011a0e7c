// A warp or warpgroup on the GPU, as roles.h asks for it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "../sm90/block.h"
#include "../sm90/products.h"
#include "../sm90/results.h"
#include "plan.h"

namespace fasti3d::conv3d_slab {

struct Arguments {
  Plan plan;
  const char* weight;
  Results results;
};

// Waits for all threads of the cluster, and makes what they wrote before visible after.
__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Barriers and copies.
class Loader : public Warp {
 public:
  __device__ Loader(const CUtensorMap& map, const Arguments& arguments, char* memory)
      : Warp(map, memory), arguments_(arguments) {}

  __device__ int cluster() const { return blockIdx.x / kCluster; }
  __device__ int clusters() const { return gridDim.x / kCluster; }
  __device__ int rank() const { return blockIdx.x % kCluster; }

  // To the same place of all blocks of the cluster.
  __device__ __forceinline__ void load_for_both(int full, int to, int64_t from, int bytes) const {
    const uint16_t all = (1 << kCluster) - 1;
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;" ::"r"(address(to)),
        "l"(arguments_.weight + from), "r"(bytes), "r"(address(full)), "h"(all)
        : "memory");
  }

 protected:
  const Arguments& arguments_;
};

// A warpgroup that multiplies and writes.
template <int kColumns, bool kBfloat>
class Warpgroup : public Loader {
 public:
  using Loader::Loader;

  __device__ __forceinline__ void begin() { begin_products(sums_); }
  __device__ __forceinline__ void multiply(uint64_t weights, uint64_t positions, bool accumulate) {
    product<kColumns, kBfloat>(sums_, weights, positions, accumulate);
  }
  __device__ __forceinline__ void commit() { commit_products(); }
  // Until at most so many groups of products are under way: 0 or 1.
  __device__ __forceinline__ void wait_for_products(int left) {
    if (left == 0) {
      sm90::wait_for_products<0>();
      keep(sums_);
    } else {
      sm90::wait_for_products<1>();
    }
  }

  // At the barriers in this place of all blocks of the cluster.
  __device__ __forceinline__ void arrive_at_both(int barrier) const {
    if (threadIdx.x % 32 >= kCluster) return;
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(address(barrier)),
        "r"(threadIdx.x % 32)
        : "memory");
  }

  __device__ __forceinline__ void write(const Plan& p, const Place& place, int consumer, int row,
                                        int along) {
    write_results<kBfloat>(sums_, arguments_.results, (place.row + row) * kRows,
                           p.problem.out_channels,
                           reinterpret_cast<float*>(memory_ + p.pass_at(consumer)), consumer,
                           [&](int column) { return p.output(place, along, column); });
  }

 private:
  float sums_[kColumns / 2] = {};
};

}  // namespace fasti3d::conv3d_slab
