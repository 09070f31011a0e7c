// wgmma's products of matrices in shared memory, of as many columns as kernels are compiled for.
#pragma once

#include <cstdint>

namespace fasti3d::sm90 {

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
#define FASTI3D_NAMES_24(a, b, c, d, e, f) a "," b "," c "," d "," e "," f
#define FASTI3D_NAMES_0_23                                                         \
  FASTI3D_NAMES_24(FASTI3D_NAMES_4(0, 1, 2, 3), FASTI3D_NAMES_4(4, 5, 6, 7),       \
                   FASTI3D_NAMES_4(8, 9, 10, 11), FASTI3D_NAMES_4(12, 13, 14, 15), \
                   FASTI3D_NAMES_4(16, 17, 18, 19), FASTI3D_NAMES_4(20, 21, 22, 23))
#define FASTI3D_NAMES_32_55                                                          \
  FASTI3D_NAMES_24(FASTI3D_NAMES_4(32, 33, 34, 35), FASTI3D_NAMES_4(36, 37, 38, 39), \
                   FASTI3D_NAMES_4(40, 41, 42, 43), FASTI3D_NAMES_4(44, 45, 46, 47), \
                   FASTI3D_NAMES_4(48, 49, 50, 51), FASTI3D_NAMES_4(52, 53, 54, 55))
#define FASTI3D_NAMES_56 FASTI3D_NAMES_0_23 "," FASTI3D_NAMES_4(24, 25, 26, 27)
#define FASTI3D_NAMES_64 FASTI3D_NAMES_0_31
#define FASTI3D_NAMES_112 FASTI3D_NAMES_64 "," FASTI3D_NAMES_32_55
#define FASTI3D_NAMES_128 FASTI3D_NAMES_0_31 "," FASTI3D_NAMES_32_63
#define FASTI3D_NAMES_200 \
  FASTI3D_NAMES_128 "," FASTI3D_NAMES_64_95 "," FASTI3D_NAMES_4(96, 97, 98, 99)
#define FASTI3D_NAMES_208 FASTI3D_NAMES_128 "," FASTI3D_NAMES_64_95 "," FASTI3D_NAMES_96_103
#define FASTI3D_NAMES_216 FASTI3D_NAMES_208 "," FASTI3D_NAMES_4(104, 105, 106, 107)
#define FASTI3D_NAMES_224 FASTI3D_NAMES_216 "," FASTI3D_NAMES_4(108, 109, 110, 111)
#define FASTI3D_NAMES_232 FASTI3D_NAMES_208 "," FASTI3D_NAMES_104_115

#define FASTI3D_CELLS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FASTI3D_CELLS_8(i) FASTI3D_CELLS_4(i), FASTI3D_CELLS_4(i + 4)
#define FASTI3D_CELLS_32(i) \
  FASTI3D_CELLS_8(i), FASTI3D_CELLS_8(i + 8), FASTI3D_CELLS_8(i + 16), FASTI3D_CELLS_8(i + 24)
#define FASTI3D_CELLS_56 \
  FASTI3D_CELLS_8(0), FASTI3D_CELLS_8(8), FASTI3D_CELLS_8(16), FASTI3D_CELLS_4(24)
#define FASTI3D_CELLS_64 FASTI3D_CELLS_32(0)
#define FASTI3D_CELLS_112 \
  FASTI3D_CELLS_64, FASTI3D_CELLS_8(32), FASTI3D_CELLS_8(40), FASTI3D_CELLS_8(48)
#define FASTI3D_CELLS_128 FASTI3D_CELLS_64, FASTI3D_CELLS_32(32)
#define FASTI3D_CELLS_200 FASTI3D_CELLS_128, FASTI3D_CELLS_32(64), FASTI3D_CELLS_4(96)
#define FASTI3D_CELLS_208 FASTI3D_CELLS_128, FASTI3D_CELLS_32(64), FASTI3D_CELLS_8(96)
#define FASTI3D_CELLS_216 FASTI3D_CELLS_208, FASTI3D_CELLS_4(104)
#define FASTI3D_CELLS_224 FASTI3D_CELLS_208, FASTI3D_CELLS_8(104)
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

FASTI3D_DEFINE_PRODUCT(56, "%28", "%29", "%30")
FASTI3D_DEFINE_PRODUCT(64, "%32", "%33", "%34")
FASTI3D_DEFINE_PRODUCT(112, "%56", "%57", "%58")
FASTI3D_DEFINE_PRODUCT(128, "%64", "%65", "%66")
FASTI3D_DEFINE_PRODUCT(200, "%100", "%101", "%102")
FASTI3D_DEFINE_PRODUCT(208, "%104", "%105", "%106")
FASTI3D_DEFINE_PRODUCT(216, "%108", "%109", "%110")
FASTI3D_DEFINE_PRODUCT(224, "%112", "%113", "%114")
FASTI3D_DEFINE_PRODUCT(232, "%116", "%117", "%118")

// Keeps the compiler from moving accumulators across.
template <int kCount>
__device__ __forceinline__ void keep(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// What was written to the accumulators before comes before the products that follow.
template <int kCount>
__device__ __forceinline__ void begin_products(float (&d)[kCount]) {
  keep(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most so many groups of products are under way.
template <int kLeft>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

}  // namespace fasti3d::sm90
