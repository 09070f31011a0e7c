// lanes.h in NEON's instructions, for its four lanes: what lanes.h says of halves and bytes a
// compiler takes apart there, since a register of theirs has more lanes. <arm_neon.h> is included
// before.

#include "bfloat.h"

constexpr int kLanes = 4;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline Vector load(const float* p) { return (Vector)vld1q_f32(p); }

inline Vector load(const Bfloat* p) {
  uint16x4_t halves;
  __builtin_memcpy(&halves, p, sizeof(halves));
  return (Vector)vshll_n_u16(halves, 16);
}

inline Ints load(const uint8_t* p) {
  uint32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  const uint16x8_t halves = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
  return (Ints)vmovl_u16(vget_low_u16(halves));
}

inline void store(float* p, Vector v) { vst1q_f32(p, (float32x4_t)v); }

// Rounded to nearest, ties to even.
inline void store(Bfloat* p, Vector v) {
  const uint32x4_t bits = (uint32x4_t)v;
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  const uint32x4_t is_number = vceqq_f32((float32x4_t)v, (float32x4_t)v);
  const uint16x4_t halves = vshrn_n_u32(vbslq_u32(is_number, rounded, quiet), 16);
  __builtin_memcpy(p, &halves, sizeof(halves));
}

inline void store(uint8_t* p, Ints v) {
  const uint16x4_t halves = vmovn_u32((uint32x4_t)v);
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(halves, halves));
  __builtin_memcpy(p, &bytes, kLanes);
}
