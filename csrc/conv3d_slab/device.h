// A warp or warpgroup on the GPU, as roles.h asks for it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "plan.h"

namespace fasti3d::conv3d_slab {

struct Arguments {
  Plan plan;
  const char* weight;
  const float* bias;
  uint16_t* out;
  const uint16_t* residual;  // null if there is none
  // Of n, t, h, w, in values.
  int64_t out_strides[4], residual_strides[4];
  bool relu;
};

// Waits for all threads of the cluster, and makes what they wrote before visible after.
__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Barriers and copies.
class Warp {
 public:
  // `memory`: of the block, aligned as tensor maps want it.
  __device__ Warp(const CUtensorMap& map, const Arguments& arguments, char* memory)
      : arguments_(arguments),
        map_(map),
        memory_(memory),
        address_(static_cast<uint32_t>(__cvta_generic_to_shared(memory))) {}

  __device__ int cluster() const { return blockIdx.x / kCluster; }
  __device__ int clusters() const { return gridDim.x / kCluster; }
  __device__ int rank() const { return blockIdx.x % kCluster; }
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
  const CUtensorMap& map_;
  char* const memory_;
  const uint32_t address_;
};

// The texts and operands of as many accumulators as a product of 8 columns has per thread.
#define FASTI3D_NAMES_4(a, b, c, d) "%" #a ",%" #b ",%" #c ",%" #d
#define FASTI3D_NAMES_32(a, b, c, d, e, f, g, h) a "," b "," c "," d "," e "," f "," g "," h
#define FASTI3D_NAMES_0_31                                                           \
  FASTI3D_NAMES_32(FASTI3D_NAMES_4(0, 1, 2, 3), FASTI3D_NAMES_4(4, 5, 6, 7),         \
                   FASTI3D_NAMES_4(8, 9, 10, 11), FASTI3D_NAMES_4(12, 13, 14, 15),   \
                   FASTI3D_NAMES_4(16, 17, 18, 19), FASTI3D_NAMES_4(20, 21, 22, 23), \
                   FASTI3D_NAMES_4(24, 25, 26, 27), FASTI3D_NAMES_4(28, 29, 30, 31))
#define FASTI3D_NAMES_32_63                                                          \
  FASTI3D_NAMES_32(FASTI3D_NAMES_4(32, 33, 34, 35), FASTI3D_NAMES_4(36, 37, 38, 39), \
                   FASTI3D_NAMES_4(40, 41, 42, 43), FASTI3D_NAMES_4(44, 45, 46, 47), \
                   FASTI3D_NAMES_4(48, 49, 50, 51), FASTI3D_NAMES_4(52, 53, 54, 55), \
                   FASTI3D_NAMES_4(56, 57, 58, 59), FASTI3D_NAMES_4(60, 61, 62, 63))
#define FASTI3D_NAMES_64_95                                                          \
  FASTI3D_NAMES_32(FASTI3D_NAMES_4(64, 65, 66, 67), FASTI3D_NAMES_4(68, 69, 70, 71), \
                   FASTI3D_NAMES_4(72, 73, 74, 75), FASTI3D_NAMES_4(76, 77, 78, 79), \
                   FASTI3D_NAMES_4(80, 81, 82, 83), FASTI3D_NAMES_4(84, 85, 86, 87), \
                   FASTI3D_NAMES_4(88, 89, 90, 91), FASTI3D_NAMES_4(92, 93, 94, 95))
#define FASTI3D_NAMES_96_103 FASTI3D_NAMES_4(96, 97, 98, 99) "," FASTI3D_NAMES_4(100, 101, 102, 103)
#define FASTI3D_NAMES_104_115         \
  FASTI3D_NAMES_4(104, 105, 106, 107) \
  "," FASTI3D_NAMES_4(108, 109, 110, 111) "," FASTI3D_NAMES_4(112, 113, 114, 115)
#define FASTI3D_NAMES_64 FASTI3D_NAMES_0_31
#define FASTI3D_NAMES_128 FASTI3D_NAMES_0_31 "," FASTI3D_NAMES_32_63
#define FASTI3D_NAMES_208 FASTI3D_NAMES_128 "," FASTI3D_NAMES_64_95 "," FASTI3D_NAMES_96_103
#define FASTI3D_NAMES_216 FASTI3D_NAMES_208 "," FASTI3D_NAMES_4(104, 105, 106, 107)
#define FASTI3D_NAMES_232 FASTI3D_NAMES_208 "," FASTI3D_NAMES_104_115

#define FASTI3D_CELLS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FASTI3D_CELLS_8(i) FASTI3D_CELLS_4(i), FASTI3D_CELLS_4(i + 4)
#define FASTI3D_CELLS_32(i) \
  FASTI3D_CELLS_8(i), FASTI3D_CELLS_8(i + 8), FASTI3D_CELLS_8(i + 16), FASTI3D_CELLS_8(i + 24)
#define FASTI3D_CELLS_64 FASTI3D_CELLS_32(0)
#define FASTI3D_CELLS_128 FASTI3D_CELLS_64, FASTI3D_CELLS_32(32)
#define FASTI3D_CELLS_208 FASTI3D_CELLS_128, FASTI3D_CELLS_32(64), FASTI3D_CELLS_8(96)
#define FASTI3D_CELLS_216 FASTI3D_CELLS_208, FASTI3D_CELLS_4(104)
#define FASTI3D_CELLS_232 FASTI3D_CELLS_208, FASTI3D_CELLS_8(104), FASTI3D_CELLS_4(112)

// 64 rows of weights times columns of positions, K = 16, added to the accumulators if `accumulate`.
// Both matrices lie along K; a, b and the predicate are the operands after the accumulators.
#define FASTI3D_PRODUCT(columns, type, a, b, p)                             \
  asm volatile(                                                             \
      "{\n"                                                                 \
      ".reg .pred accumulate;\n"                                            \
      "setp.ne.b32 accumulate, " p                                          \
      ", 0;\n"                                                              \
      "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type \
      " {" FASTI3D_NAMES_##columns "}, " a ", " b                           \
                                   ", accumulate, 1, 1, 0, 0;\n"            \
                                   "}"                                      \
      : FASTI3D_CELLS_##columns                                             \
      : "l"(weights), "l"(positions), "r"(static_cast<int>(accumulate)))

// The accumulators of a thread and the products that they come of; kBfloat: bfloat16, else float16.
template <int kColumns, bool kBfloat>
__device__ __forceinline__ void product(float (&d)[kColumns / 2], uint64_t weights,
                                        uint64_t positions, bool accumulate);

#define FASTI3D_DEFINE_PRODUCT(columns, a, b, p)                                        \
  template <>                                                                           \
  __device__ __forceinline__ void product<columns, false>(                              \
      float (&d)[columns / 2], uint64_t weights, uint64_t positions, bool accumulate) { \
    FASTI3D_PRODUCT(columns, "f16", a, b, p);                                           \
  }                                                                                     \
  template <>                                                                           \
  __device__ __forceinline__ void product<columns, true>(                               \
      float (&d)[columns / 2], uint64_t weights, uint64_t positions, bool accumulate) { \
    FASTI3D_PRODUCT(columns, "bf16", a, b, p);                                          \
  }

FASTI3D_DEFINE_PRODUCT(64, "%32", "%33", "%34")
FASTI3D_DEFINE_PRODUCT(128, "%64", "%65", "%66")
FASTI3D_DEFINE_PRODUCT(208, "%104", "%105", "%106")
FASTI3D_DEFINE_PRODUCT(216, "%108", "%109", "%110")
FASTI3D_DEFINE_PRODUCT(232, "%116", "%117", "%118")

// A warpgroup that multiplies and writes.
template <int kColumns, bool kBfloat>
class Warpgroup : public Warp {
 public:
  using Warp::Warp;

