// Vectors of kLanes values, and the memory of float32, bfloat16 or bytes that they are loaded from
// and stored to. Included inside the namespace of an instruction set, which defines kLanes;
// lanes_neon.h is the same for NEON.

#include "bfloat.h"

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

inline Vector load(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline Vector load(const Bfloat* p) {
  Halves halves;
  __builtin_memcpy(&halves, p, sizeof(halves));
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  return (Vector)bits;
}

inline Ints load(const uint8_t* p) {
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return __builtin_convertvector(bytes, Ints);
}

inline void store(float* p, Vector v) { __builtin_memcpy(p, &v, sizeof(v)); }

// Rounded to nearest, ties to even.
inline void store(Bfloat* p, Vector v) {
  const Bits bits = (Bits)v;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Halves halves = __builtin_convertvector(v != v ? (bits >> 16) | 0x40 : rounded, Halves);
  __builtin_memcpy(p, &halves, sizeof(halves));
}

inline void store(uint8_t* p, Ints v) {
  const Bytes bytes = __builtin_convertvector(v, Bytes);
  __builtin_memcpy(p, &bytes, sizeof(bytes));
}
