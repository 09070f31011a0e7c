// A warp or warpgroup on the GPU, as roles.h asks for it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "../sm90/block.h"
#include "../sm90/products.h"
#include "../sm90/results.h"
#include "plan.h"

namespace fasti3d::pooled_conv3d_slab {

struct Arguments {
  Plan plan;
  const char* weight;
  Results results;
};

class Loader : public Warp {
 public:
  __device__ Loader(const CUtensorMap& map, const Arguments& arguments, char* memory)
      : Warp(map, memory), arguments_(arguments) {}

  __device__ int block() const { return blockIdx.x; }
  __device__ int blocks() const { return gridDim.x; }

  __device__ __forceinline__ void load_weights(int full, int to, int64_t from, int bytes) const {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(address(to)),
        "l"(arguments_.weight + from), "r"(bytes), "r"(address(full))
        : "memory");
  }

 protected:
  const Arguments& arguments_;
};

// A warpgroup that pools, multiplies and writes.
template <int kRowBlocks, int kColumns, bool kBfloat>
class Warpgroup : public Loader {
 public:
  using Loader::Loader;
  using Values = uint4;

  __device__ static constexpr int row_blocks() { return kRowBlocks; }

  template <class F>
  __device__ __forceinline__ void each_thread(const F& work) const {
    work(threadIdx.x % kWarpgroup);
    __syncwarp();
  }
  __device__ __forceinline__ Values read(int at) const {
    return *reinterpret_cast<const Values*>(memory_ + at);
  }
  __device__ __forceinline__ void write(int at, Values values) const {
    *reinterpret_cast<Values*>(memory_ + at) = values;
  }
  // Of NaN and a number it is NaN, as torch has it.
  static __device__ __forceinline__ Values max(Values a, Values b) {
    return {max(a.x, b.x), max(a.y, b.y), max(a.z, b.z), max(a.w, b.w)};
  }

  __device__ __forceinline__ void meet(int consumer) const { meet_warpgroup(consumer); }
  // What threads wrote, to products.
  __device__ __forceinline__ void hand_over(int consumer) const {
    hand_over_memory();
    meet_warpgroup(consumer);
  }

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int row = 0; row < kRowBlocks; ++row) keep(sums_[row]);
    begin_products(sums_[0]);
  }
  __device__ __forceinline__ void multiply(int row, uint64_t weights, uint64_t pooled,
                                           bool accumulate) {
    product<kColumns, kBfloat>(sums_[row], weights, pooled, accumulate);
  }
  __device__ __forceinline__ void commit() { commit_products(); }
  __device__ __forceinline__ void wait_for_products() {
    sm90::wait_for_products<0>();
#pragma unroll
    for (int row = 0; row < kRowBlocks; ++row) keep(sums_[row]);
  }

  __device__ __forceinline__ void write_results(const Plan& p, const Place& place, int consumer) {
#pragma unroll
    for (int row = 0; row < kRowBlocks; ++row) {
      sm90::write_results<kBfloat>(
          sums_[row], arguments_.results, row * kRows, p.problem.out_channels,
          reinterpret_cast<float*>(memory_ + p.pass_at(consumer)), consumer,
          [&](int column) { return p.output(place, consumer, column); });
    }
  }

 private:
  static __device__ __forceinline__ uint32_t max(uint32_t a, uint32_t b) {
    uint32_t larger;
    if constexpr (kBfloat) {
      asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    } else {
      asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    }
    return larger;
  }

  float sums_[kRowBlocks][kColumns / 2] = {};
};

}  // namespace fasti3d::pooled_conv3d_slab