  // What was written to the accumulators before comes before the products that follow.
  __device__ __forceinline__ void begin() {
    keep();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  __device__ __forceinline__ void multiply(uint64_t weights, uint64_t positions, bool accumulate) {
    product<kColumns, kBfloat>(sums_, weights, positions, accumulate);
  }
  __device__ __forceinline__ void commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }
  // Until at most so many groups of products are under way: 0 or 1.
  __device__ __forceinline__ void wait_for_products(int left) {
    if (left == 0) {
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      keep();
    } else {
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
  }

  __device__ __forceinline__ void arrive(int barrier) const {
    if (threadIdx.x % 32 != 0) return;
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
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

  // The sums with bias, residual and ReLU, 8 channels of a pixel at a time.
  __device__ __forceinline__ void write(const Plan& p, const Place& place, int consumer, int row,
                                        int along) {
    const int thread = threadIdx.x % kWarpgroup;
    const Cell share = pass_share(thread);
    const int channel = (place.row + row) * kRows + share.row;
    const bool has_channel = channel < p.problem.out_channels;
    float bias[kGroup];
#pragma unroll
    for (int k = 0; k < kGroup; ++k) bias[k] = has_channel ? arguments_.bias[channel + k] : 0.0f;
    float* const pass = reinterpret_cast<float*>(memory_ + p.pass_at(consumer));
#pragma unroll
    for (int first = 0; first < kColumns; first += kPass) {
      meet(consumer);
#pragma unroll
      for (int i = first / 2; i < first / 2 + kPassRegisters && i < kColumns / 2; ++i) {
        pass[pass_place(accumulator_cell(thread, i))] = sums_[i];
      }
      meet(consumer);
      const Output out = p.output(place, along, first + share.column);
      if (!has_channel || !out.exists || first + share.column >= kColumns) continue;
      float values[kGroup];
      const float4* const from =
          reinterpret_cast<const float4*>(pass + share.column * kPassPitch + share.row);
      *reinterpret_cast<float4*>(values) = from[0];
      *reinterpret_cast<float4*>(values + 4) = from[1];
      finish(out, channel, bias, values);
    }
  }

 private:
  // Keeps the compiler from moving accumulators across.
  __device__ __forceinline__ void keep() {
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) asm volatile("" : "+f"(sums_[i])::"memory");
  }

  __device__ __forceinline__ void meet(int consumer) const {
    asm volatile("bar.sync %0, %1;" ::"r"(consumer + 1), "n"(kWarpgroup) : "memory");
  }

  __device__ __forceinline__ void finish(const Output& out, int channel,
                                         const float (&bias)[kGroup],
                                         float (&values)[kGroup]) const {
    const auto place = [&](const int64_t (&strides)[4]) {
      return out.n * strides[0] + out.t * strides[1] + out.h * strides[2] + out.w * strides[3] +
             channel;
    };
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] += bias[k];
    if (arguments_.residual != nullptr) {
      const uint4 more =
          *reinterpret_cast<const uint4*>(arguments_.residual + place(arguments_.residual_strides));
      const uint32_t words[4] = {more.x, more.y, more.z, more.w};
#pragma unroll
      for (int k = 0; k < kGroup; ++k) values[k] += value_of(words[k / 2] >> 16 * (k % 2));
    }
    if (arguments_.relu) {
#pragma unroll
      for (int k = 0; k < kGroup; ++k)
        values[k] = values[k] < 0.0f ? 0.0f : values[k];  // keeps NaN
    }
    uint4 result;
    result.x = rounded(values[0], values[1]);
    result.y = rounded(values[2], values[3]);
    result.z = rounded(values[4], values[5]);
    result.w = rounded(values[6], values[7]);
    *reinterpret_cast<uint4*>(arguments_.out + place(arguments_.out_strides)) = result;
  }

  // Of the lower half of a word.
  static __device__ __forceinline__ float value_of(uint32_t word) {
    if constexpr (kBfloat) return __uint_as_float(word << 16);
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(word)));
    return value;
  }
  static __device__ __forceinline__ uint32_t rounded(float low, float high) {
    uint32_t word;
    if constexpr (kBfloat) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    } else {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    }
    return word;
  }

  float sums_[kColumns / 2] = {};
};

}  // namespace fasti3d::conv3d_slab
